"""What the steps of a recipe are made of, counted by running the real step on batches of two and four samples.

Of stimulative training the main net's step, what a subnet adds at its end, and each unit are counted once, and the
expectation over subnets is a sum (``stimulative.analysis.unit_work``): exact in floating-point operations. Of other
methods, which may draw as they like, some steps are run and averaged.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from stimulative.analysis import (
    CostModel,
    Operations,
    UnitWork,
    beside_main,
    count_units,
    most_kept,
    operations_of,
    runs,
    visits,
)
from stimulative.errors import UsageError
from stimulative.methods import METHODS, Method, Numbered, StimulativeTraining, name_in, resized, samples_of, sides_of
from stimulative.residual import as_in, batch_size, evaluating, first_samples, odds_of, tensors_in
from stimulative.training import Prepared, in_format, numbered_in, optimizer_of

Cost = Callable[[Operations], float]
"""What operations cost: their number, their floating-point operations, their time on a machine."""

_SIZES = (2, 4)
_DRAWS = 8
_SIDES = 9
"""So many of the sides of smaller inputs are counted, evenly spread, where there are more."""

_ON_ALL = {"smaller_inputs": None, "subnet_share": 1.0}
"""Settings of stimulative training by which subnets run on the batch as it is."""


@dataclass(frozen=True)
class StepWork:
    """The operations of a training step on one batch, on average over a training.

    Args:
        main: Those of a common step.
        subnets: What a step has besides, on average: operations with their weights.
        most_saved: The most bytes that a step keeps for its backward passes.
        estimate: How what is besides is known only roughly, in words; empty where it is exact.
    """

    main: Operations
    subnets: tuple[tuple[float, Operations], ...]
    most_saved: float
    estimate: str = ""

    def extra(self, cost: Cost) -> float:
        """The expected cost of what a step has besides a common one."""
        return sum(weight * cost(operations) for weight, operations in self.subnets)


@dataclass(frozen=True)
class Passes:
    """The operations of the forward passes of an evaluation, on one batch.

    Args:
        shared: What all passes share: what runs before the first block.
        main: The main net's rest.
        subnets: The rest of all that are measured, each prefix once.
    """

    shared: Operations
    main: Operations
    subnets: tuple[tuple[float, Operations], ...]

    def of_main(self, cost: Cost) -> float:
        """The cost of the main net's pass."""
        return cost(self.shared) + cost(self.main)

    def of_all(self, cost: Cost) -> float:
        """The cost of the passes of all that are measured."""
        return cost(self.shared) + sum(weight * cost(operations) for weight, operations in self.subnets)


class TrainingWork:
    """Counts what a recipe has to compute.

    Args:
        prepared: The recipe's network, method and data. What it trains is changed by counting.
        processes: How many train together; samples have numbers for one alone.

    Attributes:
        batch: Samples of a batch of one process.
    """

    def __init__(self, prepared: Prepared, *, processes: int = 1) -> None:
        self.prepared, self.processes = prepared, processes
        self.network, self.method = prepared.network, prepared.method
        self._found: dict[Hashable, tuple[Any, Any]] = {}
        self._set_format()
        x, y = next(iter(prepared.data.train))
        self.batch = batch_size(x)
        if self.batch < 2:
            raise UsageError(
                "data.batch_size: a device gets one sample a step, from which nothing can be told of more; plan with 2 "
                f"for each device at least, got data.batch_size {prepared.recipe.data.batch_size}, and "
                f"{len(prepared.data.train) * self.batch:,} training samples a device (images=, where the data are not "
                "here)"
            )
        self.sizes = _SIZES if self.batch >= _SIZES[1] else (1, self.batch)
        self.x = in_format(first_samples(x, self.sizes[1], self.batch), self._dtype)
        self.y = first_samples(y, self.sizes[1], self.batch)
        self.numbered = processes == 1 and numbered_in(prepared.data.train, 0) is not None

    def step(self, size: int) -> StepWork:
        """The operations of a step on a batch of a size."""
        method = self.method
        method.train()
        if (
            type(method) is StimulativeTraining
            and name_in(method.teacher) == "main"
            and method.resizing == "original"
            and method.tail_shrink == 1
        ):
            return self._stimulative(method, size)
        common = self._counted(METHODS["common"](self.network, task=method.task), size)
        if type(method) is METHODS["common"]:
            return StepWork(common, (), common.saved)
        period = getattr(method, "every", 1)
        start = getattr(method, "balance_start", 0.0)
        at_once = {"balance_start": 0.0} if start else {}
        period = math.lcm(period, getattr(method, "levels", 1))
        numbers = range(period * math.ceil(_DRAWS / period))
        drawn = [self._counted(method, size, seed=number, **at_once) for number in numbers]
        often = _often(method)
        rows = [(often / len(drawn), one) for one in drawn]
        spread = len({(len(one), float(one.flops.sum())) for one in drawn[::period]}) > 1
        words = f"the mean of {len(drawn)} steps of the method, which draws at random" if spread else ""
        return StepWork(common, ((-often, common), *rows), max(one.saved for one in drawn), words)

    def _stimulative(self, method: StimulativeTraining, size: int) -> StepWork:
        main = self._counted(method, size, subnets=[])
        if not method.balance:
            return StepWork(main, (), main.saved)
        odds = odds_of(method.sampler, self.network.space)
        draws, samples = method.subnets_per_step, samples_of(size, method.subnet_share)
        narrowed = self._narrowed(self.x)
        # a subnet that skips nothing shares all of the main net's pass, so what it adds is what every subnet adds
        full = self.network.full
        ends = self._counted(method, samples, subnets=[full], schedule="joint", **_ON_ALL)
        rows = [(draws, ends), (-draws, self._counted(method, samples, subnets=[]))]
        if method.schedule == "lean" and odds.of.get(full):  # which goes backward through all of the main net again
            again = self._counted(method, samples, subnets=[full], **_ON_ALL)
            rows += [(draws * odds.of[full], again), (-draws * odds.of[full], ends)]
        most, sides, drawn = 0.0, self._sides(method), f"{odds.drawn:,} draws of the sampler" if odds.drawn else ""
        for side, chance in sides.items():
            x = self.x if side is None else resized(self.x, side)
            units = self._units(x, samples)
            nodes = visits(self.network, {subnet: odd * chance for subnet, odd in odds.of.items()}, draws)
            if side is None:
                nodes = beside_main(self.network, nodes)
            else:
                before = 1 - (1 - chance) ** draws
                rows += [(before, unit.again) for unit in units if not unit.place]
            rows += [(weight, unit.again) for weight, unit in runs(units, nodes, narrowed)]
            most = max(most, most_kept(self.network, units, odds.of, whole=side is not None))
        some = f"{len(sides)} of the sides of images" if method.smaller_inputs and len(sides) == _SIDES else ""
        lean = "all subnets of a step being different" if method.schedule == "lean" and draws > 1 else ""
        words = " and ".join(filter(None, (drawn, some, lean)))
        joint = main.saved + (draws * most if method.schedule == "joint" else 0.0)
        often = _often(method) / method.every
        rows = [(weight * often, operations) for weight, operations in rows]
        return StepWork(main, tuple(rows), joint, f"from {words}" if words else "")

    def passes(self, subnets: Any, size: int, *, evaluation: bool = True) -> Passes:
        """The operations of forward passes of subnets on a batch of a size, in the format of the evaluation."""
        example = self.prepared.data.example(self.sizes[1], evaluation=evaluation)
        x = in_format(as_in(self.network, example), self._dtype)
        half = self._half and self.prepared.recipe.evaluation.autocast
        with evaluating(self.network):
            units = self._units(x, size, backward=False, half=half)
        shared = _joined(unit.forward for unit in units if not unit.place)
        main = _joined(unit.forward for unit in units if unit.place)
        tree = visits(self.network, dict.fromkeys(subnets, 1.0))
        rows = runs(units, tree, self._narrowed(x, half=half))
        return Passes(shared, main, tuple((weight, unit.forward) for weight, unit in rows))

    def update(self, *, on_gpu: bool = False) -> tuple[Operations, int]:
        """The operations of an optimiser's step, and the bytes of what it keeps.

        Args:
            on_gpu: Count those that it does on a GPU, where one kernel takes the step unless the recipe says otherwise.
        """
        settings = self.prepared.recipe.optimizer
        fused = on_gpu if settings.fused is None else settings.fused
        optimizer = optimizer_of(self.method, replace(settings, fused=fused), self.prepared.trunk())
        if on_gpu and not fused:
            # PyTorch's own choice there: a kernel for all parameters, not one for each
            for group in optimizer.param_groups:
                group["foreach"] = True
        for parameter in self.method.parameters():
            parameter.grad = torch.zeros_like(parameter) if parameter.requires_grad else None
        optimizer.step()  # the first one makes what is kept
        operations = operations_of(optimizer.step)
        self.method.zero_grad(set_to_none=True)
        kept = [value for state in optimizer.state.values() for value in state.values() if isinstance(value, Tensor)]
        return operations, sum(value.numel() * value.element_size() for value in kept)

    def mixed(self) -> TrainingWork:
        """The same with 16 bits mixed in."""
        recipe = self.prepared.recipe.override({"training.precision": "bf16-mixed"})
        return TrainingWork(replace(self.prepared, recipe=recipe), processes=self.processes)

    def _set_format(self) -> None:
        """Weights in the recipe's number format; computing in half precision is what an autocast makes of it."""
        precision = self.prepared.recipe.training.precision
        self._dtype = {"64-true": torch.float64, "bf16-true": torch.bfloat16}.get(precision, torch.float32)
        self.method.to(self._dtype)
        # of the same width as float16, which a processor is slow at
        self._half = precision in ("bf16-mixed", "16-mixed")
        if self.prepared.recipe.training.channels_last:
            self.network.to(memory_format=torch.channels_last)

    def _counted(self, method: Method, size: int, *, subnets: Any = None, seed: int = 0, **instead: Any) -> Operations:
        """The operations of a method's step, extended to a batch size.

        Args:
            method: The method.
            size: The batch size.
            subnets: The subnets to train; by default those that it draws.
            seed: What it draws by, and the number of its step.
            instead: Settings of the method that are others meanwhile.
        """

        def run(samples: int) -> Operations:
            x, y = (first_samples(of, samples, self.sizes[1]) for of in (self.x, self.y))
            method.set_extra_state(begin)  # both sizes draw alike
            torch.manual_seed(seed)
            method.generator.manual_seed(seed)
            method.numbered = Numbered(torch.arange(samples), self.sizes[1]) if self.numbered else None
            method.step = seed
            method.zero_grad(set_to_none=True)
            held = [*method.parameters(), *method.buffers(), *tensors_in(x), *tensors_in(y)]
            with _autocast(self._half):
                counted = operations_of(lambda: method.backward(x, y, subnets), held)
            method.zero_grad(set_to_none=True)
            return counted

        begin = method.get_extra_state()
        own = {name: getattr(method, name) for name in instead}
        vars(method).update(instead)
        key = type(method), None if subnets is None else tuple(subnets), seed, tuple(instead.items())
        few, many = self._once(key, run)
        vars(method).update(own)
        return few.extended(many, self.sizes, size)

    def _units(self, x: Any, size: int, *, backward: bool = True, half: bool | None = None) -> list[UnitWork]:
        half = self._half if half is None else half

        def run(samples: int) -> list[UnitWork]:
            with _autocast(half):
                return count_units(self.network, first_samples(x, samples, self.sizes[1]), backward=backward)

        shapes = tuple(tensor.shape for tensor in tensors_in(x))
        few, many = self._once((shapes, backward, half), run)
        return [one.extended(other, self.sizes, size) for one, other in zip(few, many, strict=True)]

    def _once(self, what: Hashable, run: Callable[[int], Any]) -> tuple[Any, Any]:
        """What is counted at both batch sizes, counted once."""
        if what not in self._found:
            self._found[what] = run(self.sizes[0]), run(self.sizes[1])
        return self._found[what]

    def _narrowed(self, x: Any, *, half: bool | None = None) -> Callable[[Any], dict[str, float]]:
        if self.network.wiring.channels is None:
            return lambda subnet: {}
        with _autocast(self._half if half is None else half):
            return CostModel(self.network, first_samples(x, 1, self.sizes[1])).narrowed

    def _sides(self, method: StimulativeTraining) -> dict[int | None, float]:
        """The sides of images that subnets get, with their probabilities; None is the full one."""
        if method.smaller_inputs is None:
            return {None: 1.0}
        *smaller, full = sides_of(self.x.shape[-1], method.smaller_inputs)
        share = 1 / (len(smaller) + 1)
        if len(smaller) >= _SIDES:
            # the middles of equal parts stand for them
            parts = _SIDES - 1
            smaller = [smaller[(2 * part + 1) * len(smaller) // (2 * parts)] for part in range(parts)]
        each = (1 - share) / max(1, len(smaller))
        return {None: share, **dict.fromkeys(smaller, each)} if full else {}


def _often(method: Method) -> float:
    """The share of a training in which subnets have a weight."""
    ends = getattr(method, "balance_shape", "linear") == "cosine_down"
    return (1 - getattr(method, "balance_start", 0.0)) * (getattr(method, "balance_ramp", 1.0) if ends else 1.0)


def _autocast(half: bool) -> AbstractContextManager[Any]:
    return torch.autocast("cpu", torch.bfloat16) if half else nullcontext()


def _joined(parts: Iterator[Operations]) -> Operations:
    joined = Operations.of([])
    for part in parts:
        joined = joined.followed_by(part)
    return joined
