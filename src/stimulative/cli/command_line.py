"""Which commands there are, and running one of them."""

from __future__ import annotations

import argparse
import errno
import io
import os
import re
import shlex
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Protocol

from stimulative.cli.commands import (
    choose,
    compare,
    destroy,
    doctor,
    evaluate,
    export,
    init,
    loafing,
    matrix,
    pack,
    plan,
    rank,
    report,
    rerun,
    sweep,
    train,
    unravel,
    verify,
)
from stimulative.cli.messages import CommandFailed, in_options, interrupted_status, reading_died, say
from stimulative.cli.parser import Parser, without_settings
from stimulative.errors import UsageError
from stimulative.extension import trusting
from stimulative.files import check_path
from stimulative.naming import has_controls


class Command(Protocol):
    """What a module of ``stimulative.cli.commands`` has."""

    @property
    def TAKES_SETTINGS(self) -> bool:
        """Whether it takes settings of a recipe, ``--section.key VALUE``."""
        ...

    def add(self, commands: Any) -> None:
        """Add the command to the parser."""
        ...

    def run(self, options: argparse.Namespace, rest: list[str]) -> int:
        """Do it; returns the exit status.

        Args:
            options: What was parsed.
            rest: The settings, as words.
        """
        ...


COMMANDS: dict[str, Command] = {
    "unravel": unravel,
    "init": init,
    "plan": plan,
    "train": train,
    "evaluate": evaluate,
    "compare": compare,
    "loafing": loafing,
    "matrix": matrix,
    "sweep": sweep,
    "destroy": destroy,
    "rank": rank,
    "report": report,
    "choose": choose,
    "pack": pack,
    "export": export,
    "verify": verify,
    "rerun": rerun,
    "doctor": doctor,
}
_READS_NO_RECIPE = "unravel", "report", "doctor"
_TRUST = (
    "run what the files name: package.module:name in the recipe of a run directory that somebody else made, which is "
    "refused otherwise"
)
_EXAMPLES = """examples:
  stimulative unravel timm/resnet50                     what a model is made of
  stimulative compare digits --out runs/demo            see what stimulative training does, in minutes
  stimulative train cifar100-resnet20 --out runs/c100   train by a recipe
  stimulative init --model timm/resnet50 --data folder:photos --out photos.yaml    a recipe of your own
  stimulative evaluate runs/c100                        accuracy of every subnet of a trained run"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit status: 0 done, 1 failed, 2 bad input, 130 interrupted (143 by SIGTERM)."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # of what its encoding does not have
    try:
        status = _run(sys.argv[1:] if arguments is None else list(arguments))
        sys.stdout.flush()
        return status
    except CommandFailed as error:
        say(f"stimulative: {error}", error)
        return 1
    except UsageError as error:
        say(f"stimulative: error: {error}", error)
        return 2
    except KeyboardInterrupt as interrupt:
        say(f"\n{str(interrupt) or 'interrupted'}", interrupt)
        return interrupted_status(interrupt)
    except BrokenPipeError:
        return 1
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT) or error.filename is not None:
            raise
        print(f"stimulative: what it has to say cannot be written: {error.strerror}", file=sys.stderr)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is left would fail once more at the end
        return 1
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] == "stimulative":
            raise
        print(
            f"stimulative: the package {error.name!r} is missing; stimulative doctor says what else is", file=sys.stderr
        )
        return 1


def _check_paths(options: argparse.Namespace, parser: Parser) -> None:
    """Make sure that what is given as a path is one that a file system can have, before anything looks for it."""
    for action in parser.arguments:
        given = getattr(options, action.dest, None)
        if re.search("DIR|FILE|RUN", str(action.metavar)) and given:
            for path in [given] if isinstance(given, str) else given:
                check_path(Path(path.partition("#")[0]))


def _run(given: list[str]) -> int:
    if any(map(has_controls, given)):
        raise UsageError(f"a word has control characters, which no name needs: {shlex.join(given)!r:.200}")
    parser = Parser(
        prog="stimulative",
        description="Train residual networks so that every sub-network pulls its weight, and measure how far.",
        examples=_EXAMPLES,
    )
    parser.add_argument("--version", action="store_true", help="show the version and exit")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", parser_class=Parser)
    for command in COMMANDS.values():
        command.add(commands)
    for name, parser_of in commands.choices.items():
        if name not in _READS_NO_RECIPE:
            parser_of.add_argument("--trust", action="store_true", help=_TRUST)
    words, settings = without_settings(given)
    options, rest = parser.parse_known_args(words)
    rest += settings
    if options.version:
        from stimulative import __version__

        print(f"stimulative {__version__}")
        return 0
    if options.command is None:
        parser.print_help()
        return 0
    _check_paths(options, commands.choices[options.command])
    command = COMMANDS[options.command]
    if rest and not command.TAKES_SETTINGS:
        raise UsageError(f"unknown option {rest[0]!r}; see stimulative {options.command} --help")
    try:
        with reading_died(), trusting() if getattr(options, "trust", False) else nullcontext():
            return command.run(options, rest)
    except (UsageError, CommandFailed) as error:
        message = in_options(str(error), commands.choices[options.command].arguments, given)
        raise (CommandFailed if isinstance(error, CommandFailed) else UsageError)(message) from error
