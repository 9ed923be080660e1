"""What a run will take: time, memory and money, from counts and stated rates.

Counts are exact (or said not to be). A time is what the operations take, one after the other, each by whichever it is
short of: its arithmetic or its traffic with memory, at the machine's rates times the share that is assumed to be
reached. Where the host launches operations slower than a GPU does them, it is the host that counts. On several devices
gradients are summed by a ring, in which each device sends and receives ``2 (N - 1) / N`` times their bytes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from stimulative.analysis import Operations, choose_subnets
from stimulative.config import Recipe
from stimulative.errors import UsageError
from stimulative.proposing.foreseen_data import Amounts, foresee
from stimulative.proposing.machines import HERE, Case, Format, Machine, Shares, machine_named, shares_of
from stimulative.proposing.needed_memory import Memory, memory_of
from stimulative.proposing.processor_rates import measured_machine
from stimulative.proposing.training_work import Cost, Passes, StepWork, TrainingWork
from stimulative.records import Record, absent

_FORMATS: Mapping[str, Format] = {
    "64-true": "fp64",
    "32-true": "fp32",
    "bf16-mixed": "bf16",
    "bf16-true": "bf16",
    "16-mixed": "fp16",
}
_CASES: tuple[Case, ...] = ("best", "typical", "worst")


@dataclass(frozen=True)
class Estimate(Record):
    """A number that is not known, in a case that is typical and in two that are not.

    Args:
        best: Where everything goes well.
        typical: What is most likely.
        worst: Where everything goes badly.
    """

    best: float
    typical: float
    worst: float

    def times(self, factor: float) -> Estimate:
        """As many times as much."""
        return Estimate(self.best * factor, self.typical * factor, self.worst * factor)

    def plus(self, other: Estimate) -> Estimate:
        """Both."""
        return Estimate(self.best + other.best, self.typical + other.typical, self.worst + other.worst)


@dataclass(frozen=True)
class StepForecast(Record):
    """A training step on one batch of one device.

    Args:
        flops_common: Floating-point operations of a common step, forward and backward.
        flops_beside: Those that the method has besides, on average over its steps.
        traffic_common: Bytes that the operations of a common step read and write.
        traffic_beside: Those besides.
        operations: How many operations are launched, the optimiser's among them.
        estimate: How what is besides is known, where it is not exact.
        seconds: How long it takes, with its share of the optimiser's step.
        seconds_common: How long a common step takes.
        communication: Seconds of it in which devices wait for each other's gradients.
        bound: What it is short of, by share of its time: arithmetic, memory traffic, launching, communication.
    """

    flops_common: float
    flops_beside: float
    traffic_common: float
    traffic_beside: float
    operations: float
    estimate: str
    seconds: Estimate
    seconds_common: Estimate
    communication: Estimate
    bound: Mapping[str, float]


@dataclass(frozen=True)
class Forecast(Record):
    """What a run will take.

    Args:
        machine: What it runs on.
        source: Where the rates are from.
        devices: How many of them.
        model: The model.
        method: How it is trained.
        precision: The number format.
        parameters: Parameters of the main net.
        batch: Samples per step and device.
        steps_per_epoch: Optimiser steps of an epoch.
        epochs: Epochs.
        training: Training images, or sequences, of an epoch.
        validation: Those held out.
        test: Those of the test split.
        opened: Whether the data were opened for this.
        step: A step.
        train_seconds: The whole training, with validation after each epoch and what is done at the end.
        validation_seconds: What validation has of it.
        images_per_second: Of all devices together while they train.
        subnets: How many subnets ``evaluate`` measures.
        evaluate_flops: Its floating-point operations.
        evaluate_seconds: How long it takes, on one device.
        recalibrate_seconds: What re-estimating statistics has of it.
        memory: The memory of a device.
        communicated: Bytes that a device sends in an optimiser step.
        money: The price, where one was given.
        warnings: What may mislead.
    """

    machine: str
    source: str
    devices: int
    model: str
    method: str
    precision: str
    parameters: int
    batch: int
    steps_per_epoch: int
    epochs: int
    training: int
    validation: int
    test: int
    opened: bool
    step: StepForecast
    train_seconds: Estimate
    validation_seconds: Estimate
    images_per_second: Estimate
    subnets: int
    evaluate_flops: float
    evaluate_seconds: Estimate
    recalibrate_seconds: Estimate
    memory: Memory
    communicated: float
    money: Estimate | None = absent()
    warnings: tuple[str, ...] = field(default=())


def forecast_of(
    recipe: Recipe,
    *,
    gpu: str = HERE,
    gpus: int = 1,
    images: Sequence[int] | None = None,
    price_per_hour: float | None = None,
    machine: Machine | None = None,
) -> Forecast:
    """Foresee what a run of a recipe and its evaluation will take, without training.

    Args:
        recipe: The recipe. Its number of devices is not read, ``gpus`` is.
        gpu: The machine: a name of ``GPUS``, or ``cpu`` for this machine's processor, whose rates are measured.
        gpus: How many of them train together in one machine.
        images: Training and test images of data that are not here; see ``foresee``.
        price_per_hour: Of one device.
        machine: A machine with rates of its own, in place of ``gpu``.

    Raises:
        UsageError: If the recipe, the machine or the data cannot be used.
    """
    if gpus < 1:
        raise UsageError(f"gpus= is 1 or more, got {gpus}")
    if price_per_hour is not None and not (math.isfinite(price_per_hour) and price_per_hour >= 0):
        raise UsageError(f"price_per_hour= is 0 or more, got {price_per_hour}")
    machine = machine or (measured_machine() if gpu == HERE else machine_named(gpu))
    prepared, amounts = foresee(recipe, processes=gpus, images=images)
    return Forecasting(recipe, TrainingWork(prepared), amounts, machine, gpus, price_per_hour).forecast()


@dataclass(frozen=True)
class _Measuring:
    """What measuring takes.

    Args:
        validation: Seconds of the validation behind an epoch.
        once: Seconds of what a run measures at its end.
        subnets: How many subnets are evaluated.
        recalibrate: Seconds of estimating their statistics.
        evaluate: Seconds of all of their evaluation.
        flops: Floating-point operations of it.
    """

    validation: Estimate
    once: Estimate
    subnets: int
    recalibrate: Estimate
    evaluate: Estimate
    flops: float


class Forecasting:
    """Puts counts and rates together.

    Args:
        recipe: The recipe.
        work: What it has to compute.
        amounts: How many images there are.
        machine: What it runs on.
        devices: How many of these.
        price: What one costs an hour.
    """

    def __init__(
        self,
        recipe: Recipe,
        work: TrainingWork,
        amounts: Amounts,
        machine: Machine,
        devices: int,
        price: float | None,
    ) -> None:
        self.recipe, self.work, self.amounts = recipe, work, amounts
        self.machine, self.devices, self.price = machine, devices, price
        self.format: Format = _FORMATS[recipe.training.precision]
        self.data, self.network = work.prepared.data, work.prepared.network

    def forecast(self) -> Forecast:
        """What the run will take."""
        settings, schedule, batch = self.recipe.training, self.recipe.schedule, self.work.batch
        step, (update, kept) = self.work.step(batch), self.work.update()
        gradients = sum(p.numel() * p.element_size() for p in self.work.method.parameters() if p.requires_grad)
        communicated = 2 * (self.devices - 1) / self.devices * gradients
        of_step = self._step(step, update, communicated)
        batches = len(self.data.train)
        updates = math.ceil(batches / settings.accumulate)
        total = schedule.epochs * updates if schedule.max_steps is None else schedule.max_steps
        total = min(total, schedule.epochs * updates)
        epochs = math.ceil(total / updates)
        taken = min(total * settings.accumulate, schedule.epochs * batches)
        measuring = self._measuring()
        validation = measuring.validation.times(epochs)
        whole = of_step.seconds.times(taken).plus(validation).plus(measuring.once)
        return Forecast(
            machine=self.machine.name,
            source=self.machine.source,
            devices=self.devices,
            model=self.recipe.model.name,
            method=self.recipe.method.name,
            precision=settings.precision,
            parameters=sum(p.numel() for p in self.network.model.parameters()),
            batch=batch,
            steps_per_epoch=updates,
            epochs=epochs,
            training=self.amounts.training,
            validation=self.amounts.validation,
            test=self.amounts.test,
            opened=self.amounts.opened,
            step=of_step,
            train_seconds=whole,
            validation_seconds=validation,
            images_per_second=Estimate(
                *(self.devices * batch / getattr(of_step.seconds, case) for case in _CASES),
            ),
            subnets=measuring.subnets,
            evaluate_flops=measuring.flops,
            evaluate_seconds=measuring.evaluate,
            recalibrate_seconds=measuring.recalibrate,
            memory=memory_of(self.work, batch, kept, self.machine),
            communicated=communicated,
            money=self._money(whole.times(self.devices).plus(measuring.evaluate)),
            warnings=tuple(self._warnings(of_step, batch)),
        )

    def _measuring(self) -> _Measuring:
        """What measuring takes, during training and after it."""
        settings, amounts = self.recipe.evaluation, self.amounts
        chosen = choose_subnets(self.network, settings.subnets, self.recipe.seed, settings.space)
        rows = min(self.recipe.data.evaluation_batch_size, max(2, amounts.validation))
        passes = self.work.passes(chosen, rows)
        calibrating = self.work.passes(chosen, rows, evaluation=False)
        share = 1 / self.devices  # devices that train together measure together
        main = self._passes(passes, rows, amounts.validation * share, all_of_them=False)
        once = main.plus(self._passes(passes, rows, amounts.test * share, all_of_them=False))
        # the main net's statistics are estimated on one or two views of training images, and each is measured
        estimated = self._passes(calibrating, rows, 2 * self._calibrated * share, all_of_them=False)
        looked_at = amounts.validation + amounts.test
        recalibrate = self._passes(calibrating, rows, self._calibrated, all_of_them=True)
        return _Measuring(
            validation=main,
            once=once.plus(estimated).plus(main.times(2)),
            subnets=len(chosen),
            recalibrate=recalibrate,
            evaluate=recalibrate.plus(self._passes(passes, rows, looked_at, all_of_them=True)),
            flops=_per_sample(passes, rows) * looked_at + _per_sample(calibrating, rows) * self._calibrated,
        )

    @property
    def _calibrated(self) -> int:
        """Training images that statistics are estimated on."""
        return min(self.recipe.evaluation.calibration_images, self.amounts.training)

    def _step(self, step: StepWork, update: Operations, communicated: float) -> StepForecast:
        accumulate = self.recipe.training.accumulate
        times, common, waiting = [], [], []
        for case in _CASES:
            shares = shares_of(self.machine, case)
            device, host = self._device(shares), partial(_host, shares)
            optimising = 1 / accumulate
            of_common = device(step.main) + optimising * device(update), host(step.main) + optimising * host(update)
            of_all = of_common[0] + step.extra(device), of_common[1] + step.extra(host)
            sent = (1 - shares.hidden) * communicated / (self.machine.link * shares.bandwidth) / accumulate
            times.append(self._together(*of_all) + sent)
            common.append(self._together(*of_common) + sent)
            waiting.append(sent)
        return StepForecast(
            flops_common=_flops(step.main),
            flops_beside=step.extra(_flops),
            traffic_common=_traffic(step.main),
            traffic_beside=step.extra(_traffic),
            operations=len(step.main) + step.extra(len) + len(update) / accumulate,
            estimate=step.estimate,
            seconds=Estimate(*times),
            seconds_common=Estimate(*common),
            communication=Estimate(*waiting),
            bound=self._bound(step, update, waiting[1]),
        )

    def _bound(self, step: StepWork, update: Operations, sent: float) -> dict[str, float]:
        """What a step is short of, by share of its time."""
        shares = shares_of(self.machine, "typical")

        def seconds(operations: Operations, *, of_arithmetic: bool) -> float:
            arithmetic, traffic = self._both(shares, operations)
            wanted = arithmetic > traffic if of_arithmetic else arithmetic <= traffic
            return float(np.maximum(arithmetic, traffic)[wanted].sum())

        parts = {}
        for name, of_arithmetic in (("arithmetic", True), ("memory traffic", False)):
            cost = partial(seconds, of_arithmetic=of_arithmetic)
            parts[name] = cost(step.main) + step.extra(cost) + cost(update) / self.recipe.training.accumulate
        host = _host(shares, step.main) + step.extra(partial(_host, shares))
        host += _host(shares, update) / self.recipe.training.accumulate
        waits = host if self.machine.measured else max(0.0, host - sum(parts.values()))
        parts |= {"launching": waits, "communication": sent}
        total = sum(parts.values())
        return {name: part / total for name, part in parts.items()}

    def _passes(self, passes: Passes, rows: int, samples: float, *, all_of_them: bool) -> Estimate:
        """How long forward passes on so many samples take."""
        found = []
        for case in _CASES:
            shares = shares_of(self.machine, case)
            of = passes.of_all if all_of_them else passes.of_main
            found.append(self._together(of(self._device(shares)), of(partial(_host, shares))))
        return Estimate(*found).times(samples / rows)

    def _together(self, device: float, host: float) -> float:
        # a GPU works while the host launches what comes next; a processor does both
        return device + host if self.machine.measured else max(device, host)

    def _device(self, shares: Shares) -> Cost:
        def seconds(operations: Operations) -> float:
            return float(np.maximum(*self._both(shares, operations)).sum())

        return seconds

    def _both(self, shares: Shares, operations: Operations) -> tuple[np.ndarray, np.ndarray]:
        """Seconds of each operation's arithmetic, and of its traffic."""
        # PyTorch lets float32 convolutions be rounded to TF32, and matrix products not
        convolving = self.machine.rate("tf32" if self.format == "fp32" else self.format)
        rates = np.where(operations.convolves, convolving, self.machine.rate(self.format))
        return operations.flops / (rates * shares.arithmetic), operations.traffic / (
            self.machine.bandwidth * shares.bandwidth
        )

    def _money(self, device_seconds: Estimate) -> Estimate | None:
        return None if self.price is None else device_seconds.times(self.price / 3600)

    def _warnings(self, step: StepForecast, batch: int) -> list[str]:
        found = []
        if step.estimate:
            found.append(f"what the method has besides a common step is an estimate, {step.estimate}")
        if self.format not in self.machine.flops and self.format not in ("fp32", "fp64"):
            found.append(
                f"{self.machine.name} has no rate for {self.format}: counted in float32; it may not run at all"
            )
        if self.recipe.training.precision == "32-true" and "tf32" in self.machine.flops:
            found.append(
                "float32 leaves most of this GPU unused: its half-precision rate is "
                f"{self.machine.rate('bf16') / self.machine.rate('fp32'):.0f} times as high (training.precision "
                "bf16-mixed)"
            )
        if step.bound["launching"] > 0.1 and not self.machine.measured:
            found.append(
                f"launching {step.operations:,.0f} operations a step takes longer than computing them: a larger "
                "batch costs next to nothing, and training.compile helps"
            )
        if self.recipe.data.resized:
            rate = self.devices * batch / step.seconds.typical
            found.append(
                f"training would read {rate:,.0f} images a second, {rate / self.devices:,.0f} for each device and its "
                f"{self.recipe.data.workers} workers; that they can is not looked at, and photographs are decoded "
                "at about 260 per second of processor time"
            )
        if self.recipe.training.compile:
            found.append("operations are counted as they run one by one; what compiling fuses is not known")
        if not self.amounts.opened:
            found.append(f"{self.recipe.data.name} was not opened: the number of its images is known or told")
        if not self.amounts.test:
            found.append("how many test images there are is not told, so that measuring on them is left out")
        return found


def _host(shares: Shares, operations: Operations) -> float:
    return shares.per_operation * len(operations)


def _flops(operations: Operations) -> float:
    return float(operations.flops.sum())


def _traffic(operations: Operations) -> float:
    return float(operations.traffic.sum())


def _per_sample(passes: Passes, rows: int) -> float:
    return passes.of_all(_flops) / rows
