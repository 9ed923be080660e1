"""A run made again from its record, and compared with the first."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path

import torch

from stimulative.analysis import evaluate, verify
from stimulative.errors import UsageError
from stimulative.records import Record
from stimulative.runs import Environment, Epoch, RunDirectory, device_name, versions
from stimulative.tasks import MEASURES
from stimulative.training import train
from stimulative.weights import read_weights, sha256

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
        equal: Whether all that was compared is equal.
        compared: What was compared.
        surroundings: In what the second run's surroundings differ, which may be why; a phrase each.
    """

    run: str
    again: str
    equal: bool
    compared: tuple[Compared, ...]
    surroundings: tuple[str, ...]


def rerun(run: str | Path, out: str | Path | None = None, *, progress: bool = True) -> Repetition:
    """Train a finished run again by its recipe, measure the subnets that were measured, and compare.

    On the same kind of processor with the same versions and as many threads, results are equal to the last bit. Where
    something of that differs they may not be; what differs is told.

    Args:
        run: The run directory.
        out: The directory of the second run; by default that of the first with ``-rerun`` behind. One that was stopped
            there goes on.
        progress: Whether to show progress.

    Returns:
        What was compared.

    Raises:
        UsageError: If the directory is not that of a finished run, its weights were trained elsewhere, its files are
            damaged, its data or the weights that it started from have changed, or ``out`` holds something else.
    """
    first = RunDirectory.open(run)
    out = first.path.with_name(f"{first.path.resolve().name}-rerun") if out is None else Path(out)
    recipe, before = first.recipe, first.summary
    if before.method is None:
        raise UsageError(f"the weights in {first.path} were trained elsewhere: there is nothing to train again")
    _check_record(first)
    family, surroundings = first.family, first.environment
    with _threads(surroundings.threads if recipe.training.threads is None else None):
        changed = _changes(surroundings, recipe.training.threads)
        view = None if before.calibration is None else before.calibration.view
        train(recipe, out, resume=True, progress=progress, calibration=view)
        again = RunDirectory(out)
        if family and again.family.by_subnet.keys() != family.by_subnet.keys():
            subnets = [member.subnet for member in family]
            evaluate(out, subnets=subnets, latency=False)
    compared = [_weights(first, again), _log(first, again), _main(first, again)]
    if family:
        compared.append(_subnets(first, again))
    return Repetition(str(first.path), str(out), all(one.equal for one in compared), tuple(compared), tuple(changed))


def _check_record(run: RunDirectory) -> None:
    """Make sure that the record is whole, and of what is there."""
    problems = [f"{found.what}: {found.details or found.state}" for found in verify(run.path) if not found.fine]
    start = run.summary.weights
    if start is not None and start.sha256 is not None:
        found = sha256(start.file) if Path(start.file).is_file() else None
        if found != start.sha256:
            problems.append(
                f"{start.file}, from which it started, is {'another file by now' if found else 'not there'}"
            )
    if problems:
        raise UsageError(f"the run in {run.path} cannot be made again: {'; '.join(problems)}")


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


def _changes(before: Environment, threads: int | None) -> list[str]:
    """In what the surroundings differ from those of the first run."""
    now = versions()
    pairs = [(name, before.versions.get(name), now.get(name)) for name in sorted({*before.versions, *now})]
    device = device_name(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    pairs.append(("device", before.device, device))
    if threads is not None:
        pairs.append(("threads", str(before.threads), str(threads)))
    return [f"{name}: {old} then, {new} now" for name, old, new in pairs if old is not None and old != new]


def _weights(first: RunDirectory, again: RunDirectory) -> Compared:
    one, two = read_weights(first.weights), read_weights(again.weights)
    if one.keys() != two.keys() or any(value.shape != two[name].shape for name, value in one.items()):
        return Compared("weights", False, "other tensors")
    other = [name for name, value in one.items() if not torch.equal(value, two[name])]
    if not other:
        return Compared("weights", True, f"{len(one)} tensors, equal to the last bit")
    most = max((one[name].double() - two[name].double()).abs().max().item() for name in other)
    return Compared("weights", False, f"{len(other)} of {len(one)} tensors differ, by {most:.1e} at most")


def _log(first: RunDirectory, again: RunDirectory) -> Compared:
    names = [field.name for field in fields(Epoch) if field.name not in _OF_THE_CLOCK]
    one, two = ([[getattr(epoch, name) for name in names] for epoch in run.metrics] for run in (first, again))
    if one == two:
        return Compared("log", True, f"{len(one)} epochs")
    from_epoch = next(
        (at + 1 for at, (a, b) in enumerate(zip(one, two, strict=False)) if a != b), min(len(one), len(two))
    )
    return Compared("log", False, f"differs from epoch {from_epoch} on")


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
