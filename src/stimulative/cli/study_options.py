"""What commands that train several runs have in common: where the runs are computed, and what became of them."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from stimulative.cli.tables import print_table as print_table


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


def refuse_method(rest: Sequence[str], option: str) -> None:
    """Refuse ``--method.name`` where an option of the command says how nets are trained.

    Raises:
        UsageError: If it is given.
    """
    from stimulative.errors import UsageError

    if any(word.partition("=")[0] == "--method.name" for word in rest):
        raise UsageError(f"how the nets are trained is said with {option} here, not with --method.name")


def workers_of(options: argparse.Namespace) -> Any:
    """Where runs are computed, as the options say."""
    import yaml

    from stimulative.errors import UsageError
    from stimulative.studies import Workers

    given = {}
    for text in options.cluster_option:
        key, equals, value = text.partition("=")
        if not key or not equals:
            raise UsageError(f"--cluster-option is KEY=VALUE, got {text!r}")
        given[key] = yaml.safe_load(value)
    return Workers(options.jobs, options.cluster, given)


def run_study(out: Path, study: Callable[[Callable[[str, dict[str, Any]], None]], dict[str, Any]]) -> Any:
    """Compute a study, telling of each run when it is done.

    Args:
        out: The directory of the study.
        study: Computes it; gets what to call with the name and the summary of each run.

    Returns:
        What the study returns, or an exit status if it was interrupted.
    """

    def after_run(name: str, summary: dict[str, Any]) -> None:
        family = summary["subnets"]
        rest = f", subnets {family['mean']:.2f} ± {family['std']:.2f}%" if family["evaluated"] else ""
        if "perplexity" in family:
            rest += f" (perplexity {family['perplexity']['mean']:.2f})"
        print(f"{name}: main {summary['main']['top1']:.2f}%{in_words(summary['main'])}{rest}", flush=True)

    try:
        return study(after_run)
    except KeyboardInterrupt:
        print(f"\ninterrupted; the same command goes on with what is in {out}", file=sys.stderr)
        return 130


def in_words(score: Mapping[str, Any]) -> str:
    """The perplexity of a score, of text, to stand behind its accuracy; nothing for images."""
    return f" (perplexity {score['perplexity']:.2f})" if "perplexity" in score else ""


def tell_failures(out: Path, failed: Sequence[Mapping[str, str]]) -> int:
    """Tell which runs failed and how to try them again; the exit status."""
    from stimulative.studies import FAILURE

    for failure in failed:
        print(f"stimulative: {failure['run']} failed: {failure['error']}", file=sys.stderr)
    if failed:
        print(
            f"stimulative: {len(failed)} run{'s' if len(failed) > 1 else ''} failed (details: {out}/RUN/{FAILURE}); "
            "the same command tries again what failed and keeps the rest",
            file=sys.stderr,
        )
    return 1 if failed else 0
