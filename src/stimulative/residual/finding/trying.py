"""Runs a module with other values for its parameters, and leaves it as it was.

What is found out so should not depend on how the model's numbers are kept, nor on how it makes its weights:

- *In float32 at least.* Parameters, buffers and inputs of fewer digits are copied to float32, and autocast is off. In
  bfloat16 a norm's output differs from its input by a hundredth where it should be the same. Only code that names its
  number format itself (``x.half()``) runs in that.
- *Computed parameters are parameters.* A weight that PyTorch computes of others (``torch.nn.utils.parametrize``: weight
  and spectral norm, orthogonal matrices, anything else) is given values itself. What it is computed of has no zero in
  some cases: the matrix exponential of nothing is the identity.
- *Nothing over nothing is nothing.* A layer that divides its weights by their norm or deviation, in a hook or in its
  own code, has 0/0 for a weight at zero parameters.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.utils import parametrize
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from stimulative.residual.access.caches import is_cache
from stimulative.residual.access.interception import intercepted
from stimulative.residual.access.mode import evaluating
from stimulative.residual.access.trees import tensors_in
from stimulative.residual.access.undisturbed import step


def kind_of(module: nn.Module) -> type[nn.Module]:
    """The class that a module was made of: PyTorch gives each module with computed parameters a class of its own."""
    return parametrize.type_before_parametrizations(module)


def shapes_inside(module: nn.Module) -> list[tuple[torch.Size, ...]]:
    """The shapes of the parameters of each of a module's children."""
    return [tuple(value.shape for value in child.parameters()) for child in module.children()]


def own_parameters(module: nn.Module) -> dict[str, Tensor]:
    """The parameters of a module and of what is inside, each module's once though it may have several names.

    Of a computed parameter the value that it has now, under its own name, in place of what it is computed of.
    """
    # a parameter that is set under two names is not restored
    found: dict[str, Tensor] = {}
    computed = _computed(module)
    with evaluating(module), torch.no_grad():
        for inside, submodule in module.named_modules():
            if isinstance(submodule, parametrize.ParametrizationList) or _within(inside, computed):
                continue
            own = submodule._parameters.items()
            found |= {_join(inside, key): value for key, value in own if value is not None}
            found |= {key: computed[key]() for key in computed if key.rpartition(".")[0] == inside}
    return found


def run_with(module: nn.Module, values: Mapping[str, Tensor], given: Any) -> Any:
    """What a module returns with other values for some parameters; its input is not written into.

    Args:
        module: The module. It runs in evaluation mode and without gradients.
        values: Values of parameters by the names that ``own_parameters`` gives, and of parameters and buffers by those
            that the module gives.
        given: Its positional and keyword arguments.
    """
    tensors = [*values.values(), *tensors_in(given)]
    autocast = [device for device in {each.device.type for each in tensors} if torch.is_autocast_enabled(device)]
    short = {name: value for name, value in _stored(module).items() if _is_short(value) and name not in values}
    with evaluating(module), torch.inference_mode(False), torch.no_grad():
        if short or autocast or any(map(_is_short, tensors)):
            exact = {name: precise(value) for name, value in (*short.items(), *values.items())}
            with suppress(Exception), ExitStack() as off:  # code that names its format cannot run in another one
                for device in autocast:
                    off.enter_context(torch.autocast(device, enabled=False))
                return _run(module, exact, given, precise)
        return _run(module, values, given, torch.Tensor.clone)


def precise(tensor: Tensor) -> Tensor:
    """A copy of a tensor, in float32 at least if it holds floating point numbers."""
    dtype = torch.promote_types(tensor.dtype, torch.float32) if tensor.is_floating_point() else tensor.dtype
    return tensor.to(dtype, copy=True)


def tolerance(*tensors: Tensor) -> float:
    """How far apart tensors may be, relative to the largest number, and yet be the same up to rounding."""
    digits = [torch.finfo(tensor.dtype).eps for tensor in tensors if tensor.is_floating_point()]
    return max([1e-4, *(4 * eps for eps in digits)])


def moved(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Parameters or statistics away from where they are: some start at a value at which a module looks like another."""
    generator = torch.Generator().manual_seed(0)
    return {name: value.detach() + _noise(value, generator) for name, value in values.items()}


def _noise(value: Tensor, generator: torch.Generator) -> Tensor:
    """Numbers that are neither lost beside a parameter nor make what it lets through grow."""
    drawn = torch.randn(value.shape, generator=generator, dtype=torch.float32)
    return (0.3 * drawn / (value[0].numel() if value.dim() > 1 else 1) ** 0.5).to(value)


def same(first: Any, second: Any) -> bool:
    """Whether the tensors of two outputs are the same up to rounding; not if there are none."""
    pairs = list(zip(tensors_in(first), tensors_in(second), strict=True))
    return bool(pairs) and all(
        a.shape == b.shape and bool((a - b).abs().amax() <= tolerance(a, b) * (1 + a.abs().amax())) for a, b in pairs
    )


class _NothingOverNothing(TorchDispatchMode):
    """Whatever is computed and is no number is zero."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        for tensor in tensors_in(output):
            if _has_nan(tensor):
                tensor.nan_to_num_(nan=0.0, posinf=torch.inf, neginf=-torch.inf)
        return output


def _run(module: nn.Module, values: Mapping[str, Tensor], given: Any, copied: Callable[[Tensor], Tensor]) -> Any:
    def output() -> Any:
        step()
        args, kwargs = pytree.tree_map(partial(_own, copied=copied), given, is_leaf=is_cache)
        with _computing(module, values) as others:
            return functional_call(module, others, args, kwargs, tie_weights=False)

    found = output()
    if any(map(_has_nan, tensors_in(found))):
        with _NothingOverNothing():
            found = output()
    return found


def _own(leaf: Any, copied: Callable[[Tensor], Tensor]) -> Any:
    """A part of an input that a module may write into; some models make a cache of keys and values unasked."""
    if isinstance(leaf, Tensor):
        return copied(leaf)
    return copy.deepcopy(leaf) if is_cache(leaf) else leaf


@contextmanager
def _computing(module: nn.Module, values: Mapping[str, Tensor]) -> Iterator[dict[str, Tensor]]:
    """A module whose computed parameters have the values that are given for them; yields the other values."""
    computed = {name: made for name, made in _computed(module).items() if name in values}

    def value_of(name: str) -> Callable[[], Tensor]:
        return lambda: values[name]

    with intercepted(computed, {name: value_of(name) for name in computed}):
        yield {name: value for name, value in values.items() if name not in computed}


def _computed(module: nn.Module) -> dict[str, parametrize.ParametrizationList]:
    """What computes parameters of a module and of what is inside, by the names of these parameters."""
    found: dict[str, parametrize.ParametrizationList] = {}
    for inside, submodule in module.named_modules():
        if parametrize.is_parametrized(submodule):
            lists: Any = submodule.parametrizations
            found |= {_join(inside, key): made for key, made in lists.items()}
    return found


def _stored(module: nn.Module) -> dict[str, Tensor]:
    """The parameters and buffers of a module and of what is inside, by the names that the module gives them."""
    return {
        _join(inside, key): value
        for inside, submodule in module.named_modules()
        for key, value in (*submodule._parameters.items(), *submodule._buffers.items())
        if value is not None
    }


def _within(inside: str, computed: Mapping[str, Any]) -> bool:
    """Whether a module is part of what computes a parameter."""
    return any(
        f"{inside}.".startswith(f"{_join(owner, 'parametrizations')}.{key}.")
        for owner, _, key in (name.rpartition(".") for name in computed)
    )


def _is_short(tensor: Tensor) -> bool:
    return tensor.is_floating_point() and torch.finfo(tensor.dtype).bits < 32


def _has_nan(tensor: Tensor) -> bool:
    return tensor.is_floating_point() and tensor.layout == torch.strided and bool(tensor.isnan().any())


def _join(inside: str, key: str) -> str:
    return f"{inside}.{key}" if inside else key
