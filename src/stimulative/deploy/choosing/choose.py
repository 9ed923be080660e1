"""The subnet that fits: chosen under limits of latency, operations, parameters and accuracy.

Accuracy is that on the validation part, never on the test split, since choosing by it would spoil it. Latency is
measured here and now, of subnets that were taken out of the main net, since that is what is deployed.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from stimulative import files
from stimulative.analysis import MAX_ROUNDS, SECONDS, CostModel, Steps
from stimulative.deploy.choosing.budget import Budget
from stimulative.deploy.choosing.choice import Choice, Tried
from stimulative.deploy.choosing.limits import Limits, Minimised, cost_to_minimise, limits_of
from stimulative.deploy.choosing.picking import order, pick, worth_timing, written
from stimulative.deploy.choosing.prediction import Prediction, probes
from stimulative.deploy.choosing.search import POPULATION, search
from stimulative.deploy.choosing.trials import Accuracy, Stopwatch
from stimulative.deploy.deployable import Finished, open_finished
from stimulative.errors import UsageError
from stimulative.residual import KEPT, Kept, Subnet
from stimulative.runs import CostName, Latency, Member, versions
from stimulative.training import as_in

CHOICE = "choice.json"
EVALUATIONS = 512
"""So many a search measures."""
_TIMED_MOST = 64
_RUNNERS_UP = 4
_PROBING_SECONDS = 5.0
_SLACK = 1.1  # a subnet is measured although its predicted latency is over the limit by this factor


def choose(
    run: str | Path,
    *,
    max_latency_ms: float | None = None,
    max_flops: float | str | None = None,
    max_params: float | str | None = None,
    min_top1: float | None = None,
    max_perplexity: float | None = None,
    minimise: Minimised | None = None,
    device: torch.device | str = "cpu",
    batch: int = 1,
    threads: int | None = None,
    space: Kept | None = None,
    seed: int | None = None,
    images: int | None = None,
    evaluations: int = EVALUATIONS,
    latency_seconds: float = SECONDS,
    out: str | Path | None = None,
    progress: Callable[[int, int], Any] | None = None,
) -> Choice:
    """Choose the subnet of a finished run that fits.

    All limits have to hold. Within a budget alone the most accurate subnet is chosen, and of equally accurate ones the
    cheapest; if a quality is asked for, the cheapest that has it. Up to 1,000 subnets are all measured, as far as their
    operations and parameters, which need no measuring, are within the budget; of more, as many as a search may measure.
    Of up to 64 of them the latency is measured, if it decides: those that could be chosen by what they cost otherwise.
    Writes ``choice.json``.

    Args:
        run: The run directory.
        max_latency_ms: The greatest latency of one batch, in milliseconds.
        max_flops: The most floating-point operations for one sample, a multiply-add being two; a number, or a text
            such as ``"1.5G"``.
        max_params: The most parameters; a number, or a text such as ``"10M"``.
        min_top1: The least accuracy on the validation part, in percent; of texts, of the next token.
        max_perplexity: The greatest perplexity there, for texts.
        minimise: What is as little as possible where a quality is asked for; by default the latency.
        device: Where all is measured.
        batch: Images, or sequences, in the batch that is timed.
        threads: CPU threads to time with; by default those that PyTorch has now.
        space: Which blocks the stages of subnets keep, as ``SubnetSpace`` names it; by default what the recipe says.
        seed: Of the search, of the draw of images, and of the order of timing; by default the recipe's.
        images: How many images of the validation part to measure accuracy on, drawn; by default all.
        evaluations: Of how many subnets a search measures the accuracy.
        latency_seconds: About how long timing may take, rounds beyond the fifth.
        out: Where to write; by default the run directory.
        progress: Called with the steps done and about how many there are in all.

    Returns:
        The choice.

    Raises:
        UsageError: If something cannot be used, or no subnet keeps to the limits; then with those that come closest.
    """
    limits = limits_of(
        max_latency_ms=max_latency_ms,
        max_flops=max_flops,
        max_params=max_params,
        min_top1=min_top1,
        max_perplexity=max_perplexity,
    )
    decided_by = cost_to_minimise(limits, minimise)
    counts = {"--batch": batch, "--threads": threads, "--images": images, "--evaluations": evaluations}
    _check(counts, seed=seed, space=space)
    place = _device(device)
    before = torch.get_num_threads()
    try:
        finished = open_finished(run, device=place)
        data, recipe = finished.run.data, finished.run.recipe
        if max_perplexity is not None and not data.is_text:
            raise UsageError(f"--max-perplexity is for texts, and this run has {data.described()}; give --min-top1")
        seed = recipe.seed if seed is None else seed
        costs = CostModel(finished.network, as_in(finished.network, data.example(1, evaluation=True)))
        budget = Budget(finished.network.space.keeping(space or recipe.evaluation.space), costs, limits)
        directory = finished.directory if out is None else Path(out)
        files.make_directory(directory)
        steps = Steps(progress, 0)
        accuracy = Accuracy(finished, costs, images, seed, steps.step)
        passes = 1 + math.ceil(evaluations / POPULATION) if budget.searched else 1
        steps.total = passes * len(accuracy.batches) + MAX_ROUNDS
        stopwatch = Stopwatch(finished, batch, threads or before, seed, lambda _: steps.step())
        stopwatch.extracted(budget.space.smallest)  # what cannot be taken out fails now, not when all is measured
        chooser = _Chooser(limits, decided_by, budget, accuracy, stopwatch, latency_seconds)
        chosen = chooser.choose(finished, evaluations, seed)
    finally:
        torch.set_num_threads(before)  # a recipe may have asked for others
    files.write_json(directory / CHOICE, chosen.to_mapping())
    return chosen


@dataclass(frozen=True)
class _Chooser:
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
        full = finished.network.full
        if self.budget.searched:
            (main,) = self.accuracy.of([full])
            members = self._search(main, evaluations, seed)
        else:
            within = self.budget.within()
            found = {member.subnet: member for member in self.accuracy.of(sorted({*within, full}))}
            main, members = found[full], [found[subnet] for subnet in within]
        if self.times:
            enough = pick(members, replace(self.limits, max_latency_ms=None), "flops")
            finalists = worth_timing(enough, _TIMED_MOST)
        else:
            finalists = pick(members, self.limits, self.decided_by)[: 1 + _RUNNERS_UP]
        to_time = {member.subnet: member for member in [*finalists, main]}
        timed, latencies = self.stopwatch.timed(list(to_time.values()), self.seconds)
        own = {member.subnet: member for member in timed}
        ranked = pick([own[member.subnet] for member in finalists], self.limits, self.decided_by)
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
            about={
                "run": str(finished.directory),
                "model": finished.run.recipe.model.name,
                "data": data.name,
                "method": finished.summary.method,
                "versions": versions(),
            },
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
                "search with another --seed"
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


def _check(counts: dict[str, Any], *, seed: int | None, space: str | None) -> None:
    for name, count in counts.items():
        if count is not None and (isinstance(count, bool) or not isinstance(count, int) or count < 1):
            raise UsageError(f"{name} is a whole number of 1 or more, got {count!r}")
    processors, threads = os.cpu_count() or 1, counts["--threads"]
    if threads is not None and threads > processors:
        raise UsageError(f"--threads: this machine has {processors} processors, got {threads}")
    if seed is not None and not 0 <= seed < 2**32:
        raise UsageError(f"--seed is at least 0 and below 2**32, got {seed}")
    if space is not None and space not in KEPT:
        raise UsageError(f"--space is one of {', '.join(KEPT)}, got {space!r}")


def _device(device: torch.device | str) -> torch.device:
    """A device of this machine."""
    present = {"cpu": 1, "cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}
    allowed = ", ".join(kind for kind, count in present.items() if count)
    try:
        place = torch.device(device)
    except RuntimeError:
        raise UsageError(f"--device: there is no device {device!r}; this machine has: {allowed}") from None
    if (place.index or 0) >= present.get(place.type, 0):
        raise UsageError(f"--device: this machine has no {device}; it has: {allowed}")
    return place
