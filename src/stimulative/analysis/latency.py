"""How long each subnet takes, measured on this machine.

In place: the whole model is in memory, and skipped blocks return their input. Or as modules of their own, such as
``stimulative.deploy.extract`` makes. Either is timed by the same function.

Whatever is timed takes turns. What slows a machine down for a while (another program, heat) then slows all of it,
instead of what happened to be measured meanwhile.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn

from stimulative.residual import ResidualNetwork, Subnet, arguments_of, evaluating, tensors_in
from stimulative.runs import Conditions, Latency, device_name

_WARM_UP_RUNS = 5
MIN_ROUNDS, MAX_ROUNDS = 5, 50
SECONDS = 15.0

Contender = Callable[[], AbstractContextManager[Callable[[], Any]]]
"""Something to time: entering the context prepares it, what comes out is called, and only that call is timed."""


@dataclass(frozen=True)
class Latencies:
    """The latencies of several nets, measured together.

    Args:
        of: One for each, in their order.
        batch: Images, or sequences, in a batch.
        device: What they were measured on.
        threads: CPU threads that PyTorch computed with.
        rounds: How often each ran.
    """

    of: list[Latency]
    batch: int
    device: str
    threads: int
    rounds: int

    def conditions(self) -> Conditions:
        """What the numbers belong to."""
        return Conditions(self.batch, self.device, self.threads, self.rounds)


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
    """Time one forward pass of each subnet in place, in evaluation mode and without gradients.

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
    contenders = [in_place(network, subnet, batch) for subnet in subnets]
    warm_up = [in_place(network, network.full, batch)] * _WARM_UP_RUNS  # it has all that any subnet runs
    device = tensors_in(batch)[0].device
    with evaluating(network):
        times = time_in_turns(contenders, device, warm_up, seconds, seed=seed, after_round=after_round, clock=clock)
    return _latencies(times, batch)


def measure_modules(
    modules: Sequence[nn.Module],
    batch: Any,
    *,
    seconds: float = SECONDS,
    seed: int = 0,
    after_round: Callable[[int], Any] | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> Latencies:
    """Time one forward pass of each of several modules, without gradients, as ``steady`` says.

    Args:
        modules: The modules, in evaluation mode.
        batch: What they take, as in ``measure_latency``.
        seconds: About how long all rounds together may take.
        seed: Of the order within rounds.
        after_round: Called with the number of rounds done.
        clock: What tells the time, in seconds.
    """
    contenders = [steady(plain(module, batch)) for module in modules]
    device = tensors_in(batch)[0].device
    times = time_in_turns(contenders, device, contenders, seconds, seed=seed, after_round=after_round, clock=clock)
    return _latencies(times, batch)


def in_place(network: ResidualNetwork, subnet: Subnet, batch: Any) -> Contender:
    """A forward pass of a subnet in place; choosing the subnet is not part of it."""
    args, kwargs = arguments_of(batch)

    @contextmanager
    def prepared() -> Iterator[Callable[[], Any]]:
        with network.only(subnet) as model:
            yield partial(model, *args, **kwargs)

    return prepared


def plain(work: Callable[..., Any], batch: Any) -> Contender:
    """A call of a module, or of any function, on a batch."""
    args, kwargs = arguments_of(batch)
    return partial(nullcontext, partial(work, *args, **kwargs))


def steady(contender: Contender) -> Contender:
    """The same, run once right before it is timed.

    So it does not pay for what others left in the processor's caches, which it would not if it ran alone.
    """

    @contextmanager
    def prepared() -> Iterator[Callable[[], Any]]:
        with contender() as run:
            run()
            yield run

    return prepared


def time_in_turns(
    contenders: Sequence[Contender],
    device: torch.device,
    warm_up: Iterable[Contender] = (),
    seconds: float = SECONDS,
    rounds: int = MAX_ROUNDS,
    seed: int = 0,
    after_round: Callable[[int], Any] | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> list[list[float]]:
    """Time several contenders, without gradients.

    After the warm-up, each round runs every contender once, in an order shuffled anew by the seed. There are as many
    rounds as the time allows, but at least 5 and at most ``rounds``; on a GPU each run is waited for.

    Args:
        contenders: What to time.
        device: What they compute on.
        warm_up: What runs before.
        seconds: About how long all rounds together may take.
        rounds: The most rounds.
        seed: Of the order within rounds.
        after_round: Called with the number of rounds done.
        clock: What tells the time, in seconds.

    Returns:
        For each contender its times in milliseconds, one a round.
    """
    shuffle = random.Random(seed)
    order = list(range(len(contenders)))
    times: list[list[float]] = [[] for _ in contenders]
    with torch.no_grad():
        for contender in warm_up:
            _timed(contender, device, clock)
        began = clock()
        for done in range(rounds):
            if done >= MIN_ROUNDS and (clock() - began) * (done + 1) / done > seconds:
                break
            shuffle.shuffle(order)
            for position in order:
                times[position].append(_timed(contenders[position], device, clock))
            if after_round is not None:
                after_round(done + 1)
    return times


def _timed(contender: Contender, device: torch.device, clock: Callable[[], float]) -> float:
    """Milliseconds of one run."""
    with contender() as run:
        _wait_for(device)
        began = clock()
        run()
        _wait_for(device)
        return 1000 * (clock() - began)


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def _latencies(times: Sequence[Sequence[float]], batch: Any) -> Latencies:
    tensor = tensors_in(batch)[0]
    return Latencies(
        of=[summarised(of_one) for of_one in times],
        batch=len(tensor),
        device=device_name(tensor.device),
        threads=torch.get_num_threads(),
        rounds=len(times[0]) if times else 0,
    )


def summarised(times: Sequence[float]) -> Latency:
    """The median and the spread of some times in milliseconds."""
    first, _, third = statistics.quantiles(times, n=4, method="inclusive")
    return Latency(statistics.median(times), third - first)
