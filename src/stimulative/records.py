"""Records: frozen dataclasses that stand in a JSON file under the names of their fields.

What is in a file is decided here, at its edge, and nowhere else: a key that is missing or holds something else than its
field is an error that names the key, and keys that no field has are passed over, as those of a later version. Texts are
read as they can be printed.
"""

from __future__ import annotations

import dataclasses
import functools
import types
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self, Union, get_args, get_origin, get_type_hints

from stimulative.errors import UsageError
from stimulative.naming import printable

if TYPE_CHECKING:
    from collections.abc import Iterator

_ABSENT = "absent"


class RecordError(ValueError):
    """A mapping is not that of a record; the message names the key."""


def absent() -> Any:
    """A field of None by default, whose key is left out of the file then."""
    return dataclasses.field(default=None, metadata={_ABSENT: True})


class LaterFormat(ValueError):
    """A file is of a later version than this one; rewriting it would lose what it says."""


def check_format(mapping: Mapping[str, Any], newest: int, what: str) -> None:
    """Make sure that a file is not of a later format than is known; a file without a number is of the first.

    Args:
        mapping: What it holds.
        newest: The number of the newest format that is known.
        what: What it is, for the message.

    Raises:
        LaterFormat: If it is.
    """
    number = mapping.get("format")
    if isinstance(number, int) and number > newest:
        raise LaterFormat(
            f"this {what} is of format {number}, and this version of stimulative reads up to {newest}; update "
            "stimulative"
        )


class Record:
    """Base of the dataclasses that stand in JSON files; ``from_mapping`` reads what ``to_mapping`` gives."""

    __dataclass_fields__: ClassVar[dict[str, dataclasses.Field[Any]]]

    def to_mapping(self) -> dict[str, Any]:
        """The record as plain mappings, lists, texts and numbers, in the order of its fields."""
        mapping = {}
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if value is not None or _ABSENT not in field.metadata:
                mapping[field.name] = _plain(value)
        return mapping

    @classmethod
    def from_mapping(cls, mapping: Any) -> Self:
        """Read a record.

        Raises:
            RecordError: If a key is missing, or holds something else than its field.
        """
        return _read(cls, mapping, "")


@contextmanager
def understanding(path: Path) -> Iterator[None]:
    """Say which file it is when what it holds is not as expected.

    Raises:
        UsageError: In place of whatever reading the contents raises.
    """
    try:
        yield
    except UsageError:
        raise
    except LaterFormat as error:
        raise UsageError(f"{path}: {error}") from error
    except KeyError as error:
        raise UsageError(f"{path} is not as stimulative writes it: {error} is missing; make it anew") from error
    except (TypeError, ValueError, IndexError, AttributeError) as error:
        raise UsageError(f"{path} is not as stimulative writes it: {error}; make it anew") from error


@functools.cache
def _hints(kind: type) -> Mapping[str, Any]:
    return get_type_hints(kind)


def _plain(value: Any) -> Any:
    if isinstance(value, Record):
        return value.to_mapping()
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, tuple | list) else value


def _read(kind: type, mapping: Any, path: str) -> Any:
    if not isinstance(mapping, Mapping):
        raise RecordError(f"{path or 'the file'} is {_shown(mapping)}, where a mapping is expected")
    values = {}
    for field in dataclasses.fields(kind):
        key = f"{path}.{field.name}" if path else field.name
        if field.name in mapping:
            values[field.name] = _value(_hints(kind)[field.name], mapping[field.name], key)
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise RecordError(f"{key!r} is missing")
    return kind(**values)


def _value(annotation: Any, value: Any, path: str) -> Any:
    """A value of a JSON file as its field has it; JSON has lists for tuples, and no difference of 1 and 1.0."""
    origin, parts = get_origin(annotation), get_args(annotation)
    if annotation is Any:
        return value
    if origin in (Union, types.UnionType):
        return _alternative(parts, value, path)
    if origin is Literal:
        if value in parts:
            return value
        raise RecordError(f"{path!r} is {_shown(value)}, where one of {', '.join(map(str, parts))} is expected")
    if isinstance(annotation, type) and issubclass(annotation, Record):
        return annotation.from_mapping(value) if not path else _of_record(annotation, value, path)
    if origin in (tuple, list, Sequence):
        if not isinstance(value, list | tuple):
            raise RecordError(f"{path!r} is {_shown(value)}, where a list is expected")
        items = [_value(parts[0], item, f"{path}[{number}]") for number, item in enumerate(value)]
        return tuple(items) if origin is not list else items
    if origin in (dict, Mapping):
        if not isinstance(value, Mapping):
            raise RecordError(f"{path!r} is {_shown(value)}, where a mapping is expected")
        return {printable(key): _value(parts[1], item, f"{path}.{key}") for key, item in value.items()}
    return _simple(annotation, value, path)


def _of_record(kind: type[Record], value: Any, path: str) -> Any:
    if kind.from_mapping.__func__ is not Record.from_mapping.__func__:  # it reads more than its fields
        try:
            return kind.from_mapping(value)
        except RecordError as error:
            raise RecordError(f"{path}: {error}") from error
    return _read(kind, value, path)


def _alternative(parts: Sequence[Any], value: Any, path: str) -> Any:
    if value is None and type(None) in parts:
        return None
    problem: RecordError | None = None
    for part in parts:
        if part is type(None):
            continue
        try:
            return _value(part, value, path)
        except RecordError as error:
            problem = problem or error
    raise problem or RecordError(f"{path!r} is {_shown(value)}")


def _simple(annotation: Any, value: Any, path: str) -> Any:
    words = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}
    if annotation is float and isinstance(value, int) and not isinstance(value, bool):
        return value
    if not isinstance(value, annotation) or (isinstance(value, bool) and annotation is not bool):
        raise RecordError(f"{path!r} is {_shown(value)}, where {words.get(annotation, 'another value')} is expected")
    return printable(value) if isinstance(value, str) else value


def _shown(value: Any) -> str:
    shown = repr(value)
    return shown if len(shown) <= 60 else f"{shown[:57]}..."
