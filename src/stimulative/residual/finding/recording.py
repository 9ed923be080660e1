"""Runs a model once on an example input and writes down what its modules were called with.

The shapes of all of it are kept, the values of what is asked for only: those of every module of a large model take
several times the memory that training takes.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils import _pytree as pytree

from stimulative.residual.access.caches import check_example, configs_of, without_caches
from stimulative.residual.access.mode import evaluating
from stimulative.residual.access.slots import buffers_kept
from stimulative.residual.access.trees import tensors_in

Keywords = dict[str, Any]
"""The keyword arguments of a call."""


@dataclass
class Call:
    """One call of a module while the network ran on the example input.

    Its tensors are copies where values were to be kept, else tensors of PyTorch's ``meta`` device: shapes and types.
    """

    name: str
    args: tuple[Any, ...]
    kwargs: Keywords
    output: Any = None
    writes_input: bool = False


@dataclass
class Trace:
    """What every module was called with, in the order of the calls."""

    calls: list[Call] = field(default_factory=list)
    writes: list[tuple[str, str]] = field(default_factory=list)
    """Pairs of modules: the code of the first one's forward wrote into what the second one had returned."""


Look = Callable[[str, nn.Module, tuple[Any, ...], Keywords], None]
"""Gets the name of a module that is about to be called, the module, and its arguments, which it must not change."""


def arguments_of(example_input: Any) -> tuple[tuple[Any, ...], Keywords]:
    """An input as positional and keyword arguments: a tensor is one argument, a tuple several, a mapping keywords."""
    if isinstance(example_input, Mapping):
        return (), dict(example_input)
    if isinstance(example_input, tuple | list):
        return tuple(example_input), {}
    return (example_input,), {}


def has_storage(tensor: Tensor) -> bool:
    """Whether all of a tensor's numbers are in one place in memory: not those of a sparse one."""
    return tensor.layout == torch.strided


@contextmanager
def quietly(model: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients, in which a forward leaves no trace on buffers or random numbers."""
    devices = {parameter.device.index for parameter in model.parameters() if parameter.device.type == "cuda"}
    with (
        buffers_kept(model),
        evaluating(model),
        torch.random.fork_rng(devices=devices),
        torch.inference_mode(False),
        torch.no_grad(),
        _without_nested_tensors(),
    ):
        yield


@contextmanager
def _without_nested_tensors() -> Iterator[None]:
    """PyTorch's transformers turn padded sequences into nested tensors in evaluation mode, which have no shape."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


def run_on(model: nn.Module, example_input: Any) -> Any:
    """What the model returns in evaluation mode and without gradients, from copies of the example input."""
    args, kwargs = arguments_of(example_input)
    check_example(args, kwargs)
    with quietly(model), without_caches(configs_of(model)):
        # copies, since some models write into their input, and so that tensors of inference mode count writes too
        args, kwargs = pytree.tree_map_only(Tensor, torch.Tensor.clone, (args, kwargs))
        return model(*args, **kwargs)


@contextmanager
def before_calls(model: nn.Module, look: Look) -> Iterator[None]:
    """A context in which each module is looked at right before it is called, but not while one is looked at."""
    looking = False

    def before(module: nn.Module, args: tuple[Any, ...], kwargs: Keywords, *, name: str) -> None:
        nonlocal looking
        if looking:
            return
        looking = True
        try:
            look(name, module, args, kwargs)
        finally:
            looking = False

    handles = [
        module.register_forward_pre_hook(lambda m, a, k, name=name: before(m, a, k, name=name), with_kwargs=True)
        for name, module in model.named_modules()
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def record(model: nn.Module, example_input: Any, *, values_of: Collection[str] | None = ()) -> Trace:
    """Run the model once, in evaluation mode and without gradients, and keep what its modules were called with.

    Args:
        model: The model.
        example_input: Its input, as ``unravel`` takes it.
        values_of: The names of the modules of whose calls values are kept; None for all.
    """
    recorder = _Recorder(values_of)
    handles = []
    for name, module in model.named_modules():
        before = partial(recorder.before, name=name)
        handles.append(module.register_forward_pre_hook(before, with_kwargs=True))
        handles.append(module.register_forward_hook(recorder.after, with_kwargs=True))
    try:
        run_on(model, example_input)
    finally:
        for handle in handles:
            handle.remove()
    return recorder.trace


class _Recorder:
    """Writes down calls, and by which code what others have returned is written into.

    Args:
        values_of: The names of the modules of whose calls values are kept; None for all.
    """

    def __init__(self, values_of: Collection[str] | None) -> None:
        self.trace = Trace()
        self.values_of = values_of
        self.open_calls: list[tuple[Call, list[int]]] = []
        self.seen: dict[int, tuple[StorageWeakRef, int]] = {}  # by where the storage begins, which may be used again
        self.returned: dict[int, list[str]] = {}
        # layers that read all before them get the same tensors often
        self.copies: dict[int, tuple[Tensor, int, Tensor]] = {}

    def before(self, module: nn.Module, args: tuple[Any, ...], kwargs: Keywords, *, name: str) -> None:
        """A module is about to be called."""
        self._look((args, kwargs), self.open_calls[-1][0].name if self.open_calls else "")
        call = Call(name, *pytree.tree_map_only(Tensor, self._kept(name), (args, kwargs)))
        self.trace.calls.append(call)
        self.open_calls.append((call, [tensor._version for tensor in tensors_in((args, kwargs))]))

    def after(self, module: nn.Module, args: tuple[Any, ...], kwargs: Keywords, output: Any) -> None:
        """The module that was called last has returned."""
        call, versions = self.open_calls.pop()
        self._look((args, kwargs, output), call.name)
        for tensor in filter(has_storage, tensors_in(output)):
            self.returned.setdefault(tensor.untyped_storage().data_ptr(), []).append(call.name)
        drops = isinstance(module, nn.modules.dropout._DropoutNd) and module.inplace  # writes in training mode only
        call.writes_input = drops or versions != [tensor._version for tensor in tensors_in((args, kwargs))]
        call.output = pytree.tree_map_only(Tensor, self._kept(call.name), output)

    def _look(self, tree: Any, by: str) -> None:
        for tensor in filter(has_storage, tensors_in(tree)):
            storage = tensor.untyped_storage()
            at = storage.data_ptr()
            if at in self.seen and self.seen[at][0].expired():
                del self.seen[at]
                self.returned.pop(at, None)
            if at in self.seen and self.seen[at][1] != tensor._version:
                self.trace.writes.extend((by, name) for name in self.returned.get(at, ()))
            self.seen[at] = StorageWeakRef(storage), tensor._version

    def _kept(self, name: str) -> Callable[[Tensor], Tensor]:
        return self._copied if self.values_of is None or name in self.values_of else _shaped

    def _copied(self, tensor: Tensor) -> Tensor:
        known, version, copied = self.copies.get(id(tensor), (None, None, None))
        if known is not tensor or version != tensor._version or copied is None:
            copied = tensor.clone()
            self.copies[id(tensor)] = tensor, tensor._version, copied
        return copied


def _shaped(tensor: Tensor) -> Tensor:
    return torch.empty(tensor.shape, dtype=tensor.dtype, device="meta")
