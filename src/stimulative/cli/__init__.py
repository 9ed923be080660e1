"""The command line: ``stimulative COMMAND``. Commands translate between words and the library; none does the work."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from stimulative.cli.commands import (
    choose,
    compare,
    destroy,
    evaluate,
    export,
    init,
    loafing,
    matrix,
    pack,
    report,
    sweep,
    train,
    unravel,
)
from stimulative.cli.parser import Parser
from stimulative.cli.source import without_settings
from stimulative.errors import UsageError

_COMMANDS = {
    "unravel": unravel,
    "init": init,
    "train": train,
    "evaluate": evaluate,
    "compare": compare,
    "loafing": loafing,
    "matrix": matrix,
    "sweep": sweep,
    "destroy": destroy,
    "report": report,
    "choose": choose,
    "pack": pack,
    "export": export,
}
_EXAMPLES = """examples:
  stimulative unravel timm/resnet50                     what a model is made of
  stimulative compare digits --out runs/demo            see what stimulative training does, in minutes
  stimulative train cifar100-resnet20 --out runs/c100   train by a recipe
  stimulative init --model timm/resnet50 --data folder:photos --out photos.yaml    a recipe of your own
  stimulative evaluate runs/c100                        accuracy of every subnet of a trained run"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit status: 0 done, 1 failed, 2 bad input, 130 interrupted."""
    parser = Parser(
        prog="stimulative",
        description="Train residual networks so that every sub-network pulls its weight, and measure how far.",
        examples=_EXAMPLES,
    )
    parser.add_argument("--version", action="store_true", help="show the version and exit")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", parser_class=Parser)
    for command in _COMMANDS.values():
        command.add(commands)
    try:
        words, settings = without_settings(sys.argv[1:] if arguments is None else arguments)
        options, rest = parser.parse_known_args(words)
        rest += settings
        if options.version:
            from stimulative import __version__

            print(f"stimulative {__version__}")
            return 0
        if options.command is None:
            parser.print_help()
            return 0
        command = _COMMANDS[options.command]
        if rest and not getattr(command, "TAKES_SETTINGS", False):
            raise UsageError(f"unknown option {rest[0]!r}; see stimulative {options.command} --help")
        return command.run(options, rest)
    except UsageError as error:
        print(f"stimulative: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        return 1
