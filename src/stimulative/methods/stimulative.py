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
- Each subnet's images are resized from the original batch. In the published loop the batch variable is overwritten, so
  that the k-th subnet gets images that were resized, and brought to mean and deviation, k times.
- Subnets whose images have the same size run together and share prefixes, with the main net if it is the full size.
- The published switch for KL- normalises the main net's logits in its cross-entropy as well. Here that is a setting of
  its own and off by default. Either way the logits of the trained model are at no scale that cross-entropy would give
  them, so evaluation fits a temperature (``calibrates``).

Ours, for a cheaper step: ``every``, ``subnet_share``, the sampler ``late``, and ``efficient`` for the best of them.

What a subnet learns from is a table in ``subnet_objectives.py``, where functions of one's own have their place, too.
With ``objective: labels`` a subnet learns from the labels instead of from the main net, ``CE(z_s, y)`` in place of the
divergence. This is how LayerDrop (Fan et al., ICLR 2020, arXiv 1909.11556) and the early exits of LayerSkip (Elhoushi
et al., ACL 2024, arXiv 2404.16710) train what they skip layers of; the card says which settings come how close.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor

from stimulative.errors import UsageError
from stimulative.methods.balance import ADVICE, ramped, warn_of_more_batches
from stimulative.methods.base import (
    Backward,
    Method,
    Terms,
    backward_through,
    check_settings,
    impossible,
    mean_of,
)
from stimulative.methods.beside import Beside, beside
from stimulative.methods.inputs import (
    check_part,
    check_smaller,
    check_whole,
    detached,
    image_side,
    resized,
    samples_of,
    sides_of,
)
from stimulative.methods.subnet_objectives import SubnetObjective, objective_problem, resolve_objective
from stimulative.residual import (
    Pass,
    ResidualNetwork,
    Sampler,
    Subnet,
    SubnetLike,
    batch_size,
    first_samples,
    resolve_sampler,
    sampler_problem,
)
from stimulative.tasks import Task

EFFICIENT: Mapping[str, Any] = {"subnet_share": 0.5, "sampler": "ordered", "every": 1}
"""What ``efficient: true`` sets; measured in docs/methods.md."""


class StimulativeTraining(Method):
    """Train the main net and, each step, a sampled subnet to agree with it.

    Args:
        network: The network to train.
        balance: Weight of the subnet's term (the papers' lambda). 0 is common training, at its cost.
        balance_ramp: Share of training over which the balance rises linearly from 0, from 0 to 1. Needs to know
            ``total_steps``; without it the balance is constant.
        temperature: Temperature of both distributions; the divergence is multiplied by its square. Not for ``labels``.
        objective: What a subnet learns from: ``kl`` is the main net's class probabilities; ``directional`` is the
            direction of its logits alone (ST++'s KL-), both nets' logits normalised over the classes first; ``labels``
            is the targets, by the cross-entropy that the main net has; or one's own, ``package.module:name``, with
            settings as a mapping such as ``{name: package.module:name, scale: 2}``, or a function (see
            ``stimulative.methods.subnet_objectives``).
        amplitude: Standard deviation that ``directional`` brings logits to.
        normalise_main: Whether the main net's cross-entropy is of normalised logits, too, as in ST++'s code.
        subnets_per_step: The number of subnets sampled each step.
        reduction: What ``balance`` is the weight of where there are several: the ``mean`` of their terms, or the
            ``sum`` (ST++'s code), which weighs as many times as much. ``Terms.subnet_kl`` is the mean with both.
        every: Train subnets only each so many batches, with as many times the weight.
        sampler: How subnets are drawn: ``ordered``, ``suffix``, ``every_other``, ``unordered``, ``interstage``,
            ``late``, ``nested``, ``halves``, ``ranked``; with settings as a mapping such as ``{name: unordered, keep:
            0.8}``; or a function of a subnet space and a generator, in recipes ``package.module:name``.
        smaller_inputs: Least share of the images' side that a subnet's images are resized to; every whole number of
            pixels from there to the full side is equally likely (0.43 in ST++). Null is the full side always.
        subnet_share: Share of the batch that subnets run on, above 0 to 1: its first samples. The prefix that they
            share with the main net is computed once, on the whole batch.
        efficient: One switch for cheaper settings that were measured beside the plain ones (docs/methods.md); sets
            subnet_share, sampler and every.
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
        temperature: float = 1.0,
        objective: str | dict[str, Any] | SubnetObjective = "kl",
        amplitude: float = 1.0,
        normalise_main: bool = False,
        subnets_per_step: int = 1,
        reduction: Literal["mean", "sum"] = "mean",
        every: int = 1,
        sampler: str | dict[str, Any] | Sampler = "ordered",
        smaller_inputs: float | None = None,
        subnet_share: float = 1.0,
        efficient: bool = False,
        schedule: Literal["joint", "lean"] = "joint",
        freeze_subnet_statistics: bool = True,
        task: str | Task | None = None,
        label_smoothing: float = 0.0,
        total_steps: int | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(network, task=task, label_smoothing=label_smoothing, total_steps=total_steps, seed=seed)
        settings: dict[str, Any] = {
            "balance": balance,
            "balance_ramp": balance_ramp,
            "temperature": temperature,
            "objective": objective,
            "amplitude": amplitude,
            "normalise_main": normalise_main,
            "subnets_per_step": subnets_per_step,
            "reduction": reduction,
            "every": every,
            "sampler": sampler,
            "smaller_inputs": smaller_inputs,
            "subnet_share": subnet_share,
            "efficient": efficient,
            "schedule": schedule,
            "freeze_subnet_statistics": freeze_subnet_statistics,
        }
        check_settings(type(self), settings)
        settings |= EFFICIENT if efficient else {}
        self.balance: float = settings["balance"]
        self.balance_ramp: float = settings["balance_ramp"]
        self.temperature: float = settings["temperature"]
        self.objective: str | Mapping[str, Any] | SubnetObjective = settings["objective"]
        self._learned = resolve_objective(self.objective)
        self.amplitude: float = settings["amplitude"]
        self.normalise_main: bool = settings["normalise_main"]
        self.subnets_per_step: int = settings["subnets_per_step"]
        self.reduction: Literal["mean", "sum"] = settings["reduction"]
        self.every: int = settings["every"]
        self.sampler = resolve_sampler(settings["sampler"], network.space)
        self.smaller_inputs: float | None = settings["smaller_inputs"]
        self.subnet_share: float = settings["subnet_share"]
        self.schedule: Literal["joint", "lean"] = settings["schedule"]
        self.freeze_subnet_statistics: bool = settings["freeze_subnet_statistics"]
        self._try_out()

    @classmethod
    def problems(cls, settings: Mapping[str, Any]) -> list[str]:
        """What is impossible about settings of this method, a sentence each."""
        rules = {
            "balance": (lambda v: v >= 0, "0 or more (the paper's lambda is 1 to 10)"),
            "balance_ramp": (lambda v: 0 <= v <= 1, "a share of training, 0 to 1"),
            "temperature": (lambda v: v > 0, "above 0"),
            "amplitude": (lambda v: v > 0, "above 0"),
            "subnets_per_step": (lambda v: v >= 1, "1 or more"),
            "reduction": (lambda v: v in ("mean", "sum"), "mean or sum"),
            "every": (lambda v: v >= 1, "1 or more"),
            "smaller_inputs": (lambda v: v is None or 0 < v <= 1, "a share of the images' side, above 0 to 1, or null"),
            "subnet_share": (lambda v: 0 < v <= 1, "a share of the batch, above 0 to 1"),
            "schedule": (lambda v: v in ("joint", "lean"), "joint or lean"),
        }
        found = impossible(settings, rules)
        for problem in (
            objective_problem(settings.get("objective", "kl")),
            sampler_problem(settings.get("sampler", "ordered")),
        ):
            found += [problem] if problem else []
        if settings.get("efficient"):
            defaults = inspect.signature(StimulativeTraining).parameters
            own = [key for key in EFFICIENT if key in settings and settings[key] != defaults[key].default]
            if own:
                found.append(
                    f"efficient: it sets {', '.join(f'{key} {value}' for key, value in EFFICIENT.items())}, but "
                    f"{' and '.join(f'{key} {settings[key]!r}' for key in own)} is asked for; leave one of them out"
                )
        return found

    @property
    def calls_backward(self) -> bool:
        """Whether the schedule is ``lean``."""
        return self.schedule == "lean"

    @property
    def current_balance(self) -> float:
        """The balance at the present step."""
        return ramped(self.balance, self.balance_ramp, self.step, self.total_steps)

    @property
    def pollutes_statistics(self) -> bool:
        """Whether subnets' passes changed the main net's running statistics."""
        return not self.freeze_subnet_statistics

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
        self._count()
        if not others:
            return Terms(loss=main_ce, main_ce=main_ce, logits=main)
        subnet_kl = mean_of([self.subnet_term(one, main, y) for one in others])
        loss = torch.add(main_ce, subnet_kl, alpha=weight)
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
        main_ce: Tensor | None = None
        terms = []
        for position, output, retain_graph in self.passes(x, batch, chosen, cut=bool(chosen)):
            outputs = self.task.outputs_of(output)
            if position == 0:
                term = self.label_term(outputs, y)
                main, main_ce, factor = detached(outputs), term.detach(), scale
            else:
                if main_ce is None:
                    raise UsageError("the main net has to run before its subnets")
                term = self.subnet_term(outputs, main, y)
                terms.append(term.detach())
                factor = scale * weight / len(chosen)
            backward_through(backward, term, factor, retain_graph=retain_graph)
            del output, outputs, term  # their graph has to go before the next pass
        assert main_ce is not None
        self._count()
        subnet_kl = mean_of(terms) if terms else None
        loss = main_ce if subnet_kl is None else torch.add(main_ce, subnet_kl, alpha=weight)
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
        outputs = self.task.direction(outputs, self.amplitude) if self.normalise_main else outputs
        return self.label_loss(outputs, y)

    def subnet_term(self, outputs: Any, main: Any, y: Any) -> Tensor:
        """How far a subnet is from what it learns from, on the samples that it ran on.

        Args:
            outputs: The subnet's outputs, of as many samples as it ran on.
            main: The main net's outputs, of the whole batch.
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
        samples = samples_of(batch, self.subnet_share)
        sides = self.draw_sides(x, len(subnets))
        for side in [None, *sorted({side for side in sides if side is not None}, reverse=True)]:
            numbers = [number for number, of in enumerate(sides, start=1) if of == side]
            chosen = [subnets[number - 1] for number in numbers]
            if side is None:
                numbers, chosen = [0, *numbers], [self.network.full, *chosen]
            part = samples if side is None and len(chosen) > 1 and samples < batch else None
            passes = self.network.passes(
                x if side is None else resized(x[:samples], side),
                chosen,
                cut=cut,
                before_pass=partial(self._before_pass, numbers),
                samples=part,
            )
            for position, output, retain_graph in passes:
                yield Pass(numbers[position], output, retain_graph)
                del output

    def draw_sides(self, x: Any, count: int) -> list[int | None]:
        """The sides of images that subnets get in this step, all of them equally likely, by the method's own generator.

        Args:
            x: A batch of square images, shape ``(B, C, side, side)``; anything else without ``smaller_inputs``.
            count: The number of subnets.

        Returns:
            For each subnet a side in pixels, or None for images as they are.
        """
        if self.smaller_inputs is None or not count:
            return [None] * count
        sides = sides_of(image_side(x), self.smaller_inputs)
        drawn = torch.randint(sides[0], sides[-1] + 1, (count,), generator=self.generator).tolist()
        return [side if side < sides[-1] else None for side in drawn]

    def _check_task(self) -> None:
        """Make sure that the settings make sense of what the network is for."""
        problems = []
        if not self.task.has_direction and (self.objective == "directional" or self.normalise_main):
            key = "normalise_main" if self.normalise_main else "objective"
            problems.append(
                f"{key}: got {getattr(self, key)!r}, but only logits of classes that exclude each other have a "
                f"direction, and the task is {self.task.name}; leave it out"
            )
        if not self.task.has_temperature and self.temperature != 1:
            problems.append(
                f"temperature: got {self.temperature}, but outputs of {self.task.name} are no logits to be softened; "
                "leave it out"
            )
        if problems:
            raise UsageError(f"{type(self).__name__}: " + "; ".join(problems))

    def _terms_of(self, subnets: Sequence[Subnet]) -> int:
        """How many times the mean of subnets' terms enters the loss."""
        return len(subnets) if self.reduction == "sum" else 1

    def _try_out(self) -> None:
        """Make sure that the settings make sense, and that the network runs on what subnets would get."""
        self._check_task()
        if self.smaller_inputs is not None:
            check_smaller(self.network, self.smaller_inputs)
        if self.subnet_share < 1:
            check_part(self.network)

    def _before_pass(self, numbers: Sequence[int], position: int) -> AbstractContextManager[None] | None:
        subnet = numbers[position] != 0
        return self.network.frozen_statistics() if subnet and self.freeze_subnet_statistics else None
