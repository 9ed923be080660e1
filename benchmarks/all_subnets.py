"""All 216 subnets of `cifar/resnet50`, recalibrated and evaluated: replay against one by one.

One by one means: a model from which the blocks are really removed, its BatchNorm statistics estimated by a loop written
out by hand, then evaluated. Both see the same images; the outputs are compared.

    python benchmarks/all_subnets.py --json
"""

from __future__ import annotations

import copy

import torch
from common import arguments, report, seconds, surroundings
from torch import nn

import stimulative
from stimulative import models


def main() -> None:
    options = arguments(__doc__ or "", images=16)
    device = torch.device(options.device)
    torch.manual_seed(0)
    model = models.build("cifar/resnet50", classes=100).to(device)
    calibration = [torch.randn(options.images, 3, 32, 32, device=device)]
    x = torch.randn(options.images, 3, 32, 32, device=device)
    network = stimulative.unravel(model, x[:2])
    network.eval()
    subnets = list(network.space)
    by_replay: dict[stimulative.Subnet, torch.Tensor] = {}
    one_by_one: dict[stimulative.Subnet, torch.Tensor] = {}

    def replay() -> None:
        with torch.no_grad():
            statistics = network.recalibrate(calibration)
            for position, logits, _ in network.passes(x, subnets, statistics=statistics):
                by_replay[subnets[position]] = logits

    def plain() -> None:
        with torch.no_grad():
            for subnet in subnets:
                net = removed(model, network, subnet)
                recalibrate_by_hand(net, calibration)
                one_by_one[subnet] = net(x)

    with torch.no_grad():
        network(x)
    replay_seconds = seconds(replay, device)
    plain_seconds = seconds(plain, device)
    difference = max(float((by_replay[s] - one_by_one[s]).abs().max()) for s in subnets)
    result = {
        "subnets": len(subnets),
        "speedup": round(plain_seconds / replay_seconds, 3),
        "max_difference": difference,
        "max_logit": max(float(logits.abs().max()) for logits in one_by_one.values()),
        "replay_seconds": round(replay_seconds, 2),
        "one_by_one_seconds": round(plain_seconds, 2),
        "images": options.images,
        **surroundings(device),
    }
    report(
        options,
        result,
        [
            f"{len(subnets)} subnets: {plain_seconds:.1f} s one by one, {replay_seconds:.1f} s by replay, "
            f"{result['speedup']:.2f} times as fast; outputs differ by at most {difference:.1e}"
        ],
    )


def removed(model: nn.Module, network: stimulative.ResidualNetwork, subnet: stimulative.Subnet) -> nn.Module:
    """A model of the same layers without the blocks that the subnet skips."""
    net = copy.copy(model)
    net._modules = dict(model._modules)
    for stage, kept in zip(network.stages, subnet.stages, strict=True):
        blocks = list(model.get_submodule(stage.name).children())
        net._modules[stage.name] = nn.Sequential(*(blocks[block] for block in kept))
    return net


def recalibrate_by_hand(net: nn.Module, batches: list[torch.Tensor]) -> None:
    """Set running statistics to the averages over batches of each batch's mean and biased variance."""
    layers = [layer for layer in net.modules() if isinstance(layer, nn.BatchNorm2d)]
    sums = {layer: [0.0, 0.0] for layer in layers}

    def collect(layer: nn.BatchNorm2d, args: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        count = args[0].numel() // args[0].shape[1]
        sums[layer][0] += layer.running_mean * len(args[0])
        sums[layer][1] += layer.running_var * ((count - 1) / count * len(args[0]))

    handles = [layer.register_forward_hook(collect) for layer in layers]
    for layer in layers:
        layer.train()
        layer.momentum = 1.0  # running statistics are then the last batch's
    for batch in batches:
        net(batch)
    images = sum(len(batch) for batch in batches)
    for layer, (mean, variance) in sums.items():
        layer.running_mean.copy_(mean / images)
        layer.running_var.copy_(variance / images)
        layer.eval()
    for handle in handles:
        handle.remove()


if __name__ == "__main__":
    main()
