"""What a skipped block returns: its input, in the form of its output.

For most blocks that is one tensor. A block may also return several tensors, of which each takes the place of an input;
numbers, such as the height and the width of a map, which are passed on; more channels than it is given, of which those
that it adds, behind its input's or in front of them, are zeros; and tensors that it makes itself, such as a state or
attention maps: there a skipped block returns what the block before it in its stage has returned, or zeros where they
are added up, as a net without the block would have it. A module that is no block, but is added to its own input by the
module around it, returns zeros.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils import _pytree as pytree

from stimulative.residual.access.trees import tensors_in
from stimulative.residual.finding.recording import Call, Keywords
from stimulative.residual.finding.trying import tolerance

_LEAST_GAIN = 1e-3
_PASSED_ON = (bool, int, float, str)


@dataclass(frozen=True)
class Input:
    """An output that is an input tensor.

    Args:
        number: Which of the input's tensors.
        widened: How many channels of zeros come behind its own.
        in_front: How many channels of zeros come in front of them.
        formats: The number formats of the input and of the output, where the block changes it.
        path: Where it is among the arguments, whichever of the others there are (a mask may be None at times).
    """

    number: int
    widened: int = 0
    in_front: int = 0
    formats: tuple[torch.dtype, torch.dtype] | None = None
    path: pytree.KeyPath = field(default=(), compare=False)

    @property
    def added(self) -> int:
        """How many channels of zeros it has beside its own."""
        return self.widened + self.in_front


@dataclass(frozen=True)
class Nothing:
    """An output of zeros, like an input tensor: of a module that is added to its input by the module around it.

    Args:
        number: Which of the input's tensors.
        path: Where it is among the arguments.
    """

    number: int
    path: pytree.KeyPath = field(default=(), compare=False)


@dataclass(frozen=True)
class Argument:
    """An output that is a number or a text among the arguments.

    Args:
        number: Which of the leaves of the arguments that are no tensors.
        path: Where it is among the arguments.
    """

    number: int
    path: pytree.KeyPath = field(default=(), compare=False)


@dataclass(frozen=True)
class Constant:
    """An output that is the same in every call."""

    value: Any = None


@dataclass(frozen=True)
class Before:
    """An output tensor that no input takes the place of.

    Args:
        number: Which of the tensors that the block before has returned.
        silent: Whether zeros of its shape are returned instead of it: what each block makes is added up.
    """

    number: int
    silent: bool = False


Template = Any
"""The structure of a block's output with these in the place of its leaves."""

_OF_THE_FIRST = (), (pytree.SequenceKey(0), pytree.SequenceKey(0))

FIRST = Input(0)
"""The most frequent template: a block that turns its first tensor into one like it."""


def pass_through(call: Call, *, at_zero: Any = None, given: Any = None, close: float | None = None) -> Template | None:
    """What a skipped module returns in place of its output.

    Args:
        call: The recorded call.
        at_zero: If given, an output that has to equal the inputs in value, not only in shape.
        given: The arguments that this output is of, as positional and keyword arguments.
        close: How far the output may be off, relative to the largest number; by default as its number format rounds.

    Returns:
        A template; None if the first tensor of the output is no input, or there is no tensor.
    """
    by_value = at_zero is not None
    placed, _ = pytree.tree_flatten_with_path(given if by_value else (call.args, call.kwargs))
    inputs = [(path, leaf) for path, leaf in placed if isinstance(leaf, Tensor)]
    others = [(path, leaf) for path, leaf in placed if not isinstance(leaf, Tensor)]
    kept = tensors_in((call.args, call.kwargs)), tensors_in(call.output)
    outputs, structure = pytree.tree_flatten(at_zero if by_value else call.output)
    taken: set[int] = set()
    passed: set[int] = set()
    leaves: list[Any] = []
    tensors = 0
    for output in outputs:
        if isinstance(output, Tensor):
            found = _source(output, inputs, taken, by_value=by_value, stream=not tensors, close=close)
            if not tensors and found is None:
                return None
            leaves.append(Before(tensors) if found is None else _in_formats(found, *kept, tensors))
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
    return any(isinstance(leaf, Input) and leaf.added for leaf in pytree.tree_leaves(template))


def weighs(template: Template, given: Any, output: Any) -> bool:
    """Whether the first tensor of an output is an input times a number other than one."""
    first = next((leaf for leaf in pytree.tree_leaves(template) if isinstance(leaf, Input)), None)
    if first is None or first.added:
        return False
    x, y = tensors_in(given)[first.number], tensors_in(output)[0]
    return bool((y - x).abs().amax() > tolerance(y) * x.abs().amax())


def passed(template: Template, args: tuple[Any, ...], kwargs: Keywords, before: Any = None) -> Any:
    """What a skipped block returns.

    Args:
        template: Its template.
        args: The positional arguments of the call.
        kwargs: Its keyword arguments.
        before: What the block before it in its stage has returned, where the template needs it.
    """
    if template == FIRST and template.path in _OF_THE_FIRST and args and isinstance(args[0], Tensor):
        return args[0]
    arguments = pytree.tree_leaves((args, kwargs))
    inputs = [leaf for leaf in arguments if isinstance(leaf, Tensor)]
    others = [leaf for leaf in arguments if not isinstance(leaf, Tensor)]

    def leaf(of: Any) -> Any:
        if isinstance(of, Input):
            x = _at(of, (args, kwargs), inputs)
            x = x.to(of.formats[1]) if of.formats is not None and x.dtype == of.formats[0] else x
            return F.pad(x, padding(of, x)) if of.added else x
        if isinstance(of, Nothing):
            return torch.zeros_like(_at(of, (args, kwargs), inputs))
        if isinstance(of, Argument):
            return _at(of, (args, kwargs), others)
        if isinstance(of, Before):
            made = tensors_in(before)[of.number]
            return torch.zeros_like(made) if of.silent else made
        return of.value

    return pytree.tree_map(leaf, template)


def _at(of: Input | Nothing | Argument, given: Any, alike: Sequence[Any]) -> Any:
    """The argument that an output is, at its place in a call; among those of its kind if there is no such place."""
    found = given if of.path else None
    try:
        for key in of.path:
            found = key.get(found)
    except (LookupError, TypeError, AttributeError):  # called in another way than on the example
        found = None
    is_tensor = not isinstance(of, Argument)
    return found if of.path and isinstance(found, Tensor) == is_tensor else alike[of.number]


def padding(of: Input, x: Tensor) -> tuple[int, ...]:
    """How ``torch.nn.functional.pad`` makes an output of an input tensor that has fewer channels."""
    return (*[0] * (2 * x.dim() - 4), of.in_front, of.widened)


def _source(
    output: Tensor,
    inputs: Sequence[tuple[pytree.KeyPath, Tensor]],
    taken: set[int],
    *,
    by_value: bool,
    stream: bool,
    close: float | None,
) -> Input | None:
    numbered = [(number, path, tensor) for number, (path, tensor) in enumerate(inputs)]
    if not by_value:  # those of the same format first
        numbered.sort(key=lambda each: each[2].dtype != output.dtype)
    for number, path, tensor in numbered:
        if number in taken or not _fits(output, tensor):
            continue
        added = output.shape[1] - tensor.shape[1] if output.shape != tensor.shape else 0
        if added and not by_value:
            continue  # a shape alone does not say that a module adds to what it is given
        for of in (Input(number, added, path=path), Input(number, 0, added, path=path))[: 2 if added else 1]:
            if not by_value or _passes(output, tensor, of, stream=stream, close=close or tolerance(output)):
                taken.add(number)
                return of
    return None


def _in_formats(of: Input, inputs: list[Tensor], outputs: list[Tensor], number: int) -> Input:
    """An input as an output, in the number format that the block has returned."""
    formats = inputs[of.number].dtype, outputs[number].dtype
    return of if formats[0] == formats[1] else replace(of, formats=formats)


def could_pass(call: Call) -> bool:
    """Whether the shapes of a call let the first tensor of its output be one of its inputs."""
    outputs = tensors_in(call.output)
    return bool(outputs) and any(_fits(outputs[0], tensor) for tensor in tensors_in((call.args, call.kwargs)))


def _fits(output: Tensor, tensor: Tensor) -> bool:
    """Whether an output has the shape and kind of an input, or more channels of maps or of a series."""
    same = output.dtype == tensor.dtype or (output.is_floating_point() and tensor.is_floating_point())
    if not same or output.dim() != tensor.dim():
        return False
    if output.shape == tensor.shape:
        return True
    around = [dim for dim in range(output.dim()) if dim != 1]
    return (
        output.dim() >= 3
        and output.shape[1] > tensor.shape[1]
        and all(output.shape[dim] == tensor.shape[dim] for dim in around)
    )


def _passes(output: Tensor, tensor: Tensor, of: Input, *, stream: bool, close: float) -> bool:
    """Whether an output is an input, up to rounding, and zeros where it is wider.

    The first tensor of the output, the stream, may also be an input times a number: a block that weighs its input and
    its branch (``a x + b f(x)``).
    """
    if not output.is_floating_point():
        return not of.added and bool((output == tensor).all())
    scale = tensor.abs().amax() if tensor.numel() else tensor.new_zeros(())
    if not bool(scale > 0):
        return False
    if of.added:
        if bool(output.narrow(1, 0, of.in_front).any()):
            return False
        if bool(output.narrow(1, of.in_front + tensor.shape[1], of.widened).any()):
            return False
        output = output.narrow(1, of.in_front, tensor.shape[1])
    output, tensor = (x.to(torch.promote_types(x.dtype, torch.float32)) for x in (output, tensor))
    if bool((output - tensor).abs().amax() <= close * scale):
        return True
    gain = (output * tensor).sum() / tensor.square().sum()
    return (
        stream
        and bool((gain > _LEAST_GAIN) & (gain < 1))
        and bool((output - gain * tensor).abs().amax() <= close * gain * scale)
    )


def _other(output: Any, others: Sequence[tuple[pytree.KeyPath, Any]], passed: set[int]) -> Argument | Constant:
    """Where an output that is no tensor comes from."""
    for number, (path, value) in enumerate(others):
        if number in passed or output is None:
            continue
        if output is value or (isinstance(output, _PASSED_ON) and type(output) is type(value) and output == value):
            passed.add(number)
            return Argument(number, path)
    return Constant(output if isinstance(output, _PASSED_ON) else None)
