"""What the benchmarks share: the machine, turns, spread, and the memory and the operations that work takes."""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from stimulative.analysis import operations_of
from stimulative.runs.environment import device_name, versions


def arguments(description: str, **defaults: int | str) -> argparse.Namespace:
    """The options that every benchmark has, and numbers and words of its own."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", nargs="?", const="-", metavar="FILE", help="print JSON only, or write it to a file")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    for name, default in defaults.items():
        parser.add_argument(f"--{name}", type=type(default), default=default, help=f"default: {default}")
    return parser.parse_args()


def surroundings(device: torch.device) -> dict[str, Any]:
    """What the numbers were measured on, and by which command."""
    command = ["python", *sys.argv]
    return {
        "command": " ".join(command),
        "device": device_name(device),
        "threads": torch.get_num_threads(),
        "versions": versions(),
    }


def seconds(work: Callable[[], Any], device: torch.device) -> float:
    """The time that work takes, with what it left running on the device."""
    synchronize(device)
    began = time.perf_counter()
    work()
    synchronize(device)
    return time.perf_counter() - began


def in_turns(names: Sequence[str], number: int) -> Iterator[str]:
    """The names in the order of a round: each round another one goes first."""
    first = number % len(names)
    yield from names[first:]
    yield from names[:first]


def ratios(of: Sequence[float], to: Sequence[float]) -> dict[str, float]:
    """The ratios of two contenders, round by round, with their interval."""
    return rounded(interval([a / b for a, b in zip(of, to, strict=True)]))


def rounded(values: Mapping[str, float], digits: int = 4) -> dict[str, float]:
    """The same numbers with fewer digits."""
    return {key: round(value, digits) for key, value in values.items()}


def counts(work: Callable[[], Any]) -> dict[str, int]:
    """What work is made of, counted exactly.

    Floating-point operations, operations of ATen that are dispatched, those of them that compute something (on a GPU, a
    kernel or some), and calls of Python functions and of functions written in C.
    """
    with FlopCounterMode(display=False) as flops:
        work()
    with Dispatched() as dispatched:
        work()
    return {
        "flops": flops.get_total_flops(),
        "aten_operations": dispatched.count,
        "kernels": len(operations_of(work)),
        "python_calls": python_calls(work),
    }


def python_calls(work: Callable[[], Any]) -> int:
    """How many functions are called, those written in C among them, in this thread."""
    called = 0

    def count(frame: Any, event: str, argument: Any) -> None:
        nonlocal called
        called += event in ("call", "c_call")

    sys.setprofile(count)
    try:
        work()
    finally:
        sys.setprofile(None)
    return called


class Dispatched(TorchDispatchMode):
    """Counts operations of ATen."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += 1
        return func(*args, **(kwargs or {}))


def synchronize(device: torch.device) -> None:
    """Wait for the device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def peak_bytes(work: Callable[[], Any], device: torch.device) -> int:
    """The most memory that tensors took at once during work, beyond what they took before."""
    synchronize(device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        work()
        return torch.cuda.max_memory_allocated(device) - before
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        work()
    events = [e for e in profile.profiler.kineto_results.events() if e.name() == "[memory]"]
    held = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak


def spread(values: Sequence[float]) -> dict[str, float]:
    """The number, median, mean and standard deviation of some measurements."""
    return {
        "n": len(values),
        "median": statistics.median(values),
        "mean": statistics.fmean(values),
        "std": statistics.stdev(values) if len(values) > 1 else 0.0,
    }


def interval(values: Sequence[float]) -> dict[str, float]:
    """The number and the median of some measurements, and a 95 % interval for the median by their order.

    The interval is the narrowest symmetric pair of ordered values that holds the median with 95 % probability whatever
    the distribution (David and Nagaraja, Order Statistics, section 7.1); all of the values where there are fewer than
    6.
    """
    ordered, n = sorted(values), len(values)
    cut = 0
    while cut + 1 < n / 2 and 2 * sum(math.comb(n, k) for k in range(cut + 1)) / 2**n <= 0.05:
        cut += 1
    cut = max(0, cut - 1)
    return {"n": n, "median": statistics.median(ordered), "low": ordered[cut], "high": ordered[n - 1 - cut]}


def report(options: argparse.Namespace, result: dict[str, Any], lines: Sequence[str]) -> None:
    """Print the result, as JSON or as lines for a person; with a file for the JSON both."""
    text = json.dumps(result, indent=2)
    if options.json == "-":
        print(text)
        return
    if options.json is not None:
        Path(options.json).write_text(text + "\n")
    print("\n".join(lines))
