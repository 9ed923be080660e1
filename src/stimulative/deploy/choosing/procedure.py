"""How subnets that could be chosen are found and measured."""

from __future__ import annotations

import os
from dataclasses import dataclass

import torch

from stimulative.analysis import check_space
from stimulative.errors import UsageError


@dataclass(frozen=True)
class Procedure:
    """How subnets are found and measured; ``choose`` says what is meant by it.

    Args:
        device: Where all is measured.
        batch: Images, or sequences, in the batch that is timed.
        threads: CPU threads to time with; None for those that PyTorch has.
        space: Which blocks the stages of subnets keep, or ``ranked``; None for what the recipe says.
        seed: Of everything random; None for the recipe's.
        images: How many images of the validation part to measure accuracy on; None for all.
        evaluations: Of how many subnets a search measures the accuracy.
        seconds: About how long timing may take.

    Raises:
        UsageError: If a number or a name is not a possible one.
    """

    device: torch.device | str
    batch: int
    threads: int | None
    space: str | None
    seed: int | None
    images: int | None
    evaluations: int
    seconds: float

    def __post_init__(self) -> None:
        for name in ("batch", "threads", "images", "evaluations"):
            count = getattr(self, name)
            if count is not None and (isinstance(count, bool) or not isinstance(count, int) or count < 1):
                raise UsageError(f"{name}= is a whole number of 1 or more, got {count!r}")
        processors = os.cpu_count() or 1
        if self.threads is not None and self.threads > processors:
            raise UsageError(f"threads=: this machine has {processors} processors, got {self.threads}")
        if self.seed is not None and not 0 <= self.seed < 2**32:
            raise UsageError(f"seed= is at least 0 and below 2**32, got {self.seed}")
        if self.space is not None:
            check_space(self.space)

    def place(self) -> torch.device:
        """The device.

        Raises:
            UsageError: If this machine has none of that name.
        """
        present = {"cpu": 1, "cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}
        allowed = ", ".join(kind for kind, count in present.items() if count)
        try:
            place = torch.device(self.device)
        except RuntimeError:
            raise UsageError(f"device=: there is no device {self.device!r}; this machine has: {allowed}") from None
        if (place.index or 0) >= present.get(place.type, 0):
            raise UsageError(f"device=: this machine has no {self.device}; it has: {allowed}")
        return place
