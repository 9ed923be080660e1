"""The subnets' term beside a forward pass that somebody else's code makes.

A training loop that is there already calls the model and computes a loss, in code that knows of no subnets. While
``beside`` is open, the model's own call also runs the sampled subnets, which share with the main net what they have in
common, and gives back what the main net returned. What the subnets add to the loss is then there to be added::

    with method.beside() as subnets:
        loss = criterion(model(x), y)
    (loss + subnets.term).backward()

The gradients are those of the method itself, where the criterion is cross-entropy. As the subnets run within the
model's call, they run within whatever is around it: autocast, and ``forward`` of ``DistributedDataParallel``.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from stimulative.errors import UsageError
from stimulative.methods.base import Method, mean_of
from stimulative.methods.labels import known_targets
from stimulative.methods.lesson import Lesson
from stimulative.methods.options import name_in
from stimulative.methods.subnet_objectives import needs_targets
from stimulative.naming import did_you_mean
from stimulative.residual import Pass, ResidualNetwork, Subnet, batch_size
from stimulative.tasks import Task

_SETTLED = {
    "network": "it is found",
    "label_smoothing": "the loss is your own",
    "schedule": "there is one backward pass",
}


class Stimulates(Protocol):
    """What trains subnets beside a loss: ``StimulativeTraining``, whose methods these are."""

    network: ResidualNetwork
    task: Task
    step: int

    def plan(self) -> tuple[list[Subnet], float]:
        """The subnets of this step, and the weight of their mean term."""
        ...

    def passes(self, x: Any, batch: int, subnets: Sequence[Subnet], *, cut: bool) -> Iterator[Pass]:
        """The main net's pass, position 0, and then the subnets'."""
        ...

    def lesson(self, x: Any, main: Any, y: Any) -> Lesson:
        """What main net and subnets learn from in a step."""
        ...


class Beside:
    """What ``beside`` has heard of a step.

    Attributes:
        calls: How often the model was called in training mode.
        subnets: The subnets that ran besides the main net.
        divergences: How far each subnet of each call is from what it learns from, scalars.
    """

    def __init__(self) -> None:
        self.calls = 0
        self.subnets: tuple[Subnet, ...] = ()
        self.weight = 0.0
        self.divergences: list[Tensor] = []

    @property
    def subnet_kl(self) -> Tensor:
        """The mean divergence, a scalar without graph; 0 without subnets."""
        return self._mean().detach()

    @property
    def term(self) -> Tensor:
        """What to add to the loss, a scalar; 0 without subnets."""
        return self.weight * self._mean()

    def _mean(self) -> Tensor:
        return mean_of(self.divergences) if self.divergences else torch.zeros(())


@contextmanager
def beside(method: Stimulates, targets: Any = None) -> Iterator[Beside]:
    """Run subnets within the model's own calls; see ``StimulativeTraining.beside``."""
    problems = _impossible_beside(vars(method))
    if problems:
        raise UsageError("; ".join(problems))
    model = method.network.model
    step = Beside()
    inside = False

    def call(original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        nonlocal inside
        if inside or not model.training or not torch.is_grad_enabled():
            return original(*args, **kwargs)
        if not step.calls:
            drawn, step.weight = method.plan()
            step.subnets = tuple(drawn)
        step.calls += 1
        if not step.subnets:
            return original(*args, **kwargs)
        inside = True
        try:
            return _run(method, step, targets, args, kwargs)
        finally:
            inside = False

    with called_instead(model, call):
        yield step
    if step.calls:
        method.step += 1


def check_settings_beside(method: type[Method], settings: Mapping[str, Any]) -> None:
    """Raise one error that names everything impossible about settings of a method that runs beside a loss.

    Args:
        method: The method.
        settings: Its settings by name, those that are given.
    """
    known = [name for name in inspect.signature(method).parameters if name not in _SETTLED]
    problems = []
    for name in settings:
        if name in _SETTLED:
            problems.append(f"{name}: is no setting here, since {_SETTLED[name]}")
        elif name not in known:
            near = did_you_mean(name, known)
            problems.append(f"{name}: there is no such setting, known: {', '.join(known)}{near}")
    if not problems:
        problems = [*method.problems(settings), *_impossible_beside(settings)]
    if problems:
        raise UsageError(f"{method.__name__}: " + "; ".join(problems))


@contextmanager
def called_instead(module: nn.Module, call: Callable[..., Any]) -> Iterator[None]:
    """Call something else in place of a module with its hooks, and take every trace of it away again.

    Not in place of its ``forward`` alone: the hooks belong to each of the passes that are made instead.

    Args:
        module: The module.
        call: Gets what would have been called, and the arguments.
    """
    own, slot = vars(module), call_of(module)
    had, before, original = slot in own, own.get(slot), getattr(module, slot)
    own[slot] = lambda *args, **kwargs: call(original, *args, **kwargs)
    try:
        yield
    finally:
        if had:
            own[slot] = before
        else:
            del own[slot]


def call_of(module: nn.Module) -> str:
    """The attribute that stands for a call of a module with its hooks."""
    return "_call_impl" if getattr(module, "_compiled_call_impl", None) is None else "_compiled_call_impl"


def as_input(module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """The arguments of a call as one input, in a form that ``unravel`` takes."""
    if args and kwargs:
        bound = inspect.signature(module.forward).bind(*args, **kwargs)
        named = {}
        for name, value in bound.arguments.items():
            kind = bound.signature.parameters[name].kind
            if kind in (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.VAR_POSITIONAL):
                raise UsageError(
                    f"{type(module).__name__} is called with positional arguments that have no names ({name}), and "
                    "with named ones: call it with one kind only"
                )
            named |= value if kind is inspect.Parameter.VAR_KEYWORD else {name: value}
        return named
    if kwargs:
        return dict(kwargs)
    return args[0] if len(args) == 1 and isinstance(args[0], Tensor) else args


def _run(method: Stimulates, step: Beside, targets: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """What the main net returns; the subnets' divergences go to the step."""
    task, model = method.task, method.network.model
    batch = batch_size((args, kwargs))
    x = as_input(model, args, kwargs)
    returned: Any = None
    lesson: Lesson | None = None
    known: Any = None
    of_subnets: dict[int, Any] = {}
    for position, output, _ in method.passes(x, batch, step.subnets, cut=False):
        outputs = task.outputs_of(output)
        if position == 0:
            task.check_outputs(outputs)
            returned = output
            if targets is None:
                known = known_targets(task, model, kwargs, outputs)
            elif callable(targets):
                known = targets(outputs)
            else:
                task.check(outputs, targets, values=False)
                known = targets
            lesson = method.lesson(args, outputs, known)
        else:
            of_subnets[position] = outputs
        del output, outputs
    assert lesson is not None
    for position, subnet in enumerate(step.subnets, start=1):  # as they were drawn
        step.divergences.append(lesson.term(of_subnets.pop(position), subnet))
    return returned


def _impossible_beside(settings: Mapping[str, Any]) -> Sequence[str]:
    rules = {
        "objective": (
            lambda v: not needs_targets(v),
            "it needs the targets of the loss, which is your own: kl, directional or another that needs none",
        ),
        "teacher": (
            lambda v: name_in(v) in ("main", "subnets"),
            "an average over steps is of the whole of them, and a step without subnets is your own: main or subnets",
        ),
        "main_weight": (lambda v: v == 1, "it weighs the loss, which is your own: weigh it there"),
        "main_taught": (lambda v: not v, "it changes the loss, which is your own"),
        "normalise_main": (lambda v: not v, "it changes the loss, which is your own: normalise in there"),
        "label_smoothing": (lambda v: not v, "it changes the loss, which is your own: smooth in there"),
        "schedule": (
            lambda v: v == "joint",
            "'lean' goes backward before subnets run, but here there is one backward pass: joint",
        ),
    }
    return [
        f"{key}: got {settings[key]!r}, but {text}"
        for key, (allowed, text) in rules.items()
        if key in settings and not allowed(settings[key])
    ]
