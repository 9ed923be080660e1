"""What a model is called with, and which part of a loader's batch that is.

The example input that a model is unraveled with decides, so that nothing is guessed from the numbers of dimensions: a
second tensor may be a second input or targets, and targets may have any shape.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.utils import _pytree as pytree

from stimulative.errors import UsageError
from stimulative.residual.access.sending import sent
from stimulative.residual.access.trees import tensors_in
from stimulative.residual.finding.recording import arguments_of

TARGETS = "labels", "label", "targets", "target", "y"
"""What a mapping calls targets, where it has anything beside what the model is called with."""


def as_in(module: nn.Module, tree: Any, *, keep_formats: bool = False) -> Any:
    """Tensors on the device of a module and in its number format; whole numbers stay such.

    Args:
        module: The module.
        tree: The tensors.
        keep_formats: Whether their formats stay what they are.
    """
    own = next((parameter for parameter in module.parameters() if parameter.is_floating_point()), None)
    if own is None:
        return tree

    def moved(x: Tensor) -> Tensor:
        return sent(x, own.device).to(own.dtype if x.is_floating_point() and not keep_formats else x.dtype)

    return pytree.tree_map_only(Tensor, moved, tree)


def is_in_format(module: nn.Module, tree: Any) -> bool:
    """Whether floating point tensors are in the number format of a module; some code brings them into its own."""
    given, moved = ([tensor.dtype for tensor in tensors_in(each)] for each in (tree, as_in(module, tree)))
    return given == moved


def check_batches(batches: Any) -> None:
    """Make sure that batches are an iterable of them, not a batch by itself.

    Raises:
        UsageError: If they are not.
    """
    if isinstance(batches, Tensor | Mapping | str) or not isinstance(batches, Iterable):
        raise UsageError(
            f"batches are a loader, or a list of batches; got {_described(batches)}. A single batch is given as [batch]"
        )


Split = tuple[Any, tuple[Any, ...]]
"""What a model is called with, and what else a batch has."""


@dataclass(frozen=True)
class _Leaf:
    """What a value is that holds no others.

    Args:
        kind: Of a tensor ``floating`` or ``whole``; of anything else its type.
        dimensions: The number of a tensor's dimensions; None of anything else.
    """

    kind: str
    dimensions: int | None = None

    @classmethod
    def of(cls, value: Any) -> _Leaf:
        """Of this value."""
        if not isinstance(value, Tensor):
            return cls(type(value).__name__)
        return cls("floating" if value.is_floating_point() or value.is_complex() else "whole", value.dim())


@dataclass(frozen=True)
class _Argument:
    """One argument of the example's call.

    Args:
        name: Its name; None if it is not known.
        form: Its leaves, in nested tuples and dictionaries.
        needed: Whether the model cannot be called without it.
    """

    name: str | None
    form: Any
    needed: bool

    @property
    def holds_tensors(self) -> bool:
        """Whether there is a tensor in it."""
        return any(leaf.dimensions is not None for leaf in pytree.tree_leaves(self.form))


@dataclass(frozen=True)
class Example:
    """The form of what a model is called with, without any of its numbers.

    Args:
        arguments: The arguments, in their order.
        by_name: Whether they were given by their names.
        first: The name of the model's first argument; None if it is not known.
        takes: The names of all arguments that the model can be called with; none if they are not known.
    """

    arguments: tuple[_Argument, ...]
    by_name: bool
    first: str | None
    takes: frozenset[str]

    @classmethod
    def of(cls, model: nn.Module, example_input: Any) -> Example:
        """The form of an example input, as ``unravel`` takes it."""
        args, kwargs = arguments_of(example_input)
        try:
            parameters = list(inspect.signature(model.forward).parameters.values())
        except (TypeError, ValueError):  # compiled ones cannot be asked
            parameters = []
        in_order = [one.name for one in parameters if one.kind is one.POSITIONAL_OR_KEYWORD]
        takes = {one.name: one.default is one.empty for one in parameters if one.kind in _BY_NAME}
        names = [*in_order, *[None] * len(args)]
        return cls(
            tuple(
                _Argument(name, _form(value), needed=takes.get(name or "", False))
                for name, value in (*zip(names, args, strict=False), *kwargs.items())
            ),
            by_name=bool(kwargs),
            first=names[0] if names else None,
            takes=frozenset(takes),
        )

    def split(self, batch: Any) -> Split:
        """A batch as what the model is called with, and what else there is; see ``ResidualNetwork.split``.

        Raises:
            UsageError: If there is nothing like the example in it.
        """
        found = self._in_order(batch) or self._whole(batch)
        if found is None and isinstance(batch, tuple | list) and batch:
            first, *rest = batch
            if isinstance(first, tuple | list | Mapping) or not rest:
                inner = self._in_order(first) or self._whole(first)
                if inner is not None and (isinstance(first, Mapping) or not inner[1]):
                    found = inner[0], (*rest, *inner[1])
        if found is None:
            raise UsageError(
                "a batch is what the model is called with, in the form of the example input that it was unraveled "
                f"with, alone or followed by targets and more. The example: {self}; the batch: {_described(batch)}. "
                "Give batches like the example, or unravel the model with an example like the batches"
            )
        return found

    def __str__(self) -> str:
        """The example in words."""
        if self.by_name:
            return _described({one.name: one.form for one in self.arguments})
        forms = tuple(one.form for one in self.arguments)
        return _described(forms[0] if len(forms) == 1 else forms)

    def _in_order(self, batch: Any) -> Split | None:
        """The arguments as the first of several values."""
        if not isinstance(batch, tuple | list):
            return None
        if self.by_name:
            (only, *others) = self._with_tensors or (None,)
            if only is None or others or not batch or not _fits(only.form, batch[0]):
                return None
            return {only.name: batch[0]}, tuple(batch[1:])
        for arguments in self._ways:
            count = len(arguments)
            if len(batch) >= count and all(map(_fits, (one.form for one in arguments), batch)):
                return _called_with(batch[:count]), tuple(batch[count:])
        return None

    def _whole(self, value: Any) -> Split | None:
        """A value as the first argument of a model that needs no other one, or a mapping as all of them."""
        if self.by_name:
            own = [one for one in self.arguments if one.name == self.first] or list(self._with_tensors[:1])
        else:
            own = list(self.arguments[:1])
        alone = bool(own) and not any(one.needed for one in self.arguments if one not in own)
        if alone and _fits(own[0].form, value):
            return ({own[0].name: value} if self.by_name else _called_with([value])), ()
        return self._by_name(value) if isinstance(value, Mapping) else None

    def _by_name(self, value: Mapping[Any, Any]) -> Split | None:
        """The arguments of a mapping, and what else it has, targets first."""
        names = {one.name: one for one in self.arguments if one.name is not None}
        if any(one.needed and name not in value for name, one in names.items()):
            return None
        if self.takes and not any(name in value for name in names):
            return None
        keys = [key for key in value if key in names or (key not in TARGETS and key in (self.takes or value))]
        rest = sorted((key for key in value if key not in keys), key=lambda key: key not in TARGETS)
        return {key: value[key] for key in keys}, tuple(value[key] for key in rest)

    @property
    def _ways(self) -> Iterator[Sequence[_Argument]]:
        """The arguments, all of them or without those at the end that hold no tensors and may be left out."""
        yield self.arguments
        count = len(self.arguments)
        while count > 1 and not (self.arguments[count - 1].holds_tensors or self.arguments[count - 1].needed):
            count -= 1
        yield self.arguments[:count]

    @property
    def _with_tensors(self) -> tuple[_Argument, ...]:
        return tuple(one for one in self.arguments if one.holds_tensors)


_BY_NAME = inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY


def _called_with(values: Sequence[Any]) -> Any:
    """Positional arguments in the form in which a network takes them: a tensor by itself, else a tuple."""
    return values[0] if len(values) == 1 and isinstance(values[0], Tensor) else tuple(values)


def _form(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _form(one) for key, one in value.items()}
    return tuple(map(_form, value)) if isinstance(value, tuple | list) else _Leaf.of(value)


def _fits(form: Any, value: Any) -> bool:
    """Whether a value has a form; a mapping may have more."""
    if isinstance(form, dict):
        return isinstance(value, Mapping) and all(key in value and _fits(one, value[key]) for key, one in form.items())
    if isinstance(form, tuple):
        return isinstance(value, tuple | list) and len(value) == len(form) and all(map(_fits, form, value))
    return not isinstance(value, tuple | list | Mapping) and _Leaf.of(value) == form


def _described(value: Any) -> str:
    """A batch, or a form, in words."""
    if isinstance(value, Mapping):
        return f"a mapping of {', '.join(f'{key!r}: {_described(one)}' for key, one in value.items())}"
    if isinstance(value, tuple | list):
        return f"({', '.join(map(_described, value))})"
    leaf = value if isinstance(value, _Leaf) else _Leaf.of(value)
    if leaf.dimensions is None:
        return leaf.kind
    count = leaf.dimensions
    shape = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"{count} dimension{'s' * (count != 1)}"
    return f"tensor of {'whole' if leaf.kind == 'whole' else 'floating point'} numbers of {shape}"
