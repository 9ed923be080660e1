"""``stimulative export``: a subnet of a trained network as a file for others to run."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING, Any

from stimulative.cli.messages import CommandFailed
from stimulative.cli.progress import progress_bar

if TYPE_CHECKING:
    from stimulative.deploy import Exported, Side

TAKES_SETTINGS = False
_EXAMPLES = """examples:
  stimulative export runs/c100 --subnet 2-1-3                                # -> runs/c100/export/2-1-3.onnx
  stimulative export runs/c100 --subnet 2-1-3 --normalise --temperature --probabilities --out digits.onnx
  stimulative export runs/c100 --subnet 2-1-3 --format torch --out net.pt2    # torch.export.load(FILE).module()
  stimulative export runs/c100 --subnet 2-1-3 --format safetensors           # weights, and a JSON beside them"""


def add(commands: Any) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "export",
        help="a subnet of a trained network as ONNX, a PyTorch program or safetensors",
        description="Write a subnet of a finished run as a file that needs nothing of this library. It is taken out\n"
        "of the main net, with normalisation statistics of its own, takes a batch of any size, and says\n"
        "in its metadata what goes in, what comes out and how good it is. The file is read back and\n"
        "compared with the subnet in place, on data of the test split: if they differ, no file is left.",
        usage="stimulative export RUN --subnet S [--format onnx|torch|safetensors] [--out FILE] [--normalise] "
        "[--temperature] [--probabilities] [--force] [--json]",
        examples=_EXAMPLES,
    )
    parser.add_argument("run", metavar="RUN", help="run directory")
    parser.add_argument("--subnet", metavar="S", required=True, help="the subnet, such as 2-1-3")
    parser.add_argument(
        "--format",
        default="onnx",
        metavar="NAME",
        help="onnx (extra: pip install 'stimulative[onnx]'), torch (a program of torch.export) or safetensors "
        "(weights, and FILE.json, which says how the module is built again; default: onnx)",
    )
    parser.add_argument(
        "--out", metavar="FILE", help="the file (default: RUN/export/SUBNET.onnx, .pt2 or .safetensors)"
    )
    parser.add_argument(
        "--normalise",
        "--normalize",
        action="store_true",
        help="take pixels from 0 to 1, and normalise them in the exported graph (default: take normalised images)",
    )
    parser.add_argument(
        "--temperature",
        action="store_true",
        help="divide logits by the temperature that fits the validation part, so that their softmax is calibrated",
    )
    parser.add_argument("--probabilities", action="store_true", help="give the softmax of the logits")
    parser.add_argument("--force", action="store_true", help="replace a file that is there")
    parser.add_argument("--json", action="store_true", help="print what was written as JSON, and nothing else")


def run(options: argparse.Namespace, rest: list[str]) -> int:
    """Export."""
    from stimulative.deploy import Exported, ExportFailed, export

    try:
        with progress_bar("exporting") as show:
            written = export(
                options.run,
                options.subnet,
                format=options.format,
                out=options.out,
                normalise=options.normalise,
                temperature=options.temperature,
                probabilities=options.probabilities,
                force=options.force,
                progress=show,
            )
    except ExportFailed as error:
        raise CommandFailed(f"subnet {options.subnet} was not exported, no file was left: {error}") from error
    if options.json:
        print(json.dumps(written, indent=2))
    else:
        _show(Exported.from_mapping(written))
    return 0


def _show(exported: Exported) -> None:
    from rich.table import Table

    from stimulative.cli.tables import measure_of, print_table

    main, text = exported.main_net, exported.vocabulary is not None
    table = Table()
    table.add_column("", no_wrap=True)
    table.add_column(f"subnet {exported.subnet}", justify="right", no_wrap=True)
    table.add_column(f"main net {main.subnet}", justify="right", no_wrap=True)
    nets = (exported, main)
    measure = measure_of(exported.task)
    table.add_row(measure.short, *(measure.shown(net.test.quality) for net in nets))
    table.add_row("parameters", *(f"{net.parameters:,}" for net in nets))
    table.add_row("MFLOPs", *(f"{net.flops / 1e6:,.2f}" for net in nets))
    table.add_row("MB", f"{exported.bytes / 1e6:,.3f}", f"{exported.main_net_bytes / 1e6:,.3f} of weights")
    print_table(table)
    print(f"{exported.file}: {exported.bytes / 1e6:,.3f} MB")
    for word, side in (("takes", exported.input), ("gives", exported.output)):
        print(f"{word} {', '.join(side.names)}: {side.type} ({_shape(side)}), {side.values}")
    if exported.fixed is not None:
        print(
            f"only inputs of ({_shape(exported.input)}), since the model does not let itself be traced for others: "
            f"{exported.fixed}"
        )
    _tell_rebuilding(exported)
    what, of = ("sequences", "positions") if text else ("images", "images")
    near = exported.check.agreement
    batches = sorted(set(near.batches))
    decided = {
        "segmentation": "the same most likely class for {} pixels",
        "multilabel": "the same decision for {} labels",
    }.get(exported.task, f"the same most likely class for {{}} {of}")
    same = f"; {decided.format(f'{near.same:,} of {near.of:,}')}" if near.of else ""
    print(
        f"checked in {exported.check.reader}, on {near.samples:,} test {what} in batches of "
        f"{', '.join(map(str, batches))}: outputs differ by {near.difference:.1e} at most, where the largest is "
        f"{near.largest:.3g}{same}"
    )


def _shape(side: Side) -> str:
    return ", ".join(map(str, side.shape))


def _tell_rebuilding(exported: Exported) -> None:
    ways = exported.rebuild
    if ways is None:
        return
    if ways.directly is not None:
        print(f"built again by {ways.directly.python}")
    elif ways.from_main_net is not None:
        print(f"built again by {ways.from_main_net.python}, without the blocks that are gone: {exported.json}")
    else:
        print("no way was found to build it again without this library: --format torch or onnx needs none")
