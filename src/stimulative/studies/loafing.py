"""Network loafing: how much worse a subnet does inside its main net than the same architecture trained alone.

Main nets of several depths are trained, subnets are drawn from each, and the architecture of each subnet is trained
alone by the same recipe. The gap between the two accuracies is what the subnet loafs; in the paper it grows with the
depth of the main net (Fig. 2 of the poster).

The nets alone are trained by common training, so that a subnet that occurs in several main nets is trained once, as is
a main net that is also a subnet of a deeper one.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stimulative import files
from stimulative.analysis import draw
from stimulative.errors import UsageError
from stimulative.records import Record, absent
from stimulative.residual import Subnet, SubnetSpace
from stimulative.studies.launching import Job, Outcome, Workers, check_methods, measured_scores, run_all, seeds_from
from stimulative.studies.smaller import network_of, ordered_subnet, run_name, smaller, unique
from stimulative.studies.study import Failed, Study
from stimulative.training import Recipe

LOAFING = "loafing.json"
ALONE = "common"
"""The method that nets alone are trained by."""


@dataclass(frozen=True, kw_only=True)
class LoafingRow(Record):
    """A main net by a method: means and spreads over its subnets, of all seeds; accuracies in percent.

    Args:
        method: How the main net was trained.
        main: The main net.
        blocks: Its number of blocks.
        main_top1: Its own accuracy, mean over seeds.
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
    main_top1: float | None = None
    subnets: int
    in_group_mean: float
    in_group_std: float
    alone_mean: float
    alone_std: float
    gap_mean: float | None = None
    gap_std: float | None = None
    in_group_perplexity_mean: float | None = absent()
    alone_perplexity_mean: float | None = absent()


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
class Loafing(Study):
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
        if subnets < 1:
            raise UsageError(f"the number of subnets of each main net is 1 or more, got {subnets}")
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


def measure_loafing(
    plan: LoafingPlan,
    out: str | Path,
    *,
    workers: Workers | None = None,
    after_run: Callable[[str, dict[str, Any]], Any] | None = None,
) -> dict[str, Any]:
    """Train and measure what a plan needs, and write ``loafing.json``.

    Runs in ``out`` that have finished are not repeated, interrupted ones go on, failed ones are tried again.

    Args:
        plan: The plan.
        out: The directory of the study; each run has a directory inside.
        workers: Where the runs are computed; one after the other on this machine by default.
        after_run: Called with the name and the summary of each run when it is done.

    Returns:
        ``{"model", "data", "epochs", "seeds", "rows": [...], "subnets": [...], "failed": [...]}``: a row for each
        method and main net, and the accuracy of each subnet inside and alone, in percent.

    Raises:
        UsageError: If ``out`` holds runs of another recipe.
    """
    out = Path(out)
    outcome = run_all(plan.jobs, out, workers=workers, after_run=after_run)
    pairs = _pairs(plan, out, outcome)
    study = {
        "model": plan.recipe.model.name,
        "data": plan.recipe.data.name,
        "epochs": plan.recipe.schedule.epochs,
        "seeds": list(plan.seeds),
        "rows": _rows(plan, outcome, pairs),
        "subnets": pairs,
        "failed": outcome.failures,
    }
    files.write_json(out / LOAFING, study)
    return study


def _pairs(plan: LoafingPlan, out: Path, outcome: Outcome) -> list[dict[str, Any]]:
    """Each subnet of each main net, inside and alone, where both runs have finished."""
    pairs = []
    for seed in plan.seeds:
        for method in plan.methods:
            for net, drawn in plan.drawn.items():
                main = run_name(method, net, seed)
                inside = measured_scores(out / main) if main in outcome.summaries else {}
                for subnet in drawn:
                    alone = outcome.summaries.get(run_name(ALONE, subnet, seed))
                    if alone is None or str(subnet) not in inside:
                        continue
                    score = inside[str(subnet)]
                    pairs.append(
                        {
                            "method": method,
                            "main": str(net),
                            "main_blocks": net.blocks,
                            "subnet": str(subnet),
                            "blocks": subnet.blocks,
                            "seed": seed,
                            "in_group": score.top1,
                            "alone": alone["main"]["top1"],
                            "gap": alone["main"]["top1"] - score.top1,
                            **_perplexities(score.perplexity, alone["main"].get("perplexity")),
                        }
                    )
    return pairs


def _rows(plan: LoafingPlan, outcome: Outcome, pairs: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """A row for each method and main net: means and spreads over its subnets, of all seeds."""
    rows = []
    for method in plan.methods:
        for net in plan.main:
            of_net = [pair for pair in pairs if pair["method"] == method and pair["main"] == str(net)]
            names = [run_name(method, net, seed) for seed in plan.seeds]
            main = [outcome.summaries[name]["main"]["top1"] for name in names if name in outcome.summaries]
            if not of_net or not main:
                continue
            row = {
                "method": method,
                "main": str(net),
                "blocks": net.blocks,
                "main_top1": statistics.fmean(main),
                "subnets": len({pair["subnet"] for pair in of_net}),
            }
            for key in ("in_group", "alone", "gap"):
                row[f"{key}_mean"] = statistics.fmean(pair[key] for pair in of_net)
                row[f"{key}_std"] = statistics.pstdev(pair[key] for pair in of_net)
            for key in ("in_group_perplexity", "alone_perplexity"):
                if all(key in pair for pair in of_net):
                    row[f"{key}_mean"] = statistics.fmean(pair[key] for pair in of_net)
            rows.append(row)
    return rows


def _perplexities(in_group: float | None, alone: float | None) -> dict[str, float]:
    """The perplexities of a subnet, of text; nothing for images."""
    if in_group is None or alone is None:
        return {}
    return {"in_group_perplexity": in_group, "alone_perplexity": alone}


def _draw(space: SubnetSpace, net: Subnet, count: int, seed: int) -> list[Subnet]:
    """Different subnets of a main net, itself left out, drawn uniformly; all where there are no more."""
    within = space.restrict([(low, depth) for (low, _), depth in zip(space.ranges, net.depths, strict=True)])
    if within.count == 1:
        raise UsageError(f"the main net {net} is the smallest there is and has no subnets; leave it out")
    subnets = within if within.count - 1 <= count else draw(within, count + 1, seed, certain=[net])
    return [subnet for subnet in subnets if subnet != net]
