"""What every kind of data is: the settings that it reads, which check themselves and open themselves."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, ClassVar

import torch

from stimulative.data.dataset import Data
from stimulative.data.value_checks import value_problems
from stimulative.errors import UsageError
from stimulative.tasks import TaskName

if TYPE_CHECKING:
    from typing import Self

    from stimulative.data.data_settings import DataSettings


@dataclass(frozen=True)
class Opening:
    """For whom data are opened.

    Args:
        seed: Of the run: decides which images or documents are held out, their order and their augmentation.
        device: Where batches go.
        rank: Which of several processes this is.
        world_size: How many processes train together.
    """

    seed: int
    device: torch.device
    rank: int = 0
    world_size: int = 1

    def check_shares(self, training: int, what: str = "images") -> None:
        """Make sure that every process gets some.

        Args:
            training: How many training images there are.
            what: What they are called.

        Raises:
            UsageError: If there are more processes.
        """
        if training < self.world_size:
            raise UsageError(
                f"{training} training {what} cannot be shared among {self.world_size} processes; use fewer devices"
            )


@dataclass(frozen=True)
class KindSettings(ABC):
    """The settings of one kind of data: those that it reads. `DataSettings` says what they mean.

    Args:
        name: The data set.
        batch_size: Images or sequences per training step of each process.
        evaluation_batch_size: Images or sequences per batch where nothing is trained.
    """

    task: ClassVar[TaskName | None]
    """What a model for it does; None where only the opened data tell."""

    accepted: ClassVar[tuple[str, ...]] = ()
    """Settings of other kinds that a recipe may have all the same: they say nothing wrong of these data."""

    name: str
    batch_size: int
    evaluation_batch_size: int

    @classmethod
    def keys(cls) -> tuple[str, ...]:
        """The settings that this kind reads."""
        return tuple(field.name for field in fields(cls))

    @classmethod
    def of(cls, settings: DataSettings) -> Self:
        """What the settings of all kinds say to this one."""
        return cls(**{key: getattr(settings, key) for key in cls.keys()})  # noqa: SIM118, it is no mapping

    def problems(self) -> dict[str, str]:
        """What cannot be used as given, by key, found without touching a file. Empty if all is well."""
        return value_problems(self, self.keys())

    @abstractmethod
    def open(self, opening: Opening) -> Data:
        """Open the data.

        Raises:
            UsageError: If the files cannot be used.
        """
