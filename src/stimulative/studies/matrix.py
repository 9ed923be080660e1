"""Which net does how well inside which: subnet architectures by main nets, as in Tables 2 and 3 of the paper.

Each net of a row of growing ones is trained alone (the diagonal), and every smaller one is measured inside every larger
one, with its statistics recalibrated. Works on any residual network, and on DenseNets.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stimulative import files
from stimulative.records import Record, absent
from stimulative.residual import Subnet
from stimulative.studies.launching import Job, Workers, measured_scores, run_all, seeds_from, spread
from stimulative.studies.smaller import network_of, ordered_subnet, run_name, smaller, unique
from stimulative.studies.study import Failed, Study
from stimulative.training import Recipe

MATRIX = "matrix.json"


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
class Matrix(Study):
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


def fits(subnet: Subnet, net: Subnet) -> bool:
    """Whether a net is another one that is smaller in some stages and larger in none."""
    return subnet != net and all(less <= more for less, more in zip(subnet.depths, net.depths, strict=True))


def fill_matrix(
    plan: MatrixPlan,
    out: str | Path,
    *,
    workers: Workers | None = None,
    after_run: Callable[[str, dict[str, Any]], Any] | None = None,
) -> dict[str, Any]:
    """Train and measure what a plan needs, and write ``matrix.json``.

    Runs in ``out`` that have finished are not repeated, interrupted ones go on, failed ones are tried again.

    Args:
        plan: The plan.
        out: The directory of the matrix; each run has a directory inside.
        workers: Where the runs are computed; one after the other on this machine by default.
        after_run: Called with the name and the summary of each run when it is done.

    Returns:
        ``{"model", "data", "method", "epochs", "seeds", "nets": [...], "cells": [...], "failed": [...]}``: a cell for
        each subnet in each main net that it fits into, top-1 accuracy in percent over seeds; where both are the same
        net it was trained alone.

    Raises:
        UsageError: If ``out`` holds runs of another recipe.
    """
    out = Path(out)
    outcome = run_all(plan.jobs, out, workers=workers, after_run=after_run)
    cells = []
    for subnet in plan.nets:
        for net in plan.nets:
            if subnet != net and not fits(subnet, net):
                continue
            names = [name for name in (plan.run_of(net, seed) for seed in plan.seeds) if name in outcome.summaries]
            if subnet == net:
                scores = [outcome.summaries[name]["main"] for name in names]
            else:
                scores = [measured_scores(out / name)[str(subnet)].to_mapping() for name in names]
            values = [score["top1"] for score in scores]
            perplexities = [score["perplexity"] for score in scores if "perplexity" in score]
            if values:
                cells.append(
                    {
                        "subnet": str(subnet),
                        "main": str(net),
                        "seeds": len(values),
                        "mean": statistics.fmean(values),
                        "std": spread(values),
                        **({"perplexity": statistics.fmean(perplexities)} if perplexities else {}),
                    }
                )
    result = {
        "model": plan.recipe.model.name,
        "data": plan.recipe.data.name,
        "method": plan.recipe.method.name,
        "epochs": plan.recipe.schedule.epochs,
        "seeds": list(plan.seeds),
        "nets": [str(net) for net in plan.nets],
        "cells": cells,
        "failed": outcome.failures,
    }
    files.write_json(out / MATRIX, result)
    return result
