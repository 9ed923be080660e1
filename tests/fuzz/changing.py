"""Changes to values, texts and bytes."""

import copy
import random
from collections.abc import Iterator
from typing import Any

STRANGE: list[Any] = [
    *(None, 0, -1, 1, 1.5, -0.0, 10**7, 10**30, 1e300, float("nan"), float("inf"), True, False),
    *("", "x", "../x", "/dev/null", "~nobody/x", "9-9-9", "1-1-1", "\0", "\x1b[31mred\x1b[0m", "é" * 300, "nan", "1e3"),
    *("os:system", "package.module:name", "%s{0}{x}", "a=b", "--out", "\ud800", "2024-13-45", "[1", "# x"),
    *([], {}, [[]], {"a": 1}, ["layer1"], [1, 2, 3], {"name": "digits"}, [None], {"": ""}, {1: 2}, [[0, 1], [0]]),
]
PIECES = [
    *(
        "- ",
        ": ",
        "\n",
        "\t",
        "  ",
        "&a ",
        "*a",
        "<<: ",
        "!!python/object/apply:os.system ['true']",
        "!!int x",
        "!!set ",
    ),
    *(
        "{",
        "}",
        "[",
        "]",
        "'",
        '"',
        "|",
        ">",
        "?",
        "%",
        "@",
        "`",
        "\\",
        "\0",
        "\x1b[2J",
        "é",
        "²",
        "９",
        "\ufeff",
        "\u2028",
    ),
    *("1e999", "-", "0x10", "0b1", "1_000", "nan", ".inf", "~", "null", "yes", "9" * 40, "1" * 5000, "a" * 300, ","),
]


def places(value: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where in nested lists and mappings something stands."""
    yield place
    if isinstance(value, dict | list):
        for key in value if isinstance(value, dict) else range(len(value)):
            yield from places(value[key], (*place, key))


def changed(value: Any, draw: random.Random, strange: list[Any] = STRANGE) -> Any:
    """Nested lists and mappings in which one or two things are others, are gone, stand twice or elsewhere."""
    value = copy.deepcopy(value)
    for _ in range(draw.choice([1, 1, 2])):
        known = [place for place in places(value) if place]
        if not known:
            return copy.deepcopy(draw.choice(strange))
        *way, last = draw.choice(known)
        owner = value
        for key in way:
            owner = owner[key]
        how = draw.random()
        if how < 0.6:
            owner[last] = copy.deepcopy(draw.choice(strange))
        elif how < 0.75:
            del owner[last]
        elif how < 0.9:
            *way, other = draw.choice(known)
            taken = value
            for key in (*way, other):
                taken = taken[key] if isinstance(taken, dict | list) and key in _keys(taken) else None
            owner[last] = copy.deepcopy(taken)
        elif isinstance(owner, list):
            owner.insert(draw.randrange(len(owner) + 1), copy.deepcopy(draw.choice(strange)))
        else:
            owner[draw.choice(["x", "name", "", "format", *map(str, owner)])] = copy.deepcopy(draw.choice(strange))
    return value


def changed_text(text: str, draw: random.Random) -> str:
    """A text with pieces put in, cut out, doubled or exchanged."""
    for _ in range(draw.choice([1, 1, 2, 4])):
        at = draw.randrange(len(text) + 1)
        end = min(len(text), at + draw.choice([1, 1, 2, 5, 20, 200]))
        how = draw.random()
        if how < 0.4:
            text = text[:at] + draw.choice(PIECES) + text[at:]
        elif how < 0.6:
            text = text[:at] + text[end:]
        elif how < 0.75:
            text = text[:at] + text[at:end] * draw.choice([2, 3, 50]) + text[end:]
        elif how < 0.95:
            text = text[:at] + draw.choice(PIECES) + text[end:]
        else:
            text = text[:at]
    return text


def changed_bytes(content: bytes, draw: random.Random) -> bytes:
    """A file with bits that are others, or parts that are gone, zeros or others."""
    data = bytearray(content)
    for _ in range(draw.choice([1, 1, 1, 3])):
        if not data:
            return bytes(data)
        front = draw.random() < 0.4  # where formats have their headers
        at = draw.randrange(min(len(data), 400)) if front else draw.randrange(len(data))
        end = at + draw.choice([1, 4, 16, 256])
        how = draw.random()
        if how < 0.6:
            data[at] ^= 1 << draw.randrange(8)
        elif how < 0.7:
            del data[at:]
        elif how < 0.8:
            del data[at:end]
        elif how < 0.9:
            data[at:end] = bytes(len(data[at:end]))
        else:
            data[at:end] = draw.randbytes(len(data[at:end]))
    return bytes(data)


def _keys(value: Any) -> Any:
    return value if isinstance(value, dict) else range(len(value))
