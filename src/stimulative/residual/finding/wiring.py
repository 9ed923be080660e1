"""What running subnets of a model needs to know about it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

from torch import Tensor, nn

from stimulative.residual.access.slices import Slice
from stimulative.residual.access.trees import tensors_in
from stimulative.residual.finding.channels import Channels
from stimulative.residual.finding.inside import Inside
from stimulative.residual.finding.norms import Norm
from stimulative.residual.finding.passing import needs_before, passed
from stimulative.residual.finding.recording import Call
from stimulative.residual.finding.stacks import Stack

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


class Way(NamedTuple):
    """A way through a network with cuts, up to where its graph is asked about.

    Args:
        cuts: The numbers of the places before which the graph is cut.
        remembered: How many outputs are remembered for the next subnet.
        decisions: Which block runs at each place up to there.
        trained: How many parameters ask for a gradient.
    """

    cuts: frozenset[int]
    remembered: int
    decisions: tuple[Decision, ...]
    trained: int


@dataclass
class Observed:
    """What has been observed about a model while it was used; it holds as long as the model stays as it is.

    Args:
        stacks: The lists of layers that a config counts and that hold whole stages; None until they are looked for.
        configs: The configs of the model's modules; None until they are looked for.
        first_calls: How each module was called first on the example input, in shape; None until it was recorded.
        looked_at: In which modes of the model (``model.training``) it was looked at how it calls its blocks.
        bypasses: Whether tensors go around the cuts, of each way on which it was looked for.
        inside: The modules that are asked for in every step; None until they are looked for.
        writes: Whether a unit was seen to write into its input that did not when the model was unraveled.
        spare: Running statistics that layers write into while they leave their own alone, by layer and name.
        orders: In which order subnets run, of each choice of subnets that has run (see ``running.order``).
    """

    stacks: tuple[Stack, ...] | None = None
    configs: list[Any] | None = None
    first_calls: dict[str, Call] | None = None
    looked_at: set[bool] = field(default_factory=set)
    bypasses: dict[Way, bool] = field(default_factory=dict)
    inside: Inside | None = None
    writes: bool = False
    spare: dict[nn.Module, dict[str, Tensor]] = field(default_factory=dict)
    orders: dict[tuple[Any, ...], Any] = field(default_factory=dict)


@dataclass
class Live:
    """What a model is at the moment.

    Args:
        shrunk: Whether layers that a config counts are out of their lists.
        overwrites_gradients: Whether blocks write gradients where they have written others before.
        number: Which of the passes on a batch is running; 0 for the first one, and where there is no other.
        inside: The modules that are asked for in every step, while a pass is running.
        as_written: Whether compiled blocks run as they were written.
        whole: What may run all passes on a batch at once: gets what is asked for (``network.Asked``), and
            gives the outputs, or None where they are to run one by one.
    """

    shrunk: bool = False
    overwrites_gradients: bool = False
    number: int = 0
    inside: Inside | None = None
    as_written: bool = False
    whole: Callable[[Any], list[Any] | None] | None = None

    @contextmanager
    def passing(self, number: int, inside: Inside) -> Iterator[None]:
        """A context in which a pass is running."""
        self.number, self.inside = number, inside
        try:
            yield
        finally:
            self.number, self.inside = 0, None

    @contextmanager
    def shrinking(self) -> Iterator[None]:
        """A context in which layers are out of their lists."""
        self.shrunk = True
        try:
            yield
        finally:
            self.shrunk = False


@dataclass(frozen=True)
class Wiring:
    """What running subnets of a model needs to know about it.

    Args:
        units: The module names of all units.
        places: The places of blocks in the order in which they run.
        blocks: The module names of the blocks of each stage.
        writers: The units that write into their input; ``""`` if the model writes into its own.
        fragile: The units whose output is written into by code that belongs to no unit.
        overwritten: The places of which the input may be written into, there or behind them.
        channels: What reads the channels of dense blocks, if there are any.
        norms: What layers keep of the batches that they see, by name, of those that are not PyTorch's own.
        observed: What has been observed about the model while it ran.
        live: What the model is at the moment.
    """

    units: tuple[str, ...]
    places: tuple[Place, ...]
    blocks: tuple[tuple[str, ...], ...]
    writers: frozenset[str]
    fragile: frozenset[str] = frozenset()
    overwritten: frozenset[str] = frozenset()
    channels: Channels | None = None
    norms: Mapping[str, Norm] = field(default_factory=dict)
    observed: Observed = field(default_factory=Observed, compare=False, repr=False)
    live: Live = field(default_factory=Live, compare=False, repr=False)

    def writes(self, unit: str) -> bool:
        """Whether a unit may write into its input."""
        return self.observed.writes or unit in self.writers

    def overwrites(self, place: str) -> bool:
        """Whether the input of the block at a place may be written into, there or behind it."""
        return self.observed.writes or place in self.overwritten

    @cached_property
    def carrying(self) -> frozenset[int]:
        """The stages in which a skipped block returns something that the block before it has made."""
        return frozenset(place.stage for place in self.places if needs_before(place.returns))

    @cached_property
    def watched(self) -> frozenset[str]:
        """The units whose calls have to be known of in every pass: what they write into, or what they return."""
        carrying = [name for stage in self.carrying for name in self.blocks[stage]]
        return self.writers | self.fragile | frozenset(carrying)

    @cached_property
    def place_of(self) -> dict[str, Place]:
        """The places by their names."""
        return {place.name: place for place in self.places}

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
