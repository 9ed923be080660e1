"""Methods side by side: each trained with several seeds on the same recipe, as in Table 1 of the paper."""

from __future__ import annotations

import multiprocessing
import statistics
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

from stimulative.analysis.family import evaluate
from stimulative.errors import UsageError
from stimulative.methods import METHODS
from stimulative.training import Recipe, files, load_recipe, train

COMPARISON = "comparison.json"
_REFERENCE = "common"


def compare(
    recipe: Recipe | str | Path,
    out: str | Path,
    *,
    methods: Sequence[str] = ("common", "stimulative"),
    seeds: int = 3,
    after_run: Callable[[Path, dict[str, Any]], Any] | None = None,
) -> dict[str, Any]:
    """Train and evaluate each method with each seed, and put them side by side in ``comparison.json``.

    Each run has a fresh process, so that its time and memory are its own; the methods take turns, so that a machine
    that slows down slows all of them. Runs in ``out`` that have finished are not repeated, interrupted ones go on.

    Args:
        recipe: The recipe; its method's settings hold for that method, the others have their defaults.
        out: The directory of the comparison; each run has a directory inside.
        methods: The methods, by name.
        seeds: The number of seeds, counted from the recipe's.
        after_run: Called with the directory and the summary of each run when it is done.

    Returns:
        ``{"rows": [...], "runs": [...]}``, a row a method.

    Raises:
        UsageError: If a method is unknown or twice, or the number of seeds is below 1.
    """
    if not isinstance(recipe, Recipe):
        recipe = load_recipe(recipe)
    out = Path(out)
    plan = plan_runs(recipe, out, methods, seeds)
    files.make_directory(out)
    summaries = {}
    for (method, seed), one in plan.items():
        directory = out / f"{method}-seed{seed}"
        summary = _finished(directory)
        if summary is None:
            summary = _in_fresh_process(one.to_yaml(), directory)
        summaries[method, seed] = summary
        if after_run is not None:
            after_run(directory, summary)
    comparison = {"rows": table(summaries), "runs": list(summaries.values())}
    files.write_json(out / COMPARISON, comparison)
    return comparison


def plan_runs(recipe: Recipe, out: Path, methods: Sequence[str], seeds: int) -> dict[tuple[str, int], Recipe]:
    """The recipe of each run, by method and seed, in the order in which they run."""
    unknown = [method for method in methods if method not in METHODS]
    if unknown or not methods:
        raise UsageError(
            f"unknown method {unknown[0]!r}, known: {', '.join(METHODS)}" if unknown else "no method given"
        )
    if len(set(methods)) < len(methods):
        raise UsageError(f"each method may be named once, got {', '.join(methods)}")
    if seeds < 1:
        raise UsageError(f"the number of seeds is 1 or more, got {seeds}")
    plan = {
        (method, seed): recipe.override({"method.name": method, "seed": seed})
        for seed in range(recipe.seed, recipe.seed + seeds)
        for method in methods
    }
    for (method, seed), one in plan.items():
        stored = out / f"{method}-seed{seed}" / files.RECIPE
        if stored.exists() and load_recipe(stored) != one:
            raise UsageError(
                f"{stored.parent} holds a run of another recipe; choose another directory with --out, or remove it"
            )
    return plan


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

    rows = []
    for method, of_method in by_method.items():
        main = [summary["main"]["top1"] for summary in of_method]
        family = [summary["subnets"] for summary in of_method]
        rows.append(
            {
                "method": method,
                "seeds": len(of_method),
                "main_mean": statistics.fmean(main),
                "main_std": _spread(main),
                "all_mean": statistics.fmean(part["mean"] for part in family),
                "all_std": statistics.fmean(part["std"] for part in family),
                "all_mean_spread": _spread([part["mean"] for part in family]),
                "all_min": statistics.fmean(part["min"] for part in family),
                "train_seconds": mean(method, "train_seconds"),
                "peak_memory_mib": mean(method, "peak_memory_mib"),
                "time_ratio": ratio(method, "train_seconds"),
                "memory_ratio": ratio(method, "peak_memory_mib"),
            }
        )
    return rows


def _spread(values: Sequence[float]) -> float:
    """The sample standard deviation over seeds; 0 for one seed."""
    return statistics.stdev(values) if len(values) > 1 else 0.0


def _finished(directory: Path) -> dict[str, Any] | None:
    if not (directory / files.SUMMARY).exists() or not (directory / files.SUBNETS).exists():
        return None
    summary = files.read_json(directory / files.SUMMARY)
    return summary if summary["subnets"]["evaluated"] else None


def _train_and_evaluate(recipe: str, directory: str) -> dict[str, Any]:
    import yaml

    train(load_recipe(yaml.safe_load(recipe)), directory, resume=True)
    return evaluate(directory)


def _in_fresh_process(recipe: str, directory: Path) -> dict[str, Any]:
    # a fork server imports the libraries once, and each run starts from there in a few milliseconds
    context: Any = multiprocessing.get_context("spawn" if sys.platform == "win32" else "forkserver")
    if sys.platform != "win32":
        context.set_forkserver_preload(["stimulative.analysis.comparison", "lightning.fabric", "timm"])
    try:
        with ProcessPoolExecutor(1, mp_context=context) as pool:
            return pool.submit(_train_and_evaluate, recipe, str(directory)).result()
    except BrokenProcessPool as error:
        raise RuntimeError(
            f"the process of {directory} was killed, perhaps for want of memory; run the same command again to go on "
            "from its last checkpoint"
        ) from error
