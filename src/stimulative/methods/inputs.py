"""What a subnet gets of a batch: all of it, its first samples only, or smaller images."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from stimulative.errors import UsageError
from stimulative.methods.options import is_number
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
from stimulative.tasks import Task

Resizing = Literal["original", "published"]
"""Which images are resized for a subnet: the original ones, or those of the subnet before, as in the published loop."""

Normalising = Mapping[str, list[float]]
"""``mean`` and ``std`` of each channel."""


def samples_of(batch: int, share: float) -> int:
    """How many samples that share of a batch is, 1 at least."""
    return max(1, round(share * batch))


def detached(tree: Any) -> Any:
    """The same without graph."""
    return map_tensors(Tensor.detach, tree)


def sides_of(side: int, share: float) -> range:
    """The sides that images may get: every whole number of pixels from that share of their side to all of it."""
    return range(min(side, max(1, int(share * side))), side + 1)


def drawn_sides(x: Any, count: int, share: float | None, generator: torch.Generator) -> list[int | None]:
    """The sides of images that subnets get, all of them equally likely.

    Args:
        x: A batch of square images, shape ``(B, C, side, side)``; anything else without a share.
        count: The number of subnets.
        share: The least share of the images' side; None for images as they are.
        generator: What they are drawn by.

    Returns:
        For each subnet a side in pixels, or None for images as they are.
    """
    if share is None or not count:
        return [None] * count
    sides = sides_of(image_side(x), share)
    drawn = torch.randint(sides[0], sides[-1] + 1, (count,), generator=generator).tolist()
    return [side if side < sides[-1] else None for side in drawn]


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


def resized(x: Tensor, side: int, *, antialias: bool = True) -> Tensor:
    """The same images at another side: bilinear.

    Args:
        x: Square images, shape ``(B, C, side, side)``.
        side: The new side in pixels.
        antialias: Whether every pixel counts where they are made smaller.

    Returns:
        Shape ``(B, C, side, side)``, in the number format and the memory format of ``x``.
    """
    dtype = torch.promote_types(torch.float32, x.dtype)
    small = F.interpolate(x.to(dtype), size=(side, side), mode="bilinear", antialias=antialias).to(x.dtype)
    last = x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
    return small.contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)


class Shrinks(Protocol):
    """The settings that say what subnets run on, as ``StimulativeTraining`` has them."""

    subnet_share: float
    smaller_inputs: float | None
    resizing: Resizing
    normalise_again: Normalising | None


def images_of(
    x: Any,
    batch: int,
    sides: Sequence[int | None],
    settings: Shrinks,
) -> Iterator[tuple[list[int], Any, int | None]]:
    """What main net and subnets run on, those together that run on the same.

    As ``published``, each subnet's images are those of the subnet before, resized without antialiasing and normalised
    once more; so the loop of ST++ has them, which writes over its batch.

    Args:
        x: The batch.
        batch: How many samples it has.
        sides: The side in pixels that each subnet's images get; None for images as they are.
        settings: Which share of the batch subnets run on, and which images are resized.

    Yields:
        Positions in ``sides``, the first of all being -1, the main net; what they run on; and on how many of its
        samples subnets run that are beside the main net, None for all.
    """
    samples = samples_of(batch, settings.subnet_share)
    published = settings.resizing == "published" and settings.smaller_inputs is not None
    as_they_are = [] if published else [number for number, side in enumerate(sides) if side is None]
    yield [-1, *as_they_are], x, samples if as_they_are and samples < batch else None
    if published:
        full, part = x.shape[-1], x[:samples]
        for number, side in enumerate(sides):
            part = _normalised(resized(part, side or full, antialias=False), settings.normalise_again)
            yield [number], part, None
    else:
        for side in sorted({side for side in sides if side is not None}, reverse=True):
            yield [number for number, of in enumerate(sides) if of == side], resized(x[:samples], side), None


def _normalised(x: Tensor, normalisation: Normalising | None) -> Tensor:
    if normalisation is None:
        return x
    mean, std = (x.new_tensor(normalisation[key])[:, None, None] for key in ("mean", "std"))
    return (x - mean) / std


def check_channels(network: ResidualNetwork, normalisation: Normalising | None) -> None:
    """Make sure that images can be normalised by these numbers.

    Raises:
        UsageError: If they have another number of channels.
    """
    channels = network.example_input.shape[1]
    if normalisation is not None and len(normalisation["mean"]) not in (1, channels):
        raise UsageError(
            f"normalise_again: got means of {len(normalisation['mean'])} channels, and images have {channels}; give a "
            "number for each channel, or one for all"
        )


def normalisation_problem(value: Any) -> str | None:
    """What is wrong with a normalisation, as a sentence; None if nothing is."""
    if value is None:
        return None
    numbers = isinstance(value, Mapping) and set(value) == {"mean", "std"}
    if numbers:
        mean, std = value["mean"], value["std"]
        sequences = all(isinstance(one, Sequence) and not isinstance(one, str) for one in (mean, std))
        if sequences and len(mean) == len(std) > 0 and all(map(is_number, [*mean, *std])) and min(std) > 0:
            return None
    return (
        f"normalise_again: got {value!r}, but it is a mapping with 'mean' and 'std', a number for each channel (std "
        "above 0), or null"
    )


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


def gives_logits_of_samples(network: ResidualNetwork, task: Task) -> bool:
    """Whether a network gives logits of classes that exclude each other for each sample, shape ``(B, classes)``."""
    if not task.has_direction:
        return False
    outputs = _tried(network, lambda: task.outputs_of(network(network.example_input)))
    return isinstance(outputs, Tensor) and outputs.dim() == 2 and outputs.shape[1] > 1


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


def check_shrink(network: ResidualNetwork, factor: int) -> None:
    """Make sure that the tails of a network's subnets run on smaller feature maps.

    Raises:
        UsageError: If there are none, or the network does not run on them.
    """
    x = network.example_input
    subnets = [network.full, network.space.smallest, _latest(network.space)]
    wanted = _tried(network, lambda: _outputs(network.passes(x, subnets)))
    got = _tried(network, lambda: _outputs(network.passes(x, subnets, shrink=factor)))
    if isinstance(got, Exception) or _shapes(got) != _shapes(wanted):
        reason = _words(got) if isinstance(got, Exception) else f"it gives {_shapes(got)} instead of {_shapes(wanted)}"
    elif all(map(_close, tensors_in(got), tensors_in(wanted))):
        reason = "nothing changes, since it has no feature maps of shape (B, C, height, width) there"
    else:
        return
    raise UsageError(
        f"tail_shrink: subnets of this network do not run on feature maps that are {factor} times smaller: {reason}. "
        "Use tail_shrink 1"
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
