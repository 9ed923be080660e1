"""Lightning Fabric on the device of this process, and the processes that train together."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, Literal

import torch
from torch import distributed

from stimulative.config import Recipe, TrainingSettings
from stimulative.data import Loader
from stimulative.errors import UsageError
from stimulative.methods import Method, known_numbers, method_named
from stimulative.ranks import World, divided, gpu_of, world_of_process
from stimulative.training.accumulation import numbered_in
from stimulative.training.copies import Copies, on_this_machine
from stimulative.training.loggers import loggers_of
from stimulative.training.together import Processes, one_voice


def planned(recipe: Recipe) -> World:
    """The place of this process among those that are to train, before any work.

    Args:
        recipe: The recipe.

    Returns:
        The place as a launcher has given it; where none has started processes, that of the first of as many as the
        recipe asks for, which are not there yet (``launcher`` is ``train``).

    Raises:
        UsageError: If the launcher has started others than the recipe asks for, there cannot be so many, this
            process trains with others already, the batch cannot be divided among them, or the method cannot be trained
            by several.
    """
    settings, world = recipe.training, world_of_process()
    if world.launcher:
        _check_started(settings, world)
    elif settings.num_nodes not in ("auto", 1):
        raise UsageError(
            f"training.num_nodes: got {settings.num_nodes}, but this process was started alone. Start those of each "
            "node by torchrun --nnodes N --nproc-per-node M, or those of all nodes by srun"
        )
    elif settings.devices not in ("auto", 1):
        if distributed.is_initialized():
            raise UsageError(
                f"training.devices: got {settings.devices}, but this process trains with others already, and can start "
                "no more. Run the Trainer that has started them, or let go of it (del), or leave the group "
                "(torch.distributed.destroy_process_group)"
            )
        world = World(0, settings.devices, 0, settings.devices, "train")
    if _on_cpu(settings) and world.local_size > (cores := os.cpu_count() or 1):
        raise UsageError(
            f"training.devices: on the CPU each is a process that trains, one for each of the {cores} cores at most, "
            f"got {world.local_size}"
        )
    if settings.sync_batchnorm and world.size > 1 and _on_cpu(settings):
        raise UsageError(
            "training.sync_batchnorm: PyTorch synchronises batch norms on GPUs only, and this trains on the CPU; leave "
            "it out"
        )
    if recipe.data.batch_size % world.size:
        raise UsageError(
            f"data.batch_size: {recipe.data.batch_size} is the batch of all {world.size} processes together, and has "
            f"to be a multiple of {world.size}"
        )
    problem = method_named(recipe.method.name).problem_on_devices(recipe.method.settings) if world.size > 1 else None
    if problem is not None:
        raise UsageError(f"method.{problem}; got {world.size} devices")
    return world


def _check_started(settings: TrainingSettings, world: World) -> None:
    """Make sure that a launcher has started as many processes as a recipe asks for."""
    for key, asked, started, where in (
        ("devices", settings.devices, world.local_size, "processes on each node"),
        ("num_nodes", settings.num_nodes, world.nodes, "nodes"),
    ):
        if asked not in ("auto", started):
            raise UsageError(
                f"training.{key}: the recipe says {asked}, and {world.launcher} has started {started} {where}. Start "
                f"{asked} there, or set training.{key} to {started}, or to auto, which takes what was started"
            )


def _on_cpu(settings: TrainingSettings) -> bool:
    return settings.device == "cpu" or (
        settings.device == "auto" and not torch.cuda.is_available() and not torch.backends.mps.is_available()
    )


def joined(world: World, store: Any = None) -> None:
    """Let this process join the others, if there are any, and it has not yet.

    Args:
        world: Its place.
        store: Where they find each other, if that is there already.

    Raises:
        UsageError: If it belongs to a group of another size.
    """
    if world.size == 1:
        return
    if distributed.is_initialized():
        if distributed.get_world_size() != world.size:
            raise UsageError(
                f"this process has joined {distributed.get_world_size()} that train together, and {world.size} are "
                "asked for; leave the first group before (torch.distributed.destroy_process_group)"
            )
        return
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    if store is None and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        store = distributed.TCPStore(  # pyright: ignore[reportPrivateImportUsage]
            world.address, world.port, world.size, is_master=world.rank == 0
        )
    if store is None:  # torchrun has one
        distributed.init_process_group(backend, rank=world.rank, world_size=world.size)
    else:
        distributed.init_process_group(backend, store=store, rank=world.rank, world_size=world.size)


def assembled(world: World, arguments: Mapping[str, Any]) -> Processes:
    """This process among those that train together, all of them there.

    Args:
        world: Its place; where they are to be started, they are.
        arguments: What a ``Trainer`` is made of, by name, for those.

    Raises:
        UsageError: If they cannot be started.
        ProcessLost: If one of them ends at once.
    """
    copies = Copies(world, arguments) if world.launcher == "train" else None
    processes = Processes(world, copies)
    with processes.whole(to_the_end=False), nullcontext() if copies is None else on_this_machine():
        joined(world, None if copies is None else copies.store)
    return processes


@contextmanager
def dividing() -> Iterator[Processes]:
    """Divide work on batches among the processes that a launcher has started, for a while; all have to come here.

    Raises:
        UsageError: If what the launcher says is contradictory.
    """
    world = world_of_process()
    joined(world)
    processes = Processes(world)
    with processes.whole(to_the_end=False), one_voice(processes), divided(processes.division):
        yield processes


def own_gpu() -> int:
    """The number of the GPU that is this process's own."""
    world = world_of_process()
    return 0 if world.size == 1 else gpu_of(world, torch.cuda.device_count())


def launched(recipe: Recipe, world: World, out: Path, first_step: int) -> Any:
    """Lightning Fabric as a recipe says, launched.

    Args:
        recipe: The recipe.
        world: The place of this process.
        out: The run directory, for loggers.
        first_step: The step that the first row of metrics has.
    """
    from lightning.fabric import Fabric

    settings = recipe.training
    loggers = loggers_of(settings.loggers, out, first_step) if world.rank == 0 else []
    several: dict[str, Any] = {}
    if world.size > 1:
        from stimulative.training.strategy import Together

        several = {"strategy": Together(world, settings.strategy), "num_nodes": world.nodes}
    try:
        fabric = Fabric(
            accelerator=settings.device,
            devices=_devices(settings, world),
            precision=settings.precision,
            loggers=loggers,
            **several,
        )
    except (RuntimeError, ValueError, TypeError) as error:  # Lightning's own are of these kinds
        raise UsageError(
            f"training.device, devices, precision: got {settings.device}, {world.local_size}, {settings.precision}, "
            f"which this machine cannot do: {error}"
        ) from error
    fabric.launch()
    return fabric


def is_wrapped(module: object, strategy: Literal["auto", "ddp", "flat"]) -> bool:
    """Whether several processes wrap a module in ``DistributedDataParallel``, which sends during the backward pass."""
    several = isinstance(module, Method) and module.calls_backward
    return strategy == "ddp" or (strategy == "auto" and not several)


def check_method(settings: TrainingSettings, method: Method, train: Loader, processes: int) -> None:
    """Make sure that a method can train as a recipe says: gradients can come together, and samples have numbers.

    Args:
        settings: The recipe's.
        method: The method.
        train: The training samples.
        processes: How many processes train together.

    Raises:
        UsageError: If it cannot.
    """
    if method.needs_numbers:
        known_numbers(numbered_in(train, 0) if processes == 1 else None, "the method")
    if settings.strategy == "ddp" and method.calls_backward:
        raise UsageError(
            "training.strategy: 'ddp' brings gradients together in one backward pass a step, and the method has "
            "several (method.schedule lean); choose flat, or auto"
        )


def _devices(settings: TrainingSettings, world: World) -> int | list[int]:
    """The device of this process, as Lightning takes it."""
    if world.size == 1 or _on_cpu(settings) or settings.device == "mps":
        return 1
    return [gpu_of(world, torch.cuda.device_count())]
