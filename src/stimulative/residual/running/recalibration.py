"""Estimates statistics of normalisation layers for subnets.

BatchNorm's running statistics belong to the main net: a subnet's activations are others. Before a subnet is evaluated,
its statistics are estimated anew on training images, as in the papers' code: the sample-weighted average of the mean
and the (biased) variance of each batch, every layer normalising by its own batch. Since statistics belong to the nodes
of the tree of prefixes, all subnets are recalibrated at the price of one walk of the tree.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from stimulative.errors import UsageError
from stimulative.residual.access.mode import evaluating
from stimulative.residual.finding.recording import arguments_of, tensors_in
from stimulative.residual.finding.wiring import Wiring
from stimulative.residual.running.execution import replay
from stimulative.residual.running.one_pass import Node
from stimulative.residual.running.statistics import Stages, Statistics, layers_with_statistics


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
        batches: Inputs of the model, or pairs of input and target.
        images: Stop after that many images; the batch that reaches the number is cut to fit. A batch of a single
            image, unless it is the first one, is left out.

    Raises:
        UsageError: If there is no image to estimate from.
    """
    if images is not None and images < 1:
        raise UsageError(f"recalibration needs at least one image, got images={images}")
    seen = 0
    sums: dict[Node, dict[str, list[Tensor]]] = {}
    layers = layers_with_statistics(model)
    with torch.inference_mode(False), _batch_statistics(model) as sizes, torch.no_grad():
        for batch in batches if layers else ():
            inputs = input_of(batch)
            size = len(tensors_in(inputs)[0])
            if images is not None and seen + size > images:
                size = images - seen
                inputs = pytree.tree_map_only(Tensor, lambda tensor, size=size: tensor[:size], inputs)
            if size > 1 or (size and not seen):  # one image may have no variance to estimate
                args, kwargs = arguments_of(inputs)
                collect = _Collect(model, sizes, sums, size)
                for _ in replay(model, wiring, args, kwargs, subnets, around=collect):
                    pass
                seen += size
            if images is not None and seen >= images - 1:
                break
        if layers and not seen:
            raise UsageError("recalibration needs at least one image, got none")
        nodes = {
            node: {
                name: _mean(total, seen, model.get_submodule(node.unit).get_submodule(name))
                for name, total in of.items()
            }
            for node, of in sums.items()
        }
    return Statistics(seen, frozenset(subnets), nodes)


def input_of(batch: Any) -> Any:
    """The input of a batch: of a pair of input and target the first, else the batch itself."""
    if isinstance(batch, tuple | list) and len(batch) == 2 and isinstance(batch[1], Tensor) and batch[1].dim() <= 1:
        return batch[0]
    return batch


class _Collect:
    """Adds up what each layer with statistics sees, by node, weighted by the number of images."""

    def __init__(
        self, model: nn.Module, sizes: dict[Any, int], sums: dict[Node, dict[str, list[Tensor]]], images: int
    ) -> None:
        self.model = model
        self.sizes = sizes
        self.sums = sums
        self.images = images

    def __call__(self, node: Node, compute: Callable[[], Any]) -> Any:
        output = compute()
        if self.sizes:
            layers = self.sums.setdefault(node, {})
            for name, layer in layers_with_statistics(self.model.get_submodule(node.unit)).items():
                count = self.sizes.get(layer)
                if count is None:
                    continue
                # momentum 1 leaves the batch's own mean and variance in the running statistics, the variance unbiased
                mean = layer.running_mean.double() * self.images
                var = layer.running_var.double() * ((count - 1) / count * self.images)
                if name in layers:
                    layers[name][0] += mean
                    layers[name][1] += var
                else:
                    layers[name] = [mean, var]
        self.sizes.clear()  # only now: a layer that is a unit itself was counted before its computation began
        return output


@contextmanager
def _batch_statistics(model: nn.Module) -> Iterator[dict[Any, int]]:
    """The model in evaluation mode except its layers with statistics, which normalise by their batch.

    Yields:
        A dictionary that receives, for each such layer called, the number of values behind each of its means.
    """
    sizes: dict[Any, int] = {}

    def count(layer: nn.Module, args: tuple[Any, ...]) -> None:
        values = args[0].numel() // args[0].shape[1]
        # instance norm takes the statistics of each image and averages them
        sizes[layer] = values // len(args[0]) if isinstance(layer, nn.modules.instancenorm._InstanceNorm) else values

    layers = layers_with_statistics(model).values()
    before = [(layer, layer.momentum, getattr(layer, "track_running_stats", True), _copies(layer)) for layer in layers]
    handles = [layer.register_forward_pre_hook(count) for layer in layers]
    try:
        with evaluating(model):
            for layer in layers:
                layer.training = True
                layer.momentum = 1.0
                layer.running_mean.zero_()  # momentum 1 multiplies what was there by zero, which keeps a NaN
                layer.running_var.fill_(1)
                layer.track_running_stats = True
            yield sizes
    finally:
        for handle in handles:
            handle.remove()
        for layer, momentum, tracks, copies in before:
            layer.momentum, layer.track_running_stats = momentum, tracks
            with torch.no_grad():
                for name, copy in copies.items():
                    layer._buffers[name].copy_(copy)


def _copies(layer: nn.Module) -> dict[str, Tensor]:
    return {name: buffer.clone() for name, buffer in layer._buffers.items() if buffer is not None}


def _mean(total: list[Tensor], images: int, layer: Any) -> tuple[Tensor, Tensor]:
    mean, var = total
    return (mean / images).to(layer.running_mean.dtype), (var / images).to(layer.running_var.dtype)
