"""How what a report shows was made."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from stimulative.report.contents import Source
from stimulative.report.kinds import ReportedStudy
from stimulative.report.reported_run import ReportedRun
from stimulative.report.run_groups import Group
from stimulative.runs import Calibration, Conditions, FamilySummary, Origin
from stimulative.studies import Failed

_OF_THE_FILE = "format", "task"


@dataclass(frozen=True)
class Provenance:
    """How some runs were made.

    Args:
        title: What they are.
        facts: Terms and what is to say about them.
        recipe: The recipe of the first of them; empty where there is none.
    """

    title: str
    facts: list[tuple[str, str]]
    recipe: str


def provenance(groups: Sequence[Group], sources: Sequence[Source]) -> list[Provenance]:
    """One entry for each series of runs, and one for each study that its runs do not tell all about."""
    entries = [_of_runs(f"{group.title}: {name}", runs) for group in groups for name, runs in group.series.items()]
    shown = {run.directory for group in groups for run in group.runs}
    for source in sources:
        rest = [run for run in source.runs if run.directory not in shown]
        entries += [_of_study(one, rest) for one in source.studies if not one.kind.told_by_runs]
    return entries


def _of_study(reported: ReportedStudy[Any], runs: Sequence[ReportedRun]) -> Provenance:
    """What the file of a study says in numbers and words, and the recipe of the first of its runs."""
    study = reported.study
    values = {field.name: getattr(study, field.name) for field in fields(study) if field.name not in _OF_THE_FILE}
    facts = [(name.replace("_", " "), _shown(value)) for name, value in values.items() if _plain(value)]
    failures: tuple[Failed, ...] = values.get("failed", ())
    failed = [(failure.run, f"failed: {failure.error}") for failure in failures]
    first = [("recipe of", str(run.directory)) for run in runs[:1]]
    title = f"{study.NAME.capitalize()} in {reported.directory}"
    return Provenance(title, [*facts, *failed, *first], runs[0].recipe if runs else "")


def _plain(value: object) -> bool:
    return isinstance(value, str | int | float) or (
        isinstance(value, tuple) and value != () and all(map(_plain, value))
    )


def _shown(value: object) -> str:
    return "; ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _of_runs(title: str, runs: Sequence[ReportedRun]) -> Provenance:
    environments = [run.environment for run in runs]
    summaries = [run.summary for run in runs]
    facts = {
        "runs": _different(run.directory for run in runs),
        "seeds": _different(summary.seed for summary in summaries),
        "epochs": _different(summary.epochs for summary in summaries),
        "weights": _different(_weights(summary.weights) for summary in summaries if summary.weights),
        "started": _different(environment.started for environment in environments),
        "device": _different(summary.device for summary in summaries),
        "subnets": _different(_evaluated(summary.subnets) for summary in summaries if summary.subnets.evaluated),
        "statistics": _different(_statistics(summary.calibration) for summary in summaries if summary.calibration),
        "latency": _different(_latency(summary.latency) for summary in summaries if summary.latency),
        "versions": _different(_versions(summary.versions) for summary in summaries),
        "revision": _different(environment.git for environment in environments),
        "command": _different(shlex.join(environment.command) for environment in environments),
    }
    return Provenance(title, [(term, text) for term, text in facts.items() if text], runs[0].recipe)


def _different(values: Iterable[object]) -> str:
    """The values that differ, in their order."""
    return "; ".join(dict.fromkeys(str(value) for value in values if value not in (None, "")))


def _evaluated(part: FamilySummary) -> str:
    drawn = "" if part.seed is None else f" drawn with seed {part.seed}"
    return f"{part.evaluated} of {part.count}{drawn}, {part.calibration_images} calibration images"


def _statistics(calibration: Calibration) -> str:
    known = {
        "by its own": calibration.own,
        "recalibrated as for training": calibration.training,
        "recalibrated as for evaluation": calibration.evaluation,
    }
    said = ", ".join(f"{value:.2f} {how}" for how, value in known.items() if value is not None)
    return (
        f"from {calibration.images:,} training images prepared as for {calibration.view} "
        f"(calibration: {calibration.setting}; the main net on the validation part has {said})"
    )


def _latency(way: Conditions) -> str:
    return f"batch {way.batch}, threads {way.threads}, rounds {way.rounds}, {way.device}"


def _weights(origin: Origin) -> str:
    return f"{origin.file} (SHA-256 {origin.sha256})"


def _versions(versions: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in versions.items())
