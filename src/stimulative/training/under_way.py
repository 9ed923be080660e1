"""What has been done of an epoch that is not over."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Self

import torch
from torch import Tensor

from stimulative.training.randomness import random_states, restore_random_states, seed_rank
from stimulative.training.together import Processes


@dataclass
class UnderWay:
    """An epoch that is being trained, up to the last step that is whole.

    Args:
        sums: The sums over batches of what the log has the means of, shape (5,), float32.
        batches: Batches that were trained on.
        images: Images, or sequences, in them; in a checkpoint those of all processes.
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

    def together(self, processes: Processes) -> Self:
        """The same with what all processes have done, as a checkpoint has it."""
        return replace(self, sums=processes.mean(self.sums), images=self.images * processes.size)

    def begin_again(self) -> None:
        """Put the global generators where they were when the epoch began, if some of it was trained before."""
        if self.now is not None:
            restore_random_states(self.began)

    def go_on(self) -> None:
        """Put them where they were behind the last step."""
        if self.now is not None:
            restore_random_states(self.now)


def states_of_all(processes: Processes, under_way: UnderWay | None) -> dict[str, Any]:
    """The random states of all processes, and what has been done of an epoch, as a checkpoint has them.

    Those of the first one stand where they stand in the checkpoint of a process alone; ``ranks`` has the others'.
    """
    if under_way is None:
        first, *others = processes.gathered({"random": random_states()})
    else:
        first, *others = processes.gathered(
            {"random": under_way.now, "under_way": under_way.together(processes).to_mapping()}
        )
    return {**first, "ranks": others} if others else first


def restore_states(processes: Processes, saved: Mapping[str, Any], seed: int) -> UnderWay | None:
    """Put the generators of this process where a checkpoint has them.

    Args:
        processes: The processes that go on, which may be more or fewer than those that saved it.
        saved: The checkpoint.
        seed: Of the run, for the streams of processes that are new.

    Returns:
        What has been done of an epoch.
    """
    own = saved if processes.first else next(iter(saved.get("ranks", [])[processes.rank - 1 : processes.rank]), None)
    done = saved.get("under_way")
    if own is not None:
        restore_random_states(own["random"])
    else:
        seed_rank(seed, processes.rank, int(saved["step"]))
        if done is not None:
            own = {"under_way": {"began": random_states(), "now": random_states()}}
    if done is None or own is None:
        return None
    states = {key: own["under_way"][key] for key in ("began", "now")}
    return UnderWay.from_mapping({**done, **states, "images": done["images"] // processes.size})
