"""``stimulative destroy``: what is left of trained networks when blocks are deleted and swapped."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stimulative.cli.source_options import SOURCE_USAGE, add_source, runs_from
from stimulative.cli.tables import in_words, measure_of

if TYPE_CHECKING:
    from stimulative.studies import DestroyedRun, Destruction, DrawsRow

TAKES_SETTINGS = True
_WAYS = {False: "as trained", True: "recalibrated"}
_EXAMPLES = """examples:
  stimulative destroy runs/demo/common-seed0 runs/demo/stimulative-seed0 --out runs/destruction
  stimulative destroy runs/c100 --draws 30 --images 2000 --out runs/c100-destruction
  stimulative destroy --model cifar/resnet56 --weights best.pth --data cifar100 --out runs/best-destruction"""


def add(commands: Any) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "destroy",
        help="delete and swap blocks of trained networks, and measure what is left",
        description="Delete each single block in turn, delete k random blocks, and swap k random pairs of blocks of "
        "the same stage, for every k; measure on the test split, with the statistics of the main net and with "
        "recalibrated ones. A first block that changes stride or width is never touched. Runs that were measured "
        "into the directory before, with the same settings, are not measured again. Writes destruction.json, "
        "single.csv, deletions.csv, swaps.csv and their pictures.",
        usage=f"stimulative destroy {SOURCE_USAGE.replace('RUN', 'RUN ...')} --out DIR [--draws N] [--seed S] "
        "[--images N] [--json]",
        examples=_EXAMPLES,
    )
    add_source(parser, many=True)
    parser.add_argument("--out", metavar="DIR", required=True, help="where to write")
    parser.add_argument(
        "--draws", type=int, default=10, metavar="N", help="nets drawn for each k, or all there are (default: 10)"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="seed of the draws (default: 0)")
    parser.add_argument(
        "--images",
        type=int,
        metavar="N",
        help="test images, drawn with the seed, the same for every run (default: all)",
    )
    parser.add_argument("--json", action="store_true", help="print what was measured as JSON")


def run(options: argparse.Namespace, rest: list[str]) -> int:
    """Destroy."""
    from stimulative.report import draw_destruction
    from stimulative.studies import Destruction, check_numbers

    check_numbers(options.draws, options.images)
    out = Path(options.out)
    try:
        destruction = _with_bar(options, runs_from(options, rest, into=out), out)
    except RuntimeError as error:
        print(f"stimulative: stopped: {error}; what was measured of other runs is kept in {out}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"\ninterrupted; the same command goes on with what is in {out}", file=sys.stderr)
        return 130
    pictures = draw_destruction(out)
    if options.json:
        print(Destruction.file(out).read_text(encoding="utf-8"), end="")
        return 0
    for one in destruction.runs:
        _show(one, destruction)
    print(
        f"\n{measure_of(destruction.task).axis}, mean ± standard deviation over the nets drawn for each k "
        "(of text: mean perplexity).\n"
        "as trained: with the main net's statistics; recalibrated: with those of the net that is left.\n"
        "tau: Kendall's rank correlation of the order of blocks with the original one, mean over the nets."
    )
    print(f"numbers: {Destruction.file(out)} (and single.csv, deletions.csv, swaps.csv)")
    print(f"pictures: {', '.join(str(path) for path in pictures if path.suffix == '.png')}")
    return 0


def _with_bar(options: argparse.Namespace, runs: list[Path], out: Path) -> Destruction:
    """Destroy under a progress bar on standard error, with a line for each run that is done."""
    from rich.console import Console
    from rich.progress import Progress

    from stimulative.studies import destroy

    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=None)
        return destroy(
            runs,
            out,
            draws=options.draws,
            seed=options.seed,
            images=options.images,
            progress=lambda run, done, total: bar.update(task, description=run, completed=done, total=total),
            after_run=lambda run, before: console.print(
                f"{run}: {'measured before' if before else 'measured'}", highlight=False
            ),
        )


def _show(run: DestroyedRun, destruction: Destruction) -> None:
    kind, measure = "sequences" if destruction.of_text else "images", measure_of(destruction.task)
    print(
        f"\n{run.run}: {run.model}, {run.method or 'from a weights file'}, main net {measure.shown(run.main)}"
        f"{in_words(run.main_perplexity)} on {run.images or 0:,} test {kind} of {run.data}"
    )
    _table("k random blocks deleted", [row for row in destruction.delete_rows if row.run == run.run])
    for recalibrated, way in _WAYS.items():
        single = [row for row in destruction.single if row.run == run.run and row.recalibrated == recalibrated]
        if single:
            worst = min(single, key=lambda row: row.quality)
            score = f"{measure.shown(worst.quality)}{in_words(worst.perplexity)}"
            print(f"worst single block, {way}: {score} without {worst.name}")
    swapped = [row for row in destruction.swap_rows if row.run == run.run]
    if swapped:
        _table("k random pairs of blocks swapped", swapped)
    for note in run.notes:
        print(f"note: {note}")


def _table(title: str, rows: Sequence[DrawsRow]) -> None:
    from rich.console import Console
    from rich.table import Table

    ways = {recalibrated: way for recalibrated, way in _WAYS.items() if rows[-1].recalibrated >= recalibrated}
    with_tau = rows[0].tau is not None
    table = Table(title=title, title_justify="left")
    for column in ("k", *(["tau"] if with_tau else []), *ways.values(), "nets"):
        table.add_column(column, justify="right", no_wrap=True)
    by_k = {(row.k, row.recalibrated): row for row in rows}
    for k in sorted({row.k for row in rows}):
        found = [by_k[k, recalibrated] for recalibrated in ways]
        table.add_row(
            str(k),
            *([f"{found[0].tau or 0:.2f}"] if with_tau else []),
            *(f"{row.mean:.2f} ± {row.std:.2f}{_perplexity(row)}" for row in found),
            f"all {found[0].draws}" if found[0].exhaustive else str(found[0].draws),
        )
    Console().print(table)


def _perplexity(row: DrawsRow) -> str:
    return "" if row.perplexity is None else f" ({row.perplexity:,.2f})"
