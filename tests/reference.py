"""A plain reference: subnets as models of their own, whose blocks are really gone, run one by one."""

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from stimulative.residual import Subnet


class Gone(nn.Module):
    """In the place of a block that cannot be taken out of a container: its first argument, or what ``like`` says."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        if "state" in kwargs:
            return args[0], {"state": kwargs["state"]}
        return args[-1]


class Removed:
    """A copy of a model with the blocks of one subnet only.

    Args:
        model: The main net, left alone.
        stages: The module names of the blocks of each stage.
        subnet: The blocks to keep, in the order in which they are to run.
        replace: Put a ``Gone`` in the place of a block rather than shortening its container.
    """

    def __init__(
        self, model: nn.Module, stages: Sequence[Sequence[str]], subnet: Subnet, *, replace: bool = False
    ) -> None:
        self.model = copy.deepcopy(model)
        self.parameters = {name: parameter for name, parameter in self.model.named_parameters()}
        self.modules = dict(self.model.named_modules())
        for names, kept in zip(stages, subnet.stages, strict=True):
            blocks = [self.modules[name] for name in names]
            chosen = [blocks[index] for index in kept]
            parent = self.modules[names[0].rpartition(".")[0]]
            if replace or not isinstance(parent, nn.Sequential | nn.ModuleList):
                # deletions leave a gap in their own place, another order fills the places from the first one on
                in_order = list(kept) == sorted(kept)
                for place, name in enumerate(names):
                    if in_order:
                        block = blocks[place] if place in kept else Gone()
                    else:
                        block = chosen[place] if place < len(chosen) else Gone()
                    owner, _, key = name.rpartition(".")
                    setattr(self.modules[owner], key, block)
                continue
            children = list(parent)
            at = [index for index, child in enumerate(children) if any(child is block for block in blocks)]
            assert at == list(range(at[0], at[0] + len(blocks)))
            children[at[0] : at[-1] + 1] = chosen
            parent._modules.clear()
            for number, child in enumerate(children):
                parent.add_module(str(number), child)

    def gradients(self) -> dict[str, Tensor]:
        """The gradients by the names that the parameters have in the main net; parameters without one are left out."""
        return {name: p.grad for name, p in self.parameters.items() if p.grad is not None}


def norms(model: nn.Module) -> dict[str, Any]:
    """The layers with running statistics, by name."""
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.modules.batchnorm._NormBase) and module.running_mean is not None
    }


def call_order(model: nn.Module, x: Tensor) -> list[str]:
    """The names of all modules in the order in which the main net enters them."""
    copied, order = copy.deepcopy(model).eval(), []
    for name, module in copied.named_modules():
        module.register_forward_pre_hook(lambda m, a, name=name: order.append(name))
    with torch.no_grad():
        copied(x.clone())
    return order


def run_one_by_one(
    model: nn.Module,
    stages: Sequence[Sequence[str]],
    x: Tensor,
    subnets: Sequence[Subnet],
    *,
    loss: Any,
    walk: Sequence[int],
    frozen: bool = False,
    replace: bool = False,
) -> tuple[list[Tensor], dict[str, Tensor], dict[str, Tensor]]:
    """Outputs, summed gradients and final statistics of subnets that each are a model of their own.

    A layer that a subnet shares with one before it in the walk, that is, one that runs before the first block in which
    they differ, updates its statistics once.

    Args:
        model: The main net.
        stages: The module names of the blocks of each stage.
        x: The batch.
        subnets: The subnets.
        loss: What is differentiated, given the position of a subnet and its output.
        walk: The order in which the statistics are updated.
        frozen: Whether only the main net, the first of the walk, updates statistics.
        replace: See ``Removed``.
    """
    order = call_order(model, x)
    places = [(name, stage, index) for stage, names in enumerate(stages) for index, name in enumerate(names)]

    def at(subnet: Subnet, stage: int, index: int) -> int | None:
        kept = subnet.stages[stage]
        if list(kept) == sorted(kept):
            return index if index in kept else None
        return kept[index] if index < len(kept) else None

    def first_difference(a: Subnet, b: Subnet) -> int:
        different = [order.index(name) for name, *at_ in places if at(a, *at_) != at(b, *at_)]
        return min(different, default=len(order))

    def runs_at(layer: str, subnet: Subnet) -> int:
        """When a layer runs: with its block, which may be at another block's place."""
        for name, stage, index in places:
            for block, own, number in places:
                if own == stage and layer.startswith(f"{block}.") and at(subnet, stage, index) == number:
                    return order.index(name) + order.index(layer) - order.index(block)
        return order.index(layer)

    outputs: list[Any] = [None] * len(subnets)
    gradients: dict[str, Tensor] = {}
    buffers = {key: value.clone() for key, value in model.named_buffers()}
    for turn, position in enumerate(walk):
        removed = Removed(model, stages, subnets[position], replace=replace)
        layers = {name: module for name, module in removed.modules.items() if name in norms(model)}
        for name, layer in layers.items():
            for key in layer._buffers:
                layer._buffers[key].copy_(buffers[f"{name}.{key}"])
        output = removed.model(x.clone())
        outputs[position] = output.detach().clone()
        if output.requires_grad:
            loss(position, output).backward()
            for name, gradient in removed.gradients().items():
                gradients[name] = gradients[name] + gradient if name in gradients else gradient
        shared = max((first_difference(subnets[position], subnets[walk[t]]) for t in range(turn)), default=-1)
        for name, layer in layers.items():
            if (name in order and runs_at(name, subnets[position]) < shared) or (frozen and turn):
                continue
            for key, value in layer._buffers.items():
                buffers[f"{name}.{key}"] = value.clone()
    return outputs, gradients, buffers
