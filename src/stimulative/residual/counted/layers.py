"""Which layers of a list that a config counts are left in a subnet, and what the config says of each of them."""

from __future__ import annotations

import copy
from collections.abc import Sequence

from torch import nn

from stimulative.errors import UsageError
from stimulative.residual.counted.misfits import built_from
from stimulative.residual.counted.resizing import put_back, resize
from stimulative.residual.finding.stacks import Stack, config_of, stacks_in
from stimulative.residual.finding.wiring import Decision, Wiring


def stacks_of(model: nn.Module, wiring: Wiring) -> tuple[Stack, ...]:
    """The stacks that hold whole stages of a model, and can be resized alone; looked for once."""
    if wiring.observed.stacks is None:
        whole = (stack for stack in stacks_in(model) if _whole(stack, wiring))
        wiring.observed.stacks = tuple(stack for stack in whole if _stands_alone(model, stack))
    return wiring.observed.stacks


def layers_that_run(stack: Stack, wiring: Wiring, decisions: Sequence[Decision]) -> tuple[int, ...]:
    """The numbers of the layers of a stack that run in a subnet, in the order in which they run."""
    position = {name: number for number, name in enumerate(stack.layers)}
    decided = {place.name: (place, block) for place, block in zip(wiring.places, decisions, strict=True)}
    running = []
    for number, name in enumerate(stack.layers):
        if name not in decided:
            running.append(number)
            continue
        place, block = decided[name]
        if block is not None:
            running.append(position[wiring.blocks[place.stage][block]])
    return tuple(running)


def _whole(stack: Stack, wiring: Wiring) -> bool:
    """Whether a stack holds blocks, and of each of their stages all."""
    stages = {place.stage for place in wiring.places if place.name in stack.layers}
    return bool(stages) and all(set(wiring.blocks[stage]) <= set(stack.layers) for stage in stages)


def _stands_alone(model: nn.Module, stack: Stack) -> bool:
    """Whether a model with a layer less has the same parameters elsewhere.

    Gemma 3n has embeddings of its tokens for each layer, in one table; without some layers it would read it wrongly.
    """
    if len(stack.layers) < 2:
        return True
    inside, owner = f"{stack.name}.", model.get_submodule(stack.configs[0][0])
    try:
        was = resize(model, stack, range(len(stack.layers) - 1))
    except UsageError:
        return True  # of these layers there is no model, of others there may be one
    try:
        built = built_from(copy.deepcopy(config_of(owner)), type(owner))
    except Exception:  # whatever a constructor does: then nobody can tell
        return True
    finally:
        put_back(model, stack, was)
    own, start = owner.state_dict(), len(stack.configs[0][0]) + 1 if stack.configs[0][0] else 0
    return all(
        key not in own or own[key].shape == value.shape
        for key, value in built.state_dict().items()
        if not key.startswith(inside[start:])
    )
