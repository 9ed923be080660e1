"""From settings to data."""

from dataclasses import replace

import torch

from stimulative.data.data_settings import DataSettings
from stimulative.data.dataset import Data
from stimulative.data.kind import Opening
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
        seed: Of the run: decides which images or documents are held out, their order and their augmentation.
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
    if settings.batch_size % world_size:
        raise UsageError(
            f"data.batch_size: {settings.batch_size} is the batch of all {world_size} processes together, and has to "
            f"be a multiple of {world_size}"
        )
    settings = replace(settings, batch_size=settings.batch_size // world_size)
    return settings.kind.open(Opening(seed, torch.device(device), rank, world_size))
