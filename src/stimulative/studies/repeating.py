"""A run made again from its record, and compared with the first."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch

from stimulative import files
from stimulative.analysis import evaluate, trained_on, verify
from stimulative.claiming import is_first_process
from stimulative.config import Overrides, Recipe
from stimulative.data import changes_of_data
from stimulative.data import load as load_data
from stimulative.errors import UsageError
from stimulative.records import Record
from stimulative.runs import BEST, ENVIRONMENT, LAST, PREVIOUS, Epoch, RunDirectory
from stimulative.tasks import MEASURES
from stimulative.training import train
from stimulative.weights import WeightsPlace, read_weights, sha256

_OF_THE_CLOCK = "images_per_second", "train_seconds"


@dataclass(frozen=True)
class Compared(Record):
    """One thing that two runs have both.

    Args:
        what: What it is.
        equal: Whether it is the same in both, to the last bit of what the files hold.
        details: How much they differ, or what both have.
    """

    what: str
    equal: bool
    details: str


@dataclass(frozen=True)
class Repetition(Record):
    """A run, and the same run made again.

    Args:
        run: The directory of the first.
        again: The directory of the second.
        trained: Whether the second was trained now; else it was there already.
        equal: Whether all that was compared is equal.
        compared: What was compared; nothing in other processes than the first of several.
        surroundings: In what the second run's surroundings differ, which may be why; a phrase each.
    """

    run: str
    again: str
    trained: bool
    equal: bool
    compared: tuple[Compared, ...]
    surroundings: tuple[str, ...]


def rerun(
    run: str | Path,
    out: str | Path | None = None,
    *,
    settings: Overrides | None = None,
    progress: bool = True,
) -> Repetition:
    """Train a finished run again by its recipe, measure the subnets that were measured, and compare.

    On the same kind of processor with the same versions and as many threads, results are equal to the last bit. Where
    something of that differs they may not be; what differs is told.

    Args:
        run: The run directory.
        out: The directory of the second run; by default that of the first with ``-rerun`` behind. One that was stopped
            there goes on.
        settings: Where the data are here, if elsewhere: settings of the section ``data``, as in ``load_recipe``.
        progress: Whether to show progress.

    Returns:
        What was compared.

    Raises:
        UsageError: If the directory is not that of a finished run, its weights were trained elsewhere, its files are
            damaged, its data or the weights that it started from have changed, or ``out`` holds something else.
    """
    first = RunDirectory.open(run)
    place = first.path.resolve()
    again = RunDirectory(place.parent / f"{place.name}-rerun" if out is None else Path(out))
    recipe, before = first.recipe.override(settings or {}), first.summary
    if before.method is None:
        raise UsageError(f"the weights in {first.path} were trained elsewhere: there is nothing to train again")
    _check_record(first, recipe)
    _check_place(first, again)
    trained, said = not again.finished, files.metadata_of(first.weights)
    with _threads(first.environment.threads if recipe.training.threads is None else None):
        view: Any = said.get("stimulative.calibration", before.calibration and before.calibration.view)
        train(recipe, again.path, resume=True, progress=progress, calibration=view)
        if not is_first_process():
            return Repetition(str(first.path), str(again.path), trained, True, (), ())
        if first.family and _not_measured(first, again):
            subnets, view = [member.subnet for member in first.family], before.calibration and before.calibration.view
            evaluate(again.path, subnets=subnets, calibration=view, latency=False)
    compared = [_weights(first, again), *_log(first, again), _main(first, again)]
    if first.family:
        compared.append(_subnets(first, again))
    equal = all(one.equal for one in compared)
    return Repetition(str(first.path), str(again.path), trained, equal, tuple(compared), _changes(first, again))


def _check_record(run: RunDirectory, recipe: Recipe) -> None:
    """Make sure that the record is whole, and of the data and the weights that are there."""
    needless = ENVIRONMENT, LAST, PREVIOUS, BEST
    found = verify(run.path, data=False)
    problems = [f"{one.what}: {one.details or one.state}" for one in found if not (one.fine or one.what in needless)]
    problems += changes_of_data(trained_on(run), load_data(recipe.data, seed=recipe.seed).fingerprint)
    start = run.summary.weights
    if start is not None and start.sha256 is not None:
        file = WeightsPlace.of(start.file).path
        now = sha256(start.file) if file.is_file() else None
        if now != start.sha256:
            problems.append(f"{file}, from which it started, is {'another file by now' if now else 'not there'}")
    if problems:
        raise UsageError(f"the run in {run.path} cannot be made again: {'; '.join(problems)}")


def _check_place(first: RunDirectory, again: RunDirectory) -> None:
    """Make sure that the second run has a place of its own."""
    if again.path.resolve() == first.path.resolve():
        raise UsageError(f"{again.path} is the run itself; choose another directory with out=")
    if again.started and again.finished and again.environment.started == first.environment.started is not None:
        raise UsageError(f"{again.path} is a copy of {first.path}, and was not made again; choose another with out=")
    if not again.started and again.path.exists() and not (again.path.is_dir() and not any(again.path.iterdir())):
        raise UsageError(f"{again.path} holds something else than a run; choose another directory with out=")


def _not_measured(first: RunDirectory, again: RunDirectory) -> bool:
    """Whether the subnets of the second run were not measured as those of the first were."""
    views = [None if run.summary.calibration is None else run.summary.calibration.view for run in (first, again)]
    return again.family.by_subnet.keys() != first.family.by_subnet.keys() or views[0] != views[1]


@contextmanager
def _threads(count: int | None) -> Iterator[None]:
    """Compute with so many threads, by which sums are rounded."""
    before = torch.get_num_threads()
    try:
        if count is not None:
            torch.set_num_threads(count)
        yield
    finally:
        torch.set_num_threads(before)


def _changes(first: RunDirectory, again: RunDirectory) -> tuple[str, ...]:
    """In what the surroundings of the second run differ from those of the first."""
    one, two = first.environment, again.environment
    pairs = [(name, one.versions[name], two.versions.get(name, "none")) for name in sorted(one.versions)]
    pairs += [("device", one.device, two.device), ("platform", one.platform, two.platform)]
    return tuple(f"{name}: {old} then, {new} now" for name, old, new in pairs if old is not None and old != new)


def _weights(first: RunDirectory, again: RunDirectory) -> Compared:
    one, two = read_weights(first.weights), read_weights(again.weights)
    if one.keys() != two.keys() or any(value.shape != two[name].shape for name, value in one.items()):
        return Compared("weights", False, "other tensors")
    other = [name for name, value in one.items() if not torch.equal(value, two[name])]
    if not other:
        return Compared("weights", True, f"{len(one)} tensors, equal to the last bit")
    most = max((one[name].double() - two[name].double()).abs().max().item() for name in other)
    return Compared("weights", False, f"{len(other)} of {len(one)} tensors differ, by {most:.1e} at most")


def _log(first: RunDirectory, again: RunDirectory) -> list[Compared]:
    if not first.metrics:
        return []
    names = [field.name for field in fields(Epoch) if field.name not in _OF_THE_CLOCK]
    one, two = ([[getattr(epoch, name) for name in names] for epoch in run.metrics] for run in (first, again))
    if one == two:
        return [Compared("log", True, f"{len(one)} epochs")]
    from_epoch = next(
        (at + 1 for at, (a, b) in enumerate(zip(one, two, strict=False)) if a != b), min(len(one), len(two))
    )
    return [Compared("log", False, f"differs from epoch {from_epoch} on")]


def _main(first: RunDirectory, again: RunDirectory) -> Compared:
    one, two, measure = first.summary.main, again.summary.main, MEASURES[first.summary.task]
    numbers = f"{one.quality:.4f} then, {two.quality:.4f} now ({measure.short}; loss {one.loss:.6f} and {two.loss:.6f})"
    return Compared("main net", one == two, numbers)


def _subnets(first: RunDirectory, again: RunDirectory) -> Compared:
    one, two = first.family.by_subnet, again.family.by_subnet
    differences = [abs(one[subnet].score.quality - two[subnet].score.quality) for subnet in one]
    equal = all(one[subnet].score == two[subnet].score for subnet in one)
    means = [sum(member.score.quality for member in family.values()) / len(family) for family in (one, two)]
    details = f"{len(one):,} of them, mean {means[0]:.4f} then, {means[1]:.4f} now"
    return Compared("subnets", equal, details if equal else f"{details}; they differ by {max(differences):.4f} at most")
