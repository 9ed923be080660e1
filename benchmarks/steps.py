"""The steps that are compared: the library's, and the same ones written by hand on the bare PyTorch model."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import stimulative
from stimulative.analysis import CostModel
from stimulative.methods import METHODS, Method
from stimulative.objectives import kl_divergence

Step = Callable[[stimulative.Subnet], None]


class HandWritten:
    """A stimulative step as one would write it for this ResNet alone, sharing the prefix, with one backward pass.

    Args:
        model: A ResNet of `cifar/`: a stem, stages called `layer1` on, a pooling and a linear classifier.
        update: What follows the backward pass.
        share: Share of the batch that the subnet runs on.
    """

    def __init__(self, model: Any, update: Callable[[], None], share: float = 1.0) -> None:
        self.update, self.share = update, share
        self.stem = [getattr(model, name) for name in ("conv1", "bn1", "act1", "maxpool") if hasattr(model, name)]
        self.pool = getattr(model, "global_pool", None) or model.pool
        self.classifier = model.fc
        names = [name for name, _ in model.named_children() if name.startswith("layer")]
        stages = [list(getattr(model, name)) for name in names]
        self.blocks = list(chain(*stages))
        self.sizes = [len(stage) for stage in stages]
        self.norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]

    def step(self, x: Tensor, y: Tensor, subnet: stimulative.Subnet) -> None:
        """Train the main net and a subnet on a batch."""
        main, subnet_logits = self.forward(x, subnet)
        self.loss(main, subnet_logits, y).backward()
        self.update()

    def lean_step(self, x: Tensor, y: Tensor, subnet: stimulative.Subnet) -> None:
        """The same with the main net's tail backward before the subnet's tail runs."""
        blocks, departed = self.tail_of(subnet)
        shared = self.prefix(x, departed)
        cut = shared.detach().requires_grad_()
        main = self.rest(cut, self.blocks[departed:])
        F.cross_entropy(main, y).backward(retain_graph=departed == len(self.blocks))
        subnet_logits = main if departed == len(self.blocks) else self.tail(cut, blocks)
        self.divergence(main, subnet_logits).backward()
        shared.backward(cut.grad)
        self.update()

    def forward(self, x: Tensor, subnet: stimulative.Subnet) -> tuple[Tensor, Tensor]:
        """The logits of both, the subnet's of its share of the batch."""
        blocks, departed = self.tail_of(subnet)
        shared = self.prefix(x, departed)
        main = self.rest(shared, self.blocks[departed:])
        samples = round(self.share * len(x))
        if departed == len(self.blocks):
            return main, main[:samples]
        return main, self.tail(shared[:samples], blocks)

    def tail_of(self, subnet: stimulative.Subnet) -> tuple[list[nn.Module], int]:
        """The blocks of a subnet behind the first one that it skips, and the number of that one."""
        kept = [block in stage for size, stage in zip(self.sizes, subnet.stages, strict=True) for block in range(size)]
        departed = kept.index(False) if False in kept else len(kept)
        pairs = zip(self.blocks[departed:], kept[departed:], strict=True)
        return [block for block, runs in pairs if runs], departed

    def prefix(self, x: Tensor, departed: int) -> Tensor:
        """What both share."""
        for module in chain(self.stem, self.blocks[:departed]):
            x = module(x)
        return x

    def rest(self, x: Tensor, blocks: Sequence[nn.Module]) -> Tensor:
        """Blocks and classifier."""
        for block in blocks:
            x = block(x)
        return self.classifier(self.pool(x).flatten(1))

    def tail(self, x: Tensor, blocks: Sequence[nn.Module]) -> Tensor:
        """The same for a subnet, which leaves the running statistics alone."""
        for norm in self.norms:
            norm.track_running_stats = False
        logits = self.rest(x, blocks)
        for norm in self.norms:
            norm.track_running_stats = True
        return logits

    def loss(self, main: Tensor, subnet: Tensor, y: Tensor) -> Tensor:
        """Cross-entropy of the main net, and the divergence of the subnet from it."""
        return F.cross_entropy(main, y) + self.divergence(main, subnet)

    def divergence(self, main: Tensor, subnet: Tensor) -> Tensor:
        """That of the subnet's class probabilities from the main net's."""
        targets = F.softmax(main.detach()[: len(subnet)], dim=1)
        return F.kl_div(F.log_softmax(subnet, dim=1), targets, reduction="batchmean")


def optimizer_for(module: nn.Module) -> torch.optim.Optimizer:
    """SGD with momentum, as the recipes have it."""
    return torch.optim.SGD(module.parameters(), lr=1e-3, momentum=0.9, nesterov=True, weight_decay=5e-4)


def steps_of(network: stimulative.ResidualNetwork, x: Tensor, y: Tensor) -> dict[str, Step]:
    """The steps that are compared on one network and batch, by name.

    Args:
        network: A network of a ResNet of `cifar/`, in training mode.
        x: The batch.
        y: Its targets.
    """
    optimizer, model = optimizer_for(network), network.model
    # a constant balance: one that rises would start with steps without subnets
    joint = METHODS["stimulative"](network, schedule="joint")
    lean = METHODS["stimulative"](network, schedule="lean")
    efficient = METHODS["stimulative"](network, efficient=True)
    free = METHODS["stimulative"](network, balance=0.0)  # what every=2 does in each second step
    common = METHODS["common"](network)

    def update() -> None:
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    def bare(subnet: stimulative.Subnet) -> None:
        F.cross_entropy(model(x), y).backward()
        update()

    def twice(subnet: stimulative.Subnet) -> None:
        main = model(x)
        F.cross_entropy(main, y).backward()
        kl_divergence(network(x, subnet), main).backward()
        update()

    def without(method: Method) -> Step:
        def step(subnet: stimulative.Subnet) -> None:
            method.backward(x, y)
            update()

        return step

    def trained(method: Method) -> Step:
        def step(subnet: stimulative.Subnet) -> None:
            method.backward(x, y, [subnet])
            update()

        return step

    hand, half = HandWritten(model, update), HandWritten(model, update, share=0.5)
    return {
        "bare": bare,
        "common": without(common),
        "hand": lambda subnet: hand.step(x, y, subnet),
        "hand_lean": lambda subnet: hand.lean_step(x, y, subnet),
        "hand_half": lambda subnet: half.step(x, y, subnet),
        "twice": twice,
        "joint": trained(joint),
        "lean": trained(lean),
        "efficient": trained(efficient),
        "free": without(free),
    }


def balanced_subnets(network: stimulative.ResidualNetwork, rounds: int, size: int = 32) -> list[stimulative.Subnet]:
    """A sample in which each depth of each stage comes up equally often and the unshared work is that of the average.

    Of many shuffles of the depths, the one whose mean number of operations after the first skipped block is nearest to
    the mean over all subnets.
    """
    generator = torch.Generator().manual_seed(0)
    costs = CostModel(network, torch.randn(1, 3, size, size, device=next(network.parameters()).device))

    def unshared(subnet: stimulative.Subnet) -> int:
        flops, skipped = 0, False
        for blocks, kept in zip(costs.blocks, subnet.stages, strict=True):
            for number, block in enumerate(blocks):
                skipped = skipped or number not in kept
                flops += block.flops if skipped and number in kept else 0
        return flops

    wanted = statistics.fmean(unshared(subnet) for subnet in network.space)
    samples = []
    for _ in range(200):
        columns = []
        for low, high in network.space.ranges:
            depths = [low + i % (high - low + 1) for i in range(rounds)]
            columns.append([depths[i] for i in torch.randperm(rounds, generator=generator).tolist()])
        samples.append([stimulative.Subnet.from_depths(depths) for depths in zip(*columns, strict=True)])
    return min(samples, key=lambda sample: abs(statistics.fmean(map(unshared, sample)) - wanted))
