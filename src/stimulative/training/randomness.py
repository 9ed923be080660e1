"""Global random states: set from a seed, saved with a checkpoint, restored from it.

Processes that train together begin with the same states, so that they build the same network; then each but the first
draws from a stream of its own (dropout, noise of a model), seeded by the run's seed, its rank, and the step at which it
joined. The first one's is that of a process alone. A checkpoint has the states of all. Where a run goes on with as many
processes, each has its own back; of those that are new, streams begin at that step.
"""

from __future__ import annotations

import random
from typing import Any

import numpy
import torch

from stimulative.data import derived_seed

States = dict[str, Any]
"""The states of all global generators of one process."""


def seed_all(seed: int) -> None:
    """Seed Python, NumPy and PyTorch (all devices)."""
    random.seed(seed)
    numpy.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def seed_rank(seed: int, rank: int, step: int) -> None:
    """Seed the stream of one of several processes; that of the first goes on as it is.

    Args:
        seed: Of the run.
        rank: The number of the process.
        step: Steps of the optimiser that were taken before it joined.
    """
    if rank:
        seed_all(derived_seed(seed, f"rank {rank} from step {step}"))


def random_states() -> States:
    """The states of all global generators, in types that load with ``weights_only``; of GPUs the present one's."""
    state: Any = numpy.random.get_state(legacy=True)
    name, keys, position, has_gauss, gauss = state
    return {
        "python": random.getstate(),
        "numpy": [name, torch.from_numpy(keys.astype("int64")), position, has_gauss, gauss],
        "torch": torch.get_rng_state(),
        "cuda": [torch.cuda.get_rng_state()] if torch.cuda.is_available() else [],
    }


def restore_random_states(states: States) -> None:
    """Set all global generators to saved states."""
    version, internal, gauss = states["python"]
    random.setstate((version, tuple(internal), gauss))
    name, keys, position, has_gauss, cached = states["numpy"]
    numpy.random.set_state((name, keys.numpy().astype("uint32"), position, has_gauss, cached))
    torch.set_rng_state(states["torch"])
    if torch.cuda.is_available() and states["cuda"]:
        torch.cuda.set_rng_state(states["cuda"][0])  # an older checkpoint has those of all GPUs, the first one's first
