"""``stimulative pack``: subnets of a run in one file, to be switched at run time."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stimulative.cli.progress import progress_bar
from stimulative.errors import UsageError

if TYPE_CHECKING:
    from stimulative.deploy import Packed
    from stimulative.runs import RunDirectory

TAKES_SETTINGS = False
_EXAMPLES = """examples:
  stimulative pack runs/c100                                   # the accuracy-FLOPs frontier, and the main net
  stimulative pack runs/c100 --subnets 3-3-3,2-2-2,1-1-1 --out family.safetensors

then, in Python:
  net = stimulative.load("family.safetensors")
  with net.use("2-2-2"):
      logits = net(x)"""


def add(commands: Any) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "pack",
        help="subnets of a trained network in one file, switched at run time",
        description="Write subnets of a finished run into one safetensors file: shared weights once, and the\n"
        "normalisation statistics of each subnet; and beside it a JSON file with what is known of them.\n"
        "stimulative.load(FILE) makes one module of it whose depth is switched at run time.",
        usage="stimulative pack RUN [--subnets frontier|LIST] [--out FILE] [--force] [--json]",
        examples=_EXAMPLES,
    )
    parser.add_argument("run", metavar="RUN", help="run directory")
    parser.add_argument(
        "--subnets",
        nargs="+",
        default=["frontier"],
        metavar="SUBNET",
        help="subnets, separated by commas or spaces; or frontier: those that no other one beats in FLOPs and accuracy "
        "on the validation part, and the main net (default; the run has to be evaluated)",
    )
    parser.add_argument("--out", metavar="FILE", help="the file (default: RUN/family.safetensors)")
    parser.add_argument("--force", action="store_true", help="replace files that are there")
    parser.add_argument("--json", action="store_true", help="print what the JSON file says, and nothing else")


def run(options: argparse.Namespace, rest: list[str]) -> int:
    """Pack."""
    from stimulative.residual import Subnet

    words = [word for part in options.subnets for word in part.split(",") if word]
    if not words or ("frontier" in words and len(words) > 1):
        raise UsageError(f"--subnets is 'frontier', or subnets, got {' '.join(options.subnets)!r}")
    subnets: Any = "frontier" if words == ["frontier"] else [Subnet.parse(word) for word in words]
    from stimulative.deploy import Packed, pack
    from stimulative.runs import RunDirectory

    with progress_bar("packing subnets") as show:
        packed = pack(options.run, subnets, out=options.out, force=options.force, progress=show)
    if options.json:
        print(json.dumps(packed, indent=2))
    else:
        _show(RunDirectory(Path(options.run)), Packed.from_mapping(packed))
    return 0


def _show(run: RunDirectory, packed: Packed) -> None:
    from rich.table import Table

    from stimulative.cli.tables import measure_of, print_table

    text = packed.task == "text"
    table = Table(title=f"{len(packed.subnets)} subnets", title_justify="left")
    table.add_column("subnet", no_wrap=True)
    measure = measure_of(packed.task)
    columns = ("validation", f"test {measure.short}", *(["perplexity"] if text else []), "M parameters", "MFLOPs")
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    for entry in packed.subnets:
        table.add_row(
            entry.subnet,
            "" if entry.validation_quality is None else f"{entry.validation_quality:{measure.form}}",
            f"{entry.quality:{measure.form}}",
            *([f"{entry.perplexity:.2f}"] if text else []),
            f"{entry.parameters / 1e6:.3f}",
            f"{entry.flops / 1e6:,.2f}",
        )
    print_table(table)
    whole = run.weights.stat().st_size
    print(
        f"{packed.file}: {packed.bytes / 1e6:,.2f} MB, {packed.bytes / whole:.2f} of the main net alone "
        f"({whole / 1e6:,.2f} MB); {packed.json} says what is in it"
    )
    print(f"use it: net = stimulative.load({packed.file!r}); net.use({packed.subnets[0].subnet!r})")
