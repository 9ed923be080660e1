"""Which of several processes that train together this one is, as whatever has started them says.

Two launchers are known: torchrun (and whatever else sets its variables: ``RANK``, ``WORLD_SIZE``, ``LOCAL_RANK``,
``LOCAL_WORLD_SIZE``, ``MASTER_ADDR``, ``MASTER_PORT``), and Slurm's srun, of whose step the variables ``SLURM_STEP_*``
are. A batch script of Slurm that calls no srun is one process, however many tasks were asked for.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from stimulative.errors import UsageError

_TORCHRUN = "RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"
_OF_MPI = {"OMPI_COMM_WORLD_SIZE": "mpirun", "PMI_SIZE": "mpiexec"}


@dataclass(frozen=True)
class World:
    """The processes that train together, and the place of this one among them.

    Args:
        rank: Its number among all of them.
        size: How many they are.
        local_rank: Its number among those of its node.
        local_size: How many are on each node.
        launcher: What has started them: ``torchrun``, ``srun`` or, where they started each other, ``train``; empty
            for a process alone.
        address: The node of the first one, where all of them meet.
        port: The port there.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1
    launcher: str = ""
    address: str = "127.0.0.1"
    port: int = 0

    @property
    def nodes(self) -> int:
        """How many nodes there are."""
        return self.size // self.local_size

    @property
    def node(self) -> int:
        """The number of this node."""
        return self.rank // self.local_size

    def variables(self) -> dict[str, str]:
        """The variables by which torchrun tells a process its place."""
        return {
            "RANK": str(self.rank),
            "WORLD_SIZE": str(self.size),
            "LOCAL_RANK": str(self.local_rank),
            "LOCAL_WORLD_SIZE": str(self.local_size),
            "MASTER_ADDR": self.address,
            "MASTER_PORT": str(self.port),
        }


def world_of_process(environment: Mapping[str, str] | None = None) -> World:
    """The place of this process, as its environment says it.

    Args:
        environment: The variables; by default those of the process.

    Returns:
        The place; that of a process alone where no launcher has left its variables.

    Raises:
        UsageError: If the variables contradict each other or are no numbers, or are those of MPI, which is not
            supported.
    """
    found = os.environ if environment is None else environment
    if "RANK" in found and "WORLD_SIZE" in found:
        return _by_torchrun(found)
    if _number(found, "SLURM_STEP_NUM_TASKS", 1) > 1:
        return _by_srun(found)
    for name, launcher in _OF_MPI.items():
        if _number(found, name, 1) > 1:
            raise UsageError(
                f"{launcher} has started {found[name]} processes, which do not find each other: start them by "
                "torchrun --nproc-per-node N, or by srun"
            )
    return World()


def is_first_of_node(environment: Mapping[str, str] | None = None) -> bool:
    """Whether this is the first of the processes on its node, or the only one: it says what all of them have to say."""
    found = os.environ if environment is None else environment
    local = found.get("LOCAL_RANK", "0")
    if found.get("SLURM_STEP_NUM_TASKS", "1") != "1" and "LOCAL_RANK" not in found:
        local = found.get("SLURM_LOCALID", "0")
    return local == "0"


def _number(found: Mapping[str, str], name: str, otherwise: int | None = None) -> int:
    """A variable that is a whole number."""
    said = found.get(name)
    if said is None and otherwise is not None:
        return otherwise
    if said is None or not said.isdecimal():
        raise UsageError(
            f"{name} has to be a whole number, as torchrun and srun set it, got {said!r}; start the processes by one "
            f"of these, or take the variable away (unset {name})"
        )
    return int(said)


def _by_torchrun(found: Mapping[str, str]) -> World:
    missing = [name for name in _TORCHRUN if name not in found]
    if missing:
        raise UsageError(
            f"RANK and WORLD_SIZE are set, but not {', '.join(missing)}: set all that torchrun sets, or none of them"
        )
    size = _number(found, "WORLD_SIZE")
    local_size = _number(found, "LOCAL_WORLD_SIZE", size)
    world = World(
        _number(found, "RANK"),
        size,
        _number(found, "LOCAL_RANK"),
        local_size,
        "torchrun",
        found["MASTER_ADDR"],
        _number(found, "MASTER_PORT"),
    )
    if not local_size or size % local_size or not (world.rank < size and world.local_rank < local_size):
        raise UsageError(
            f"processes have to be as many on each node, got WORLD_SIZE {size} and LOCAL_WORLD_SIZE {local_size} for "
            f"RANK {world.rank} and LOCAL_RANK {world.local_rank}"
        )
    return world


def _by_srun(found: Mapping[str, str]) -> World:
    size, nodes = _number(found, "SLURM_STEP_NUM_TASKS"), _number(found, "SLURM_STEP_NUM_NODES", 1)
    if not nodes or size % nodes or "," in found.get("SLURM_STEP_TASKS_PER_NODE", ""):
        raise UsageError(
            f"srun has started {size} tasks on {nodes} nodes ({found.get('SLURM_STEP_TASKS_PER_NODE', 'not alike')}): "
            "they have to be as many on each; say how many tasks there are per node"
        )
    nodes_of_step = found.get("SLURM_STEP_NODELIST") or found.get("SLURM_JOB_NODELIST") or "127.0.0.1"
    job = f"{found.get('SLURM_JOB_ID', '0')}{found.get('SLURM_STEP_ID', '0')}"
    return World(
        _number(found, "SLURM_PROCID"),
        size,
        _number(found, "SLURM_LOCALID"),
        size // nodes,
        "srun",
        found.get("MASTER_ADDR") or first_node(nodes_of_step),
        # the same for all tasks of a step, and hardly that of another job on the node
        _number(found, "MASTER_PORT", 20_000 + int(re.sub(r"\D", "", job) or 0) % 20_000),
    )


def first_node(nodes: str) -> str:
    """The first of Slurm's nodes: ``gpu[07-09,12],cpu1`` begins with ``gpu07``, ``r[1-2]n[3-4]`` with ``r1n3``."""
    match = re.match(r"(?:[^,\[]|\[[^\]]*\])+", nodes)
    return "127.0.0.1" if match is None else re.sub(r"\[([^\],-]+)[^\]]*\]", r"\1", match[0])


def gpu_of(world: World, visible: int) -> int:
    """Which of the GPUs that a process sees is its own.

    Args:
        world: The place of the process.
        visible: How many it sees.

    Raises:
        UsageError: If there are more processes than GPUs.
    """
    if visible == 1 and world.launcher == "srun":
        return 0  # srun --gpus-per-task 1 shows each task its own
    if world.local_rank >= visible:
        raise UsageError(
            f"training.devices: {world.local_size} processes on a node that shows {visible} GPUs: start as many as "
            "there are"
        )
    return world.local_rank


def gpus_of_job(slot: int, devices: int, gpus: Sequence[str]) -> tuple[str, ...]:
    """Which GPUs a job has for itself, of several that run at once; where there are too few, they take turns.

    Args:
        slot: The job's number among those that run.
        devices: How many it needs.
        gpus: All that there are, as ``CUDA_VISIBLE_DEVICES`` names them.

    Returns:
        As many, or none if there are not so many.
    """
    groups = len(gpus) // devices
    first = slot % groups * devices if groups else 0
    return tuple(gpus[first : first + devices]) if groups else ()
