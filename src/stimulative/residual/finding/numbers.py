"""The numbers by which layers know which one they are, wherever they keep them.

A layer of a language model finds its keys and values in a cache, or its mask in a list, by its number. Most keep it in
an attribute (``self.layer_idx``). Others have it where no attribute shows it: among the arguments of a
``functools.partial``, in what a function closes over, in a list, a mapping or a small object, as a tensor.

A number counts the layers of a list if it is that of the layer plus something that is the same for all. Whether it says
which layer this is, or only happens to grow (a dilation does), is told by the names on the way to it.
"""

from __future__ import annotations

import copy
import inspect
import types
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

_TELLING = "layer", "block", "idx", "index", "number"
_DEEPEST = 4
_MOST = 64  # members of a list or mapping that are looked at
_NOT_LOOKED_INTO = {"builtins", "collections", "functools", "torch", "types"}
_OWN_TO_MODULES = frozenset(vars(nn.Module()))


class Inward(NamedTuple):
    """A step into a value.

    Args:
        kind: What is gone into.
        key: Where there.
        name: What is there is called, if it has a name.
    """

    kind: str
    key: Any = None
    name: str = ""


@dataclass(frozen=True)
class Number:
    """Where a layer keeps its number.

    Args:
        inside: The module inside of the layer, by its name there.
        attribute: The attribute of that module; of a function of its class, which closes over the number, the name.
        way: How to get from what the attribute holds to the number.
        start: The number of the first layer.
    """

    inside: str
    attribute: str
    way: tuple[Inward, ...]
    start: int

    def __str__(self) -> str:
        return f"{self.inside}.{held_at(self.attribute, self.way)}".lstrip(".")


@dataclass(frozen=True)
class Counting:
    """The numbers in a list of layers that count them.

    Args:
        numbers: Those of each layer whose names tell that they are its number.
        untold: Where the layers hold numbers of which their names do not tell it.
    """

    numbers: tuple[tuple[Number, ...], ...]
    untold: tuple[str, ...]


def numbers_in(layers: Sequence[nn.Module]) -> Counting:
    """The numbers in a list of layers that count them.

    Wherever something of that name is, it holds the layer's number.
    """
    found = [list(_whole_numbers(layer, position)) for position, layer in enumerate(layers)]
    starts: dict[tuple[str, tuple[Inward, ...]], set[int]] = {}
    holders: dict[tuple[str, tuple[Inward, ...]], set[int]] = {}
    for position, own in enumerate(found):
        for number in own:
            starts.setdefault((number.attribute, number.way), set()).add(number.start)
            holders.setdefault((number.attribute, number.way), set()).add(position)
    counting = {at for at, start in starts.items() if len(start) == 1 and len(holders[at]) > 1}
    told = {at for at in counting if _tells(*at)}
    numbers = [tuple(number for number in own if (number.attribute, number.way) in told) for own in found]
    everywhere = [number for number in found[0] if len(holders[number.attribute, number.way]) == len(layers) > 2]
    untold = [str(n) for n in everywhere if (n.attribute, n.way) in counting - told and not _of_torch(layers[0], n)]
    return Counting(tuple(numbers), tuple(dict.fromkeys(untold)))


def held_at(attribute: str, way: Sequence[Inward]) -> str:
    """Where a module holds something, in words."""
    return ".".join((attribute, *(step.name or str(step.key) for step in way if step.key is not None)))


def constants_of(module: nn.Module) -> Iterator[tuple[str, tuple[Inward, ...], Any]]:
    """The numbers, words and switches that a module holds itself: the attribute, the way from there, and the value."""
    for attribute, value in (*vars(module).items(), *module._buffers.items()):
        if attribute not in _OWN_TO_MODULES:
            yield from ((attribute, way, leaf) for way, leaf in _leaves(value, (), frozenset()))
    for attribute, function in _functions(module):
        yield from ((attribute, way, leaf) for way, leaf in _leaves(function, (), frozenset()))


def holds(module: nn.Module, number: Number) -> bool:
    """Whether a module holds a number; what stands for a skipped block does not."""
    return number.attribute in {*vars(module), *module._buffers, *dict(_functions(module))}


def renumbered(module: nn.Module, number: Number, value: int) -> Any:
    """What a module's attribute has to be for the number that it holds to be another one; a copy where that is inside.

    Args:
        module: The module that holds the number.
        number: Where it is.
        value: The other number.
    """
    for own in (vars(module), module._buffers):
        if number.attribute in own:
            return _with(own[number.attribute], number.way, value)
    return types.MethodType(_with(dict(_functions(module))[number.attribute], number.way, value), module)


def _with(held: Any, way: Sequence[Inward], value: int) -> Any:
    """A copy of a value with another number inside."""
    if not way:
        return torch.full_like(held, value) if isinstance(held, Tensor) else value
    step, rest = way[0], way[1:]
    inner = _with(next(found for at, found in _members(held) if at == step), rest, value)
    if isinstance(held, tuple):
        items = (*held[: step.key], inner, *held[step.key + 1 :])
        return type(held)(*items) if hasattr(held, "_fields") else items
    if isinstance(held, partial):
        args, function = list(held.args), held.func
        if step.kind == "argument":
            args[step.key] = inner
        elif step.kind == "function":
            function = inner
        changed = {step.key: inner} if step.kind == "keyword" else {}
        return partial(function, *args, **{**held.keywords, **changed})
    if isinstance(held, types.MethodType):
        return types.MethodType(inner, held.__self__)
    if isinstance(held, types.FunctionType):
        return _function_with(held, step, inner)
    new = copy.copy(held)
    if step.kind == "field":
        object.__setattr__(new, step.key, inner)
    else:
        new[step.key] = inner
    return new


def _function_with(function: types.FunctionType, step: Inward, inner: Any) -> types.FunctionType:
    """A copy of a function that closes over something else, or has another default."""
    cells, defaults = list(function.__closure__ or ()), list(function.__defaults__ or ())
    by_name = function.__kwdefaults__
    if step.kind == "closed over":
        cells[step.key] = types.CellType(inner)
    elif step.kind == "default":
        defaults[step.key] = inner
    else:
        by_name = {**(by_name or {}), step.key: inner}
    code, closure = function.__code__, tuple(cells) or None
    new = types.FunctionType(code, function.__globals__, function.__name__, tuple(defaults) or None, closure)
    new.__kwdefaults__ = by_name
    new.__dict__.update(vars(function))
    return new


def _whole_numbers(layer: nn.Module, position: int) -> Iterator[Number]:
    for inside, module in layer.named_modules():
        for attribute, way, leaf in constants_of(module):
            if type(leaf) is int:
                yield Number(inside, attribute, way, leaf - position)
            elif isinstance(leaf, Tensor):
                yield Number(inside, attribute, way, int(leaf) - position)


def _tells(attribute: str, way: Sequence[Inward]) -> bool:
    """Whether the names on the way to a number say that it is that of a layer."""
    return any(word in name for name in (attribute, *(step.name for step in way)) for word in _TELLING)


def _of_torch(layer: nn.Module, number: Number) -> bool:
    """Whether PyTorch's own code keeps the number: a width, a size of a kernel."""
    return type(layer.get_submodule(number.inside)).__module__.startswith("torch.nn.")


def _functions(module: nn.Module) -> Iterator[tuple[str, types.FunctionType]]:
    """The functions of a module's class that close over something; a class may be made for each layer."""
    for kind in type(module).__mro__:
        if kind is nn.Module:
            break
        for name, function in vars(kind).items():
            if isinstance(function, types.FunctionType) and function.__closure__ and name not in vars(module):
                yield name, function


def _leaves(value: Any, way: tuple[Inward, ...], above: frozenset[int]) -> Iterator[tuple[tuple[Inward, ...], Any]]:
    if isinstance(value, int | float | str) or (_is_whole(value) and value.numel() == 1):
        yield way, value
    elif len(way) < _DEEPEST and id(value) not in above:
        for step, inner in _members(value):
            yield from _leaves(inner, (*way, step), above | {id(value)})


def _is_whole(value: Any) -> bool:
    whole = isinstance(value, Tensor) and not value.is_floating_point() and not value.is_complex()
    return whole and value.dtype != torch.bool and not value.is_meta


def _members(value: Any) -> list[tuple[Inward, Any]]:
    """What a value is made of, with the steps to it."""
    if isinstance(value, list | tuple) and len(value) <= _MOST:
        return [(Inward("item", at), inner) for at, inner in enumerate(value)]
    if isinstance(value, dict) and len(value) <= _MOST:
        return [(Inward("key", key, str(key)), inner) for key, inner in value.items()]
    if isinstance(value, partial):
        names = dict(enumerate(_parameters(value.func)))
        given = [(Inward("argument", at, names.get(at, "")), inner) for at, inner in enumerate(value.args)]
        keywords = [(Inward("keyword", key, key), inner) for key, inner in value.keywords.items()]
        return [*given, *keywords, (Inward("function"), value.func)]
    if isinstance(value, types.MethodType):
        return [(Inward("function"), value.__func__)]
    if isinstance(value, types.FunctionType):
        names = value.__code__.co_freevars
        closed = [(Inward("closed over", at, names[at]), cell) for at, cell in enumerate(value.__closure__ or ())]
        filled = [(step, cell.cell_contents) for step, cell in closed if cell != types.CellType()]
        defaults = value.__defaults__ or ()
        names = value.__code__.co_varnames[: value.__code__.co_argcount][-len(defaults) :]
        by_place = [(Inward("default", at, names[at]), inner) for at, inner in enumerate(defaults)]
        by_name = [(Inward("default by name", key, key), inner) for key, inner in (value.__kwdefaults__ or {}).items()]
        return [*filled, *by_place, *by_name]
    if type(value).__module__.partition(".")[0] in _NOT_LOOKED_INTO or hasattr(value, "attribute_map"):
        return []
    fields = {} if isinstance(value, nn.Module | type) else getattr(value, "__dict__", {})
    return [(Inward("field", key, key), inner) for key, inner in fields.items()] if len(fields) <= _MOST else []


def _parameters(function: Any) -> list[str]:
    """The names of a function's positional arguments."""
    try:
        return list(inspect.signature(function).parameters)
    except (TypeError, ValueError):
        return []
