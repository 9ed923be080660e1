"""What running subnets of a model needs to know about it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from stimulative.residual.channels import Channels, Slice
from stimulative.residual.passing import needs_before, passed
from stimulative.residual.recording import tensors_in

Decision = int | None
"""The index of the block that runs at a place of a stage, or None where none runs."""


@dataclass(frozen=True)
class Place:
    """Where a block may run.

    Args:
        name: The module name of the block whose place it is.
        stage: The number of its stage.
        index: Its number within the stage.
        returns: What a skipped call returns; a template of ``passing``.
        concatenates: Whether it is a layer of a dense block; a skipped call returns a tensor of no channels.
    """

    name: str
    stage: int
    index: int
    returns: Any
    concatenates: bool = False


@dataclass(frozen=True)
class Wiring:
    """What running subnets of a model needs to know about it.

    Args:
        units: The module names of all units.
        places: The places of blocks in the order in which they run.
        blocks: The module names of the blocks of each stage.
        writers: The units that write into their input; ``""`` if the model writes into its own.
        fragile: The units whose output is written into by code that belongs to no unit.
        channels: What reads the channels of dense blocks, if there are any.
        bypassed: Where tensors go around a cut, as far as it has been looked for.
        found: What else has been found out about the model while it ran.
    """

    units: tuple[str, ...]
    places: tuple[Place, ...]
    blocks: tuple[tuple[str, ...], ...]
    writers: frozenset[str]
    fragile: frozenset[str] = frozenset()
    channels: Channels | None = None
    bypassed: dict[Any, bool] = field(default_factory=dict, compare=False, repr=False)
    found: dict[Any, Any] = field(default_factory=dict, compare=False, repr=False)

    @cached_property
    def carrying(self) -> frozenset[int]:
        """The stages in which a skipped block returns something that the block before it has made."""
        return frozenset(place.stage for place in self.places if needs_before(place.returns))

    def decisions(self, stages: Sequence[Sequence[int]]) -> tuple[Decision, ...]:
        """Which block runs at each place: a block at its own place, unless the order of the stage is another."""
        by_place: dict[tuple[int, int], int] = {}
        for stage, kept in enumerate(stages):
            own_places = list(kept) == sorted(kept)
            for position, block in enumerate(kept):
                by_place[stage, block if own_places else position] = block
        return tuple(by_place.get((place.stage, place.index)) for place in self.places)

    def slices(self, stages: Sequence[Sequence[int]]) -> dict[str, tuple[Slice, ...]]:
        """The parts of parameters that a subnet uses, by unit; nothing for units that it uses as they are."""
        return {} if self.channels is None else self.channels.slices(stages)


def skip(place: Place, before: Any, *args: Any, **kwargs: Any) -> Any:
    """What a skipped block returns when it is called: its input, in the form of its output; a dense layer, nothing.

    Args:
        place: The block's place.
        before: What the block before it in its stage has returned.
        args: The positional arguments of the call.
        kwargs: Its keyword arguments.
    """
    if place.concatenates:
        x = tensors_in((args, kwargs))[0]
        return x.new_empty((len(x), 0, *x.shape[2:]))
    return passed(place.returns, args, kwargs, before)
