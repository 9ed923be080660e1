"""The memory that a piece of work takes."""

from __future__ import annotations

import resource
import sys
from pathlib import Path

import torch


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
