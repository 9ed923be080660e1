"""Methods side by side: each trained with several seeds on the same recipe, as in Table 1 of the paper."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any, Self

from stimulative import files
from stimulative.config import Recipe, load_recipe
from stimulative.records import Record, absent
from stimulative.runs import SUMMARY, Summary
from stimulative.studies import comparison_table
from stimulative.studies.jobs import AfterRun, Job, Outcome, Workers
from stimulative.studies.planning import carry_out, seeds_from, task_of
from stimulative.studies.significance import LEVEL, difference
from stimulative.studies.study import Failed, OverSeeds, StudyOfRuns, over_seeds
from stimulative.studies.variants import Variant, recipes_of, variants
from stimulative.tasks import MEASURES, TaskName

MARKDOWN, TABLE = "comparison.md", "comparison.csv"
_REFERENCE = "common"


@dataclass(frozen=True, kw_only=True)
class ComparisonRow(OverSeeds):
    """What a method has come to, over seeds.

    Args:
        method: The method, with its settings.
        n: The number of its runs that have finished.
        seeds_used: Their seeds.
        main_values: The top-1 accuracy of each main net, in percent.
        all_values: The mean over each one's subnets.
        train_seconds: Mean time of training.
        peak_memory_mib: Mean memory of training at its peak, in MiB.
        time_ratio: The time as a multiple of common training's; None without that, or where runs shared a machine.
        memory_ratio: The memory as a multiple of common training's.
        runs_at_once: How many runs shared the machine.
    """

    method: str
    n: int = 0
    seeds_used: tuple[int, ...] = ()
    main_values: tuple[float, ...] = ()
    all_values: tuple[float, ...] = ()
    train_seconds: float | None = None
    peak_memory_mib: float | None = None
    time_ratio: float | None = None
    memory_ratio: float | None = None
    runs_at_once: int = 1

    def to_mapping(self) -> dict[str, Any]:
        """The row, its method first."""
        return {"method": self.method, **super().to_mapping()}


@dataclass(frozen=True)
class ComparedRun(Record):
    """A finished run of a comparison; in the file its summary, with the two names behind it.

    Args:
        summary: The summary.
        run: The name of its directory; None in files of older versions.
        variant: Its method, with settings; None in files of older versions.
    """

    summary: Summary
    run: str | None = absent()
    variant: str | None = absent()

    def to_mapping(self) -> dict[str, Any]:
        """The summary with the two names behind it."""
        mapping = super().to_mapping()
        return {**mapping.pop("summary"), **mapping}

    @classmethod
    def from_mapping(cls, mapping: Any) -> Self:
        """Read a summary with two names behind it."""
        summary = Summary.from_mapping(mapping)
        more = dict(summary.more)
        run, variant = more.pop("run", None), more.pop("variant", None)
        return cls(replace(summary, more=more), run, variant)


@dataclass(frozen=True, kw_only=True)
class ComparedMethods(Record):
    """What one method has more than another, seed by seed; the other fields are those of ``Difference``.

    Args:
        method: The method.
        reference: The other one.
        measure: What was measured: ``main`` or ``all``.
    """

    method: str
    reference: str
    measure: str
    n: int
    seeds: tuple[int, ...] = ()
    values: tuple[float, ...] = ()
    left_out: tuple[int, ...] = ()
    mean: float | None
    std: float | None
    low: float | None
    high: float | None
    level: float | None = None
    distinguishable: bool | None = None
    sentence: str


@dataclass(frozen=True, kw_only=True)
class Comparison(StudyOfRuns):
    """Methods side by side.

    Args:
        rows: A row for each method that has a finished run.
        runs: The finished runs.
        failed: The runs that failed.
        left_out: Finished runs in the directory that were not asked for.
        model: The model.
        data: The data set.
        epochs: Epochs of each run.
        seeds: All seeds that were asked for.
        methods: All methods that were asked for.
        reference: The method that the others are compared with.
        differences: For each two methods, and for main net and all subnets, what one has more than the other.
    """

    NAME = "comparison"

    rows: tuple[ComparisonRow, ...]
    runs: tuple[ComparedRun, ...]
    failed: tuple[Failed, ...] = ()
    left_out: tuple[str, ...] = ()
    model: str | None = None
    data: str | None = None
    epochs: int | None = None
    seeds: tuple[int, ...] = ()
    methods: tuple[str, ...] = ()
    reference: str | None = None
    differences: tuple[ComparedMethods, ...] = ()

    @property
    def empty(self) -> bool:
        """Whether no run has finished."""
        return not self.rows

    def write_tables(self, directory: Path) -> None:
        """Write the table as Markdown and as CSV."""
        files.write_text(directory / MARKDOWN, comparison_table.markdown(self))
        files.write_text(directory / TABLE, comparison_table.csv_text(self))


class ComparisonPlan:
    """Which runs a comparison needs.

    Args:
        recipe: The recipe; its method's settings hold for that method and its variants, other methods have their
            defaults.
        methods: The methods, each ``NAME`` or ``NAME:key=value[:key=value]``, or ``all`` for every one there is; a
            text of several has commas between them.
        seeds: The number of seeds, counted from the recipe's.

    Raises:
        UsageError: If a method or a setting of it is unknown, two are the same, or the number of seeds is below 1.
    """

    def __init__(
        self, recipe: Recipe, methods: str | Sequence[str] = ("common", "stimulative"), *, seeds: int = 3
    ) -> None:
        self.recipe = recipe
        self.recipes = recipes_of(recipe, variants(methods))
        self.seeds = seeds_from(recipe, seeds)
        # methods take turns, so that a machine that slows down slows all of them
        turns = sorted(self.recipes, key=lambda variant: str(variant) != _REFERENCE)
        self.runs = {self.run_of(variant, seed): (variant, seed) for seed in self.seeds for variant in turns}
        recipe.override({"seed": self.seeds[-1]})  # none of them may be too large
        self.jobs = {name: Job(replace(self.recipes[of], seed=seed)) for name, (of, seed) in self.runs.items()}

    def run_of(self, variant: Variant, seed: int) -> str:
        """The name of the directory of a run."""
        return f"{variant.directory}-seed{seed}"

    def result(self, outcome: Outcome, out: Path) -> Comparison:
        """Put the methods side by side."""
        done = {name: self.runs[name] for name in outcome.summaries}
        named = [str(variant) for variant in self.recipes]
        summaries = {(str(variant), seed): outcome.summaries[name] for name, (variant, seed) in done.items()}
        rows = sorted(table(summaries), key=lambda row: named.index(row.method))
        others = sorted(path.parent.name for path in out.glob(f"*/{SUMMARY}") if path.parent.name not in self.jobs)
        task = task_of(outcome, self.recipe)
        return Comparison(
            task=task,
            rows=tuple(rows),
            runs=tuple(ComparedRun(outcome.summaries[name], name, str(variant)) for name, (variant, _) in done.items()),
            failed=outcome.failures,
            left_out=tuple(others),
            model=self.recipe.model.name,
            data=self.recipe.data.name,
            epochs=self.recipe.schedule.epochs,
            seeds=tuple(self.seeds),
            methods=tuple(named),
            reference=reference_of(rows),
            differences=differences(rows, self.seeds, task),
        )


def compare(
    recipe: Recipe | str | Path | ComparisonPlan,
    out: str | Path,
    *,
    methods: str | Sequence[str] = ("common", "stimulative"),
    seeds: int = 3,
    workers: Workers | None = None,
    after_run: AfterRun | None = None,
) -> Comparison:
    """Train and evaluate each method with each seed, and put them side by side.

    Each run has a fresh process, so that its time and memory are its own; the methods take turns, so that a machine
    that slows down slows all of them. Runs in ``out`` that have finished are not repeated, interrupted ones go on,
    failed ones are tried again. Writes ``comparison.json``, and its table as ``comparison.md`` and ``comparison.csv``.

    Args:
        recipe: The recipe; its method's settings hold for that method and its variants, other methods have their
            defaults. Or a plan, which says methods and seeds itself.
        out: The directory of the comparison; each run has a directory inside.
        methods: The methods, each ``NAME`` or ``NAME:key=value[:key=value]`` such as ``stimulative:every=2``, or
            ``all`` for every one there is; a text of several has commas between them.
        seeds: The number of seeds, counted from the recipe's.
        workers: Where the runs are computed; one after the other on this machine by default. Of runs that share a
            machine, times are not comparable.
        after_run: Called with the name and the summary of each run when it is done.

    Returns:
        A row for each method that has a finished run, and a difference for each two of them and for main net and all
        subnets.

    Raises:
        UsageError: If a method or a setting of it is unknown, two are the same, the number of seeds is below 1, or
            ``out`` holds runs of another recipe.
    """
    if not isinstance(recipe, ComparisonPlan):
        recipe = ComparisonPlan(recipe if isinstance(recipe, Recipe) else load_recipe(recipe), methods, seeds=seeds)
    comparison = carry_out(recipe, out, workers=workers, after_run=after_run)
    comparison.write_tables(Path(out))
    return comparison


def table(summaries: Mapping[tuple[str, int], Summary]) -> list[ComparisonRow]:
    """One row a method: means over seeds, and time and memory as ratios to common training.

    Args:
        summaries: Those of evaluated runs, by method and seed.
    """
    by_method: dict[str, dict[int, Summary]] = {}
    for (method, seed), summary in summaries.items():
        by_method.setdefault(method, {})[seed] = summary
    reference = _Effort.of(by_method[_REFERENCE].values()) if _REFERENCE in by_method else None
    rows = []
    for method, of_method in by_method.items():
        effort = _Effort.of(of_method.values())
        rows.append(
            ComparisonRow(
                method=method,
                **vars(over_seeds(list(of_method.values()))),
                n=len(of_method),
                seeds_used=tuple(of_method),
                main_values=tuple(summary.main.quality for summary in of_method.values()),
                all_values=tuple(summary.subnets.mean or 0.0 for summary in of_method.values()),
                train_seconds=effort.seconds,
                peak_memory_mib=effort.mib,
                time_ratio=effort.time_ratio(reference),
                memory_ratio=effort.memory_ratio(reference),
                runs_at_once=effort.at_once,
            )
        )
    return rows


@dataclass(frozen=True)
class _Effort:
    """What a method's training took, means over seeds."""

    seconds: float
    mib: float
    at_once: int

    @classmethod
    def of(cls, summaries: Iterable[Summary]) -> _Effort:
        summaries = list(summaries)
        return _Effort(
            statistics.fmean(summary.train_seconds or 0.0 for summary in summaries),
            statistics.fmean(summary.peak_memory_mib or 0.0 for summary in summaries),
            max(summary.runs_at_once or 1 for summary in summaries),
        )

    def time_ratio(self, reference: _Effort | None) -> float | None:
        """None also of runs that shared a machine."""
        if reference is None or not reference.seconds or max(self.at_once, reference.at_once) > 1:
            return None
        return self.seconds / reference.seconds

    def memory_ratio(self, reference: _Effort | None) -> float | None:
        return None if reference is None or not reference.mib else self.mib / reference.mib


def reference_of(rows: Sequence[ComparisonRow]) -> str | None:
    """What the others are compared with: common training, or else the first; None without any."""
    methods = [row.method for row in rows]
    return _REFERENCE if _REFERENCE in methods else next(iter(methods), None)


def differences(
    rows: Sequence[ComparisonRow], seeds: Sequence[int] = (), task: TaskName = "images"
) -> tuple[ComparedMethods, ...]:
    """What each method has more than each other one, paired by seed.

    Args:
        rows: The rows of ``table``.
        seeds: All seeds that were asked for.
        task: What the nets are for.

    Returns:
        For each two methods, and for main net and mean of all subnets, what ``significance.Difference`` says; those
        from the reference first.
    """
    first = reference_of(rows)
    ordered = sorted(rows, key=lambda row: row.method != first)
    return tuple(
        _compared(row, other, measure, seeds, task)
        for other, row in combinations(ordered, 2)
        for measure in ("main", "all")
    )


def _compared(
    row: ComparisonRow, other: ComparisonRow, measure: str, seeds: Sequence[int], task: TaskName
) -> ComparedMethods:
    found = difference(_by_seed(row, measure), _by_seed(other, measure), seeds)
    low, high = found.interval or (None, None)
    return ComparedMethods(
        method=row.method,
        reference=other.method,
        measure=measure,
        n=found.n,
        seeds=tuple(found.values),
        values=tuple(found.values.values()),
        left_out=found.left_out,
        mean=found.mean,
        std=found.std,
        low=low,
        high=high,
        level=LEVEL,
        distinguishable=found.distinguishable,
        sentence=found.sentence(MEASURES[task]),
    )


def _by_seed(row: ComparisonRow, measure: str) -> dict[int, float]:
    values = row.main_values if measure == "main" else row.all_values
    return dict(zip(row.seeds_used, values, strict=True))
