"""Placeholder."""

from stimulative.methods.base import Method


class StochasticDepth(Method):
    """Placeholder."""
