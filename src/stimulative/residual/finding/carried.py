"""What a skipped block returns in place of what only the block itself makes.

A block may return more than its stream: a state or attention maps, which the model reads behind the last block, or its
part of a sum over all blocks (the skip sum of a WaveNet). A net without the block goes on with what the block before
has made in the first case, and with a sum that lacks a part in the second. Which of the two it is, is found by taking
the last block of a stage out of its list for one run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from stimulative.residual.access.caches import configs_of, without_caches
from stimulative.residual.access.interception import call_slot, intercepted
from stimulative.residual.access.slots import put_children
from stimulative.residual.finding.passing import Before, Template, needs_before, passed
from stimulative.residual.finding.recording import arguments_of, quietly, run_on
from stimulative.residual.finding.trying import moved, own_parameters, run_with, same


def settle_carried(
    model: nn.Module, example_input: Any, blocks: dict[str, Template], stages: Sequence[Sequence[str]]
) -> None:
    """Make those templates silent whose blocks' own tensors are added up.

    Args:
        model: The model.
        example_input: Its input.
        blocks: What each block returns when it is skipped; written into.
        stages: The names of the blocks of each stage.
    """
    for names in stages:
        carrying = [name for name in names if needs_before(blocks.get(name))]
        parent = model.get_submodule(names[-1].rpartition(".")[0])
        if names[-1] not in carrying or len(names) < 2 or not isinstance(parent, nn.ModuleList | nn.Sequential):
            continue
        last = _Last(model, example_input, parent, *names[-2:])
        own, silent = blocks[names[-1]], {name: _silent(blocks[name]) for name in carrying}
        with suppress(Exception):  # a model that counts its blocks cannot run without one
            if _alike(last.skipped(own), last.skipped(own, other=True)):
                continue  # nobody reads what the block makes
            values = moved(own_parameters(model))  # some make nothing at first
            without = last.gone(values)
            if not _alike(without, last.skipped(own, values)) and _alike(
                without, last.skipped(silent[names[-1]], values)
            ):
                blocks.update(silent)


def _silent(template: Template) -> Template:
    return pytree.tree_map(lambda of: Before(of.number, silent=True) if isinstance(of, Before) else of, template)


@dataclass(frozen=True)
class _Last:
    """The last block of a stage, and runs of the model in which it does not run.

    Args:
        model: The model.
        example_input: Its input.
        parent: The list that the block is in.
        before: The name of the block before it.
        name: Its own.
    """

    model: nn.Module
    example_input: Any
    parent: nn.Module
    before: str
    name: str

    def gone(self, values: Mapping[str, Tensor]) -> Any:
        """What the model returns without the block in its list.

        Args:
            values: Other values for the model's parameters.
        """
        children, key = dict(self.parent._modules), self.name.rpartition(".")[2]
        put_children(self.parent, {name: child for name, child in children.items() if name != key})
        try:
            left = {name: value for name, value in values.items() if not name.startswith(f"{self.name}.")}
            return self._output(left)
        finally:
            put_children(self.parent, children)

    def skipped(self, template: Template, values: Mapping[str, Tensor] | None = None, *, other: bool = False) -> Any:
        """What the model returns when the block returns what a template says.

        Args:
            template: The template.
            values: Other values for the model's parameters.
            other: Whether the block before is taken to have made something else.
        """
        made: list[Any] = []

        def remembered(original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            output = original(*args, **kwargs)
            made.append(pytree.tree_map_only(Tensor, _another, output) if other else output)
            return output

        def instead(*args: Any, **kwargs: Any) -> Any:
            return passed(template, args, kwargs, made[-1])

        modules = {name: self.model.get_submodule(name) for name in (self.before, self.name)}
        original = getattr(modules[self.before], call_slot(modules[self.before]))
        with intercepted(modules, {self.before: partial(remembered, original), self.name: instead}):
            return self._output(values)

    def _output(self, values: Mapping[str, Tensor] | None) -> Any:
        if values is None:
            return run_on(self.model, self.example_input)
        with quietly(self.model), without_caches(configs_of(self.model)):
            return run_with(self.model, values, arguments_of(self.example_input))


def _another(tensor: Tensor) -> Tensor:
    return torch.randn_like(tensor) if tensor.is_floating_point() else tensor


def _alike(first: Any, second: Any) -> bool:
    leaves = [pytree.tree_leaves(tree) for tree in (first, second)]
    return len(leaves[0]) == len(leaves[1]) and same(first, second)
