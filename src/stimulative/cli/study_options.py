"""What commands that train several runs have in common: where the runs are computed, and what became of them."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Generic, TypeVar

from stimulative.cli.messages import in_options, interrupted_status
from stimulative.cli.tables import in_words, measure_of
from stimulative.errors import UsageError

if TYPE_CHECKING:
    from stimulative.config import Recipe
    from stimulative.runs import Summary
    from stimulative.studies import Plan, StudyOfRuns, Workers

Result = TypeVar("Result", bound="StudyOfRuns")


def add_study(parser: argparse.ArgumentParser, *, seeds: int) -> None:
    """Add what every study of several runs takes: a recipe, a directory, seeds, and where the runs are computed.

    Args:
        parser: The parser of a command that has ``TAKES_SETTINGS = True``.
        seeds: The number of seeds by default.
    """
    parser.add_argument("recipe", metavar="RECIPE", help="shipped recipe, or path of a YAML file")
    parser.add_argument("--out", metavar="DIR", required=True, help="directory of the study, with a directory a run")
    parser.add_argument("--seeds", type=int, default=seeds, metavar="N", help=f"seeds of every run (default: {seeds})")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="runs at once (default: 1)")
    parser.add_argument(
        "--cluster", metavar="NAME", help="send runs to a cluster through submitit: slurm (or local, to try it)"
    )
    parser.add_argument(
        "--cluster-option",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="what submitit tells the cluster, such as slurm_partition=gpu, timeout_min=60, gpus_per_node=1",
    )
    parser.set_defaults(parser=parser)


def refuse_method(rest: Sequence[str], option: str) -> None:
    """Refuse ``--method.name`` where an option of the command says how nets are trained.

    Raises:
        UsageError: If it is given.
    """
    if any(word.partition("=")[0] == "--method.name" for word in rest):
        raise UsageError(f"how the nets are trained is said with {option} here, not with --method.name")


def workers_of(options: argparse.Namespace) -> Workers:
    """Where runs are computed, as the options say."""
    from stimulative.config import parse_yaml
    from stimulative.studies import Workers

    given = {}
    for text in options.cluster_option:
        key, equals, value = text.partition("=")
        if not key or not equals:
            raise UsageError(f"--cluster-option is KEY=VALUE, got {text!r}")
        try:
            given[key], _ = parse_yaml(value)
        except ValueError as error:
            raise UsageError(f"--cluster-option {key}: {value!r:.80} is no value: {error}") from error
    return Workers(options.jobs, options.cluster, given)


@dataclass(frozen=True)
class Telling(Generic[Result]):
    """How a command shows a study.

    Args:
        show: Prints its rows.
        draw: Draws its pictures into its directory, and returns their paths.
        each: What the headline says of each run behind its epochs.
        note: A line below the headline.
        tables: Further files that the study has written, by what they are.
    """

    show: Callable[[Result], None]
    draw: Callable[[Path], Sequence[Path]]
    each: str = ""
    note: str = ""
    tables: Mapping[str, str] = field(default_factory=dict)


def at_most(recipe: Recipe) -> str:
    """What the headline of a study says of runs that stop early; nothing where they do not."""
    stop = recipe.schedule.max_steps
    return "" if stop is None else f", {stop} steps at most"


def run_study(
    options: argparse.Namespace, plan: Plan[Result], carry_out: Callable[..., Result], telling: Telling[Result]
) -> int:
    """Carry out a plan: print it, tell of each run when it is done, show and draw the results, tell what failed.

    Args:
        options: What a parser with ``add_study`` parsed.
        plan: The plan.
        carry_out: Carries it out, as ``stimulative.studies.carry_out`` does.
        telling: How the study is shown.

    Returns:
        The exit status.
    """
    out, workers, recipe = Path(options.out), workers_of(options), plan.recipe
    runs = "1 run" if len(plan.jobs) == 1 else f"{len(plan.jobs)} runs"
    print(f"{runs} of {recipe.model.name} on {recipe.data.name}, {recipe.schedule.epochs} epochs each{telling.each}")
    if telling.note:
        print(telling.note)
    try:
        study = carry_out(plan, out, workers=workers, after_run=_tell_run)
    except KeyboardInterrupt as stopped:
        print(f"\n{str(stopped) or 'interrupted'}; the same command goes on with what is in {out}", file=sys.stderr)
        return interrupted_status(stopped)
    if not study.empty:
        telling.show(study)
        picture, *_ = telling.draw(out)
        written = {"numbers": study.file(out).name, **telling.tables}
        print("   ".join([*(f"{what}: {out / name}" for what, name in written.items()), f"picture: {picture}"]))
    return _tell_failures(study, options)


def _tell_run(name: str, summary: Summary) -> None:
    family, rest, measure = summary.subnets, "", measure_of(summary.task)
    if family.evaluated:
        rest = f", subnets {measure.spread(family.mean or 0, family.std or 0)}"
        rest += in_words(None if family.perplexity is None else family.perplexity.mean)
    print(f"{name}: main {measure.shown(summary.main.quality)}{in_words(summary.main.perplexity)}{rest}", flush=True)


def _tell_failures(study: StudyOfRuns, options: argparse.Namespace) -> int:
    """Tell which runs failed and how to try them again; the exit status."""
    from stimulative.studies import FAILURE

    for failure in study.failed:
        error = in_options(failure.error, options.parser.arguments)
        print(f"stimulative: {failure.run} failed: {error}", file=sys.stderr)
    if study.failed:
        print(
            f"stimulative: {len(study.failed)} run{'s' if len(study.failed) > 1 else ''} failed (details: "
            f"{options.out}/RUN/{FAILURE}); the same command tries again what failed and keeps the rest",
            file=sys.stderr,
        )
    return 1 if study.failed else 0
