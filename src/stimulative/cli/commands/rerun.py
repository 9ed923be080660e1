"""``stimulative rerun``: make a run again from its record, and compare."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from typing import Any

from stimulative.cli.messages import CommandFailed, interrupted_status

TAKES_SETTINGS = False
_EXAMPLES = """examples:
  stimulative rerun runs/demo/stimulative-seed0
  stimulative rerun runs/c100 --out runs/c100-again --json"""


def add(commands: Any) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "rerun",
        help="make a run again from its record, and compare",
        description="Train a finished run again by its recipe, with its seed and as many threads, measure the subnets\n"
        "that were measured, and compare weights, log and scores. With the same versions on the same kind\n"
        "of processor they are equal to the last bit; what differs in the surroundings is told. Status 1\n"
        "if something is not equal.",
        usage="stimulative rerun RUN [--out DIR] [--json]",
        examples=_EXAMPLES,
    )
    parser.add_argument("run", metavar="RUN", help="run directory")
    parser.add_argument("--out", metavar="DIR", help="directory of the second run (default: RUN-rerun)")
    parser.add_argument("--json", action="store_true", help="print what was compared as JSON, and nothing else")


def run(options: argparse.Namespace, rest: list[str]) -> int:
    """Make it again."""
    from stimulative.studies import rerun
    from stimulative.training import Diverged

    try:
        found = rerun(options.run, options.out)
    except Diverged as error:
        raise CommandFailed(f"stopped: {error}") from error
    except KeyboardInterrupt as stopped:
        words = ["stimulative", "rerun", options.run, *(["--out", options.out] if options.out else [])]
        print(f"\n{str(stopped) or 'interrupted'}; go on with: {shlex.join(words)}", file=sys.stderr)
        return interrupted_status(stopped)
    if options.json:
        print(json.dumps(found.to_mapping(), indent=2))
    else:
        for one in found.compared:
            print(f"{one.what:<9} {'equal' if one.equal else 'other'}  {one.details}")
        for difference in found.surroundings:
            print(f"surroundings differ: {difference}")
        print(f"{found.again}: {'as' if found.equal else 'not as'} {found.run}")
    return 0 if found.equal else 1
