"""One forward pass of one subnet: the calls of units are intercepted, and each is computed, skipped or handed out."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn

from stimulative.residual.access.interception import call_slot, intercepted
from stimulative.residual.access.slices import Slice, sliced
from stimulative.residual.access.trees import map_tensors
from stimulative.residual.finding.recording import Keywords
from stimulative.residual.finding.wiring import Decision, Wiring, skip
from stimulative.residual.running.cutting import Cut
from stimulative.residual.running.guarding import refuse_checkpoint
from stimulative.residual.running.remembering import Entry, cloned, protect, versions_of


@dataclass(frozen=True)
class Node:
    """A unit's call within the tree of prefixes: which unit, which call, and what ran before it."""

    unit: str
    call: int
    path: tuple[Decision, ...]


Around = Callable[[Node, Callable[[], Any]], Any]
"""Called in place of computing a unit: gets the node and the computation, returns the unit's output."""


class OnePass:
    """One forward pass of one subnet."""

    def __init__(
        self,
        wiring: Wiring,
        decisions: dict[str, Decision],
        entries: list[Entry],
        differs: set[str] | None,
        departs: set[str],
        departures: set[str],
        cuts: dict[str, Cut],
        around: Around | None,
        model: nn.Module,
        slices: Mapping[str, tuple[Slice, ...]],
        part: tuple[int, int] | None,
    ) -> None:
        self.model = model
        self.part = part  # how many samples the batch has, and how many of them this pass runs on
        self.slices = slices
        self.wiring = wiring
        self.places = {place.name: place for place in wiring.places}
        self.decisions = decisions
        self.entries = entries
        self.reusable = len(entries)
        self.differs = differs
        self.keep: int | None = 0 if differs is None else None  # how many entries the next pass can use
        self.departs = departs  # where this pass leaves what is remembered
        self.departures = departures  # where later ones leave this one
        self.guarded = 0  # how many entries must not be written into any more
        self.cuts = cuts
        self.around = around
        self.number = 0
        self.path: tuple[Decision, ...] = ()
        # how a model runs its blocks is looked at in its first pass of each mode
        self.looking = torch.is_grad_enabled() and model.training not in wiring.observed.looked_at
        self.made: dict[int, Any] = {}  # what the block before has returned, by stage, where it is needed
        self.inside = False
        self.thread = threading.get_ident()
        self.originals: dict[str, Callable[..., Any]] = {}

    def intercepting(self, modules: Mapping[str, nn.Module]) -> AbstractContextManager[None]:
        """Route the calls of all units through this pass, and take every trace of it away again."""
        self.originals = {name: getattr(module, call_slot(module)) for name, module in modules.items()}
        calls = {name: partial(self._call, name, original) for name, original in self.originals.items()}
        return intercepted(modules, calls)

    def _call(self, name: str, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        if self.inside or threading.get_ident() != self.thread:
            return original(*args, **kwargs)  # a unit within a unit, or somebody else's call of the same model
        if self.looking and name in self.decisions:
            refuse_checkpoint(name)
        number, self.number = self.number, self.number + 1
        if self.keep is None and self.differs is not None and name in self.differs:
            self.keep = number
        if name in self.departures:
            self.departures.remove(name)
            self.guarded = number
        if name in self.decisions:
            self.path += (self.decisions[name],)
        cut = self.cuts.pop(name, None)  # a module may be called again, but what differs begins at its first call
        if number < self.reusable:
            if self.entries[number].unit == name:
                return self._handed_out(name, self.entries[number].output)
            self.reusable = number  # the model took another way than before: what is remembered ends here
            del self.entries[number:]
        if cut is not None:
            given, overwritten = args, self.wiring.live.overwrites_gradients
            args, kwargs = cut.through(args, kwargs, written=self._may_be_written(name), copied=overwritten)
            if self.places[name].concatenates:
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
            self.entries.append(Entry.of(name, output))
        return self._handed_out(name, output)

    def _may_be_written(self, place: str) -> bool:
        """Whether the input of a place may be written into, there or behind it; in a first pass nobody knows."""
        return self.looking or self.wiring.overwrites(place)

    def _handed_out(self, name: str, output: Any) -> Any:
        if name in self.wiring.fragile:
            output = cloned(output)
        if self.part is not None:
            output = self.cut_down(output)
        if name in self.places and self.places[name].stage in self.wiring.carrying:
            self.made[self.places[name].stage] = output
        return output

    def cut_down(self, tree: Any) -> Any:
        """The samples that this pass runs on, of every tensor that has them all, batch first."""
        if self.part is None:
            return tree
        whole, part = self.part
        return map_tensors(lambda x: x[:part] if x.dim() and len(x) == whole else x, tree)

    def _compute(
        self,
        name: str,
        number: int,
        original: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: Keywords,
    ) -> Any:
        place = self.places.get(name)
        unit = name
        if place is not None:
            block = self.decisions[name]
            if block is None:
                return skip(place, self.made.get(place.stage), *args, **kwargs)
            unit = self.wiring.blocks[place.stage][block]
            original = self.originals[unit]
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
