"""What a step of stimulative training costs beside a step of common training.

On `cifar/resnet50` (or another `--model`) with random images, all variants take turns in one process. In each round
the subnets are the same for all variants; over the rounds each stage's depths come up equally often, as in ordered
sampling.

  bare     the common step over a bare PyTorch loop (what the library adds)
  twice    stimulative step, main net and subnet run one after the other without sharing, over the common step
  joint    stimulative step by replay, one backward pass, over the common step
  lean     stimulative step by replay, main net's tail backward first, over the common step
  every2   the mean of a stimulative step (joint) and the free step that every=2 has after it, over the common step
  memory_… peak memory (weights, optimizer and all), over the common step's

With `--methods all` (or names of `ROWS`, with commas) training methods and variants of them take turns with these,
under `methods` in the JSON: `time` and `memory` (the most of four steps) over the common one. They draw their subnets
themselves, so their numbers have the spread of draws; what a method does only each so many steps is spread over these.

    python benchmarks/step_cost.py --json
    python benchmarks/step_cost.py --json --methods all --model cifar/resnet20 --batch 64 --rounds 40 --repeats 1
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from common import arguments, peak_bytes, report, seconds, spread, surroundings

import stimulative
from stimulative import models
from stimulative.analysis import CostModel
from stimulative.errors import UsageError
from stimulative.methods import METHODS, Method
from stimulative.objectives import kl_divergence

ROWS: dict[str, tuple[str, dict[str, Any]]] = {
    **{name: (name, {}) for name in METHODS},
    "stimulative-lean": ("stimulative", {"schedule": "lean"}),
    "stimulative-every2": ("stimulative", {"every": 2}),
    "stimulative-half": ("stimulative", {"subnet_share": 0.5}),
    "stimulative-late": ("stimulative", {"sampler": "late"}),
    "stimulative-smaller": ("stimulative", {"smaller_inputs": 0.43}),
    "stimulative-efficient": ("stimulative", {"efficient": True}),
    "stimulative-plus": (
        "stimulative",
        {
            "objective": "directional",
            "normalise_main": True,
            "smaller_inputs": 0.43,
            "subnets_per_step": 6,
            "sampler": "interstage",
        },
    ),
}


def main() -> None:
    options = arguments(
        __doc__ or "",
        rounds=12,
        repeats=3,
        batch=16,
        warmup=1,
        model="cifar/resnet50",
        size=32,
        methods="",
        precision="32",
    )
    device = torch.device(options.device)
    torch.manual_seed(0)
    if options.precision not in ("32", "bf16"):
        raise SystemExit(f"--precision is 32 or bf16, got {options.precision}")
    model = models.build(options.model, classes=100).to(device)
    x = torch.randn(options.batch, 3, options.size, options.size, device=device)
    y = torch.randint(100, (options.batch,), device=device)
    network = stimulative.unravel(model, x[:2])
    network.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9, nesterov=True, weight_decay=5e-4)
    steps = variants(network, optimizer, x, y)
    rows, refused = method_steps(network, options.methods, x, y)
    steps |= {f"methods/{name}": row.run for name, row in rows.items()}
    if options.precision == "bf16":
        steps = {name: in_bf16(step, device) for name, step in steps.items()}
    subnets = balanced_subnets(network, options.rounds, options.size)

    for _ in range(options.warmup):
        for name, step in steps.items():
            for _ in range(period(rows, name)):
                step(network.full)
    # each step is timed several times in each round and the median taken, since a shared machine stalls now and then
    times: dict[str, list[float]] = {name: [] for name in steps}
    for number, subnet in enumerate(subnets):
        repeats: dict[str, list[float]] = {name: [] for name in steps}
        for repeat in range(options.repeats):
            names = list(steps)
            first = (number + repeat) % len(names)  # nobody always goes first
            for name in names[first:] + names[:first]:
                turns = [seconds(partial(steps[name], subnet), device) for _ in range(period(rows, name))]
                repeats[name].append(statistics.fmean(turns))
        for name, measured in repeats.items():
            # a method draws other subnets each time: their mean counts, and the median of draws is not it
            average = statistics.fmean if name.startswith("methods/") else statistics.median
            times[name].append(average(measured))
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
        "model": options.model,
        "image_size": options.size,
        "precision": options.precision,
        "batch": options.batch,
        "repeats": options.repeats,
        **surroundings(device),
    }
    methods: dict[str, Any] = {}
    for name, row in rows.items():
        step, of = steps[f"methods/{name}"], times[f"methods/{name}"]
        heads = set(row.method.parameters()) - set(model.parameters())
        own = sum(p.numel() * p.element_size() for p in heads)
        peaks = [peak_bytes(partial(step, network.full), device) for _ in range(4 * row.period)]
        methods[name] = {
            "time": round(sum(of) / sum(times["common"]), 4),
            "memory": round((held + 2 * own + max(peaks)) / memory["common"], 4),
            "per_round": spread([a / b for a, b in zip(of, times["common"], strict=True)]),
            "steps": len(of) * options.repeats * row.period,
            "settings": ROWS[name][1],
        }
    if methods or refused:
        result |= {"methods": methods, "refused": refused}
    report(
        options,
        result,
        [
            f"{name:<13} {result[name]:.3f}"
            for name in ("bare", "twice", "joint", "lean", "every2", "memory_joint", "memory_lean")
        ]
        + [f"{name:<22} time {row['time']:.3f} memory {row['memory']:.3f}" for name, row in methods.items()]
        + [f"{name:<22} {reason}" for name, reason in refused.items()],
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


@dataclass(frozen=True)
class Row:
    """A step of a method, and after how many steps it does the same again."""

    method: Method
    run: Callable[[stimulative.Subnet], None]
    period: int


def method_steps(
    network: stimulative.ResidualNetwork, wanted: str, x: torch.Tensor, y: torch.Tensor
) -> tuple[dict[str, Row], dict[str, str]]:
    """The steps of the methods asked for, by name, and why others cannot be on this network."""
    names = list(ROWS) if wanted == "all" else [name for name in wanted.split(",") if name]
    unknown = [name for name in names if name not in ROWS]
    if unknown:
        raise SystemExit(f"--methods: got {unknown[0]}, known: all, {', '.join(ROWS)}")
    rows: dict[str, Row] = {}
    refused: dict[str, str] = {}
    for name in names:
        kind, settings = ROWS[name]
        try:
            method = METHODS[kind](network, **settings).to(x.device)
        except UsageError as error:
            refused[name] = str(error)
            continue
        optimizer = torch.optim.SGD(method.parameters(), lr=1e-3, momentum=0.9, nesterov=True, weight_decay=5e-4)

        def run(subnet: stimulative.Subnet, method: Method = method, optimizer: Any = optimizer) -> None:
            method.backward(x, y)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

        rows[name] = Row(method, run, getattr(method, "every", 1))
    return rows, refused


def period(rows: dict[str, Row], name: str) -> int:
    row = rows.get(name.removeprefix("methods/")) if name.startswith("methods/") else None
    return 1 if row is None else row.period


def in_bf16(step: Callable[[stimulative.Subnet], None], device: torch.device) -> Callable[[stimulative.Subnet], None]:
    def run(subnet: stimulative.Subnet) -> None:
        with torch.autocast(device.type, torch.bfloat16):
            step(subnet)

    return run


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


if __name__ == "__main__":
    main()
