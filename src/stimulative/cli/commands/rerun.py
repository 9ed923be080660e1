"""``stimulative rerun``: make a run again from its record, and compare."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from typing import Any

from stimulative.cli.messages import CommandFailed, interrupted_status
from stimulative.cli.parser import without_settings
from stimulative.errors import UsageError

TAKES_SETTINGS = True
_EXAMPLES = """examples:
  stimulative rerun runs/demo/stimulative-seed0
  stimulative rerun runs/c100 --out runs/c100-again --json
  stimulative rerun received/c100 --data.path ~/cifar       # where the data are here, if elsewhere"""


def add(commands: Any) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "rerun",
        help="make a run again from its record, and compare",
        description="Train a finished run again by its recipe, with its seed and as many threads, measure the subnets\n"
        "that were measured, and compare weights, log and scores. With the same versions on the same kind\n"
        "of processor they are equal to the last bit; what differs in the surroundings is told. Status 1\n"
        "if something is not equal.",
        usage="stimulative rerun RUN [--out DIR] [--data.path PATH] [--json]",
        examples=_EXAMPLES,
    )
    parser.add_argument("run", metavar="RUN", help="run directory")
    parser.add_argument("--out", metavar="DIR", help="directory of the second run (default: RUN-rerun)")
    parser.add_argument("--json", action="store_true", help="print what was compared as JSON, and nothing else")


def run(options: argparse.Namespace, rest: list[str]) -> int:
    """Make it again."""
    from stimulative.claiming import is_first_process
    from stimulative.studies import rerun
    from stimulative.training import Diverged, ProcessLost

    stray, _ = without_settings(rest)
    others = [word for word in rest if word.startswith("--") and not word.startswith("--data.")]
    if stray or others:
        raise UsageError(
            f"unknown option {[*stray, *others][0]!r}; a run is made again as it was, from data that may be "
            "elsewhere (--data.path); see stimulative rerun --help"
        )
    if options.out == "":
        raise UsageError("--out is empty; name a directory")
    try:
        found = rerun(options.run, options.out, settings=rest)
    except (Diverged, ProcessLost) as error:
        raise CommandFailed(f"stopped: {error}") from error
    except KeyboardInterrupt as stopped:
        words = ["stimulative", "rerun", options.run, *(["--out", options.out] if options.out else []), *rest]
        words += ["--trust"] * options.trust
        print(f"\n{str(stopped) or 'interrupted'}; go on with: {shlex.join(words)}", file=sys.stderr)
        return interrupted_status(stopped)
    if not is_first_process():
        return 0  # of several processes that train together, one speaks
    if options.json:
        print(json.dumps(found.to_mapping(), indent=2))
    else:
        for one in found.compared:
            print(f"{one.what:<9} {'equal' if one.equal else 'other'}  {one.details}")
        for difference in found.surroundings:
            print(f"surroundings differ: {difference}")
        there = "" if found.trained else " (it was there already, and is compared only)"
        print(f"{found.again}: {'as' if found.equal else 'not as'} {found.run}{there}")
    return 0 if found.equal else 1
