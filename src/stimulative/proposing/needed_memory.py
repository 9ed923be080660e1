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

_GUESSES = 8


@dataclass(frozen=True)
class Memory(Record):
    """The memory that a training step needs on its device, in bytes.

    Args:
        weights: Parameters and buffers.
        gradients: Gradients of what is trained.
        optimizer: What the optimiser keeps.
        activations: What the forward passes of a step keep for the backward passes, at most.
        batch: The batch.
        images: Images that lie on the device all the time.
        least: What is needed in any case: activations and gradients are not all there at the same time.
        most: With all of them at once, what the largest operation reads and writes, and what is no tensor.
        device: What the device has; left out where nobody knows.
        fits: Whether it fits: yes, perhaps or no; left out where nobody knows.
        largest_batch: The largest batch that fits, of as many samples as there are at most.
        instead: What would fit, where this may not.
    """

    weights: float
    gradients: float
    optimizer: float
    activations: float
    batch: float
    images: float
    least: float
    most: float
    device: float | None = absent()
    fits: str | None = absent()
    largest_batch: int | None = absent()
    instead: tuple[str, ...] = field(default=())


class NeededMemory:
    """The memory that steps need.

    Args:
        work: What a step is made of.
        kept: Bytes that the optimiser keeps.
        images: Bytes of images that lie on the device.
        machine: The device.
    """

    def __init__(self, work: TrainingWork, kept: float, images: float, machine: Machine) -> None:
        self.work, self.kept, self.images, self.machine = work, kept, images, machine
        self.weights = _bytes([*work.method.parameters(), *work.method.buffers()])
        self.gradients = _bytes([p for p in work.method.parameters() if p.requires_grad])
        self.sample = _bytes([*tensors_in(work.x), *tensors_in(work.y)]) / work.sizes[1]

    def of(self, batch: int, *, lean: bool = False) -> tuple[float, float, float]:
        """Bytes of the activations of a step on a batch, and the least and the most of all that it needs.

        Args:
            batch: Samples of the batch.
            lean: With ``method.schedule lean``, which keeps one pass at a time.
        """
        step = self.work.step(batch)
        saved = step.main.saved if lean else step.most_saved
        at_once = float(step.main.traffic.max(initial=0.0))
        static = self.weights + self.kept + self.images + self.sample * batch
        least = static + max(saved, self.gradients)
        # an optimiser that works on all parameters at once keeps a result for each meanwhile
        context = 0.0 if self.machine.measured else _CONTEXT
        return saved, least, static + saved + self.gradients + max(at_once, self.gradients) + context

    def largest(self, memory: float, samples: int, *, lean: bool = False) -> int:
        """The largest batch that fits into a memory; 0 if not even one sample does.

        Args:
            memory: Bytes.
            samples: The largest batch there can be.
            lean: With ``method.schedule lean``.
        """

        def most(batch: int) -> float:
            return self.of(batch, lean=lean)[2]

        if most(1) > memory:
            return 0
        if most(samples) <= memory:
            return samples
        fitting, too_large = 1, samples
        for _ in range(_GUESSES):  # along a line between the two, which it nearly is
            below, above = most(fitting), most(too_large)
            guess = fitting + int((memory - below) / (above - below) * (too_large - fitting))
            if guess == fitting:
                break
            fitting, too_large = (guess, too_large) if most(guess) <= memory else (fitting, guess)
        return fitting


def memory_of(needed: NeededMemory, batch: int, *, devices: int, samples: int) -> Memory:
    """The memory that a step on a batch needs.

    Args:
        needed: What steps need.
        batch: Samples of the batch of one device.
        devices: Devices that train together.
        samples: Training samples of one device, than which no batch is larger.
    """
    memory = needed.machine.memory
    activations, least, most = needed.of(batch)
    fits = largest = None
    instead: list[str] = []
    if memory is not None:
        fits = "yes" if most <= memory else "no" if least > memory else "perhaps"
        largest = needed.largest(memory, samples)
        if fits != "yes":
            instead = _instead(needed, batch, memory, largest, samples, devices)
    return Memory(
        needed.weights,
        needed.gradients,
        needed.kept,
        activations,
        needed.sample * batch,
        needed.images,
        least,
        most,
        memory,
        fits,
        largest,
        tuple(instead),
    )


def _instead(needed: NeededMemory, batch: int, memory: float, largest: int, samples: int, devices: int) -> list[str]:
    """What fits by what is counted, of what may be changed."""
    found = []
    method = needed.work.method
    joint = isinstance(method, StimulativeTraining) and method.schedule == "joint"
    if joint and needed.of(batch, lean=True)[2] <= memory:
        found.append("method.schedule lean, which takes the memory of common training")
    if largest:
        found.append(_of_batch(largest, devices))
    elif joint and (largest := needed.largest(memory, samples, lean=True)):
        found.append(f"method.schedule lean with {_of_batch(largest, devices)}")
    half = needed.machine.half_precision
    if needed.work.prepared.recipe.training.precision == "32-true" and half is not None:
        mixed = NeededMemory(needed.work.mixed(), needed.kept, needed.images, needed.machine)
        if mixed.of(batch)[2] <= memory:
            found.append(f"training.precision {half[1]}, which halves most of the activations")
    return found or ["nothing that a plan tries: a device with more memory, or a smaller model"]


def _of_batch(largest: int, devices: int) -> str:
    share = f" on {devices} devices, {largest:,} on each" if devices > 1 else ""
    return f"data.batch_size {largest * devices}{share}; training.accumulate makes an update of several of them"


def _bytes(tensors: list[Tensor]) -> float:
    return float(sum(tensor.numel() * tensor.element_size() for tensor in tensors))
