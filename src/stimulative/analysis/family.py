"""How good every subnet of a trained network is, and what it costs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import torch

from stimulative.analysis.cost import CostModel
from stimulative.analysis.frontier import COSTS, frontier
from stimulative.analysis.latency import MAX_ROUNDS, SECONDS, Latencies, measure_latency
from stimulative.analysis.member import Member as Member
from stimulative.analysis.member import family_csv as family_csv
from stimulative.analysis.member import read_family as read_family
from stimulative.analysis.spread import by_blocks, by_stage, spread_of
from stimulative.errors import UsageError
from stimulative.training import Recipe, Run, files, load_recipe, measure, prepare
from stimulative.training.loop import as_in
from stimulative.training.temperature import fit_temperatures
from stimulative.training.weights import load_weights, read_weights
from stimulative.unravel import ResidualNetwork, Subnet, SubnetLike, SubnetSpace
from stimulative.unravel.sampling import uniform
from stimulative.unravel.subnet import Kept

Chosen = int | Literal["auto", "all"] | Sequence[SubnetLike]

AUTO_MOST = 1_000
_ALL_MOST = 100_000


def choose_subnets(network: ResidualNetwork, subnets: Chosen, seed: int, kept: Kept = "ordered") -> list[Subnet]:
    """The subnets to measure.

    Args:
        network: The network.
        subnets: ``"auto"`` for all subnets if they are at most 1,000, else 1,000 different ones drawn uniformly, the
            main net and the smallest always among them; ``"all"``; how many to draw, with the same two among them
            where it is 2 or more; or the subnets themselves.
        seed: The seed of the draw.
        kept: Which blocks a stage of a subnet keeps at a given depth; a choice of subnets that are named does not read
            it.

    Raises:
        UsageError: If the number is not one, all are too many to list, or a subnet is not the network's.
    """
    space = network.space.keeping(kept)
    certain = [space.smallest, network.full]
    if subnets == "auto":
        return list(space) if space.count <= AUTO_MOST else draw(space, AUTO_MOST, seed, certain)
    if subnets == "all":
        if space.count > _ALL_MOST:
            raise UsageError(f"there are {space.count:,} subnets; evaluate some of them: --subnets N")
        return list(space)
    if isinstance(subnets, str):
        raise UsageError(f"subnets: got {subnets!r}, allowed: auto, all, a number, or a list of subnets")
    if not isinstance(subnets, int):
        if not subnets:
            raise UsageError("there is no subnet to measure; name one or more")
        return sorted({network.resolve(subnet) for subnet in subnets})
    if subnets < 1:
        raise UsageError(f"the number of subnets is 1 or more, or 'all'; got {subnets}")
    return list(space) if subnets >= space.count else draw(space, subnets, seed, certain if subnets > 1 else ())


def draw(space: SubnetSpace, count: int, seed: int, certain: Sequence[Subnet] = ()) -> list[Subnet]:
    """So many different subnets of a space, drawn uniformly.

    Args:
        space: The space, which has no fewer.
        count: How many.
        seed: The seed of the draw.
        certain: Subnets that are among them in any case.
    """
    generator = torch.Generator().manual_seed(seed)
    drawn = set(certain)
    while len(drawn) < count:
        drawn.add(uniform(space, generator))
    return sorted(drawn)


def evaluate(
    run: str | Path,
    *,
    subnets: Chosen | None = None,
    space: Kept | None = None,
    seed: int | None = None,
    latency: bool = True,
    latency_batch: int = 1,
    latency_seconds: float = SECONDS,
    device: torch.device | str | None = None,
    progress: Callable[[int, int], Any] | None = None,
) -> dict[str, Any]:
    """Measure the subnets of a finished run on its test split, each with recalibrated statistics.

    Writes ``subnets.csv`` and these parts of ``summary.json`` in the run directory: ``subnets`` (which, how many, and
    the spread of their accuracies), ``by_blocks`` and ``by_stage`` (the same spread by the number of blocks and by the
    depth of each stage), ``frontier`` (for each cost the subnets that no other one beats, the cheapest first) and
    ``latency`` (what the latencies were measured on). Where the run's method leaves the scale of logits open, a
    temperature is fitted to each subnet on the validation part, and its loss is that of its logits divided by it.
    Latencies are measured in place: the whole model is in memory, and skipped blocks return their input.

    Args:
        run: The run directory.
        subnets: ``"auto"``, ``"all"``, how many to draw, or which ones, as ``choose_subnets`` takes them; by default
            what the recipe says.
        space: Which blocks the stages of subnets keep, as ``SubnetSpace`` names it; by default what the recipe says.
        seed: The seed of the draw; by default the recipe's.
        latency: Whether to measure latencies.
        latency_batch: Images, or sequences, in the batch that is timed.
        latency_seconds: About how long that may take, rounds beyond the fifth.
        device: Where to compute; by default as the recipe says.
        progress: Called with the steps done and about how many there are in all.

    Returns:
        The summary, as in ``summary.json``.

    Raises:
        UsageError: If the directory is not that of a finished run, or the number of subnets is impossible.
    """
    directory = Path(run)
    recipe = recipe_of(directory)
    summary = summary_of(directory)
    subnets = recipe.evaluation.subnets if subnets is None else subnets
    kept = recipe.evaluation.space if space is None else space
    seed = recipe.seed if seed is None else seed
    if not 0 <= seed < 2**32:
        raise UsageError(f"the seed is at least 0 and below 2**32, got {seed}")
    if latency_batch < 1:
        raise UsageError(f"the batch whose latency is measured holds 1 image or more, got {latency_batch}")
    opened = open_run(directory, device=device)
    network, data = opened.network, opened.data
    chosen = choose_subnets(network, subnets, seed, kept)
    count = network.space.keeping(kept).count
    calibrates = summary.get("method") is not None and opened.method.calibrates
    to_fit = len(data.validation) if calibrates else 0
    steps = Steps(progress, to_fit + len(data.test) + (MAX_ROUNDS if latency else 0))
    calibration = network.recalibrate(data.calibration, chosen, images=recipe.evaluation.calibration_images)
    temperatures: list[float] | None = None
    if calibrates:
        temperatures = fit_temperatures(
            network, data.validation, chosen, statistics=calibration, after_batch=steps.step
        )
    scores = measure(
        network, data.test, chosen, statistics=calibration, temperatures=temperatures, after_batch=steps.step
    )
    costs = CostModel(network, as_in(network, data.example(1, evaluation=True)))
    times: Latencies | None = None
    if latency:
        times = measure_latency(
            network,
            as_in(network, data.example(latency_batch, evaluation=True)),
            chosen,
            seconds=latency_seconds,
            seed=seed,
            after_round=lambda _: steps.step(),
        )
    family = [
        Member(
            subnet,
            score,
            costs.of(subnet),
            times.of[position] if times is not None else None,
            temperatures[position] if temperatures is not None else None,
        )
        for position, (subnet, score) in enumerate(zip(chosen, scores, strict=True))
    ]
    drawn = isinstance(subnets, str | int) and len(family) < count
    summary["subnets"] = {
        "space": kept,
        "count": count,
        "evaluated": len(family),
        **spread_of(family),
        "seed": seed if drawn else None,
        "calibration_images": calibration.images,
    }
    summary["latency"] = None if times is None else times.conditions()
    summary["frontier"] = {cost: [str(member.subnet) for member in frontier(family, cost)] for cost in COSTS}
    summary["by_blocks"] = by_blocks(family)
    summary["by_stage"] = by_stage(family, [stage.name for stage in network.stages])
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


def summary_of(directory: Path) -> dict[str, Any]:
    """The summary of a finished run.

    Raises:
        UsageError: If it has not finished.
    """
    if not (directory / files.SUMMARY).exists():
        raise UsageError(f"the run in {directory} has not finished: continue it with stimulative train ... --resume")
    summary = files.read_json(directory / files.SUMMARY)
    main, subnets = (summary.get("main"), summary.get("subnets")) if isinstance(summary, dict) else (None, None)
    measured = isinstance(main, dict) and _are_numbers(main.get("top1"), main.get("loss"))
    if not measured or not isinstance(subnets, dict) or "evaluated" not in subnets:
        raise UsageError(f"{directory / files.SUMMARY} is not the summary of a run; remove it and resume the run")
    return summary


def _are_numbers(*values: Any) -> bool:
    return all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)


def weights_of(directory: Path) -> Path:
    """The file of the trained weights of a finished run.

    Raises:
        UsageError: If it is missing.
    """
    stored = directory / files.MODEL
    if not stored.exists():
        raise UsageError(
            f"there is no {stored}, though the run has finished: put the file back, or remove {files.SUMMARY} and "
            "resume the run"
        )
    return stored


def open_run(run: str | Path, *, device: torch.device | str | None = None) -> Run:
    """The data and the trained network of a finished run.

    Args:
        run: The run directory.
        device: Where to compute; by default as the recipe says, or the fastest one where this machine lacks that.

    Raises:
        UsageError: If the directory is not that of a finished run, or its data or weights do not fit.
    """
    directory = Path(run)
    recipe = recipe_of(directory)
    summary_of(directory)
    prepared = prepare_to_measure(recipe, device=device)
    data = prepared.data
    stored = weights_of(directory)
    load_weights(
        prepared.network.model,
        read_weights(stored),
        file=stored,
        name=recipe.model.name,
        data=data.name,
        classes=data.classes,
        channels=data.channels,
    )
    return prepared


def prepare_to_measure(recipe: Recipe, *, device: torch.device | str | None = None) -> Run:
    """What a recipe resolves to, on a device of this machine and with as many threads as the recipe says.

    Args:
        recipe: The recipe.
        device: Where to compute; by default as the recipe says, or the fastest one where this machine lacks that.
    """
    if recipe.training.threads is not None:
        torch.set_num_threads(recipe.training.threads)
    return prepare(recipe, device=_device(recipe) if device is None else device)


class Steps:
    """Counts steps of the work for whoever shows its progress.

    Args:
        progress: Called with the steps done and the steps in all.
        total: The steps in all.
    """

    def __init__(self, progress: Callable[[int, int], Any] | None, total: int) -> None:
        self.progress = progress
        self.total = total
        self.done = 0

    def step(self) -> None:
        """Count one."""
        self.done += 1
        if self.progress is not None:
            self.progress(self.done, self.total)


def _device(recipe: Recipe) -> torch.device:
    """The recipe's device, or the fastest one where it leaves the choice or this machine lacks it."""
    present = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    wanted = recipe.training.device
    return torch.device(wanted if present.get(wanted) else next(kind for kind in present if present[kind]))
