"""What a layer that is not PyTorch's own makes of a batch: the statistics that it would settle at, seeing nothing else.

Whatever a layer calls momentum, in training mode it writes an average of the old value and the batch's own into each
running statistic: ``written = share * old + (1 - share) * own``. Two calls from different old values tell the share, by
element, and so the batch's own value. The third call starts from there. It tells what rounding has left, and its output
is that of a layer whose statistics are its batch's, also where a layer reads them in training mode (as batch
renormalisation does). Of an average of another kind, such as that of squares, a few more calls find the fixed point.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from stimulative.errors import UsageError
from stimulative.residual.access.slots import statistics_in
from stimulative.residual.access.trees import map_tensors
from stimulative.residual.finding.norms import Norm, run_from

_CALLS = 12  # squares need five; what does not settle grows


def settled(
    name: str, layer: nn.Module, norm: Norm, original: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[Any, tuple[Tensor, ...], tuple[Tensor, ...]]:
    """Call a layer in training mode as if its running statistics were those of its batch; its own stay as they are.

    Args:
        name: Its name, for messages.
        layer: The layer.
        norm: What it keeps.
        original: Calls it.
        args: The positional arguments of the call.
        kwargs: Its keyword arguments.

    Returns:
        What it returns, its batch's own statistics in double precision, and which of their elements it writes at all.

    Raises:
        UsageError: If it writes nothing, adds to its statistics without end, or does not settle.
    """
    own: dict[str, Any] = statistics_in(layer, norm.keys)
    others: dict[str, Any] = statistics_in(layer, norm.others)
    # as if no batch had been counted yet: a mean over all batches takes the first one for what it is
    others = {key: value if value.is_floating_point() else torch.zeros_like(value) for key, value in others.items()}

    def run(values: Sequence[Tensor]) -> tuple[Any, list[Tensor]]:
        given, named = map_tensors(torch.Tensor.clone, (args, kwargs))
        held = dict(zip(norm.keys, values, strict=True)) | others
        output, left = run_from(layer, partial(original, *given, **named), held)
        return output, [left[key].double() for key in norm.keys]

    first = [torch.ones_like(own[key]) for key in norm.keys]
    _, low = run(first)
    further = [one + _distance(written) for one, written in zip(first, low, strict=True)]
    _, high = run(further)
    shares = [_slope(*ends) for ends in zip(first, low, further, high, strict=True)]
    untouched = [(share == 1) & (written == 1) for share, written in zip(shares, low, strict=True)]
    _check_written(name, layer, norm, shares, untouched)
    before, after = further, high
    found = [_fixed_point(*of) for of in zip(first, low, shares, untouched, strict=True)]
    for _ in range(_CALLS):
        start = [value.to(own[key].dtype) for key, value in zip(norm.keys, found, strict=True)]
        output, written = run(start)
        found = [_fixed_point(*of) for of in zip(start, written, shares, untouched, strict=True)]
        if all(map(_close, start, found)):
            return output, tuple(found), tuple(~skip for skip in untouched)
        # an average of another kind: its slope near by
        slopes = [_slope(*ends) for ends in zip(before, after, start, written, strict=True)]
        shares = [torch.where(slope.isfinite(), slope, share) for slope, share in zip(slopes, shares, strict=True)]
        found = [_fixed_point(*of) for of in zip(start, written, shares, untouched, strict=True)]
        before, after = start, written
    raise UsageError(
        f"the statistics of {_called(name, layer, norm)} cannot be estimated: what it writes into them in training "
        f"mode is no average of the old value and that of the batch, since it does not settle within {_CALLS} calls on "
        "the same batch. Let it write running averages"
    )


def _distance(written: Tensor) -> float:
    """How far from the first start the second one is: as far as numbers go, a power of two."""
    largest = float(written.abs().nan_to_num(0.0, 0.0, 0.0).amax()) if written.numel() else 0.0
    return 2.0 ** min(max(0, torch.frexp(torch.tensor(largest)).exponent.item()), 14)


def _check_written(name: str, layer: nn.Module, norm: Norm, shares: list[Tensor], untouched: list[Tensor]) -> None:
    if all(bool(skip.all()) for skip in untouched):
        raise UsageError(
            f"the statistics of {_called(name, layer, norm)} cannot be estimated: in training mode it wrote nothing "
            "into them. Let its forward write running averages (a share of the batch of 0 writes none); or, if they "
            "are to stay what they are for all subnets, let training mode normalise by them, too (a frozen norm)"
        )
    for key, share, skip in zip(norm.keys, shares, untouched, strict=True):
        if bool(((share == 1) & ~skip).any()):
            raise UsageError(
                f"the statistics of {_called(name, layer, norm)} cannot be estimated: in training mode it adds to "
                f"{key} without letting go of the old value. Let it write a running average (of a switchable norm: "
                "using_moving_average=True)"
            )


def _called(name: str, layer: nn.Module, norm: Norm) -> str:
    return f"layer {name!r} ({type(layer).__name__}: {', '.join(norm.keys)})"


def _slope(before: Tensor, after: Tensor, other: Tensor, written: Tensor) -> Tensor:
    """The share of the old value, from two old values and what was written over them."""
    return (written - after) / (other.double() - before.double())


def _fixed_point(old: Tensor, written: Tensor, share: Tensor, untouched: Tensor) -> Tensor:
    """The old value that would be left as it is, from another one and what was written over it."""
    return torch.where(untouched, old.double(), old.double() + (written - old.double()) / (1 - share))


def _close(old: Tensor, new: Tensor) -> bool:
    """Whether a value has settled to half the digits of its format; one that is no number will not change any more."""
    largest = new.abs().nan_to_num(0.0, 0.0, 0.0).amax() if new.numel() else new.new_zeros(())
    return not bool(((new - old).abs() > torch.finfo(old.dtype).eps ** 0.5 * largest).any())
