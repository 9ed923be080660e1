"""Where the time of a stimulative step goes, and how far each part is from its limit.

The step of a ResNet of `cifar/` written by hand, part by part; what the library's joint step takes besides is a part of
its own. A part's limit is the time that its operations would take one by one at the rates that this machine reaches on
one large matrix product and on sums of large tensors, measured in the same process, launching left out.

    python benchmarks/step_parts.py --json
    python benchmarks/step_parts.py --json --model cifar/resnet20 --batch 64
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from common import arguments, in_turns, interval, ratios, report, rounded, seconds, surroundings
from steps import HandWritten, balanced_subnets, optimizer_for

import stimulative
from stimulative import models
from stimulative.analysis import Operations, operations_of
from stimulative.methods import METHODS

PARTS = "shared prefix", "main net's rest", "subnet's tail", "losses", "backward", "optimiser"


def main() -> None:
    options = arguments(__doc__ or "", rounds=24, batch=16, size=32, model="cifar/resnet50")
    device = torch.device(options.device)
    torch.manual_seed(0)
    model = models.build(options.model, classes=100).to(device)
    x = torch.randn(options.batch, 3, options.size, options.size, device=device)
    y = torch.randint(100, (options.batch,), device=device)
    network = stimulative.unravel(model, x[:2])
    network.train()
    step = Apart(HandWritten(model, lambda: None), optimizer_for(model), x, y)
    joint = METHODS["stimulative"](network)

    def joined(subnet: stimulative.Subnet) -> None:
        joint.backward(x, y, [subnet])
        step.optimise()

    subnets = balanced_subnets(network, options.rounds, options.size)
    for run in (joined, step.run):
        run(network.full)
    taken: dict[str, list[float]] = {part: [] for part in PARTS}
    whole: dict[str, list[float]] = {"joint": [], "hand": []}
    for number, subnet in enumerate(subnets):
        for name in in_turns(["joint", "hand"], number):
            if name == "joint":
                whole[name].append(seconds(partial(joined, subnet), device))
                continue
            parts = {part: seconds(work, device) for part, work in step.parts(subnet)}
            whole[name].append(sum(parts.values()))
            for part, value in parts.items():
                taken[part].append(value)
    product, traffic = rates(device)
    limits: dict[str, list[float]] = {part: [] for part in PARTS}
    for subnet in subnets[:6]:
        for part, work in step.parts(subnet):
            limits[part].append(limit(operations_of(work), product, traffic))
    rows = {part: row(taken[part], statistics.fmean(limits[part]), whole["joint"]) for part in PARTS}
    library = [a - b for a, b in zip(whole["joint"], whole["hand"], strict=True)]
    rows["the library"] = row(library, 0.0, whole["joint"])
    result = {
        "parts": rows,
        "joint_over_hand": ratios(whole["joint"], whole["hand"]),
        "joint_ms": rounded(interval([1e3 * one for one in whole["joint"]])),
        "gflops": round(product / 1e9, 1),
        "gigabytes_a_second": round(traffic / 1e9, 1),
        **{"model": options.model, "image_size": options.size, "batch": options.batch},
        **surroundings(device),
    }
    lines = [f"{'part':<16} {'ms':>8} {'share':>7} {'limit':>8} {'times':>6}"]
    for part, of in rows.items():
        times = "" if of["over_limit"] is None else f"{of['over_limit']:6.1f}"
        lines.append(f"{part:<16} {of['ms']['median']:8.2f} {of['share']:7.1%} {of['limit_ms']:8.2f} {times}")
    report(options, result, lines)


class Apart:
    """A step by hand, of which each part can be run and timed alone.

    Args:
        hand: The step.
        optimizer: The optimiser.
        x: The batch.
        y: Its targets.
    """

    def __init__(self, hand: HandWritten, optimizer: torch.optim.Optimizer, x: torch.Tensor, y: torch.Tensor) -> None:
        self.hand, self.optimizer, self.x, self.y = hand, optimizer, x, y

    def optimise(self) -> None:
        """The optimiser's step."""
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def run(self, subnet: stimulative.Subnet) -> None:
        """All parts."""
        for _, work in self.parts(subnet):
            work()

    def parts(self, subnet: stimulative.Subnet) -> list[tuple[str, Callable[[], None]]]:
        """The parts of a step, to be run in their order."""
        hand, made = self.hand, dict[str, Any]()
        blocks, departed = hand.tail_of(subnet)
        whole = departed == len(hand.blocks)

        def tail() -> None:
            made["subnet"] = made["main"] if whole else hand.tail(made["shared"], blocks)

        return [
            ("shared prefix", lambda: made.update(shared=hand.prefix(self.x, departed))),
            ("main net's rest", lambda: made.update(main=hand.rest(made["shared"], hand.blocks[departed:]))),
            ("subnet's tail", tail),
            ("losses", lambda: made.update(loss=hand.loss(made["main"], made["subnet"], self.y))),
            ("backward", lambda: made["loss"].backward()),
            ("optimiser", self.optimise),
        ]


def rates(device: torch.device) -> tuple[float, float]:
    """Floating-point operations a second of a large matrix product, and bytes a second of a large sum."""
    a, b = torch.randn(2, 1024, 1024, device=device)
    c, d = torch.randn(2, 2**24, device=device)
    product = min(seconds(lambda: a @ b, device) for _ in range(15))
    total = min(seconds(lambda: c + d, device) for _ in range(15))
    return 2 * 1024**3 / product, 3 * 4 * 2**24 / total


def limit(operations: Operations, product: float, traffic: float) -> float:
    """Seconds that operations take at these rates, each limited by its arithmetic or its traffic."""
    return float(np.maximum(operations.flops / product, operations.traffic / traffic).sum())


def row(taken: list[float], least: float, whole: list[float]) -> dict[str, Any]:
    """What a part takes, which share of the joint step that is, and how far it is from its limit."""
    share = statistics.median(a / b for a, b in zip(taken, whole, strict=True))
    median = statistics.median(taken)
    return {
        "ms": rounded(interval([1e3 * one for one in taken])),
        "share": round(share, 4),
        "limit_ms": round(1e3 * least, 4),
        "over_limit": round(median / least, 3) if least else None,
    }


if __name__ == "__main__":
    main()
