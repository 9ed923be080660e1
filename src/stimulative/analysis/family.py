"""How good every subnet of a trained network is."""

from __future__ import annotations

import csv
import io
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from stimulative.analysis.cost import Cost, CostModel
from stimulative.errors import UsageError
from stimulative.training import Recipe, Score, files, load_recipe, measure, prepare
from stimulative.training.loop import example_batch
from stimulative.unravel import ResidualNetwork, Subnet
from stimulative.unravel.sampling import ordered

COLUMNS = ("subnet", "blocks", "top1", "loss", "parameters", "flops")


@dataclass(frozen=True)
class Member:
    """One subnet of a family: how good it is and what it costs."""

    subnet: Subnet
    score: Score
    cost: Cost


def choose_subnets(network: ResidualNetwork, subnets: int | Literal["all"], seed: int) -> list[Subnet]:
    """All ordered subnets of a network, or so many different ones drawn uniformly with a seed.

    Raises:
        UsageError: If the number is not one, or all are too many to list.
    """
    space = network.space
    if subnets == "all":
        if space.count > 100_000:
            raise UsageError(f"there are {space.count:,} subnets; evaluate some of them: --subnets N")
        return list(space)
    if subnets < 1:
        raise UsageError(f"the number of subnets is 1 or more, or 'all'; got {subnets}")
    if subnets >= space.count:
        return list(space)
    generator = torch.Generator().manual_seed(seed)
    drawn: dict[Subnet, None] = {}
    while len(drawn) < subnets:
        drawn[ordered(space, generator)] = None
    return sorted(drawn)


def evaluate(
    run: str | Path,
    *,
    subnets: int | Literal["all"] | None = None,
    seed: int | None = None,
    device: torch.device | str | None = None,
    progress: Callable[[int, int], Any] | None = None,
) -> dict[str, Any]:
    """Measure the subnets of a finished run on its test split, each with recalibrated statistics.

    Writes ``subnets.csv`` and the ``subnets`` part of ``summary.json`` in the run directory.

    Args:
        run: The run directory.
        subnets: ``"all"``, or how many to draw; by default what the recipe says.
        seed: The seed of the draw; by default the recipe's.
        device: Where to compute; by default as the recipe says.
        progress: Called with the batches done and the batches in all.

    Returns:
        The summary, as in ``summary.json``.

    Raises:
        UsageError: If the directory is not that of a finished run, or the number of subnets is impossible.
    """
    directory = Path(run)
    recipe = recipe_of(directory)
    summary = files.read_json(directory / files.SUMMARY) if (directory / files.SUMMARY).exists() else None
    if summary is None:
        raise UsageError(f"the run in {directory} has not finished: continue it with stimulative train ... --resume")
    if not isinstance(summary, dict) or not {"main", "subnets"} <= summary.keys():
        raise UsageError(f"{directory / files.SUMMARY} is not the summary of a run; remove it and resume the run")
    subnets = recipe.evaluation.subnets if subnets is None else subnets
    seed = recipe.seed if seed is None else seed
    if recipe.training.threads is not None:
        torch.set_num_threads(recipe.training.threads)
    prepared = prepare(recipe, device=_device(recipe) if device is None else device)
    network, data = prepared.network, prepared.data
    files.load_model(network.model, directory / files.MODEL)
    chosen = choose_subnets(network, subnets, seed)
    calibration = network.recalibrate(data.calibration, chosen, images=recipe.evaluation.calibration_images)
    done = 0

    def after_batch() -> None:
        nonlocal done
        done += 1
        if progress is not None:
            progress(done, len(data.test))

    scores = measure(network, data.test, chosen, statistics=calibration, after_batch=after_batch)
    costs = CostModel(network, example_batch(data.channels, data.image_size, images=1).to(_device_of(network)))
    family = [Member(subnet, score, costs.of(subnet)) for subnet, score in zip(chosen, scores, strict=True)]
    top1 = [member.score.top1 for member in family]
    summary["subnets"] = {
        "count": network.space.count,
        "evaluated": len(family),
        "mean": statistics.fmean(top1),
        "std": statistics.pstdev(top1),
        "min": min(top1),
        "max": max(top1),
        "seed": None if len(family) == network.space.count else seed,
        "calibration_images": calibration.images,
    }
    files.write_text(directory / files.SUBNETS, family_csv(family))
    files.write_json(directory / files.SUMMARY, summary)
    return summary


def recipe_of(directory: Path) -> Recipe:
    """The recipe of a run directory.

    Raises:
        UsageError: If it is not one.
    """
    if not (directory / files.RECIPE).exists():
        raise UsageError(
            f"{directory} is not a run directory: it has no {files.RECIPE}. "
            "Train one: stimulative train RECIPE --out DIR"
        )
    return load_recipe(directory / files.RECIPE)


def family_csv(family: Sequence[Member]) -> str:
    """A family as the text of a CSV file."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for member in family:
        score, cost = member.score, member.cost
        writer.writerow(
            [member.subnet, member.subnet.blocks, f"{score.top1:.4f}", f"{score.loss:.6f}", cost.parameters, cost.flops]
        )
    return text.getvalue()


def read_family(path: Path) -> list[Member]:
    """Read a ``subnets.csv``."""
    with path.open(encoding="utf-8", newline="") as file:
        return [
            Member(
                Subnet.parse(row["subnet"]),
                Score(float(row["top1"]), float(row["loss"])),
                Cost(int(row["parameters"]), int(row["flops"])),
            )
            for row in csv.DictReader(file)
        ]


def _device(recipe: Recipe) -> torch.device:
    """The recipe's device, or the fastest one where it leaves the choice or this machine lacks it."""
    present = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    wanted = recipe.training.device
    return torch.device(wanted if present.get(wanted) else next(kind for kind in present if present[kind]))


def _device_of(network: ResidualNetwork) -> torch.device:
    return next(network.parameters()).device
