"""One forward pass of one subnet: the calls of units are intercepted, and each is computed, skipped or handed out."""

from __future__ import annotations

import threading
from collections.abc import Callable, Container, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stimulative.residual.access.interception import call_slot, intercepted
from stimulative.residual.access.slices import Slice, sliced
from stimulative.residual.access.trees import map_tensors
from stimulative.residual.finding.recording import Keywords
from stimulative.residual.finding.wiring import Decision, Wiring, skip
from stimulative.residual.running.cutting import Cut
from stimulative.residual.running.guarding import refuse_checkpoint
from stimulative.residual.running.order import Turn
from stimulative.residual.running.remembering import Entry, cloned, protect, versions_of


@dataclass(frozen=True)
class Node:
    """A unit's call within the tree of prefixes: which unit, which call, and what ran before it."""

    unit: str
    call: int
    path: tuple[Decision, ...]


class Part(NamedTuple):
    """What a pass gets of what passes before it have computed.

    Args:
        batch: How many samples the batch has.
        samples: On how many of them the pass runs.
        shrink: By which factor feature maps are smaller, by average pooling.
    """

    batch: int
    samples: int
    shrink: int = 1


Around = Callable[[Node, Callable[[], Any]], Any]
"""Called in place of computing a unit: gets the node and the computation, returns the unit's output."""


class OnePass:
    """One forward pass of one subnet.

    Args:
        model: The model.
        wiring: Its units and places.
        turn: What is to be done at which place.
        entries: What is remembered of the passes before.
        cuts: The cuts of the graph, by the names of their places.
        around: Called in place of computing a unit.
        slices: The parts of parameters that the subnet uses, by unit.
        part: What it gets of what was computed before; None for all of it.
    """

    def __init__(
        self,
        model: nn.Module,
        wiring: Wiring,
        turn: Turn,
        entries: list[Entry],
        *,
        cuts: dict[str, Cut],
        around: Around | None,
        slices: Mapping[str, tuple[Slice, ...]],
        part: Part | None,
    ) -> None:
        self.model = model
        self.wiring = wiring
        self.turn = turn
        self.decisions = turn.decisions
        self.entries = entries
        self.cuts = cuts
        self.around = around
        self.slices = slices
        self.part = part
        self.shrinks = part is not None and part.shrink > 1
        self.reusable = len(entries)
        self.keep = 0 if turn.differs is None else None  # how many entries the next pass can use
        self.departs, self.departures = set(turn.departs), set(turn.departures)
        self.guarded = 0  # how many entries must not be written into any more
        self.number = 0
        self.path: tuple[Decision, ...] = ()
        # how a model runs its blocks is looked at in its first pass of each mode
        self.looking = torch.is_grad_enabled() and model.training not in wiring.observed.looked_at
        # units at which nothing special is to be done just run
        self.plain = not (self.looking or around or slices or wiring.observed.writes)
        self.made: dict[int, Any] = {}  # what the block before has returned, by stage, where it is needed
        self.inside = False
        self.thread = threading.get_ident()
        self.modules: Mapping[str, nn.Module] = {}
        self.originals: dict[str, Callable[..., Any]] = {}
        self.release: Callable[[Container[str]], None] | None = None

    def intercepting(
        self, modules: Mapping[str, nn.Module]
    ) -> AbstractContextManager[Callable[[Container[str]], None]]:
        """Route the calls of units through this pass, and take every trace of it away again.

        Its ``release``, as which the function that the context gives is to be kept, lets them go before.
        """
        self.modules = modules
        names = self._needed() & modules.keys() if self._is_settled() else modules
        self.originals = {name: getattr(modules[name], call_slot(modules[name])) for name in names}
        calls = {name: partial(self._call, name, original) for name, original in self.originals.items()}
        return intercepted(modules, calls)

    def _call(self, name: str, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        if self.inside or threading.get_ident() != self.thread:
            return original(*args, **kwargs)  # a unit within a unit, or somebody else's call of the same model
        number, self.number = self.number, self.number + 1
        if self.plain and name not in self.turn.special and name not in self.wiring.watched:
            remembered = self._remembered(number, name)
            if remembered is not None:
                return self._handed_on(remembered)
            self.inside = True
            try:
                output = original(*args, **kwargs)
            finally:
                self.inside = False
            if self.keep is None:
                self.entries.append(Entry.of(name, output, shrunk=self.shrinks))
            return self.cut_down(output)
        output = self._handed_out(name, self._call_watched(number, name, original, args, kwargs))
        if self.release is not None and self._is_settled():
            self.release(self._needed())
            self.release = None
        return output

    def _call_watched(
        self, number: int, name: str, original: Callable[..., Any], args: tuple[Any, ...], kwargs: Keywords
    ) -> Any:
        if self.looking and name in self.decisions:
            refuse_checkpoint(name)
        if self.keep is None and self.turn.differs is not None and name in self.turn.differs:
            self.keep = number
        if name in self.departures:
            self.departures.remove(name)
            self.guarded = number
        if name in self.decisions:
            self.path += (self.decisions[name],)
        cut = self.cuts.pop(name, None)  # a module may be called again, but what differs begins at its first call
        remembered = self._remembered(number, name)
        if remembered is not None:
            return self._handed_on(remembered)
        if cut is not None:
            given, overwritten = args, self.wiring.live.overwrites_gradients
            args, kwargs = cut.through(args, kwargs, written=self._may_be_written(name), copied=overwritten)
            if self.wiring.place_of[name].concatenates:
                # a dense block goes on with the list that it gave to its layer, so what is in there is cut, too
                for old, new in zip(given, args, strict=True):
                    if isinstance(old, list):
                        old[:] = new
        elif name in self.departs and self._may_be_written(name) and torch.is_grad_enabled():
            # the graph of an earlier pass may hold what is handed to what comes next
            args, kwargs = cloned((args, kwargs))
        self.departs.discard(name)
        self.inside = True
        try:
            output = self._compute(name, number, original, args, kwargs)
        finally:
            self.inside = False
        if self.keep is None:
            self.entries.append(Entry.of(name, output, shrunk=self.shrinks))
        return output

    def _handed_on(self, entry: Entry) -> Any:
        """What is remembered, as this pass gets it."""
        return self.cut_down(entry.output) if entry.shrunk else self.made_smaller(entry.output)

    def _remembered(self, number: int, name: str) -> Entry | None:
        """What is remembered of a call, if it is."""
        if number >= self.reusable:
            return None
        if self.entries[number].unit == name:
            return self.entries[number]
        self.reusable = number  # the model took another way than before: what is remembered ends here
        del self.entries[number:]
        return None

    def _is_settled(self) -> bool:
        """Whether what is left of the pass neither uses what is remembered, nor is remembered itself."""
        begun = self.keep is not None and self.number >= self.reusable
        return begun and self.plain and not (self.cuts or self.departs or self.departures)

    def _needed(self) -> frozenset[str]:
        """The units that do not just run, whatever has been before."""
        return self.turn.exchanged | self.wiring.watched

    def _may_be_written(self, place: str) -> bool:
        """Whether the input of a place may be written into, there or behind it; in a first pass nobody knows."""
        return self.looking or self.wiring.overwrites(place)

    def _handed_out(self, name: str, output: Any) -> Any:
        if name in self.wiring.fragile:
            output = cloned(output)
        if self.part is not None:
            output = self.cut_down(output)
        place = self.wiring.place_of.get(name)
        if place is not None and place.stage in self.wiring.carrying:
            self.made[place.stage] = output
        return output

    def cut_down(self, tree: Any) -> Any:
        """The samples that this pass runs on, of every tensor that has them all, batch first."""
        if self.part is None:
            return tree
        whole, part, _ = self.part
        return map_tensors(lambda x: x[:part] if x.dim() and len(x) == whole else x, tree)

    def made_smaller(self, tree: Any) -> Any:
        """The samples that this pass runs on, and feature maps, (samples, channels, height, width), made smaller."""
        if self.part is None:
            return tree
        whole, part, shrink = self.part

        def smaller(x: Tensor) -> Tensor:
            if not x.dim() or len(x) != whole:
                return x
            is_map = shrink > 1 and x.dim() == 4 and x.is_floating_point()
            return F.avg_pool2d(x[:part], shrink, ceil_mode=True) if is_map else x[:part]

        return map_tensors(smaller, tree)

    def _original(self, unit: str) -> Callable[..., Any]:
        """What calls a unit, whoever is called in its place."""
        module = self.modules[unit]
        return self.originals[unit] if unit in self.originals else getattr(module, call_slot(module))

    def _compute(
        self,
        name: str,
        number: int,
        original: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: Keywords,
    ) -> Any:
        place = self.wiring.place_of.get(name)
        unit = name
        if place is not None:
            block = self.decisions[name]
            if block is None:
                return skip(place, self.made.get(place.stage), *args, **kwargs)
            unit = self.wiring.blocks[place.stage][block]
            original = self._original(unit)
        written = protect(self.entries, self.guarded, args, kwargs) if self.wiring.writes(unit) else []
        before = versions_of((args, kwargs)) if self.looking else []
        compute = partial(original, *args, **kwargs)
        if self.around is not None:
            compute = partial(self.around, Node(unit, number, self.path), compute)
        if unit in self.slices:
            with sliced(self.model, self.slices[unit]):
                output = compute()
        else:
            output = compute()
        for entry in written:
            entry.written()
        if self.looking and not self.wiring.writes(unit) and before != versions_of((args, kwargs)):
            self.wiring.observed.writes = True  # in training mode alone, as dropout of its own making may
        return output
