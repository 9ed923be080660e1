"""What breaks a trained network: blocks deleted and swapped, as in the lesion studies of Veit et al. (see ``damage``).

Every destroyed net is measured on the test split twice. Without recalibration each block normalises with the
statistics that it has in the main net, as Veit et al. do; with it, with statistics estimated anew for the net that is
left. A network that keeps no running statistics is measured once.

``destruction.json`` holds the score of each net and their means; ``single.csv``, ``deletions.csv`` and ``swaps.csv``
hold the scores. What was measured of a run is kept in ``parts/`` under a fingerprint of the run and the settings, so
that it is not measured twice.
"""

from __future__ import annotations

import csv
import hashlib
import io
import math
import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.utils import _pytree as pytree

from stimulative import files
from stimulative.analysis import Steps, open_run
from stimulative.data import Batch, Loader, generator_for
from stimulative.errors import UsageError
from stimulative.records import Record, absent
from stimulative.residual import ResidualNetwork, Subnet, layers_with_statistics
from stimulative.runs import MODEL
from stimulative.studies.damage import Damage, Draws, damage, tau
from stimulative.studies.finished import FinishedRun, finished_runs
from stimulative.studies.study import Study
from stimulative.training import Prepared, Score, in_precision_of, measure
from stimulative.weights import sha256

DESTRUCTION = "destruction.json"
COLUMNS = {
    "single": ("run", "recalibrated", "stage", "block", "name", "subnet", "top1", "loss"),
    "deletions": ("run", "recalibrated", "k", "draw", "subnet", "top1", "loss"),
    "swaps": ("run", "recalibrated", "k", "draw", "subnet", "tau", "top1", "loss"),
}
"""The columns of the CSV files, by what they are called without ``.csv``."""

_TABLES = (*COLUMNS, "delete_rows", "swap_rows")
_PARTS = "parts"
_FORMAT = 1  # of what is kept of a run; another number has it measured anew
_STATISTICS_BYTES = 2**30

Scores = Mapping[bool, Mapping[Subnet, Score]]
"""Scores of nets without and with recalibration; only without, where there is nothing to recalibrate."""


@dataclass(frozen=True, kw_only=True)
class SingleRow(Record):
    """A net without one block; accuracy in percent, loss in nats."""

    run: str
    recalibrated: bool
    stage: int
    block: int
    name: str
    subnet: str
    top1: float
    loss: float
    perplexity: float | None = absent()


@dataclass(frozen=True, kw_only=True)
class DeletedRow(Record):
    """A net without k random blocks, the draw of that number."""

    run: str
    recalibrated: bool
    k: int
    draw: int
    subnet: str
    top1: float
    loss: float
    perplexity: float | None = absent()


@dataclass(frozen=True, kw_only=True)
class SwappedRow(Record):
    """A net after k random swaps; ``tau`` is Kendall's rank correlation of its order with the original one."""

    run: str
    recalibrated: bool
    k: int
    draw: int
    subnet: str
    tau: float
    top1: float
    loss: float
    perplexity: float | None = absent()


@dataclass(frozen=True, kw_only=True)
class DrawsRow(Record):
    """The nets of one k together; ``std`` is the population's, ``tau`` the mean over swapped nets."""

    run: str
    recalibrated: bool
    k: int
    draws: int
    exhaustive: bool = False
    mean: float
    std: float
    min: float
    max: float
    perplexity: float | None = absent()
    tau: float | None = absent()


@dataclass(frozen=True, kw_only=True)
class DestroyedRun(Record):
    """A run whose net was destroyed, and what it was measured on.

    Args:
        run: What it is called.
        directory: Where it is.
        model: Its model.
        data: Its data set.
        method: How it was trained; None for weights that somebody else has trained.
        main: The accuracy of its whole main net, in percent.
        main_perplexity: Its perplexity, of text.
        images: Test images that were measured on.
        test_images: How many there are.
        calibration_images: Training images that statistics were estimated on; 0 without any.
        notes: What there is to say of it.
    """

    run: str
    directory: str | None = None
    model: str
    data: str
    method: str | None
    main: float
    main_perplexity: float | None = absent()
    images: int | None = None
    test_images: int | None = None
    calibration_images: int | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Destruction(Study):
    """What is left of nets whose blocks are deleted and swapped.

    Args:
        images: Test images that all runs were measured on; None where their numbers differ.
        test_images: How many there are; None where their numbers differ.
        calibration_images: Training images that statistics were estimated on; 0 without any.
        draws: Nets drawn for each k.
        seed: The seed of the draws.
        runs: The runs.
        single: Nets without each single block.
        deletions: Nets without k random blocks.
        swaps: Nets after k random swaps.
        delete_rows: The former by k.
        swap_rows: The latter by k.
    """

    NAME = "destruction"

    images: int | None
    test_images: int | None = None
    calibration_images: int | None
    draws: int
    seed: int
    runs: tuple[DestroyedRun, ...]
    single: tuple[SingleRow, ...]
    deletions: tuple[DeletedRow, ...] = ()
    swaps: tuple[SwappedRow, ...]
    delete_rows: tuple[DrawsRow, ...]
    swap_rows: tuple[DrawsRow, ...]


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
) -> dict[str, Any]:
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
        What ``destruction.json`` holds. Accuracies are in percent; ``std`` is that of the draws, as of a population.

    Raises:
        UsageError: If a directory is not that of a finished run, the data sets differ, or a number is below 1.
    """
    check_numbers(draws, images)
    found = finished_runs(runs)
    out = Path(out)
    files.make_directory(out / _PARTS)
    parts: dict[str, dict[str, Any]] = {}
    destruction: dict[str, Any] = {}
    for run in found:
        kept = out / _PARTS / f"{run.directory.resolve().name}-{_fingerprint(run, draws, seed, images)}.json"
        measured_before = kept.exists()
        if not measured_before:
            part = _measured(run, draws, seed, images, device, progress)
            files.write_json(kept, part)
        parts[run.label] = {"directory": str(run.directory), **files.read_json(kept)}
        destruction = _together(parts, draws, seed)
        _write(out, destruction)  # after each run, so that what is done is there if the next one fails
        if after_run is not None:
            after_run(run.label, measured_before)
    return destruction


def check_numbers(draws: int, images: int | None) -> None:
    """Check how much is asked for.

    Raises:
        UsageError: If it is less than one.
    """
    for name, number in (("draws", draws), ("test images", images)):
        if number is not None and number < 1:
            raise UsageError(f"the number of {name} is 1 or more, got {number}")


def draw_images(loader: Loader, images: int, seed: int) -> list[Batch]:
    """Batches of so many different images of a loader; the same ones for every loader over the same images.

    Drawn, since the first images of a split that is sorted by class are of a few classes only.

    Args:
        loader: Where to draw from; all of it where it has no more.
        images: How many.
        seed: The seed of the draw.
    """
    chosen = torch.zeros(loader.images, dtype=torch.bool)
    chosen[torch.randperm(loader.images, generator=generator_for(seed, "test images"))[:images]] = True
    found, start, size = [], 0, 0
    for batch in loader:
        here = chosen[start : start + len(batch[1])].to(batch[1].device)
        found.append(pytree.tree_map_only(torch.Tensor, lambda part, here=here: part[here], batch))
        start, size = start + len(here), max(size, len(here))
    whole = pytree.tree_map(lambda *parts: torch.cat(parts), *found)
    return [
        pytree.tree_map(lambda part, first=first: part[first : first + size], whole)
        for first in range(0, len(whole[1]), size)
    ]


def _fingerprint(run: FinishedRun, draws: int, seed: int, images: int | None) -> str:
    weights = sha256(run.directory / MODEL)
    everything = (_FORMAT, draws, seed, images, weights, run.recipe.to_yaml())
    return hashlib.sha256(repr(everything).encode()).hexdigest()[:12]


def _measured(
    run: FinishedRun,
    draws: int,
    seed: int,
    images: int | None,
    device: torch.device | str | None,
    progress: Callable[[str, int, int], Any] | None,
) -> dict[str, Any]:
    """What is kept of a run: what was measured on, and a list of rows for each table."""
    opened = open_run(run.directory, device=device)
    network, test = opened.network, opened.data.test
    todo = damage(network.stages, draws, seed)
    batches = test if images is None else draw_images(test, images, seed)
    report = None if progress is None else lambda done, total: progress(run.label, done, total)
    temperature = run.summary["main"].get("temperature")
    scores, calibration_images = _scores(opened, todo.subnets, batches, report, temperature)
    return {
        **{key: run.summary[key] for key in ("model", "data", "method")},
        "main": scores[False][todo.main].top1,
        **_perplexity([scores[False][todo.main]], "main_perplexity"),
        "images": min(images or test.images, test.images),
        "test_images": test.images,
        "calibration_images": calibration_images,
        "notes": _notes(network, todo, scores),
        **_tables(network, todo, scores),
    }


def _scores(
    opened: Prepared,
    subnets: Sequence[Subnet],
    batches: Loader | list[Batch],
    progress: Callable[[int, int], Any] | None,
    temperature: float | None,
) -> tuple[Scores, int]:
    """The scores of subnets, and the number of images that they were recalibrated on.

    Where the main net's logits were brought to the scale of probabilities by a temperature, so are all: what is
    destroyed is the net as it is deployed.
    """
    network, calibration = opened.network, opened.data.calibration
    images = opened.recipe.evaluation.calibration_images
    groups = _groups(network, subnets)
    to_calibrate = min(len(calibration), math.ceil(images * len(calibration) / calibration.images))
    total = len(batches) + len(groups) * (len(batches) + to_calibrate)
    steps = Steps(progress, total)
    temperatures = None if temperature is None else [temperature] * len(subnets)
    whole = measure(network, batches, subnets, temperatures=temperatures, after_batch=steps.step)
    scores = {False: dict(zip(subnets, whole, strict=True))}
    used = 0
    for group in groups:
        found = network.recalibrate(_counted(in_precision_of(network, calibration), steps.step), group, images=images)
        measured = measure(
            network,
            batches,
            group,
            statistics=found,
            temperatures=None if temperatures is None else temperatures[: len(group)],
            after_batch=steps.step,
        )
        scores.setdefault(True, {}).update(zip(group, measured, strict=True))
        used = found.images
    return scores, used


def _groups(network: ResidualNetwork, subnets: Sequence[Subnet]) -> list[Sequence[Subnet]]:
    """Subnets to recalibrate at once: so many that their statistics fit into memory; none without any statistics."""
    numbers = sum(layer.running_mean.numel() for layer in layers_with_statistics(network.model).values())
    if not numbers:
        return []
    each = 2 * numbers * (8 + 4)  # mean and variance, summed in double precision and kept in single
    size = max(1, _STATISTICS_BYTES // each)
    return [subnets[start : start + size] for start in range(0, len(subnets), size)]


def _counted(batches: Iterable[Batch], step: Callable[[], Any]) -> Iterator[Batch]:
    for batch in batches:
        step()
        yield batch


def _notes(network: ResidualNetwork, todo: Damage, scores: Scores) -> list[str]:
    notes = []
    if True not in scores:
        notes.append("no layer keeps running statistics: there is nothing to recalibrate, each net is measured once")
    if any(stage.in_own_order for stage in network.stages):
        notes.append("blocks whose outputs are concatenated, or wider than their inputs, cannot be swapped")
    if not todo.swaps:
        notes.append("nothing swapped: no stage has two blocks that can take each other's place")
    return notes


def _tables(network: ResidualNetwork, todo: Damage, scores: Scores) -> dict[str, list[dict[str, Any]]]:
    single, deleted, swapped, delete_rows, swap_rows = [], [], [], [], []
    taus = {
        subnet: tau(network.stages, subnet)
        for subnet in (todo.main, *(subnet for draws in todo.swaps for subnet in draws.subnets))
        if todo.swaps
    }
    main = Draws(0, [todo.main], True)
    for recalibrated, of in scores.items():
        for (stage, block), subnet in todo.singles.items():
            name = network.stages[stage].block_names[block]
            place = {"recalibrated": recalibrated, "stage": stage, "block": block, "name": name}
            single.append({**place, **_scored(subnet, of)})
        for draws in todo.deletions:
            for number, subnet in enumerate(draws.subnets):
                draw = {"recalibrated": recalibrated, "k": draws.k, "draw": number}
                deleted.append({**draw, **_scored(subnet, of)})
        for draws in todo.swaps:
            for number, subnet in enumerate(draws.subnets):
                draw = {"recalibrated": recalibrated, "k": draws.k, "draw": number}
                swapped.append({**draw, **_scored(subnet, of, tau=taus[subnet])})
        delete_rows += [_row(draws, recalibrated, of) for draws in (main, *todo.deletions)]
        for draws in (main, *todo.swaps) if todo.swaps else ():
            mean_tau = statistics.fmean(taus[subnet] for subnet in draws.subnets)
            swap_rows.append({**_row(draws, recalibrated, of), "tau": mean_tau})
    return dict(zip(_TABLES, (single, deleted, swapped, delete_rows, swap_rows), strict=True))


def _scored(subnet: Subnet, scores: Mapping[Subnet, Score], **more: float) -> dict[str, Any]:
    return {"subnet": str(subnet), **more, **scores[subnet].to_mapping()}


def _perplexity(scores: Iterable[Score], key: str = "perplexity") -> dict[str, float]:
    """The mean perplexity of some nets, of text; nothing for images."""
    known = [score.perplexity for score in scores if score.perplexity is not None]
    return {key: statistics.fmean(known)} if known else {}


def _row(draws: Draws, recalibrated: bool, scores: Mapping[Subnet, Score]) -> dict[str, Any]:
    top1 = [scores[subnet].top1 for subnet in draws.subnets]
    return {
        "recalibrated": recalibrated,
        "k": draws.k,
        "draws": len(top1),
        "exhaustive": draws.exhaustive,
        "mean": statistics.fmean(top1),
        "std": statistics.pstdev(top1),
        "min": min(top1),
        "max": max(top1),
        **_perplexity(scores[subnet] for subnet in draws.subnets),
    }


def _together(parts: Mapping[str, dict[str, Any]], draws: int, seed: int) -> dict[str, Any]:
    """The parts of several runs as one; what they were measured on is said of each, and of all together if it is one.

    A number of 0 is that of runs without statistics, null stands for several numbers.
    """

    def common(key: str) -> Any:
        values = {part[key] for part in parts.values() if part[key]}
        return values.pop() if len(values) == 1 else (None if values else 0)

    return {
        "images": common("images"),
        "test_images": common("test_images"),
        "calibration_images": common("calibration_images"),
        "draws": draws,
        "seed": seed,
        "runs": [
            {"run": label, **{key: value for key, value in part.items() if key not in _TABLES}}
            for label, part in parts.items()
        ],
        **{table: [{"run": label, **row} for label, part in parts.items() for row in part[table]] for table in _TABLES},
    }


def _write(out: Path, destruction: dict[str, Any]) -> None:
    for table, columns in COLUMNS.items():
        text = io.StringIO()
        told = [*columns, *(["perplexity"] if any("perplexity" in row for row in destruction[table]) else [])]
        writer = csv.DictWriter(text, told, lineterminator="\n")
        writer.writeheader()
        for row in destruction[table]:
            rounded = {key: round(value, 6) if isinstance(value, float) else value for key, value in row.items()}
            writer.writerow({**rounded, "recalibrated": str(row["recalibrated"]).lower()})
        files.write_text(out / f"{table}.csv", text.getvalue())
    files.write_json(out / DESTRUCTION, destruction)
