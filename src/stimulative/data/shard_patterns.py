"""Which shards a pattern names: braces for numbers and words, and the wildcards of a shell.

`train-{000..146}.tar` are 147 shards, `{a,b}.tar` two, `train-*.tar` those that are there. Braces promise files, and
one that is missing is an error; wildcards take what they find.
"""

import glob
import itertools
import os
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from stimulative.errors import UsageError
from stimulative.files import user_path

_MOST = 100_000
_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d{1,9})\.\.(\d{1,9})")
_ELSEWHERE = re.compile(r"pipe:|\w+://")


def pattern_problem(pattern: str) -> str | None:
    """What is wrong with a pattern, found without touching a file; None if nothing is."""
    if _ELSEWHERE.match(pattern):
        return f"shards are read from files of this machine, and never by a command, got {pattern!r}"
    if "::" in pattern:
        return f"one pattern names all shards, as train-{{000..146}}.tar or {{a,b}}/*.tar do, got {pattern!r}"
    count = 1
    for inner in _BRACES.findall(pattern):
        numbers = _RANGE.fullmatch(inner)
        if numbers is None and "," not in inner:
            return f"braces hold a range or words, as in {{000..146}} or {{a,b}}, got {{{inner}}} in {pattern!r}"
        if numbers is not None and int(numbers[1]) > int(numbers[2]):
            return f"a range of shards goes up, got {{{inner}}} in {pattern!r}"
        count *= int(numbers[2]) - int(numbers[1]) + 1 if numbers is not None else inner.count(",") + 1
    if re.search("[{}]", _BRACES.sub("", pattern)):
        return f"braces have to be closed, and hold no others, got {pattern!r}"
    if count > _MOST:
        return f"{pattern!r} names {count:,} shards; there may be {_MOST:,}"
    return None


def find_shards(pattern: str, key: str) -> tuple[str, ...]:
    """The files that a pattern names, in the order in which it names them.

    Args:
        pattern: One in which `pattern_problem` finds nothing wrong.
        key: The setting that it is from, for messages.

    Raises:
        UsageError: If some are not there, or are named twice.
    """
    named = [str(user_path(path)) for path in _expanded(pattern)]
    found: list[str] = []
    for path in named:
        found += sorted(glob.glob(path, recursive=True)) if glob.has_magic(path) else [path]
    missing = [path for path in found if not Path(path).is_file()]
    if missing:
        raise UsageError(f"{key}: {len(missing)} of the {len(found)} shards are not there, such as {missing[0]}")
    if not found:
        raise UsageError(f"{key}: there is no shard {pattern}; shards are tar files, as WebDataset has them")
    named_twice = [path for path, times in Counter(map(os.path.realpath, found)).items() if times > 1]
    if named_twice:
        raise UsageError(f"{key}: {pattern} names {len(named_twice)} shards twice, such as {named_twice[0]}")
    return tuple(found)


def _expanded(pattern: str) -> Iterator[str]:
    """All that the braces of a pattern stand for."""
    # split by a group, what is between the braces stands at odd places
    parts = [_words(part) if place % 2 else [part] for place, part in enumerate(_BRACES.split(pattern))]
    return map("".join, itertools.product(*parts))


def _words(inner: str) -> list[str]:
    """What braces stand for, by what is between them."""
    numbers = _RANGE.fullmatch(inner)
    if numbers is None:
        return inner.split(",")
    width = len(numbers[1]) if numbers[1].startswith("0") else 0
    return [str(number).zfill(width) for number in range(int(numbers[1]), int(numbers[2]) + 1)]
