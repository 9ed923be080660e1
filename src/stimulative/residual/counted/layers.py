"""Which layers of a list that a config counts are left in a subnet, and what the config says of each of them."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from stimulative.residual.finding.stacks import Stack, stacks_in
from stimulative.residual.finding.wiring import Decision, Wiring


def stacks_of(model: nn.Module, wiring: Wiring) -> tuple[Stack, ...]:
    """The stacks that hold whole stages of a model; looked for once."""
    if wiring.observed.stacks is None:
        wiring.observed.stacks = tuple(stack for stack in stacks_in(model) if _whole(stack, wiring))
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
