"""Placeholder."""

from stimulative.methods.base import Method


class SelfDistillation(Method):
    """Placeholder."""
