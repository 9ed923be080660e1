"""Copies a model without the blocks that a subnet skips.

What is left is a module of the same class, made of the same classes, as if it had been built with fewer blocks:

- A block that stands in a container (``Sequential``, ``ModuleList``, ``ModuleDict``) is taken out of it. What is left
  moves up where the container numbers its children, so that names are those of the smaller architecture.
- Where the code around the blocks cannot do with fewer of them (it asks for a block by its name or number), an
  ``nn.Identity`` stands in the place of a skipped block; see ``standing_in`` for blocks of which that is not all.
- Where a config counts the layers (Hugging Face Transformers), it says how many are left.
- What reads the channels of skipped dense layers (DenseNet's) has the narrower parameters of the smaller net.

Nothing is copied that is not kept. A view shares the parameters of the model instead of copying them.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.utils import _pytree as pytree

from stimulative.deploy.standing_in import stand_in
from stimulative.residual import (
    FROZEN,
    Decision,
    Nothing,
    Place,
    RemovedBlock,
    ResidualNetwork,
    Slice,
    Subnet,
    computed_by_hooks,
    narrow_for_good,
    norms_in,
    put_children,
    shrink_for_good,
    stacks_of,
    statistics_in,
    treats_each,
    widens,
)

_NUMBERED = re.compile(r"(.*?)(\d+)")
_CONTAINERS = nn.Sequential, nn.ModuleList, nn.ModuleDict


class NoStandIn(Exception):
    """Nothing can stand in the place of a skipped block."""


@dataclass(frozen=True)
class Carving:
    """A model of one subnet.

    Args:
        model: The model.
        modules: Its modules by the names that they have in the whole model.
        children: What has become of each container that lost blocks: for each child that is left, its key there and
            the name that it has in the whole model, in the order of the container.
        stand_ins: What stands for blocks that were skipped, or removed before training, by their names.
        deleting: Whether skipped blocks were taken out of their containers.
    """

    model: nn.Module
    modules: dict[str, nn.Module]
    children: dict[str, dict[str, str]]
    stand_ins: dict[str, nn.Module]
    deleting: bool

    @property
    def identities(self) -> tuple[str, ...]:
        """The names of blocks that an ``nn.Identity`` stands for."""
        return tuple(name for name, module in self.stand_ins.items() if type(module) is nn.Identity)


def carve(network: ResidualNetwork, subnet: Subnet, *, shared: bool = False, deleting: bool = True) -> Carving:
    """Copy the model of a network without the blocks that a subnet skips.

    Args:
        network: The network; it is not changed.
        subnet: One of its subnets.
        shared: Whether the copy has the model's own parameters and buffers, but for running statistics, instead of
            copies of them. What reads the channels of dense layers then narrows its parameters in each call.
        deleting: Whether skipped blocks are taken out of their containers; otherwise something stands in their places.

    Raises:
        NoStandIn: If nothing can.
    """
    source, wiring = network.model, network.wiring
    decisions = wiring.decisions(subnet.stages)
    stacks = stacks_of(source, wiring)
    in_stacks = {layer for stack in stacks for layer in stack.layers}
    running = {wiring.blocks[place.stage][at] for place, at in _decided(wiring.places, decisions) if at is not None}
    skipped = [place.name for place in wiring.places if place.name not in running]
    memo: dict[int, Any] = {id(source.get_submodule(name)): nn.Identity() for name in skipped}
    computed = [tensor for module in source.modules() for tensor in computed_by_hooks(module).values()]
    memo.update((id(tensor), tensor.detach().clone()) for tensor in computed)  # with a graph they cannot be copied
    if shared:
        memo.update((id(tensor), tensor) for tensor in _lasting(network))
    model = copy.deepcopy(source, memo)
    for module in model.modules():
        vars(module).pop(FROZEN, None)  # our mark, of how the main net was trained
    stand_ins: dict[str, nn.Module] = {}
    for name, module in source.named_modules():  # blocks that were removed before training
        if isinstance(module, RemovedBlock):
            stand_ins[name] = _stand_in(network, name, module.place)
            model.set_submodule(name, stand_ins[name])
    modules = dict(model.named_modules(remove_duplicate=False))
    slices = [piece for pieces in wiring.slices(subnet.stages).values() for piece in pieces]
    _narrow(modules, [piece for piece in slices if _runs(piece.name, wiring.places, decisions)], shared=shared)
    children: dict[str, dict[str, str]] = {}
    alone = [pair for pair in _decided(wiring.places, decisions) if pair[0].name not in in_stacks]
    for parent, places in _by_parent(alone):
        blocks = {place.name: None if at is None else wiring.blocks[place.stage][at] for place, at in places}
        if all(name == block for name, block in blocks.items()):
            continue
        in_container = deleting and isinstance(modules[parent], _CONTAINERS)
        for place, at in places:
            if at is None and not (in_container and _can_go(place)):
                stand_ins[place.name] = modules[place.name] = _stand_in(network, place.name, place)
                blocks[place.name] = place.name
        children[parent] = _left_in(parent, modules[parent], blocks)
        _fill(modules[parent], children[parent], modules)
    for old, new in shrink_for_good(model, wiring, decisions).items():
        container, _, key = new.rpartition(".")
        children.setdefault(container, {})[key] = old
    whole = {name: _names_in(name, source.get_submodule(name)) for name in children}
    children = {name: left for name, left in children.items() if list(left.values()) != whole[name]}
    return Carving(model, modules, children, stand_ins, deleting)


def _decided(places: Sequence[Place], decisions: Sequence[Decision]) -> Iterable[tuple[Place, Decision]]:
    return zip(places, decisions, strict=True)


def _runs(name: str, places: Sequence[Place], decisions: Sequence[Decision]) -> bool:
    """Whether a module is in no block that is skipped."""
    return not any(
        block is None and f"{name}.".startswith(f"{place.name}.") for place, block in _decided(places, decisions)
    )


def _by_parent(decided: Iterable[tuple[Place, Decision]]) -> Iterable[tuple[str, list[tuple[Place, Decision]]]]:
    found: dict[str, list[tuple[Place, Decision]]] = {}
    for place, block in decided:
        found.setdefault(place.name.rpartition(".")[0], []).append((place, block))
    return found.items()


def _can_go(place: Place) -> bool:
    """Whether a net without the block goes on with what it is given as it is."""
    made = any(isinstance(leaf, Nothing) for leaf in pytree.tree_leaves(place.returns))
    return not made and not widens(place.returns)


def _stand_in(network: ResidualNetwork, name: str, place: Place) -> nn.Module:
    """What stands in a block's place, where a module of this name is called now.

    Raises:
        NoStandIn: If nothing can.
    """
    module = stand_in(place, network.first_call(name))
    if module is None:
        raise NoStandIn(f"what block {name!r} returns when it is skipped is made by the block before it")
    return module


def _names_in(name: str, container: nn.Module) -> list[str]:
    return [f"{name}.{key}" if name else key for key in container._modules]


def _left_in(name: str, container: nn.Module, blocks: dict[str, str | None]) -> dict[str, str]:
    """The children that are left in a container, by their new keys."""
    keys = list(container._modules)
    left = [module for child in _names_in(name, container) if (module := blocks.get(child, child)) is not None]
    if len(left) == len(keys) or _are_numbered(keys):
        return dict(zip(keys, left, strict=False))
    return {module.rpartition(".")[2]: module for module in left}


def _are_numbered(keys: Sequence[str]) -> bool:
    """Whether keys are numbers in a row, behind one word for all (``denselayer1``, ``denselayer2``)."""
    found = [match for key in keys if (match := _NUMBERED.fullmatch(key))]
    numbers = [int(match[2]) for match in found]
    same = len({match[1] for match in found}) == 1
    return len(found) == len(keys) and same and numbers == list(range(numbers[0], numbers[0] + len(numbers)))


def _fill(container: nn.Module, left: dict[str, str], modules: dict[str, nn.Module]) -> None:
    put_children(container, {key: modules[name] for key, name in left.items()})


def _lasting(network: ResidualNetwork) -> list[Tensor]:
    """The tensors of a model that are the same in all of its subnets: all but running statistics."""
    own: set[int] = set()
    for _, layer, norm in norms_in(network.model, network.wiring):
        own |= {id(value) for value in statistics_in(layer, norm.keys).values()}
        if norm.as_torch:  # with what it counts
            own |= {id(buffer) for buffer in layer.buffers(recurse=False)}
    return [tensor for tensor in (*network.model.parameters(), *network.model.buffers()) if id(tensor) not in own]


class KeptChannels(nn.Module):
    """The part of a parameter that belongs to the channels that a subnet keeps; a parametrisation of PyTorch.

    Args:
        piece: Which channels.
        module: The module whose parameter it is.
        key: The parameter's name in the module.
    """

    def __init__(self, piece: Slice, module: nn.Module, key: str) -> None:
        super().__init__()
        self.piece, self.key = piece, key
        self.each = treats_each(module)

    def forward(self, whole: Tensor) -> Tensor:
        """Narrow the whole parameter."""
        return self.piece.part(whole, self.key, each=self.each)


def _narrow(modules: dict[str, nn.Module], slices: Iterable[Slice], *, shared: bool) -> None:
    for piece in slices:
        module = modules[piece.name]
        if shared:
            parts = {
                key: KeptChannels(piece, module, key) for key, value in module._parameters.items() if value is not None
            }
            for key, part in parts.items():
                parametrize.register_parametrization(module, key, part, unsafe=True)
        narrow_for_good(module, piece)
