"""Which net does how well inside which: subnet architectures by main nets, as in Tables 2 and 3 of the paper.

Each net of a row of growing ones is trained alone (the diagonal), and every smaller one is measured inside every larger
one, with its statistics recalibrated. Works on any residual network, and on DenseNets.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from stimulative.config import Recipe
from stimulative.records import Record, absent
from stimulative.residual import Subnet
from stimulative.runs import Score
from stimulative.studies.jobs import AfterRun, Job, Outcome, Workers
from stimulative.studies.launching import measured_scores
from stimulative.studies.planning import carry_out, check_methods, seeds_from, task_of
from stimulative.studies.smaller import network_of, ordered_subnet, run_name, smaller, unique
from stimulative.studies.study import Failed, StudyOfRuns, spread


@dataclass(frozen=True, kw_only=True)
class MatrixCell(Record):
    """A subnet inside of a main net, over seeds.

    Args:
        subnet: The subnet.
        main: The main net; where both are the same, it was trained alone.
        seeds: How many runs.
        mean: Mean top-1 accuracy in percent.
        std: Its sample standard deviation; 0 for one seed.
        perplexity: Mean perplexity, of text.
    """

    subnet: str
    main: str
    seeds: int
    mean: float
    std: float
    perplexity: float | None = absent()


@dataclass(frozen=True, kw_only=True)
class Matrix(StudyOfRuns):
    """Every net inside of every larger one.

    Args:
        model: The model that nets are cut from.
        data: The data set.
        method: How they were trained.
        epochs: Epochs of each run.
        seeds: The seeds.
        nets: The nets, the smallest first.
        cells: A cell for each subnet in each main net that it fits into.
        failed: The runs that failed.
    """

    NAME = "matrix"

    model: str
    data: str
    method: str | None = None
    epochs: int
    seeds: tuple[int, ...]
    nets: tuple[str, ...]
    cells: tuple[MatrixCell, ...]
    failed: tuple[Failed, ...] = ()

    @property
    def empty(self) -> bool:
        """Whether no run has finished."""
        return not self.cells


class MatrixPlan:
    """Which runs a matrix needs.

    Args:
        recipe: The recipe; its model is the net that the others are cut from.
        nets: The depths of the nets, such as ``["2-2-2", "2-4-4"]``.
        method: The method that they are trained by.
        seeds: The number of seeds, counted from the recipe's.

    Raises:
        UsageError: If one of these cannot be.
    """

    def __init__(self, recipe: Recipe, nets: Sequence[str], *, method: str = "common", seeds: int = 1) -> None:
        check_methods([method])
        recipe = recipe.override({"method.name": method})
        network = network_of(recipe)
        self.recipe = recipe
        self.seeds = seeds_from(recipe, seeds)
        chosen = unique([ordered_subnet(network, depths) for depths in nets], "nets")
        self.nets = sorted(chosen, key=lambda net: (net.blocks, net))
        self.jobs = {
            self.run_of(net, seed): Job(
                smaller(recipe, network, net).override({"seed": seed}),
                tuple(str(other) for other in self.nets if fits(other, net)),
            )
            for seed in self.seeds
            for net in self.nets
        }

    def run_of(self, net: Subnet, seed: int) -> str:
        """The name of the directory of a run."""
        return run_name(self.recipe.method.name, net, seed)

    def result(self, outcome: Outcome, out: Path) -> Matrix:
        """Fill the cells whose runs have finished."""
        pairs = [(subnet, net) for subnet in self.nets for net in self.nets if subnet == net or fits(subnet, net)]
        scores = {pair: self._scores(*pair, outcome, out) for pair in pairs}
        return Matrix(
            task=task_of(outcome, self.recipe),
            model=self.recipe.model.name,
            data=self.recipe.data.name,
            method=self.recipe.method.name,
            epochs=self.recipe.schedule.epochs,
            seeds=tuple(self.seeds),
            nets=tuple(str(net) for net in self.nets),
            cells=tuple(_cell(subnet, net, found) for (subnet, net), found in scores.items() if found),
            failed=outcome.failures,
        )

    def _scores(self, subnet: Subnet, net: Subnet, outcome: Outcome, out: Path) -> list[Score]:
        """The scores of a subnet inside of a net, or of the net itself, of each seed that has finished."""
        names = [name for name in (self.run_of(net, seed) for seed in self.seeds) if name in outcome.summaries]
        if subnet == net:
            return [outcome.summaries[name].main for name in names]
        return [measured_scores(out / name)[str(subnet)] for name in names]


def _cell(subnet: Subnet, net: Subnet, scores: Sequence[Score]) -> MatrixCell:
    values = [score.quality for score in scores]
    perplexities = [score.perplexity for score in scores if score.perplexity is not None]
    return MatrixCell(
        subnet=str(subnet),
        main=str(net),
        seeds=len(values),
        mean=statistics.fmean(values),
        std=spread(values),
        perplexity=statistics.fmean(perplexities) if perplexities else None,
    )


def fits(subnet: Subnet, net: Subnet) -> bool:
    """Whether a net is another one that is smaller in some stages and larger in none."""
    return subnet != net and all(less <= more for less, more in zip(subnet.depths, net.depths, strict=True))


def fill_matrix(
    plan: MatrixPlan, out: str | Path, *, workers: Workers | None = None, after_run: AfterRun | None = None
) -> Matrix:
    """Train and measure what a plan needs, and write ``matrix.json``; see ``carry_out``."""
    return carry_out(plan, out, workers=workers, after_run=after_run)
