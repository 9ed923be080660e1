"""What stands in the place of a skipped block that its model cannot do without: plain PyTorch, and no parameters.

Most blocks are called with one tensor and return one like it: an ``nn.Identity`` does that. Others are called with more
(a size, a mask), or their skipped call returns something else than its first argument: several tensors, channels of
zeros behind it, or nothing to be added. For these the few operations that a skipped call comes to are written as a
``torch.fx.GraphModule``, whose code is in the module and can be saved, exported and compiled.
"""

from __future__ import annotations

import operator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from stimulative.residual import FIRST, Argument, Call, Constant, Input, Nothing, Place, needs_before


def stand_in(place: Place, call: Call) -> nn.Module | None:
    """A module that does what skipping a block does; None if that takes what the block before it has made.

    Args:
        place: The block's place.
        call: A call of the block.
    """
    if needs_before(place.returns) or place.concatenates:
        return None
    if place.returns == FIRST and len(call.args) == 1 and not call.kwargs:
        return nn.Identity()
    graph = fx.Graph()
    nodes = [_parts(graph, graph.placeholder(f"x{number}"), value) for number, value in enumerate(call.args)]
    nodes += [_parts(graph, graph.placeholder(name), value) for name, value in call.kwargs.items()]
    leaves = [leaf for of_one in nodes for leaf in of_one]
    tensors = [(node, value) for node, value in leaves if isinstance(value, Tensor)]
    others = [node for node, value in leaves if not isinstance(value, Tensor)]

    def returned(of: Any) -> Any:
        if isinstance(of, Argument):
            return others[of.number]
        if isinstance(of, Constant):
            return of.value
        node, value = tensors[of.number]
        if isinstance(of, Nothing):
            return graph.call_function(torch.zeros_like, (node,))
        assert isinstance(of, Input)
        padding = (*[0] * (2 * value.dim() - 4), 0, of.widened)
        return graph.call_function(F.pad, (node, padding)) if of.widened else node

    graph.output(pytree.tree_map(returned, place.returns))
    return fx.GraphModule(nn.Module(), graph, class_name="Skipped")


def _parts(graph: fx.Graph, node: fx.Node, value: Any) -> list[tuple[fx.Node, Any]]:
    """The leaves of an argument, in PyTorch's order, as nodes with what they were in the recorded call."""
    if isinstance(value, tuple | list):
        found = [
            _parts(graph, graph.call_function(operator.getitem, (node, at)), part) for at, part in enumerate(value)
        ]
    elif isinstance(value, dict):
        found = [_parts(graph, graph.call_function(operator.getitem, (node, key)), part) for key, part in value.items()]
    else:
        return [(node, value)]
    return [leaf for part in found for leaf in part]
