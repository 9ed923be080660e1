"""Finds the layers that keep running statistics of what they are called with, by what they do.

Of PyTorch's own norms it is known. Any other layer that holds tensors which are not trained is tried on the input that
it gets in the example run, with noise added and at least four samples. A tensor of it is a running statistic if

- the layer writes into it in training mode,
- what it writes goes by its input (not so a counter, or the vectors of a power iteration), and
- what the layer returns in evaluation mode goes by the tensor (not so a note that it takes for somebody else).

So neither the class of a layer, nor the names of its tensors, nor what it calls momentum matters; and a frozen norm,
which writes nothing, has no statistics. The model is not changed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import SyncBatchNorm, _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm
from torch.nn.utils import parametrize
from torch.utils import _pytree as pytree

from stimulative.residual.access.interception import call_slot
from stimulative.residual.access.samples import batch_size
from stimulative.residual.access.slots import RUNNING, exchanged_statistics, statistics_in, untrained_in
from stimulative.residual.access.trees import tensors_in
from stimulative.residual.finding.recording import Keywords, before_calls, run_on

_OWN_FORWARDS = {_BatchNorm.forward, SyncBatchNorm.forward, _InstanceNorm.forward}
_SIZES: list[tuple[int, int | None]] = [(4, 4), (4, None), (1, None)]
"""At least so many samples, and at most so large maps: what is tried one after the other."""
_NAMED_LIKE_STATISTICS = re.compile("running|moving|mean|var|std|ema|avg|average|stat")


@dataclass(frozen=True)
class Norm:
    """What a layer keeps of the batches that it sees.

    Args:
        keys: The names of its running statistics; none if it keeps nothing.
        others: The names of what else it writes in training mode, such as what it counts in.
        as_torch: Whether it treats them as PyTorch's norms do: a running mean and the running unbiased variance, of
            which the ``momentum`` is the share of the batch, and which ``track_running_stats`` turns off.
        problem: Why its statistics cannot be estimated, as the end of a sentence; None if they can.
    """

    keys: tuple[str, ...] = ()
    others: tuple[str, ...] = ()
    as_torch: bool = False
    problem: str | None = None


TORCH_NORM = Norm(RUNNING, as_torch=True)
"""What PyTorch's own norms keep."""


def find_norms(model: nn.Module, example_input: Any) -> dict[str, Norm]:
    """What layers keep that are not PyTorch's own, by the name of the layer.

    Args:
        model: The model.
        example_input: Its input, as ``unravel`` takes it.
    """
    candidates = {name for name, module in model.named_modules() if _may_keep(module)}
    found: dict[str, Norm] = {}

    def look(name: str, module: nn.Module, args: tuple[Any, ...], kwargs: Keywords) -> None:
        if name in candidates and name not in found:
            found[name] = _Trial(module, args, kwargs).norm()

    if candidates:
        with before_calls(model, look):
            run_on(model, example_input)
    return found


def run_from(
    layer: Any, call: Callable[[], Any], values: Mapping[str, Tensor], *, training: bool = True
) -> tuple[Any, dict[str, Tensor]]:
    """Call a layer with copies of these tensors in place of its own, which stay as they are.

    Args:
        layer: The layer; whatever is inside keeps its mode.
        call: Calls it.
        values: Tensors by their names in it.
        training: Whether in training mode.

    Returns:
        What the call returns, and what the layer left in place of the tensors.
    """
    before = {inner: inner.training for inner in layer.modules()}
    with exchanged_statistics({layer: {key: value.clone() for key, value in values.items()}}):
        try:
            layer.training = training
            output = call()
            if training and type(layer).train is not nn.Module.train:
                layer.train(False)  # some make what evaluation reads when training ends
            left: dict[str, Any] = statistics_in(layer, values)
        finally:
            for inner, mode in before.items():
                inner.training = mode
    return output, left


def _may_keep(module: nn.Module) -> bool:
    """Whether a module is not PyTorch's own and holds numbers that it might write into."""
    kind = type(module).__mro__[1] if parametrize.is_parametrized(module) else type(module)
    own = kind.__module__.startswith("torch.") or getattr(kind, "forward", None) in _OWN_FORWARDS
    return not own and any(value.is_floating_point() for value in untrained_in(module).values())


class _Trial:
    """Calls of one layer like one that is about to happen.

    Args:
        layer: The layer.
        args: The positional arguments of the call.
        kwargs: Its keyword arguments.
    """

    def __init__(self, layer: nn.Module, args: tuple[Any, ...], kwargs: Keywords) -> None:
        self.layer = layer
        self.call: Callable[..., Any] = getattr(layer, call_slot(layer))
        self.held = untrained_in(layer)
        self.floating = [key for key, value in self.held.items() if value.is_floating_point()]
        self.is_small = all(value.numel() == max(value.shape, default=1) for value in layer.parameters())
        self.given: Any = args, kwargs
        self.size: tuple[int, int | None] = 1, None

    def norm(self) -> Norm:
        """What the layer keeps."""
        failed = ""
        # small maps are quick, but some modules take inputs of the size that they are given and no other one
        for size in _SIZES if self.is_small else _SIZES[-1:]:
            self.size = size
            try:
                return TORCH_NORM if self._is_as_torch() else self._found()
            except Exception as error:  # whatever a module does that is not made for this
                failed = failed or f"it fails in training mode, {type(error).__name__}: {error}"
        return self._silent(failed)

    def _found(self) -> Norm:
        _, left = self.run({})
        changed = [key for key, value in self.held.items() if not _same(left[key], value)]
        if not changed:
            return self._silent()
        start = self._all(1.0, changed)
        (_, one), (_, other) = self.run(start), self.run(start, of=1)
        keys = [
            key
            for key in changed
            if key in self.floating
            and one[key].shape == self.held[key].shape
            and not _same(one[key], start[key])
            and not _same(one[key], other[key])
        ]
        if not keys:
            return self._silent()
        if not self._goes_by(keys, training=False):
            return Norm()
        return Norm(tuple(keys), tuple(key for key in changed if key not in keys))

    def input(self, number: int = 0) -> Any:
        """The arguments of the call with noise added; of each number other noise."""
        return _varied(self.given, *self.size, seed=number)

    def run(
        self, values: Mapping[str, Tensor], *, of: int = 0, training: bool = True
    ) -> tuple[list[Tensor], dict[str, Tensor]]:
        """The tensors that the layer returns, and what it leaves of its own, with these in their place."""
        args, kwargs = self.input(of)
        output, left = run_from(
            self.layer, partial(self.call, *args, **kwargs), {**self.held, **values}, training=training
        )
        return tensors_in(output), left

    def _all(self, value: float, keys: list[str]) -> dict[str, Tensor]:
        return {key: torch.full_like(self.held[key], value) for key in keys if key in self.floating}

    def _goes_by(self, keys: list[str], *, training: bool) -> bool:
        """Whether what the layer returns goes by these tensors of it."""
        ones, twos = (self.run(self._all(value, keys), training=training)[0] for value in (1.0, 2.0))
        return not all(map(_same, ones, twos))

    def _silent(self, failed: str = "") -> Norm:
        """Nothing, but of a norm that evaluation mode reads statistics of which training mode leaves no trace."""
        keys = [key for key in self.floating if _NAMED_LIKE_STATISTICS.search(key)]
        if not keys or not self.is_small:
            return Norm()
        try:
            reads = self._goes_by(keys, training=False) and (failed or not self._goes_by(keys, training=True))
        except Exception:  # it takes no other values, whatever it is
            return Norm()
        return Norm(tuple(keys), problem=failed or "its training mode writes nothing into them") if reads else Norm()

    def _is_as_torch(self) -> bool:
        """Whether a layer that is derived from PyTorch's batch norms goes on treating its statistics as they do."""
        layer: Any = self.layer
        inputs = tensors_in(self.input())
        if not isinstance(layer, _BatchNorm) or not {*RUNNING} <= self.held.keys() or len(inputs) != 1:
            return False
        (x,), momentum, tracks = inputs, layer.momentum, layer.track_running_stats
        dims = [dim for dim in range(x.dim()) if dim != 1]
        try:
            layer.momentum, layer.track_running_stats = 1.0, True
            output, left = self.run(self._all(0.0, list(RUNNING)))
            layer.track_running_stats = False
            untracked, untouched = self.run({})
        finally:
            layer.momentum, layer.track_running_stats = momentum, tracks
        if left["running_mean"].shape != x.shape[1:2]:
            return False
        mean, var = x.double().mean(dims), x.double().var(dims)
        rounding = torch.finfo(x.dtype).eps ** 0.6
        return (
            bool(((left["running_mean"] - mean).abs() <= rounding * (mean.abs() + var.sqrt())).all())
            and bool(((left["running_var"] - var).abs() <= rounding * var).all())
            and all(map(_same, output, untracked))
            and all(_same(untouched[key], self.held[key]) for key in RUNNING)
        )


def _varied(given: tuple[Any, Any], samples: int, side: int | None, *, seed: int) -> Any:
    """Copies of the arguments of a call with noise added, of at least so many samples, and at most so large maps."""
    batch = batch_size(given)
    generator = torch.Generator().manual_seed(seed)

    def vary(x: Tensor) -> Tensor:
        if not batch or not x.dim() or len(x) != batch:
            return x.clone()
        x = torch.cat([x[(..., *[slice(side)] * max(0, x.dim() - 2))]] * -(-samples // batch))
        if not x.is_floating_point() or not x.numel():
            return x
        scale = x.float().abs().mean()
        noise = torch.randn(x.shape, generator=generator).to(x.device)
        return x + (noise * torch.where((scale > 0) & scale.isfinite(), scale, 1.0)).to(x.dtype)

    return pytree.tree_map_only(Tensor, vary, given)


def _same(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and torch.equal(one, other)
