"""The recipe of a smaller net: the same architecture with fewer blocks, to be trained alone."""

from __future__ import annotations

from collections.abc import Sequence

from stimulative.config import Recipe
from stimulative.errors import UsageError
from stimulative.residual import ResidualNetwork, Subnet
from stimulative.studies.variants import directory_name
from stimulative.training import prepare


def network_of(recipe: Recipe) -> ResidualNetwork:
    """The untrained network of a recipe, to plan with."""
    return prepare(recipe).network


def ordered_subnet(network: ResidualNetwork, depths: str) -> Subnet:
    """An ordered subnet of a network by its depths, such as ``2-3-5-2``.

    Raises:
        UsageError: If it is not one.
    """
    subnet = network.space.check(Subnet.parse(depths))
    if not subnet.ordered:
        raise UsageError(f"a smaller net is given by its depths, such as {network.space.smallest}; got {depths!r}")
    return subnet


def smaller(recipe: Recipe, network: ResidualNetwork, subnet: Subnet) -> Recipe:
    """The recipe of a subnet's architecture, trained alone.

    Blocks of a residual network are removed from it. A DenseNet is built with fewer layers, since the widths of its
    layers depend on how many there are before them.

    Args:
        recipe: The recipe of the largest net.
        network: The network of that recipe.
        subnet: An ordered subnet of it.
    """
    if subnet == network.full:
        return recipe
    if any(stage.concatenates for stage in network.stages):
        return recipe.override({"model.arguments.block_config": list(subnet.depths)})
    return recipe.override({"model.subnet": str(subnet)})


def run_name(method: str, net: Subnet, seed: int) -> str:
    """The name of the directory of a net's run."""
    return f"{directory_name(method)}-{net}-seed{seed}"


def unique(nets: Sequence[Subnet], what: str) -> list[Subnet]:
    """The same nets.

    Raises:
        UsageError: If there is none, or one is given twice.
    """
    twice = [net for net in nets if nets.count(net) > 1]
    if twice or not nets:
        raise UsageError(f"{what}: {f'{twice[0]} is given twice' if twice else 'none is given'}")
    return list(nets)
