"""How what a report shows was made."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from stimulative.report.contents import Run, Source
from stimulative.report.series import Study


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


def provenance(studies: Sequence[Study], sources: Sequence[Source]) -> list[Provenance]:
    """One entry for each series of runs, and one for each study."""
    entries = [_of_runs(f"{study.title}: {name}", runs) for study in studies for name, runs in study.series.items()]
    shown = {run.directory for study in studies for run in study.runs}
    for source in sources:
        rest = [run for run in source.runs if run.directory not in shown]
        entries += [
            _of_study(f"{kind.capitalize()} in {source.directory}", content, rest)
            for kind, content in source.studies.items()
            if kind != "comparison"
        ]
    return entries


def _of_study(title: str, content: dict[str, Any], runs: Sequence[Run]) -> Provenance:
    """What the file of a study says in numbers and words, and the recipe of the first of its runs."""
    facts = [
        (key.replace("_", " "), _shown(value)) for key, value in content.items() if key != "failed" and _plain(value)
    ]
    failed = [(part["run"], f"failed: {part['error']}") for part in content.get("failed") or []]
    first = [("recipe of", str(run.directory)) for run in runs[:1]]
    return Provenance(title, [*facts, *failed, *first], runs[0].recipe if runs else "")


def _plain(value: Any) -> bool:
    return isinstance(value, str | int | float) or (isinstance(value, list) and value != [] and all(map(_plain, value)))


def _shown(value: Any) -> str:
    return "; ".join(map(str, value)) if isinstance(value, list) else str(value)


def _of_runs(title: str, runs: Sequence[Run]) -> Provenance:
    environments = [run.environment for run in runs]
    subnets = [run.summary.get("subnets") or {} for run in runs]
    weights = [run.summary.get("weights") or {} for run in runs]
    facts = {
        "runs": _different(str(run.directory) for run in runs),
        "seeds": _different(run.summary["seed"] for run in runs),
        "epochs": _different(run.summary.get("epochs") for run in runs),
        "weights": _different(_weights(part) for part in weights if part),
        "started": _different(environment.get("started") for environment in environments),
        "device": _different(run.summary.get("device") for run in runs),
        "subnets": _different(_evaluated(part) for part in subnets if part.get("evaluated")),
        "latency": _different(_latency(run.summary["latency"]) for run in runs if run.summary.get("latency")),
        "versions": _different(_versions(run.summary.get("versions") or {}) for run in runs),
        "revision": _different(environment.get("git") for environment in environments),
        "command": _different(shlex.join(map(str, environment.get("command") or ())) for environment in environments),
    }
    return Provenance(title, [(term, text) for term, text in facts.items() if text], runs[0].recipe)


def _different(values: Iterable[Any]) -> str:
    """The values that differ, in their order."""
    return "; ".join(dict.fromkeys(str(value) for value in values if value not in (None, "")))


def _evaluated(part: dict[str, Any]) -> str:
    drawn = "" if part.get("seed") is None else f" drawn with seed {part['seed']}"
    return f"{part['evaluated']} of {part.get('count')}{drawn}, {part.get('calibration_images')} calibration images"


def _latency(way: dict[str, Any]) -> str:
    return f"batch {way['batch']}, threads {way['threads']}, rounds {way['rounds']}, {way['device']}"


def _weights(part: dict[str, Any]) -> str:
    return f"{part.get('file')} (SHA-256 {part.get('sha256')})"


def _versions(versions: dict[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in versions.items())
