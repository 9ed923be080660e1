"""``stimulative evaluate``: how good every subnet of a trained run is."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

_EXAMPLES = """examples:
  stimulative evaluate runs/demo/stimulative-seed0
  stimulative evaluate runs/c100 --subnets 50 --json"""


def add(commands: Any) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "evaluate",
        help="accuracy of the subnets of a trained run",
        description="Measure the subnets of a finished run on its test split, each with recalibrated normalisation "
        "statistics. Writes subnets.csv and the summary's 'subnets' part.",
        examples=_EXAMPLES,
    )
    parser.add_argument("run", metavar="RUN", help="run directory")
    parser.add_argument("--subnets", metavar="all|N", help="all, or how many to draw (default: the recipe's)")
    parser.add_argument("--seed", type=int, metavar="S", help="seed of the draw (default: the recipe's)")
    parser.add_argument("--json", action="store_true", help="print the summary as JSON")


def run(options: argparse.Namespace, rest: list[str]) -> int:
    """Evaluate."""
    from stimulative.analysis.family import evaluate, recipe_of
    from stimulative.errors import UsageError

    subnets: Any = options.subnets
    if subnets is not None and subnets != "all":
        if not subnets.isdecimal() or int(subnets) < 1:
            raise UsageError(f"--subnets is 'all' or a number of 1 or more, got {subnets!r}")
        subnets = int(subnets)
    directory = Path(options.run)
    recipe_of(directory)
    summary = evaluate_with_bar(evaluate, directory, subnets, options.seed)
    if options.json:
        print(json.dumps(summary, indent=2))
        return 0
    part = summary["subnets"]
    print(f"main net          {summary['main']['top1']:6.2f}%")
    print(
        f"{part['evaluated']:,} of {part['count']:,} subnets {part['mean']:6.2f} ± {part['std']:.2f}% "
        f"({part['min']:.2f} to {part['max']:.2f}), statistics from {part['calibration_images']:,} images"
    )
    print(f"each one: {directory / 'subnets.csv'}")
    return 0


def evaluate_with_bar(evaluate: Any, directory: Path, subnets: Any, seed: int | None) -> dict[str, Any]:
    """Evaluate under a progress bar on standard error."""
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("evaluating subnets", total=None)
        return evaluate(
            directory,
            subnets=subnets,
            seed=seed,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
