"""The slots of modules: where PyTorch keeps a module's children, parameters and buffers.

Assigning to an attribute checks, renames and moves things; what is done here is to put something else into a slot that
exists, as it is. All writing into other modules' slots is in this file, so that it can be looked over at a glance.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

RUNNING = "running_mean", "running_var"
"""What PyTorch's norms call their running statistics."""


def put_children(module: nn.Module, children: Mapping[str, nn.Module | None]) -> None:
    """Give a module other children, in this order."""
    chosen = dict(children)  # before the slots are emptied: it may be made of them
    module._modules.clear()
    module._modules.update(chosen)


def put_parameter(module: nn.Module, key: str, value: nn.Parameter) -> None:
    """Put a parameter into the slot of another one."""
    module._parameters[key] = value


def put_buffer(module: nn.Module, key: str, value: Tensor | None) -> None:
    """Put a tensor, or none, into the slot of a buffer; whether the buffer is saved stays as it was."""
    module._buffers[key] = value


def put_statistics(layer: nn.Module, values: Mapping[str, Tensor | None]) -> None:
    """Put other running statistics into a layer, as they are.

    Args:
        layer: The layer.
        values: Tensors by the names that they have in it; such a name may be that of a buffer, of a parameter that is
            not trained, or of a plain attribute.
    """
    for key, value in values.items():
        slots = _slots_with(layer, key)
        if slots is layer._parameters and value is not None and not isinstance(value, nn.Parameter):
            value = nn.Parameter(value, requires_grad=False)
        slots[key] = value


def statistics_in(layer: nn.Module, keys: Iterable[str]) -> dict[str, Tensor | None]:
    """The running statistics that a layer has now, by their names in it."""
    return {key: _slots_with(layer, key)[key] for key in keys}


def untrained_in(layer: nn.Module) -> dict[str, Tensor]:
    """The tensors that a layer holds itself and that are not trained: buffers, parameters, and plain attributes."""
    held = {**vars(layer), **layer._parameters, **layer._buffers}
    return {key: value for key, value in held.items() if isinstance(value, Tensor) and not value.requires_grad}


@contextmanager
def exchanged_statistics(values: Mapping[nn.Module, Mapping[str, Tensor | None]]) -> Iterator[None]:
    """Layers with other running statistics, or none, for a while; then they have their own again, untouched."""
    own = {layer: statistics_in(layer, other) for layer, other in values.items()}
    for layer, other in values.items():
        put_statistics(layer, other)
    try:
        yield
    finally:
        for layer, tensors in own.items():
            put_statistics(layer, tensors)


def computed_by_hooks(module: nn.Module) -> dict[str, Tensor]:
    """The tensors that a module's hooks compute of its parameters before each call, such as a weight of its norm.

    They are plain attributes; the parameters have longer names (``weight_g`` and ``weight_v``, ``weight_orig``).
    """
    return {
        key: value
        for key, value in vars(module).items()
        if isinstance(value, Tensor) and any(name.startswith(f"{key}_") for name in module._parameters)
    }


@contextmanager
def buffers_kept(model: nn.Module) -> Iterator[None]:
    """A context behind which a model has the buffers that it has now, with the values that they have now.

    And the weights that hooks have computed of their parameters (``torch.nn.utils.weight_norm``).
    """
    buffers = [(module, dict(module._buffers)) for module in model.modules()]
    values = [(buffer, buffer.detach().clone()) for buffer in model.buffers()]
    computed = [(module, computed_by_hooks(module)) for module in model.modules()]
    try:
        yield
    finally:
        for module, own in computed:
            vars(module).update(own)
        for module, own in buffers:  # a forward may have made some, or put others in their place
            module._buffers.clear()
            module._buffers.update(own)
        with torch.no_grad():
            for buffer, value in values:
                buffer.copy_(value)


class Exchange:
    """Puts other things into slots, and what was there back again.

    The things that it puts into slots of parameters need not be parameters: gradients flow through a tensor that was
    computed of one.
    """

    def __init__(self) -> None:
        self._undo: list[tuple[dict[str, Any], str, Any]] = []

    def attribute(self, module: nn.Module, key: str, value: Any) -> None:
        """Give a module another value of a plain attribute."""
        self._put(vars(module), key, value)

    def parameter(self, module: nn.Module, key: str, value: Tensor) -> None:
        """Put a tensor into the slot of a parameter."""
        self._put(module._parameters, key, value)

    def buffer(self, module: nn.Module, key: str, value: Tensor) -> None:
        """Put a tensor into the slot of a buffer."""
        self._put(module._buffers, key, value)

    def put_back(self) -> None:
        """Undo all of it, the last first."""
        for slots, key, value in reversed(self._undo):
            slots[key] = value
        self._undo.clear()

    def _put(self, slots: dict[str, Any], key: str, value: Any) -> None:
        self._undo.append((slots, key, slots[key]))
        slots[key] = value


def _slots_with(layer: nn.Module, key: str) -> dict[str, Any]:
    """Where a layer has a tensor of this name."""
    return next((slots for slots in (layer._buffers, layer._parameters) if key in slots), vars(layer))
