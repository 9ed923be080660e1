"""The settings that a class takes, and whether a value is of a setting's type.

Names, types, defaults and help are read from the class itself, so a recipe needs no second list of them.
jsonargparse decides whether a value fits a type; the words for the user, and what it lets through that a
recipe must not, are here.
"""

import dataclasses
import functools
import inspect
import math
import types
from argparse import ArgumentError
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from stimulative.naming import has_controls

REQUIRED: Any = inspect.Parameter.empty


@dataclass(frozen=True)
class Setting:
    """One value that a recipe may set.

    Attributes:
        annotation: Its type.
        default: Its value when nothing is said, or `REQUIRED`.
        help: What it does, from the docstring of its class.
    """

    annotation: Any
    default: Any = REQUIRED
    help: str = ""

    @property
    def is_mapping(self) -> bool:
        """Whether the value may be a mapping, so that parts of it can be set one by one."""
        return any(issubclass(kind, Mapping) for kind in map(_plain_class, _alternatives(self.annotation)))


@functools.cache
def settings_of(owner: type, skip: tuple[str, ...] = ()) -> Mapping[str, Setting]:
    """Reads the settings of a dataclass, or of any class from the signature of its constructor.

    Args:
        owner: The class.
        skip: Parameters that are not settings.
    """
    help_of = _documented(owner)
    if dataclasses.is_dataclass(owner):
        annotations = get_type_hints(owner)
        defaults = {field.name: _default(field) for field in dataclasses.fields(owner)}
    else:
        annotations = get_type_hints(owner.__init__)
        parameters = list(inspect.signature(owner).parameters.values())
        defaults = {p.name: p.default for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)}
    return {
        name: Setting(_writable(annotations.get(name, Any)), default, help_of.get(name, ""))
        for name, default in defaults.items()
        if name not in skip
    }


def convert(annotation: Any, value: Any) -> Any:
    """Turns a value as YAML gives it into one of the setting's type: an int for a float, a list for a tuple.

    Raises:
        TypeError: The value is not of the type; the message says what would be.
    """
    kinds = [_plain_class(kind) for kind in _alternatives(annotation)]
    if not all(math.isfinite(number) for number in _floats(value)):
        raise TypeError(f"{describe(annotation)}, and finite")
    if any(map(has_controls, _texts(value))):
        raise TypeError(f"{describe(annotation)}, without control characters")
    if isinstance(value, Mapping) and any(_holds_anything(kind) for kind in _alternatives(annotation)):
        if not all(isinstance(key, str) for key in value):
            raise TypeError(f"{describe(annotation)}, with texts as keys")
        return dict(value)  # jsonargparse would parse the texts inside once more
    if isinstance(value, str) and (str in kinds or Any in kinds):
        return value  # likewise: it takes the text "null" for null
    if value is None and type(None) not in kinds and Any not in kinds:
        raise TypeError(describe(annotation))

    from jsonargparse import ArgumentParser

    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--value", type=annotation)
    try:
        converted = parser.parse_object({"value": value}).value
    except ArgumentError as error:
        raise TypeError(describe(annotation)) from error
    if not all(math.isfinite(number) for number in _floats(converted)):
        raise TypeError(f"{describe(annotation)}, and finite")
    return converted


def describe(annotation: Any) -> str:
    """A type in the words of somebody who writes a recipe."""
    words = {bool: "true or false", int: "a whole number", float: "a number", str: "text", type(None): "null"}
    described = []
    for kind in _alternatives(annotation):
        if get_origin(kind) is Literal:
            words_of = [str(choice) for choice in get_args(kind)]
            described.append(("one of " if len(words_of) > 1 else "") + ", ".join(words_of))
        elif _plain_class(kind) in (tuple, list):
            described.append(_describe_list(kind))
        elif issubclass(_plain_class(kind), Mapping):
            described.append("a mapping")
        else:
            described.append(words.get(kind, "any value"))
    return " or ".join(described)


def plain(value: Any) -> Any:
    """The value with tuples as lists, as YAML writes them."""
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, tuple | list) else value


def _describe_list(kind: Any) -> str:
    plural = {bool: "true or false values", int: "whole numbers", float: "numbers", str: "texts"}
    items = [item for item in get_args(kind) if item is not Ellipsis]
    if not items:
        return "a list, in brackets"
    if len(set(items)) > 1:
        return f"a list of {' and '.join(map(describe, items))}, in brackets"
    fixed = _plain_class(kind) is tuple and Ellipsis not in get_args(kind)
    return f"a list of {f'{len(items)} ' if fixed else ''}{plural.get(items[0], 'values')}, in brackets"


def _alternatives(annotation: Any) -> tuple[Any, ...]:
    return get_args(annotation) if get_origin(annotation) in (Union, types.UnionType) else (annotation,)


def _writable(annotation: Any) -> Any:
    """The type without functions, which cannot be written in a recipe."""
    kinds = tuple(kind for kind in _alternatives(annotation) if get_origin(kind) is not Callable)
    return Union[kinds] if kinds else annotation  # noqa: UP007


def _plain_class(kind: Any) -> type:
    plain = get_origin(kind) or kind
    return plain if isinstance(plain, type) else object


def _holds_anything(kind: Any) -> bool:
    return issubclass(_plain_class(kind), Mapping) and get_args(kind) in ((), (str, Any))


def _default(field: dataclasses.Field[Any]) -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return REQUIRED if field.default is dataclasses.MISSING else field.default


def _documented(owner: type) -> dict[str, str]:
    try:
        import docstring_parser
    except ImportError:  # help without words is still help
        return {}
    texts = [text for text in (owner.__doc__, owner.__init__.__doc__) if text]
    parameters = [parameter for text in texts for parameter in docstring_parser.parse(text).params]
    return {p.arg_name: " ".join((p.description or "").split()) for p in parameters}


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for pair in value.items():
            for part in pair:
                yield from _texts(part)
    elif isinstance(value, tuple | list):
        for item in value:
            yield from _texts(item)


def _floats(value: Any) -> Iterator[float]:
    if isinstance(value, float):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _floats(item)
    elif isinstance(value, Sequence) and not isinstance(value, str):
        for item in value:
            yield from _floats(item)
