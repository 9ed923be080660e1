"""A data set, opened: of images or of text."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple, Required, Self, TypedDict

import torch
from torch import Tensor

from stimulative.data.augmentation import Preparation
from stimulative.data.batches import Batch, ChangedLoader, Loader
from stimulative.tasks import Task, TaskName, task_named

View = Literal["training", "evaluation"]
"""How training images are prepared: augmented as for training, or as for evaluation."""


class Chance(NamedTuple):
    """What a net that knows nothing but how often each class comes does.

    Args:
        loss: Its cross-entropy in nats.
        top1: Its accuracy in percent.
    """

    loss: float
    top1: float


class InputSizes(TypedDict, total=False):
    """What the factory of a model is told of what goes in: of images their channels."""

    channels: int


class Sizes(InputSizes):
    """What the factory of a model is told of data, as keyword arguments of `models.build`."""

    classes: Required[int]


@dataclass(frozen=True)
class DataSet(ABC):
    """A data set, opened: its loaders and what a model and a report need to know of it.

    Args:
        name: The name it was opened by.
        classes: Number of classes; of text, of tokens.
        class_names: Their names, in the order of the labels.
        train: Training images, shuffled and augmented. The last batch is dropped if it is incomplete, unless
            it is the only one.
        validation: Training images held out, not augmented; to choose checkpoints on.
        test: The test split; read when first used.
        calibration: Training images that are not held out, shuffled and augmented as for training, the same
            in every pass; to recalibrate BatchNorm on.
        plain_calibration: The same images in the same order, prepared as validation images are; the same loader where
            training images are not augmented, and None where nobody knows, as of loaders of one's own.
        task: What they are for, as files say it.
        own_task: A task of one's own, where ``task`` is ``own``.
        unlabelled: Whether batches have None for targets, so that a trained net has to give these; see ``taught_by``.
        fingerprint: By part of the data, a short text that changes when the data do; see ``fingerprints``. Empty where
            nobody knows, as of loaders of one's own.
        left_out: By reason, how many files of a folder are not part of the data.
    """

    name: str
    classes: int
    class_names: tuple[str, ...]
    train: Loader
    validation: Loader
    test: Loader
    calibration: Loader
    plain_calibration: Loader | None = field(default=None, kw_only=True)
    task: TaskName = field(default="images", kw_only=True)
    own_task: Task | None = field(default=None, kw_only=True)
    unlabelled: bool = field(default=False, kw_only=True)
    fingerprint: Mapping[str, str] = field(default_factory=dict, kw_only=True)
    left_out: Mapping[str, int] = field(default_factory=dict, kw_only=True)

    @property
    def aim(self) -> Task:
        """What the targets are for: the loss, the check of targets, and the score."""
        return self.own_task or task_named(self.task)

    def taught_by(self, teacher: Callable[[Any], Tensor]) -> Self:
        """The same samples with targets.

        Args:
            teacher: Gives the targets of what a model takes.
        """

        def taught(batch: Batch) -> Batch:
            return batch[0], teacher(batch[0])

        parts = {part: ChangedLoader(getattr(self, part), taught) for part in ("train", "validation", "test")}
        return replace(self, **parts, unlabelled=False)

    def calibration_as(self, view: View) -> Loader:
        """The training images to estimate normalisation statistics on, in one of the views that there are of them.

        Args:
            view: Prepared as for training, or as for evaluation.
        """
        return self.plain_calibration if view == "evaluation" and self.plain_calibration else self.calibration

    @property
    def is_text(self) -> bool:
        """Whether these are texts for a language model, and not images."""
        return self.task == "text"

    @property
    def chance(self) -> Chance | None:
        """What a net does that has learned nothing yet, or nothing but the frequencies of tokens.

        None where targets are no classes of samples.
        """
        return Chance(math.log(self.classes), 100 / self.classes) if self.task in ("images", "text") else None

    @property
    @abstractmethod
    def input_sizes(self) -> InputSizes:
        """What the factory of a model is told of what goes in."""

    @property
    def sizes(self) -> Sizes:
        """What the factory of a model is told of these data, as keyword arguments of `models.build`."""
        return {"classes": self.classes, **self.input_sizes}

    @abstractmethod
    def example(self, samples: int = 2, *, evaluation: bool = False) -> Any:
        """A fixed batch of noise that a model for this data runs on; to unravel, to count and to time with.

        Args:
            samples: How many.
            evaluation: Images of the size of validation and test images, instead of training images.
        """

    @abstractmethod
    def described(self, *, evaluation: bool = False) -> str:
        """Such a batch in words."""


@dataclass(frozen=True)
class ImageData(DataSet):
    """Images, and their classes, labels, masks, or whatever a task of one's own has.

    Args:
        channels: Channels of an image.
        image_size: Side of the square training image in pixels.
        evaluation_image_size: Side of the square validation and test images in pixels.
        mean: Mean of each channel on the scale 0..1, subtracted from the images. Empty if unknown, which
            it is for loaders of one's own.
        std: Standard deviation of each channel on the scale 0..1, which the images are divided by. Empty if
            unknown.
        preparation: How validation and test images are made of those that are stored; None if they are taken as they
            are, or nobody knows.
    """

    channels: int
    image_size: int
    evaluation_image_size: int
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    preparation: Preparation | None = None

    @property
    def input_sizes(self) -> InputSizes:
        """The channels."""
        return {"channels": self.channels}

    def example(self, samples: int = 2, *, evaluation: bool = False) -> Tensor:
        """A fixed batch of noise, float32 (samples, channels, side, side)."""
        return noise_images(self.channels, self._side(evaluation), samples)

    def described(self, *, evaluation: bool = False) -> str:
        """Such a batch in words."""
        side = self._side(evaluation)
        return f"images of {self.channels} channels and {side}x{side} pixels"

    def _side(self, evaluation: bool) -> int:
        return self.evaluation_image_size if evaluation else self.image_size


@dataclass(frozen=True)
class TextData(DataSet):
    """Sequences of tokens, and the token that follows each. Wherever images are counted, these are sequences.

    A batch is the keyword arguments of a language model (`input_ids` and `attention_mask`, int64 (batch, length)) and
    the token that follows each (int64 (batch, length), -100 where none counts).

    Args:
        length: Tokens of a sequence.
        token_chance: What predicting each token by its frequency in training gives; None if unknown, which it is for
            loaders of one's own.
    """

    length: int
    token_chance: Chance | None = None
    task: TaskName = field(default="text", kw_only=True)

    @property
    def chance(self) -> Chance | None:
        """What a net does that has learned nothing but the frequencies of tokens."""
        return self.token_chance or super().chance

    @property
    def input_sizes(self) -> InputSizes:
        """Nothing: a language model takes sequences of any length."""
        return {}

    def example(self, samples: int = 2, *, evaluation: bool = False) -> dict[str, Tensor]:
        """A fixed batch of random tokens: `input_ids` and `attention_mask`, int64 (samples, length)."""
        return noise_sequences(self.length, self.classes, samples)

    def described(self, *, evaluation: bool = False) -> str:
        """Such a batch in words."""
        return f"sequences of {self.length} tokens"


@dataclass(frozen=True)
class SentenceData(TextData):
    """Texts for an encoder, each of which it makes one vector of. Wherever images are counted, these are texts.

    A batch is the keyword arguments of an encoder (`input_ids` and `attention_mask`, int64 (batch, tokens of its
    longest text)), without targets.
    """

    task: TaskName = field(default="embedding", kw_only=True)
    unlabelled: bool = field(default=True, kw_only=True)

    def described(self, *, evaluation: bool = False) -> str:
        """Such a batch in words."""
        return f"texts of {self.length} tokens"


Data = ImageData | TextData
"""A data set, opened."""


def noise_images(channels: int, size: int, samples: int = 2) -> Tensor:
    """A fixed batch of noise of shape `(samples, channels, size, size)`."""
    return torch.randn(samples, channels, size, size, generator=torch.Generator().manual_seed(0))


def noise_sequences(length: int, classes: int, samples: int = 2) -> dict[str, Tensor]:
    """A fixed batch of random tokens, `input_ids` and `attention_mask` of shape `(samples, length)`."""
    tokens = torch.randint(classes, (samples, length), generator=torch.Generator().manual_seed(0))
    return {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}
