"""Finds modules whose outputs are the ends of residual branches that are written in the code around them.

Where neither blocks nor addends are found, a model may hold the parts of its blocks in lists and add them up itself:
``for attention, mlp in self.layers: x = x + attention(x); x = x + mlp(x)``, or ``x = x + conv(norm(x), edges).relu()``.
No module is a block there, but the last one of each branch can be skipped by returning nothing. It is found by that:
when it returns zeros, what is read next is what was read before the branch, which it is not otherwise.

All of this is computed with parameters moved away from where they are, since many branches start as nothing.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from stimulative.residual.access.interception import call_slot, intercepted
from stimulative.residual.access.trees import tensors_in
from stimulative.residual.finding.passing import pass_through
from stimulative.residual.finding.recording import Call, Keywords, before_calls, has_storage, run_on
from stimulative.residual.finding.trying import kind_of, moved, own_parameters, run_with, tolerance

Read = list[tuple[str, Tensor]]
"""What the parts of a module read, in their order, and at last what the module returns under no name."""


def find_sums(model: nn.Module, example_input: Any, calls: dict[str, list[Call]]) -> list[tuple[str, tuple[str, ...]]]:
    """Stages of modules that end the residual branches of the code around them; the model runs once more.

    Args:
        model: The model.
        example_input: Its input.
        calls: What its modules are called with, in shape.

    Returns:
        The name and the modules of each stage: modules of one kind whose names differ in one number.
    """
    modules = dict(model.named_modules())
    groups: dict[str, list[tuple[str, ...]]] = {}
    for around, parts in _parts(modules, calls).items():
        if len(calls[around]) == 1:
            groups[around] = _alike([part for part in parts if _may_end(modules[part], calls[part])], modules)
    found: list[tuple[str, tuple[str, ...]]] = []

    def look(name: str, module: nn.Module, args: tuple[Any, ...], kwargs: Keywords) -> None:
        for group in groups.pop(name, []):
            inside = [part.removeprefix(f"{name}.") for part in group]
            parts = [part.removeprefix(f"{name}.") for part in _parts(modules, calls)[name]]
            ends = [group[at] for at in _ends(module, (args, kwargs), inside, parts)]
            if len(ends) > 1:
                found.append((_pattern(ends), tuple(ends)))

    with before_calls(model, look):
        run_on(model, example_input)
    return found


def _parts(modules: Mapping[str, nn.Module], calls: Mapping[str, list[Call]]) -> dict[str, list[str]]:
    """The modules that the code of each module calls, in their order."""
    found: dict[str, list[str]] = {}
    for name in calls:  # in the order of the first calls
        around = name.rpartition(".")[0] if name else None
        while around and around not in calls:
            around = around.rpartition(".")[0]
        if around is not None:
            found.setdefault(around, []).append(name)
    return found


def _may_end(module: nn.Module, calls: Sequence[Call]) -> bool:
    """Whether a module may be the end of a branch, by what it is called with."""
    return (
        len(calls) == 1
        and next(module.parameters(), None) is not None
        and isinstance(calls[0].output, Tensor)
        and pass_through(calls[0]) is not None
    )


def _alike(names: Sequence[str], modules: Mapping[str, nn.Module]) -> list[tuple[str, ...]]:
    """Modules of one kind whose names differ in one number, the largest groups first."""
    groups: dict[tuple[str, type], list[str]] = {}
    for name in names:
        for number in re.finditer(r"\d+", name):
            pattern = f"{name[: number.start()]}*{name[number.end() :]}"
            groups.setdefault((pattern, kind_of(modules[name])), []).append(name)
    chosen: list[tuple[str, ...]] = []
    taken: set[str] = set()
    for group in sorted(groups.values(), key=len, reverse=True):
        if len(group) > 1 and taken.isdisjoint(group):
            chosen.append(tuple(group))
            taken |= set(group)
    return chosen


def _pattern(names: Sequence[str]) -> str:
    """What names have in common, with a star in the place of the number in which they differ."""
    first, second = (re.split(r"(\d+)", name) for name in names[:2])
    return "".join(a if a == b else "*" for a, b in zip(first, second, strict=True))


def _ends(module: nn.Module, given: Any, group: Sequence[str], parts: Sequence[str]) -> list[int]:
    """Which modules of a group end a branch of the code of the module around them.

    The last one does if all others do and nothing that is read behind it has the shape of what it reads.
    """
    try:
        before = _run(module, given, parts, None)
        found, start = [], 0
        for number, name in enumerate(group):
            silenced = _run(module, given, parts, name)
            at = [key for key, _ in silenced].index(name)
            following = at + 1
            streams = [index for index in range(start, at + 1) if _equal(silenced[index], silenced[following])]
            unseen = number == len(group) - 1 and silenced[at][1].shape != silenced[following][1].shape
            if (unseen and len(found) == number) or any(
                not _equal(before[index], before[following]) for index in streams
            ):
                found.append(number)
            elif number and not found:  # a net without sums is not run again and again
                return []
            start = at + 1
    except Exception:  # code that cannot run so has no sums that we know of
        return []
    return found


def _run(module: nn.Module, given: Any, parts: Sequence[str], silent: str | None) -> Read:
    """What the parts of a module read when one of them returns nothing."""
    read: Read = []
    modules = {name: module.get_submodule(name) for name in parts}
    calls = {name: partial(_listened, read, name, getattr(part, call_slot(part))) for name, part in modules.items()}
    if silent is not None:
        calls[silent] = partial(_silenced, calls[silent])
    calls[""] = partial(_begun, read, getattr(module, call_slot(module)))
    with intercepted({**modules, "": module}, calls):
        output = run_with(module, moved(own_parameters(module)), given)
    read.append(("", tensors_in(output)[0]))
    return read


def _begun(read: Read, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    read.clear()  # a module that cannot run in one way runs in another
    return original(*args, **kwargs)


def _listened(read: Read, name: str, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    stream = next((tensor for tensor in tensors_in((args, kwargs)) if has_storage(tensor)), None)
    if stream is not None:
        read.append((name, stream.clone()))
    return original(*args, **kwargs)


def _silenced(listened: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    return torch.zeros_like(listened(*args, **kwargs))


def _equal(first: tuple[str, Tensor], second: tuple[str, Tensor]) -> bool:
    """Whether the same was read twice, up to rounding; nothing says nothing."""
    a, b = first[1], second[1]
    size = a.abs().amax() if a.numel() else a.new_zeros(())
    same = a.shape == b.shape and a.is_floating_point() and b.is_floating_point()
    return same and bool((size > 0) & size.isfinite()) and bool((a - b).abs().amax() <= tolerance(a, b) * size)
