"""Estimates statistics of normalisation layers for subnets.

BatchNorm's running statistics belong to the main net: a subnet's activations are others. Before a subnet is evaluated,
its statistics are estimated anew on training images, as in the papers' code: the sample-weighted average of the mean
and the (biased) variance of each batch, every layer normalising by its own batch. Since statistics belong to the nodes
of the tree of prefixes, all subnets are recalibrated at the price of one walk of the tree.

What a layer makes of its batch is what it writes itself; see ``settling`` for layers that are not PyTorch's own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.instancenorm import _InstanceNorm

from stimulative.errors import UsageError
from stimulative.ranks import division
from stimulative.residual.access.interception import call_slot, intercepted
from stimulative.residual.access.mode import evaluating
from stimulative.residual.access.samples import batch_size, first_samples
from stimulative.residual.access.slots import statistics_in
from stimulative.residual.access.trees import tensors_in
from stimulative.residual.finding.inside import as_written
from stimulative.residual.finding.norms import Norm
from stimulative.residual.finding.recording import arguments_of
from stimulative.residual.finding.wiring import Wiring
from stimulative.residual.running.execution import replay
from stimulative.residual.running.guarding import exclusive
from stimulative.residual.running.one_pass import Node
from stimulative.residual.running.order import Stages
from stimulative.residual.running.settling import settled
from stimulative.residual.running.statistics import LayerStatistics, Statistics, check_statistics, norms_in


def recalibrate(
    model: nn.Module,
    wiring: Wiring,
    subnets: Sequence[Stages],
    batches: Iterable[Any],
    *,
    images: int | None = None,
) -> Statistics:
    """Estimate the statistics of subnets on batches of training images.

    Args:
        model: The model. Its own statistics, mode and parameters come back untouched.
        wiring: Its units and places.
        subnets: The subnets to recalibrate.
        batches: Inputs of the model.
        images: Stop after that many images; the batch that reaches the number is cut to fit. A batch of a single
            image, unless it is the first one, is left out.

    Where work is divided (``stimulative.ranks``), all processes read all batches, and each computes its own.

    Raises:
        UsageError: If there is no image to estimate from, or a layer's statistics cannot be estimated.
    """
    if images is not None and images < 1:
        raise UsageError(f"recalibration needs at least one image, got images={images}")
    check_statistics(model, wiring)
    seen = 0
    collect = _Collect(model, wiring)
    shares, own = division(), []
    with torch.inference_mode(False), torch.no_grad():
        for number, inputs in enumerate(batches if collect.norms else ()):
            size = batch_size(inputs)
            if images is not None and seen + size > images:
                inputs, size = first_samples(inputs, images - seen, size), images - seen
            counts = size > 1 or (size and not seen)  # one image may have no variance to estimate
            if counts and (shares is None or shares.mine(number)):
                args, kwargs = arguments_of(inputs)
                collect.images = size
                with exclusive(model, passes_within=True), collect.watching():
                    for _ in replay(model, wiring, args, kwargs, subnets, around=collect):
                        pass
                if shares is not None:
                    own.append(collect.taken())
            if counts:
                seen += size
            if images is not None and seen >= images - 1:
                break
        if collect.norms and not seen:
            raise UsageError("recalibration needs at least one image, got none")
        for sums in () if shares is None or not collect.norms else shares.in_order(own):
            collect.put_back(sums)
        return Statistics(seen, frozenset(subnets), collect.statistics())


@dataclass(frozen=True)
class _Seen:
    """What a layer has made of one call.

    Args:
        layer: The layer.
        values: Its statistics in double precision.
        factors: What each of them is to be multiplied by.
        given: How many numbers it was given.
        written: Of each of them which elements the layer has written at all; None for all of them.
    """

    layer: nn.Module
    values: tuple[Tensor, ...]
    factors: tuple[float, ...]
    given: int
    written: tuple[Tensor, ...] | None = None


@dataclass
class _Sum:
    """The weighted sum of a statistic over batches, and the sum of the weights (by element, where these differ)."""

    total: Tensor | float = 0.0
    weight: Tensor | float = 0.0

    def mean(self, own: Tensor) -> Tensor:
        """The mean; of elements that were never written what the layer has itself."""
        mean: Any = self.total / self.weight
        if isinstance(self.weight, Tensor):
            mean = torch.where(self.weight > 0, mean, own)
        return mean.to(own.dtype)


Sums = list[tuple[Node, str, list[tuple[Any, Any]]]]
"""By node and the name of a layer, the sum of each of its statistics and that of their weights."""


def _on_cpu(value: Tensor | float) -> Tensor | float:
    """A sum where it can be sent to another process."""
    return value.cpu() if isinstance(value, Tensor) else value


def _on_device(value: Tensor | float, device: torch.device) -> Tensor | float:
    """A sum where it is added to."""
    return value.to(device) if isinstance(value, Tensor) else value


class _Collect:
    """Adds up what each layer with statistics sees, by node, weighted by the number of images.

    Args:
        model: The model.
        wiring: Its wiring.

    Attributes:
        norms: Its layers with statistics, and what they keep.
        images: The number of images in the batch that is running.
    """

    def __init__(self, model: nn.Module, wiring: Wiring) -> None:
        self.model = model
        self.wiring = wiring
        self.norms: dict[nn.Module, Norm] = {}
        self.names: dict[nn.Module, str] = {}
        for name, layer, norm in norms_in(model, wiring):
            self.norms[layer], self.names[layer] = norm, name
        self.images = 0
        self._sums: dict[Node, dict[nn.Module, list[_Sum]]] = {}
        self._seen: list[_Seen] = []

    def __call__(self, node: Node, compute: Callable[[], Any]) -> Any:
        """Compute a unit, and add up what its layers have seen meanwhile."""
        output = compute()
        given: dict[nn.Module, int] = {}
        for seen in self._seen:
            given[seen.layer] = given.get(seen.layer, 0) + seen.given
        for seen in self._seen:
            weight = self.images * seen.given / given[seen.layer]  # a layer may be called several times in a unit
            own = self._sums.setdefault(node, {})
            sums = own.setdefault(seen.layer, [_Sum() for _ in seen.values])
            for at, one in enumerate(sums):
                value, weights = seen.values[at], weight
                if seen.written is not None:
                    weights = weight * seen.written[at].double()
                    value = torch.where(seen.written[at], value, 0.0)
                one.total = one.total + value * (seen.factors[at] * weight)
                one.weight = one.weight + weights
        self._seen.clear()
        return output

    @contextmanager
    def watching(self) -> Iterator[None]:
        """The model in evaluation mode except its layers with statistics, which normalise by their batch."""
        modules = {self.names[layer]: layer for layer in self.norms}
        calls = {
            name: partial(self._call_torch if self.norms[layer].as_torch else self._call, layer, _original(layer))
            for name, layer in modules.items()
        }
        own = [layer for layer, norm in self.norms.items() if norm.as_torch]
        with (
            evaluating(self.model),
            as_written(self.model, self.wiring),
            _buffers_of(self.norms),
            _forgetting(own),
            intercepted(modules, calls),
        ):
            yield

    def taken(self) -> Sums:
        """What has been added up so far, on the CPU, taken out."""
        sums, self._sums = self._sums, {}
        return [
            (node, self.names[layer], [(_on_cpu(one.total), _on_cpu(one.weight)) for one in of_layer])
            for node, layers in sums.items()
            for layer, of_layer in layers.items()
        ]

    def put_back(self, sums: Sums) -> None:
        """Add what was taken out, here or in another process."""
        for node, name, values in sums:
            layer = self.model.get_submodule(name)
            device = next(buffer.device for buffer in layer.buffers())
            of_layer = self._sums.setdefault(node, {}).setdefault(layer, [_Sum() for _ in values])
            for one, (total, weight) in zip(of_layer, values, strict=True):
                one.total, one.weight = one.total + _on_device(total, device), one.weight + _on_device(weight, device)

    def statistics(self) -> dict[Node, LayerStatistics]:
        """The means, by node and the name of the layer within its unit."""
        names: dict[str, dict[nn.Module, str]] = {}
        found: dict[Node, LayerStatistics] = {}
        for node, layers in self._sums.items():
            if node.unit not in names:
                names[node.unit] = {layer: name for name, layer in self.model.get_submodule(node.unit).named_modules()}
            found[node] = {
                names[node.unit][layer]: tuple(map(_Sum.mean, sums, self._own(layer))) for layer, sums in layers.items()
            }
        return found

    def _own(self, layer: nn.Module) -> Iterator[Any]:
        return iter(statistics_in(layer, self.norms[layer].keys).values())

    def _call_torch(self, layer: Any, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call a norm that treats its statistics as PyTorch does."""
        layer.running_mean.zero_()  # momentum 1 multiplies what was there by zero, which keeps a NaN
        layer.running_var.fill_(1)
        output = original(*args, **kwargs)
        x = args[0] if args else tensors_in(kwargs)[0]
        if x.numel():
            # momentum 1 leaves the batch's own mean and variance in the running statistics, the variance unbiased
            count = _values_behind(layer, x)
            mean, var = (tensor.to(torch.float64, copy=True) for tensor in (layer.running_mean, layer.running_var))
            self._seen.append(_Seen(layer, (mean, var), (1.0, (count - 1) / count), x.numel()))
        return output

    def _call(self, layer: nn.Module, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call any other norm."""
        given = tensors_in((args, kwargs))[0].numel()
        if not given:
            return original(*args, **kwargs)
        before = len(self._seen)

        def call(*args: Any, **kwargs: Any) -> Any:
            del self._seen[before:]  # of norms inside, what they see in the last call
            return original(*args, **kwargs)

        output, values, written = settled(self.names[layer], layer, self.norms[layer], call, args, kwargs)
        self._seen.append(_Seen(layer, values, (1.0,) * len(values), given, written))
        return output


def _original(layer: nn.Module) -> Callable[..., Any]:
    return getattr(layer, call_slot(layer))


def _values_behind(layer: Any, x: Tensor) -> int:
    """The number of values behind each mean of one of PyTorch's norms."""
    values = x.numel() // layer.running_mean.numel()
    # instance norm takes the statistics of each image and averages them
    return values // len(x) if isinstance(layer, _InstanceNorm) and x.dim() > layer._get_no_batch_dim() else values


@contextmanager
def _forgetting(layers: Sequence[Any]) -> Iterator[None]:
    """Norms as PyTorch's in training mode, their running statistics those of the last batch alone, for a while."""
    before = [(layer, layer.momentum, layer.track_running_stats) for layer in layers]
    try:
        for layer in layers:
            layer.training = True
            layer.momentum = 1.0
            layer.track_running_stats = True
        yield
    finally:
        for layer, momentum, tracks in before:
            layer.momentum, layer.track_running_stats = momentum, tracks


@contextmanager
def _buffers_of(layers: Iterable[nn.Module]) -> Iterator[None]:
    """A context behind which the buffers of layers have the values that they have now."""
    values = [(buffer, buffer.clone()) for layer in layers for buffer in layer._buffers.values() if buffer is not None]
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, value in values:
                buffer.copy_(value)
