"""What a subnet gets of a batch: all of it, its first samples only, or smaller images."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from stimulative.errors import UsageError
from stimulative.residual import (
    Pass,
    ResidualNetwork,
    Subnet,
    SubnetSpace,
    batch_size,
    map_tensors,
    quietly,
    tensors_in,
)


def samples_of(batch: int, share: float) -> int:
    """How many samples that share of a batch is, 1 at least."""
    return max(1, round(share * batch))


def detached(tree: Any) -> Any:
    """The same without graph."""
    return map_tensors(Tensor.detach, tree)


def sides_of(side: int, share: float) -> range:
    """The sides that images may get: every whole number of pixels from that share of their side to all of it."""
    return range(min(side, max(1, int(share * side))), side + 1)


def image_side(x: Any) -> int:
    """The side of a batch of square images, in pixels.

    Raises:
        UsageError: If it is something else.
    """
    if not isinstance(x, Tensor) or x.dim() != 4 or x.shape[-1] != x.shape[-2] or not x.is_floating_point():
        got = f"a {x.dtype} tensor of shape {tuple(x.shape)}" if isinstance(x, Tensor) else type(x).__name__
        raise UsageError(
            "smaller_inputs: it resizes batches of square images, floating point tensors of shape (B, C, side, side), "
            f"but the network gets {got}; leave it out"
        )
    return x.shape[-1]


def resized(x: Tensor, side: int) -> Tensor:
    """The same images at another side: bilinear, antialiased.

    Args:
        x: Square images, shape ``(B, C, side, side)``.
        side: The new side in pixels.

    Returns:
        Shape ``(B, C, side, side)``, in the number format and the memory format of ``x``.
    """
    dtype = torch.promote_types(torch.float32, x.dtype)
    small = F.interpolate(x.to(dtype), size=(side, side), mode="bilinear", antialias=True).to(x.dtype)
    last = x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
    return small.contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)


def check_smaller(network: ResidualNetwork, share: float) -> None:
    """Make sure that a network runs on smaller images than it was unraveled with.

    The least side, the next one and the greatest but one are tried: a net that takes multiples of some number of pixels
    alone cannot take two sides in a row.

    Raises:
        UsageError: If it does not.
    """
    x = network.example_input
    sides = sides_of(image_side(x), share)
    wanted = _shapes(_tried(network, lambda: network(x)))
    for side in sorted({sides[0], *sides[1:2], *sides[-2:-1]}):
        got = _tried(network, lambda side=side: network(resized(x, side)))
        if isinstance(got, Exception) or _shapes(got) != wanted:
            reason = _words(got) if isinstance(got, Exception) else f"it gives {_shapes(got)} instead of {wanted}"
            raise UsageError(
                f"smaller_inputs: the network does not run on images of {side}x{side} pixels, and subnets would get "
                f"{sides[0]} to {sides[-1]}: {reason}. Leave smaller_inputs out, or use a net that takes any size "
                "(timm's ViTs: model.arguments {dynamic_img_size: true, dynamic_img_pad: true})"
            )


def check_whole(network: ResidualNetwork) -> None:
    """Make sure that parameters are not divided among processes, whose gradients ``schedule='lean'`` would miss.

    Raises:
        UsageError: If they are.
    """
    divided = [name for name, one in network.model.named_parameters() if hasattr(one, "full_tensor")]
    if divided:
        raise UsageError(
            "schedule='lean' goes backward several times a step, and would lose gradients of parameters that are "
            f"divided among processes, as {divided[0]} is (fully_shard); use schedule='joint'"
        )


def check_part(network: ResidualNetwork) -> None:
    """Make sure that subnets of a network run on the first samples of a batch as they run on those alone.

    Raises:
        UsageError: If they do not: a sample's result depends on others, or the model keeps something of the batch
            where it cannot be cut down.
    """
    x = network.example_input
    batch = batch_size(x)
    if batch == 1:
        x = _each(x, batch, lambda tensor: torch.cat([tensor, tensor]))
    first = _each(x, max(2, batch), lambda tensor: tensor[:1])
    subnets = [network.space.smallest, _latest(network.space)]  # one shares next to nothing with the main net, one most
    alone = _tried(network, lambda: [network(first, subnet) for subnet in subnets])
    both = _tried(network, lambda: _outputs(network.passes(x, [network.full, *subnets], samples=1)))
    if isinstance(alone, Exception) or isinstance(both, Exception):
        reason = f": {_words(alone if isinstance(alone, Exception) else both)}"
    elif _shapes(alone) != _shapes(both):
        reason = f": it gives {_shapes(both)} instead of {_shapes(alone)}"
    elif all(map(_close, tensors_in(both), tensors_in(alone))):
        return
    else:
        reason = ", since it computes something else for a sample when there are others in the batch"
    raise UsageError(
        f"subnet_share: subnets of this network do not run on part of a batch{reason}. Use subnet_share 1, "
        "and not efficient"
    )


def _tried(network: ResidualNetwork, run: Callable[[], Any]) -> Any:
    """What a run gives in evaluation mode, or how it failed."""
    try:
        with quietly(network.model), network.uncompiled():
            return run()
    except UsageError:
        raise
    except (RuntimeError, AssertionError, IndexError, TypeError, ValueError) as error:
        return error


def _each(tree: Any, batch: int, change: Callable[[Tensor], Tensor]) -> Any:
    return map_tensors(lambda x: change(x) if x.dim() and len(x) == batch else x, tree)


def _latest(space: SubnetSpace) -> Subnet:
    """The ordered subnet that departs from the main net last."""
    depths = list(space.full.depths)
    for stage, (low, high) in reversed(list(enumerate(space.ranges))):
        if low < high:
            depths[stage] = high - 1
            break
    return Subnet.from_depths(depths)


def _outputs(passes: Iterable[Pass]) -> list[Any]:
    """The outputs of all subnets but the main net, in their own order."""
    outputs = {position: output for position, output, _ in passes}
    return [outputs[position] for position in sorted(outputs) if position]


def _words(error: object) -> str:
    return str(error).rstrip(".")


def _shapes(tree: Any) -> Any:
    shapes = [tuple(tensor.shape) for tensor in tensors_in(tree)]
    return shapes[0] if len(set(shapes)) == 1 else shapes


def _close(one: Tensor, other: Tensor) -> bool:
    """Equal but for the order in which sums are made, which goes by the size of a batch."""
    if not one.is_floating_point():
        return bool((one == other).all())
    tolerance = 10 * torch.finfo(one.dtype).eps ** 0.5  # 3e-3 for float32
    return bool((one - other).abs().max() <= tolerance * other.abs().max())
