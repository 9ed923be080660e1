"""Which channels of a concatenation a subnet keeps, and the part of its readers' parameters that goes with them.

A dense block (DenseNet's) concatenates what enters it and what each of its layers adds. Skipping a layer removes its
channels, so whatever reads the concatenation later reads fewer: a norm has that many fewer channels, a convolution or
a linear layer that many fewer inputs. These are the *readers*; while a subnet runs, each has the slice of its
parameters that belongs to the channels that are there.

A transition, the convolution between two dense blocks, gives the same share of what it reads: with half of the inputs
gone, half of its outputs, the last ones. So a subnet of a DenseNet is the DenseNet that is built with as many layers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

from stimulative.residual.access.slices import Runs, Slice


@dataclass(frozen=True)
class DenseBlock:
    """The widths of a dense block.

    Args:
        base: The number of channels that enter it.
        widths: The number of channels that each layer adds.
        stage: The number of its stage, or None if all of its layers always run.
        newest_first: Whether each layer's channels come in front of all that were there before, not behind.
    """

    base: int
    widths: tuple[int, ...]
    stage: int | None
    newest_first: bool = False

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
            parts = [(block.base, entering), *((w, w * (at in layers)) for at, w in enumerate(block.widths))]
            for seen in range(len(parts)):
                found[number, seen] = _runs(parts[seen::-1] if block.newest_first else parts[: seen + 1])
            runs = found[number, len(block.widths)]
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


def _runs(parts: Sequence[tuple[int, int]]) -> Runs:
    """The runs of channels that are left of parts that lie behind each other, given how many each has and keeps."""
    runs: list[tuple[int, int]] = []
    position = 0
    for width, kept in parts:
        if runs and kept and sum(runs[-1]) == position:
            runs[-1] = runs[-1][0], runs[-1][1] + kept
        elif kept:
            runs.append((position, kept))
        position += width
    return tuple(runs)


def share(kept: int, inputs: int, outputs: int) -> int:
    """How many outputs a transition gives when it reads ``kept`` of its inputs.

    As many as one that is built for them: a half where ``outputs`` is the half of ``inputs`` (rounded down), and so
    on for a third; the same proportion otherwise. At least one.
    """
    divisor = inputs // outputs if outputs <= inputs else 0
    exact = divisor and inputs // divisor == outputs
    return max(1, kept // divisor if exact else kept * outputs // inputs)
