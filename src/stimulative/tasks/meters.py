"""How good the outputs of a net are on a data set: batches are added up, and the result is one number and a few more.

Losses, and what is counted by class, are counted here: torchmetrics counts by ``torch.bincount``, for which the host
waits for an accelerator in each batch. All other scores are torchmetrics'.
"""

from __future__ import annotations

import copy
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils import _pytree as pytree

from stimulative.errors import UsageError
from stimulative.objectives import IGNORED, cosine_distance, counted, label_cross_entropy
from stimulative.tasks.rows import two_classes

_MOST_CLASSES = 10_000  # of more, such as a vocabulary, nothing is said of each
_MOST_PAIRED = 2_000  # samples whose similarities are ranked


class Measurement(NamedTuple):
    """What a net has on a data set.

    Args:
        quality: The number that nets are compared by; see ``MEASURES``.
        loss: The mean loss of the task.
        more: Further scores by name.
        by_class: A score of each class that occurs: F1, average precision or IoU, in percent; by its number.
        of_sequences: Whether each position of sequences was classified, so that the loss has a perplexity.
    """

    quality: float
    loss: float
    more: Mapping[str, float]
    by_class: Mapping[int, float]
    of_sequences: bool = False


class Meter(ABC):
    """Adds up batches; ``samples`` is how many there have been, of dense outputs how many places.

    What several meters of one kind have added up, a batch each, is what one of them has of all these batches, to the
    last bit, once their ``sums`` are put together in the order of the batches.
    """

    summed: ClassVar[tuple[str, ...] | None] = None
    """The attributes that are added up, besides the loss and the samples: numbers, tensors, or lists.

    A class that has an ``add`` of its own says which; without that it measures in one process only.
    """

    def __init__(self) -> None:
        self._loss: Tensor | None = None
        self._samples: Tensor | int = 0

    def __init_subclass__(cls, **settings: Any) -> None:
        super().__init_subclass__(**settings)
        if "add" in vars(cls) and "summed" not in vars(cls):
            cls.summed = None  # those of the class that it is made of may not be all

    @abstractmethod
    def add(self, outputs: Any, targets: Any) -> None:
        """Count a batch in."""

    @abstractmethod
    def measured(self) -> Measurement:
        """What there is to say of all batches so far."""

    def sums(self) -> dict[str, Any]:
        """What has been added up, so that it can be sent to another process.

        Raises:
            UsageError: If the class does not say what that is.
        """
        if self.summed is None:
            raise UsageError(
                f"{type(self).__name__} does not say what it adds up, so that several processes cannot put their parts "
                "together: set its attribute summed to the names of what its add changes, besides what _add_loss does "
                '(summed = ("_hits",)), or measure in one process'
            )
        return {name: portable(getattr(self, name)) for name in ("_loss", "_samples", *self.summed)}

    def put_together(self, sums: Mapping[str, Any]) -> None:
        """Add what another meter of this kind has added up."""
        for name, value in sums.items():
            setattr(self, name, together(getattr(self, name), value))

    @property
    def samples(self) -> int:
        """How many samples, labels or places have counted."""
        return int(self._samples)

    def _add_loss(self, total: Tensor, samples: Tensor | int) -> None:
        double = _double(total)
        self._loss = double if self._loss is None else self._loss + double
        self._samples = self._samples + samples

    def _mean_loss(self) -> float:
        assert self._loss is not None
        return float(self._loss) / max(1, self.samples)


class ClassCounts:
    """How often each class was predicted rightly, was predicted, and was there.

    Args:
        classes: How many classes there are.
        device: Where to count.
    """

    def __init__(self, classes: int, device: torch.device) -> None:
        self._classes = classes
        # the last place is for what does not count
        self._counts = torch.zeros(3, classes + 1, dtype=torch.int64, device=device)

    def add(self, predicted: Tensor, actual: Tensor) -> None:
        """Count a batch in: class indices of one shape; -100 where the class is not known."""
        known = actual != IGNORED
        for row, (classes, counts) in enumerate(
            ((actual, known & (predicted == actual)), (predicted, known), (actual, known))
        ):
            places = torch.where(counts, classes, self._classes).flatten()
            self._counts[row].scatter_add_(0, places, torch.ones_like(places))

    def __add__(self, other: ClassCounts) -> ClassCounts:
        both = copy.copy(self)
        both._counts = self._counts + other._counts
        return both

    def cpu(self) -> ClassCounts:
        """The same on the CPU."""
        moved = copy.copy(self)
        moved._counts = self._counts.cpu()
        return moved

    def read(self) -> tuple[Tensor, Tensor, Tensor]:
        """The three counts, shape ``(classes,)``, float64, on the CPU."""
        right, predicted, actual = self._counts[:, :-1].cpu().double()
        return right, predicted, actual


class ClassMeter(Meter):
    """Classes that exclude each other: top-1 accuracy, and F1 of each class.

    Args:
        temperature: What logits are divided by for the loss.
    """

    summed = ("_hits", "_counts", "_of_sequences")

    def __init__(self, temperature: float = 1.0) -> None:
        super().__init__()
        self._temperature = temperature
        self._hits: Tensor | int = 0
        self._counts: ClassCounts | None = None
        self._of_sequences = False

    def add(self, outputs: Tensor, targets: Tensor) -> None:
        """Count a batch in: logits, and class indices or probabilities."""
        logits = two_classes(outputs)
        if targets.dim() == logits.dim() and not targets.is_floating_point():
            targets = targets.squeeze(-1)
        self._hits = self._hits + hits(logits, targets)
        scaled = logits.float() if self._temperature == 1 else logits.float() / self._temperature
        flat = targets.flatten(0, -2) if targets.is_floating_point() else targets.flatten()
        loss = F.cross_entropy(scaled.flatten(0, -2), flat, reduction="sum", ignore_index=IGNORED)
        counts = counted(targets)
        self._of_sequences = logits.dim() > 2
        self._add_loss(loss, len(targets) if counts is None else counts.sum())
        if logits.dim() == 2 and logits.shape[-1] <= _MOST_CLASSES:
            self._counts = self._counts or ClassCounts(logits.shape[-1], logits.device)
            self._counts.add(logits.argmax(-1), targets.argmax(-1) if targets.is_floating_point() else targets)

    def measured(self) -> Measurement:
        """Top-1 accuracy and macro F1 in percent, the loss in nats."""
        top1 = 100 * int(self._hits) / max(1, self.samples)
        if self._counts is None:
            return Measurement(top1, self._mean_loss(), {}, {}, self._of_sequences)
        right, predicted, actual = self._counts.read()
        by_class = _of_those(200 * right / (predicted + actual), actual > 0)
        return Measurement(top1, self._mean_loss(), {"macro_f1": _mean(by_class)}, by_class)


class LabelMeter(Meter):
    """Labels that are present or not: mean average precision, and that of each label."""

    summed = ("_kept",)

    def __init__(self) -> None:
        super().__init__()
        self._kept: list[tuple[Tensor, Tensor]] = []

    def add(self, outputs: Tensor, targets: Tensor) -> None:
        """Count a batch in: logits, and 0 or 1 for each label, -100 where nobody knows."""
        known = targets != IGNORED
        self._add_loss(label_cross_entropy(outputs, targets) * known.sum(), known.sum())
        rounded = torch.where(known, targets.round(), IGNORED).long()
        self._kept.append((outputs.float().sigmoid(), rounded))

    def measured(self) -> Measurement:
        """Mean average precision and macro F1 in percent, over the labels that occur; the loss in nats."""
        from torchmetrics.functional.classification import multilabel_average_precision, multilabel_f1_score

        # on the CPU, since what is told of each label by itself would be waited for as often
        given, wanted = (torch.cat(part).cpu() for part in zip(*self._kept, strict=True))
        settings: dict[str, Any] = {"average": None, "ignore_index": IGNORED, "validate_args": False}
        present = (wanted == 1).any(0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of labels that do not occur, which are left out
            precision, f1 = (
                _of_those(100 * score(given, wanted, given.shape[1], **settings), present)
                for score in (multilabel_average_precision, multilabel_f1_score)
            )
        return Measurement(_mean(precision), self._mean_loss(), {"macro_f1": _mean(f1)}, precision)


class PixelMeter(Meter):
    """A class of each place: mean IoU, and that of each class.

    Args:
        aim: The task, which brings logits to the resolution of the targets.
    """

    summed = ("_hits", "_counts")

    def __init__(self, aim: Any) -> None:
        super().__init__()
        self._aim = aim
        self._counts: ClassCounts | None = None
        self._hits: Tensor | int = 0

    def add(self, outputs: Tensor, targets: Tensor) -> None:
        """Count a batch in: logits of shape (batch, classes, ...), and a class index of each place."""
        rows, known = self._aim.rows_and_indices(outputs, targets)
        counts = known != IGNORED
        self._add_loss(self._aim.loss(outputs, targets) * counts.sum(), counts.sum())
        predicted = rows.argmax(-1)
        self._hits = self._hits + (predicted == known).sum()
        self._counts = self._counts or ClassCounts(rows.shape[-1], rows.device)
        self._counts.add(predicted, known)

    def measured(self) -> Measurement:
        """Mean IoU, over the classes that occur or are predicted, and pixel accuracy in percent; the loss in nats."""
        assert self._counts is not None
        right, predicted, actual = self._counts.read()
        union = predicted + actual - right
        by_class = _of_those(100 * right / union, union > 0)
        accuracy = 100 * int(self._hits) / max(1, self.samples)
        return Measurement(_mean(by_class), self._mean_loss(), {"pixel_accuracy": accuracy}, by_class)


class NumberMeter(Meter):
    """Numbers: the share of their variance that is explained."""

    summed = ("_rows", "_sums")

    def __init__(self) -> None:
        super().__init__()
        self._rows = 0
        self._sums: Tensor | None = None

    def add(self, outputs: Tensor, targets: Tensor) -> None:
        """Count a batch in: outputs and targets of one shape."""
        found, wanted = (_double(one.reshape(len(outputs), -1)) for one in (outputs.float(), targets))
        off = found - wanted
        self._add_loss(off.square().sum(), targets.numel())
        sums = torch.stack([wanted.sum(0), wanted.square().sum(0), off.square().sum(0), off.abs().sum(0)])
        self._sums = sums if self._sums is None else self._sums + sums
        self._rows += len(outputs)

    def measured(self) -> Measurement:
        """R², the mean over outputs, and the mean absolute error; the loss is the mean squared error."""
        assert self._sums is not None
        total, squares, off, distance = self._sums.cpu().double()
        spread = squares - total.square() / self._rows
        constant = spread <= 1e-12 * squares  # nothing is to be explained, which rounding must not make much of
        explained = torch.where(constant, (off == 0).double(), 1 - off / spread)
        r2 = float(explained.mean()) if self._rows > 1 else 0.0
        return Measurement(r2, self._mean_loss(), {"mae": float(distance.mean()) / self._rows}, {})


class ImageMeter(Meter):
    """Images of images: the peak signal-to-noise ratio, the mean over images of values from 0 to 1."""

    summed = ("_decibels", "_images")

    def __init__(self) -> None:
        super().__init__()
        self._decibels: Tensor | float = 0.0
        self._images = 0

    def add(self, outputs: Tensor, targets: Tensor) -> None:
        """Count a batch in: images of one shape, (batch, channels, height, width)."""
        errors = _double((outputs.float() - targets.float()).square()).flatten(1).mean(1)
        self._add_loss(errors.sum() * (targets.numel() // len(targets)), targets.numel())
        self._decibels = self._decibels - 10 * errors.log10().sum()
        self._images += len(targets)

    def measured(self) -> Measurement:
        """The ratio in dB; the loss is the mean squared error."""
        return Measurement(float(self._decibels) / max(1, self._images), self._mean_loss(), {}, {})


class VectorMeter(Meter):
    """Embeddings: the cosine to those that they are to be like, and whether they rank similarities alike."""

    summed = ("_kept",)

    def __init__(self) -> None:
        super().__init__()
        self._kept: list[tuple[Tensor, Tensor]] = []

    def add(self, outputs: Tensor, targets: Tensor) -> None:
        """Count a batch in: vectors, and those that they are to be like."""
        self._add_loss(cosine_distance(outputs, targets) * len(targets), len(targets))
        if self.samples - len(targets) < _MOST_PAIRED:
            self._kept.append((outputs.detach().float(), targets.detach().float()))

    def measured(self) -> Measurement:
        """The mean cosine, and Spearman's correlation of the similarities of all pairs (of 2,000 vectors at most)."""
        from torchmetrics.functional import spearman_corrcoef

        loss = self._mean_loss()
        # in double precision, which no autocast changes
        given, wanted = (torch.cat(part)[:_MOST_PAIRED].cpu().double() for part in zip(*self._kept, strict=True))
        pairs = torch.triu_indices(len(given), len(given), 1)
        if pairs.shape[1] < 2:
            return Measurement(1 - loss, loss, {}, {})
        similar = [(F.normalize(one) @ F.normalize(one).T)[pairs[0], pairs[1]] for one in (given, wanted)]
        return Measurement(1 - loss, loss, {"rank_correlation": float(spearman_corrcoef(*similar))}, {})


class OwnMeter(Meter):
    """A score of one's own, the mean over samples.

    Args:
        loss: ``(outputs, targets)`` to the mean loss of a batch.
        score: The same to the mean score, or None for the loss with its sign changed.
    """

    summed = ("_score",)

    def __init__(self, loss: Callable[[Any, Any], Tensor], score: Callable[[Any, Any], Any] | None) -> None:
        super().__init__()
        self._of_loss = loss
        self._of_score = score
        self._score: float = 0.0

    def add(self, outputs: Any, targets: Any) -> None:
        """Count a batch in."""
        samples = next((len(one) for one in pytree.tree_leaves((targets, outputs)) if _has_samples(one)), 1)
        self._add_loss(self._of_loss(outputs, targets) * samples, samples)
        if self._of_score is not None:
            self._score += float(self._of_score(outputs, targets)) * samples

    def measured(self) -> Measurement:
        """The score and the loss."""
        loss = self._mean_loss()
        return Measurement(-loss if self._of_score is None else self._score / max(1, self.samples), loss, {}, {})


def _double(values: Tensor) -> Tensor:
    """In double precision, where the device has that."""
    return values if values.device.type == "mps" else values.double()


def _has_samples(value: Any) -> bool:
    return isinstance(value, Tensor) and value.dim() > 0


def portable(value: Any) -> Any:
    """A sum on the CPU."""
    if isinstance(value, list | tuple):
        return type(value)(portable(one) for one in value)
    return value.cpu() if hasattr(value, "cpu") else value


def together(one: Any, other: Any) -> Any:
    """Two sums of one kind as one: of numbers, tensors, counts, or lists; None is nothing yet."""
    if one is None or other is None:
        return other if one is None else one
    return one or other if isinstance(one, bool) else one + other


def hits(logits: Tensor, targets: Tensor) -> Tensor:
    """How many samples' most likely class is the right one, or the most probable one where targets are probabilities.

    Args:
        logits: Shape ``(B, classes)``, or ``(B, positions, classes)`` of text.
        targets: Class indices in their shape without the classes, or probabilities in their shape.
    """
    right = targets.argmax(-1) if targets.is_floating_point() else targets
    return (logits.argmax(-1) == right).sum()


def _of_those(values: Tensor, there: Tensor) -> dict[int, float]:
    return {number: float(value) for number, value in enumerate(values.tolist()) if there[number]}


def _mean(values: Mapping[int, float]) -> float:
    return sum(values.values()) / len(values) if values else 0.0
