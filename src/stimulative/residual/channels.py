"""Which channels of a concatenation a subnet keeps, and the part of its readers' parameters that goes with them.

A dense block (DenseNet's) concatenates what enters it and what each of its layers adds. Skipping a layer removes its
channels, so whatever reads the concatenation later reads fewer: a norm has that many fewer channels, a convolution or
a linear layer that many fewer inputs. These are the *readers*; while a subnet runs, each has the slice of its
parameters that belongs to the channels that are there. Gradients flow through the slice into the parameter.

A transition, the convolution between two dense blocks, gives the same share of what it reads: with half of the inputs
gone, half of its outputs, the last ones. So a subnet of a DenseNet is the DenseNet that is built with as many layers.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn

Runs = tuple[tuple[int, int], ...]
"""Channels as the start and length of each run of them, in order."""


@dataclass(frozen=True)
class DenseBlock:
    """The widths of a dense block.

    Args:
        base: The number of channels that enter it.
        widths: The number of channels that each layer adds.
        stage: The number of its stage, or None if all of its layers always run.
    """

    base: int
    widths: tuple[int, ...]
    stage: int | None

    @property
    def total(self) -> int:
        """The number of channels after its last layer."""
        return self.base + sum(self.widths)


@dataclass(frozen=True)
class Reader:
    """A module with parameters for each channel of a concatenation.

    Args:
        name: The module's name.
        block: The number of the dense block.
        seen: How many of the block's layers, skipped ones included, come before it.
        each: How many inputs belong to a channel: the pixels of a map, for a linear layer that reads a flattened one.
        compresses: Whether it is a transition, whose outputs are what enters the next dense block.
    """

    name: str
    block: int
    seen: int
    each: int = 1
    compresses: bool = False


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


@dataclass(frozen=True)
class Channels:
    """The dense blocks of a model, in the order in which they run, and what reads them.

    Args:
        blocks: The dense blocks.
        readers: The modules that read their channels, by the name of the unit that they are in.
    """

    blocks: tuple[DenseBlock, ...]
    readers: Mapping[str, tuple[Reader, ...]]

    def kept(self, stages: Sequence[Sequence[int]]) -> dict[tuple[int, int], Runs]:
        """The channels that a subnet keeps, by the number of the dense block and of its layers seen so far."""
        found: dict[tuple[int, int], Runs] = {}
        entering = self.blocks[0].base
        for number, block in enumerate(self.blocks):
            layers = set(range(len(block.widths)) if block.stage is None else stages[block.stage])
            runs, position = [(0, entering)], block.base
            found[number, 0] = tuple(runs)
            for layer, width in enumerate(block.widths):
                if layer in layers:
                    start, length = runs[-1]
                    if start + length == position:
                        runs[-1] = start, length + width
                    else:
                        runs.append((position, width))
                position += width
                found[number, layer + 1] = tuple(runs)
            if number + 1 < len(self.blocks):
                entering = share(sum(length for _, length in runs), block.total, self.blocks[number + 1].base)
        return found

    def slices(self, stages: Sequence[Sequence[int]]) -> dict[str, tuple[Slice, ...]]:
        """What a subnet uses of its readers, by unit; readers of which it uses everything are left out."""
        kept = self.kept(stages)
        wholes = [list(accumulate(block.widths, initial=block.base)) for block in self.blocks]
        widths = {at: sum(length for _, length in runs) for at, runs in kept.items()}
        found = {}
        for unit, readers in self.readers.items():
            slices = []
            for reader in readers:
                at = reader.block, reader.seen
                if widths[at] == wholes[reader.block][reader.seen]:
                    continue
                inputs = kept[at]
                if reader.each > 1:
                    inputs = tuple((start * reader.each, length * reader.each) for start, length in inputs)
                outputs = widths[reader.block + 1, 0] if reader.compresses else None
                slices.append(Slice(reader.name, inputs, outputs))
            if slices:
                found[unit] = tuple(slices)
        return found


def share(kept: int, inputs: int, outputs: int) -> int:
    """How many outputs a transition gives when it reads ``kept`` of its inputs.

    As many as one that is built for them: a half where ``outputs`` is the half of ``inputs`` (rounded down), and so
    on for a third; the same proportion otherwise. At least one.
    """
    divisor = inputs // outputs if outputs <= inputs else 0
    exact = divisor and inputs // divisor == outputs
    return max(1, kept // divisor if exact else kept * outputs // inputs)


def treats_each(module: Any) -> bool:
    """Whether a module has a parameter or statistic for each channel and returns as many as it is given.

    Batch norms, layer norms over the channels, and depthwise convolutions.
    """
    return size_of(module) is not None


def size_of(module: Any) -> dict[str, Any] | None:
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


def narrow_for_good(module: Any, piece: Slice) -> None:
    """Make a reader the one that a smaller net is built with: narrower parameters and buffers, and sizes that say so.

    Parameters that are computed (parametrised) are left to what computes them.
    """
    sizes: dict[str, Any] = {
        key: (piece.width,) if isinstance(whole, tuple) else piece.width
        for key, whole in (size_of(module) or {}).items()
    }
    if not sizes:
        inputs, outputs = (
            ("in_features", "out_features") if isinstance(module, nn.Linear) else ("in_channels", "out_channels")
        )
        sizes = {inputs: piece.width} | ({} if piece.outputs is None else {outputs: piece.outputs})
    for key, whole in module._parameters.items():
        if whole is not None:
            module._parameters[key] = nn.Parameter(piece.of(module, key, whole.detach()).clone(), whole.requires_grad)
    for key, whole in module._buffers.items():
        if whole is not None and whole.dim() > 0:
            module._buffers[key] = piece.of(module, key, whole).clone()
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
    undo: list[tuple[dict[str, Any], str, Any]] = []
    updated: list[tuple[nn.Module, bool, Tensor, Runs, Tensor]] = []
    try:
        for piece in slices:
            module: Any = model.get_submodule(piece.name)
            for key, whole in (size_of(module) or {}).items():
                undo.append((vars(module), key, whole))
                vars(module)[key] = (piece.width,) if isinstance(whole, tuple) else piece.width
            for store in (module._parameters, module._buffers):
                for key, whole in list(store.items()):
                    if whole is None or whole.dim() == 0:
                        continue
                    part = piece.of(module, key, whole)
                    if store is module._buffers and len(piece.inputs) > 1:  # one run is a view, written through
                        updated.append((module, module.training, whole, piece.inputs, part))
                    if copied and store is module._parameters:
                        part = part.clone()
                    undo.append((store, key, whole))
                    store[key] = part
        yield
    finally:
        for store, key, whole in reversed(undo):
            store[key] = whole
        for module, training, whole, runs, part in updated:
            if training or module.training:
                put(whole, runs, part)
