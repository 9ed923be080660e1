"""Blocks as CUDA graphs, for nets whose kernels take less time than it takes to launch them.

A graph is recorded once and replayed with one launch. It reads and writes tensors of its own, so a block that runs
twice before its backward pass, in the main net and in a subnet, needs two: as many graphs as blocks and passes of a
step, whatever the number of subnets. Those of subnets are recorded with running statistics left alone.

A graph also writes gradients into memory of its own, which its next replay overwrites, and which PyTorch would make
the gradient of whatever leaf has none so far. So parameters have gradients to be added to before the backward pass, and
what arrives where the lean schedule cuts the graph is copied.

What is called in another way than it was recorded (other shapes, evaluation, once more in the same step), and blocks
whose layers were exchanged, frozen or thawed since, run as they were written.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from stimulative.config import Recipe
from stimulative.errors import UsageError
from stimulative.residual import ResidualNetwork, arguments_of, buffers_kept, intercepted, state_of
from stimulative.training.tuning import mixed_format

Capture = Callable[[nn.Module, tuple[Tensor, ...]], Callable[..., Any]]
"""Records a module in training mode on sample arguments; gives what replays it, with gradients."""

CAPTURES: dict[str, Capture] = {"cuda": torch.cuda.make_graphed_callables}
"""What records on each kind of device that can."""

Slot = tuple[str, int]
"""A block, and the number of the pass of a step that it runs in: 0 is the main net's."""


class Capturing:
    """Captures blocks for a training when its first batch comes, if a recipe asks for it.

    Args:
        recipe: The recipe.
        network: The network.
        device: What it is trained on.
        processes: How many train together.

    Attributes:
        wanted: Whether the recipe asks for it.

    Raises:
        UsageError: If it cannot be done there.
    """

    def __init__(self, recipe: Recipe, network: ResidualNetwork, device: torch.device, processes: int) -> None:
        self.wanted = recipe.training.capture
        if self.wanted and processes > 1:
            raise UsageError(
                f"training.capture: it was not made for several processes, and {processes} train together; leave it out"
            )
        if self.wanted and device.type not in CAPTURES:
            raise UsageError(
                f"training.capture: CUDA graphs are recorded on a GPU, and the run is on {device.type}; leave it out"
            )
        self.network, self.device = network, device
        self.format = mixed_format(recipe, device)
        subnets = recipe.method.settings.get("subnets_per_step", 0)
        self.subnets = subnets if isinstance(subnets, int) else 0
        self.blocks: CapturedBlocks | None = None

    @contextmanager
    def step(self, x: Any) -> Iterator[None]:
        """A context for a step on a batch."""
        if not self.wanted:
            yield
            return
        if self.blocks is None:
            # casts of weights are recorded, too, since the weights change, and so must not be looked up in a cache
            with torch.autocast(self.device.type, self.format, enabled=self.format is not None, cache_enabled=False):
                self.blocks = CapturedBlocks(self.network, x, subnets=self.subnets, capture=CAPTURES[self.device.type])
        self.blocks.begin_step()
        with self.blocks.replaying():
            yield


class _AsIn(nn.Module):
    """A block as it runs in one pass of a step; what is recorded of it belongs to that pass."""

    def __init__(self, block: nn.Module, forward: Callable[..., Any]) -> None:
        super().__init__()
        self.block, self.run = block, forward

    def forward(self, *args: Any) -> Any:
        return self.run(*args)


class CapturedBlocks:
    """The blocks of a network, recorded for a training step, and replayed while the context is open.

    Args:
        network: The network, in training mode.
        x: A batch as the network takes it.
        subnets: How many subnets a step has besides the main net.
        capture: What records.

    Attributes:
        recorded: What replays each block in each pass.
        replayed: How often recorded blocks have run.
        ran: How often blocks have run as they were written.

    Raises:
        UsageError: If a block takes or gives anything but tensors by position.
    """

    def __init__(self, network: ResidualNetwork, x: Any, *, subnets: int = 1, capture: Capture) -> None:
        self.network = network
        names = [name for stage in network.stages for name in stage.block_names]
        self.blocks = {name: network.model.get_submodule(name) for name in names}
        self.inner = {name: [*block.modules()] for name, block in self.blocks.items()}
        self.trained = {
            name: [parameter for parameter in block.parameters() if parameter.requires_grad]
            for name, block in self.blocks.items()
        }
        self.states = {name: state_of(inner) for name, inner in self.inner.items()}
        self.forwards = {name: block.forward for name, block in self.blocks.items()}
        self.samples = _samples(network, x, self.blocks)
        self.recorded: dict[Slot, Callable[..., Any]] = {}
        self.busy: set[Slot] = set()
        self.replayed = self.ran = 0
        with as_it_was(network):
            for number in range(subnets + 1):
                with network.frozen_statistics() if number else nullcontext():
                    for name, block in self.blocks.items():
                        args = self.samples[name]
                        self.recorded[name, number] = capture(_AsIn(block, self.forwards[name]), args)

    @contextmanager
    def replaying(self) -> Iterator[None]:
        """A context in which the blocks replay what was recorded of them."""
        live = self.network.wiring.live
        live.overwrites_gradients = True
        try:
            with intercepted(self.blocks, {name: partial(self._call, name) for name in self.blocks}):
                yield
        finally:
            live.overwrites_gradients = False

    def begin_step(self) -> None:
        """A step begins: nothing that was recorded waits for its backward pass any more."""
        self.busy.clear()

    def _call(self, name: str, *args: Any, **kwargs: Any) -> Any:
        slot = name, self.network.wiring.live.number
        if slot in self.recorded and slot not in self.busy and not kwargs and self._fits(name, args):
            self.busy.add(slot)
            self.replayed += 1
            for parameter in self.trained[name]:
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
            return self.recorded[slot](*args)
        self.ran += 1
        return self.forwards[name](*args, **kwargs)

    def _fits(self, name: str, args: tuple[Any, ...]) -> bool:
        samples = self.samples[name]
        return (
            self.blocks[name].training
            and torch.is_grad_enabled()
            and len(args) == len(samples)
            and all(map(_alike, args, samples))
            and state_of(self.inner[name]) == self.states[name]
        )


def _samples(network: ResidualNetwork, x: Any, blocks: dict[str, nn.Module]) -> dict[str, tuple[Tensor, ...]]:
    """What each block is called with in a step, as tensors that are nobody else's."""
    found: dict[str, tuple[Tensor, ...]] = {}

    def look(name: str, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if kwargs or not args or not all(isinstance(part, Tensor) for part in args):
            raise UsageError(
                f"training.capture: block {name!r} takes more than tensors by position, which cannot be recorded; set "
                "it to false (training.compile takes such blocks)"
            )
        found[name] = tuple(part.detach().clone().requires_grad_(part.requires_grad) for part in args)

    handles = [block.register_forward_pre_hook(partial(look, name), with_kwargs=True) for name, block in blocks.items()]
    args, kwargs = arguments_of(x)
    try:
        with as_it_was(network):
            network.model(*args, **kwargs)
    finally:
        for handle in handles:
            handle.remove()
    return found


@contextmanager
def as_it_was(network: ResidualNetwork) -> Iterator[None]:
    """A context that leaves no trace on buffers or random numbers."""
    devices = {parameter.device.index for parameter in network.parameters() if parameter.device.type == "cuda"}
    with buffers_kept(network.model), torch.random.fork_rng(devices=devices):
        yield


def _alike(one: Any, other: Tensor) -> bool:
    return (
        isinstance(one, Tensor)
        and (one.shape, one.dtype, one.device, one.requires_grad)
        == (other.shape, other.dtype, other.device, other.requires_grad)
        and one.stride() == other.stride()
    )
