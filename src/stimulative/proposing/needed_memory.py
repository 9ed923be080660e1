"""The memory that a training step needs on its device, counted, and what to do where there is less."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from stimulative.methods import StimulativeTraining
from stimulative.proposing.machines import GIB, Machine
from stimulative.proposing.training_work import TrainingWork
from stimulative.records import Record, absent
from stimulative.residual import tensors_in

_CONTEXT = GIB
"""What CUDA, its libraries and their working space take besides tensors: an assumption."""


@dataclass(frozen=True)
class Memory(Record):
    """The memory that a training step needs on its device, in bytes.

    Args:
        weights: Parameters and buffers.
        gradients: Gradients of what is trained.
        optimizer: What the optimiser keeps.
        activations: What the forward passes of a step keep for the backward passes, at most.
        batch: The batch.
        least: What is needed in any case: activations and gradients are not all there at the same time.
        most: With all of them at once, what the largest operation reads and writes, and what is no tensor.
        device: What the device has; left out where nobody knows.
        fits: Whether it fits: yes, perhaps or no; left out where nobody knows.
        largest_batch: The largest batch that fits.
        instead: What would fit, where this may not.
    """

    weights: float
    gradients: float
    optimizer: float
    activations: float
    batch: float
    least: float
    most: float
    device: float | None = absent()
    fits: str | None = absent()
    largest_batch: int | None = absent()
    instead: tuple[str, ...] = field(default=())


def memory_of(work: TrainingWork, batch: int, kept: float, machine: Machine) -> Memory:
    """The memory that a step on a batch needs.

    Args:
        work: What the step is made of.
        batch: Samples of the batch.
        kept: Bytes that the optimiser keeps.
        machine: The device.
    """
    weights = _bytes([*work.method.parameters(), *work.method.buffers()])
    gradients = _bytes([p for p in work.method.parameters() if p.requires_grad])
    sample = _bytes([*tensors_in(work.x), *tensors_in(work.y)]) / work.sizes[1]
    context = 0.0 if machine.measured else _CONTEXT

    def needed(size: int) -> tuple[float, float, float]:
        step = work.step(size)
        at_once = float(step.main.traffic.max(initial=0.0))
        static = weights + kept + sample * size
        least = static + max(step.most_saved, gradients)
        # an optimiser that works on all parameters at once keeps a result for each meanwhile
        return step.most_saved, least, static + step.most_saved + gradients + max(at_once, gradients) + context

    activations, least, most = needed(batch)
    fits = largest = None
    instead: list[str] = []
    if machine.memory is not None:
        fits = "yes" if most <= machine.memory else "no" if least > machine.memory else "perhaps"
        of_one = needed(1)[2]
        each = (most - of_one) / max(1, batch - 1)
        largest = max(0, int((machine.memory - of_one) / each) + 1) if each else batch
        if fits != "yes":
            if isinstance(work.method, StimulativeTraining) and work.method.schedule == "joint":
                instead.append("method.schedule lean, which takes the memory of common training")
            if largest:
                instead.append(
                    f"{largest} samples a device (data.batch_size; training.accumulate makes as many of them a step)"
                )
            else:
                instead.append("no batch fits: a device with more memory, or a smaller model")
            if work.prepared.recipe.training.precision == "32-true":
                instead.append("training.precision bf16-mixed, which halves most of the activations")
    return Memory(
        weights,
        gradients,
        kept,
        activations,
        sample * batch,
        least,
        most,
        machine.memory,
        fits,
        largest,
        tuple(instead),
    )


def _bytes(tensors: list[Tensor]) -> float:
    return float(sum(tensor.numel() * tensor.element_size() for tensor in tensors))
