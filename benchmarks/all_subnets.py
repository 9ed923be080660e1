"""All subnets of a ResNet, 216 of `cifar/resnet50`, recalibrated and evaluated: replay against one by one.

One by one means: a model from which the blocks are really removed, its BatchNorm statistics estimated by a loop written
out by hand, then evaluated. Both see the same images, and take turns; the outputs are compared, and the operations of
both counted.

    python benchmarks/all_subnets.py --json
"""

from __future__ import annotations

import copy

import torch
from common import arguments, in_turns, interval, ratios, report, rounded, seconds, surroundings
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import stimulative
from stimulative import models


def main() -> None:
    options = arguments(__doc__ or "", images=16, rounds=3, model="cifar/resnet50", size=32)
    device = torch.device(options.device)
    torch.manual_seed(0)
    model = models.build(options.model, classes=100).to(device)
    calibration = [torch.randn(options.images, 3, options.size, options.size, device=device)]
    x = torch.randn(options.images, 3, options.size, options.size, device=device)
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
    times: dict[str, list[float]] = {"replay": [], "one by one": []}
    for number in range(options.rounds):
        for name in in_turns(list(times), number):
            times[name].append(seconds(replay if name == "replay" else plain, device))
    with FlopCounterMode(display=False) as shared:
        replay()
    with FlopCounterMode(display=False) as alone:
        plain()
    operations = alone.get_total_flops() / shared.get_total_flops()
    speedup = ratios(times["one by one"], times["replay"])
    difference = max(float((by_replay[s] - one_by_one[s]).abs().max()) for s in subnets)
    result = {
        "subnets": len(subnets),
        "speedup": speedup,
        "by_operations": round(operations, 3),
        "max_difference": difference,
        "max_logit": max(float(logits.abs().max()) for logits in one_by_one.values()),
        "seconds": {name: rounded(interval(of)) for name, of in times.items()},
        **{"images": options.images, "image_size": options.size, "model": options.model},
        **surroundings(device),
    }
    report(
        options,
        result,
        [
            f"{len(subnets)} subnets: by replay {speedup['median']:.2f} times as fast as one by one "
            f"({speedup['low']:.2f} to {speedup['high']:.2f}, n = {speedup['n']}); by operations {operations:.2f} "
            f"times; outputs differ by at most {difference:.1e}"
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
