"""Counts steps of the work for whoever shows its progress."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


class Steps:
    """Counts steps of the work for whoever shows its progress.

    Args:
        progress: Called with the steps done and the steps in all.
        total: The steps in all.
    """

    def __init__(self, progress: Callable[[int, int], Any] | None, total: int) -> None:
        self.progress = progress
        self.total = total
        self.done = 0

    def step(self) -> None:
        """Count one."""
        self.done += 1
        if self.progress is not None:
            self.progress(self.done, self.total)
