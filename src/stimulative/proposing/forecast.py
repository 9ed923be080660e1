"""What a run will take: time, memory and money, from counts and stated rates.

Counts are exact (or said not to be). A time is what the operations take, one after the other, each by whichever it is
short of: its arithmetic or its traffic with memory, at the machine's rates times the share that is assumed to be
reached. Where the host launches operations slower than a GPU does them, it is the host that counts. On several devices
gradients are summed by a ring, in which each device sends and receives ``2 (N - 1) / N`` times their bytes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from stimulative.analysis import Operations, choose_subnets
from stimulative.config import Recipe
from stimulative.data import NATIVE_CLASSES
from stimulative.errors import UsageError
from stimulative.proposing.estimates import Estimate, Forecast, StepForecast
from stimulative.proposing.foreseen_data import Amounts, foresee
from stimulative.proposing.machines import HERE, Case, Format, Machine, Shares, machine_named, shares_of
from stimulative.proposing.needed_memory import NeededMemory, memory_of
from stimulative.proposing.processor_rates import measured_machine
from stimulative.proposing.training_work import Cost, Passes, StepWork, TrainingWork
from stimulative.residual import layers_with_statistics
from stimulative.training import is_wrapped

_FORMATS: Mapping[str, Format] = {
    "64-true": "fp64",
    "32-true": "fp32",
    "bf16-mixed": "bf16",
    "bf16-true": "bf16",
    "16-mixed": "fp16",
}
_CASES: tuple[Case, ...] = ("best", "typical", "worst")


def forecast_of(
    recipe: Recipe,
    *,
    gpu: str = HERE,
    gpus: int | None = None,
    images: Sequence[int] | None = None,
    price_per_hour: float | None = None,
    machine: Machine | None = None,
) -> Forecast:
    """Foresee what a run of a recipe and its evaluation will take, without training.

    Args:
        recipe: The recipe.
        gpu: The machine: a name of ``GPUS``, or ``cpu`` for this machine's processor, whose rates are measured.
        gpus: How many of them train together in one machine; by default the recipe's ``training.devices``, and one
            where that is no number.
        images: Training and test images of data that are not here; see ``foresee``.
        price_per_hour: Of one device.
        machine: A machine with rates of its own, in place of ``gpu``.

    Raises:
        UsageError: If the recipe, the machine or the data cannot be used.
    """
    if gpus is None:
        gpus = 1 if recipe.training.devices == "auto" else recipe.training.devices
    if gpus < 1:
        raise UsageError(f"gpus= is 1 or more, got {gpus}")
    if price_per_hour is not None and not (math.isfinite(price_per_hour) and price_per_hour >= 0):
        raise UsageError(f"price_per_hour= is 0 or more, got {price_per_hour}")
    if machine is None and gpu == HERE and gpus > 1:
        raise UsageError(
            f"gpus={gpus}: of this processor there is one, and its measured rates are those of all its threads; name "
            "a GPU (gpu=), or plan for one (gpus=1)"
        )
    machine = machine or (measured_machine() if gpu == HERE else machine_named(gpu))
    prepared, amounts = foresee(recipe, processes=gpus, images=images)
    return Forecasting(
        recipe, TrainingWork(prepared, processes=gpus), amounts, machine, gpus, price_per_hour
    ).forecast()


@dataclass(frozen=True)
class _Measuring:
    """What measuring takes.

    Args:
        validation: Seconds of what is measured behind an epoch.
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
        self.format: Format = _format_of(recipe, recipe.training.precision)
        mixed = recipe.training.precision.endswith("-mixed") and not recipe.evaluation.autocast
        self.format_measured: Format = _format_of(recipe, "32-true") if mixed else self.format
        self.data, self.network = work.prepared.data, work.prepared.network

    def forecast(self) -> Forecast:
        """What the run will take."""
        settings, schedule, batch = self.recipe.training, self.recipe.schedule, self.work.batch
        step, (update, kept) = self.work.step(batch), self.work.update(on_gpu=not self.machine.measured)
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
            accumulate=settings.accumulate,
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
            memory=memory_of(
                NeededMemory(self.work, kept, self._stored, self.machine),
                batch,
                devices=self.devices,
                samples=max(batch, self.amounts.training // self.devices),
            ),
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
        tested = self._passes(passes, rows, amounts.test * share, all_of_them=False)
        once = main.plus(tested)
        # the main net's statistics are estimated on one or two views of training images, and each is measured
        estimated = self._passes(calibrating, rows, 2 * self._calibrated * share, all_of_them=False)
        looked_at = amounts.validation + amounts.test
        recalibrate = self._passes(calibrating, rows, self._calibrated, all_of_them=True)
        return _Measuring(
            validation=main.plus(tested) if settings.test_every_epoch else main,
            once=once.plus(estimated).plus(main.times(2)),
            subnets=len(chosen),
            recalibrate=recalibrate,
            evaluate=recalibrate.plus(self._passes(passes, rows, looked_at, all_of_them=True)),
            flops=_per_sample(passes, rows) * looked_at + _per_sample(calibrating, rows) * self._calibrated,
        )

    @property
    def _stored(self) -> float:
        """Bytes of training images that lie on each device: all of those that are small, a byte for each colour."""
        settings = self.recipe.data
        if settings.name not in NATIVE_CLASSES:
            return 0.0
        channels, side = self.work.x.shape[1:3]
        padded = side + 2 * settings.crop_padding
        return float((self.amounts.training + self.amounts.validation) * channels * padded**2)

    @property
    def _calibrated(self) -> int:
        """Training images that statistics are estimated on; none for a net that has no statistics."""
        if not layers_with_statistics(self.network.model, self.network.wiring):
            return 0
        return min(self.recipe.evaluation.calibration_images, self.amounts.training)

    def _step(self, step: StepWork, update: Operations, communicated: float) -> StepForecast:
        accumulate = self.recipe.training.accumulate
        times, common, waiting = [], [], []
        # what is sent when all backward passes are over waits for nothing and hides behind nothing
        hides = is_wrapped(self.work.method, self.recipe.training.strategy)
        for case in _CASES:
            shares = shares_of(self.machine, case)
            device, host = self._device(shares, self.format), partial(_host, shares)
            optimising = 1 / accumulate
            of_common = device(step.main) + optimising * device(update), host(step.main) + optimising * host(update)
            of_all = of_common[0] + step.extra(device), of_common[1] + step.extra(host)
            sent = (1 - shares.hidden * hides) * communicated / (self.machine.link * shares.bandwidth) / accumulate
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
            arithmetic, traffic = self._both(shares, self.format, operations)
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
            found.append(self._together(of(self._device(shares, self.format_measured)), of(partial(_host, shares))))
        return Estimate(*found).times(samples / rows)

    def _together(self, device: float, host: float) -> float:
        # a GPU works while the host launches what comes next; a processor does both
        return device + host if self.machine.measured else max(device, host)

    def _device(self, shares: Shares, number_format: Format) -> Cost:
        def seconds(operations: Operations) -> float:
            return float(np.maximum(*self._both(shares, number_format, operations)).sum())

        return seconds

    def _both(self, shares: Shares, number_format: Format, operations: Operations) -> tuple[np.ndarray, np.ndarray]:
        """Seconds of each operation's arithmetic, and of its traffic."""
        rate, bandwidth = self.machine.rate(number_format), self.machine.bandwidth
        return operations.flops / (rate * shares.arithmetic), operations.traffic / (bandwidth * shares.bandwidth)

    def _money(self, device_seconds: Estimate) -> Estimate | None:
        return None if self.price is None else device_seconds.times(self.price / 3600)

    def _warnings(self, step: StepForecast, batch: int) -> list[str]:
        found = []
        if step.estimate:
            found.append(f"what the method has besides a common step is an estimate, {step.estimate}")
        if self.format not in self.machine.flops and self.format in ("bf16", "fp16"):
            found.append(
                f"{self.machine.name} has no rate for {self.format}: counted in float32; it may not run at all"
            )
        training = self.recipe.training
        if training.devices not in ("auto", self.devices):
            found.append(
                f"the recipe has training.devices {training.devices}: on {self.devices} it starts with that set to auto"
            )
        if training.device == "cpu" and not self.machine.measured:
            found.append("the recipe has training.device cpu: it runs on a GPU with that set to auto")
        launching, computing = step.bound["launching"], step.bound["arithmetic"] + step.bound["memory traffic"]
        # where launching takes most of the time, casting the weights only launches more
        if training.precision == "32-true" and self.machine.half_precision is not None and launching < 0.5:
            half, precision = self.machine.half_precision
            found.append(
                f"float32 leaves much of this GPU unused: its half-precision rate is "
                f"{self.machine.rate(half) / self.machine.rate(self.format):.1f} times as high (training.precision "
                f"{precision})"
            )
        if launching > 0.1 and not self.machine.measured:
            free = int(batch * (1 + launching / computing))
            helps = "" if training.compile or training.capture else ", and training.compile helps"
            found.append(
                f"launching {step.operations:,.0f} operations for each batch takes longer than computing them: up to "
                f"about {free:,} samples a device take no longer than these {batch:,}{helps}"
            )
        if self.recipe.data.resized:
            rate = self.devices * batch / step.seconds.typical
            found.append(
                f"training would read {rate:,.0f} images a second, {rate / self.devices:,.0f} for each device and its "
                f"{self.recipe.data.workers} workers; whether they can is not checked, and photographs are decoded "
                "at about 260 per second of processor time"
            )
        if training.compile or training.capture:
            saved = "compiling fuses" if training.compile else "replaying recordings saves"
            found.append(f"operations are counted as they run one by one; what {saved} is not known")
        if not self.amounts.opened:
            found.append(f"{self.recipe.data.name} was not opened: the number of its images is known or told")
        if not self.amounts.test:
            found.append("how many test images there are is not told, so that measuring on them is left out")
        return found


def _format_of(recipe: Recipe, precision: str) -> Format:
    """What products are computed in, in a precision; machines without TF32 multiply float32 as it is."""
    found = _FORMATS[precision]
    return "tf32" if found == "fp32" and recipe.training.tf32 else found


def _host(shares: Shares, operations: Operations) -> float:
    return shares.per_operation * len(operations)


def _flops(operations: Operations) -> float:
    return float(operations.flops.sum())


def _traffic(operations: Operations) -> float:
    return float(operations.traffic.sum())


def _per_sample(passes: Passes, rows: int) -> float:
    return passes.of_all(_flops) / rows
