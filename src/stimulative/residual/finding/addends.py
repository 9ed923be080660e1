"""Finds modules whose outputs are added to their own inputs by the module around them.

Where no module of a network returns its input at zero parameters, the sums may be written in modules that do something
else as well: a block that adds attention to its input, then mixes neighbours by a convolution without a shortcut, then
adds an MLP (TinyViT). As a whole it cannot be skipped, but its *addends* can, each by adding nothing. A module inside
of a block is one if

- it returns nothing but zeros when its parameters are zero, and
- the block's output does not depend on the block's input any more when the module returns a constant minus its own
  input: ``x + f(x)`` is then ``x + c - x``. A module that is added to anything else (another branch) does not pass.
  Without the constant, a module between two ReLUs would: ``relu(-relu(x))`` is zero.

Addends at the same place of blocks that follow each other are a stage.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from stimulative.residual.access.interception import call_slot, intercepted
from stimulative.residual.access.trees import tensors_in
from stimulative.residual.finding.passing import pass_through
from stimulative.residual.finding.recording import Call, Keywords, before_calls, has_storage, run_on
from stimulative.residual.finding.trying import kind_of, moved, own_parameters, run_with, same

Group = tuple[str, str, tuple[str, ...]]
"""A container, the place inside of its children, and the names of the addends there."""


def find_addends(model: nn.Module, example_input: Any, calls: dict[str, list[Call]]) -> list[Group]:
    """The addends of children of one class that stand beside each other; the model runs once more.

    Args:
        model: The model.
        example_input: Its input.
        calls: What its modules are called with, in shape.
    """
    every = [group for name, module in model.named_modules() for group in _siblings(name, module, calls)]
    inside = {name.rpartition(".")[0] for group in every for name in group}  # the innermost ones are blocks
    groups = [g for g in every if not any(f"{parent}.".startswith(f"{name}.") for name in g for parent in inside)]
    blocks = {name for group in groups for name in group}
    found: dict[str, list[str]] = {}

    def look(name: str, module: nn.Module, args: tuple[Any, ...], kwargs: Keywords) -> None:
        if name in blocks and name not in found:
            found[name] = list(_addends(name, module, args, kwargs, calls))

    with before_calls(model, look):
        run_on(model, example_input)
    stages: list[Group] = []
    for group in groups:
        places = [place for name in group for place in found.get(name, ())]
        for place in dict.fromkeys(places):
            names = tuple(f"{name}.{place}" for name in group if place in found.get(name, ()))
            if len(names) > 1:
                stages.append((group[0].rpartition(".")[0], place, names))
    return stages


def _siblings(name: str, module: nn.Module, calls: dict[str, list[Call]]) -> Iterator[tuple[str, ...]]:
    """Children of one class, two or more, that are called once."""
    by_class: dict[type, list[str]] = {}
    for key, child in module.named_children():
        full = f"{name}.{key}" if name else key
        if len(calls.get(full, ())) == 1 and next(child.children(), None) is not None:
            by_class.setdefault(kind_of(child), []).append(full)
    yield from (tuple(names) for names in by_class.values() if len(names) > 1)


def _addends(
    name: str, block: nn.Module, args: tuple[Any, ...], kwargs: Keywords, calls: dict[str, list[Call]]
) -> Iterator[str]:
    """The places of a block's addends, the outermost of each."""
    accepted: list[str] = []
    other = pytree.tree_map_only(Tensor, _another, (args, kwargs))
    elsewhere = moved(own_parameters(block))
    for place, module in block.named_modules():
        if not place or any(place.startswith(f"{outer}.") for outer in accepted):
            continue
        own = calls.get(f"{name}.{place}", ())
        parameters = own_parameters(module)
        if len(own) != 1 or not parameters or pass_through(own[0]) is None or len(tensors_in(own[0].output)) != 1:
            continue
        zeros = {f"{place}.{key}": torch.zeros_like(value) for key, value in parameters.items()}
        returned: list[Any] = []
        try:
            _run(block, zeros, (args, kwargs), place, partial(_listening, returned))
            if not returned or any(bool(tensor.any()) for tensor in tensors_in(returned[0])):
                continue
            opposing = partial(_opposing, [])
            opposed = [_run(block, elsewhere, given, place, opposing) for given in ((args, kwargs), other)]
        except Exception:  # a block that cannot run so has no addends that we know of
            continue
        if same(*opposed):
            accepted.append(place)
            yield place


def _run(
    block: nn.Module,
    values: dict[str, Tensor],
    given: tuple[tuple[Any, ...], Keywords],
    place: str,
    instead: Callable[..., Any],
) -> Any:
    """What a block returns with other values for some parameters and something else in place of a module's call."""
    inner = block.get_submodule(place)
    call = partial(instead, getattr(inner, call_slot(inner)))
    with intercepted({place: inner}, {place: call}):
        return run_with(block, values, given)


def _listening(returned: list[Any], original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    returned.append(original(*args, **kwargs))
    return returned[-1]


def _opposing(constant: list[Tensor], original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """A constant, as large as the first input that it is called with, minus the input."""
    x = tensors_in((args, kwargs))[0]
    if not constant:
        constant.append(_another(x) * x.abs().amax())
    return constant[0] - x


def _another(tensor: Tensor) -> Tensor:
    """Another tensor of the same shape."""
    if not tensor.is_floating_point() or not has_storage(tensor):
        return tensor
    generator = torch.Generator().manual_seed(0)
    return torch.randn(tensor.shape, generator=generator).to(tensor)
