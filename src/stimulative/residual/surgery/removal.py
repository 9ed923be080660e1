"""Removes blocks from a model for good: the same architecture with less of it, to be trained alone.

Where a config counts the layers (Hugging Face Transformers), they are taken out of their list, and the config says how
many are left: what remains is the model that its class builds from this config, so that it is saved, loaded and
generates as such. Elsewhere a removed block leaves a module behind that returns its input, as a skipped one does; it
has no parameters, and the model's other modules keep their names.
"""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from stimulative.errors import UsageError
from stimulative.residual.access.undisturbed import uncut
from stimulative.residual.counted.layers import stacks_of
from stimulative.residual.counted.misfits import misfit
from stimulative.residual.counted.shrinking import shrink_for_good
from stimulative.residual.finding.discovery import Stage
from stimulative.residual.finding.wiring import Live, Observed, Place, skip
from stimulative.residual.network import ResidualNetwork, SubnetLike
from stimulative.residual.subnet import Subnet


class RemovedBlock(nn.Module):
    """What stands where a block was: returns its input in the form of the block's output.

    Args:
        place: The place of the block.
    """

    def __init__(self, place: Place) -> None:
        super().__init__()
        self.place = place

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Return the input."""
        return skip(self.place, None, *args, **kwargs)


@uncut
def keep_only(network: ResidualNetwork, subnet: SubnetLike) -> ResidualNetwork:
    """Remove from the network's model, for good, all blocks but those of a subnet.

    Args:
        network: The network; it cannot be used any more, since its model has changed.
        subnet: The blocks to keep.

    Returns:
        The network of what is left. Its blocks are counted anew, so that its main net has the subnet's depths; a stage
        of which nothing is left is no stage any more.

    Warns:
        UserWarning: If a config that counts the layers cannot say which of them are left, so that a model that is
            built from it would be another one (Swin, whose windows are shifted in every other block).

    Raises:
        UsageError: If the subnet does not fit, changes the order of blocks, or belongs to a DenseNet, whose layers
            have a width for each number of layers before them.
    """
    subnet = network.resolve(subnet)
    if any(stage.concatenates for stage in network.stages) and subnet != network.full:
        raise UsageError(
            "the layers of a DenseNet cannot be removed one by one, since the later ones are made for their channels: "
            "build the smaller net, with its block_config in model.arguments"
        )
    stacks = stacks_of(network.model, network.wiring)
    counted = {layer for stack in stacks for layer in stack.layers}
    _check_removable(network, subnet, counted)
    model, wiring = network.model, network.wiring
    moved = shrink_for_good(model, wiring, wiring.decisions(subnet.stages))
    names = _Names(moved, counted - moved.keys())
    stages, numbers = _stages_left(network, subnet, names)
    places = []
    for place in wiring.places:
        if (place.stage, place.index) in numbers:
            stage, index = numbers[place.stage, place.index]
            places.append(replace(place, name=names.now(place.name), stage=stage, index=index))
        elif place.name not in counted:
            model.set_submodule(place.name, RemovedBlock(place))
    left = replace(
        wiring,
        units=names.left(wiring.units),
        places=tuple(places),
        blocks=tuple(stage.block_names for stage in stages),
        writers=frozenset(names.left(wiring.writers)),
        fragile=frozenset(names.left(wiring.fragile)),
        overwritten=frozenset(names.left(wiring.overwritten)),
        norms={names.now(name): norm for name, norm in wiring.norms.items() if not names.is_gone(name)},
        observed=Observed(),
        live=Live(),
    )
    if subnet != network.full and (reason := misfit(model, [stack.name for stack in stacks])) is not None:
        warnings.warn(
            f"the config of what is left of {type(model).__name__} builds another model: {reason}. The model itself is "
            "right, but from_pretrained would not restore it: make it again with keep_only, and load its state dict",
            stacklevel=2,
        )
    return ResidualNetwork(model, stages, left, network.example_input)


@dataclass(frozen=True)
class _Names:
    """What modules are called after the removal.

    Args:
        moved: The new names of the layers that are left in a list, by their old ones; they move up in it.
        gone: The layers that are not.
    """

    moved: Mapping[str, str]
    gone: Collection[str]

    def now(self, name: str) -> str:
        """What a module is called now."""
        old = next((old for old in self.moved if name == old or name.startswith(f"{old}.")), None)
        return name if old is None else self.moved[old] + name.removeprefix(old)

    def is_gone(self, name: str) -> bool:
        """Whether a module is, or was in, a layer that is not left."""
        return any(f"{name}.".startswith(f"{layer}.") for layer in self.gone)

    def left(self, names: Iterable[str]) -> tuple[str, ...]:
        """What those modules are called that are left."""
        return tuple(self.now(name) for name in names if name not in self.gone)


def _check_removable(network: ResidualNetwork, subnet: Subnet, counted: Collection[str]) -> None:
    """Make sure that what a subnet leaves out can be removed; of ``counted`` layers the config says how many are left.

    Raises:
        UsageError: If it cannot.
    """
    if any(stage.concatenates for stage in network.stages) and subnet != network.full:
        raise UsageError(
            "the layers of a DenseNet cannot be removed one by one, since the later ones are made for their channels: "
            "build the smaller net, with its block_config in model.arguments"
        )
    carrying = [
        network.stages[number].name
        for number in sorted(network.wiring.carrying)
        if not set(network.wiring.blocks[number]).issubset(counted)
    ]
    if carrying and subnet != network.full:
        raise UsageError(
            f"the blocks of {carrying[0]!r} cannot be removed: each returns something of its own that the model reads "
            "behind the last one. Run the subnet in place: network(x, subnet), or network.only(subnet)"
        )
    if any(list(kept) != sorted(kept) for kept in subnet.stages):
        raise UsageError(f"removing blocks leaves the others in their order; got {subnet}")
    if not subnet.blocks:
        raise UsageError(f"a network of no blocks has nothing to train by; got {subnet}")


def _stages_left(
    network: ResidualNetwork, subnet: Subnet, names: _Names
) -> tuple[tuple[Stage, ...], dict[tuple[int, int], tuple[int, int]]]:
    """The stages of what is left, and the numbers of its stages and blocks there by those that they had."""
    stages: list[Stage] = []
    numbers: dict[tuple[int, int], tuple[int, int]] = {}
    for number, (stage, kept) in enumerate(zip(network.stages, subnet.stages, strict=True)):
        if not kept:
            continue
        numbers.update({(number, index): (len(stages), position) for position, index in enumerate(kept)})
        blocks = names.left(stage.block_names[index] for index in kept)
        name = stage.name
        container, _, first = blocks[0].rpartition(".")
        if blocks[0] in names.moved.values() and name != container:  # it has the numbers of its first and last block
            name = f"{container}.{first}-{blocks[-1].rpartition('.')[2]}"
        stages.append(replace(stage, name=name, block_names=blocks))
    return tuple(stages), numbers
