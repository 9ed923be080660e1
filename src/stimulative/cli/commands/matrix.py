"""``stimulative matrix``: every net inside every larger one."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from stimulative.cli.data_option import add_data, add_max_steps, data_settings, max_steps_settings
from stimulative.cli.study_options import Telling, add_study, at_most, refuse_method, run_study
from stimulative.cli.tables import measure_of

if TYPE_CHECKING:
    from stimulative.studies import Matrix, MatrixCell
    from stimulative.tasks import Measure

TAKES_SETTINGS = True
_EXAMPLES = """examples:
  stimulative matrix digits-densenet --nets 2-4-4 2-6-6 2-8-8 --out runs/matrix
  stimulative matrix digits-densenet --nets 2-4-4 2-8-8 --data fake --max-steps 2 --out runs/try
  stimulative matrix digits --nets 1-1-1 2-2-2 3-3-3 --seeds 3 --jobs 2 --out runs/matrix
  stimulative matrix cifar100-densenet121 --model.name cifar/densenet264 --nets 6-12-24-16 6-12-32-32 6-12-48-32 \\
      6-12-64-48 --jobs 4 --cluster slurm --out runs/densenets"""


def add(commands: Any) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "matrix",
        help="subnet architectures by main nets",
        description="Train nets of several depths alone, and measure every smaller one inside every larger one, as in "
        "the paper's tables of DenseNets. Works on any residual network too. Runs that have finished in the directory "
        "are not repeated. Writes matrix.json and its picture.",
        usage="stimulative matrix RECIPE --nets DEPTHS ... --out DIR [--method NAME] [--seeds N] [--data NAME] "
        "[--max-steps N] [--jobs N] [--section.key VALUE ...]",
        examples=_EXAMPLES,
        settings=True,
    )
    parser.add_argument(
        "--nets",
        nargs="+",
        required=True,
        metavar="DEPTHS",
        help="the nets by their depths, cut from the recipe's model: 2-4-4 2-8-8",
    )
    parser.add_argument("--method", default="common", metavar="NAME", help="how they are trained (default: common)")
    add_data(parser)
    add_max_steps(parser)
    add_study(parser, seeds=1)


def run(options: argparse.Namespace, rest: list[str]) -> int:
    """Fill the matrix."""
    from stimulative.config import load_recipe
    from stimulative.report import draw_matrix
    from stimulative.studies import MatrixPlan, fill_matrix

    refuse_method(rest, "--method")
    instead = data_settings(options.recipe, options.data, rest) + max_steps_settings(options.max_steps)
    recipe = load_recipe(options.recipe, [*instead, *rest])
    plan = MatrixPlan(recipe, options.nets, method=options.method, seeds=options.seeds)
    each = f", by {options.method} training" + at_most(recipe)
    return run_study(options, plan, fill_matrix, Telling(_show, draw_matrix, each))


def _show(matrix: Matrix) -> None:
    from rich.console import Console
    from rich.table import Table

    cells = {(cell.subnet, cell.main): cell for cell in matrix.cells}
    measure = measure_of(matrix.task)
    title = measure.heading + (" (perplexity)" if matrix.of_text else "")
    table = Table(title=title, title_justify="left")
    table.add_column("subnet", no_wrap=True)
    for net in matrix.nets:
        table.add_column(net, justify="right", no_wrap=True)
    for subnet in matrix.nets:
        row = [cells.get((subnet, net)) for net in matrix.nets]
        table.add_row(subnet, *("–" if cell is None else _shown(cell, measure) for cell in row))
    Console().print(table)
    print("rows: subnets, inside the nets of the columns; on the diagonal each net trained alone")
    if matrix.statistics is not None:
        print(f"statistics of each subnet: from {matrix.statistics}")


def _shown(cell: MatrixCell, measure: Measure) -> str:
    perplexity = "" if cell.perplexity is None else f" ({cell.perplexity:.2f})"
    shown = measure.pair(cell.mean, cell.std) if cell.seeds > 1 else f"{cell.mean:{measure.form}}"
    return shown + perplexity
