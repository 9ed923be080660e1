"""Removes blocks from a model for good: the same architecture with less of it, to be trained alone.

A removed block leaves a module behind that returns its input, as a skipped one does; it has no parameters, and the
model's other modules keep their names.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import nn

from stimulative.errors import UsageError
from stimulative.unravel.execution import Place, skip
from stimulative.unravel.network import ResidualNetwork, SubnetLike


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
        return skip(self.place, *args, **kwargs)


def keep_only(network: ResidualNetwork, subnet: SubnetLike) -> ResidualNetwork:
    """Remove from the network's model, for good, all blocks but those of a subnet.

    Args:
        network: The network; it cannot be used any more, since its model has changed.
        subnet: The blocks to keep.

    Returns:
        The network of what is left. Its blocks are counted anew, so that its main net has the subnet's depths; a stage
        of which nothing is left is no stage any more.

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
    if any(list(kept) != sorted(kept) for kept in subnet.stages):
        raise UsageError(f"removing blocks leaves the others in their order; got {subnet}")
    if not subnet.blocks:
        raise UsageError(f"a network of no blocks has nothing to train by; got {subnet}")
    model, stages, blocks = network.model, [], []
    renumbered: dict[tuple[int, int], tuple[int, int]] = {}
    for number, (stage, kept) in enumerate(zip(network.stages, subnet.stages, strict=True)):
        if not kept:
            continue
        renumbered.update({(number, index): (len(stages), position) for position, index in enumerate(kept)})
        names = tuple(stage.block_names[index] for index in kept)
        stages.append(replace(stage, block_names=names))
        blocks.append(names)
    places = []
    for place in network.wiring.places:
        if (place.stage, place.index) in renumbered:
            stage, index = renumbered[place.stage, place.index]
            places.append(replace(place, stage=stage, index=index))
        else:
            model.set_submodule(place.name, RemovedBlock(place))
    wiring = replace(network.wiring, places=tuple(places), blocks=tuple(blocks), bypassed={})
    return ResidualNetwork(model, tuple(stages), wiring, network.example_input)
