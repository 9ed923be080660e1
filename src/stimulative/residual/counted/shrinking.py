"""The smaller model that a subnet of a Transformers model is.

What such a model does between its layers goes by its config, and so does every cache of keys and values: its length is
read from layer 0, and layers with a sliding window keep less than others. So a subnet whose layer 0 is skipped can
generate text only if, meanwhile, the model is what a config of as many layers would have built. That is what is made
here, of each list that a config counts (``stacks``): it holds just the layers that run, the config says so, and they
are numbered anew.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

from torch import nn
from torch.utils.hooks import RemovableHandle

from stimulative.errors import UsageError
from stimulative.residual.counted.layers import layers_that_run, stacks_of
from stimulative.residual.counted.numbering import restore
from stimulative.residual.counted.resizing import number, put_back, resize
from stimulative.residual.finding.stacks import Stack, config_of, per_layer
from stimulative.residual.finding.wiring import Decision, Place, Wiring

_HOOKED = "_output_capturing_hooks_installed"


@contextmanager
def shrunk(
    model: nn.Module, wiring: Wiring, decisions: Sequence[Decision]
) -> Iterator[tuple[tuple[Place, Decision], ...]]:
    """A model of which the stacks are those of a subnet for a while.

    Args:
        model: The model that the wiring belongs to.
        wiring: Its units and places.
        decisions: Which block runs at each of its places.

    Yields:
        The places that belong to no stack, with their decisions: what is to be done there is up to the caller.
    """
    stacks = stacks_of(model, wiring)
    inside = {layer for stack in stacks for layer in stack.layers}
    smaller = [
        (stack, running) for stack in stacks if _is_smaller(stack, running := layers_that_run(stack, wiring, decisions))
    ]
    with ExitStack() as undo:
        if smaller:
            owners = {owner for stack, _ in smaller for owner, _ in stack.configs}
            undo.enter_context(_hooks_as_they_were([model.get_submodule(owner) for owner in sorted(owners)]))
        for stack, layers in smaller:
            undo.callback(put_back, model, stack, resize(model, stack, layers))
        _warn_of_untold(smaller)
        if smaller:
            undo.enter_context(wiring.live.shrinking())
        yield tuple(pair for pair in zip(wiring.places, decisions, strict=True) if pair[0].name not in inside)


def check_whole(wiring: Wiring) -> None:
    """Refuse to look for blocks by their names while layers are out of their list.

    Raises:
        UsageError: If the model is that of a subnet at the moment.
    """
    if wiring.live.shrunk:
        raise UsageError(
            "the model has only the layers of a subnet at the moment, within only(...), so that its other blocks "
            "cannot be reached: open after_blocks(...) before only(...)"
        )


@contextmanager
def numbered(model: nn.Module, wiring: Wiring, decisions: Sequence[Decision]) -> Iterator[None]:
    """A model whose stacks are whole, but whose running layers have the numbers of the subnet's for a while.

    Raises:
        UsageError: If a layer is to take the place of one of another type.
    """
    with ExitStack() as undo:
        for stack in stacks_of(model, wiring):
            running = layers_that_run(stack, wiring, decisions)
            if _is_smaller(stack, running):
                _check_order(model, stack, wiring, decisions)
                undo.callback(restore, number(model, stack, running))
        yield


def shrink_for_good(model: nn.Module, wiring: Wiring, decisions: Sequence[Decision]) -> dict[str, str]:
    """Make the stacks of a model those of a subnet, for good.

    Returns:
        The new module names of the layers that are left, by their old ones; layers that are gone have none.
    """
    names: dict[str, str] = {}
    for stack in stacks_of(model, wiring):
        running = layers_that_run(stack, wiring, decisions)
        resize(model, stack, running)
        names.update({stack.layers[number]: f"{stack.name}.{at}" for at, number in enumerate(running)})
    return names


def _warn_of_untold(smaller: Sequence[tuple[Stack, Sequence[int]]]) -> None:
    """Say which numbers of layers are kept though others of their names would not be."""
    for stack, running in smaller:
        if stack.untold and tuple(running) != tuple(range(len(running))):
            warnings.warn(
                f"the layers of {stack.name!r} count themselves in {', '.join(stack.untold)}, which stays as it is "
                f"while layers {list(running)} run alone. If a layer finds its keys and values in a cache by it, these "
                "come to wrong places: call it layer_idx, and it is changed for as long",
                stacklevel=2,
            )


def _is_smaller(stack: Stack, running: Sequence[int]) -> bool:
    return tuple(running) != tuple(range(len(stack.layers)))


def _check_order(model: nn.Module, stack: Stack, wiring: Wiring, decisions: Sequence[Decision]) -> None:
    position = {name: number for number, name in enumerate(stack.layers)}
    moved = [
        (position[place.name], position[wiring.blocks[place.stage][block]])
        for place, block in zip(wiring.places, decisions, strict=True)
        if place.name in position and block not in (None, place.index)
    ]
    if not moved:
        return
    for owner, counts in stack.configs:
        fields = vars(config_of(model.get_submodule(owner)))
        for field, values in per_layer(fields, len(stack.layers), counts).items():
            for place, layer in moved:
                if values[place] != values[layer]:
                    raise UsageError(
                        f"layer {layer} of {stack.name!r} cannot run in the place of layer {place} beside other "
                        f"subnets: {field} of the config makes it {values[layer]!r}, and the other one "
                        f"{values[place]!r}. Run this subnet alone: network(x, subnet)"
                    )


@contextmanager
def _hooks_as_they_were(models: Sequence[nn.Module]) -> Iterator[None]:
    """Take away hooks that models put on their layers when they are first needed: a smaller one has not all layers."""
    before = [(model, vars(model).get(_HOOKED, False)) for model in models]
    first = RemovableHandle.next_id
    try:
        yield
    finally:
        for model, hooked in before:
            if vars(model).get(_HOOKED, False) and not hooked:
                for module in model.modules():
                    for number in [number for number in _own_hooks(module) if number >= first]:
                        del module._forward_hooks[number]
                for module in model.modules():  # models inside have put on theirs at the same time, or long before
                    if vars(module).get(_HOOKED, False) and not any(map(_own_hooks, module.modules())):
                        setattr(module, _HOOKED, False)


def _own_hooks(module: nn.Module) -> list[int]:
    """The hooks that Transformers has put on a module."""
    hooks = module._forward_hooks.items()
    return [number for number, hook in hooks if getattr(hook, "__module__", "").startswith("transformers.")]
