"""``stimulative sweep``: one setting at several values."""

from __future__ import annotations

import argparse
import re
from typing import TYPE_CHECKING, Any

from stimulative.cli.study_options import Telling, add_study, run_study
from stimulative.cli.tables import measure_of
from stimulative.errors import UsageError

if TYPE_CHECKING:
    from stimulative.studies import Sweep

TAKES_SETTINGS = True
_EXAMPLES = """examples:
  stimulative sweep digits --key method.balance --values 0.5,1,5,10 --seeds 3 --out runs/balance
  stimulative sweep digits --key optimizer.lr --values 0.03,0.1,0.3 --jobs 2 --out runs/lr
  stimulative sweep digits --key method.sampler --values ordered,unordered --out runs/sampler"""


def add(commands: Any) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "sweep",
        help="one setting of a recipe at several values",
        description="Train and evaluate a recipe with one setting at several values, each with several seeds. Runs "
        "that have finished in the directory are not repeated. Writes sweep.json and its pictures.",
        usage="stimulative sweep RECIPE --key SECTION.KEY --values A,B,C --out DIR [--seeds N] [--jobs N] "
        "[--section.key VALUE ...]",
        examples=_EXAMPLES,
        settings=True,
    )
    parser.add_argument("--key", required=True, metavar="SECTION.KEY", help="the setting, such as method.balance")
    parser.add_argument("--values", required=True, metavar="A,B,C", help="its values")
    add_study(parser, seeds=3)


def run(options: argparse.Namespace, rest: list[str]) -> int:
    """Sweep."""
    from stimulative.config import load_recipe
    from stimulative.report import draw_sweep
    from stimulative.studies import SweepPlan, sweep_setting

    recipe = load_recipe(options.recipe, rest)
    # commas within brackets belong to a value, such as [0.9,0.99]
    values = [value.strip() for value in re.split(r",(?![^\[{]*[\]}])", options.values)]
    if not all(values):
        raise UsageError(f"--values is a list such as 0.5,1,5, without empty places; got {options.values!r}")
    plan = SweepPlan(recipe, options.key, values, seeds=options.seeds)
    return run_study(options, plan, sweep_setting, Telling(_show, draw_sweep))


def _show(sweep: Sweep) -> None:
    from rich.console import Console
    from rich.table import Table

    measure = measure_of(sweep.task)
    title = f"{measure.heading}, means over seeds"
    table = Table(title=title, title_justify="left")
    table.add_column(sweep.key, no_wrap=True)
    perplexities = ("main perplexity", "all perplexity") if sweep.of_text else ()
    for column in ("seeds", "main net", "all subnets", "worst", *perplexities):
        table.add_column(column, justify="right", no_wrap=True)
    for row in sweep.rows:
        of_text = (row.main_perplexity or 0, row.all_perplexity or 0) if sweep.of_text else ()
        table.add_row(
            str(row.value),
            str(row.seeds),
            measure.pair(row.main_mean, row.main_std),
            measure.pair(row.all_mean, row.all_std),
            f"{row.all_min or 0:{measure.form}}",
            *(f"{perplexity:.2f}" for perplexity in of_text),
        )
    Console().print(table)
    print("main net: ± standard deviation over seeds; all subnets: ± that over subnets, mean over seeds")
    if sweep.statistics is not None:
        print(f"statistics of each subnet: from {sweep.statistics}")
