"""What the subnets of stimulative training learn from: three objectives by name, and functions of one's own.

One of your own is a function of logits that returns a scalar::

    def squared(subnet_logits, main_logits, targets, *, scale=1.0):
        return scale * (subnet_logits - main_logits).square().mean()

A recipe names it ``objective: package.module:squared``, or with settings
``objective: {name: package.module:squared, scale: 0.1}``; in Python the function itself will do. It gets

- ``subnet_logits``, the raw logits of one subnet, shape ``(b, classes)`` or, of sequences, ``(b, positions, classes)``,
  or the outputs of another task; ``b`` is the number of samples that subnets run on, less than the batch with
  ``subnet_share``;
- ``main_logits``, the main net's raw logits of the same samples, the same shape, without graph;
- ``targets`` of these samples as the method was given them: class indices of shape ``(b,)`` or ``(b, positions)``, -100
  where a position does not count, or probabilities in the shape of the logits. Beside a loss of one's own (``beside``)
  they are None unless they are known.

What it returns counts as ``balance`` times its mean over the step's subnets. The settings ``temperature`` and
``amplitude`` are those of the built-in objectives; it does not see them.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from torch import Tensor

from stimulative.errors import UsageError
from stimulative.extension import imported, is_own
from stimulative.naming import did_you_mean
from stimulative.tasks import Task

SubnetObjective = Callable[..., Tensor]
"""One's own: ``(subnet_logits, main_logits, targets, **settings)`` to a scalar; see the head of this file."""

_FORMS = "kl, directional or labels, or one of your own: package.module:name, or a mapping with 'name' and its settings"
_WHAT = "a function of (subnet_logits, main_logits, targets) that returns a scalar tensor"
_ARGUMENTS = 3


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
    """What a subnet learns from, built in or one's own.

    Attributes:
        term: The method, the subnet's outputs, the main net's without graph and the targets, of the same samples, to a
            scalar.
        needs_targets: Whether it is none where targets are not known.
        sees_scale: Whether it goes by the scale of logits; where it does not, evaluation fits a temperature.
    """

    term: Callable[[Settled, Any, Any, Any], Tensor]
    needs_targets: bool = False
    sees_scale: bool = True


def _kl(method: Settled, outputs: Any, main: Any, y: Any) -> Tensor:
    return method.task.divergence(outputs, main, y, temperature=method.temperature)


def _directional(method: Settled, outputs: Any, main: Any, y: Any) -> Tensor:
    student, teacher = (method.task.direction(one, method.amplitude) for one in (outputs, main))
    return method.task.divergence(student, teacher, y, temperature=method.temperature)


def _labels(method: Settled, outputs: Any, main: Any, y: Any) -> Tensor:
    return method.label_term(outputs, y)


OBJECTIVES: dict[str, Objective] = {
    "kl": Objective(_kl),
    "directional": Objective(_directional, sees_scale=False),
    "labels": Objective(_labels, needs_targets=True),
}
"""The objectives of this library by name."""


def resolve_objective(objective: str | Mapping[str, Any] | SubnetObjective) -> Objective:
    """An objective from its name, from its name and settings, or from a function.

    Raises:
        UsageError: If there is no such objective, it cannot be imported, or it does not take the settings.
    """
    if callable(objective):
        return _of_function(objective, getattr(objective, "__name__", repr(objective)), {})
    name, settings = _parts(objective)
    if name in OBJECTIVES:
        if settings:
            raise UsageError(
                f"objective: {name!r} has no setting {next(iter(settings))!r} of its own; temperature and amplitude "
                "are settings of the method"
            )
        return OBJECTIVES[name]
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
    name = objective.get("name") if isinstance(objective, Mapping) else objective
    return isinstance(name, str) and name in OBJECTIVES and OBJECTIVES[name].needs_targets


def _parts(objective: object) -> tuple[str, Mapping[str, Any]]:
    """The name of an objective, and its settings."""
    if isinstance(objective, str):
        return objective, {}
    if isinstance(objective, Mapping) and isinstance(objective.get("name"), str):
        return objective["name"], {key: value for key, value in objective.items() if key != "name"}
    raise UsageError(f"objective: got {objective!r}, but it is {_FORMS}")


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
