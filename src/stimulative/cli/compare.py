"""``stimulative compare``: methods side by side."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from stimulative.cli.running import run_study, tell_failures

TAKES_SETTINGS = True
_EXAMPLES = """examples:
  stimulative compare digits --out runs/demo
  stimulative compare cifar100-resnet20 --methods common,stimulative --seeds 3 --out runs/c100
  stimulative compare digits --seeds 1 --out runs/quick --schedule.epochs 5"""


def add(commands: Any) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "compare",
        help="train methods side by side and compare them",
        description="Train and evaluate each method with several seeds on the same recipe. Runs that have finished "
        "in the directory are not repeated. Writes comparison.json and comparison.png.",
        usage="stimulative compare RECIPE --out DIR [--methods A,B] [--seeds N] [--section.key VALUE ...]",
        examples=_EXAMPLES,
        settings=True,
    )
    parser.add_argument("recipe", metavar="RECIPE", help="shipped recipe, or path of a YAML file")
    parser.add_argument("--out", metavar="DIR", required=True, help="directory of the comparison")
    parser.add_argument(
        "--methods", default="common,stimulative", metavar="A,B", help="methods (default: common,stimulative)"
    )
    parser.add_argument("--seeds", type=int, default=3, metavar="N", help="seeds for each method (default: 3)")


def run(options: argparse.Namespace, rest: list[str]) -> int:
    """Compare."""
    from stimulative.analysis.comparison import COMPARISON, compare, plan_runs
    from stimulative.report.comparison import draw_comparison
    from stimulative.training.recipe import load_recipe

    recipe = load_recipe(options.recipe, rest)
    out = Path(options.out)
    methods = [name.strip() for name in options.methods.split(",") if name.strip()]
    runs = len(plan_runs(recipe, methods, options.seeds))
    print(f"{runs} runs of {recipe.model.name} on {recipe.data.name}, {recipe.schedule.epochs} epochs each")

    comparison = run_study(
        out, lambda after_run: compare(recipe, out, methods=methods, seeds=options.seeds, after_run=after_run)
    )
    if isinstance(comparison, int):
        return comparison
    if not comparison["rows"]:
        return tell_failures(out, comparison["failed"])
    picture, *_ = draw_comparison(out)
    _show(comparison["rows"])
    print(f"numbers: {out / COMPARISON}   picture: {picture}")
    return tell_failures(out, comparison["failed"])


def _show(rows: list[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title="top-1 accuracy in %, means over seeds", title_justify="left")
    table.add_column("method", no_wrap=True)
    for column in ("seeds", "time", "memory", "main net", "all subnets", "worst"):
        table.add_column(column, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(
            row["method"],
            str(row["seeds"]),
            _ratio(row["time_ratio"]) or f"{row['train_seconds']:.0f} s",
            _ratio(row["memory_ratio"]) or f"{row['peak_memory_mib']:.0f} MiB",
            f"{row['main_mean']:.2f} ± {row['main_std']:.2f}",
            f"{row['all_mean']:.2f} ± {row['all_std']:.2f}",
            f"{row['all_min']:.2f}",
        )
    Console().print(table)
    print("main net: ± standard deviation over seeds; all subnets: ± that over subnets, mean over seeds")
    reference = next((row for row in rows if row["time_ratio"] == 1.0), None)
    if reference is not None:
        print(
            f"time and memory: times those of {reference['method']} "
            f"({reference['train_seconds']:.1f} s, {reference['peak_memory_mib']:.0f} MiB)"
        )


def _ratio(ratio: float | None) -> str | None:
    return None if ratio is None else f"{ratio:.2f}×"
