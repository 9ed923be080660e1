"""A data set, opened."""

import math
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from stimulative.data.batches import Loader

Task = Literal["images", "text"]


class Chance(NamedTuple):
    """What a net that knows nothing but how often each class comes does.

    Args:
        loss: Its cross-entropy in nats.
        top1: Its accuracy in percent.
    """

    loss: float
    top1: float


@dataclass(frozen=True)
class Data:
    """A data set, opened: its loaders and what a model and a report need to know of it.

    Args:
        name: The name it was opened by.
        classes: Number of classes; of text, of tokens.
        class_names: Their names, in the order of the labels.
        channels: Channels of an image; 0 for text.
        image_size: Side of the square training image in pixels; 0 for text.
        evaluation_image_size: Side of the square validation and test images in pixels; 0 for text.
        mean: Mean of each channel on the scale 0..1, subtracted from the images. Empty if unknown, which
            it is for loaders of one's own.
        std: Standard deviation of each channel on the scale 0..1, which the images are divided by. Empty if
            unknown.
        train: Training images, shuffled and augmented. The last batch is dropped if it is incomplete, unless
            it is the only one.
        validation: Training images held out, not augmented; to choose checkpoints on.
        test: The test split; read when first used.
        calibration: Training images that are not held out, shuffled and augmented as for training, the same
            in every pass; to recalibrate BatchNorm on.
        task: `images`, whose batches are images and classes; or `text`, whose batches are sequences of tokens (the
            keyword arguments of a language model: `input_ids` and `attention_mask`, int64 (batch, length)) and the
            token that follows each (int64 (batch, length), -100 where none counts). Wherever images are counted,
            those of text are sequences.
        length: Tokens of a sequence; 0 for images.
        token_chance: What predicting each token by its frequency in training gives; None for images.
    """

    name: str
    classes: int
    class_names: tuple[str, ...]
    channels: int
    image_size: int
    evaluation_image_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    train: Loader
    validation: Loader
    test: Loader
    calibration: Loader
    task: Task = "images"
    length: int = 0
    token_chance: Chance | None = None

    @property
    def is_text(self) -> bool:
        """Whether these are texts for a language model, and not images."""
        return self.task == "text"

    @property
    def chance(self) -> Chance:
        """What a net does that has learned nothing yet, or nothing but the frequencies of tokens."""
        return self.token_chance or Chance(math.log(self.classes), 100 / self.classes)

    def example(self, samples: int = 2, *, evaluation: bool = False) -> Any:
        """A fixed batch of noise that a model for this data runs on; to unravel, to count and to time with.

        Args:
            samples: How many.
            evaluation: Images of the size of validation and test images, instead of training images.
        """
        if self.is_text:
            return noise_sequences(self.length, self.classes, samples)
        return noise_images(self.channels, self.evaluation_image_size if evaluation else self.image_size, samples)

    def described(self, *, evaluation: bool = False) -> str:
        """Such a batch in words."""
        if self.is_text:
            return f"sequences of {self.length} tokens"
        size = self.evaluation_image_size if evaluation else self.image_size
        return f"images of {self.channels} channels and {size}x{size} pixels"


def noise_images(channels: int, size: int, samples: int = 2) -> Tensor:
    """A fixed batch of noise of shape `(samples, channels, size, size)`."""
    return torch.randn(samples, channels, size, size, generator=torch.Generator().manual_seed(0))


def noise_sequences(length: int, classes: int, samples: int = 2) -> dict[str, Tensor]:
    """A fixed batch of random tokens, `input_ids` and `attention_mask` of shape `(samples, length)`."""
    tokens = torch.randint(classes, (samples, length), generator=torch.Generator().manual_seed(0))
    return {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}
