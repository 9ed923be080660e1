"""``stimulative evaluate``: how good every subnet of a trained network is, and what it costs."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from stimulative.cli.progress import progress_bar
from stimulative.cli.source import SOURCE_USAGE, add_source, runs_from
from stimulative.cli.study_options import in_words
from stimulative.errors import UsageError

TAKES_SETTINGS = True
_MOST_ROWS = 12
_EXAMPLES = """examples:
  stimulative evaluate runs/demo/stimulative-seed0
  stimulative evaluate runs/c100 --subnets 50 --no-latency --json
  stimulative evaluate runs/vit --space every_other
  stimulative evaluate --model cifar/resnet20 --weights best.pth --data cifar100 --data.path ~/cifar
  stimulative evaluate --model transformers/gpt2 --weights model.safetensors --data text:PATH --data.tokenizer PATH
  stimulative evaluate --model timm/resnet50 --weights resnet50.safetensors --data folder:imagenet --out runs/r50"""


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
        "(evenly spread) or unordered (any; default: the recipe's)",
    )
    parser.add_argument("--seed", type=int, metavar="S", help="seed of the draw (default: the recipe's)")
    parser.add_argument("--no-latency", action="store_true", help="do not measure latencies")
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
    from stimulative.residual import KEPT

    if options.space is not None and options.space not in KEPT:
        raise UsageError(f"--space is one of {', '.join(KEPT)}, got {options.space!r}")
    if options.seed is not None and not 0 <= options.seed < 2**32:
        raise UsageError(f"--seed is at least 0 and below 2**32, got {options.seed}")
    if options.latency_batch < 1:
        raise UsageError(f"--latency-batch is 1 or more, got {options.latency_batch}")
    from stimulative.analysis import evaluate

    (directory,) = runs_from(options, rest)
    with progress_bar("evaluating subnets") as show:
        summary = evaluate(
            directory,
            subnets=subnets,
            space=options.space,
            seed=options.seed,
            latency=not options.no_latency,
            latency_batch=options.latency_batch,
            progress=show,
        )
    if options.json:
        print(json.dumps(summary, indent=2))
    else:
        _show(directory, summary)
    return 0


def _show(directory: Path, summary: dict[str, Any]) -> None:
    from rich.console import Console

    part, latency = summary["subnets"], summary["latency"]
    console = Console(highlight=False)
    console.print(_blocks_table(summary["by_blocks"]))
    console.print(_stages_table(summary["by_stage"]))
    console.print(_frontier_table(directory, summary["frontier"]["flops"]))
    main = summary["main"]
    print(f"main net, with its own statistics: {main['top1']:.2f}%{in_words(main.get('perplexity'))}")
    kind = "" if part["space"] == "ordered" else f"{part['space']} "
    drawn = "" if part["seed"] is None else f", drawn with seed {part['seed']}"
    print(
        f"{part['evaluated']:,} of {part['count']:,} {kind}subnets{drawn}: {part['mean']:.2f} ± {part['std']:.2f}% "
        f"({part['min']:.2f} to {part['max']:.2f}), {_statistics(part)}"
    )
    if "perplexity" in part:
        of = part["perplexity"]
        print(f"their perplexities: {of['mean']:.2f} ± {of['std']:.2f} ({of['min']:.2f} to {of['max']:.2f})")
    if latency is not None:
        print(
            f"latency of a batch of {latency['batch']} on {latency['device']}, in place: median of "
            f"{latency['rounds']} rounds ± half the interquartile range"
        )
    print(f"every subnet: {directory / 'subnets.csv'}   every row of the tables: {directory / 'summary.json'}")


def _statistics(part: dict[str, Any]) -> str:
    images = part["calibration_images"]
    return f"statistics from {images:,} images" if images else "without statistics to recalibrate"


def _blocks_table(rows: Sequence[dict[str, Any]]) -> Any:
    table = _table(rows, "by number of blocks", ["blocks", "subnets"])
    for row in _some(rows):
        table.add_row(str(row["blocks"]), f"{row['subnets']:,}", *_spread(row))
    return table


def _stages_table(rows: Sequence[dict[str, Any]]) -> Any:
    table = _table(rows, "by depth of a stage", ["stage", "depth", "subnets"])
    for stage in dict.fromkeys(row["stage"] for row in rows):
        for row in _some([row for row in rows if row["stage"] == stage], most=6):
            table.add_row(row["name"], str(row["depth"]), f"{row['subnets']:,}", *_spread(row))
        table.add_section()
    return table


def _frontier_table(directory: Path, names: Sequence[str]) -> Any:
    from rich.table import Table

    from stimulative.runs import RunDirectory

    family = {str(member.subnet): member for member in RunDirectory(directory).family}
    table = Table(
        title=f"accuracy-FLOPs frontier: {len(names)} of {len(family):,} subnets",
        title_justify="left",
    )
    text = any(member.score.perplexity is not None for member in family.values())
    table.add_column("subnet", no_wrap=True)
    for column in ("top-1", *(["perplexity"] if text else []), "M parameters", "MFLOPs", "ms"):
        table.add_column(column, justify="right", no_wrap=True)
    for name in _some(names):
        member = family[name]
        latency = member.latency
        table.add_row(
            name,
            f"{member.score.top1:.2f}",
            *([f"{member.score.perplexity:.2f}"] if text else []),
            f"{member.cost.parameters / 1e6:.3f}",
            f"{member.cost.flops / 1e6:,.2f}",
            "" if latency is None else f"{latency.median_ms:.2f} ± {latency.iqr_ms / 2:.2f}",
        )
    return table


def _table(rows: Sequence[dict[str, Any]], title: str, columns: Sequence[str]) -> Any:
    from rich.table import Table

    text = any("perplexity" in row for row in rows)
    table = Table(title=f"{title}: {'next-token accuracy' if text else 'top-1'} in %", title_justify="left")
    for column in (*columns, "mean", "worst", "best", *(["perplexity"] if text else [])):
        table.add_column(column, justify="left" if column == "stage" else "right", no_wrap=True)
    return table


def _spread(row: dict[str, Any]) -> tuple[str, ...]:
    perplexity = [f"{row['perplexity']['mean']:.2f}"] if "perplexity" in row else []
    return f"{row['mean']:.2f} ± {row['std']:.2f}", f"{row['min']:.2f}", f"{row['max']:.2f}", *perplexity


def _some(rows: Sequence[Any], most: int = _MOST_ROWS) -> list[Any]:
    """The rows, or so many of them that lie evenly, the first and the last among them."""
    if len(rows) <= most:
        return list(rows)
    return [rows[round(number * (len(rows) - 1) / (most - 1))] for number in range(most)]
