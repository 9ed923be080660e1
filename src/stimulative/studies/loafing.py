"""Network loafing: how much worse a subnet does inside its main net than the same architecture trained alone.

Main nets of several depths are trained, subnets are drawn from each, and the architecture of each subnet is trained
alone by the same recipe. The gap between the two accuracies is what the subnet loafs; in the paper it grows with the
depth of the main net (Fig. 2 of the poster).

The nets alone are trained by common training, so that a subnet that occurs in several main nets is trained once, as is
a main net that is also a subnet of a deeper one.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from stimulative.analysis import draw
from stimulative.config import Recipe
from stimulative.errors import UsageError
from stimulative.records import Record, absent
from stimulative.residual import Subnet, SubnetSpace
from stimulative.runs import Score, Scored
from stimulative.studies.jobs import AfterRun, Job, Outcome, Workers
from stimulative.studies.launching import measured_scores
from stimulative.studies.planning import carry_out, check_methods, seeds_from, task_of
from stimulative.studies.smaller import network_of, ordered_subnet, run_name, smaller, unique
from stimulative.studies.study import Failed, StudyOfRuns
from stimulative.tasks import MEASURES

_MOST_SUBNETS = 10_000

ALONE = "common"
"""The method that nets alone are trained by."""


@dataclass(frozen=True, kw_only=True)
class LoafingRow(Scored):
    """A main net by a method: means and spreads over its subnets, of all seeds; accuracies in percent.

    Args:
        method: How the main net was trained.
        main: The main net.
        blocks: Its number of blocks.
        main_quality: How good it is itself, mean over seeds; in the file ``main_top1``, or as its measure is called.
        subnets: How many different subnets were compared.
        in_group_mean: Mean accuracy of the subnets inside of the main net.
        in_group_std: Its standard deviation, the population's.
        alone_mean: Mean accuracy of the same architectures alone.
        alone_std: Its standard deviation.
        gap_mean: Mean of the accuracy alone less that inside, in points.
        gap_std: Its standard deviation.
        in_group_perplexity_mean: Mean perplexity inside, of text.
        alone_perplexity_mean: Mean perplexity alone, of text.
    """

    method: str
    main: str
    blocks: int
    main_quality: float | None = None
    subnets: int
    in_group_mean: float
    in_group_std: float
    alone_mean: float
    alone_std: float
    gap_mean: float | None = None
    gap_std: float | None = None
    in_group_perplexity_mean: float | None = absent()
    alone_perplexity_mean: float | None = absent()
    measure: str = "top1"


@dataclass(frozen=True, kw_only=True)
class LoafingPair(Record):
    """A subnet inside of a main net, and the same architecture alone; accuracies in percent.

    Args:
        method: How the main net was trained.
        main: The main net.
        main_blocks: Its number of blocks.
        subnet: The subnet.
        blocks: Its number of blocks.
        seed: The seed of both runs.
        in_group: The accuracy inside.
        alone: The accuracy alone.
        gap: The latter less the former, in points.
        in_group_perplexity: The perplexity inside, of text.
        alone_perplexity: The perplexity alone, of text.
    """

    method: str
    main: str
    main_blocks: int
    subnet: str
    blocks: int
    seed: int
    in_group: float
    alone: float
    gap: float
    in_group_perplexity: float | None = absent()
    alone_perplexity: float | None = absent()


@dataclass(frozen=True, kw_only=True)
class Loafing(StudyOfRuns):
    """How much worse subnets do inside of their main nets than alone.

    Args:
        model: The model that main nets are cut from.
        data: The data set.
        epochs: Epochs of each run.
        seeds: The seeds.
        rows: A row for each method and main net.
        subnets: Each subnet inside and alone.
        failed: The runs that failed.
    """

    NAME = "loafing"

    model: str
    data: str
    epochs: int
    seeds: tuple[int, ...]
    rows: tuple[LoafingRow, ...]
    subnets: tuple[LoafingPair, ...]
    failed: tuple[Failed, ...] = ()

    @property
    def empty(self) -> bool:
        """Whether no main net has finished together with a subnet of it alone."""
        return not self.rows


class LoafingPlan:
    """Which runs a study of loafing needs.

    Args:
        recipe: The recipe; its model is the deepest net that main nets are cut from.
        main: The depths of the main nets, such as ``["1-1-1", "3-3-3"]``.
        subnets: How many subnets to draw from each, uniformly and without repetition; all where there are fewer.
        methods: The methods that main nets are trained by.
        seeds: The number of seeds, counted from the recipe's.

    Raises:
        UsageError: If one of these cannot be.
    """

    def __init__(
        self,
        recipe: Recipe,
        main: Sequence[str],
        *,
        subnets: int = 10,
        methods: Sequence[str] = ("common",),
        seeds: int = 1,
    ) -> None:
        if not 1 <= subnets <= _MOST_SUBNETS:
            raise UsageError(f"the number of subnets of each main net is from 1 to {_MOST_SUBNETS:,}, got {subnets}")
        check_methods(methods)
        network = network_of(recipe)
        self.recipe = recipe
        self.methods = list(methods)
        self.seeds = seeds_from(recipe, seeds)
        self.main = unique([ordered_subnet(network, depths) for depths in main], "main nets")
        self.drawn = {net: _draw(network.space, net, subnets, recipe.seed) for net in self.main}
        self.jobs: dict[str, Job] = {}
        for seed in self.seeds:
            for net, drawn in self.drawn.items():
                for method in self.methods:
                    one = smaller(recipe, network, net).override({"method.name": method, "seed": seed})
                    self.jobs[run_name(method, net, seed)] = Job(one, tuple(str(subnet) for subnet in drawn))
            for subnet in sorted({subnet for drawn in self.drawn.values() for subnet in drawn}):
                one = smaller(recipe, network, subnet).override({"method.name": ALONE, "seed": seed})
                self.jobs.setdefault(run_name(ALONE, subnet, seed), Job(one, ()))

    def result(self, outcome: Outcome, out: Path) -> Loafing:
        """Compare each subnet inside of its main nets with itself alone."""
        pairs = self._pairs(outcome, out)
        return Loafing(
            task=task_of(outcome, self.recipe),
            model=self.recipe.model.name,
            data=self.recipe.data.name,
            epochs=self.recipe.schedule.epochs,
            seeds=tuple(self.seeds),
            rows=tuple(self._rows(outcome, pairs)),
            subnets=tuple(pairs),
            failed=outcome.failures,
        )

    def _pairs(self, outcome: Outcome, out: Path) -> list[LoafingPair]:
        """Each subnet of each main net, inside and alone, where both runs have finished."""
        pairs = []
        for seed in self.seeds:
            for method in self.methods:
                for net, drawn in self.drawn.items():
                    main = run_name(method, net, seed)
                    inside = measured_scores(out / main) if main in outcome.summaries else {}
                    for subnet in drawn:
                        alone = outcome.summaries.get(run_name(ALONE, subnet, seed))
                        if alone is not None and str(subnet) in inside:
                            pairs.append(_pair(method, net, subnet, seed, inside[str(subnet)], alone.main))
        return pairs

    def _rows(self, outcome: Outcome, pairs: Sequence[LoafingPair]) -> list[LoafingRow]:
        """A row for each method and main net: means and spreads over its subnets, of all seeds."""
        rows = []
        for method in self.methods:
            for net in self.main:
                of_net = [pair for pair in pairs if pair.method == method and pair.main == str(net)]
                names = [run_name(method, net, seed) for seed in self.seeds]
                main = [outcome.summaries[name].main.quality for name in names if name in outcome.summaries]
                if of_net and main:
                    measure = MEASURES[task_of(outcome, self.recipe)].key
                    rows.append(_row(method, net, main, of_net, measure))
        return rows


def measure_loafing(
    plan: LoafingPlan, out: str | Path, *, workers: Workers | None = None, after_run: AfterRun | None = None
) -> Loafing:
    """Train and measure what a plan needs, and write ``loafing.json``; see ``carry_out``."""
    return carry_out(plan, out, workers=workers, after_run=after_run)


def _pair(method: str, net: Subnet, subnet: Subnet, seed: int, inside: Score, alone: Score) -> LoafingPair:
    of_text = inside.perplexity is not None and alone.perplexity is not None
    return LoafingPair(
        method=method,
        main=str(net),
        main_blocks=net.blocks,
        subnet=str(subnet),
        blocks=subnet.blocks,
        seed=seed,
        in_group=inside.quality,
        alone=alone.quality,
        gap=alone.quality - inside.quality,
        in_group_perplexity=inside.perplexity if of_text else None,
        alone_perplexity=alone.perplexity if of_text else None,
    )


def _row(method: str, net: Subnet, main: Sequence[float], pairs: Sequence[LoafingPair], measure: str) -> LoafingRow:
    in_group, alone, gap = ([getattr(pair, key) for pair in pairs] for key in ("in_group", "alone", "gap"))
    return LoafingRow(
        method=method,
        main=str(net),
        blocks=net.blocks,
        main_quality=statistics.fmean(main),
        measure=measure,
        subnets=len({pair.subnet for pair in pairs}),
        in_group_mean=statistics.fmean(in_group),
        in_group_std=statistics.pstdev(in_group),
        alone_mean=statistics.fmean(alone),
        alone_std=statistics.pstdev(alone),
        gap_mean=statistics.fmean(gap),
        gap_std=statistics.pstdev(gap),
        in_group_perplexity_mean=_mean([pair.in_group_perplexity for pair in pairs]),
        alone_perplexity_mean=_mean([pair.alone_perplexity for pair in pairs]),
    )


def _mean(values: Sequence[float | None]) -> float | None:
    """The mean; None where one is not known."""
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if len(known) == len(values) else None


def _draw(space: SubnetSpace, net: Subnet, count: int, seed: int) -> list[Subnet]:
    """Different subnets of a main net, itself left out, drawn uniformly; all where there are no more."""
    within = space.restrict([(low, depth) for (low, _), depth in zip(space.ranges, net.depths, strict=True)])
    if within.count == 1:
        raise UsageError(f"the main net {net} is the smallest there is and has no subnets; leave it out")
    subnets = within if within.count - 1 <= count else draw(within, count + 1, seed, certain=[net])
    return [subnet for subnet in subnets if subnet != net]
