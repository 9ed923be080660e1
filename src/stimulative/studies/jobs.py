"""Runs to be trained, where they are computed, and what came of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from stimulative.config import Recipe
from stimulative.errors import UsageError
from stimulative.runs import Summary
from stimulative.studies.study import Failed

AfterRun = Callable[[str, Summary], Any]
"""Called with the name and the summary of each run that has finished, now or before."""


@dataclass(frozen=True)
class Job:
    """A run to be trained.

    Args:
        recipe: Its recipe.
        subnets: Subnets to measure beside the main net, none of them if empty; by default those that the recipe says.
    """

    recipe: Recipe
    subnets: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Workers:
    """Where runs are computed.

    Args:
        jobs: How many at once.
        cluster: None for processes on this machine, or a cluster by submitit's name: ``slurm``, or ``local`` to try it.
        options: What submitit tells the cluster, such as ``{"slurm_partition": "gpu", "timeout_min": 60}``.
    """

    jobs: int = 1
    cluster: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.jobs < 1:
            raise UsageError(f"the number of jobs at once is 1 or more, got {self.jobs}")
        if self.options and self.cluster is None:
            raise UsageError(f"options of a cluster ({', '.join(self.options)}) need the cluster: cluster='slurm'")


@dataclass
class Outcome:
    """What came of several runs.

    Args:
        summaries: The summaries of those that finished, by name, in the order in which they were asked for.
        failed: The errors of the others.
    """

    summaries: dict[str, Summary]
    failed: dict[str, str]

    @property
    def failures(self) -> tuple[Failed, ...]:
        """The failed runs, as they stand in the file of a study."""
        return tuple(Failed(name, error) for name, error in self.failed.items())
