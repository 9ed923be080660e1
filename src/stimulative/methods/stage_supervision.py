"""Placeholder."""

from stimulative.methods.base import Method


class StageSupervision(Method):
    """Placeholder."""
