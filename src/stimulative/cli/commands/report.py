"""``stimulative report``: pictures of runs and studies on one page."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from stimulative.cli.progress import progress_bar
from stimulative.cli.source_options import SOURCE_USAGE, add_source, runs_from
from stimulative.errors import UsageError

TAKES_SETTINGS = True
_EXAMPLES = """examples:
  stimulative report runs/demo
  stimulative report runs/c100 runs/c100-destruction --out reports/c100
  stimulative report runs/sweep --title "Balance on CIFAR-100"
  stimulative report --model cifar/resnet20 --weights best.pth --data cifar100 --out reports/best"""


def add(commands: Any) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "report",
        help="pictures of runs and studies on one HTML page",
        description="Draw what runs and studies have to show: report.html, one page that needs no network, and each of "
        "its pictures as PNG and SVG with its numbers as CSV in figures/.",
        usage=f"stimulative report {SOURCE_USAGE.replace('RUN', 'DIR ...')} [--out DIR] [--title TEXT]",
        examples=_EXAMPLES,
    )
    add_source(
        parser,
        many=True,
        name="DIR",
        help="run directory, directory of runs, or one that compare, loafing, matrix, sweep or destroy wrote",
    )
    parser.add_argument("--out", metavar="DIR", help="where to write (default: DIR if there is one only, else report)")
    parser.add_argument("--title", metavar="TEXT", help="title of the page")


def run(options: argparse.Namespace, rest: list[str]) -> int:
    """Write the report."""
    from stimulative.report import write_report

    directories = options.runs
    if any(given is not None for given in (options.model, options.weights, options.data)):
        directories = [_measured(run) for run in runs_from(options, rest, into=Path(options.out or "report"))]
    elif rest or not directories:
        raise UsageError(
            f"unknown option {rest[0]!r}; see stimulative report --help"
            if rest
            else "give a directory of a run or a study, or --model, --weights and --data; see stimulative report --help"
        )
    page = write_report(directories, options.out, options.title)
    print(f"report: {page}   pictures and numbers: {page.parent / 'figures'}")
    return 0


def _measured(run: Path) -> Path:
    """A run whose subnets have been measured."""
    from stimulative.analysis import evaluate
    from stimulative.runs import RunDirectory

    if not RunDirectory.open(run).summary.subnets.evaluated:
        with progress_bar("evaluating subnets") as show:
            evaluate(run, progress=show)
    return run
