"""What a skipped block returns: its input, in the form of its output.

For most blocks that is one tensor. A block may also return several tensors, of which each takes the place of an input;
numbers, such as the height and the width of a map, which are passed on; more channels than it is given, of which those
that it adds are zeros; and tensors that it makes itself, such as a state or attention maps: there a skipped block
returns what the block before it in its stage has returned, as a net without the block would have it. A module that is
no block, but is added to its own input by the module around it, returns zeros.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils import _pytree as pytree

from stimulative.residual.finding.recording import Call, Keywords, tensors_in

_TOLERANCE = 1e-4
_LEAST_GAIN = 1e-3
_PASSED_ON = (bool, int, float, str)


@dataclass(frozen=True)
class Input:
    """An output that is an input tensor.

    Args:
        number: Which of the input's tensors.
        widened: How many channels of zeros come behind its own.
    """

    number: int
    widened: int = 0


@dataclass(frozen=True)
class Nothing:
    """An output of zeros, like an input tensor: of a module that is added to its input by the module around it.

    Args:
        number: Which of the input's tensors.
    """

    number: int


@dataclass(frozen=True)
class Argument:
    """An output that is a number or a text among the arguments.

    Args:
        number: Which of the leaves of the arguments that are no tensors.
    """

    number: int


@dataclass(frozen=True)
class Constant:
    """An output that is the same in every call."""

    value: Any = None


@dataclass(frozen=True)
class Before:
    """An output tensor that no input takes the place of.

    Args:
        number: Which of the tensors that the block before has returned.
    """

    number: int


Template = Any
"""The structure of a block's output with these in the place of its leaves."""

FIRST = Input(0)
"""The most frequent template: a block that turns its first tensor into one like it."""


def pass_through(call: Call, *, at_zero: Any = None, given: Any = None) -> Template | None:
    """What a skipped module returns in place of its output.

    Args:
        call: The recorded call.
        at_zero: If given, an output that has to equal the inputs in value, not only in shape.
        given: The arguments that this output is of, as positional and keyword arguments.

    Returns:
        A template; None if the first tensor of the output is no input, or there is no tensor.
    """
    by_value = at_zero is not None
    arguments = pytree.tree_leaves(given if by_value else (call.args, call.kwargs))
    inputs = [leaf for leaf in arguments if isinstance(leaf, Tensor)]
    others = [leaf for leaf in arguments if not isinstance(leaf, Tensor)]
    outputs, structure = pytree.tree_flatten(at_zero if by_value else call.output)
    taken: set[int] = set()
    passed: set[int] = set()
    leaves: list[Any] = []
    tensors = 0
    for output in outputs:
        if isinstance(output, Tensor):
            found = _source(output, inputs, taken, by_value=by_value, stream=not tensors)
            if not tensors and found is None:
                return None
            leaves.append(Before(tensors) if found is None else found)
            tensors += 1
        else:
            leaves.append(_other(output, others, passed))
    return pytree.tree_unflatten(leaves, structure) if tensors else None


def inputs_of(template: Template) -> list[int]:
    """The numbers of the input tensors that a template passes on."""
    return [leaf.number for leaf in pytree.tree_leaves(template) if isinstance(leaf, Input)]


def needs_before(template: Template) -> bool:
    """Whether a block with this template can only be skipped behind another one."""
    return any(isinstance(leaf, Before) for leaf in pytree.tree_leaves(template))


def widens(template: Template) -> bool:
    """Whether a block with this template returns more channels than it is given."""
    return any(isinstance(leaf, Input) and leaf.widened for leaf in pytree.tree_leaves(template))


def weighs(template: Template, given: Any, output: Any) -> bool:
    """Whether the first tensor of an output is an input times a number other than one."""
    first = next((leaf for leaf in pytree.tree_leaves(template) if isinstance(leaf, Input)), None)
    if first is None or first.widened:
        return False
    x, y = tensors_in(given)[first.number], tensors_in(output)[0]
    return bool((y - x).abs().amax() > _TOLERANCE * x.abs().amax())


def passed(template: Template, args: tuple[Any, ...], kwargs: Keywords, before: Any = None) -> Any:
    """What a skipped block returns.

    Args:
        template: Its template.
        args: The positional arguments of the call.
        kwargs: Its keyword arguments.
        before: What the block before it in its stage has returned, where the template needs it.
    """
    if template == FIRST and args and isinstance(args[0], Tensor):
        return args[0]
    arguments = pytree.tree_leaves((args, kwargs))
    inputs = [leaf for leaf in arguments if isinstance(leaf, Tensor)]
    others = [leaf for leaf in arguments if not isinstance(leaf, Tensor)]

    def leaf(of: Any) -> Any:
        if isinstance(of, Input):
            x = inputs[of.number]
            return F.pad(x, (*[0] * (2 * x.dim() - 4), 0, of.widened)) if of.widened else x
        if isinstance(of, Nothing):
            return torch.zeros_like(inputs[of.number])
        if isinstance(of, Argument):
            return others[of.number]
        return tensors_in(before)[of.number] if isinstance(of, Before) else of.value

    return pytree.tree_map(leaf, template)


def _source(output: Tensor, inputs: list[Tensor], taken: set[int], *, by_value: bool, stream: bool) -> Input | None:
    for number, tensor in enumerate(inputs):
        if number in taken or not _fits(output, tensor):
            continue
        widened = output.shape[1] - tensor.shape[1] if output.shape != tensor.shape else 0
        if widened and not by_value:
            continue  # a shape alone does not say that a module adds to what it is given
        if not by_value or _passes(output, tensor, widened, stream=stream):
            taken.add(number)
            return Input(number, widened)
    return None


def could_pass(call: Call) -> bool:
    """Whether the shapes of a call let the first tensor of its output be one of its inputs."""
    outputs = tensors_in(call.output)
    return bool(outputs) and any(_fits(outputs[0], tensor) for tensor in tensors_in((call.args, call.kwargs)))


def _fits(output: Tensor, tensor: Tensor) -> bool:
    """Whether an output has the shape and type of an input, or more channels of maps."""
    if output.dtype != tensor.dtype or output.dim() != tensor.dim():
        return False
    if output.shape == tensor.shape:
        return True
    around = [dim for dim in range(output.dim()) if dim != 1]
    return (
        output.dim() == 4
        and output.shape[1] > tensor.shape[1]
        and all(output.shape[dim] == tensor.shape[dim] for dim in around)
    )


def _passes(output: Tensor, tensor: Tensor, widened: int, *, stream: bool) -> bool:
    """Whether an output is an input, up to rounding, and zeros where it is wider.

    The first tensor of the output, the stream, may also be an input times a number: a block that weighs its input and
    its branch (``a x + b f(x)``).
    """
    if not output.is_floating_point():
        return not widened and bool((output == tensor).all())
    scale = tensor.abs().amax() if tensor.numel() else tensor.new_zeros(())
    if not bool(scale > 0):
        return False
    if widened:
        added = output.narrow(1, tensor.shape[1], widened)
        if bool(added.any()):
            return False
        output = output.narrow(1, 0, tensor.shape[1])
    if bool((output - tensor).abs().amax() <= _TOLERANCE * scale):
        return True
    gain = (output * tensor).sum() / tensor.square().sum()
    return (
        stream
        and bool((gain > _LEAST_GAIN) & (gain < 1))
        and bool((output - gain * tensor).abs().amax() <= _TOLERANCE * gain * scale)
    )


def _other(output: Any, others: list[Any], passed: set[int]) -> Argument | Constant:
    """Where an output that is no tensor comes from."""
    for number, value in enumerate(others):
        if number in passed or output is None:
            continue
        if output is value or (isinstance(output, _PASSED_ON) and type(output) is type(value) and output == value):
            passed.add(number)
            return Argument(number)
    return Constant(output if isinstance(output, _PASSED_ON) else None)
