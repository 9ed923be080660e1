"""How good every subnet of a trained network is, and what it costs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from stimulative.analysis.cost import CostModel
from stimulative.analysis.drawing import Chosen, choose_subnets
from stimulative.analysis.importance import kept_in
from stimulative.analysis.latency import MAX_ROUNDS, SECONDS, Latencies, measure_latency
from stimulative.analysis.steps import Steps
from stimulative.analysis.trained import open_run
from stimulative.claiming import claimed
from stimulative.config import CalibrationSetting
from stimulative.errors import UsageError
from stimulative.files import CannotWrite
from stimulative.residual import Kept, Statistics, Subnet
from stimulative.runs import COSTS, Family, FamilySummary, Member, RunDirectory, Summary
from stimulative.training import (
    Prepared,
    Processes,
    as_in,
    calibration_of,
    dividing,
    estimate_statistics,
    measure,
    measure_and_fit,
    measuring_as,
    tuned,
    warn_of_loss,
)


class ResultsLost(UsageError):
    """What was measured could not be written.

    Attributes:
        summary: What ``summary.json`` would say.
        subnets: What ``subnets.csv`` would say.
    """

    def __init__(self, message: str, summary: dict[str, Any], subnets: str) -> None:
        super().__init__(message)
        self.summary, self.subnets = summary, subnets

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (str(self), self.summary, self.subnets)


def evaluate(
    run: str | Path,
    *,
    out: str | Path | None = None,
    subnets: Chosen | None = None,
    space: str | None = None,
    seed: int | None = None,
    latency: bool = True,
    latency_batch: int = 1,
    latency_seconds: float = SECONDS,
    calibration: CalibrationSetting | None = None,
    device: torch.device | str | None = None,
    progress: Callable[[int, int], Any] | None = None,
) -> dict[str, Any]:
    """Measure the subnets of a finished run on its test split, each with recalibrated statistics.

    Writes ``subnets.csv`` (also how good subnets are on the validation part, by which those to deploy are selected) and
    these parts of ``summary.json``: ``subnets`` (which, how many, and how their accuracies spread), ``by_blocks`` and
    ``by_stage`` (the same by the number of blocks and by the depth of each stage), ``frontier`` (for each cost the
    subnets that no other one beats, the cheapest first), ``calibration`` and ``latency`` (what these were measured on).
    Where the run's method leaves the scale of logits open, a temperature is fitted to each subnet on the validation
    part, and its logits are divided by it. Latencies are measured in place: all of the model is there. Processes that
    torchrun or srun has started share the work; the first of them writes, and measures latencies.

    Args:
        run: The run directory.
        out: A directory to copy the run to first, where ``run`` cannot be written to.
        subnets: ``"auto"``, ``"all"``, how many to draw, or which ones, as ``choose_subnets`` takes them; by default
            what the recipe says.
        space: Which blocks stages keep, as ``SubnetSpace`` names it, or ``ranked`` (see ``rank``); else the recipe's.
        seed: The seed of the draw; by default the recipe's.
        latency: Whether to measure latencies.
        latency_batch: Images, or sequences, in the batch that is timed.
        latency_seconds: About how long that may take, rounds beyond the fifth.
        calibration: How training images are prepared for the statistics; by default as before, else the recipe's.
        device: Where to compute; by default as the recipe says.
        progress: Called with the steps done and about how many there are.

    Returns:
        The summary, as in ``summary.json``.

    Raises:
        UsageError: If ``run`` has not finished or cannot be written to, ``out`` is not empty, or ``subnets`` unfit.
        ResultsLost: If it cannot be written to any more once all is measured; it has the results.
    """
    if latency_batch < 1:
        raise UsageError(f"the batch whose latency is measured holds 1 image or more, got {latency_batch}")
    with dividing() as processes:
        directory = _opened(run, out, processes)
        recipe = directory.recipe
        asked = _Asked(
            recipe.evaluation.subnets if subnets is None else subnets,
            kept_in(directory.path, recipe.evaluation.space if space is None else space),
            recipe.seed if seed is None else seed,
            *(latency_batch if latency and processes.first else None, latency_seconds, calibration),
        )
        with claimed(directory.path, "measuring"):
            summary, family = _evaluated(open_run(directory.path, device=device), directory.summary, asked, progress)
            _write(directory, summary, family, processes)
    return summary.to_mapping()


def _opened(run: str | Path, out: str | Path | None, processes: Processes) -> RunDirectory:
    """The run, or the copy of it that the first process makes; the same in all processes."""
    processes.check_alike({"the run": str(Path(run).absolute()), "out": out if out is None else str(out)})
    if out is not None and processes.first:
        RunDirectory.open(run).copied(Path(out))
    processes.wait()
    return RunDirectory.open(run if out is None else out)


def _write(directory: RunDirectory, summary: Summary, family: Family, processes: Processes) -> None:
    """Write the results, if this is the first process; all wait for that."""
    try:
        if processes.first:
            directory.write_family(family)
            directory.write_summary(summary)
        processes.wait()
    except CannotWrite as error:
        raise ResultsLost(str(error), summary.to_mapping(), family.to_csv()) from error


def _laid_out(opened: Prepared) -> Prepared:
    """The same with weights stored as training stored them, which is as fast; images follow the weights."""
    if opened.recipe.training.channels_last:
        opened.network.to(memory_format=torch.channels_last)
    return opened


@dataclass(frozen=True)
class _Asked:
    """What is to be measured: which subnets, drawn how, latencies of which batch (None for none) for how long.

    And with statistics of which training images.
    """

    subnets: Chosen
    kept: Kept
    seed: int
    batch: int | None
    seconds: float
    calibration: CalibrationSetting | None

    def __post_init__(self) -> None:
        if not 0 <= self.seed < 2**32:
            raise UsageError(f"the seed is at least 0 and below 2**32, got {self.seed}")


def _evaluated(
    opened: Prepared, summary: Summary, asked: _Asked, progress: Callable[[int, int], Any] | None
) -> tuple[Summary, Family]:
    """The summary with what is said of subnets, and the subnets."""
    opened = _laid_out(opened)
    device, recipe = next(opened.network.parameters()).device, opened.recipe
    network, data = opened.network, opened.data
    chosen = choose_subnets(network, asked.subnets, asked.seed, asked.kept)
    count = network.space.keeping(asked.kept).count
    calibrates = summary.method is not None and opened.method.calibrates
    looks = len(data.validation) + len(data.test)
    steps = Steps(progress, looks + (0 if asked.batch is None else MAX_ROUNDS))
    with tuned(recipe, device), measuring_as(recipe, device):
        calibration = calibration_of(opened, summary, asked.calibration)
        if calibration is None:
            statistics = network.recalibrate((), chosen)
        else:
            warn_of_loss(calibration)
            statistics = estimate_statistics(opened, calibration.view, chosen)
        family = _measured(opened, chosen, statistics, steps, calibrates=calibrates)
    times: Latencies | None = None
    if asked.batch is not None:
        times = measure_latency(
            network,
            as_in(network, data.example(asked.batch, evaluation=True)),
            chosen,
            seconds=asked.seconds,
            seed=asked.seed,
            after_round=lambda _: steps.step(),
        )
        family = Family(tuple(replace(member, latency=of) for member, of in zip(family, times.of, strict=True)))
    drawn = isinstance(asked.subnets, str | int) and len(family) < count
    together = FamilySummary(
        space=asked.kept,
        count=count,
        evaluated=len(family),
        **vars(family.spread()),
        seed=asked.seed if drawn else None,
        calibration_images=statistics.images,
    )
    evaluated = replace(
        summary,
        subnets=together,
        calibration=calibration,
        latency=None if times is None else times.conditions(),
        frontier={cost: tuple(str(member.subnet) for member in family.frontier(cost)) for cost in COSTS},
        by_blocks=family.by_blocks(),
        by_stage=family.by_stage([stage.name for stage in network.stages]),
    )
    return evaluated, family


def _measured(
    opened: Prepared, chosen: Sequence[Subnet], statistics: Statistics, steps: Steps, *, calibrates: bool
) -> Family:
    """Subnets with their accuracies, their cost and, where logits have no scale of their own, their temperature."""
    network, data = opened.network, opened.data
    temperatures: list[float] | None = None
    if calibrates:
        validated, temperatures = measure_and_fit(
            network, data.validation, chosen, statistics=statistics, after_batch=steps.step
        )
    else:
        validated = measure(
            network, data.validation, chosen, statistics=statistics, aim=data.aim, after_batch=steps.step
        )
    scores = measure(
        network,
        data.test,
        chosen,
        statistics=statistics,
        temperatures=temperatures,
        aim=data.aim,
        after_batch=steps.step,
    )
    costs = CostModel(network, as_in(network, data.example(1, evaluation=True)))
    return Family(
        tuple(
            Member(subnet, score, costs.of(subnet), None, temperature, on_validation.quality)
            for subnet, score, temperature, on_validation in zip(
                chosen, scores, temperatures or [None] * len(chosen), validated, strict=True
            )
        )
    )
