"""Outputs of units that are remembered for the next subnets, and what is written into them meanwhile."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from stimulative.residual.access.trees import map_tensors, tensors_in
from stimulative.residual.finding.recording import Keywords, has_storage


@dataclass
class Entry:
    """A remembered output, what its tensors' counts of writes should be, and whether it is of shrunk feature maps."""

    unit: str
    output: Any
    versions: list[int]
    shrunk: bool = False

    @classmethod
    def of(cls, unit: str, output: Any, *, shrunk: bool = False) -> Entry:
        """An output as it is now."""
        return cls(unit, output, versions_of(output), shrunk)

    @property
    def intact(self) -> bool:
        """Whether nothing was written into the output since."""
        return self.versions == versions_of(self.output)

    def written(self) -> None:
        """Take what was written into the output for its own."""
        self.versions = versions_of(self.output)


def protect(entries: Sequence[Entry], guarded: int, args: tuple[Any, ...], kwargs: Keywords) -> list[Entry]:
    """Keep remembered outputs that later passes need as they are from being written into: remember copies of them.

    Args:
        entries: What is remembered.
        guarded: How many of them later passes need as they are.
        args: The positional arguments of a call that writes into them.
        kwargs: Its keyword arguments.

    Returns:
        The others, which may be written into: later passes do not run the writing unit again and need them so.
    """
    storages = {_storage(tensor) for tensor in filter(has_storage, tensors_in((args, kwargs)))}
    written = []
    for position, entry in enumerate(entries):
        if entry.intact and any(_storage(each) in storages for each in tensors_in(entry.output) if has_storage(each)):
            if position < guarded:
                entry.output = cloned(entry.output)
                entry.written()
            else:
                written.append(entry)
    return written


def cloned(tree: Any) -> Any:
    """The same with copies of all tensors, through which gradients flow."""
    return map_tensors(torch.Tensor.clone, tree)


def versions_of(tree: Any) -> list[int]:
    """How often each of some tensors was written into; one of inference mode cannot be, outside of it."""
    return [0 if tensor.is_inference() else tensor._version for tensor in tensors_in(tree)]


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()
