"""What a run ran on: versions, device, threads, revision."""

from __future__ import annotations

import platform
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from stimulative.records import Record

_PACKAGES = ("stimulative", "torch", "torchvision", "timm", "lightning", "numpy")
_WHERE_USED = ("transformers", "tokenizers")


def versions() -> dict[str, str]:
    """The versions of Python and of the packages that results depend on."""
    found = {"python": platform.python_version()}
    for package in (*_PACKAGES, *(package for package in _WHERE_USED if package in sys.modules)):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def device_name(device: torch.device) -> str:
    """The device as a person would call it."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{_processor()} ({torch.get_num_threads()} threads)" if device.type == "cpu" else device.type


@dataclass(frozen=True)
class Environment(Record):
    """Everything about the surroundings of a run that could matter for its result; ``environment.json``.

    Args:
        started: When the run was started, or went on, in ISO 8601.
        command: The words of the command.
        device: What was computed on.
        platform: The operating system.
        threads: CPU threads that PyTorch computed with.
        seed: The seed of the run.
        versions: The versions of Python and of the packages that results depend on.
        git: The revision of this library's checkout, if it is one.
    """

    started: str | None = None
    command: tuple[str, ...] = ()
    device: str | None = None
    platform: str | None = None
    threads: int | None = None
    seed: int | None = None
    versions: Mapping[str, str] = field(default_factory=dict)
    git: str | None = None

    @classmethod
    def of(cls, device: torch.device, seed: int) -> Environment:
        """What it is now."""
        return Environment(
            started=datetime.now(UTC).isoformat(timespec="seconds"),
            command=tuple(sys.argv),
            device=device_name(device),
            platform=platform.platform(),
            threads=torch.get_num_threads(),
            seed=seed,
            versions=versions(),
            git=_revision(),
        )


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _revision() -> str | None:
    """The git revision of this library's checkout, if it is one."""
    try:
        result = subprocess.run(
            ["git", "rev-parse", "HEAD"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            timeout=10,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return result.stdout.strip() if result.returncode == 0 else None
