"""What a run ran on: versions, device, threads, revision."""

from __future__ import annotations

import platform
import resource
import subprocess
import sys
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

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


def describe(device: torch.device, seed: int) -> dict[str, Any]:
    """Everything about the surroundings of a run that could matter for its result."""
    return {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": sys.argv,
        "device": device_name(device),
        "platform": platform.platform(),
        "threads": torch.get_num_threads(),
        "seed": seed,
        "versions": versions(),
        "git": _revision(),
    }


class PeakMemory:
    """The memory that a piece of work takes at its peak, in MiB.

    On a GPU what PyTorch allocated; on a CPU how far the process grew beyond what it held before, which means
    something only in a process that has not done such work before.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.before = _resident_mib()
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)

    def mib(self) -> float:
        """The peak so far."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device) / 2**20
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return max(0.0, peak / (2**20 if sys.platform == "darwin" else 2**10) - self.before)


def _resident_mib() -> float:
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return 0.0
    return pages * resource.getpagesize() / 2**20


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
