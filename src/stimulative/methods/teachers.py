"""What the subnets of a step are compared with: the main net, or an average that is steadier than it.

By name, with settings as a mapping such as ``teacher: {name: images, momentum: 0.5}``:

- ``main``: the main net's outputs in this step, as in the papers.
- ``subnets``: a running average of logits over the subnets of one step, that of the main net first. The first subnet
  learns from the main net, and each further one from ``momentum`` times what the one before learned from, plus the
  rest times what that one gave. Published with Stimulative Training++, switched off there; its momentum is 0.5.
- ``weights``: the outputs of a second net whose weights are the running average of the main net's over the steps (mean
  teacher: Tarvainen and Valpola, NeurIPS 2017, arXiv 1703.01780). It costs a forward pass of the main net.
- ``images``: a running average of the main net's logits for each training image over the epochs (temporal ensembling:
  Laine and Aila, ICLR 2017, arXiv 1610.02242), which costs no pass. In the first epoch it is the main net's logits.

From ``weights`` and ``images`` the main net can learn as well (``main_taught``); with ``images`` of momentum 0, whose
average is what the net itself said an epoch ago, that is self-distillation as in PS-KD (Kim et al., ICCV 2021, arXiv
2006.12000).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from stimulative.errors import UsageError
from stimulative.methods.logit_memory import LogitMemory, Numbered, averaged
from stimulative.methods.options import Rule, check_options, is_number, parts_of
from stimulative.naming import did_you_mean
from stimulative.residual import arguments_of, map_tensors

_FORMS = "main, subnets, weights or images, or a mapping with 'name' and its settings"


class SubnetTeacher(nn.Module):
    """The main net itself; what all others have in common.

    Args:
        model: The main net's model.
        outputs_of: From what it returns to its outputs.
    """

    def __init__(self, model: nn.Module, outputs_of: Callable[[Any], Any]) -> None:
        super().__init__()

    def of_main(self, x: Any, main: Any, numbered: Numbered | None) -> Any:
        """What the main net can learn from in this step.

        Args:
            x: The batch, as the network takes it.
            main: The main net's outputs, without graph.
            numbered: Which training images the batch is of; None where nobody knows.
        """
        return main

    def of_first(self, main: Any, steady: Any) -> Any:
        """What the first subnet of this step learns from, outputs of the whole batch.

        Args:
            main: The main net's outputs, without graph.
            steady: What ``of_main`` gave.
        """
        return steady

    def of_next(self, target: Any, outputs: Any) -> Any:
        """What the next subnet learns from.

        Args:
            target: What the one before learned from, outputs of the whole batch.
            outputs: What that one gave, without graph, of the samples that it ran on, the first ones of the batch.
        """
        return target

    def remember(self, main: Any, numbered: Numbered | None) -> None:
        """Let a training step go into the average; called at its end, also where no subnet ran.

        Args:
            main: The main net's outputs, with their graph or without.
            numbered: Which training images the batch is of; None where nobody knows.
        """


class SubnetsTeacher(SubnetTeacher):
    """A running average over the main net and the subnets of a step.

    Args:
        model: The main net's model.
        outputs_of: From what it returns to its outputs.
        momentum: What the average keeps of itself when the next subnet comes.
    """

    def __init__(self, model: nn.Module, outputs_of: Callable[[Any], Any], *, momentum: float = 0.5) -> None:
        super().__init__(model, outputs_of)
        self.momentum = momentum

    def of_next(self, target: Any, outputs: Any) -> Tensor:
        """The average with the last subnet in it."""
        ran = len(outputs)
        return torch.cat([averaged(target[:ran], outputs.to(target.dtype), self.momentum), target[ran:]])


class WeightsTeacher(SubnetTeacher):
    """A net whose weights are a running average of the main net's over the batches.

    Args:
        model: The main net's model.
        outputs_of: From what it returns to its outputs.
        momentum: What the average keeps of itself with each batch.

    Raises:
        UsageError: If the model cannot be copied.
    """

    def __init__(self, model: nn.Module, outputs_of: Callable[[Any], Any], *, momentum: float = 0.99) -> None:
        super().__init__(model, outputs_of)
        try:
            self.average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(momentum))
        except (RuntimeError, AssertionError, TypeError, NotImplementedError) as error:
            raise UsageError(
                f"teacher: 'weights' needs a copy of the model, and {type(model).__name__} cannot be copied ({error}); "
                "use another teacher"
            ) from error
        self.average.requires_grad_(False)
        self._main, self._outputs_of = [model], outputs_of  # in a list, so that it is no part of this module

    def of_main(self, x: Any, main: Any, numbered: Numbered | None) -> Any:
        """What the average gives, in the modes that the main net's modules have."""
        for ours, theirs in zip(self.average.module.modules(), self._main[0].modules(), strict=True):
            ours.training = theirs.training
        args, kwargs = arguments_of(map_tensors(Tensor.clone, x))  # a model may write into what it is given
        with torch.no_grad():
            return self._outputs_of(self.average(*args, **kwargs))

    def remember(self, main: Any, numbered: Numbered | None) -> None:
        """Let the weights of this batch go into the average.

        Raises:
            UsageError: If weights have 16 bits, of which an average would hardly move.
        """
        halves = [parameter.dtype for parameter in self.average.parameters() if parameter.dtype.itemsize < 4]
        if halves:
            raise UsageError(
                f"teacher: 'weights' averages weights in steps that {halves[0]} is too coarse for; train with "
                "training.precision bf16-mixed, whose weights have 32 bits, or use another teacher"
            )
        self.average.update_parameters(self._main[0])


class ImagesTeacher(SubnetTeacher):
    """A running average of the main net's logits for each training image.

    Args:
        model: The main net's model.
        outputs_of: From what it returns to its outputs.
        momentum: What the average keeps of itself when an image comes again.
    """

    def __init__(self, model: nn.Module, outputs_of: Callable[[Any], Any], *, momentum: float = 0.5) -> None:
        super().__init__(model, outputs_of)
        self.memory = LogitMemory(momentum=momentum)

    def of_main(self, x: Any, main: Any, numbered: Numbered | None) -> Tensor:
        """The average so far; of images that have not been seen, the main net's logits."""
        return self.memory.recalled(known_numbers(numbered, "teacher: images"), otherwise=main)

    def of_first(self, main: Any, steady: Any) -> Tensor:
        """The average with the logits of this step in it."""
        return averaged(steady, main.to(steady.dtype), self.memory.momentum)

    def remember(self, main: Any, numbered: Numbered | None) -> None:
        """Let the logits of this step go into the average."""
        self.memory.learn(known_numbers(numbered, "teacher: images"), main)


TEACHERS: Mapping[str, Callable[..., SubnetTeacher]] = {
    "main": SubnetTeacher,
    "subnets": SubnetsTeacher,
    "weights": WeightsTeacher,
    "images": ImagesTeacher,
}
"""What subnets can learn from, by name."""

_MOMENTUM: Mapping[str, Rule] = {
    "momentum": (lambda v: is_number(v) and 0 <= v < 1, "what an average keeps of itself, from 0 to below 1")
}
_SETTINGS: Mapping[str, Mapping[str, Rule]] = {name: {} if name == "main" else _MOMENTUM for name in TEACHERS}


def teacher_problem(teacher: object) -> str | None:
    """What is wrong with what a setting says of a teacher, a sentence; None if nothing is."""
    try:
        _checked(teacher)
    except UsageError as error:
        return str(error)
    return None


def resolve_teacher(
    teacher: str | Mapping[str, Any], model: nn.Module, outputs_of: Callable[[Any], Any]
) -> SubnetTeacher:
    """A teacher from its name, or from its name and settings.

    Args:
        teacher: Which one.
        model: The main net's model.
        outputs_of: From what it returns to its outputs.

    Raises:
        UsageError: If there is no such teacher, or it does not take the settings.
    """
    name, settings = _checked(teacher)
    return TEACHERS[name](model, outputs_of, **settings)


STEADY = "weights", "images"
"""Teachers that the main net can learn from, too."""


def known_numbers(numbered: Numbered | None, who: str) -> Numbered:
    """Which training samples a batch is of.

    Args:
        numbered: What is known of that.
        who: Who asks, for the message.

    Raises:
        UsageError: If nobody knows.
    """
    if numbered is None:
        raise UsageError(
            f"{who} remembers each training image, and nobody says which ones a batch is of. Digits, CIFAR, folders "
            "and shards of images are numbered on one device, unless they are mixed (mixup, cutmix); in a loop of your "
            "own say it before each step, method.numbered = Numbered(numbers, size)"
        )
    return numbered


def _checked(teacher: object) -> tuple[str, Mapping[str, Any]]:
    name, settings = parts_of("teacher", teacher, _FORMS)
    if name not in TEACHERS:
        raise UsageError(f"teacher: got {name!r}, but it is {_FORMS}{did_you_mean(name, TEACHERS)}")
    check_options("teacher", name, settings, _SETTINGS[name])
    return name, settings
