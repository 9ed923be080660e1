"""Runs one subnet at its own speed: the model with its skipped blocks turned off for a while.

Replay intercepts every unit to share work between subnets. This does not: inside of the context the model is called
as ever, and only the skipped blocks do something else, which is to return their input. So what it costs can be
measured in place, and anything that calls the model (an exporter, a benchmark, a training loop) can be shown a subnet.

Where a config counts the layers (Hugging Face Transformers), nothing is intercepted: the model has just the layers
that run meanwhile, and its config says so, as if it had been built so. Its ``generate`` makes the right caches then,
and ``save_pretrained`` saves the smaller model.

What reads the channels of skipped dense layers has smaller parameters meanwhile. They are made once, when the context
opens, where gradients are off then; and otherwise in each call, so that the parameters can be trained.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import nn

from stimulative.residual.access.interception import call_slot, intercepted
from stimulative.residual.access.slices import Slice, sliced
from stimulative.residual.counted.shrinking import shrunk
from stimulative.residual.finding.wiring import Place, Wiring, skip
from stimulative.residual.running.guarding import exclusive, refuse_checkpoint


@contextmanager
def skipping(model: nn.Module, wiring: Wiring, stages: Sequence[Sequence[int]]) -> Iterator[nn.Module]:
    """A model of which one subnet runs, for as long as the context is open.

    Whoever calls the model meanwhile gets the subnet, in other threads too. Runs of subnets (``replay``) in other
    threads wait for the context to close; in this thread they are refused.

    Args:
        model: The model that the wiring belongs to.
        wiring: Its units and places.
        stages: The blocks that run, per stage.

    Yields:
        The model.
    """
    with exclusive(model):
        modules = {name: model.get_submodule(name) for name in wiring.units}
        slices = wiring.slices(stages)
        with shrunk(model, wiring, wiring.decisions(stages)) as others:
            calls: dict[str, Callable[..., Any]] = {}
            made: dict[int, Any] = {}
            for place, block in others:
                if block is None:
                    calls[place.name] = partial(_skip, place, made, model.training)
                    slices.pop(place.name, None)
                elif block != place.index:
                    other = modules[wiring.blocks[place.stage][block]]
                    calls[place.name] = getattr(other, call_slot(other))
                if block is not None and place.stage in wiring.carrying:
                    own: Callable[..., Any] = getattr(modules[place.name], call_slot(modules[place.name]))
                    calls[place.name] = partial(_call_remembered, place, made, calls.get(place.name, own))
            if torch.is_grad_enabled():
                for unit, pieces in slices.items():
                    calls[unit] = partial(_call_sliced, model, pieces, getattr(modules[unit], call_slot(modules[unit])))
                small = nullcontext()
            else:
                small = sliced(model, [piece for pieces in slices.values() for piece in pieces], copied=True)
            with small, intercepted(modules, calls):
                yield model


def _skip(place: Place, made: dict[int, Any], training: bool, *args: Any, **kwargs: Any) -> Any:
    if training:  # not only where gradients are on: within a checkpoint they may be off
        refuse_checkpoint(place.name)
    return skip(place, made.get(place.stage), *args, **kwargs)


def _call_remembered(
    place: Place, made: dict[int, Any], original: Callable[..., Any], *args: Any, **kwargs: Any
) -> Any:
    made[place.stage] = original(*args, **kwargs)
    return made[place.stage]


def _call_sliced(
    model: nn.Module, slices: Sequence[Slice], original: Callable[..., Any], *args: Any, **kwargs: Any
) -> Any:
    with sliced(model, slices):
        return original(*args, **kwargs)
