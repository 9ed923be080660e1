"""What breaks a trained network: blocks deleted and swapped, as in the lesion studies of Veit et al. (see ``damage``).

Every destroyed net is measured on the test split twice. Without recalibration each block normalises with the
statistics that it has in the main net, as Veit et al. do; with it, with statistics estimated anew for the net that is
left. A network that keeps no running statistics is measured once.

``destruction.json`` holds the score of each net and their means; ``single.csv``, ``deletions.csv`` and ``swaps.csv``
hold the scores. What was measured of a run is kept in ``parts/`` under a fingerprint of the run and the settings, so
that it is not measured twice.
"""

from __future__ import annotations

import hashlib
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from stimulative import files
from stimulative.analysis import Steps, draw_images, open_run
from stimulative.claiming import claimed
from stimulative.data import Batch, Loader, View
from stimulative.errors import UsageError
from stimulative.records import understanding
from stimulative.residual import ResidualNetwork, Subnet
from stimulative.runs import Calibration, Score
from stimulative.studies.damage import Damage, Draws, damage, tau
from stimulative.studies.destruction import (
    DeletedRow,
    DestroyedNet,
    DestroyedRun,
    Destruction,
    DrawsRow,
    SingleRow,
    SwappedRow,
)
from stimulative.studies.finished import FinishedRun, finished_runs
from stimulative.tasks import TaskName
from stimulative.training import Prepared, calibration_of, estimate_statistics, groups_to_recalibrate, measure
from stimulative.weights import sha256

_MOST_DRAWS = 100_000

_PARTS = "parts"
_FORMAT = 2  # of what is kept of a run; another number has it measured anew

Scores = Mapping[bool, Mapping[Subnet, Score]]
"""Scores of nets without and with recalibration; only without, where there is nothing to recalibrate."""


def destroy(
    runs: Sequence[str | Path],
    out: str | Path,
    *,
    draws: int = 10,
    seed: int = 0,
    images: int | None = None,
    device: torch.device | str | None = None,
    progress: Callable[[str, int, int], Any] | None = None,
    after_run: Callable[[str, bool], Any] | None = None,
) -> Destruction:
    """Delete and swap blocks of trained networks, and measure on the test split what is left.

    Writes ``destruction.json`` and three CSV files. Runs of the same structure get the same draws, and all runs the
    same test images.

    Args:
        runs: Directories of finished runs on one data set.
        out: Where to write. What was measured of a run there, with the same settings, is not measured again.
        draws: For each number of blocks or pairs, how many nets to draw; all there are, where there are no more.
        seed: The seed of the draws, and of the choice of test images.
        images: How many test images to draw; all by default.
        device: Where to compute; by default as each recipe says.
        progress: Called with the label of a run, the batches done and the batches in all.
        after_run: Called with the label of a run when it is done, and whether it had been measured before.

    Returns:
        What ``destruction.json`` holds; accuracies are in percent; ``std`` is that of the draws, as of a population.

    Raises:
        UsageError: If a directory is not that of a finished run, the data sets differ, or a number is below 1.
    """
    check_numbers(draws, images)
    found = finished_runs(runs)
    out = Path(out)
    with claimed(out, "a study of damage"):
        files.make_directory(files.inside(out, _PARTS))
        known = [run.summary.calibration for run in found]
        view: View | None = next((one.view for one in known if one is not None), None)
        parts: list[DestroyedNet] = []
        destruction = _together(parts, found[0].summary.task, draws, seed)
        for run in found:
            directory = run.directory.path
            kept = out / _PARTS / f"{directory.resolve().name}-{_fingerprint(run, draws, seed, images, view)}.json"
            measured_before = kept.exists()
            if not measured_before:
                files.write_json(kept, _measured(run, draws, seed, images, view, device, progress).to_mapping())
            content = files.read_json(kept)
            with understanding(kept):
                parts.append(DestroyedNet.from_mapping(content).called(run.label, directory))
            # after each run, so that what is done is there if the next one fails
            destruction = _together(parts, run.summary.task, draws, seed)
            destruction.write_tables(out)
            destruction.write(out)
            if after_run is not None:
                after_run(run.label, measured_before)
    return destruction


def check_numbers(draws: int, images: int | None) -> None:
    """Check how much is asked for.

    Raises:
        UsageError: If it is less than one, or more draws than anybody measures.
    """
    if not 1 <= draws <= _MOST_DRAWS:
        raise UsageError(f"the number of draws is from 1 to {_MOST_DRAWS:,}, got {draws}")
    if images is not None and images < 1:
        raise UsageError(f"the number of test images is 1 or more, got {images}")


def _fingerprint(run: FinishedRun, draws: int, seed: int, images: int | None, view: View | None) -> str:
    everything = (_FORMAT, draws, seed, images, view, sha256(run.directory.weights), run.recipe.to_yaml())
    return hashlib.sha256(repr(everything).encode()).hexdigest()[:12]


def _measured(
    run: FinishedRun,
    draws: int,
    seed: int,
    images: int | None,
    view: View | None,
    device: torch.device | str | None,
    progress: Callable[[str, int, int], Any] | None,
) -> DestroyedNet:
    """Destroy the net of a run; without a view of the training images, by the run's own."""
    opened = open_run(run.directory.path, device=device)
    network, test = opened.network, opened.data.test
    todo = damage(network.stages, draws, seed)
    batches = test if images is None else draw_images(test, images, seed)
    report = None if progress is None else lambda done, total: progress(run.label, done, total)
    calibration = calibration_of(opened, run.summary, view)
    temperature = run.summary.main.temperature
    scores, calibration_images = _scores(opened, todo.subnets, batches, report, temperature, calibration)
    main = scores[False][todo.main]
    described = DestroyedRun(
        run=run.label,
        model=run.summary.model,
        data=run.summary.data,
        method=run.summary.method,
        main=main.quality,
        main_perplexity=main.perplexity,
        images=min(images or test.images, test.images),
        test_images=test.images,
        calibration=None if calibration is None else calibration.view,
        calibration_images=calibration_images,
        notes=tuple(_notes(network, todo, scores)),
    )
    return _part(described, network, todo, scores)


def _scores(
    opened: Prepared,
    subnets: Sequence[Subnet],
    batches: Loader | list[Batch],
    progress: Callable[[int, int], Any] | None,
    temperature: float | None,
    calibration: Calibration | None,
) -> tuple[Scores, int]:
    """The scores of subnets, and the number of images that they were recalibrated on.

    Where the main net's logits were brought to the scale of probabilities by a temperature, so are all: what is
    destroyed is the net as it is deployed.
    """
    network, images = opened.network, opened.recipe.evaluation.calibration_images
    view = "training" if calibration is None else calibration.view
    groups = groups_to_recalibrate(network, subnets)
    loader = opened.data.calibration_as(view)
    to_calibrate = min(len(loader), math.ceil(images * len(loader) / loader.images))
    total = len(batches) + len(groups) * (len(batches) + to_calibrate)
    steps = Steps(progress, total)
    temperatures = None if temperature is None else [temperature] * len(subnets)
    whole = measure(network, batches, subnets, temperatures=temperatures, aim=opened.data.aim, after_batch=steps.step)
    scores = {False: dict(zip(subnets, whole, strict=True))}
    used = 0
    for group in groups:
        found = estimate_statistics(opened, view, group, on_batch=steps.step)
        measured = measure(
            network,
            batches,
            group,
            statistics=found,
            temperatures=None if temperatures is None else temperatures[: len(group)],
            aim=opened.data.aim,
            after_batch=steps.step,
        )
        scores.setdefault(True, {}).update(zip(group, measured, strict=True))
        used = found.images
    return scores, used


def _notes(network: ResidualNetwork, todo: Damage, scores: Scores) -> list[str]:
    notes = []
    if True not in scores:
        notes.append("no layer keeps running statistics: there is nothing to recalibrate, each net is measured once")
    if any(stage.in_own_order for stage in network.stages):
        notes.append("blocks whose outputs are concatenated, or wider than their inputs, cannot be swapped")
    if not todo.swaps:
        notes.append("nothing swapped: no stage has two blocks that can take each other's place")
    return notes


def _part(run: DestroyedRun, network: ResidualNetwork, todo: Damage, scores: Scores) -> DestroyedNet:
    """The tables of a run."""
    swapped = [subnet for draws in todo.swaps for subnet in draws.subnets]
    taus = {subnet: tau(network.stages, subnet) for subnet in (todo.main, *swapped) if todo.swaps}
    main = Draws(0, [todo.main], True)
    single, deletions, swaps, delete_rows, swap_rows = [], [], [], [], []
    for recalibrated, of in scores.items():
        for (stage, block), subnet in todo.singles.items():
            name = network.stages[stage].block_names[block]
            place = {"run": run.run, "recalibrated": recalibrated, "stage": stage, "block": block, "name": name}
            single.append(SingleRow(**place, subnet=str(subnet), **of[subnet].main_parts()))
        for draws in todo.deletions:
            for draw, subnet in enumerate(draws.subnets):
                which = {"run": run.run, "recalibrated": recalibrated, "k": draws.k, "draw": draw}
                deletions.append(DeletedRow(**which, subnet=str(subnet), **of[subnet].main_parts()))
        for draws in todo.swaps:
            for draw, subnet in enumerate(draws.subnets):
                which = {"run": run.run, "recalibrated": recalibrated, "k": draws.k, "draw": draw}
                swaps.append(SwappedRow(**which, subnet=str(subnet), tau=taus[subnet], **of[subnet].main_parts()))
        delete_rows += [_row(run.run, draws, recalibrated, of) for draws in (main, *todo.deletions)]
        swap_rows += [_row(run.run, draws, recalibrated, of, taus) for draws in (main, *todo.swaps) if todo.swaps]
    return DestroyedNet(
        run=run,
        single=tuple(single),
        deletions=tuple(deletions),
        swaps=tuple(swaps),
        delete_rows=tuple(delete_rows),
        swap_rows=tuple(swap_rows),
    )


def _row(
    run: str,
    draws: Draws,
    recalibrated: bool,
    scores: Mapping[Subnet, Score],
    taus: Mapping[Subnet, float] | None = None,
) -> DrawsRow:
    """The nets of one k together; with the mean of their ranks, where they were swapped."""
    of = [scores[subnet] for subnet in draws.subnets]
    top1 = [score.quality for score in of]
    perplexities = [score.perplexity for score in of if score.perplexity is not None]
    return DrawsRow(
        run=run,
        recalibrated=recalibrated,
        k=draws.k,
        draws=len(top1),
        exhaustive=draws.exhaustive,
        mean=statistics.fmean(top1),
        std=statistics.pstdev(top1),
        min=min(top1),
        max=max(top1),
        perplexity=statistics.fmean(perplexities) if perplexities else None,
        tau=None if taus is None else statistics.fmean(taus[subnet] for subnet in draws.subnets),
    )


def _together(parts: Sequence[DestroyedNet], task: TaskName, draws: int, seed: int) -> Destruction:
    """The parts of several runs as one; of all together it is said what they were measured on where that is one."""
    runs = [part.run for part in parts]
    return Destruction(
        task=task,
        images=_common([run.images for run in runs]),
        test_images=_common([run.test_images for run in runs]),
        calibration=next((run.calibration for run in runs if run.calibration is not None), None),
        calibration_images=_common([run.calibration_images for run in runs]),
        draws=draws,
        seed=seed,
        runs=tuple(runs),
        single=tuple(row for part in parts for row in part.single),
        deletions=tuple(row for part in parts for row in part.deletions),
        swaps=tuple(row for part in parts for row in part.swaps),
        delete_rows=tuple(row for part in parts for row in part.delete_rows),
        swap_rows=tuple(row for part in parts for row in part.swap_rows),
    )


def _common(numbers: Sequence[int | None]) -> int | None:
    """The number of all runs, those of 0 left out, which have no statistics; None where there are several."""
    known = {number for number in numbers if number}
    return known.pop() if len(known) == 1 else (None if known else 0)
