"""Cuts of the graph where a later subnet departs.

The shared prefix gets its backward once, for all that depends on it. Tensors that go around the cut (a position bias
that each block reads, say) are differentiated in place: gradients add up, so the result is the same. Only then does a
graph have to outlive its backward pass; whether it has to is found by walking it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from stimulative.residual.access.mode import going_backward
from stimulative.residual.access.trees import map_tensors, tensors_in
from stimulative.residual.finding.recording import Keywords
from stimulative.residual.finding.wiring import Decision, Way, Wiring
from stimulative.residual.running.remembering import Entry


@dataclass
class Cut:
    """The graph is cut here: what is before, and what goes on in its place."""

    upstream: list[Tensor] = field(default_factory=list)
    leaves: list[Tensor] = field(default_factory=list)

    def backward(self, *, retain_graph: bool) -> None:
        """Continue the gradients that arrived at this cut into the graph before it."""
        reached = [
            (up, leaf.grad) for up, leaf in zip(self.upstream, self.leaves, strict=True) if leaf.grad is not None
        ]
        self.upstream, self.leaves = [], []
        if reached:
            tensors, gradients = zip(*reached, strict=True)
            with going_backward(tensors[0]):
                torch.autograd.backward(tensors, gradients, retain_graph=retain_graph)

    def through(
        self, args: tuple[Any, ...], kwargs: Keywords, *, written: bool, copied: bool
    ) -> tuple[tuple[Any, ...], Keywords]:
        """The arguments of a call, with the graph cut before it.

        Args:
            args: The positional ones.
            kwargs: The keyword arguments.
            written: Whether they may be written into.
            copied: Whether to copy the gradient that arrives, which may be overwritten.
        """
        leaves: dict[int, Tensor] = {}

        def part(tensor: Tensor) -> Tensor:
            if not tensor.requires_grad:
                return tensor
            if id(tensor) not in leaves:
                leaf = tensor.detach().requires_grad_()
                if copied:
                    leaf.register_hook(torch.clone)
                self.upstream.append(tensor)
                self.leaves.append(leaf)
                leaves[id(tensor)] = leaf.clone() if written else leaf  # a leaf must not be, its copy may
            return leaves[id(tensor)]

        return map_tensors(part, (args, kwargs))


def bypasses(
    wiring: Wiring,
    outputs: Any,
    cuts: Mapping[int, Cut],
    entries: Sequence[Entry],
    decisions: tuple[Decision, ...],
    trained: int,
) -> bool:
    """Whether the graph of outputs reaches into a graph before a cut, so that backward must not free it.

    Before a cut is what was cut there, and all that the next pass remembers: a stream beside the one that was cut may
    have a graph of its own.

    It is the same in every step, so it is looked for once for each way through the network.

    Args:
        wiring: Of the model.
        outputs: The outputs.
        cuts: The cuts, by the number of their place.
        entries: What the next pass remembers.
        decisions: Which block runs at each place up to the outputs.
        trained: How many parameters of the model ask for a gradient.
    """
    known, way = wiring.observed.bypasses, Way(frozenset(cuts), len(entries), decisions, trained)
    if way not in known:
        remembered = [tensor for entry in entries for tensor in tensors_in(entry.output)]
        before = _graph([*remembered, *(tensor for cut in cuts.values() for tensor in cut.upstream)])
        known[way] = not before.isdisjoint(_graph(tensors_in(outputs)))
    return known[way]


def _graph(tensors: Sequence[Tensor]) -> set[Any]:
    """The nodes of the autograd graph behind tensors, without those that only add to a parameter's gradient."""
    nodes: set[Any] = set()
    open_nodes = [tensor.grad_fn for tensor in tensors if tensor.grad_fn is not None]
    while open_nodes:
        node = open_nodes.pop()
        if node not in nodes and not hasattr(node, "variable"):
            nodes.add(node)
            open_nodes += [following for following, _ in node.next_functions if following is not None]
    return nodes
