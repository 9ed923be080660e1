"""``stimulative compare``: methods side by side."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from stimulative.cli.data_option import add_data, data_settings
from stimulative.cli.study_options import Telling, add_study, at_most, run_study
from stimulative.cli.tables import measure_of, print_table

if TYPE_CHECKING:
    from stimulative.studies import Comparison

TAKES_SETTINGS = True
_EXAMPLES = """examples:
  stimulative compare digits --out runs/demo
  stimulative compare cifar100-resnet20 --methods all --seeds 5 --out runs/table1
  stimulative compare digits --methods common,stimulative,stimulative:every=2:balance=2 --out runs/variants
  stimulative compare digits --seeds 1 --out runs/quick --schedule.epochs 5
  stimulative compare cifar100-resnet50 --methods all --seeds 1 --data fake --schedule.max_steps 2 --out runs/try"""


def add(commands: Any) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "compare",
        help="train methods side by side and compare them",
        description="Train and evaluate each method with several seeds on the same recipe, and compare time, memory,\n"
        "main net and all subnets, with differences paired by seed. The recipe's settings of its method hold for that\n"
        "method and its variants; other methods have their defaults. Runs that have finished in the directory are\n"
        "not repeated. Writes comparison.json, .md, .csv, .png and .svg.",
        usage="stimulative compare RECIPE --out DIR [--methods all|A,B:key=value] [--seeds N] [--data NAME] [--jobs N] "
        "[--section.key VALUE ...]",
        examples=_EXAMPLES,
        settings=True,
    )
    parser.add_argument(
        "--methods",
        default="common,stimulative",
        metavar="A,B",
        help="methods, or all of them; with settings as NAME:key=value[:key=value] (default: common,stimulative)",
    )
    add_data(parser)
    add_study(parser, seeds=3)


def run(options: argparse.Namespace, rest: list[str]) -> int:
    """Compare."""
    from stimulative.config import load_recipe
    from stimulative.report import draw_comparison
    from stimulative.studies import MARKDOWN, ComparisonPlan, compare

    recipe = load_recipe(options.recipe, [*data_settings(options.recipe, options.data, rest), *rest])
    note = ""
    if options.jobs > 1 and options.cluster is None:
        note = f"{options.jobs} runs at once share this machine: their times say little about the methods"
    plan = ComparisonPlan(recipe, options.methods, seeds=options.seeds)
    telling = Telling(_show, draw_comparison, at_most(recipe), note, {"table": MARKDOWN})
    return run_study(options, plan, compare, telling)


def _show(comparison: Comparison) -> None:
    from rich.table import Table

    from stimulative.studies import caution, cells, headings, notes, sentences

    of = f"{comparison.model} on {comparison.data}"
    table = Table(title=f"{of}: {measure_of(comparison.task).heading}", title_justify="left")
    first, *others = headings(comparison)
    table.add_column(first, overflow="fold", min_width=max(map(len, [first, *others])))
    for column in others:
        table.add_column(column, justify="right", no_wrap=True)
    for row in comparison.rows:
        table.add_row(*cells(row, comparison))
    print_table(table)
    for note in notes(comparison):
        print(note)
    told = sentences(comparison)
    if not told:
        return
    print(f"\ndifferences from {comparison.reference}, seed by seed:")
    for method, measure, sentence in told:
        print(f"  {method}, {measure}: {sentence}")
    if caution(comparison):
        print(caution(comparison))
