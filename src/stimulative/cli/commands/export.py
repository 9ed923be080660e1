"""``stimulative export``: a subnet of a trained network as a file for others to run."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from typing import Any

from stimulative.cli.progress import progress_bar

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
    from stimulative.deploy import ExportFailed, export

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
        print(f"stimulative: subnet {options.subnet} was not exported, no file was left: {error}", file=sys.stderr)
        return 1
    if options.json:
        print(json.dumps(written, indent=2))
    else:
        _show(written)
    return 0


def _show(written: Mapping[str, Any]) -> None:
    from rich.table import Table

    from stimulative.cli.study_options import print_table

    main, check = written["main_net"], written["check"]
    text = "perplexity" in written["test"]
    table = Table()
    table.add_column("", no_wrap=True)
    table.add_column(f"subnet {written['subnet']}", justify="right", no_wrap=True)
    table.add_column(f"main net {main['subnet']}", justify="right", no_wrap=True)
    rows = {
        "next-token accuracy" if text else "top-1": [f"{net['test']['top1']:.2f}%" for net in (written, main)],
        "parameters": [f"{net['parameters']:,}" for net in (written, main)],
        "MFLOPs": [f"{net['flops'] / 1e6:,.2f}" for net in (written, main)],
        "MB": [f"{written['bytes'] / 1e6:,.3f}", f"{written['main_net_bytes'] / 1e6:,.3f} of weights"],
    }
    for name, values in rows.items():
        table.add_row(name, *values)
    print_table(table)
    print(f"{written['file']}: {written['bytes'] / 1e6:,.3f} MB")
    for word, side in (("takes", written["input"]), ("gives", written["output"])):
        shape = ", ".join(map(str, side["shape"]))
        print(f"{word} {', '.join(side['names'])}: {side['type']} ({shape}), {side['values']}")
    if written["fixed"] is not None:
        sizes = ", ".join(map(str, written["input"]["shape"]))
        print(f"only inputs of ({sizes}), since the model does not let itself be traced for others: {written['fixed']}")
    if "rebuild" in written:
        _tell_rebuilding(written)
    what, of = ("sequences", "positions") if text else ("images", "images")
    batches = sorted(set(check["batches"]))
    print(
        f"checked in {check['in']}, on {check['samples']:,} test {what} in batches of "
        f"{', '.join(map(str, batches))}: outputs differ by {check['difference']:.1e} at most, where the largest is "
        f"{check['largest']:.3g}; the same most likely class for {check['same']:,} of {check['of']:,} {of}"
    )


def _tell_rebuilding(written: Mapping[str, Any]) -> None:
    ways = written["rebuild"]
    if ways["directly"] is not None:
        print(f"built again by {ways['directly']['python']}")
    elif ways["from_main_net"] is not None:
        print(f"built again by {ways['from_main_net']['python']}, without the blocks that are gone: {written['json']}")
    else:
        print("no way was found to build it again without this library: --format torch or onnx needs none")
