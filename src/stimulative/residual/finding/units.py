"""Puts what was found about a model into the form in which subnets of it are run: its units, and the places of blocks.

Units are the blocks, and the largest modules beside them that hold none: what is called in every pass, in one order.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace

from torch import nn

from stimulative.residual.finding.channels import Channels, Reader
from stimulative.residual.finding.dense import Dense
from stimulative.residual.finding.discovery import Finder, Stage
from stimulative.residual.finding.recording import Trace
from stimulative.residual.finding.wiring import Place, Wiring


def wire(model: nn.Module, trace: Trace, finder: Finder, stages: Sequence[Stage], dense: Dense | None) -> Wiring:
    """What running subnets of a model needs to know about it.

    Args:
        model: The model.
        trace: What its modules were called with on the example input.
        finder: What is known of them.
        stages: The stages that were found.
        dense: Its dense blocks, if it has any.
    """
    places = []
    for number, stage in enumerate(stages):
        for index, name in enumerate(stage.block_names):
            returns = finder.returns_when_skipped(name)
            places.append(Place(name, number, index, returns, concatenates=stage.concatenates))
    places.sort(key=lambda place: finder.first_call(place.name))
    blocks = {name for stage in stages for name in stage.block_names}
    units = tuple(_units("", model, blocks, finder))
    writers = frozenset(call.name for call in trace.calls if call.writes_input and call.name in {"", *units})
    inside = {name for unit in units for name, _ in model.get_submodule(unit).named_modules(prefix=unit)}
    fragile = frozenset(name for by, name in trace.writes if by not in inside and name in units)
    return Wiring(
        units,
        tuple(places),
        tuple(stage.block_names for stage in stages),
        writers,
        fragile,
        _overwritten(trace, places, writers, fragile),
        _channels(dense, units, stages),
    )


def _overwritten(
    trace: Trace, places: Sequence[Place], writers: Collection[str], fragile: Collection[str]
) -> frozenset[str]:
    """The places of which the input may be written into, there or behind them.

    A block that writes does so at any place of its stage.
    """
    calls = {call.name: number for number, call in enumerate(trace.calls)}  # the last of each
    ends: dict[int, int] = {}
    for place in places:
        ends[place.stage] = max(ends.get(place.stage, 0), calls[place.name])
    stages = {place.name: place.stage for place in places}
    last = max((ends[stages[name]] if name in stages else calls[name] for name in writers if name), default=-1)
    return frozenset(place.name for place in places if fragile or calls[place.name] <= last)


def _channels(dense: Dense | None, units: Sequence[str], stages: Sequence[Stage]) -> Channels | None:
    """The dense blocks by the numbers of their stages, and their readers by the units that they are in."""
    if dense is None or not any(stage.concatenates for stage in stages):
        return None
    numbers = {stage.name: number for number, stage in enumerate(stages)}
    blocks = [replace(width, stage=numbers.get(name)) for name, width in zip(dense.names, dense.widths, strict=True)]
    readers: dict[str, tuple[Reader, ...]] = {}
    for reader in dense.readers:
        (unit,) = (unit for unit in units if f"{reader.name}.".startswith(f"{unit}."))
        readers[unit] = (*readers.get(unit, ()), reader)
    return Channels(tuple(blocks), readers)


def _units(name: str, module: nn.Module, blocks: set[str], finder: Finder) -> Iterator[str]:
    """The blocks, and the largest called modules that hold none; names in the order of registration."""
    if name in blocks:
        yield name
        return
    holds_blocks = any(block.startswith(f"{name}." if name else "") for block in blocks)
    children = finder.children(name, module)
    if not holds_blocks and (name in finder.calls or not children):
        yield name
        return
    for key, child in children:
        yield from _units(key, child, blocks, finder)
