"""Whether a module is a residual block, by what it does: with its parameters at zero it returns its own input.

A residual unit computes ``x + f(x)``, and ``f`` vanishes when its parameters do. Some weigh the input by a parameter of
their own, ``g x + f(x)``, and return nothing when that is zero, too. Such a *gain* is told from other parameters by
setting it to one while all others are zero: a gain gives the input or nothing then, where a bias gives something of
its own. A norm behind the addition (as in BERT) has a gain, too; with it at one such a block returns an input of mean 0
and variance 1. What only weighs its input (a squeeze-and-excitation gate, half of the input at zero parameters) adds
nothing: it is no block.

Modules are tried while the model runs on the example input, each right before it is called for the first time, so that
their inputs need not be kept. What is inside of a block is tried only where it may be a run of blocks itself.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils import _pytree as pytree

from stimulative.residual.access.mode import evaluating
from stimulative.residual.finding.passing import Template, could_pass, pass_through, weighs
from stimulative.residual.finding.recording import Call, Keywords, before_calls, run_on, tensors_in

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
        self.needed: dict[tuple[type, frozenset[str], frozenset[str]], list[tuple[str, ...]]] = {}

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
        """Whether a module is part of a block and nobody asks whether it is one itself."""
        parents = name.split(".")
        if not any(".".join(parents[:end]) in self.blocks for end in range(1, len(parents))):
            return False
        parent = self.modules.get(name.rpartition(".")[0])
        return not isinstance(parent, CONTAINERS)

    def _tried(
        self, name: str, module: nn.Module, args: tuple[Any, ...], kwargs: Keywords
    ) -> tuple[Template | None, str]:
        parameters = own_parameters(module)
        if not parameters:
            return None, NO_PARAMETERS
        if type(module).__module__.startswith("torch.nn.modules.") and not list(module.children()):
            return None, "is a single layer"
        call = self.calls[name][0]
        if not could_pass(call):
            return None, f"turns {shapes((call.args, call.kwargs))} into {shapes(call.output)}"
        given = pytree.tree_map_only(Tensor, _with_signal, (args, kwargs))

        def output(ones: Collection[str], given: Any) -> Any:
            """What the module returns with some of its parameters at one and all others at zero."""
            values = {
                key: torch.ones_like(value) if key in ones else torch.zeros_like(value)
                for key, value in parameters.items()
            }
            return run_with(module, values, given)

        try:
            at_zero = output((), given)
            template = pass_through(call, at_zero=at_zero, given=given)
            if template is None and self._has_a_sibling(name):
                template = self._with_gains(module, parameters, output, call, given)
            elif template is not None and weighs(template, given, at_zero) and _gates(module, parameters, given):
                return None, "only weighs its input"
        except Exception as error:  # a module that cannot run with zeros (a solver, say) is no block that we know of
            return None, f"fails with its parameters at zero ({type(error).__name__})"
        return template, "does not return its input when its parameters are zero"

    def _has_a_sibling(self, name: str) -> bool:
        parent = self.modules.get(name.rpartition(".")[0])
        kind = type(self.modules[name])
        return parent is not None and sum(type(child) is kind for child in parent.children()) > 1

    def _with_gains(
        self,
        module: nn.Module,
        parameters: Mapping[str, Tensor],
        output: Callable[[Collection[str], Any], Any],
        call: Call,
        given: Any,
    ) -> Template | None:
        """What the module returns when it is skipped, if it returns its input with some gains at one."""

        def signal(ones: Collection[str]) -> bool:
            return any(bool(tensor.any()) for tensor in tensors_in(output(ones, given))[:1])

        each = _one_a_channel(module, parameters)
        if not each or signal(()):
            return None
        alone = [name for name in each if signal((name,))]  # biases, but also the gain of a block that has one only
        gains = [name for name in each if name not in alone]
        kind = (type(module), frozenset(each), frozenset(gains))
        if kind not in self.needed:  # blocks of a kind need the same ones
            together = dict.fromkeys(_least(order, signal) for order in (gains, gains[::-1]) if gains)
            self.needed[kind] = [*together, *((name,) for name in alone)]
        for ones in self.needed[kind]:
            for inputs in (given, _normalised(given, call)):
                at_zero = output(ones, inputs)
                template = pass_through(call, at_zero=at_zero, given=inputs)
                if template is not None and not (
                    weighs(template, inputs, at_zero) and _gates(module, parameters, inputs)
                ):
                    return template
        return None


def _one_a_channel(module: nn.Module, parameters: Mapping[str, Tensor]) -> list[str]:
    """The parameters of one number a channel, or a single one: gains and biases.

    None of a module that has no others, such as a norm, which would return its input without adding to it.
    """
    statistics = {
        f"{inside}.{key}" if inside else key
        for inside, layer in module.named_modules()
        if isinstance(getattr(layer, "running_mean", None), Tensor)
        for key in layer._parameters
    }
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

    def drawn(tensor: Tensor) -> Tensor:
        return torch.randn(tensor.shape, generator=generator).to(tensor)

    def halved(tensor: Tensor) -> Tensor:
        return drawn(tensor).relu() if tensor.is_floating_point() else tensor

    inputs = pytree.tree_map_only(Tensor, halved, given)
    output = tensors_in(run_with(module, {name: drawn(value) for name, value in parameters.items()}, inputs))[0]
    sources = [tensor for tensor in tensors_in(inputs) if tensor.shape == output.shape]
    return any(not bool(output[source == 0].any()) for source in sources)


def run_with(module: nn.Module, values: dict[str, Tensor], given: Any) -> Any:
    """What a module returns with other values for some parameters; its input is not written into."""
    args, kwargs = pytree.tree_map_only(Tensor, torch.Tensor.clone, given)
    with evaluating(module), torch.inference_mode(False), torch.no_grad():
        return functional_call(module, values, args, kwargs, tie_weights=False)


def own_parameters(module: nn.Module) -> dict[str, Tensor]:
    """The parameters of a module and of what is inside, each module's once though it may have several names."""
    # a parameter that is set under two names is not restored
    return {
        f"{inside}.{key}" if inside else key: value
        for inside, submodule in module.named_modules()
        for key, value in submodule._parameters.items()
        if value is not None
    }


def shapes(tree: Any) -> str:
    """The shapes of all tensors, for messages."""
    return ", ".join(str(tuple(tensor.shape)) for tensor in tensors_in(tree)) or "no tensor"


def _with_signal(tensor: Tensor) -> Tensor:
    """The same tensor, or numbers that a test can tell apart where it is all zeros."""
    if not tensor.is_floating_point() or tensor.numel() == 0 or bool(tensor.any()):
        return tensor
    generator = torch.Generator().manual_seed(0)
    return torch.rand(tensor.shape, generator=generator).to(tensor)


def _normalised(given: Any, call: Call) -> Any:
    """The same arguments, those in the shape of the output with mean 0 and variance 1 over the last dimension."""
    outputs = {tensor.shape for tensor in tensors_in(call.output)[:1]}

    def normalise(tensor: Tensor) -> Tensor:
        fits = tensor.is_floating_point() and tensor.dim() and tensor.shape in outputs
        return torch.nn.functional.layer_norm(tensor, tensor.shape[-1:]) if fits else tensor

    return pytree.tree_map_only(Tensor, normalise, given)
