"""What a subnet costs: parameters, and floating-point operations of one forward pass."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from stimulative.unravel import ResidualNetwork, Subnet, evaluating
from stimulative.unravel.discovery import arguments_of
from stimulative.unravel.execution import Node, replay


@dataclass(frozen=True)
class Cost:
    """The cost of one net.

    Args:
        parameters: The number of parameters of what runs.
        flops: Floating-point operations of a forward pass on the example; a multiply-add counts as two.
    """

    parameters: int
    flops: int


class CostModel:
    """The cost of any subnet of a network, from one forward pass of the main net.

    Blocks cost the same in every subnet, so a subnet costs what the main net does less what the skipped blocks do.

    Args:
        network: The network.
        example_input: The input to count on; one image, usually.
    """

    def __init__(self, network: ResidualNetwork, example_input: Any) -> None:
        self.network = network
        per_unit: dict[str, int] = {}
        with _countable(network) as counter:

            def count(node: Node, compute: Callable[[], Any]) -> Any:
                before = counter.get_total_flops()
                output = compute()
                per_unit[node.unit] = per_unit.get(node.unit, 0) + counter.get_total_flops() - before
                return output

            args, kwargs = arguments_of(example_input)
            for _ in replay(network.model, network.wiring, args, kwargs, [network.full.stages], around=count):
                pass
            total = counter.get_total_flops()
        parameters = sum(parameter.numel() for parameter in network.model.parameters())
        self.main = Cost(parameters, total)
        self.blocks = [
            [Cost(self._own_parameters(name), per_unit.get(name, 0)) for name in stage.block_names]
            for stage in network.stages
        ]

    def of(self, subnet: Subnet) -> Cost:
        """The cost of a subnet."""
        skipped = [
            self.blocks[stage][block]
            for stage, kept in enumerate(subnet.stages)
            for block in range(len(self.blocks[stage]))
            if block not in kept
        ]
        return Cost(
            self.main.parameters - sum(cost.parameters for cost in skipped),
            self.main.flops - sum(cost.flops for cost in skipped),
        )

    def _own_parameters(self, name: str) -> int:
        """Parameters that go with a block: those that no other module uses."""
        block = self.network.model.get_submodule(name)
        inside = set(block.modules())
        elsewhere = {
            id(parameter)
            for module in self.network.model.modules()
            if module not in inside
            for parameter in module.parameters(recurse=False)
        }
        return sum(parameter.numel() for parameter in block.parameters() if id(parameter) not in elsewhere)


@contextmanager
def _countable(network: ResidualNetwork) -> Iterator[FlopCounterMode]:
    """The network in evaluation mode, with attention done in operations that the counter knows."""
    fast = torch.backends.mha.get_fastpath_enabled()
    try:
        torch.backends.mha.set_fastpath_enabled(False)
        with (
            evaluating(network),
            torch.no_grad(),
            sdpa_kernel(SDPBackend.MATH),
            FlopCounterMode(display=False) as counter,
        ):
            yield counter
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
