"""From settings to data."""

import numpy as np
import torch

from stimulative.data import cifar, digits, folder, pixels
from stimulative.data.dataset import Data
from stimulative.data.loader import LazyLoader
from stimulative.data.settings import DataSettings
from stimulative.data.split import hold_out
from stimulative.errors import UsageError


def load(
    settings: DataSettings,
    *,
    seed: int,
    device: torch.device | str = "cpu",
    rank: int = 0,
    world_size: int = 1,
) -> Data:
    """Open a data set.

    Args:
        settings: Which one, and how it is fed.
        seed: Of the run: decides which images are held out, their order and their augmentation.
        device: Where batches go; small images live there.
        rank: Which of several processes this is. Each trains on its own, equally large part of every epoch;
            the other loaders give every process everything.
        world_size: How many processes train together.

    Returns:
        The opened data set. Its test split is not read yet.

    Raises:
        UsageError: If the settings or the files cannot be used.
    """
    problems = settings.problems()
    if problems:
        raise UsageError("\n".join(problems))
    if not 0 <= rank < world_size:
        raise UsageError(f"rank must be from 0 to world_size - 1 = {world_size - 1}, got {rank}")
    place = torch.device(device)
    if settings.folder is not None:
        return _load_folder(settings, settings.folder, seed, place, rank, world_size)
    return _load_small(settings, seed, place, rank, world_size)


def _load_small(settings: DataSettings, seed: int, device: torch.device, rank: int, world_size: int) -> Data:
    if settings.name == "digits":
        read = digits.read
        train, class_names = read("train"), digits.CLASS_NAMES
    else:
        source = cifar.Cifar.find(settings.name, settings.path)
        train, class_names = source.read("train")

        def read(split: str) -> pixels.Pixels:
            return source.read(split)[0]

    # Of the whole training split, so that runs with other seeds, and what they export, see images alike.
    mean, std = pixels.channel_statistics(train.images)
    mean, std = settings.mean or mean, settings.std or std
    if len(mean) != train.images.shape[1]:
        raise UsageError(f"data.mean, data.std: {settings.name} has {train.images.shape[1]} channels, got {len(mean)}")
    normalisation = pixels.Normalisation(mean, std, device)
    training, validation = _hold_out(settings, train.labels.numpy(), seed, class_names, world_size)
    store = pixels.PixelStore.of(train, padding=settings.crop_padding, normalisation=normalisation, device=device)

    def test_loader() -> pixels.PixelLoader:
        test = pixels.PixelStore.of(read("test"), padding=0, normalisation=normalisation, device=device)
        everything = np.arange(len(test.labels))
        return pixels.evaluation_loader(test, everything, batch_size=settings.evaluation_batch_size)

    return Data(
        name=settings.name,
        classes=len(class_names),
        class_names=class_names,
        channels=train.images.shape[1],
        image_size=train.images.shape[-1],
        mean=mean,
        std=std,
        train=pixels.training_loader(
            store,
            training,
            seed=seed,
            batch_size=settings.batch_size,
            flip=settings.flip,
            rank=rank,
            world_size=world_size,
        ),
        validation=pixels.evaluation_loader(store, validation, batch_size=settings.evaluation_batch_size),
        test=LazyLoader(test_loader),
        calibration=pixels.calibration_loader(
            store, training, seed=seed, batch_size=settings.evaluation_batch_size, flip=settings.flip
        ),
    )


def _load_folder(
    settings: DataSettings, path: str, seed: int, device: torch.device, rank: int, world_size: int
) -> Data:
    found = folder.ImageFolders.find(path)
    training, validation = _hold_out(settings, found.train.labels, seed, found.class_names, world_size)
    size = settings.image_size or folder.DEFAULT_SIZE
    mean, std = settings.mean or folder.IMAGENET_MEAN, settings.std or folder.IMAGENET_STD
    normalisation = pixels.Normalisation(mean, std, device)

    def evaluation(images: folder.ImageList, index: np.ndarray) -> folder.FolderLoader:
        return folder.evaluation_loader(
            images,
            index,
            size=size,
            batch_size=settings.evaluation_batch_size,
            workers=settings.workers,
            device=device,
            normalisation=normalisation,
            interpolation=settings.interpolation,
            crop_ratio=settings.crop_ratio,
        )

    return Data(
        name=settings.name,
        classes=len(found.class_names),
        class_names=found.class_names,
        channels=3,
        image_size=size,
        mean=mean,
        std=std,
        train=folder.training_loader(
            found.train,
            training,
            size=size,
            flip=settings.flip,
            seed=seed,
            batch_size=settings.batch_size,
            workers=settings.workers,
            device=device,
            normalisation=normalisation,
            interpolation=settings.interpolation,
            rank=rank,
            world_size=world_size,
        ),
        validation=evaluation(found.train, validation),
        test=LazyLoader(lambda: evaluation(found.test, np.arange(len(found.test.labels)))),
        calibration=folder.calibration_loader(
            found.train,
            training,
            size=size,
            flip=settings.flip,
            seed=seed,
            batch_size=settings.evaluation_batch_size,
            workers=settings.workers,
            device=device,
            normalisation=normalisation,
            interpolation=settings.interpolation,
        ),
    )


def _hold_out(
    settings: DataSettings, labels: np.ndarray, seed: int, class_names: tuple[str, ...], world_size: int
) -> tuple[np.ndarray, np.ndarray]:
    training, validation = hold_out(labels, settings.validation, seed=seed, class_names=class_names)
    if len(training) < world_size:
        raise UsageError(
            f"{len(training)} training images cannot be shared among {world_size} processes; use fewer devices"
        )
    return training, validation
