"""Placeholder."""

from stimulative.methods.base import Method


class LayerSupervision(Method):
    """Placeholder."""
