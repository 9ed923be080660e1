"""What main net and subnets learn from in one step of stimulative training, and how far they are from it."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor

from stimulative.methods.inputs import detached
from stimulative.methods.logit_memory import Numbered
from stimulative.methods.teachers import SubnetTeacher
from stimulative.residual import Subnet
from stimulative.tasks import Task


class Teaches(Protocol):
    """What a lesson reads of ``StimulativeTraining``."""

    task: Task
    teaching: SubnetTeacher
    numbered: Numbered | None
    temperature: float
    main_weight: float
    main_taught: float
    balance: float
    corrections: dict[Subnet, float] | None

    @property
    def current_balance(self) -> float:
        """The balance at the present step."""
        ...

    def subnet_term(self, outputs: Any, main: Any, y: Any) -> Tensor:
        """How far a subnet is from what it learns from."""
        ...


class Lesson:
    """What main net and subnets learn from in one step.

    Args:
        method: The method.
        x: The batch, as the network takes it.
        main: The main net's outputs, without graph.
        y: The targets; None where they are not known.
    """

    def __init__(self, method: Teaches, x: Any, main: Any, y: Any) -> None:
        self._method = method
        self._x, self._main, self._y = x, main, y
        self._steady: Any = None
        self._target: Any = None

    def main_term(self, outputs: Any, label_term: Tensor) -> Tensor:
        """The main net's own loss, a scalar.

        Args:
            outputs: Its outputs.
            label_term: Its loss by the targets.
        """
        method = self._method
        asked = method.main_taught and method.balance
        taught = method.main_taught * method.current_balance / method.balance if asked else 0.0
        if taught:
            divergence = method.task.divergence(outputs, self._average(), self._y, temperature=method.temperature)
            label_term = torch.lerp(label_term, divergence.to(label_term.dtype), taught)
        return label_term if method.main_weight == 1 else method.main_weight * label_term

    def term(self, outputs: Any, subnet: Subnet) -> Tensor:
        """How far the next subnet is from what it learns from, a scalar; with its weight, where draws are corrected.

        Args:
            outputs: Its outputs, of as many samples as it ran on.
            subnet: Which one it is; one that is never drawn has a weight of 1.
        """
        method = self._method
        if self._target is None:
            self._target = method.teaching.of_first(self._main, self._average())
        term = method.subnet_term(outputs, self._target, self._y)
        self._target = method.teaching.of_next(self._target, detached(outputs))
        return term if method.corrections is None else term * method.corrections.get(subnet, 1.0)

    def _average(self) -> Any:
        """What the teacher gives for this batch, asked once."""
        if self._steady is None:
            self._steady = self._method.teaching.of_main(self._x, self._main, self._method.numbered)
        return self._steady
