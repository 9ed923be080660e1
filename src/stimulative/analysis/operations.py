"""What a piece of work asks of a device: each operation's arithmetic and memory traffic, counted exactly.

Floating-point operations are those of ``torch.utils.flop_counter``: of matrix products, convolutions and attention, a
multiply-add being two. Traffic is what each operation reads and writes, as if nothing stayed in a cache and nothing
were fused: exact for operations that run one by one, and an upper bound for compiled code.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

_ALLOCATES = "empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided"


@dataclass(frozen=True, eq=False)
class Operations:
    """Operations that run one after the other.

    Args:
        flops: Floating-point operations of each, shape ``(operations,)``.
        traffic: Bytes that each reads and writes, shape ``(operations,)``.
        saved: Bytes of tensors that are kept for the backward pass, besides what is in memory anyway.
    """

    flops: np.ndarray
    traffic: np.ndarray
    saved: float = 0.0

    @classmethod
    def of(cls, rows: Iterable[tuple[float, float]], saved: float = 0.0) -> Operations:
        """From rows of floating-point operations and bytes."""
        flops, traffic = np.array(list(rows), dtype=np.float64).reshape(-1, 2).T
        return cls(flops, traffic, saved)

    def __len__(self) -> int:
        return len(self.flops)

    def followed_by(self, other: Operations) -> Operations:
        """These, and then others."""
        return Operations(
            np.concatenate([self.flops, other.flops]),
            np.concatenate([self.traffic, other.traffic]),
            self.saved + other.saved,
        )

    def extended(self, larger: Operations, sizes: tuple[int, int], size: int) -> Operations:
        """The same operations at another batch size, from those at two.

        What an operation costs is a part for each sample and a part for none, such as its parameters, so two batches
        tell both. Where the batches did different operations, the larger one is scaled.

        Args:
            larger: The operations at the larger of the two batch sizes.
            sizes: Both sizes, this one first.
            size: The size wanted.
        """
        few, many = sizes
        if len(self) != len(larger):
            factor = size / many
            return replace(
                larger, flops=larger.flops * factor, traffic=larger.traffic * factor, saved=larger.saved * factor
            )
        steps = (size - few) / (many - few)
        return Operations(
            self.flops + steps * (larger.flops - self.flops),
            self.traffic + steps * (larger.traffic - self.traffic),
            self.saved + steps * (larger.saved - self.saved),
        )


class OperationCounter(TorchDispatchMode):
    """Counts the operations that run in its context; a context can be entered again, and goes on counting."""

    def __init__(self) -> None:
        super().__init__()
        self._rows: list[tuple[float, float]] = []
        # tensors by where they are in memory, held so that no place is given to another one meanwhile
        self._saved: dict[int, Tensor] = {}
        self._counted: dict[int, Tensor] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run an operation, and count it unless it only looks at a tensor in another way, or makes room for one."""
        kwargs = kwargs or {}
        output = func(*args, **kwargs)
        given, made = _tensors(args, kwargs), _tensors(output) or _written(func, args, kwargs)
        name = func.overloadpacket.__name__
        places = {_place(tensor) for tensor in given}
        looks = not name.endswith("_") and all(_place(tensor) in places for tensor in made)
        if name not in _ALLOCATES and not (made and looks):
            formula = flop_registry.get(func.overloadpacket)
            flops = 0 if formula is None else formula(*args, **kwargs, out_val=output)
            self._rows.append((flops, sum(map(_size, given)) + sum(map(_size, made))))
        return output

    @contextmanager
    def keeping(self, held: Iterable[Tensor] = ()) -> Iterator[None]:
        """A context in which tensors that autograd keeps are counted, each once.

        Args:
            held: Those that are in memory anyway, and are not counted.
        """
        self._counted.update((_place(tensor), tensor) for tensor in held)

        def pack(tensor: Tensor) -> Tensor:
            if _place(tensor) not in self._counted:
                self._saved[_place(tensor)] = tensor
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            yield

    def copied(self, original: Tensor, copy: Tensor) -> None:
        """Count a copy that only counting has made as what it is a copy of."""
        if _place(original) in self._saved or _place(original) in self._counted:
            self._counted[_place(copy)] = copy

    def taken(self) -> Operations:
        """What was counted since the last time this was asked."""
        counted = Operations.of(self._rows, sum(t.untyped_storage().nbytes() for t in self._saved.values()))
        self._rows = []
        self._counted |= self._saved
        self._saved = {}
        return counted


def operations_of(work: Callable[[], Any], held: Iterable[Tensor] = ()) -> Operations:
    """Run a piece of work and count its operations and what it keeps for a backward pass.

    Args:
        work: What to run.
        held: Tensors that are in memory anyway, such as parameters and the batch.
    """
    counter = OperationCounter()
    with counter.keeping(held), counter:
        work()
    return counter.taken()


def _tensors(*tree: Any) -> list[Tensor]:
    return [leaf for leaf in pytree.tree_leaves(tree) if isinstance(leaf, Tensor)]


def _written(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[Tensor]:
    """What an operation that returns nothing writes to, such as a step of a fused optimiser."""
    arguments = func._schema.arguments
    given = {argument.name: value for argument, value in zip(arguments, args, strict=False)} | {**kwargs}
    return _tensors(
        [given.get(one.name) for one in arguments if one.alias_info is not None and one.alias_info.is_write]
    )


def _place(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _size(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()
