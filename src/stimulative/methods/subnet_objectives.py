"""What the subnets of stimulative training learn by: objectives by name, and functions of one's own.

Those of this library, with settings as a mapping such as ``objective: {name: kl, top: 50}``:

- ``kl``: the divergence of the main net's class probabilities, of the papers. ``top`` compares the main net's so many
  likeliest classes alone (Adaptive Depth Networks, NeurIPS 2024, arXiv 2312.16392, has 500 of ImageNet's);
  ``direction`` is ``forward``, ``reverse`` or ``both``; ``sure`` is how many times as high the temperature is where
  the main net is certain.
- ``directional``: ST++'s KL-, of normalised logits. ``by`` is what they are divided by: their ``deviation``, that of
  the main net (``teacher``), or their ``length``.
- ``labels``: the targets, by the cross-entropy that the main net has.
- ``cross_entropy``: to the main net's probabilities, which has the gradients of ``kl``.
- ``decoupled``: decoupled distillation (CVPR 2022, arXiv 2203.08679), with the weights ``target`` and ``others``.
- ``mse``: the squared difference of logits.

The last three, ``labels`` and ``by`` are what the authors' published code of ST++ can be switched to.

One of your own is a function of logits that returns a scalar::

    def squared(subnet_logits, main_logits, targets, *, scale=1.0):
        return scale * (subnet_logits - main_logits).square().mean()

A recipe names it ``objective: package.module:squared``, or with settings
``objective: {name: package.module:squared, scale: 0.1}``; in Python the function itself will do. It gets

- ``subnet_logits``, the raw logits of one subnet, shape ``(b, classes)`` or, of sequences, ``(b, positions, classes)``,
  or the outputs of another task; ``b`` is the number of samples that subnets run on, less than the batch with
  ``subnet_share``;
- ``main_logits``, the raw logits of the main net, or of what else the setting ``teacher`` names, of the same samples,
  the same shape, without graph;
- ``targets`` of these samples as the method was given them: class indices of shape ``(b,)`` or ``(b, positions)``, -100
  where a position does not count, or probabilities in the shape of the logits. Beside a loss of one's own (``beside``)
  they are None unless they are known.

What it returns counts as ``balance`` times its mean over the step's subnets. The settings ``temperature`` and
``amplitude`` are those of the built-in objectives; it does not see them.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Protocol, get_args

from torch import Tensor

from stimulative.errors import UsageError
from stimulative.extension import imported, is_own
from stimulative.methods.options import Rule, check_options, is_number, name_in, parts_of
from stimulative.naming import did_you_mean
from stimulative.objectives import (
    Direction,
    Normalisation,
    decoupled_divergence,
    directional_divergence,
    divergence_of_top,
    soft_cross_entropy,
    squared_logits,
)
from stimulative.tasks import Rows, Task

SubnetObjective = Callable[..., Tensor]
"""One's own: ``(subnet_logits, main_logits, targets, **settings)`` to a scalar; see the head of this file."""

_FORMS = (
    "kl, directional, labels, cross_entropy, decoupled or mse, or one of your own: package.module:name, or a mapping "
    "with 'name' and its settings"
)
_WHAT = "a function of (subnet_logits, main_logits, targets) that returns a scalar tensor"
_ARGUMENTS = 3
_OF_METHOD = "temperature", "amplitude"


class Settled(Protocol):
    """The method that asks, for what the built-in objectives read."""

    task: Task
    temperature: float
    amplitude: float

    def label_term(self, outputs: Any, y: Any) -> Tensor:
        """The loss that the main net has."""
        ...


@dataclass(frozen=True)
class Objective:
    """What a subnet learns by, built in or one's own.

    Attributes:
        term: The method, the subnet's outputs, those that it learns from without graph and the targets, of the same
            samples, and its settings, to a scalar.
        needs_targets: Whether it is none where targets are not known.
        of_classes: Whether it is of logits of classes that exclude each other alone.
        normalisation: What logits are divided by; None where they are taken as they are.
        rules: What its settings have to be.
    """

    term: Callable[..., Tensor]
    needs_targets: bool = False
    of_classes: bool = False
    normalisation: Normalisation | None = None
    rules: Mapping[str, Rule] = field(default_factory=dict)

    @property
    def sees_scale(self) -> bool:
        """Whether it goes by the scale of logits; where it does not, evaluation fits a temperature."""
        return self.normalisation in (None, "teacher")

    def having(self, settings: Mapping[str, Any]) -> Objective:
        """The same with settings."""
        if not settings:
            return self
        normalisation = settings.get("by", self.normalisation)
        return replace(self, term=partial(self.term, **settings), of_classes=True, normalisation=normalisation)


def _kl(method: Settled, outputs: Any, main: Any, y: Any, **settings: Any) -> Tensor:
    if not settings:
        return method.task.divergence(outputs, main, y, temperature=method.temperature)
    rows = method.task.rows(outputs, main, y)
    return divergence_of_top(
        rows.student, rows.teacher, temperature=method.temperature, counted=rows.counted, **settings
    )


def _directional(method: Settled, outputs: Any, main: Any, y: Any, by: Normalisation = "deviation") -> Tensor:
    rows = method.task.rows(outputs, main, y)
    return directional_divergence(
        rows.student,
        rows.teacher,
        temperature=method.temperature,
        amplitude=method.amplitude,
        by=by,
        counted=rows.counted,
    )


def _labels(method: Settled, outputs: Any, main: Any, y: Any) -> Tensor:
    return method.label_term(outputs, y)


def _cross_entropy(method: Settled, outputs: Any, main: Any, y: Any) -> Tensor:
    rows = method.task.rows(outputs, main, y)
    return soft_cross_entropy(rows.student, rows.teacher, temperature=method.temperature, counted=rows.counted)


def _decoupled(method: Settled, outputs: Any, main: Any, y: Any, **settings: Any) -> Tensor:
    rows = method.task.rows(outputs, main, y)
    return decoupled_divergence(
        rows.student,
        rows.teacher,
        _classes_of(rows),
        temperature=method.temperature,
        counted=rows.counted,
        **settings,
    )


def _mse(method: Settled, outputs: Any, main: Any, y: Any) -> Tensor:
    rows = method.task.rows(outputs, main, y)
    return squared_logits(rows.student, rows.teacher, counted=rows.counted)


def _classes_of(rows: Rows) -> Tensor:
    """Class indices; of targets that are probabilities, the likeliest."""
    assert rows.targets is not None
    return rows.targets.argmax(-1) if rows.targets.is_floating_point() else rows.targets.long()


_WEIGHT: Rule = (lambda v: is_number(v) and v >= 0, "a weight, 0 or more")

OBJECTIVES: dict[str, Objective] = {
    "kl": Objective(
        _kl,
        rules={
            "top": (lambda v: v is None or (type(v) is int and v >= 2), "a number of classes, 2 or more, or null"),
            "direction": (lambda v: v in get_args(Direction), "forward, reverse or both"),
            "sure": (lambda v: is_number(v) and v > 0, "a factor above 0"),
        },
    ),
    "directional": Objective(
        _directional,
        of_classes=True,
        normalisation="deviation",
        rules={"by": (lambda v: v in get_args(Normalisation), "deviation, teacher or length")},
    ),
    "labels": Objective(_labels, needs_targets=True),
    "cross_entropy": Objective(_cross_entropy, of_classes=True),
    "decoupled": Objective(
        _decoupled, needs_targets=True, of_classes=True, rules={"target": _WEIGHT, "others": _WEIGHT}
    ),
    "mse": Objective(_mse, of_classes=True),
}
"""The objectives of this library by name."""


def resolve_objective(objective: str | Mapping[str, Any] | SubnetObjective) -> Objective:
    """An objective from its name, from its name and settings, or from a function.

    Raises:
        UsageError: If there is no such objective, it cannot be imported, or it does not take the settings.
    """
    if callable(objective):
        return _of_function(objective, getattr(objective, "__name__", repr(objective)), {})
    name, settings = parts_of("objective", objective, _FORMS)
    if name in OBJECTIVES:
        of_method = [key for key in settings if key in _OF_METHOD]
        if of_method:
            raise UsageError(
                f"objective: {name!r} has no setting {of_method[0]!r} of its own; {' and '.join(_OF_METHOD)} are "
                "settings of the method"
            )
        check_options("objective", name, settings, OBJECTIVES[name].rules)
        return OBJECTIVES[name].having(settings)
    if not is_own(name):
        raise UsageError(f"objective: got {name!r}, but it is {_FORMS}{did_you_mean(name, OBJECTIVES)}")
    try:
        function = imported(name, "objective", "function", _WHAT)
    except UsageError as error:
        raise UsageError(f"objective: {error}") from error
    return _of_function(function, name, settings)


def objective_problem(objective: object) -> str | None:
    """What is wrong with what a setting says of an objective, a sentence; None if nothing is."""
    try:
        resolve_objective(objective)  # pyright: ignore[reportArgumentType]
    except UsageError as error:
        return str(error)
    return None


def needs_targets(objective: object) -> bool:
    """Whether an objective is none where targets are not known, as far as its name says."""
    name = name_in(objective)
    return isinstance(name, str) and name in OBJECTIVES and OBJECTIVES[name].needs_targets


def _of_function(function: SubnetObjective, name: str, settings: Mapping[str, Any]) -> Objective:
    _check_signature(function, name, settings)
    return Objective(partial(_own, partial(function, **settings), name))


def _own(compare: SubnetObjective, name: str, method: Settled, outputs: Any, main: Any, y: Any) -> Tensor:
    found = compare(outputs, main, y)
    if not isinstance(found, Tensor) or found.dim():
        got = f"shape {tuple(found.shape)}" if isinstance(found, Tensor) else type(found).__name__
        raise UsageError(f"objective {name!r} has to return a scalar tensor, the mean over samples; got {got}")
    return found


def _check_signature(function: SubnetObjective, name: str, settings: Mapping[str, Any]) -> None:
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # some functions that are written in C cannot be asked
        return
    takes = [*signature.parameters.values()][_ARGUMENTS:]
    if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in takes):
        known = [parameter.name for parameter in takes if parameter.kind is not parameter.VAR_POSITIONAL]
        for key in settings:
            if key not in known:
                raise UsageError(
                    f"objective: {name!r} has no setting {key!r}, it has: {', '.join(known) or 'none'}"
                    f"{did_you_mean(key, known)}"
                )
    try:
        signature.bind(*(None,) * _ARGUMENTS, **settings)
    except TypeError as error:
        given = f" with {', '.join(settings)}" if settings else ""
        raise UsageError(
            f"objective: {name!r} cannot be called as {_WHAT.removeprefix('a function of ')}{given}: {error}"
        ) from error
