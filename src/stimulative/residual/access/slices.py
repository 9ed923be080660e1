"""Modules with a part of their parameters: those of some channels, for a while or for good.

Gradients flow through the part into the parameter.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from stimulative.residual.access.slots import Exchange, put_buffer, put_parameter

Runs = tuple[tuple[int, int], ...]
"""Channels as the start and length of each run of them, in order."""

Sizes = dict[str, int | tuple[int, ...]]
"""The attributes of a module that say how wide it is."""


@dataclass(frozen=True)
class Slice:
    """The part of a reader's parameters that a subnet uses.

    Args:
        name: The module's name.
        inputs: The inputs (for a norm: the channels) that are left.
        outputs: How many of the first outputs are left; None for all of them.
    """

    name: str
    inputs: Runs
    outputs: int | None = None

    @property
    def width(self) -> int:
        """The number of inputs that are left."""
        return sum(length for _, length in self.inputs)

    def of(self, module: nn.Module, key: str, whole: Tensor) -> Tensor:
        """The part of one of the module's parameters or buffers that is left; gradients flow through it."""
        return self.part(whole, key, each=treats_each(module))

    def part(self, whole: Tensor, key: str, *, each: bool) -> Tensor:
        """The part of a tensor of the module; ``each`` is whether the module treats each channel by itself."""
        if each:
            return narrowed(whole, 0, self.inputs)
        part = narrowed(whole, 1, self.inputs) if key == "weight" else whole
        return part if self.outputs is None else part.narrow(0, 0, self.outputs)


def treats_each(module: Any) -> bool:
    """Whether a module has a parameter or statistic for each channel and returns as many as it is given.

    Batch norms, layer norms over the channels, and depthwise convolutions.
    """
    return size_of(module) is not None


def size_of(module: Any) -> Sizes | None:
    """The attributes that hold the number of channels of a module that treats each of them; None of any other."""
    if isinstance(module, nn.modules.batchnorm._BatchNorm):
        return {"num_features": module.num_features}
    if isinstance(module, nn.LayerNorm) and len(module.normalized_shape) == 1:
        return {"normalized_shape": tuple(module.normalized_shape)}
    if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d):
        depthwise = 1 < module.groups == module.in_channels == module.out_channels
        return dict.fromkeys(("groups", "in_channels", "out_channels"), module.groups) if depthwise else None
    return None


def narrowed(whole: Tensor, dim: int, runs: Runs) -> Tensor:
    """Some runs of a tensor along one dimension; a view if there is only one."""
    # not by indices: the backward pass of an index adds up in no fixed order on a GPU, and keeps the indices
    parts = [whole.narrow(dim, start, length) for start, length in runs]
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim)


def put(whole: Tensor, runs: Runs, part: Tensor) -> None:
    """Write a part back to where ``narrowed(whole, 0, runs)`` took it from."""
    position = 0
    for start, length in runs:
        # as a norm's own updates of its statistics do, which a backward pass to come does not read
        whole.data.narrow(0, start, length).copy_(part.detach().narrow(0, position, length))
        position += length


def narrow_for_good(module: nn.Module, piece: Slice) -> None:
    """Make a reader the one that a smaller net is built with: narrower parameters and buffers, and sizes that say so.

    Parameters that are computed (parametrised) are left to what computes them.
    """
    sizes = _sizes(module, piece)
    if not sizes:
        inputs, outputs = (
            ("in_features", "out_features") if isinstance(module, nn.Linear) else ("in_channels", "out_channels")
        )
        sizes = {inputs: piece.width} | ({} if piece.outputs is None else {outputs: piece.outputs})
    for key, whole in module._parameters.items():
        if whole is not None:
            narrow = nn.Parameter(piece.of(module, key, whole.detach()).clone(), whole.requires_grad)
            put_parameter(module, key, narrow)
    for key, whole in module._buffers.items():
        if whole is not None and whole.dim() > 0:
            put_buffer(module, key, piece.of(module, key, whole).clone())
    vars(module).update(sizes)


@contextmanager
def sliced(model: nn.Module, slices: Iterable[Slice], *, copied: bool = False) -> Iterator[None]:
    """Readers with the slices of their parameters and buffers; they get the whole ones back, also after an error.

    What is written into sliced statistics in training mode is written into the whole ones.

    Args:
        model: The model.
        slices: The slices.
        copied: Whether parameters are copied, once, so that each call finds them as those of a small net would be.
    """
    exchange = Exchange()
    updated: list[tuple[nn.Module, bool, Tensor, Runs, Tensor]] = []
    try:
        for piece in slices:
            module = model.get_submodule(piece.name)
            for key, size in _sizes(module, piece).items():
                exchange.attribute(module, key, size)
            for key, whole in module._parameters.items():
                if whole is not None and whole.dim() > 0:
                    part = piece.of(module, key, whole)
                    exchange.parameter(module, key, part.clone() if copied else part)
            for key, whole in module._buffers.items():
                if whole is not None and whole.dim() > 0:
                    part = piece.of(module, key, whole)
                    if len(piece.inputs) > 1:  # one run is a view, written through
                        updated.append((module, module.training, whole, piece.inputs, part))
                    exchange.buffer(module, key, part)
        yield
    finally:
        exchange.put_back()
        for module, training, whole, runs, part in updated:
            if training or module.training:
                put(whole, runs, part)


def _sizes(module: nn.Module, piece: Slice) -> Sizes:
    """The attributes that hold the number of channels of a module that treats each, with the number of those left."""
    return {
        key: (piece.width,) if isinstance(whole, tuple) else piece.width
        for key, whole in (size_of(module) or {}).items()
    }
