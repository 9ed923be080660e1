"""Whether a module is a residual block, by what it does: with its parameters at zero it returns its own input.

A residual unit computes ``x + f(x)``, and ``f`` vanishes when its parameters do. Some weigh the input by a parameter of
their own, ``g x + f(x)``, and return nothing when that is zero, too. Such a *gain* is told from other parameters by
setting it to one while all others are zero: a gain gives the input or nothing then, where a bias gives something of
its own. A norm behind the addition (as in BERT) has a gain, too; with it at one such a block returns an input of mean 0
and variance 1. The slope of a PReLU stands at one, where it is no activation. What only weighs its input (a
squeeze-and-excitation gate, half of the input at zero parameters) adds nothing: it is no block.

Modules are tried while the model runs on the example input, each right before it is called for the first time, so that
their inputs need not be kept. What is inside of a block is tried only where it may be a run of blocks itself, or where
the block stands alone.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from stimulative.residual.access.trees import tensors_in
from stimulative.residual.finding.passing import (
    Before,
    Input,
    Template,
    could_pass,
    inputs_of,
    pass_through,
    weighs,
    widens,
)
from stimulative.residual.finding.recording import Call, Keywords, before_calls, has_storage, run_on
from stimulative.residual.finding.trying import kind_of, own_parameters, precise, run_with, tolerance

NO_PARAMETERS = "has no parameters"
CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


def try_modules(
    model: nn.Module,
    example_input: Any,
    calls: Mapping[str, list[Call]],
    *,
    by_name: Collection[str] = (),
) -> tuple[dict[str, Template], dict[str, str]]:
    """Try every module of a model that may be a residual block; the model runs once more.

    Args:
        model: The model.
        example_input: Its input.
        calls: What its modules are called with, in shape.
        by_name: Modules to try in any case.

    Returns:
        What each block returns when it is skipped, and in words why each other module is none; both by name.
    """
    trial = _Trial(model, calls, frozenset(by_name))
    with before_calls(model, trial.look):
        run_on(model, example_input)
    return trial.blocks, trial.reasons


class _Trial:
    def __init__(self, model: nn.Module, calls: Mapping[str, list[Call]], by_name: frozenset[str]) -> None:
        self.modules = dict(model.named_modules())
        self.calls = calls
        self.by_name = by_name
        self.blocks: dict[str, Template] = {}
        self.reasons: dict[str, str] = {}
        self.needed: dict[tuple[type, frozenset[str]], list[tuple[str, ...]]] = {}

    def look(self, name: str, module: nn.Module, args: tuple[Any, ...], kwargs: Keywords) -> None:
        if name in self.blocks or name in self.reasons:
            return
        if self._within_a_block(name) and name not in self.by_name:
            return
        template, reason = self._tried(name, module, args, kwargs)
        if template is not None:
            self.blocks[name] = template
        else:
            self.reasons[name] = reason

    def _within_a_block(self, name: str) -> bool:
        """Whether a module is part of a block and nobody asks whether it is one itself.

        In a block with none of its kind beside it, which is hardly ever skipped, there may be blocks of any kind.
        """
        parts = name.split(".")
        around = {".".join(parts[:end]) for end in range(1, len(parts))} & self.blocks.keys()
        if not any(has_sibling(self.modules, block) for block in around):
            return False
        parent = self.modules.get(name.rpartition(".")[0])
        return not isinstance(parent, CONTAINERS)

    def _tried(
        self, name: str, module: nn.Module, args: tuple[Any, ...], kwargs: Keywords
    ) -> tuple[Template | None, str]:
        if next(module.parameters(), None) is None:
            return None, NO_PARAMETERS
        made_of = [inside for _, inside in module.named_children() if not isinstance(inside, nn.ModuleDict)]
        if kind_of(module).__module__.startswith("torch.nn.modules.") and not made_of:
            return None, "is a single layer"
        call = self.calls[name][0]
        if not could_pass(call):
            return None, f"turns {shapes((call.args, call.kwargs))} into {shapes(call.output)}"
        given = pytree.tree_map_only(Tensor, _with_signal, (args, kwargs))
        parameters = own_parameters(module)
        slopes = {f"{inside}.weight".lstrip(".") for inside, layer in module.named_modules() if type(layer) is nn.PReLU}

        def output(ones: Collection[str], given: Any, one: float = 1.0) -> Any:
            """What the module returns with some of its parameters at one, or another number, and all others at zero."""
            at = {key: one if key in ones else float(key in slopes) for key in parameters}
            return run_with(module, {key: torch.full_like(value, at[key]) for key, value in parameters.items()}, given)

        try:
            at_zero = output((), given)
            template = pass_through(call, at_zero=at_zero, given=given)
            if template is None and (rounded := _as_returned(call, at_zero, given)) is not None:
                given, at_zero = rounded, output((), rounded)
                template = pass_through(call, at_zero=at_zero, given=given)
            if template is None and has_sibling(self.modules, name):
                template = self._with_gains(module, parameters, output, call, given)
            elif template is not None and weighs(template, given, at_zero) and _gates(module, parameters, given):
                return None, "only weighs its input"
            elif widens(template) and not _adds_of_its_input(module, parameters, template, given):
                return None, "adds the same to whatever it is given"
        except Exception as error:  # a module that cannot run with zeros (a solver, say) is no block that we know of
            return None, f"fails with its parameters at zero ({type(error).__name__})"
        return template, "does not return its input when its parameters are zero"

    def _with_gains(
        self,
        module: nn.Module,
        parameters: Mapping[str, Tensor],
        output: Callable[..., Any],
        call: Call,
        given: Any,
    ) -> Template | None:
        """What the module returns when it is skipped, if it returns its input with some gains at one.

        A gain may be written as what it is more than one, ``(1 + g) x``: then it lets nothing through at minus one.
        """

        def signal(ones: Collection[str], one: float = 1.0) -> bool:
            return any(bool(tensor.any()) for tensor in tensors_in(output(ones, given, one))[:1])

        each = _one_a_channel(module, parameters)
        if not each:
            return None
        kind = (kind_of(module), frozenset(each))
        if kind not in self.needed:  # blocks of a kind need the same ones
            if signal(()):
                self.needed[kind] = [] if all(signal((name,), -1.0) for name in each) else [()]
            else:
                alone = [name for name in each if signal((name,))]  # biases, but also the gain of a block with one only
                gains = [name for name in each if name not in alone]
                together = dict.fromkeys(_least(order, signal) for order in (gains, gains[::-1]) if gains)
                self.needed[kind] = [*together, *((name,) for name in alone)]
        for ones in self.needed[kind]:
            for inputs in (given, _normalised(given, call, -1), _normalised(given, call, 1)):
                at_zero = output(ones, inputs)
                template = pass_through(call, at_zero=at_zero, given=inputs)
                if template is not None and not (
                    weighs(template, inputs, at_zero) and _gates(module, parameters, inputs)
                ):
                    return template
        return None


def _as_returned(call: Call, at_zero: Any, given: Any) -> Any | None:
    """The arguments with a returned stream in the place of the one that was given, if these differ by rounding alone.

    A norm without parameters returns what has been normalised before as it is, but not what was rounded afterwards.
    """
    close = tolerance(*tensors_in(call.output))
    template = pass_through(call, at_zero=at_zero, given=given, close=close) if close > tolerance() else None
    if template is None or not inputs_of(template) or widens(template):
        return None
    stream = tensors_in(given)[inputs_of(template)[0]]
    return pytree.tree_map_only(Tensor, lambda x: tensors_in(at_zero)[0] if x is stream else x, given)


def _one_a_channel(module: nn.Module, parameters: Mapping[str, Tensor]) -> list[str]:
    """The parameters of one number a channel, or a single one: gains and biases.

    None of a module that has no others, such as a norm, which would return its input without adding to it.
    """
    layers = {name: module.get_submodule(name.rpartition(".")[0]) for name in parameters}
    statistics = {name for name, layer in layers.items() if isinstance(getattr(layer, "running_mean", None), Tensor)}
    each = [
        name
        for name, value in parameters.items()
        if name not in statistics and value.numel() and value.numel() == max(value.shape, default=1)
    ]
    return each if parameters.keys() - {*each} - statistics else []


def _least(gains: list[str], signal: Callable[[Collection[str]], bool]) -> tuple[str, ...]:
    """As few of the gains as let anything through; those named first are done without first."""
    needed = list(gains)
    if not signal(needed):
        return ()
    for gain in gains:
        fewer = [name for name in needed if name != gain]
        if signal(fewer):
            needed = fewer
    return tuple(sorted(needed))


def _gates(module: nn.Module, parameters: Mapping[str, Tensor], given: Any) -> bool:
    """Whether a module returns nothing wherever its input is nothing, whatever its parameters are."""
    generator = torch.Generator().manual_seed(0)
    inputs = pytree.tree_map_only(Tensor, lambda tensor: _drawn(tensor, generator, positive=True), given)
    values = {name: _drawn(value, generator) for name, value in parameters.items()}
    output = tensors_in(run_with(module, values, inputs))[0]
    sources = [tensor for tensor in tensors_in(inputs) if tensor.shape == output.shape]
    return any(not bool(output[source == 0].any()) for source in sources)


def _adds_of_its_input(module: nn.Module, parameters: Mapping[str, Tensor], template: Template, given: Any) -> bool:
    """Whether the channels that a module adds depend on what it is given; a class token does not."""
    generator = torch.Generator().manual_seed(0)
    values = {name: _drawn(value, generator) for name, value in parameters.items()}
    leaves = [leaf for leaf in pytree.tree_leaves(template) if isinstance(leaf, Input | Before)]  # one a tensor
    at, of = next((at, leaf) for at, leaf in enumerate(leaves) if isinstance(leaf, Input) and leaf.added)
    added = []
    for _ in range(2):
        inputs = pytree.tree_map_only(Tensor, lambda tensor: _drawn(tensor, generator, positive=True), given)
        output = tensors_in(run_with(module, values, inputs))[at]
        added.append(output.narrow(1, 0 if of.in_front else output.shape[1] - of.widened, of.added))
    return not torch.equal(*added)


def _drawn(tensor: Tensor, generator: torch.Generator, *, positive: bool = False) -> Tensor:
    """Other numbers in the place of a tensor's; whole numbers stay as they are if they are an input."""
    if positive and not (tensor.is_floating_point() and has_storage(tensor)):
        return tensor
    numbers = torch.randn(tensor.shape, generator=generator)
    return (numbers.relu() if positive else numbers).to(tensor)


def has_sibling(modules: Mapping[str, nn.Module], name: str) -> bool:
    """Whether another module of its kind stands beside a module."""
    kind, parent = kind_of(modules[name]), modules.get(name.rpartition(".")[0])
    return bool(name) and parent is not None and sum(kind_of(child) is kind for child in parent.children()) > 1


def shapes(tree: Any) -> str:
    """The shapes of all tensors, for messages."""
    return ", ".join(str(tuple(tensor.shape)) for tensor in tensors_in(tree)) or "no tensor"


def _with_signal(tensor: Tensor) -> Tensor:
    """The same tensor, or numbers that a test can tell apart where it is all zeros, or too large for its format."""
    if not tensor.is_floating_point() or tensor.numel() == 0 or not has_storage(tensor):
        return tensor
    broken = bool((tensor.isnan() | tensor.isposinf()).any())  # a mask has infinities below zero
    if bool(tensor.any()) and not broken:
        return tensor
    generator = torch.Generator().manual_seed(0)
    return torch.rand(tensor.shape, generator=generator).to(tensor)


def _normalised(given: Any, call: Call, dimension: int) -> Any:
    """The same arguments, those in the shape of the output with mean 0 and variance 1 over a dimension."""
    outputs = {tensor.shape for tensor in tensors_in(call.output)[:1]}

    def normalise(tensor: Tensor) -> Tensor:
        if (
            not tensor.is_floating_point()
            or tensor.dim() <= dimension
            or tensor.shape not in outputs
            or not tensor.dim()
        ):
            return tensor
        moved = precise(tensor).movedim(dimension, -1)
        return F.layer_norm(moved, moved.shape[-1:], eps=1e-12).movedim(-1, dimension)

    return pytree.tree_map_only(Tensor, normalise, given)
