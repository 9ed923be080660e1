"""Lets a callback see what blocks return, and decide what the model goes on with."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import torch
from torch import nn

from stimulative.residual.access.interception import call_slot, intercepted
from stimulative.residual.access.trees import map_tensors
from stimulative.residual.counted.shrinking import check_whole
from stimulative.residual.finding.wiring import Place, Wiring, skip

AfterBlock = Callable[[Place, Any, Callable[[], Any]], Any]
"""Gets a block's place, its output, and what skipping it would return; returns what the model goes on with."""


def after_blocks(model: nn.Module, wiring: Wiring, callback: AfterBlock) -> AbstractContextManager[Any]:
    """Call back after each block; see ``ResidualNetwork.after_blocks``."""
    check_whole(wiring)
    modules = {place.name: model.get_submodule(place.name) for place in wiring.places}
    calls = {
        place.name: partial(
            _call,
            callback,
            place,
            getattr(modules[place.name], call_slot(modules[place.name])),
            place.name in wiring.writers,
        )
        for place in wiring.places
    }
    return intercepted(modules, calls)


def _call(
    callback: AfterBlock, place: Place, original: Callable[..., Any], writes: bool, *args: Any, **kwargs: Any
) -> Any:
    given = (args, kwargs)
    if writes:  # the block may overwrite what skipping it returns
        given = map_tensors(torch.Tensor.clone, given)
    output = original(*args, **kwargs)
    return callback(place, output, lambda: skip(place, output, *given[0], **given[1]))
