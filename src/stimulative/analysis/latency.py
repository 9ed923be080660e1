"""How long each subnet takes, measured on this machine.

In place: the whole model is in memory, and skipped blocks return their input. A net that was taken out of it takes as
long, but for the memory that the rest occupies.

Subnets take turns. Whatever slows a machine down for a while (another program, heat) then slows all of them, instead of
those that happened to be measured meanwhile.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from stimulative.training.environment import device_name
from stimulative.unravel import ResidualNetwork, Subnet, evaluating
from stimulative.unravel.recording import arguments_of, tensors_in

_WARM_UP_RUNS = 5
MIN_ROUNDS, MAX_ROUNDS = 5, 50
SECONDS = 15.0


@dataclass(frozen=True)
class Latency:
    """How long one forward pass of a batch takes.

    Args:
        median_ms: The median over rounds, in milliseconds.
        iqr_ms: The spread: the distance between the first and the third quartile, in milliseconds.
    """

    median_ms: float
    iqr_ms: float


@dataclass(frozen=True)
class Latencies:
    """The latencies of several subnets, measured together.

    Args:
        of: One for each subnet, in their order.
        batch: Images, or sequences, in a batch.
        device: What they were measured on.
        threads: CPU threads that PyTorch computed with.
        rounds: How often each subnet ran.
    """

    of: list[Latency]
    batch: int
    device: str
    threads: int
    rounds: int

    def conditions(self) -> dict[str, Any]:
        """What the numbers belong to, as it stands in ``summary.json``."""
        return {"batch": self.batch, "device": self.device, "threads": self.threads, "rounds": self.rounds}


def measure_latency(
    network: ResidualNetwork,
    batch: Any,
    subnets: Sequence[Subnet],
    *,
    seconds: float = SECONDS,
    seed: int = 0,
    after_round: Callable[[int], Any] | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> Latencies:
    """Time one forward pass of each subnet, in evaluation mode and without gradients.

    After a warm-up, each round runs every subnet once, in an order shuffled anew by the seed. There are as many rounds
    as the time allows, but at least 5 and at most 50; on a GPU each pass is waited for.

    Args:
        network: The network.
        batch: What the model takes, on the network's device: images ``(batch, channels, height, width)``, or a
            mapping of ``input_ids`` and ``attention_mask`` ``(batch, positions)``.
        subnets: The subnets.
        seconds: About how long all rounds together may take.
        seed: Of the order within rounds.
        after_round: Called with the number of rounds done.
        clock: What tells the time, in seconds.
    """
    shuffle = random.Random(seed)
    order = list(range(len(subnets)))
    times: list[list[float]] = [[] for _ in subnets]
    with evaluating(network), torch.no_grad():
        for _ in range(_WARM_UP_RUNS):
            _timed(network, batch, network.full, clock)
        began = clock()
        for done in range(MAX_ROUNDS):
            if done >= MIN_ROUNDS and (clock() - began) * (done + 1) / done > seconds:
                break
            shuffle.shuffle(order)
            for position in order:
                times[position].append(_timed(network, batch, subnets[position], clock))
            if after_round is not None:
                after_round(done + 1)
    return Latencies(
        of=[_summarised(of_one) for of_one in times],
        batch=len(tensors_in(batch)[0]),
        device=device_name(tensors_in(batch)[0].device),
        threads=torch.get_num_threads(),
        rounds=len(times[0]) if times else 0,
    )


def _timed(network: ResidualNetwork, batch: Any, subnet: Subnet, clock: Callable[[], float]) -> float:
    """Milliseconds of one forward pass; choosing the subnet is not part of it."""
    device = tensors_in(batch)[0].device
    args, kwargs = arguments_of(batch)
    with network.only(subnet) as model:
        _wait_for(device)
        began = clock()
        model(*args, **kwargs)
        _wait_for(device)
        return 1000 * (clock() - began)


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def _summarised(times: Sequence[float]) -> Latency:
    first, _, third = statistics.quantiles(times, n=4, method="inclusive")
    return Latency(statistics.median(times), third - first)
