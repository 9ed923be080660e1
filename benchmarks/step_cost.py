"""What a step of stimulative training costs beside a step of common training.

On `cifar/resnet50` with random images, all variants take turns in one process. In each round the subnets are the same
for all variants; over the rounds each stage's depths come up equally often, as in ordered sampling.

  bare     the common step over a bare PyTorch loop (what the library adds)
  twice    stimulative step, main net and subnet run one after the other without sharing, over the common step
  joint    stimulative step by replay, one backward pass, over the common step
  lean     stimulative step by replay, main net's tail backward first, over the common step
  every2   the mean of a stimulative step (joint) and the free step that every=2 has after it, over the common step
  memory_… peak memory (weights, optimizer and all), over the common step's

    python benchmarks/step_cost.py --json
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from common import arguments, peak_bytes, report, seconds, spread, surroundings

import stimulative
from stimulative import models
from stimulative.analysis import CostModel
from stimulative.methods import METHODS
from stimulative.objectives import kl_divergence


def main() -> None:
    options = arguments(__doc__ or "", rounds=12, repeats=3, batch=16, warmup=1)
    device = torch.device(options.device)
    torch.manual_seed(0)
    model = models.build("cifar/resnet50", classes=100).to(device)
    x = torch.randn(options.batch, 3, 32, 32, device=device)
    y = torch.randint(100, (options.batch,), device=device)
    network = stimulative.unravel(model, x[:2])
    network.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9, nesterov=True, weight_decay=5e-4)
    steps = variants(network, optimizer, x, y)
    subnets = balanced_subnets(network, options.rounds)

    for _ in range(options.warmup):
        for step in steps.values():
            step(network.full)
    # each step is timed several times in each round and the median taken, since a shared machine stalls now and then
    times: dict[str, list[float]] = {name: [] for name in steps}
    for number, subnet in enumerate(subnets):
        repeats: dict[str, list[float]] = {name: [] for name in steps}
        for repeat in range(options.repeats):
            names = list(steps)
            first = (number + repeat) % len(names)  # nobody always goes first
            for name in names[first:] + names[:first]:
                repeats[name].append(seconds(partial(steps[name], subnet), device))
        for name, measured in repeats.items():
            times[name].append(statistics.median(measured))
    times["every2"] = [(a + b) / 2 for a, b in zip(times["joint"], times.pop("free"), strict=True)]

    held = sum(t.numel() * t.element_size() for t in [*model.parameters(), *model.buffers()])
    held += sum(p.numel() * p.element_size() for p in model.parameters())  # momentum
    memory = {}
    for name in ("common", "joint", "lean"):
        peaks = [peak_bytes(partial(steps[name], subnet), device) for subnet in subnets[:4]]
        memory[name] = held + statistics.fmean(peaks)

    ratios = {
        name: spread([a / b for a, b in zip(times[name], times["common"], strict=True)])
        for name in ("twice", "joint", "lean", "every2")
    }
    ratios["bare"] = spread([a / b for a, b in zip(times["common"], times["bare"], strict=True)])
    total = {name: sum(of) / sum(times["common"]) for name, of in times.items()}
    total["bare"] = 1 / total["bare"]
    result: dict[str, Any] = {
        **{name: round(total[name], 4) for name in ("twice", "joint", "lean", "every2")},
        "bare": round(ratios["bare"]["median"], 4),
        "memory_joint": round(memory["joint"] / memory["common"], 4),
        "memory_lean": round(memory["lean"] / memory["common"], 4),
        "per_round": ratios,
        "common_seconds": spread(times["common"]),
        "common_mib": round(memory["common"] / 2**20, 1),
        "batch": options.batch,
        "repeats": options.repeats,
        **surroundings(device),
    }
    report(
        options,
        result,
        [
            f"{name:<13} {result[name]:.3f}"
            for name in ("bare", "twice", "joint", "lean", "every2", "memory_joint", "memory_lean")
        ],
    )


def variants(
    network: stimulative.ResidualNetwork, optimizer: torch.optim.Optimizer, x: torch.Tensor, y: torch.Tensor
) -> dict[str, Callable[[stimulative.Subnet], None]]:
    common = METHODS["common"](network)
    joint = METHODS["stimulative"](network, schedule="joint")
    lean = METHODS["stimulative"](network, schedule="lean")
    free = METHODS["stimulative"](network, balance=0.0)  # what every=2 does in each second step

    def update() -> None:
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    def run_bare(subnet: stimulative.Subnet) -> None:
        F.cross_entropy(network.model(x), y).backward()
        update()

    def run_common(subnet: stimulative.Subnet) -> None:
        common.backward(x, y)
        update()

    def run_twice(subnet: stimulative.Subnet) -> None:
        main = network.model(x)
        F.cross_entropy(main, y).backward()
        kl_divergence(network(x, subnet), main).backward()
        update()

    def run_joint(subnet: stimulative.Subnet) -> None:
        joint.backward(x, y, [subnet])
        update()

    def run_lean(subnet: stimulative.Subnet) -> None:
        lean.backward(x, y, [subnet])
        update()

    def run_free(subnet: stimulative.Subnet) -> None:
        free.backward(x, y)
        update()

    return {
        "bare": run_bare,
        "common": run_common,
        "twice": run_twice,
        "joint": run_joint,
        "lean": run_lean,
        "free": run_free,
    }


def balanced_subnets(network: stimulative.ResidualNetwork, rounds: int) -> list[stimulative.Subnet]:
    """A sample in which each depth of each stage comes up equally often and the unshared work is that of the average.

    Of many shuffles of the depths, the one whose mean number of operations after the first skipped block is nearest to
    the mean over all subnets.
    """
    generator = torch.Generator().manual_seed(0)
    costs = CostModel(network, torch.randn(1, 3, 32, 32, device=next(network.parameters()).device))

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


if __name__ == "__main__":
    main()
