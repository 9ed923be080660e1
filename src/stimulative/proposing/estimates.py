"""What a plan says: the record of a forecast, and estimates with a best and a worst case."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from stimulative.proposing.needed_memory import Memory
from stimulative.records import Record, absent


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
    """A training step on one batch of one device; with ``training.accumulate`` several of them make an update.

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
        accumulate: Steps that make one update of the weights.
        steps_per_epoch: Updates of the weights in an epoch.
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
    accumulate: int
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
