"""Running averages of logits over the steps of a training, one for each training image or for each class."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from stimulative.errors import UsageError

_LARGEST_FOR_HALVES = 0.95


class Numbered(NamedTuple):
    """Which training samples a batch is of.

    Args:
        numbers: Their numbers, int64 (batch,), each of them another one.
        size: How many training samples have numbers, from 0 on.
    """

    numbers: Tensor
    size: int


def averaged(average: Tensor, new: Tensor, momentum: float) -> Tensor:
    """An average with something new in it; classes that are masked by -inf in either stay so.

    Args:
        average: What it was.
        new: Of the same shape and type.
        momentum: What the average keeps of itself, from 0 to below 1.
    """
    masked = average.isneginf() | new.isneginf()
    return torch.where(masked, -torch.inf, torch.lerp(new, average, momentum))


class LogitMemory(nn.Module):
    """A table of running averages of logits, a row for each image or class.

    It is part of the state of whoever has it. Those of images are in half precision: a row for each of 50,000 images of
    100 classes takes 10 MB; for each of ImageNet's 1.3 million images of 1,000 classes it would take 2.6 GB.

    Args:
        momentum: What an average keeps of itself when the next logits come, from 0 to below 1. Above 0.95 averages have
            32 bits, since 16 are too coarse for steps that small.
    """

    def __init__(self, *, momentum: float) -> None:
        super().__init__()
        self.momentum = momentum
        self._averages: Tensor | None = None
        self._known: Tensor | None = None

    @torch.no_grad()
    def learn(self, of: Numbered, logits: Tensor, *, shared: bool = False) -> None:
        """Let logits go into the averages of their rows; a row's first ones are its average.

        Args:
            of: Which row each sample has, and how many rows there are.
            logits: Shape (samples, classes).
            shared: Whether several samples may have the same row, such as that of their class; then their mean goes
                into it, and averages have 32 bits.

        Raises:
            UsageError: If logits have other shapes, or other numbers of classes than before, or a row is none.
        """
        rows = _rows(of, logits)
        if self._averages is None or self._known is None:
            dtype = torch.float32 if shared or self.momentum > _LARGEST_FOR_HALVES else torch.float16
            self._averages = torch.zeros(of.size, logits.shape[-1], dtype=dtype, device=logits.device)
            self._known = torch.zeros(of.size, dtype=torch.bool, device=logits.device)
        averages, known = self._table(of.size, logits)
        limit = torch.finfo(averages.dtype)
        values = logits.float().clamp(limit.min, limit.max)
        if shared:
            sums = torch.zeros(averages.shape, device=logits.device).index_add_(0, rows, values)
            counts = torch.zeros(len(known), device=logits.device).index_add_(0, rows, torch.ones_like(values[:, 0]))
            present = counts > 0
            means = self._joined(averages, known, sums / counts.clamp(min=1)[:, None])
            averages.copy_(torch.where(present[:, None], means, averages))
            known |= present
        else:
            averages[rows] = self._joined(averages[rows], known[rows], values).to(averages.dtype)
            known[rows] = True

    @torch.no_grad()
    def recalled(self, of: Numbered, *, otherwise: Tensor) -> Tensor:
        """The averages of rows.

        Args:
            of: Which row each sample has, and how many rows there are.
            otherwise: What stands for those that are not known yet, shape (samples, classes).

        Returns:
            Shape (samples, classes), float32 at least.

        Raises:
            UsageError: As for ``learn``.
        """
        logits = otherwise.detach().to(torch.promote_types(torch.float32, otherwise.dtype))
        rows = _rows(of, logits)
        if self._averages is None:
            return logits
        averages, known = self._table(of.size, logits)
        return torch.where(known[rows][:, None], averages[rows].to(logits.dtype), logits)

    def get_extra_state(self) -> dict[str, Any]:
        """The table."""
        return {} if self._averages is None else {"averages": self._averages, "known": self._known}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Go on from a saved table, a copy of it."""
        self._averages, self._known = (
            None if state.get(key) is None else state[key].clone() for key in ("averages", "known")
        )

    def _joined(self, averages: Tensor, known: Tensor, values: Tensor) -> Tensor:
        """Averages with new values in them, float32."""
        return torch.where(known[:, None], torch.lerp(values, averages.float(), self.momentum), values)

    def _table(self, size: int, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Averages (rows, classes) and which of them are known (rows,), on the device of the logits."""
        assert self._averages is not None and self._known is not None
        if self._averages.shape != (size, logits.shape[-1]):
            raise UsageError(
                f"the averages are of {len(self._averages)} rows of {self._averages.shape[1]} classes; got {size} of "
                f"{logits.shape[-1]}"
            )
        self._averages, self._known = self._averages.to(logits.device), self._known.to(logits.device)
        return self._averages, self._known


def _rows(of: Numbered, logits: Tensor) -> Tensor:
    """The rows of a batch, on the device of its logits."""
    rows = of.numbers
    if logits.dim() != 2 or len(rows) != len(logits):
        raise UsageError(
            f"averages are of logits of shape (samples, classes), each sample with a number; got logits "
            f"{tuple(logits.shape)} and {len(rows)} numbers"
        )
    if rows.device.type == "cpu" and len(rows) and not 0 <= int(rows.min()) <= int(rows.max()) < of.size:
        raise UsageError(f"numbers of samples are from 0 to {of.size - 1}; got {int(rows.min())} to {int(rows.max())}")
    return rows.to(logits.device, torch.int64)
