"""The rates of this machine's processor, measured in about two seconds on operations like those of a training step."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

from stimulative.analysis import operations_of
from stimulative.proposing.machines import Machine
from stimulative.runs import device_name

_SECONDS = 0.25
_SHAPES = ((16, 16, 32), (64, 64, 16), (256, 128, 8))
"""Channels in and out, and side, of the convolutions that are timed: those of small, middle and late stages."""


def measured_machine() -> Machine:
    """The rates of this machine's processor, with as many threads as PyTorch computes with now.

    Of a few sizes each, the geometric mean of the rates: of convolutions forward and backward, and of sums of large
    tensors (what their operands and results take). What an operation takes besides is that of a step of a net on next
    to nothing, by the number of its operations.
    """
    generator = torch.Generator().manual_seed(0)

    def convolution(wide: int, out: int, side: int) -> float:
        x = torch.randn(16, wide, side, side, generator=generator, requires_grad=True)
        weight = torch.randn(out, wide, 3, 3, generator=generator, requires_grad=True)

        def step() -> None:
            F.conv2d(x, weight, padding=1).backward(seed)

        seed = torch.ones(16, out, side, side)
        return 3 * 2 * 16 * out * wide * 9 * side * side / _seconds(step)

    def product(size: int) -> float:
        a, b = torch.randn(2, size, size, generator=generator)
        return 2 * size**3 / _seconds(lambda: a @ b)

    def traffic(values: int) -> float:
        a, b = torch.ones(2, values)
        return 12 * values / _seconds(lambda: a + b)

    layers = [
        *(layer for _ in range(8) for layer in (nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU())),
        *(layer for _ in range(8) for layer in (nn.Linear(4, 4), nn.LayerNorm(4), nn.GELU())),
    ]
    net = nn.Sequential(*layers)
    few = torch.randn(2, 4, 4, 4, generator=generator)

    def step() -> None:
        net.zero_grad(set_to_none=True)
        net(few).sum().backward()

    arithmetic = statistics.geometric_mean([*(convolution(*shape) for shape in _SHAPES), product(384)])
    return Machine(
        device_name(torch.device("cpu")),
        {"fp32": arithmetic},
        statistics.geometric_mean([traffic(2**18), traffic(2**21), traffic(2**24)]),
        None,
        10e9,
        f"measured here, {torch.get_num_threads()} threads",
        measured=True,
        per_operation=_seconds(step) / len(operations_of(step)),
    )


def _seconds(work: Callable[[], object]) -> float:
    """The median time that work takes, warmed up."""
    work()
    times: list[float] = []
    end = time.perf_counter() + _SECONDS
    while len(times) < 5 or (time.perf_counter() < end and len(times) < 2_000):
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return statistics.median(times)
