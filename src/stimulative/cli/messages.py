"""What the library says of its arguments (``out=``), in the options of a command (``--out``).

Library functions speak Python, and know of no command line. A command gives its options on under their names, so that
a message is translated without knowing what it is about: ``resume=True`` is ``--resume``, ``format='torch'`` is
``--format torch``. Calls, quoted texts and what the user gave stay as they are.
"""

from __future__ import annotations

import argparse
import ast
import re
import shlex
import signal
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from stimulative.extension import HOW_TO_TRUST
from stimulative.naming import printable
from stimulative.ranks import is_first_of_node

_QUOTED = r"""(?<!\w)(?:'(?:[^'\\\n]|\\.)*'|"(?:[^"\\\n]|\\.)*")(?!\w)"""
_CALL = r"[\w.]*\w\((?:[^()]|\([^()]*\))*\)"
_VALUE = rf"{_QUOTED}(?: or {_QUOTED})*|\[{_QUOTED}(?:, {_QUOTED})*\]|[\w+-]+(?:\.\w+)*"


_A_MOMENT = 2.0
"""Seconds after which a process that says nothing ends: whoever has started it ends the others then."""


class CommandFailed(Exception):
    """A command could not do what it was asked for, though nothing was wrong with that; exit status 1."""


def say(message: str, error: BaseException) -> None:
    """Tell of the end of a command, once for the processes of a node that train together.

    Args:
        message: What to say.
        error: What has ended it; one that its process alone has met (``of_one`` is true) it says itself.
    """
    causes: list[BaseException | None] = [error, error.__cause__, getattr(error.__cause__, "__cause__", None)]
    if is_first_of_node() or any(getattr(one, "of_one", False) for one in causes):
        print(printable(message), file=sys.stderr, flush=True)
    else:
        time.sleep(_A_MOMENT)


@contextmanager
def reading_died() -> Iterator[None]:
    """Say what to do where a process that reads data has died, of which PyTorch tells with a traceback.

    Raises:
        CommandFailed: If one has.
    """
    try:
        yield
    except RuntimeError as error:
        if not str(error).startswith("DataLoader worker (pid"):  # others are what a process that lives has to say
            raise
        raise CommandFailed(
            f"a process that reads data has died: {str(error).strip(' .')}. Where memory is short, take fewer of them "
            "(data.workers). What is written is whole: the same command goes on, and train goes on with --resume"
        ) from error


def interrupted_status(interrupt: KeyboardInterrupt) -> int:
    """The exit status of a command that a signal has ended: 128 and the signal's number, as shells have it."""
    return 128 + int(getattr(interrupt, "number", signal.SIGINT))


def in_options(message: str, actions: Sequence[argparse.Action], given: Sequence[str] = ()) -> str:
    """A message of a library function in the words of a command.

    Args:
        message: The message.
        actions: The arguments of the command; what one is called in the library is its ``dest``.
        given: The words of the command line, which are the user's, and stay as they are where they are quoted.

    Returns:
        The message. ``name=`` has become the option, where it is one; ``name='value'`` and ``name=value`` the option
        and its value, ``name='one' or 'other'`` both, a list that with commas; and ``name=True``, of an option
        without value that says this, the option.
    """
    options = {action.dest: action for action in actions if action.option_strings}
    if not options:
        return message
    names = "|".join(map(re.escape, options))
    argument = rf"(?<![\w./\\=~:-])(?P<name>{names})=(?!=)(?P<value>{_VALUE})?"
    if "trust" in options:
        message = message.replace(HOW_TO_TRUST, "say --trust")
    kept = "|".join([*map(re.escape, _like_arguments(given)), _CALL, _QUOTED])
    return re.sub(rf"{kept}|{argument}", lambda match: _translated(match, options), message)


def _like_arguments(given: Sequence[str]) -> list[str]:
    """The user's words that could be taken for arguments, as they are given and as paths of them are printed."""
    texts = {text for word in given for text in (word, word.partition("=")[2] if word.startswith("--") else word)}
    found = {form for text in texts for form in (text, str(Path(text)), *Path(text).parts) if "=" in form}
    return sorted(found, key=len, reverse=True)


def _translated(match: re.Match[str], options: Mapping[str, argparse.Action]) -> str:
    whole, name, value = match[0], match["name"], match["value"]
    if name is None:
        return whole
    action = options[name]
    option = next((text for text in action.option_strings if text.startswith("--")), action.option_strings[0])
    if action.nargs == 0:
        said = "True" if value is None else value
        return option if said == str(action.const) else whole
    if value in ("True", "False", "None"):
        return whole
    return option if value is None else f"{option} {_words(value)}"


def _words(value: str) -> str:
    """Python values as words of a command line: texts, of which one is chosen, a list with commas, or as it is."""
    if value.startswith("["):
        return shlex.quote(",".join(map(str, ast.literal_eval(value))))
    return re.sub(_QUOTED, lambda match: shlex.quote(ast.literal_eval(match[0])), value)
