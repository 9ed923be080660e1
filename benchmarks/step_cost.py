"""What a step of stimulative training costs beside a step of common training, and beside one written by hand.

On `cifar/resnet50` (or another ResNet of `cifar/` as `--model`) with random images, all variants take turns in one
process. In each round the subnet is the same for all of them; over the rounds each stage's depths come up equally
often, as in ordered sampling. A headline is the median of the rounds' ratios, so that a stall of the machine counts for
one round, with a 95 % interval; beside it stands what a step is made of, counted: floating-point operations, operations
of ATen, kernels, calls of functions.

  bare       the common step over a bare PyTorch loop (what the library adds)
  by_hand    joint, lean and efficient (half of the batch) over the same step written by hand for this model
  twice      stimulative step, main net and subnet run one after the other without sharing, over the common step
  joint      stimulative step by replay, one backward pass, over the common step
  lean       stimulative step by replay, main net's tail backward first, over the common step
  efficient  stimulative step of which the subnet runs on half of the batch, over the common step
  every2     the mean of a stimulative step (joint) and the free step that every=2 has after it, over the common step
  memory     peak memory (weights, optimizer and all) over the common step's

With `--methods all` (or names of `ROWS`, with commas) training methods and variants of them take turns with these,
under `methods` in the JSON: `time` and `memory` (the most of four steps) over the common one. They draw their subnets
themselves, so their numbers have the spread of draws; what a method does only each so many steps is spread over these.

    python benchmarks/step_cost.py --json
    python benchmarks/step_cost.py --json --methods all --model cifar/resnet20 --batch 64 --rounds 40
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from common import arguments, counts, in_turns, interval, peak_bytes, ratios, report, rounded, seconds, surroundings
from steps import Step, balanced_subnets, optimizer_for, steps_of

import stimulative
from stimulative import models
from stimulative.errors import UsageError
from stimulative.methods import METHODS, Method

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


Times = dict[str, list[float]]


def main() -> None:
    options = arguments(
        __doc__ or "",
        **{"rounds": 24, "batch": 16, "warmup": 1, "size": 32},
        **{"model": "cifar/resnet50", "methods": "", "precision": "32"},
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
    rows, refused = method_steps(network, options.methods, x, y)
    steps = steps_of(network, x, y) | {f"methods/{name}": row.run for name, row in rows.items()}
    if options.precision == "bf16":
        steps = {name: in_bf16(step, device) for name, step in steps.items()}
    subnets = balanced_subnets(network, options.rounds, options.size)
    periods = {f"methods/{name}": row.period for name, row in rows.items()}
    for _ in range(options.warmup):
        for name, step in steps.items():
            for _ in range(periods.get(name, 1)):
                step(network.full)
    times = measured(steps, subnets, periods, device)
    memory = memory_of(model, steps, subnets, device)
    result: dict[str, Any] = {
        **headlines(times),
        "memory": {name: round(value / memory["common"], 4) for name, value in memory.items()},
        "counts": counted(steps, subnets),
        "seconds": {name: rounded(interval(of)) for name, of in times.items() if "/" not in name},
        "common_mib": round(memory["common"] / 2**20, 1),
        **{"model": options.model, "image_size": options.size, "precision": options.precision, "batch": options.batch},
        **surroundings(device),
    }
    methods = {name: method_row(name, row, steps, times, memory, model, device) for name, row in rows.items()}
    if methods or refused:
        result |= {"methods": methods, "refused": refused}
    report(options, result, lines_of(result, methods, refused))


def measured(
    steps: Mapping[str, Step], subnets: list[stimulative.Subnet], periods: Mapping[str, int], device: torch.device
) -> Times:
    """Seconds of each step in each round; all of a round's steps train the same subnet."""
    times: Times = {name: [] for name in steps}
    for number, subnet in enumerate(subnets):
        for name in in_turns(list(steps), number):
            turns = [seconds(partial(steps[name], subnet), device) for _ in range(periods.get(name, 1))]
            times[name].append(statistics.fmean(turns))
    times["every2"] = [(a + b) / 2 for a, b in zip(times["joint"], times.pop("free"), strict=True)]
    return times


def headlines(times: Times) -> dict[str, Any]:
    """The ratios that matter, each with its interval."""
    over_common = {
        name: ratios(times[name], times["common"])
        for name in ("hand", "hand_lean", "hand_half", "twice", "joint", "lean", "efficient", "every2")
    }
    by_hand = {
        name: ratios(times[name], times[hand])
        for name, hand in (("joint", "hand"), ("lean", "hand"), ("efficient", "hand_half"))
    }
    return {"bare": ratios(times["common"], times["bare"]), "by_hand": by_hand, "over_common": over_common}


def memory_of(
    model: torch.nn.Module, steps: Mapping[str, Step], subnets: list[stimulative.Subnet], device: torch.device
) -> dict[str, float]:
    """The peak memory of steps, with weights and momentum, the mean over some subnets."""
    held = sum(t.numel() * t.element_size() for t in [*model.parameters(), *model.buffers()])
    held += sum(p.numel() * p.element_size() for p in model.parameters())
    return {
        name: held + statistics.fmean(peak_bytes(partial(steps[name], subnet), device) for subnet in subnets[:4])
        for name in ("common", "hand", "hand_lean", "joint", "lean", "efficient")
    }


def counted(steps: Mapping[str, Step], subnets: list[stimulative.Subnet]) -> dict[str, dict[str, float]]:
    """What steps are made of, the mean over some subnets."""
    found = {}
    for name in (name for name in steps if "/" not in name):
        each = [counts(partial(steps[name], subnet)) for subnet in subnets[:4]]
        found[name] = {key: statistics.fmean(one[key] for one in each) for key in each[0]}
    return found


def method_row(
    name: str,
    row: Row,
    steps: Mapping[str, Step],
    times: Times,
    memory: Mapping[str, float],
    model: torch.nn.Module,
    device: torch.device,
) -> dict[str, Any]:
    """What a method costs beside common training."""
    key = f"methods/{name}"
    heads = set(row.method.parameters()) - set(model.parameters())
    own = sum(p.numel() * p.element_size() for p in heads)
    held = sum(t.numel() * t.element_size() for t in [*model.parameters(), *model.buffers(), *model.parameters()])
    full = row.method.network.full
    peaks = [peak_bytes(partial(steps[key], full), device) for _ in range(4 * row.period)]
    return {
        # a method draws other subnets each time: their mean counts, and the median of draws is not it
        "time": round(sum(times[key]) / sum(times["common"]), 4),
        "memory": round((held + 2 * own + max(peaks)) / memory["common"], 4),
        "per_round": ratios(times[key], times["common"]),
        "steps": len(times[key]) * row.period,
        "settings": ROWS[name][1],
    }


def lines_of(result: Mapping[str, Any], methods: Mapping[str, Any], refused: Mapping[str, str]) -> list[str]:
    """The result for a person."""

    def shown(name: str, of: Mapping[str, float]) -> str:
        return f"{name:<24} {of['median']:.3f} ({of['low']:.3f} to {of['high']:.3f}, n = {of['n']})"

    lines = [shown("common / bare", result["bare"])]
    lines += [shown(f"{name} / by hand", of) for name, of in result["by_hand"].items()]
    lines += [shown(f"{name} / common", of) for name, of in result["over_common"].items()]
    lines += [f"memory {name:<17} {value:.3f}" for name, value in result["memory"].items()]
    for name, of in result["counts"].items():
        lines.append(
            f"{name:<10} {of['flops'] / 1e9:8.2f} GFLOP, {of['aten_operations']:7.0f} ATen, {of['kernels']:7.0f} "
            f"kernels, {of['python_calls']:8.0f} calls"
        )
    lines += [f"{name:<22} time {row['time']:.3f} memory {row['memory']:.3f}" for name, row in methods.items()]
    return lines + [f"{name:<22} {reason}" for name, reason in refused.items()]


@dataclass(frozen=True)
class Row:
    """A step of a method, and after how many steps it does the same again."""

    method: Method
    run: Callable[[Any], None]
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
        optimizer = optimizer_for(method)

        def run(subnet: stimulative.Subnet, method: Method = method, optimizer: Any = optimizer) -> None:
            method.backward(x, y)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

        rows[name] = Row(method, run, getattr(method, "every", 1))
    return rows, refused


def in_bf16(step: Step, device: torch.device) -> Step:
    def run(subnet: stimulative.Subnet) -> None:
        with torch.autocast(device.type, torch.bfloat16):
            step(subnet)

    return run


if __name__ == "__main__":
    main()
