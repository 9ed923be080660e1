"""What each unit of a network costs in a training step, and how often a step runs it.

A step of stimulative training runs the main net, and of each subnet what is behind the first block in which it differs
(see ``stimulative.residual.running.execution``). Subnets that start alike share their prefixes, too. So what is run
are nodes of a tree of prefixes, and the expected work of a step is a sum over nodes: what the node's units cost, times
the probability that one of the subnets drawn passes through it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from stimulative.analysis.operations import OperationCounter, Operations
from stimulative.residual import Node, ResidualNetwork, Subnet, arguments_of, replay, tensors_in

Decisions = tuple[int | None, ...]
"""Which block runs at each place from the first one on, as far as it is decided; None where none does."""


@dataclass(frozen=True)
class UnitWork:
    """A unit's call in a pass of the main net.

    Args:
        unit: The name of its module.
        place: How many places of blocks are decided when it runs, its own among them.
        block: Whether it is the block of the last of these.
        forward: Its operations in a forward pass.
        backward: Its operations in a backward pass.
        adding: What adding its parameters' gradients to those of another pass takes.
    """

    unit: str
    place: int
    block: bool
    forward: Operations
    backward: Operations
    adding: Operations

    @property
    def again(self) -> Operations:
        """Its operations in a training step beside another pass of it."""
        return self.forward.followed_by(self.backward).followed_by(self.adding)

    def extended(self, larger: UnitWork, sizes: tuple[int, int], size: int) -> UnitWork:
        """The same at another batch size; see ``Operations.extended``."""
        return UnitWork(
            self.unit,
            self.place,
            self.block,
            self.forward.extended(larger.forward, sizes, size),
            self.backward.extended(larger.backward, sizes, size),
            self.adding,
        )


def count_units(network: ResidualNetwork, x: Any, *, backward: bool = True) -> list[UnitWork]:
    """Count each unit of the main net on a batch, in the network's present mode.

    The graph is cut behind every unit, and each goes backward right after it has run. Gradients are thrown away.

    Args:
        network: The network; its parameters have no gradients afterwards.
        x: The batch, as the network takes it.
        backward: Whether to count the backward pass as well.
    """
    counter = OperationCounter()
    found: list[UnitWork] = []
    blocks = {name for names in network.wiring.blocks for name in names}

    def passed_on(output: Tensor) -> Tensor:
        if not output.requires_grad:
            return output
        copy = output.detach().requires_grad_().clone()  # no leaf, since the model may write into it
        counter.copied(output, copy)
        return copy

    def count(node: Node, compute: Callable[[], Any]) -> Any:
        with counter:
            output = compute()
        forward = counter.taken()
        ends = [tensor for tensor in tensors_in(output) if tensor.requires_grad]
        if ends:
            with counter:
                torch.autograd.backward(ends, [torch.ones_like(end) for end in ends], retain_graph=True)
        learned = [own for own in network.model.get_submodule(node.unit).parameters() if own.requires_grad]
        adding = Operations.of([(0, 3 * own.numel() * own.element_size()) for own in learned if ends])
        found.append(UnitWork(node.unit, len(node.path), node.unit in blocks, forward, counter.taken(), adding))
        return pytree.tree_map_only(Tensor, passed_on, output)

    args, kwargs = arguments_of(x)
    held = [*network.parameters(), *network.buffers(), *tensors_in(x)]
    with torch.set_grad_enabled(backward), counter.keeping(held):
        for _ in replay(network.model, network.wiring, args, kwargs, [network.full.stages], around=count):
            pass
    network.zero_grad(set_to_none=True)
    return found


@dataclass(frozen=True)
class Visit:
    """A node of the tree of prefixes, as a step runs it.

    Args:
        probability: How likely it is run.
        subnet: One of the subnets that pass through it.
    """

    probability: float
    subnet: Subnet


Visits = Mapping[Decisions, Visit]
"""The nodes of a tree of prefixes, by what is decided up to them."""


def visits(network: ResidualNetwork, odds: Mapping[Subnet, float], draws: int = 1) -> dict[Decisions, Visit]:
    """How likely each node of the tree of prefixes is run by a step that draws subnets.

    Args:
        network: The network.
        odds: How likely each subnet is drawn.
        draws: How many are drawn, independently of each other.
    """
    passing: dict[Decisions, float] = defaultdict(float)
    through: dict[Decisions, Subnet] = {}
    for subnet, probability in odds.items():
        decisions = network.wiring.decisions(subnet.stages)
        for end in range(1, len(decisions) + 1):
            passing[decisions[:end]] += probability
            through[decisions[:end]] = subnet
    return {node: Visit(1 - (1 - min(1.0, odd)) ** draws, through[node]) for node, odd in passing.items()}


def beside_main(network: ResidualNetwork, nodes: Visits) -> dict[Decisions, Visit]:
    """The nodes that the main net does not run anyway."""
    main = network.wiring.decisions(network.full.stages)
    return {node: visit for node, visit in nodes.items() if node != main[: len(node)]}


def runs(
    units: Iterable[UnitWork],
    nodes: Visits,
    narrowed: Callable[[Subnet], Mapping[str, float]] = lambda subnet: {},
) -> list[tuple[float, UnitWork]]:
    """How often each unit is expected to run for nodes of a tree of prefixes.

    Args:
        units: The units of the main net. Those that run before any block belong to no node: all passes share them.
        nodes: The nodes.
        narrowed: Of units that read the channels of dense layers, which share of them a subnet needs.
    """
    here: dict[int, list[Visit]] = defaultdict(list)
    running: dict[int, list[Visit]] = defaultdict(list)
    for node, visit in nodes.items():
        here[len(node)].append(visit)
        if node[-1] is not None:
            running[len(node)].append(visit)
    shares = cache(narrowed)
    return [
        (
            sum(
                visit.probability * shares(visit.subnet).get(unit.unit, 1.0)
                for visit in (running if unit.block else here)[unit.place]
            ),
            unit,
        )
        for unit in units
    ]


def most_kept(network: ResidualNetwork, units: Iterable[UnitWork], subnets: Iterable[Subnet], *, whole: bool) -> float:
    """The most bytes that the backward pass of one of these subnets keeps besides those of the main net.

    Args:
        network: The network.
        units: Its units.
        subnets: The subnets.
        whole: Whether they share nothing with the main net, since they run on other images.
    """
    main, units = network.wiring.decisions(network.full.stages), list(units)
    most = 0.0
    for decisions in {network.wiring.decisions(subnet.stages) for subnet in subnets}:
        differing = (place for place, both in enumerate(zip(decisions, main, strict=True), 1) if both[0] != both[1])
        shared = -1 if whole else next(differing, len(main) + 1) - 1
        kept = sum(
            unit.forward.saved
            for unit in units
            if unit.place > shared and (not unit.block or decisions[unit.place - 1] is not None)
        )
        most = max(most, kept)
    return most
