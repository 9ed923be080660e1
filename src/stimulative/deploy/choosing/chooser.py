"""Choosing: what is measured, what of it is timed, and which one is taken."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from stimulative.deploy.choosing.budget import Budget
from stimulative.deploy.choosing.choice import Choice, ChosenFrom, Tried
from stimulative.deploy.choosing.limits import Limits
from stimulative.deploy.choosing.picking import order, pick, worth_timing, written
from stimulative.deploy.choosing.prediction import Prediction, probes
from stimulative.deploy.choosing.search import search
from stimulative.deploy.choosing.trials import Accuracy, Stopwatch
from stimulative.deploy.deployable import Finished
from stimulative.errors import UsageError
from stimulative.residual import Subnet
from stimulative.runs import CostName, Latency, Member, versions
from stimulative.tasks import MEASURES

_TIMED_MOST = 64
_RUNNERS_UP = 4
_PROBING_SECONDS = 5.0
_SLACK = 1.1  # a subnet is measured although its predicted latency is over the limit by this factor


@dataclass(frozen=True)
class Chooser:
    """Chooses a subnet.

    Args:
        limits: What it has to keep to.
        decided_by: The cost that decides between those that are good enough, or equally good.
        budget: The subnets whose operations and parameters are within the limits.
        accuracy: Measures accuracy.
        stopwatch: Measures latency.
        seconds: About how long timing may take, rounds beyond the fifth.
    """

    limits: Limits
    decided_by: CostName
    budget: Budget
    accuracy: Accuracy
    stopwatch: Stopwatch
    seconds: float

    @property
    def times(self) -> bool:
        """Whether latency decides."""
        return self.limits.max_latency_ms is not None or self.decided_by == "latency_ms"

    def choose(self, finished: Finished, evaluations: int, seed: int) -> Choice:
        """Measure subnets of a run, and choose one.

        Args:
            finished: The run.
            evaluations: Of how many subnets a search measures the accuracy.
            seed: The seed of the search.

        Raises:
            UsageError: If none keeps to the limits.
        """
        full, measure = finished.network.full, MEASURES[finished.run.data.task]
        if self.budget.searched:
            (main,) = self.accuracy.of([full])
            members = self._search(main, evaluations, seed)
        else:
            within = self.budget.within()
            found = {member.subnet: member for member in self.accuracy.of(sorted({*within, full}))}
            main, members = found[full], [found[subnet] for subnet in within]
        if self.times:
            enough = pick(members, replace(self.limits, max_latency_ms=None), "flops", measure)
            finalists = worth_timing(enough, _TIMED_MOST)
        else:
            finalists = pick(members, self.limits, self.decided_by, measure)[: 1 + _RUNNERS_UP]
        to_time = {member.subnet: member for member in [*finalists, main]}
        timed, latencies = self.stopwatch.timed(list(to_time.values()), self.seconds)
        own = {member.subnet: member for member in timed}
        ranked = pick([own[member.subnet] for member in finalists], self.limits, self.decided_by, measure)
        data, space = finished.run.data, self.budget.space
        return Choice(
            member=ranked[0],
            runners_up=tuple(ranked[1 : 1 + _RUNNERS_UP]),
            main=own[full],
            measured=tuple(own.get(member.subnet, member) for member in members),
            limits=self.limits,
            decided_by=self.decided_by,
            tried=Tried(space.kept, space.count, len(members), len(finalists), self.budget.searched, seed),
            latencies=latencies,
            images=self.accuracy.images,
            validation_images=data.validation.images,
            calibration_images=self.accuracy.calibration_images,
            about=ChosenFrom(
                run=str(finished.directory),
                model=finished.run.recipe.model.name,
                data=data.name,
                method=finished.summary.method,
                versions=versions(),
                task=data.task,
            ),
            calibration=None if finished.calibration is None else finished.calibration.view,
        )

    def _search(self, main: Member, evaluations: int, seed: int) -> list[Member]:
        """What a search within the budget measures."""
        space, ranked = self.budget.space, order(self.limits, self.decided_by)
        prediction = self._prediction() if self.times else None
        limit = self.limits.max_latency_ms

        def affordable(subnet: Subnet) -> bool:
            in_time = prediction is None or limit is None or prediction.of(subnet) <= _SLACK * limit
            return in_time and self.budget.allows(subnet)

        def rank(member: Member) -> Any:
            if prediction is None:
                return ranked(member)
            return ranked(replace(member, latency=Latency(prediction.of(member.subnet), 0.0)))

        def measured(subnets: Sequence[Subnet]) -> list[Member]:
            new = iter(self.accuracy.of([subnet for subnet in subnets if subnet != main.subnet]))
            return [main if subnet == main.subnet else next(new) for subnet in subnets]

        first = [subnet for subnet in (space.smallest, space.full) if affordable(subnet)]
        found = search(space, measured, rank, affordable, first=first, evaluations=evaluations, seed=seed)
        if not found:
            cost = self.budget.costs.of(space.smallest)
            raise UsageError(
                f"the search found no subnet within all limits of cost; the smallest, {space.smallest}, has "
                f"{written('flops', cost.flops)} and {written('parameters', cost.parameters)}. Raise a limit, or "
                "search with another seed="
            )
        return found

    def _prediction(self) -> Prediction:
        """Latency by depths, from some subnets that are timed.

        Raises:
            UsageError: If all of them, the smallest among them, are far above the limit.
        """
        limit = self.limits.max_latency_ms
        tried = probes(self.budget.space)
        times = [latency.median_ms for latency in self.stopwatch.latencies(tried, _PROBING_SECONDS).of]
        if limit is not None and min(times) > _SLACK * limit:
            fastest = tried[times.index(min(times))]
            raise UsageError(
                f"no subnet that was measured has at most {written('latency_ms', limit)}: of the {len(tried)} that "
                f"were timed, the smallest among them, subnet {fastest} has the least: "
                f"{written('latency_ms', min(times))}"
            )
        return Prediction(tried, times)
