"""Stimulative training.

Ye et al., "Stimulative Training of Residual Networks: A Social Psychology Perspective of Loafing", NeurIPS 2022,
arXiv 2210.04153. Each step samples a subnet ``s`` of the main net ``m`` (shared weights) and minimises

    L = CE(z_m, y) + balance * KL(softmax(z_m) || softmax(z_s)),    z_m without gradient in the second term.

Where this differs from the authors' published code, and why:

- The passes of main net and subnet share what they have in common (same result, less time; see
  ``stimulative.residual.execution``). A BatchNorm in the shared prefix sees the batch once, not twice.
- By default a subnet's pass leaves the running statistics alone (``freeze_subnet_statistics``), so those of the main
  net are its own. The published code mixes both and re-estimates them before every evaluation.
- The balance rises over training (``balance_ramp``). A large balance from step 0 on makes both nets agree on nothing
  in short runs; the papers' balances of 5 and 10 belong to their long ones.

From its follow-up ("ST++": Ye et al., "Stimulative Training++: Go Beyond The Performance Limits of Residual Networks",
arXiv 2305.02507) come, each as a setting of its own: KL- (``objective: directional``, and ``normalise_main``), smaller
inputs for subnets (``smaller_inputs``), several subnets a step and inter-stage sampling. Differences there:

- Several subnets enter by their mean by default, so that ``balance`` keeps its meaning. The published loop goes
  backward from each one's loss with weight 1, which is their sum (``reduction: sum``).
- Each subnet's images are resized from the original batch, antialiased. In the published loop the batch variable is
  overwritten, so that the k-th subnet gets images that were resized, and brought to mean and deviation, k times
  (``resizing: published`` with ``normalise_again``).
- Subnets whose images have the same size run together and share prefixes, at the full size with the main net.
- The published switch for KL- normalises the main net's logits in its cross-entropy as well; here that is a setting of
  its own. Either way logits come out at no scale of their own, so evaluation fits a temperature (``calibrates``).

What a subnet learns by is in ``subnet_objectives.py``, what it learns from in ``teachers.py``; the card says which
settings come how close to LayerDrop, LayerSkip and Adaptive Depth Networks.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor

from stimulative.errors import UsageError
from stimulative.methods.balance import ADVICE, BalanceSchedule, Shape, warn_of_more_batches
from stimulative.methods.base import (
    Backward,
    Method,
    Terms,
    backward_through,
    check_settings,
    mean_of,
)
from stimulative.methods.beside import Beside, beside
from stimulative.methods.inputs import (
    Resizing,
    check_channels,
    check_part,
    check_shrink,
    check_smaller,
    check_whole,
    detached,
    drawn_sides,
    gives_logits_of_samples,
    images_of,
)
from stimulative.methods.lesson import Lesson
from stimulative.methods.options import name_in
from stimulative.methods.presets import PRESETS, Preset, preset_of, problems_for, problems_of
from stimulative.methods.subnet_objectives import SubnetObjective, resolve_objective
from stimulative.methods.teachers import resolve_teacher
from stimulative.residual import (
    Pass,
    ResidualNetwork,
    Sampler,
    Subnet,
    SubnetLike,
    batch_size,
    corrections,
    first_samples,
    resolve_sampler,
)
from stimulative.tasks import Task

_OF_EVERY_METHOD = ("self", "__class__", "network", "task", "label_smoothing", "total_steps", "seed")
"""What a method is made of besides its own settings."""


class StimulativeTraining(Method):
    """Train the main net and, each step, a sampled subnet to agree with it.

    Args:
        network: The network to train.
        balance: Weight of the subnet's term (the papers' lambda). 0 is common training, at its cost.
        balance_ramp: Share of training (from ``balance_start`` on) over which the balance rises from 0, from 0 to 1.
            Needs to know ``total_steps``; without it the balance is constant.
        balance_start: Share of training before which no subnet is trained, from 0 to below 1.
        balance_shape: How the balance moves over that share: ``linear`` and ``cosine`` rise to it and stay,
            ``cosine_down`` falls from it to 0.
        main_weight: Weight of the main net's own loss.
        teacher: What subnets learn from: the ``main`` net, or an average over the ``subnets`` of a step, the main net's
            ``weights``, or its logits for each of the ``images``; ``stimulative.methods.teachers`` has their settings.
        main_taught: Share of the main net's loss that is its divergence from the teacher, where that is ``weights`` or
            ``images``; it moves as the balance does.
        temperature: Temperature of both distributions; the divergence is multiplied by its square. Not for ``labels``.
        objective: What a subnet learns by: ``kl`` is the teacher's class probabilities; ``directional`` is the
            direction of its logits alone (ST++'s KL-), both nets' logits normalised over the classes first; ``labels``
            is the targets, by the cross-entropy that the main net has; ``cross_entropy``, ``decoupled`` and ``mse`` are
            other losses of distillation; or one's own, ``package.module:name``. With settings as a mapping such as
            ``{name: kl, top: 50}``, or a function (see ``stimulative.methods.subnet_objectives``).
        amplitude: Standard deviation (or length) that ``directional`` brings logits to.
        normalise_main: Whether the main net's cross-entropy is of normalised logits, too, as in ST++'s code.
        subnets_per_step: The number of subnets sampled each step.
        reduction: What ``balance`` is the weight of where there are several: the ``mean`` of their terms, or the
            ``sum`` (ST++'s code), which weighs as many times as much. ``Terms.subnet_kl`` is the mean with both.
        every: Train subnets only each so many batches, with as many times the weight.
        sampler: How subnets are drawn: ``ordered``, ``suffix``, ``every_other``, ``unordered``, ``interstage``,
            ``late``, ``nested``, ``halves``, ``ranked``; with settings as a mapping such as ``{name: unordered, keep:
            0.8}``; or a function of a subnet space and a generator, in recipes ``package.module:name``.
        corrected: Weigh each subnet's term by how likely ``ordered`` draws it over how likely the sampler does, so that
            the expected loss is that of ordered sampling; for ``late`` and ``nested``.
        smaller_inputs: Least share of the images' side that a subnet's images are resized to; every whole number of
            pixels from there to the full side is equally likely (0.43 in ST++). Null is the full side always.
        resizing: Which images are resized: the ``original`` ones, antialiased; or, as ``published``, those of the
            subnet before, not antialiased.
        normalise_again: With ``published``, ``mean`` and ``std`` of each channel that images are normalised by once
            more for each subnet; null does not.
        subnet_share: Share of the batch that subnets run on, above 0 to 1: its first samples. The prefix that they
            share with the main net is computed once, on the whole batch.
        tail_shrink: Factor by which feature maps are made smaller, in height and width, where subnets on the images as
            they are depart from the main net (average pooling): what they do not share is cheaper. 1 leaves them.
        preset: Settings that were measured beside the plain ones (docs/methods.md), which are ``plain``: ``efficient``
            is a cheaper step, and sets subnet_share, sampler and every.
        efficient: The same as the preset ``efficient``.
        schedule: ``joint`` is one backward pass over everything. ``lean`` runs the main net backward before the subnet
            runs forward, which takes the memory of common training; it is used by ``backward``.
        freeze_subnet_statistics: Whether running statistics of BatchNorm are those of the main net alone.
        task: What the network is for; see ``Method``.
        label_smoothing: Label smoothing of the main net's cross-entropy, 0 to 1; of the subnets' as well with
            ``labels``.
        total_steps: The number of batches that training will take, accumulated or not.
        seed: Seed of the sampler's generator.

    Raises:
        UsageError: If a setting has an impossible value, or the network does not run on smaller images or on part of a
            batch where it would have to.
    """

    advice = ADVICE
    _looked_at = False

    def __init__(
        self,
        network: ResidualNetwork,
        *,
        balance: float = 1.0,
        balance_ramp: float = 1.0,
        balance_start: float = 0.0,
        balance_shape: Shape = "linear",
        main_weight: float = 1.0,
        teacher: str | dict[str, Any] = "main",
        main_taught: float = 0.0,
        temperature: float = 1.0,
        objective: str | dict[str, Any] | SubnetObjective = "kl",
        amplitude: float = 1.0,
        normalise_main: bool = False,
        subnets_per_step: int = 1,
        reduction: Literal["mean", "sum"] = "mean",
        every: int = 1,
        sampler: str | dict[str, Any] | Sampler = "ordered",
        corrected: bool = False,
        smaller_inputs: float | None = None,
        resizing: Resizing = "original",
        normalise_again: dict[str, list[float]] | None = None,
        subnet_share: float = 1.0,
        tail_shrink: int = 1,
        preset: Preset = "plain",
        efficient: bool = False,
        schedule: Literal["joint", "lean"] = "joint",
        freeze_subnet_statistics: bool = True,
        task: str | Task | None = None,
        label_smoothing: float = 0.0,
        total_steps: int | None = None,
        seed: int = 0,
    ) -> None:
        settings = {key: value for key, value in locals().items() if key not in _OF_EVERY_METHOD}
        super().__init__(network, task=task, label_smoothing=label_smoothing, total_steps=total_steps, seed=seed)
        check_settings(type(self), settings)
        self._take({**settings, **PRESETS[preset_of(settings)]})

    def _take(self, settings: Mapping[str, Any]) -> None:
        """Have settings, which are possible, and make sure that the network can be trained by them."""
        self.balance: float = settings["balance"]
        self.balance_ramp: float = settings["balance_ramp"]
        self.balance_start: float = settings["balance_start"]
        self.balance_shape: Shape = settings["balance_shape"]
        self.main_weight: float = settings["main_weight"]
        self.teacher: str | Mapping[str, Any] = settings["teacher"]
        self.teaching = resolve_teacher(self.teacher, self.network.model, self.task.outputs_of)
        self.main_taught: float = settings["main_taught"]
        self.temperature: float = settings["temperature"]
        self.objective: str | Mapping[str, Any] | SubnetObjective = settings["objective"]
        self._learned = resolve_objective(self.objective)
        self.amplitude: float = settings["amplitude"]
        self.normalise_main: bool = settings["normalise_main"]
        self.subnets_per_step: int = settings["subnets_per_step"]
        self.reduction: Literal["mean", "sum"] = settings["reduction"]
        self.every: int = settings["every"]
        self.sampler = resolve_sampler(settings["sampler"], self.network.space)
        self.corrections = corrections(self.sampler, self.network.space) if settings["corrected"] else None
        self.smaller_inputs: float | None = settings["smaller_inputs"]
        self.resizing: Resizing = settings["resizing"]
        self.normalise_again: Mapping[str, list[float]] | None = settings["normalise_again"]
        self.subnet_share: float = settings["subnet_share"]
        self.tail_shrink: int = settings["tail_shrink"]
        self.schedule: Literal["joint", "lean"] = settings["schedule"]
        self.freeze_subnet_statistics: bool = settings["freeze_subnet_statistics"]
        self._try_out()

    @classmethod
    def problems(cls, settings: Mapping[str, Any]) -> list[str]:
        """What is impossible about settings of this method, a sentence each."""
        return problems_of(settings)

    @property
    def calls_backward(self) -> bool:
        """Whether the schedule is ``lean``."""
        return self.schedule == "lean"

    @property
    def current_balance(self) -> float:
        """The balance at the present step."""
        schedule = BalanceSchedule(self.balance, self.balance_ramp, self.balance_start, self.balance_shape)
        return schedule.at(self.step, self.total_steps)

    @property
    def pollutes_statistics(self) -> bool:
        """Whether subnets' passes changed the main net's running statistics."""
        return not self.freeze_subnet_statistics

    @classmethod
    def problem_on_devices(cls, settings: Mapping[str, Any]) -> str | None:
        """A teacher of images is kept by one process."""
        if name_in(settings.get("teacher", "main")) != "images":
            return None
        return "teacher: 'images' remembers each training image in one process; use one device, or another teacher"

    @property
    def needs_numbers(self) -> bool:
        """Whether the teacher remembers each training image."""
        return name_in(self.teacher) == "images"

    @property
    def calibrates(self) -> bool:
        """Whether logits come out at a scale of their own: where a term of the loss does not see their scale."""
        return self.task.has_direction and (not self._learned.sees_scale or self.normalise_main)

    def forward(self, x: Any, y: Any, subnets: Sequence[SubnetLike] | None = None) -> Terms:
        """The terms of one step; see ``Method.forward``."""
        chosen, weight = self.plan(subnets)
        outputs: list[Any] = [None] * (1 + len(chosen))
        batch = batch_size(x)
        for position, output, _ in self.passes(x, batch, chosen, cut=False):
            outputs[position] = self.task.outputs_of(output)
            del output
        main, *others = outputs
        main_ce = self.label_term(main, y)
        lesson = self.lesson(x, main, y)
        loss = lesson.main_term(main, main_ce)
        terms = [lesson.term(one, subnet) for one, subnet in zip(others, chosen, strict=True)]
        self._count(main)
        if not terms:
            return Terms(loss=loss, main_ce=main_ce, logits=main)
        subnet_kl = mean_of(terms)
        loss = torch.add(loss, subnet_kl, alpha=weight)
        return Terms(loss=loss, main_ce=main_ce, subnet_kl=subnet_kl, logits=main, subnets=chosen)

    def backward(
        self,
        x: Any,
        y: Any,
        subnets: Sequence[SubnetLike] | None = None,
        *,
        scale: float | Tensor = 1.0,
        backward: Backward = torch.autograd.backward,
    ) -> Terms:
        """The terms of one step, with their gradients added to the parameters'; see ``Method.backward``."""
        if self.schedule == "joint":
            return super().backward(x, y, subnets, scale=scale, backward=backward)
        if not self._looked_at:
            check_whole(self.network)
            self._looked_at = True
        chosen, weight = self.plan(subnets)
        batch = batch_size(x)
        main: Any = None
        lesson: Lesson | None = None
        main_ce = loss = torch.zeros(())
        terms = []
        for position, output, retain_graph in self.passes(x, batch, chosen, cut=bool(chosen)):
            outputs = self.task.outputs_of(output)
            if position == 0:
                main, main_ce = detached(outputs), self.label_term(outputs, y)
                lesson = self.lesson(x, main, y)
                term, factor = lesson.main_term(outputs, main_ce), scale
                loss, main_ce = term.detach(), main_ce.detach()
            else:
                if lesson is None:
                    raise UsageError("the main net has to run before its subnets")
                term = lesson.term(outputs, chosen[position - 1])
                terms.append(term.detach())
                factor = scale * weight / len(chosen)
            backward_through(backward, term, factor, retain_graph=retain_graph)
            del output, outputs, term  # their graph has to go before the next pass
        self._count(main)
        subnet_kl = mean_of(terms) if terms else None
        loss = loss if subnet_kl is None else torch.add(loss, subnet_kl, alpha=weight)
        return Terms(loss=loss, main_ce=main_ce, subnet_kl=subnet_kl, logits=main, subnets=chosen)

    def beside(self, targets: Any = None) -> AbstractContextManager[Beside]:
        """The subnets' term beside a loss of one's own: what to do where a loop calls the model itself.

        While the context is open, each call of the model in training mode and with gradients also runs this step's
        subnets, on the same arguments, sharing what they have in common with the main net. What it returns is the main
        net's output. Then add ``term`` to the loss::

            with method.beside() as subnets:
                loss = criterion(model(x), y)
            (loss + subnets.term).backward()

        Args:
            targets: The targets as the task takes them, which say what counts: of sequences that of each position,
                shape ``(B, positions)``, -100 where it does not; or a function from the main net's outputs to them. By
                default those that a model of Transformers gets as ``labels``; without any, everything counts.

        Raises:
            UsageError: If a setting belongs to the loss (``labels``, ``normalise_main``, ``label_smoothing``) or to the
                backward pass (``lean``), or the model returns no logits.
        """
        return beside(self, targets)

    def plan(self, subnets: Sequence[SubnetLike] | None = None) -> tuple[list[Subnet], float]:
        """The subnets of this step, drawn unless they are given, and the weight of their mean term."""
        balance = self.current_balance
        if balance and self.balance_ramp and self.training:
            warn_of_more_batches(self.step, self.total_steps)
        if subnets is not None:
            chosen = [self.network.resolve(subnet) for subnet in subnets]
            return chosen, balance * self._terms_of(chosen)
        if balance == 0 or self.step % self.every:
            return [], 0.0
        chosen = [self.sampler(self.network.space, self.generator) for _ in range(self.subnets_per_step)]
        return chosen, balance * self.every * self._terms_of(chosen)

    def label_term(self, outputs: Any, y: Any) -> Tensor:
        """The loss by the targets, with ``normalise_main`` of normalised logits, a scalar.

        Args:
            outputs: Those of the main net or, with ``labels``, of a subnet.
            y: The targets of the same samples.
        """
        if self.normalise_main:
            outputs = self.task.direction(outputs, self.amplitude, self._learned.normalisation or "deviation")
        return self.label_loss(outputs, y)

    def lesson(self, x: Any, main: Any, y: Any) -> Lesson:
        """What main net and subnets learn from in a step.

        Args:
            x: The batch, as the network takes it.
            main: The main net's outputs.
            y: Its targets; None where they are not known.
        """
        return Lesson(self, x, detached(main), y)

    def subnet_term(self, outputs: Any, main: Any, y: Any) -> Tensor:
        """How far a subnet is from what it learns from, on the samples that it ran on.

        Args:
            outputs: The subnet's outputs, of as many samples as it ran on.
            main: The main net's outputs, or what else it learns from, of the whole batch.
            y: The targets of the whole batch; None where everything counts, which is not for ``labels``.

        Returns:
            A scalar.
        """
        samples, batch = batch_size(outputs), batch_size(main)
        if self.subnet_share < 1 and samples < batch:
            main, y = first_samples(main, samples, batch), first_samples(y, samples, batch)
        return self._learned.term(self, outputs, detached(main), y)

    def passes(self, x: Any, batch: int, subnets: Sequence[Subnet], *, cut: bool) -> Iterator[Pass]:
        """The main net's pass, position 0, and then the subnets', those on images of one size after the other.

        Args:
            x: A batch, as the network takes it.
            batch: How many samples it has.
            subnets: The subnets to run besides the main net.
            cut: Cut the graph where subnets depart; see ``ResidualNetwork.passes``.
        """
        sides = self.draw_sides(x, len(subnets))
        for numbers, images, samples in images_of(x, batch, sides, self):
            passes = self.network.passes(
                images,
                [self.network.full if number < 0 else subnets[number] for number in numbers],
                cut=cut,
                before_pass=partial(self._before_pass, numbers),
                samples=samples,
                shrink=self.tail_shrink if numbers[0] < 0 and len(numbers) > 1 else 1,
            )
            for position, output, retain_graph in passes:
                yield Pass(numbers[position] + 1, output, retain_graph)
                del output

    def draw_sides(self, x: Any, count: int) -> list[int | None]:
        """The sides of images that so many subnets get in this step; see ``inputs.drawn_sides``."""
        return drawn_sides(x, count, self.smaller_inputs, self.generator)

    def _count(self, main: Any = None) -> None:
        if self.training:
            self.teaching.remember(main, self.numbered)
        super()._count()

    def _terms_of(self, subnets: Sequence[Subnet]) -> int:
        """How many times the mean of subnets' terms enters the loss."""
        return len(subnets) if self.reduction == "sum" else 1

    def _try_out(self) -> None:
        """Make sure that the settings make sense, and that the network runs on what subnets would get."""
        problems = problems_for(self.task, self, of_classes=self._learned.of_classes)
        if self.needs_numbers and not problems and not gives_logits_of_samples(self.network, self.task):
            problems = ["teacher: 'images' averages logits of shape (B, classes), which this network does not give"]
        if problems:
            raise UsageError(f"{type(self).__name__}: " + "; ".join(problems))
        if self.smaller_inputs is not None:
            check_smaller(self.network, self.smaller_inputs)
            check_channels(self.network, self.normalise_again)
        if self.subnet_share < 1:
            check_part(self.network)
        if self.tail_shrink > 1:
            check_shrink(self.network, self.tail_shrink)

    def _before_pass(self, numbers: Sequence[int], position: int) -> AbstractContextManager[None] | None:
        subnet = numbers[position] >= 0
        return self.network.frozen_statistics() if subnet and self.freeze_subnet_statistics else None
