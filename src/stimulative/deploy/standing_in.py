"""What stands in the place of a skipped block that its model cannot do without: plain PyTorch, and no parameters.

Most blocks are called with one tensor and return one like it: an ``nn.Identity`` does that. Others are called with more
(a size, a mask), or their skipped call returns something else than its first argument: several tensors, channels of
zeros beside it, or nothing to be added. For these the few operations that a skipped call comes to are written as a
``torch.fx.GraphModule``, whose code is in the module and can be saved, exported and compiled.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from stimulative.residual import FIRST, Argument, Call, Constant, Input, Nothing, Place, needs_before, padding


def stand_in(place: Place, call: Call) -> nn.Module | None:
    """A module that does what skipping a block does; None if that takes what the block before it has made.

    It asks for the arguments that it returns, and lets all others be there or not: a container that looks at the class
    of each module in it (and gives the embedding of the time to those of one class alone) gives others fewer.

    Args:
        place: The block's place.
        call: A call of the block.
    """
    if needs_before(place.returns):
        return None
    if place.returns == FIRST and len(call.args) == 1 and not call.kwargs:
        return nn.Identity()
    graph = fx.Graph()
    arguments = [*((f"x{number}", value) for number, value in enumerate(call.args)), *call.kwargs.items()]
    asked = [graph.placeholder(name) for name, _ in arguments]
    leaves = [leaf for node, (_, value) in zip(asked, arguments, strict=True) for leaf in _parts(graph, node, value)]
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
        if of.formats is not None:
            node = graph.call_method("to", (node, of.formats[1]))
        return graph.call_function(F.pad, (node, padding(of, value))) if of.added else node

    if place.concatenates:  # a dense layer adds no channels
        graph.output(graph.call_function(torch.narrow, (tensors[0][0], 1, 0, 0)))
    else:
        graph.output(pytree.tree_map(returned, place.returns))
    _ask_for_less(graph, asked[: len(call.args)], asked[len(call.args) :])
    return fx.GraphModule(nn.Module(), graph, class_name="Skipped")


def _ask_for_less(graph: fx.Graph, positional: Sequence[fx.Node], keywords: Sequence[fx.Node]) -> None:
    """Let arguments that are not used be left out, but for positional ones in front of a used one; and take others."""
    graph.eliminate_dead_code()
    last = max((number for number, node in enumerate(positional) if node.users), default=-1)
    optional = [*positional[last + 1 :], *(node for node in keywords if not node.users)]
    if last + 1 < len(positional):  # Python has no argument without a default behind one with
        optional += [node for node in keywords if node.users]
    behind = next(node for node in graph.nodes if node.op != "placeholder")
    for node in optional:
        node.args = (None,)  # its default
    for node in keywords:
        if not node.users:
            behind.prepend(node)
    with graph.inserting_before(behind):
        graph.placeholder("*others")
        graph.placeholder("**more")


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
