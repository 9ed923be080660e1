"""``stimulative verify``: whether a run or a file is whole, and what it says it is."""

from __future__ import annotations

import argparse
import json
import shlex
from typing import TYPE_CHECKING, Any

from stimulative.files import user_path
from stimulative.naming import printable

if TYPE_CHECKING:
    from stimulative.analysis import Finding

TAKES_SETTINGS = False
_EXAMPLES = """examples:
  stimulative verify runs/c100
  stimulative verify runs/c100 --no-data
  stimulative verify family.safetensors --json"""


def add(commands: Any) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "verify",
        help="whether a run or a file is whole",
        description="Compare the files of a run with their checksums, its recipe and its data with those that the\n"
        "model was trained by, and its table of subnets with its summary; or a file of weights or a family\n"
        "with its own checksum. Status 1 if something is missing, damaged or disagrees,\n"
        "or nothing is known of a file.",
        usage="stimulative verify (RUN | FILE) [--no-data] [--json]",
        examples=_EXAMPLES,
    )
    parser.add_argument("place", metavar="RUN|FILE", help="run directory, or a safetensors file of this library")
    parser.add_argument("--no-data", dest="data", action="store_false", help="do not open the data of the run")
    parser.add_argument("--json", action="store_true", help="print what was found as JSON, and nothing else")


def _unknown(found: list[Finding]) -> bool:
    """Whether that is a file alone, of which nothing is known."""
    return [finding.state for finding in found] == ["no checksum"]


def _verdict(place: str, found: list[Finding]) -> str:
    """What to make of it, in a line."""
    from stimulative.runs import RECIPE, RunDirectory

    wrong = [finding.what for finding in found if not finding.fine]
    if wrong:
        return f"{place}: {len(wrong)} of {len(found)} wrong: {', '.join(wrong)}"
    if _unknown(found):
        return f"{place}: nobody knows; there is nothing to compare it with"
    run = RunDirectory(user_path(place))
    if run.started and not run.finished:
        again = f"stimulative train {shlex.quote(str(run.file(RECIPE)))} --out {shlex.quote(place)} --resume"
        return f"{place}: not finished, and nothing wrong; go on with: {again}"
    return f"{place}: whole"


def run(options: argparse.Namespace, rest: list[str]) -> int:
    """Verify."""
    from stimulative.analysis import verify

    found = verify(options.place, data=options.data)
    if options.json:
        print(json.dumps([finding.to_mapping() for finding in found], indent=2))
    else:
        width = max(len(finding.what) for finding in found)
        for finding in found:
            details = f": {finding.details}" if finding.details else ""
            print(printable(f"{finding.what:<{width}}  {finding.state}{details}"))
        print(_verdict(options.place, found))
    return 0 if all(finding.fine for finding in found) and not _unknown(found) else 1
