"""``stimulative evaluate``: how good every subnet of a trained network is, and what it costs."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeVar, get_args

from stimulative.claiming import is_first_process
from stimulative.cli.messages import CommandFailed
from stimulative.cli.progress import progress_bar
from stimulative.cli.source_options import SOURCE_USAGE, add_source, runs_from
from stimulative.cli.tables import in_words, kind_of, measure_of
from stimulative.errors import UsageError

if TYPE_CHECKING:
    from stimulative.runs import Calibration, DepthSpread, Family, RunDirectory, SizeSpread, Summary
    from stimulative.tasks import Measure

TAKES_SETTINGS = True
_MOST_ROWS = 12
_EXAMPLES = """examples:
  stimulative evaluate runs/demo/stimulative-seed0
  stimulative evaluate runs/c100 --subnets 50 --no-latency --json
  stimulative evaluate runs/vit --space every_other
  stimulative evaluate --model cifar/resnet20 --weights best.pth --data cifar100 --data.path ~/cifar
  stimulative evaluate --model transformers/gpt2 --weights model.safetensors --data text:PATH --data.tokenizer PATH
  stimulative evaluate --model timm/resnet50 --weights resnet50.safetensors --data folder:imagenet --out runs/r50"""


T = TypeVar("T")


def add(commands: Any) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "evaluate",
        help="accuracy and cost of the subnets of a trained network",
        description="Measure the subnets of a finished run, or of any weights, on the test split, each with\n"
        "recalibrated normalisation statistics: accuracy, parameters, operations, and the latency on\n"
        "this machine (measured in place: the whole model is in memory, and skipped blocks return\n"
        "their input). Writes subnets.csv and the summary.",
        usage=f"stimulative evaluate {SOURCE_USAGE} [--subnets auto|all|N] [--space NAME] [--no-latency] [--json]",
        examples=_EXAMPLES,
    )
    add_source(parser, out=True)
    parser.add_argument(
        "--subnets",
        metavar="auto|all|N",
        help="all, how many to draw, or auto: all up to 1,000, else 1,000 drawn (default: the recipe's)",
    )
    parser.add_argument(
        "--space",
        metavar="NAME",
        help="which blocks a stage keeps at a depth: ordered (the first), suffix (the last), every_other "
        "(evenly spread), unordered (any), ranked (the most important, by what stimulative rank has measured) or an "
        "order such as ranked:[0.2.1]-2 (default: the recipe's)",
    )
    parser.add_argument(
        "--calibration",
        metavar="VIEW",
        help="how training images are prepared for the statistics: as for training, as for evaluation, or auto, "
        "the one that the main net does better by on the validation part (default: as before, else the recipe's)",
    )
    parser.add_argument("--seed", type=int, metavar="S", help="seed of the draw (default: the recipe's)")
    parser.add_argument("--no-latency", dest="latency", action="store_false", help="do not measure latencies")
    parser.add_argument(
        "--latency-batch",
        type=int,
        default=1,
        metavar="N",
        help="images or sequences in the batch that is timed (default: 1)",
    )
    parser.add_argument("--json", action="store_true", help="print the summary as JSON, and nothing else")


def run(options: argparse.Namespace, rest: list[str]) -> int:
    """Evaluate."""
    subnets: Any = options.subnets
    if subnets not in (None, "all", "auto"):
        if not subnets.isdecimal() or int(subnets) < 1:
            raise UsageError(f"--subnets is 'auto', 'all' or a number of 1 or more, got {subnets!r}")
        subnets = int(subnets)
    from stimulative.analysis import ResultsLost, check_space, evaluate
    from stimulative.config import CalibrationSetting

    if options.space is not None:
        check_space(options.space)
    if options.calibration not in (None, *get_args(CalibrationSetting)):
        allowed = ", ".join(get_args(CalibrationSetting))
        raise UsageError(f"--calibration is one of {allowed}, got {options.calibration!r}")
    if options.seed is not None and not 0 <= options.seed < 2**32:
        raise UsageError(f"--seed is at least 0 and below 2**32, got {options.seed}")
    if options.latency_batch < 1:
        raise UsageError(f"--latency-batch is 1 or more, got {options.latency_batch}")
    from stimulative.runs import RunDirectory

    (directory,) = runs_from(options, rest)
    try:
        with progress_bar("evaluating subnets") as show:
            summary = evaluate(
                directory,
                subnets=subnets,
                space=options.space,
                seed=options.seed,
                calibration=options.calibration,
                latency=options.latency,
                latency_batch=options.latency_batch,
                progress=show,
            )
    except ResultsLost as lost:
        print(lost.subnets, end="")
        print(json.dumps(lost.summary, indent=2))
        raise CommandFailed(f"{lost} What was measured is printed instead: subnets.csv, then summary.json") from lost
    if not is_first_process():
        return 0  # of several processes that share the work, one speaks
    if options.json:
        print(json.dumps(summary, indent=2))
    else:
        _show(RunDirectory(directory))
    return 0


def _show(run: RunDirectory) -> None:
    from rich.console import Console

    from stimulative.runs import SUBNETS, SUMMARY

    summary, family = run.summary, run.family
    part, latency, measure = summary.subnets, summary.latency, measure_of(summary.task)
    console = Console(highlight=False)
    console.print(_blocks_table(summary))
    console.print(_stages_table(summary))
    console.print(_frontier_table(summary, family))
    print(f"main net: {_main(summary, family)}")
    drawn = "" if part.seed is None else f", drawn with seed {part.seed}"
    print(
        f"{part.evaluated:,} of {part.count:,} {kind_of(part.space)}subnets{drawn}: "
        f"{measure.spread(part.mean or 0, part.std or 0)} ({part.min:{measure.form}} to {part.max:{measure.form}}), "
        f"{_statistics(summary)}"
    )
    if summary.calibration is not None:
        print(f"main net on the validation part: {_views(summary.calibration, measure)}")
    if part.perplexity is not None:
        of = part.perplexity
        print(f"their perplexities: {of.mean:.2f} ± {of.std:.2f} ({of.min:.2f} to {of.max:.2f})")
    if latency is not None:
        print(
            f"latency of a batch of {latency.batch} on {latency.device}, in place: median of "
            f"{latency.rounds} rounds ± half the interquartile range"
        )
    print(f"every subnet: {run.file(SUBNETS)}   every row of the tables: {run.file(SUMMARY)}")


def _main(summary: Summary, family: Family) -> str:
    """The main net by the statistics that it has, and by those that were estimated like its subnets'."""
    measure = measure_of(summary.task)
    own = f"{measure.shown(summary.main.quality)}{in_words(summary.main.perplexity)}"
    full = max(family, key=lambda member: member.subnet.blocks).score.quality
    if summary.calibration is None or (summary.method is not None and abs(full - summary.main.quality) < 0.005):
        return own
    return f"{own} by the statistics that it has; recalibrated like its subnets {measure.shown(full)}"


def _statistics(summary: Summary) -> str:
    found = summary.calibration
    if found is None:
        return "without statistics to recalibrate"
    return f"statistics from {found.images:,} training images prepared as for {found.view}"


def _views(calibration: Calibration, measure: Measure) -> str:
    """What the main net has by each kind of statistics, the view that was taken marked."""
    parts = [] if calibration.own is None else [f"{measure.shown(calibration.own)} by its own statistics"]
    for view, score in (("training", calibration.training), ("evaluation", calibration.evaluation)):
        if score is not None:
            taken = " (taken)" if view == calibration.view else ""
            parts.append(f"{measure.shown(score)} recalibrated on images prepared as for {view}{taken}")
    return ", ".join(parts)


def _blocks_table(summary: Summary) -> Any:
    table = _table(summary, "by number of blocks", ["blocks", "subnets"])
    for row in _some(summary.by_blocks or ()):
        table.add_row(str(row.blocks), f"{row.subnets:,}", *_spread(row, measure_of(summary.task)))
    return table


def _stages_table(summary: Summary) -> Any:
    table = _table(summary, "by depth of a stage", ["stage", "depth", "subnets"])
    rows = summary.by_stage or ()
    for stage in dict.fromkeys(row.stage for row in rows):
        for row in _some([row for row in rows if row.stage == stage], most=6):
            table.add_row(row.name, str(row.depth), f"{row.subnets:,}", *_spread(row, measure_of(summary.task)))
        table.add_section()
    return table


def _frontier_table(summary: Summary, family: Family) -> Any:
    from rich.table import Table

    members = family.frontier()
    table = Table(
        title=f"accuracy-FLOPs frontier: {len(members)} of {len(family):,} subnets",
        title_justify="left",
    )
    table.add_column("subnet", no_wrap=True)
    measure, further = measure_of(summary.task), _further(summary, family)
    named = [*(["perplexity"] if summary.of_text else []), *(key.replace("_", " ") for key in further)]
    for column in (measure.short, *named, "M parameters", "MFLOPs", "ms"):
        table.add_column(column, justify="right", no_wrap=True)
    for member in _some(members):
        latency = member.latency
        table.add_row(
            str(member.subnet),
            f"{member.score.quality:{measure.form}}",
            *([f"{member.score.perplexity:.2f}"] if summary.of_text else []),
            *(f"{member.score.more[key]:{measure.form}}" for key in further),
            f"{member.cost.parameters / 1e6:.3f}",
            f"{member.cost.flops / 1e6:,.2f}",
            "" if latency is None else f"{latency.median_ms:.2f} ± {latency.iqr_ms / 2:.2f}",
        )
    return table


def _further(summary: Summary, family: Family) -> list[str]:
    """Scores of embeddings beside the cosine: with it they say whether search among the vectors finds the same."""
    if summary.task != "embedding":
        return []
    return [key for key in summary.main.more if all(key in member.score.more for member in family)]


def _table(summary: Summary, title: str, columns: Sequence[str]) -> Any:
    from rich.table import Table

    text = summary.of_text
    table = Table(title=f"{title}: {measure_of(summary.task).heading}", title_justify="left")
    for column in (*columns, "mean", "worst", "best", *(["perplexity"] if text else [])):
        table.add_column(column, justify="left" if column == "stage" else "right", no_wrap=True)
    return table


def _spread(row: SizeSpread | DepthSpread, measure: Measure) -> tuple[str, ...]:
    perplexity = [] if row.perplexity is None else [f"{row.perplexity.mean:.2f}"]
    numbers = measure.pair(row.mean, row.std), f"{row.min:{measure.form}}", f"{row.max:{measure.form}}"
    return *numbers, *perplexity


def _some(rows: Sequence[T], most: int = _MOST_ROWS) -> list[T]:
    """The rows, or so many of them that lie evenly, the first and the last among them."""
    if len(rows) <= most:
        return list(rows)
    return [rows[round(number * (len(rows) - 1) / (most - 1))] for number in range(most)]
