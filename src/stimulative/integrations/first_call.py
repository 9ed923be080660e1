"""Unravels a model in its first training step: what it is called with there is the example input."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from stimulative.methods import StimulativeTraining, as_input, call_of, called_instead
from stimulative.residual import ResidualNetwork, batch_size, first_samples, tensors_in, unravel

_SAMPLES = 2  # enough to see which dimension is the batch; blocks are tried out one by one on all of them


@contextmanager
def hearing(modules: Mapping[str, nn.Module], hear: Callable[[str, Any], None]) -> Iterator[None]:
    """Tell of calls of modules in training mode and with gradients, before they happen.

    Args:
        modules: Modules by name.
        hear: Gets the name of the module and the input that it is called with, as ``unravel`` takes it. It may put
            something else in place of the module's call; this call goes there, too.
    """
    telling = False

    def call(name: str, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        nonlocal telling
        module: Any = modules[name]
        if telling or not module.training or not torch.is_grad_enabled():
            return original(*args, **kwargs)
        slot = call_of(module)
        before = getattr(module, slot)
        telling = True
        try:
            hear(name, as_input(module, args, kwargs))
        finally:
            telling = False
        instead = getattr(module, slot)
        return (original if instead is before else instead)(*args, **kwargs)

    with ExitStack() as stack:
        for name, module in modules.items():
            stack.enter_context(called_instead(module, lambda *a, name=name, **k: call(name, *a, **k)))
        yield


def unraveled(model: nn.Module, example_input: Any) -> ResidualNetwork:
    """Unravel a model in the middle of a step, as if there were no autocast around it or in it.

    Args:
        model: The model.
        example_input: What it is called with.

    Raises:
        UsageError: If it has no residual blocks or cannot be taken apart.
    """
    with _without_autocast(model, example_input):
        return unravel(model, example_input)


def method_of(network: ResidualNetwork, settings: Mapping[str, Any]) -> StimulativeTraining:
    """Stimulative training of a network, set up in the middle of a step.

    Args:
        network: The network.
        settings: Those of ``StimulativeTraining``.

    Raises:
        UsageError: If the settings do not fit the network.
    """
    with _without_autocast(network.model, network.example_input):
        return StimulativeTraining(network, **settings)


def example_of(x: Any) -> Any:
    """Copies of the first samples of a batch, without graph."""
    first = first_samples(x, _SAMPLES, batch_size(x))
    return pytree.tree_map_only(Tensor, lambda tensor: tensor.detach().clone(), first)


@contextmanager
def _without_autocast(model: nn.Module, x: Any) -> Iterator[None]:
    """No autocast around a model, and its forward as it was before Accelerate put autocast into it."""
    own: dict[str, Any] = vars(model)
    wrapped = own.pop("forward") if "_original_forward" in own and "forward" in own else None
    device = next((tensor.device.type for tensor in tensors_in(x)), "cpu")
    try:
        with torch.autocast(device, enabled=False):
            yield
    finally:
        if wrapped is not None:
            own["forward"] = wrapped
