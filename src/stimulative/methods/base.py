"""What every training method is: a step over a batch that returns named terms, and a little state that says when."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from stimulative.errors import UsageError
from stimulative.methods.logit_memory import Numbered
from stimulative.residual import (
    ResidualNetwork,
    Subnet,
    SubnetLike,
    arguments_of,
    going_backward,
    map_tensors,
    tensors_in,
)
from stimulative.tasks import Task, resolve_task


@dataclass(init=False, repr=False, eq=False)
class Terms:
    """What one step of a method computed.

    Wrappers of a method look into what it returns for what has a graph, which is the loss: those of PyTorch
    (``DistributedDataParallel``, ``fully_shard``) as dataclasses or trees, Lightning's as a dataclass, which it takes
    apart and rebuilds. So the loss is the one field, and the one leaf; the rest they hand on as it is.

    Args:
        loss: What to call backward on, a scalar.
        main_ce: The main net's loss, cross-entropy where it tells classes apart, a scalar without graph.
        subnet_kl: Mean divergence of the subnets from what they learn from, a scalar without graph; 0 without subnets.
            It is the mean also where their sum enters the loss (``reduction: sum``). Of subnets that learn from the
            labels (``objective: labels``) it is their mean loss.
        auxiliary: Mean loss of auxiliary heads, a scalar without graph; 0 without heads.
        logits: The main net's outputs without graph: logits of shape ``(B, classes)`` or, of sequences, ``(B,
            positions, classes)``, or whatever the task has.
        subnets: The subnets that were trained besides the main net.
    """

    __slots__ = ("_auxiliary", "_subnet_kl", "logits", "loss", "main_ce", "subnets")

    loss: Tensor

    def __init__(
        self,
        *,
        loss: Tensor,
        main_ce: Tensor,
        subnet_kl: Tensor | None = None,
        auxiliary: Tensor | None = None,
        logits: Any,
        subnets: Sequence[Subnet] = (),
    ) -> None:
        self.loss = loss
        self.main_ce = main_ce.detach()
        self._subnet_kl = None if subnet_kl is None else subnet_kl.detach()
        self._auxiliary = None if auxiliary is None else auxiliary.detach()
        self.logits = map_tensors(Tensor.detach, logits)
        self.subnets = tuple(subnets)

    def __deepcopy__(self, memo: Mapping[int, Any]) -> Terms:
        return copy.copy(self)  # Lightning makes one to put another loss into; logits may be large

    @property
    def subnet_kl(self) -> Tensor:
        """Mean divergence of the subnets."""
        return torch.zeros_like(self.main_ce) if self._subnet_kl is None else self._subnet_kl

    @subnet_kl.setter
    def subnet_kl(self, value: Tensor) -> None:
        self._subnet_kl = value

    @property
    def auxiliary(self) -> Tensor:
        """Mean loss of auxiliary heads."""
        return torch.zeros_like(self.main_ce) if self._auxiliary is None else self._auxiliary

    @auxiliary.setter
    def auxiliary(self, value: Tensor) -> None:
        self._auxiliary = value

    def __repr__(self) -> str:
        return (
            f"Terms(loss={self.loss.item():.4g}, main_ce={self.main_ce.item():.4g}, "
            f"subnet_kl={self.subnet_kl.item():.4g}, auxiliary={self.auxiliary.item():.4g}, "
            f"logits={map_tensors(lambda one: tuple(one.shape), self.logits)}, "
            f"subnets=({', '.join(map(str, self.subnets))}))"
        )


_SECOND_LOOK = 64
"""The second step whose targets are looked at where that has to be waited for; what is wrong mostly is so at once."""


def _with_loss(loss: Iterable[Any], terms: Terms) -> Terms:
    rebuilt = copy.copy(terms)
    (rebuilt.loss,) = loss
    return rebuilt


pytree.register_pytree_node(Terms, lambda terms: ([terms.loss], terms), _with_loss)

Backward = Callable[[Tensor], Any]
"""Calls backward on a loss, which it may scale first: ``lambda loss: scaler.scale(loss).backward()``."""


class Method(nn.Module):
    """A way of training a residual network.

    Call it on a batch for the terms of a step, and call ``terms.loss.backward()``; or call ``backward``, which does
    both. It counts its steps, a batch each, and draws its subnets from a generator of its own; both are part of its
    ``state_dict``, so training that is resumed goes on as if it had never stopped.

    Args:
        network: The network to train.
        task: What the network is for: ``classification``, ``multilabel``, ``segmentation``, ``regression``,
            ``embedding`` or one of ``stimulative.tasks``; by default what a model of Transformers says, else
            classification.
        label_smoothing: Label smoothing of the main net's cross-entropy, 0 to 1; for classes that exclude each other.
        total_steps: The number of steps that training will take; what changes over training goes by it. A step is one
            batch, and so one call of the method, also where gradients of several are accumulated before the optimiser
            steps: ``epochs * len(loader)`` in both cases.
        seed: Seed of the method's generator.

    Attributes:
        numbered: Which training samples the next batch is of, for methods that remember each; said before each step by
            the loop, where samples have numbers.
    """

    def __init__(
        self,
        network: ResidualNetwork,
        *,
        task: str | Task | None = None,
        label_smoothing: float = 0.0,
        total_steps: int | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if not isinstance(network, ResidualNetwork):
            raise UsageError(
                f"a method trains a ResidualNetwork, got {type(network).__name__}: "
                "stimulative.unravel(model, example_input) makes one of a model"
            )
        self.network = network
        self.task = resolve_task(task, network.model)
        if self.tasks is not None and self.task.name not in self.tasks:
            raise UsageError(
                f"{type(self).__name__} trains for {', '.join(self.tasks)}, got {self.task.name}; use "
                "StimulativeTraining, StochasticDepth or CommonTraining"
            )
        if label_smoothing and not self.task.smooths:
            raise UsageError(
                f"label_smoothing: got {label_smoothing}, but it spreads the probability of one class over the others, "
                f"and {self.task.name} has no such classes; leave it out"
            )
        self.label_smoothing = label_smoothing
        self.total_steps = total_steps
        self.step = 0
        self._looked: int | None = None  # the last step whose targets' values were looked at, where that takes a wait
        self.generator = torch.Generator().manual_seed(seed)
        self.numbered: Numbered | None = None

    # What the loop asks a method, so that it need not know which one it trains by. Each answers for common training; a
    # method overrides what is otherwise with it.

    tasks: ClassVar[tuple[str, ...] | None] = None
    """What it can train networks for, by the names of tasks; None for everything."""

    advice: ClassVar[str] = ""
    """What else to try where the net does no better than chance, as the end of a sentence; nothing by default."""

    @classmethod
    def problems(cls, settings: Mapping[str, Any]) -> list[str]:
        """What is impossible about settings of this method, asked before any network is built.

        Args:
            settings: Values by name, of the right types; those that are missing have their defaults.

        Returns:
            A sentence each, starting with the name of the setting and a colon; none when all is well.
        """
        return []

    @classmethod
    def problem_on_devices(cls, settings: Mapping[str, Any]) -> str | None:
        """Why settings of this method cannot be trained on several devices, asked before any work.

        Args:
            settings: Values by name.

        Returns:
            A sentence that starts with the name of the setting and a colon; None if they can.
        """
        return None

    @property
    def calls_backward(self) -> bool:
        """Whether a step has to be taken by ``backward``, since it has several backward passes.

        Where it is False the loop calls the method for its terms (within ``DistributedDataParallel`` on several
        devices) and goes backward from ``terms.loss`` itself.
        """
        return False

    @property
    def current_balance(self) -> float:
        """The weight of the subnets' term at the present step, as metrics report it; 0 for methods without one."""
        return 0.0

    @property
    def pollutes_statistics(self) -> bool:
        """Whether the main net's running statistics are not its own and need recalibration before evaluation."""
        return False

    @property
    def needs_numbers(self) -> bool:
        """Whether it has to be told which training samples each batch is of; see ``numbered``."""
        return False

    @property
    def calibrates(self) -> bool:
        """Whether logits come out at a scale of their own, so that evaluation has to fit a temperature to them."""
        return False

    def as_deployed(self) -> AbstractContextManager[None]:
        """A context in which the model is what it is deployed as; for measuring it during training."""
        return nullcontext()

    def deploy(self) -> None:
        """Make the model, for good, what it is deployed as; called once, when training is over."""

    def forward(self, x: Any, y: Any, subnets: Sequence[SubnetLike] | None = None) -> Terms:
        """The terms of one step.

        Args:
            x: A batch, as the network takes it: images of shape ``(B, C, H, W)``, or a mapping of a model's keyword
                arguments such as ``input_ids`` and ``attention_mask`` of shape ``(B, positions)``.
            y: Targets as the task takes them. Of classification: class indices of shape ``(B,)`` or probabilities of
                shape ``(B, classes)``; of a language model the token that follows each position, shape ``(B,
                positions)``, -100 where none counts.
            subnets: The subnets to train besides the main net, instead of those that the method would draw.
        """
        raise NotImplementedError

    def backward(
        self,
        x: Any,
        y: Any,
        subnets: Sequence[SubnetLike] | None = None,
        *,
        scale: float | Tensor = 1.0,
        backward: Backward = torch.autograd.backward,
    ) -> Terms:
        """The terms of one step, with their gradients added to the parameters'.

        Args:
            x: A batch, as the network takes it.
            y: Its targets.
            subnets: The subnets to train besides the main net, instead of those that the method would draw.
            scale: Factor on the gradients, such as one over the number of accumulated batches; a number, or a scalar.
            backward: What calls backward on a loss, its only argument: ``lambda loss: scaler.scale(loss).backward()``
                with a ``GradScaler``, ``fabric.backward``, ``accelerator.backward``. A step of several backward passes
                (``calls_backward``) calls it for each, with a scalar that stands for the pass's loss and has no graph
                behind it; the gradient that arrives there goes on into the pass.
        """
        terms = self(x, y, subnets)
        backward(terms.loss * scale if isinstance(scale, Tensor) or scale != 1.0 else terms.loss)
        terms.loss = terms.loss.detach()
        return terms

    def label_loss(self, outputs: Any, y: Any) -> Tensor:
        """What the main net learns by, of its outputs and the targets; a scalar.

        Values of targets are looked at in each step on a CPU. Where that has to be waited for, it is once in the first
        step, and once each in steps 64, 128, 256 and so on.

        Raises:
            UsageError: If the targets do not fit the outputs or the task.
        """
        self.task.check(outputs, y, values=self._looks_at(outputs))
        return self.task.loss(outputs, y, label_smoothing=self.label_smoothing)

    def _looks_at(self, outputs: Any) -> bool:
        """Whether this is when values of targets are looked at."""
        if all(tensor.device.type == "cpu" for tensor in tensors_in(outputs)):
            return True
        often = self.step >= _SECOND_LOOK and self.step & (self.step - 1) == 0
        if self._looked is not None and (self._looked == self.step or not often):
            return False
        self._looked = self.step
        return True

    def run_main(self, x: Any) -> Any:
        """The main net's outputs, by the model itself: nothing has to be known of its blocks."""
        args, kwargs = arguments_of(x)
        return self.task.outputs_of(self.network.model(*args, **kwargs))

    def get_extra_state(self) -> dict[str, Any]:
        """The step and the generator's state."""
        return {"step": self.step, "generator": self.generator.get_state()}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Go on from a saved step and generator state."""
        self.step = state["step"]
        self.generator.set_state(state["generator"].cpu())

    def _count(self) -> None:
        if self.training:
            vars(self)["numbered"] = None  # of the next batch it has to be said again
            vars(self)["step"] += 1  # nn.Module's own way of assigning takes as long as a small kernel


def impossible(settings: Mapping[str, Any], rules: Mapping[str, tuple[Callable[[Any], bool], str]]) -> list[str]:
    """Settings that break their rule, a sentence each.

    Args:
        settings: Values by name; a setting that is not there breaks nothing.
        rules: By name what a value has to pass, and what it is in words.
    """
    return [
        f"{key}: got {settings[key]!r}, but it is {text}"
        for key, (allowed, text) in rules.items()
        if key in settings and not allowed(settings[key])
    ]


def backward_through(backward: Backward, loss: Tensor, factor: float | Tensor, *, retain_graph: bool) -> None:
    """Go backward from a loss by what takes a loss alone, also where the graph has to be retained.

    One of somebody else's is given a stand-in, and what it makes of that (a loss scaled for half precision, say) goes
    on into the graph.

    Args:
        backward: Calls backward on a loss.
        loss: The loss, a scalar.
        factor: What the loss is multiplied by.
        retain_graph: Whether other losses have a part of its graph to go through.
    """
    with going_backward(loss):
        if backward is torch.autograd.backward:
            if isinstance(factor, Tensor):
                gradient = factor.to(loss)
            else:
                gradient = None if factor == 1 else loss.new_full((), factor)
            loss.backward(gradient, retain_graph=retain_graph)
            return
        stand_in = loss.detach().requires_grad_()
        backward(stand_in * factor)
        if stand_in.grad is not None:
            loss.backward(stand_in.grad, retain_graph=retain_graph)


def mean_of(terms: Sequence[Tensor]) -> Tensor:
    """The mean of one scalar or more."""
    return terms[0] if len(terms) == 1 else torch.stack([*terms]).mean()


def refuse_subnets(title: str, subnets: Sequence[SubnetLike] | None) -> None:
    """Raise if subnets were given to a method that trains none."""
    if subnets:
        raise UsageError(f"{title} trains no subnets, got {len(subnets)}; use StimulativeTraining")


def check_settings(method: type[Method], settings: Mapping[str, Any]) -> None:
    """Raise one error that names everything impossible about the settings of a method."""
    found = method.problems(settings)
    if found:
        raise UsageError(f"{method.__name__}: " + "; ".join(found))
