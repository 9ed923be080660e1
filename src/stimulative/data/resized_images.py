"""Images that are cropped, resized and augmented one by one: what folders of images and made-up ones have in common."""

import os
from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stimulative.data import images
from stimulative.data.augmentation import Preparation, training_transform
from stimulative.data.batches import LazyLoader
from stimulative.data.dataset import ImageData
from stimulative.data.image_settings import ImageSettings
from stimulative.data.kind import Opening
from stimulative.data.pixels import Normalisation
from stimulative.data.value_checks import Interpolation, LightingScale

_CHANNELS = 3


@dataclass(frozen=True)
class ImageSource:
    """Images that are prepared one by one, and which of them are what.

    Args:
        class_names: The names of the classes.
        size: Side in pixels of the square training image.
        train: Images to train on and held out.
        training: Positions of those to train on.
        validation: Positions of those held out.
        test: Images to test on.
        fingerprint: By part of the data, a short text that changes when the data do.
        left_out: By reason, how many files were left out.
        arrangement: How training images are put in random order.
    """

    class_names: tuple[str, ...]
    size: int
    train: images.Images
    training: np.ndarray
    validation: np.ndarray
    test: images.Images
    fingerprint: Mapping[str, str] = field(default_factory=dict)
    left_out: Mapping[str, int] = field(default_factory=dict)
    arrangement: images.Arrangement = images.anyhow


@dataclass(frozen=True)
class ResizedSettings(ImageSettings):
    """Settings of images that are prepared one by one.

    Args:
        evaluation_image_size: Side where nothing is trained; None for that of training images.
        color_jitter: Greatest change of brightness, contrast and saturation, as a share.
        lighting: Deviation of the lighting noise.
        lighting_scale: Whether it is added to pixels from 0 to 1 or to bytes.
        crop_scale: Least and greatest share of an image's area that a training image is cropped from.
        crop_aspect: Least and greatest width of that crop as a multiple of its height.
        auto_augment: A policy in timm's words, `uniform` or `uniform-levels`; None for none.
        crop_ratio: Share of the shorter side that evaluation crops.
        interpolation: How images are resized.
        workers: Processes that read and decode images.
    """

    accepted = ("crop_padding",)

    evaluation_image_size: int | None
    color_jitter: float
    lighting: float
    lighting_scale: LightingScale
    crop_scale: tuple[float, float]
    crop_aspect: tuple[float, float]
    auto_augment: str | None
    crop_ratio: float
    interpolation: Interpolation
    workers: int

    def problems(self) -> dict[str, str]:
        """What cannot be used as given, by key."""
        found = super().problems()
        if self.mean is not None and self.std is not None and (len(self.mean), len(self.std)) != (_CHANNELS, _CHANNELS):
            found["mean"] = (
                f"data.mean: folder:PATH and fake have {_CHANNELS} channels, got mean {list(self.mean)} and std "
                f"{list(self.std)}"
            )
            found.pop("std", None)
        return found

    @abstractmethod
    def source(self, seed: int) -> ImageSource:
        """Find the images without reading them.

        Args:
            seed: Of the run.

        Raises:
            UsageError: If they cannot be had.
        """

    def unmixed(self, opening: Opening) -> ImageData:
        """Find the images, and make loaders that read them."""
        source, seed = self.source(opening.seed), opening.seed
        opening.check_shares(len(source.training))
        mean, std = self.mean or images.IMAGENET_MEAN, self.std or images.IMAGENET_STD
        evaluation_size = self.evaluation_image_size or source.size
        loader = partial(
            images.ImageLoader,
            workers=min(self.workers, _processors()),  # more would only wait for each other
            device=opening.device,
            normalisation=Normalisation(mean, std, opening.device),
            std=std,
        )
        augmented = partial(
            loader,
            source.train,
            self.augmentation(source.size, mean),
            policy=self.auto_augment is not None,
            lighting=self.lighting if self.lighting_scale == "unit" else 0.0,
        )
        prepared = Preparation.of(evaluation_size, crop_ratio=self.crop_ratio, interpolation=self.interpolation)
        show = self.prepared(prepared)

        def in_order(shown: images.Images, numbers: Tensor) -> images.ImageLoader:
            order = images.fixed_order(numbers)
            return loader(shown, show, order, count=len(numbers), batch_size=self.evaluation_batch_size)

        def evaluation(shown: images.Images, index: np.ndarray) -> images.ImageLoader:
            return in_order(shown, torch.from_numpy(index))

        calibration = images.shuffled(source.training, seed, "calibration")
        return ImageData(
            name=self.name,
            classes=len(source.class_names),
            class_names=source.class_names,
            channels=_CHANNELS,
            image_size=source.size,
            evaluation_image_size=evaluation_size,
            mean=mean,
            std=std,
            task=self.task or "images",
            preparation=prepared,
            train=augmented(
                _training_order(source, opening),
                count=len(source.training) // opening.world_size,
                batch_size=self.batch_size,
                drop_incomplete=True,
                keep_workers=True,
            ),
            validation=evaluation(source.train, source.validation),
            test=LazyLoader(lambda: evaluation(source.test, np.arange(len(source.test)))),
            calibration=augmented(
                images.fixed_order(*calibration),
                count=len(source.training),
                batch_size=self.evaluation_batch_size,
            ),
            plain_calibration=in_order(source.train, calibration[0]),
            fingerprint=source.fingerprint,
            left_out=source.left_out,
        )

    def augmentation(self, size: int, mean: tuple[float, ...]) -> images.Transform:
        """What is done to training images.

        Args:
            size: Side of the result in pixels.
            mean: Mean of each channel from 0 to 1.
        """
        return ImageAlone(
            training_transform(
                size,
                crop_scale=self.crop_scale,
                crop_aspect=self.crop_aspect,
                flip=self.flip,
                interpolation=self.interpolation,
                color_jitter=self.color_jitter,
                byte_lighting=self.lighting if self.lighting_scale == "bytes" else 0.0,
                auto_augment=self.auto_augment,
                mean=mean,
            )
        )

    def prepared(self, preparation: Preparation) -> images.Transform:
        """What is done to images that nothing is trained on.

        Args:
            preparation: How they are resized and cropped.
        """
        return ImageAlone(preparation.transform())


@dataclass(frozen=True)
class ImageAlone:
    """A preparation of images that does not touch what they show."""

    transform: Callable[[Any], Tensor]

    def __call__(self, image: Any, target: Any) -> tuple[Tensor, Tensor]:
        """The image prepared, and the target as it is."""
        return self.transform(image), target


def _training_order(source: ImageSource, opening: Opening) -> Callable[[int], tuple[Tensor, Tensor]]:
    return images.training_order(
        source.training,
        seed=opening.seed,
        rank=opening.rank,
        world_size=opening.world_size,
        arrangement=source.arrangement,
    )


def _processors() -> int:
    """The processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
