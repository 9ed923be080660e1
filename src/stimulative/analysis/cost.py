"""What a subnet costs: parameters, and floating-point operations of one forward pass."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from stimulative.residual import Node, ResidualNetwork, Slice, Subnet, arguments_of, evaluating, replay, size_of
from stimulative.runs import Cost


class CostModel:
    """The cost of any subnet of a network, from one forward pass of the main net.

    Blocks cost the same in every subnet, so a subnet costs what the main net does less what the skipped blocks do. What
    reads the channels of dense layers (DenseNet's) costs less where some of them are skipped, in proportion.

    Args:
        network: The network.
        example_input: The input to count on; one image, usually.
    """

    def __init__(self, network: ResidualNetwork, example_input: Any) -> None:
        self.network = network
        per_unit: dict[str, int] = {}
        self._per_unit = per_unit
        readers = network.wiring.channels.readers if network.wiring.channels is not None else {}
        self._readers = {
            reader.name: _Reader(network.model.get_submodule(reader.name)) for of in readers.values() for reader in of
        }
        with _countable(network) as counter, ExitStack() as stack:
            for reader in self._readers.values():
                stack.enter_context(reader.counting(counter))

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
            (stage, block)
            for stage, kept in enumerate(subnet.stages)
            for block in range(len(self.blocks[stage]))
            if block not in kept
        ]
        saved = [self.blocks[stage][block] for stage, block in skipped]
        gone = {self.network.stages[stage].block_names[block] for stage, block in skipped}
        for unit, slices in self.network.wiring.slices(subnet.stages).items():
            if unit not in gone:
                saved += [self._readers[piece.name].saved(piece) for piece in slices]
        return Cost(
            self.main.parameters - sum(cost.parameters for cost in saved),
            self.main.flops - sum(cost.flops for cost in saved),
        )

    def narrowed(self, subnet: Subnet) -> dict[str, float]:
        """Of units that read the channels of dense layers, which share of their operations a subnet does."""
        shares = {}
        for unit, slices in self.network.wiring.slices(subnet.stages).items():
            saved = sum(self._readers[piece.name].saved(piece).flops for piece in slices)
            shares[unit] = 1 - saved / self._per_unit[unit] if self._per_unit.get(unit) else 1.0
        return shares

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


class _Reader:
    """A module that reads the channels of dense layers, and what it costs.

    Args:
        module: The module.
    """

    def __init__(self, module: Any) -> None:
        self.module = module
        self.flops = 0
        sizes = {key: parameter.numel() for key, parameter in module.named_parameters()}
        self.parameters = sum(sizes.values())
        size = size_of(module)
        if size is None:
            self.outputs, self.inputs = module.weight.shape[:2]
        else:
            (channels,) = {value[0] if isinstance(value, tuple) else value for value in size.values()}
            self.outputs, self.inputs = 1, channels
        self.by_input = sizes["weight"] if size is None else self.parameters

    @contextmanager
    def counting(self, counter: FlopCounterMode) -> Iterator[None]:
        """Count what its calls cost."""

        def before(module: nn.Module, args: Any) -> None:
            self.flops -= counter.get_total_flops()

        def after(module: nn.Module, args: Any, output: Any) -> None:
            self.flops += counter.get_total_flops()

        handles = self.module.register_forward_pre_hook(before), self.module.register_forward_hook(after)
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def saved(self, piece: Slice) -> Cost:
        """What a slice costs less than all of it."""
        outputs = self.outputs if piece.outputs is None else piece.outputs
        read = self.by_input * piece.width * outputs // (self.inputs * self.outputs)
        rest = (self.parameters - self.by_input) * outputs // self.outputs
        # a multiply-add for each weight at each place
        flops = self.flops * piece.width * outputs // (self.inputs * self.outputs)
        return Cost(self.parameters - read - rest, self.flops - flops)


@contextmanager
def _countable(network: ResidualNetwork) -> Iterator[FlopCounterMode]:
    """The network in evaluation mode, with attention done in operations that the counter knows."""
    fast = torch.backends.mha.get_fastpath_enabled()
    learned = [parameter for parameter in network.parameters() if parameter.requires_grad]
    try:
        for parameter in learned:  # the counter fails on a module that is given a view of one (CaiT)
            parameter.requires_grad_(False)
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
        for parameter in learned:
            parameter.requires_grad_(True)
