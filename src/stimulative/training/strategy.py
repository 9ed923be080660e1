"""Lightning's strategy for processes that are there already, whoever has started them."""

from __future__ import annotations

import inspect
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal

import torch
from lightning.fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning.fabric.strategies.ddp import DDPStrategy
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from stimulative.ranks import World
from stimulative.training.devices import is_wrapped
from stimulative.training.together import Processes

_SYNCHRONISES = next(
    name
    for name in ("forward_sync_buffers", "broadcast_buffers")  # the older name stands behind the newer
    if name in inspect.signature(DistributedDataParallel).parameters
)


class Placed(ClusterEnvironment):
    """What Lightning asks of the processes that train together.

    Args:
        world: The place of this one.
    """

    def __init__(self, world: World) -> None:
        super().__init__()
        self.world = world

    @property
    def creates_processes_externally(self) -> bool:
        """Yes: they are there."""
        return True

    @property
    def main_address(self) -> str:
        """Where they meet."""
        return self.world.address

    @property
    def main_port(self) -> int:
        """The port there."""
        return self.world.port

    @staticmethod
    def detect() -> bool:
        """It is named, never found."""
        return False

    def world_size(self) -> int:
        """How many there are."""
        return self.world.size

    def set_world_size(self, size: int) -> None:
        """The place says it."""

    def global_rank(self) -> int:
        """The number of this one."""
        return self.world.rank

    def set_global_rank(self, rank: int) -> None:
        """The place says it."""

    def local_rank(self) -> int:
        """Its number on its node."""
        return self.world.local_rank

    def node_rank(self) -> int:
        """The number of its node."""
        return self.world.node


class Together(DDPStrategy):
    """One device of this process's own, and a way for gradients to come together.

    Args:
        world: The place of this process.
        road: As the recipe says: ``ddp`` wraps a method in ``DistributedDataParallel``, ``flat`` leaves it, and whoever
            trains it calls ``Processes.average_gradients``; ``auto`` wraps what goes backward once a step.

    Attributes:
        wraps: Whether the method is wrapped; known once it is set up.
    """

    def __init__(self, world: World, road: Literal["auto", "ddp", "flat"]) -> None:
        # running statistics come together where they are read (Processes.average_buffers), not before each forward
        settings: dict[str, Any] = {_SYNCHRONISES: False}
        super().__init__(cluster_environment=Placed(world), **settings)
        self._world = world
        self._road: Literal["auto", "ddp", "flat"] = road
        self._backward_sync_control = _Held()  # pyright: ignore[reportAttributeAccessIssue]
        self.wraps = False

    @property
    def root_device(self) -> torch.device:
        """The device of this process."""
        assert self.parallel_devices is not None
        return self.parallel_devices[0]

    def setup_module(self, module: nn.Module) -> Any:
        """The method, with the same values in all processes, wrapped if it is to be."""
        Processes(self._world).share(module)
        self.wraps = is_wrapped(module, self._road)
        return super().setup_module(module) if self.wraps else module

    def _configure_launcher(self) -> None:
        self._launcher = None


class _Held:
    """Holds gradients back while batches are accumulated."""

    def no_backward_sync(self, module: nn.Module, enabled: bool) -> AbstractContextManager[Any]:
        """A context without exchange of gradients, where the module would exchange them."""
        return module.no_sync() if enabled and isinstance(module, DistributedDataParallel) else nullcontext()
