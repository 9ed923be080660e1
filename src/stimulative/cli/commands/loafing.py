"""``stimulative loafing``: how much worse subnets do inside a main net than alone."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from stimulative.cli.study_options import Telling, add_study, refuse_method, run_study
from stimulative.cli.tables import measure_of, print_table

if TYPE_CHECKING:
    from stimulative.studies import Loafing
    from stimulative.tasks import Measure

TAKES_SETTINGS = True
_EXAMPLES = """examples:
  stimulative loafing digits --main 1-1-2 2-2-2 3-3-3 --subnets 5 --out runs/loafing
  stimulative loafing digits --main 2-2-2 3-3-3 --subnets 5 --methods common,stimulative --jobs 2 --out runs/loafing
  stimulative loafing cifar100-resnet20 --model.name cifar/resnet110 --main 3-3-3 9-9-9 18-18-18 --subnets 20 \\
      --jobs 32 --cluster slurm --cluster-option slurm_partition=gpu --cluster-option gpus_per_node=1 --out runs/deep"""


def add(commands: Any) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "loafing",
        help="how much worse subnets do inside a main net than trained alone",
        description="Train main nets of several depths, and subnets drawn from each alone by the same recipe; compare "
        "each subnet's accuracy inside its main net with that alone. Runs that have finished in the directory are not "
        "repeated. Writes loafing.json and its picture.",
        usage="stimulative loafing RECIPE --main DEPTHS ... --subnets N --out DIR [--methods A,B] [--seeds N] "
        "[--jobs N] [--section.key VALUE ...]",
        examples=_EXAMPLES,
        settings=True,
    )
    parser.add_argument(
        "--main",
        nargs="+",
        required=True,
        metavar="DEPTHS",
        help="main nets by their depths, cut from the recipe's model: 2-2-2 3-3-3",
    )
    parser.add_argument(
        "--subnets", type=int, default=10, metavar="N", help="subnets drawn from each main net (default: 10)"
    )
    parser.add_argument(
        "--methods", default="common", metavar="A,B", help="how main nets are trained (default: common)"
    )
    add_study(parser, seeds=1)


def run(options: argparse.Namespace, rest: list[str]) -> int:
    """Study loafing."""
    from stimulative.config import load_recipe
    from stimulative.report import draw_loafing
    from stimulative.studies import LoafingPlan, measure_loafing

    refuse_method(rest, "--methods")
    recipe = load_recipe(options.recipe, rest)
    methods = [name.strip() for name in options.methods.split(",") if name.strip()]
    plan = LoafingPlan(recipe, options.main, subnets=options.subnets, methods=methods, seeds=options.seeds)
    each = f", main nets by {' and '.join(methods)} training"
    return run_study(options, plan, measure_loafing, Telling(_show, draw_loafing, each))


def _show(study: Loafing) -> None:
    from rich.table import Table

    measure = measure_of(study.task)
    title = measure.heading + (" (perplexity)" if study.of_text else "")
    table = Table(title=title, title_justify="left")
    for column in ("method", "main net"):
        table.add_column(column, no_wrap=True)
    for column in ("itself", "n", "inside", "alone", "gap"):
        table.add_column(column, justify="right", no_wrap=not study.of_text)
    for row in study.rows:
        table.add_row(
            row.method,
            row.main,
            f"{row.main_quality or 0:{measure.form}}",
            str(row.subnets),
            _mean(measure, row.in_group_mean, row.in_group_perplexity_mean),
            _mean(measure, row.alone_mean, row.alone_perplexity_mean),
            measure.pair(row.gap_mean or 0, row.gap_std or 0),
        )
    print_table(table)
    print("inside, alone, gap: means over n subnets and all seeds, ± standard deviation")
    if study.statistics is not None:
        print(f"statistics of each subnet: from {study.statistics}")


def _mean(measure: Measure, quality: float, perplexity: float | None) -> str:
    return f"{quality:{measure.form}}" + ("" if perplexity is None else f" ({perplexity:.2f})")
