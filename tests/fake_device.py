"""A GPU that computes nothing: it knows shapes, and tells what a real one would be slow or fail at.

Tensors on it are PyTorch's fake ones, of a backend in Python; tensors of the CPU are real. All private names of PyTorch
that this takes are here, and nowhere else::

    with FakeDevice() as gpu:
        method, x, y = gpu.moved(method), gpu.moved(x), gpu.moved(y)
        with gpu.watching() as seen:
            method.backward(x, y)
    assert not seen.mix_ups and not seen.waits and seen.peak < seen.before + limit

Numbers that the host reads from it are made up: 1, or True. A wait with nothing launched since the last one is none.
"""

import traceback
import weakref
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.optim import optimizer
from torch.utils import _foreach_utils, backend_registration
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

NAME = "fakegpu"
DEVICE = torch.device("privateuseone", 0)  # by its name once there is such a device

_AUTOCAST = "AutocastPrivateUse1"
_LIBRARIES: list[torch.library.Library] = []  # what is registered goes with them
_ENTERED: list["FakeDevice"] = []  # the device stays registered, and is available in a context only
_HERE = Path(__file__).name
_COPIES = "aten::_to_copy", "aten::copy_"
_INDEXING = "aten::index", "aten::index_put", "aten::index_put_"
_ALLOCATIONS = {
    f"aten::{name}" for name in ("empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "resize_")
}
_FOREACH_TYPES: Any = _foreach_utils._foreach_supported_types, optimizer._foreach_supported_types
# what a GPU knows the shape of only when it is done; here as many as there can be
_SHAPED_BY_VALUES: dict[str, Callable[..., Any]] = {
    "aten::bincount": lambda x, weights=None, minlength=0: x.new_zeros(max(1, minlength), dtype=torch.int64),
    "aten::masked_select": lambda x, mask: torch.broadcast_tensors(x, mask)[0].flatten(),
    "aten::nonzero": lambda x: x.new_zeros(x.numel(), x.dim(), dtype=torch.int64),
}
# the same, and what PyTorch has no shapes for; the latter write where they are told
_INSTEAD: dict[str, Callable[..., Any]] = {
    **_SHAPED_BY_VALUES,
    "aten::_amp_foreach_non_finite_check_and_unscale_": lambda gradients, found, scale: None,
    "aten::_amp_update_scale_": lambda scale, *others: scale,
    "aten::_fused_sgd_": lambda *given, **settings: None,
}


@dataclass
class Seen:
    """What happened on the device.

    Attributes:
        mix_ups: Where an operation got tensors of two devices, and a GPU would fail.
        waits: Where the host waited for what it had launched: the operation, and the line of whoever asked for it.
        kernels: How often each operation was launched; views and empty tensors are none.
        before: The bytes that were held at the beginning.
        peak: The most bytes that were held at once.
    """

    mix_ups: list[str] = field(default_factory=list)
    waits: list[str] = field(default_factory=list)
    kernels: Counter[str] = field(default_factory=Counter)
    before: int = 0
    peak: int = 0


class FakeDevice(TorchDispatchMode):
    """A context in which the device is there; see the head of this file.

    Nothing is raised where a GPU would fail, only noted: an error within a backward pass would end the process.
    """

    def __init__(self) -> None:
        super().__init__()
        _register()
        self._fake = FakeTensorMode()
        self._pinned: set[int] = set()
        self._known: set[int] = set()
        self._bytes = 0
        self._busy = False
        self._watching: list[Seen] = []

    def __enter__(self) -> "FakeDevice":
        self._lifts = torch._C._only_lift_cpu_tensors()
        torch._C._set_only_lift_cpu_tensors(True)  # torch.tensor(..., device=...) comes by here, too
        for types in _FOREACH_TYPES:
            types.append(FakeTensor)
        # the threads of the backward pass were started for the devices that there were when it ran first
        self._threads = torch.autograd.set_multithreading_enabled(False)
        self._threads.__enter__()
        _ENTERED.append(self)
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        _ENTERED.remove(self)
        self._threads.__exit__(*error)
        for types in _FOREACH_TYPES:
            types.remove(FakeTensor)
        torch._C._set_only_lift_cpu_tensors(self._lifts)

    @property
    def bytes(self) -> int:
        """The bytes that are held now."""
        return self._bytes

    def moved(self, what: Any) -> Any:
        """A module, or all tensors of a batch, on the device: for setting up, so that nothing is seen of it."""
        before, self._watching = self._watching, []
        try:
            if isinstance(what, nn.Module):
                return what.to(DEVICE)
            return pytree.tree_map_only(Tensor, lambda tensor: tensor.to(DEVICE), what)
        finally:
            self._watching = before

    @contextmanager
    def watching(self) -> Iterator[Seen]:
        """A context that notes what happens meanwhile."""
        seen = Seen(before=self._bytes, peak=self._bytes)
        self._watching.append(seen)
        try:
            yield seen
        finally:
            self._watching.remove(seen)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs, name = kwargs or {}, func._schema.name
        tensors = _tensors_in((*args, *kwargs.values()))
        target = kwargs.get("device")
        if name in ("aten::_pin_memory", "aten::pin_memory"):
            return self._pin(args[0])
        if name == "aten::is_pinned":
            return args[0].untyped_storage()._cdata in self._pinned
        is_for_it = target is not None and torch.device(target).type == NAME
        if not is_for_it and not any(isinstance(tensor, FakeTensor) for tensor in tensors):
            return func(*args, **kwargs)
        if name == "aten::_local_scalar_dense":  # item, tolist, int, bool
            self._waits(name)
            return torch.ones((), dtype=args[0].dtype).item()
        if name == "aten::equal":
            self._waits(name)
            return True
        if name == "aten::_to_copy" and target is not None and torch.device(target).type == "cpu":
            self._waits(name)
            return torch.ones(args[0].shape, dtype=kwargs.get("dtype") or args[0].dtype)
        if name == "aten::copy_" and args[0].device.type == "cpu":
            self._waits(name)
            return args[0]
        self._check_devices(name, tensors, target, args, kwargs)
        if name in _INDEXING:
            args = (args[0], [index for one in args[1] for index in _of_all(one)], *args[2:])
        with self._fake:
            if not all(isinstance(tensor, FakeTensor) for tensor in tensors):
                there = name not in _COPIES and target is None
                args, kwargs = pytree.tree_map_only(Tensor, partial(self._as_fake, there), (args, kwargs))
            made = _INSTEAD.get(name, func)(*args, **kwargs)
        if name in _SHAPED_BY_VALUES:
            self._waits(name)
        self._note(func, name, tensors, made)
        return made

    def _check_devices(
        self, name: str, tensors: list[Tensor], target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        """Note a copy or an index for which the host waits, and tensors of two devices."""
        ends = {tensor.device.type for tensor in tensors} | (
            {torch.device(target).type} if target is not None else set()
        )
        if name in _COPIES:
            if len(ends) > 1 and not self._goes_by_itself(name, args, kwargs):
                self._waits(name)
        elif name in _INDEXING:
            for index in (index for index in args[1] if index is not None):
                if index.device.type == "cpu":
                    self._waits(f"{name} by an index of the CPU")
                elif index.dtype in (torch.bool, torch.uint8) and not (name != "aten::index" and args[2].numel() == 1):
                    self._waits(f"{name} by a mask")
        elif target is None and any(tensor.device.type == "cpu" and tensor.dim() for tensor in tensors):
            for seen in self._watching:
                seen.mix_ups.append(f"{name}{_where()}")

    def _goes_by_itself(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        """Whether nobody has to wait for a copy to the device: it is of pinned memory, and does not ask to."""
        source = args[1] if name == "aten::copy_" else args[0]
        free = kwargs.get("non_blocking", False) or args[2:] == (True,)
        return free and source.untyped_storage()._cdata in self._pinned

    def _pin(self, tensor: Tensor) -> Tensor:
        pinned = tensor.clone()
        storage = pinned.untyped_storage()
        self._pinned.add(storage._cdata)
        weakref.finalize(storage, self._pinned.discard, storage._cdata)
        return pinned

    def _as_fake(self, there: bool, tensor: Tensor) -> Tensor:
        """A tensor without its numbers, and with dimensions also on the device if it has to be there."""
        if isinstance(tensor, FakeTensor):
            return tensor
        fake = self._fake.from_tensor(tensor)
        return fake.to(DEVICE) if there and tensor.dim() else fake

    def _waits(self, name: str) -> None:
        if not self._busy:
            return  # all is done; so tolist, which reads number by number here, waits once
        self._busy = False
        for seen in self._watching:
            seen.waits.append(f"{name}{_where()}")

    def _note(self, func: Any, name: str, given: list[Tensor], made: Any) -> None:
        """Count an operation, and the memory of what it made."""
        tensors = _tensors_in([made])
        storages = {tensor.untyped_storage()._cdata for tensor in given}
        is_view = not func._schema.is_mutable and all(t.untyped_storage()._cdata in storages for t in tensors)
        if not is_view and name not in _ALLOCATIONS:
            self._busy = True
            for seen in self._watching:
                seen.kernels[name] += 1
        for tensor in tensors:
            if tensor.device.type == NAME:
                self._hold(tensor.untyped_storage())

    def _hold(self, storage: Any) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self._known:
            return
        self._known.add(key)
        self._bytes += size
        weakref.finalize(storage, self._let_go, key, size)
        for seen in self._watching:
            seen.peak = max(seen.peak, self._bytes)

    def _let_go(self, key: int, size: int) -> None:
        self._known.discard(key)
        self._bytes -= size


def _tensors_in(values: Iterable[Any]) -> list[Tensor]:
    """The tensors of an operation: by themselves, or in lists of them."""
    found = []
    for value in values:
        if isinstance(value, Tensor):
            found.append(value)
        elif isinstance(value, list | tuple):
            found += _tensors_in(value)
    return found


def _of_all(index: Tensor | None) -> list[Tensor | None]:
    """An index as it is; of a mask the indices of all that it could choose."""
    if index is None or index.dtype not in (torch.bool, torch.uint8):
        return [index]
    return [index.new_zeros(index.numel(), dtype=torch.int64) for _ in range(index.dim())]


def _where() -> str:
    """The line of the innermost code that is neither PyTorch's nor this file's."""
    for frame in reversed(traceback.extract_stack()):
        if "/torch/" not in frame.filename and Path(frame.filename).name != _HERE:
            return f" in {Path(frame.filename).name}:{frame.lineno} ({frame.name})"
    return ""


def _register() -> None:
    """Make the device known, once in a process."""
    if torch._C._get_privateuse1_backend_name() == NAME:
        return
    backend = backend_registration._DummyBackendModule()
    backend.get_amp_supported_dtype = lambda: [torch.bfloat16, torch.float16]  # pyright: ignore[reportAttributeAccessIssue]
    backend.is_available = lambda: bool(_ENTERED)
    backend_registration._setup_privateuseone_for_python_backend(NAME, backend)
    fallback = torch.library.Library("_", "IMPL", _AUTOCAST)
    fallback.fallback(torch.library.fallthrough_kernel)
    casting = torch.library.Library("aten", "IMPL", _AUTOCAST)
    for name in ("conv1d", "conv2d", "linear", "matmul", "mm", "bmm", "addmm", "scaled_dot_product_attention"):
        casting.impl(name, partial(_in_autocast, getattr(torch.ops.aten, name)))
    _LIBRARIES.extend((fallback, casting))


def _in_autocast(operation: Any, *args: Any, **kwargs: Any) -> Any:
    """An operation in the number format of autocast."""
    dtype = torch.get_autocast_dtype(NAME)

    def cast(tensor: Tensor) -> Tensor:
        return tensor.to(dtype) if tensor.is_floating_point() else tensor

    keys = torch._C.DispatchKeySet(torch._C.DispatchKey.AutocastPrivateUse1)
    with torch._C._ExcludeDispatchKeyGuard(keys):
        given, named = pytree.tree_map_only(Tensor, cast, (args, kwargs))
        return operation(*given, **named)
