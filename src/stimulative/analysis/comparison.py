"""Methods side by side: each trained with several seeds on the same recipe, as in Table 1 of the paper."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from stimulative.analysis.runs import Job, check_methods, over_seeds, run_all, seeds_from
from stimulative.training import Recipe, files, load_recipe

COMPARISON = "comparison.json"
_REFERENCE = "common"


def compare(
    recipe: Recipe | str | Path,
    out: str | Path,
    *,
    methods: Sequence[str] = ("common", "stimulative"),
    seeds: int = 3,
    after_run: Callable[[str, dict[str, Any]], Any] | None = None,
) -> dict[str, Any]:
    """Train and evaluate each method with each seed, and put them side by side in ``comparison.json``.

    Each run has a fresh process, so that its time and memory are its own; the methods take turns, so that a machine
    that slows down slows all of them. Runs in ``out`` that have finished are not repeated, interrupted ones go on,
    failed ones are tried again.

    Args:
        recipe: The recipe; its method's settings hold for that method, the others have their defaults.
        out: The directory of the comparison; each run has a directory inside.
        methods: The methods, by name.
        seeds: The number of seeds, counted from the recipe's.
        after_run: Called with the name and the summary of each run when it is done.

    Returns:
        ``{"rows": [...], "runs": [...], "failed": [...]}``, a row a method.

    Raises:
        UsageError: If a method is unknown or twice, or the number of seeds is below 1.
    """
    if not isinstance(recipe, Recipe):
        recipe = load_recipe(recipe)
    out = Path(out)
    plan = plan_runs(recipe, methods, seeds)
    jobs = {f"{method}-seed{seed}": Job(one) for (method, seed), one in plan.items()}
    outcome = run_all(jobs, out, after_run=after_run)
    summaries = {
        key: outcome.summaries[name] for key, name in zip(plan, jobs, strict=True) if name in outcome.summaries
    }
    comparison = {"rows": table(summaries), "runs": list(summaries.values()), "failed": outcome.failures}
    files.write_json(out / COMPARISON, comparison)
    return comparison


def plan_runs(recipe: Recipe, methods: Sequence[str], seeds: int) -> dict[tuple[str, int], Recipe]:
    """The recipe of each run, by method and seed, in the order in which they run."""
    check_methods(methods)
    return {
        (method, seed): recipe.override({"method.name": method, "seed": seed})
        for seed in seeds_from(recipe, seeds)
        for method in methods
    }


def table(summaries: dict[tuple[str, int], dict[str, Any]]) -> list[dict[str, Any]]:
    """One row a method: means over seeds, and time and memory as ratios to common training."""
    by_method: dict[str, list[dict[str, Any]]] = {}
    for (method, _), summary in summaries.items():
        by_method.setdefault(method, []).append(summary)

    def mean(method: str, key: str) -> float:
        return statistics.fmean(summary[key] for summary in by_method[method])

    def ratio(method: str, key: str) -> float | None:
        if _REFERENCE not in by_method or not mean(_REFERENCE, key):
            return None
        return mean(method, key) / mean(_REFERENCE, key)

    return [
        {
            "method": method,
            **over_seeds(of_method),
            "train_seconds": mean(method, "train_seconds"),
            "peak_memory_mib": mean(method, "peak_memory_mib"),
            "time_ratio": ratio(method, "train_seconds"),
            "memory_ratio": ratio(method, "peak_memory_mib"),
        }
        for method, of_method in by_method.items()
    ]
