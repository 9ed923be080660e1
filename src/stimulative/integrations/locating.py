"""Finds the residual network in what a training step calls."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

from torch import nn

from stimulative.errors import UsageError
from stimulative.integrations.first_call import example_of, hearing, unraveled
from stimulative.methods import Beside, StimulativeTraining, as_input
from stimulative.residual import ResidualNetwork, arguments_of, quietly

SetUp = Callable[[ResidualNetwork], StimulativeTraining]


class Search:
    """The first training step of a module that holds a network, under whichever name.

    Args:
        owner: The module, such as a LightningModule.
        name: The name of the network in it, ``""`` for the module itself; None for what is called first that has
            residual blocks. Nothing that is trained may run after that, unless both are called through the module.
        example_input: What to unravel it with; None for the first samples of what it is called with.

    Attributes:
        subnets: What was heard of the step, once the network is found.
    """

    def __init__(self, owner: nn.Module, name: str | None, example_input: Any) -> None:
        self.owner = owner
        self.name = name
        self.example_input = example_input
        self.subnets: Beside | None = None
        self.called: dict[str, str] = {}  # why each of them is not the network
        self.found: str | None = None

    @contextmanager
    def open(self, set_up: SetUp) -> Iterator[None]:
        """Look at what is called, and run subnets beside the network as soon as it is.

        Args:
            set_up: Makes the method of the network.
        """
        modules = _parts(self.owner) if self.name is None else {self.name: named(self.owner, self.name)}
        with ExitStack() as stack:
            stack.enter_context(hearing(modules, partial(self._hear, modules, set_up, stack)))
            yield

    def check(self) -> None:
        """Raise if the step is over and the network was not found.

        Raises:
            UsageError: With what was called instead.
        """
        if self.found is not None:
            return
        owner = type(self.owner).__name__
        if self.called:
            reasons = "; ".join(f"{name or 'itself'}: {reason}" for name, reason in self.called.items())
            raise UsageError(f"no residual network in what the training step of {owner} calls. {reasons}")
        what = "any network of its own" if self.name is None else repr(self.name)
        raise UsageError(
            f"the training step of {owner} did not call {what} in training mode and with gradients, so that no subnet "
            "could run beside it. Call the network as a module, self.model(x), not self.model.forward(x), leave it in "
            "training mode, and if it is not found give its name: network='model'"
        )

    def _hear(self, modules: Mapping[str, nn.Module], set_up: SetUp, stack: ExitStack, name: str, x: Any) -> None:
        if self.found is not None:
            self._check_last(name)
            return
        if self.name is None and name == "":
            name, x = _that_does_it_all(modules, x) or (name, x)
        example = example_of(x) if self.example_input is None else self.example_input
        try:
            network = unraveled(modules[name], example)
        except UsageError as error:
            if self.name is not None:
                raise
            self.called[name] = str(error)
            return
        self.found = name
        self.subnets = stack.enter_context(set_up(network).beside())

    def _check_last(self, name: str) -> None:
        if self.name is None and self.found and name not in ("", self.found):
            raise UsageError(
                f"the training step of {type(self.owner).__name__} calls {self.found!r}, which has residual blocks, "
                f"and then {name!r}, so that what the first one returns may be no logits. Call both through the "
                f"module's forward, self(x); or, if they are logits, say so: network={self.found!r}"
            )


def named(owner: nn.Module, name: str) -> nn.Module:
    """A part of a module by its name.

    Raises:
        UsageError: If there is none of that name.
    """
    try:
        return owner.get_submodule(name)
    except AttributeError:
        parts = ", ".join(repr(part) for part in _parts(owner) if part)
        raise UsageError(
            f"network={name!r}: {type(owner).__name__} has no such module; it has {parts or 'none with parameters'}"
        ) from None


def _parts(owner: nn.Module) -> dict[str, nn.Module]:
    """The module itself and its parts that may be called in a step and have something to train, by name."""
    parts = {"": owner}
    for name, child in owner.named_children():
        inner = child.named_children() if isinstance(child, nn.ModuleList | nn.ModuleDict) else ()
        parts |= {f"{name}.{key}": module for key, module in inner} or {name: child}
    return {name: part for name, part in parts.items() if any(p.requires_grad for p in part.parameters())}


def _that_does_it_all(modules: Mapping[str, nn.Module], x: Any) -> tuple[str, Any] | None:
    """The part whose result is what the module itself returns, and its input; None where several do the work."""
    calls: list[tuple[str, Any, Any]] = []

    def after(name: str, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        calls.append((name, as_input(module, args, kwargs), output))

    hooks = [
        module.register_forward_hook(partial(after, name), with_kwargs=True) for name, module in modules.items() if name
    ]
    args, kwargs = arguments_of(example_of(x))
    try:
        with quietly(modules[""]):
            output = modules[""](*args, **kwargs)
    finally:
        for hook in hooks:
            hook.remove()
    return calls[0][:2] if len(calls) == 1 and calls[0][2] is output else None
