"""Placeholder."""

from stimulative.methods.base import Method


class GroupKnowledge(Method):
    """Placeholder."""
