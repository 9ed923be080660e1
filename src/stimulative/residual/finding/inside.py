"""What is inside of a model: found by one walk over all of its modules, which is too long for every step.

It holds as long as every module holds the modules that it held; where one holds others by now, the model is walked
through anew.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from stimulative.residual.finding.norms import Norm

if TYPE_CHECKING:
    from stimulative.residual.finding.wiring import Wiring

_CHECKPOINTING = "grad_checkpointing", "gradient_checkpointing"


@dataclass(frozen=True)
class Inside:
    """The modules of a model that are asked for in every step.

    Args:
        modules: All of them, the model itself first.
        held: What each of them holds, one after the other.
        units: The units by name; those that are in their place.
        around: What holds blocks, by name, the model itself (``""``) among them.
        switches: What can checkpoint activations: its name, itself, and the attribute that says whether it does.
        norms: What may keep running statistics: its name, itself, and what it keeps; None for PyTorch's own norms.
    """

    modules: tuple[nn.Module, ...]
    held: list[nn.Module | None]
    units: dict[str, nn.Module]
    around: tuple[tuple[str, nn.Module], ...]
    switches: tuple[tuple[str, nn.Module, str], ...]
    norms: tuple[tuple[str, nn.Module, Norm | None], ...]

    def is_of(self, model: nn.Module) -> bool:
        """Whether it is still what is inside of a model."""
        return self.modules[0] is model and _held(self.modules) == self.held

    @property
    def trained(self) -> int:
        """How many parameters ask for a gradient; one that several modules share counts for each of them."""
        return sum(
            [
                value.requires_grad
                for module in self.modules
                if (own := module._parameters)
                for value in own.values()
                if value is not None
            ]
        )

    @property
    def compiled(self) -> bool:
        """Whether a unit is compiled."""
        return any([unit._compiled_call_impl for unit in self.units.values()])


def inside_of(model: nn.Module, wiring: Wiring) -> Inside:
    """What is inside of a model at the moment; looked at once a pass."""
    if wiring.live.inside is not None:
        return wiring.live.inside
    known = wiring.observed.inside
    if known is None or not known.is_of(model):
        known = wiring.observed.inside = _walk(model, wiring)
    return known


def state_of(modules: Sequence[nn.Module]) -> list[Any]:
    """What a recording of modules goes by: their modes and children, and the tensors and the memory that they hold."""
    slots = [value for one in modules for own in (one._parameters, one._buffers) for value in own.values()]
    held = [(id(value), value.data_ptr(), value.requires_grad) for value in slots if value is not None]
    return [*[(one.training, *map(id, one._modules.values())) for one in modules], *held]


@contextmanager
def as_written(model: nn.Module, wiring: Wiring) -> Iterator[None]:
    """A context in which compiled units run as they were written."""
    live = wiring.live
    before, live.as_written = live.as_written, True
    try:
        with torch.compiler.set_stance("force_eager") if inside_of(model, wiring).compiled else nullcontext():
            yield
    finally:
        live.as_written = before


def _walk(model: nn.Module, wiring: Wiring) -> Inside:
    named = dict(model.named_modules())
    above = {name[:at] for names in wiring.blocks for name in names for at in _dots(name)} | {""}
    checkpointing = _CHECKPOINTING if wiring.channels is None else (*_CHECKPOINTING, "memory_efficient")
    modules = tuple(named.values())
    return Inside(
        modules=modules,
        held=_held(modules),
        units={name: named[name] for name in wiring.units if name in named},
        around=tuple((name, named[name]) for name in sorted(above) if name in named),
        switches=tuple((name, one, key) for name, one in named.items() for key in checkpointing if hasattr(one, key)),
        norms=tuple(
            (name, one, wiring.norms.get(name))
            for name, one in named.items()
            if name in wiring.norms or isinstance(one, _NormBase)
        ),
    )


def _held(modules: tuple[nn.Module, ...]) -> list[nn.Module | None]:
    return [child for module in modules if (children := module._modules) for child in children.values()]


def _dots(name: str) -> list[int]:
    return [at for at, letter in enumerate(name) if letter == "."]
