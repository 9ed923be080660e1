"""What has been done of an epoch that is not over."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

import torch
from torch import Tensor

from stimulative.training.randomness import random_states, restore_random_states


@dataclass
class UnderWay:
    """An epoch that is being trained, up to the last step that is whole.

    Args:
        sums: The sums over batches of what the log has the means of, shape (5,), float32.
        batches: Batches that were trained on.
        images: Images, or sequences, in them.
        seconds: How long that took.
        began: The states of the global generators when the epoch began; loaders draw from them then.
        now: Those behind the last step.
    """

    sums: Tensor = field(default_factory=lambda: torch.zeros(5, dtype=torch.float32))
    batches: int = 0
    images: int = 0
    seconds: float = 0.0
    began: dict[str, Any] = field(default_factory=random_states)
    now: dict[str, Any] | None = None

    def note(self, batches: int, sums: Tensor, began: float) -> float:
        """A step is whole.

        Args:
            batches: Batches of the epoch that were trained on.
            sums: The sums.
            began: The time of the last note, as ``time.perf_counter`` has it.

        Returns:
            The time of this one.
        """
        now = time.perf_counter()
        self.batches, self.sums, self.now = batches, sums.detach().cpu().clone(), random_states()
        self.seconds += now - began
        return now

    def to_mapping(self) -> dict[str, Any]:
        """As a checkpoint has it."""
        return dict(vars(self))

    @classmethod
    def from_mapping(cls, mapping: Mapping[str, Any]) -> Self:
        """From a checkpoint."""
        return cls(**mapping)

    def begin_again(self) -> None:
        """Put the global generators where they were when the epoch began, if some of it was trained before."""
        if self.now is not None:
            restore_random_states(self.began)

    def go_on(self) -> None:
        """Put them where they were behind the last step."""
        if self.now is not None:
            restore_random_states(self.now)
