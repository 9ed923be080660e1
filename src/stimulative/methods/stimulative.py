"""Stimulative training.

Ye et al., "Stimulative Training of Residual Networks: A Social Psychology Perspective of Loafing", NeurIPS 2022,
arXiv 2210.04153. Each step samples a subnet ``s`` of the main net ``m`` (shared weights) and minimises

    L = CE(z_m, y) + balance * KL(softmax(z_m) || softmax(z_s)),    z_m without gradient in the second term.

Where this differs from the authors' published code, and why:

- The passes of main net and subnet share what they have in common (same result, less time; see
  ``stimulative.unravel.execution``). A BatchNorm in the shared prefix sees the batch once, not twice.
- By default a subnet's pass leaves the running statistics alone (``freeze_subnet_statistics``), so those of the main
  net are its own. The published code mixes both and re-estimates them before every evaluation.
- The balance rises over training (``balance_ramp``). A large balance from step 0 on makes both nets agree on nothing
  in short runs; the papers' balances of 5 and 10 belong to their long ones.
- Several subnets a step (from ST++, arXiv 2305.02507) enter by their mean, so that ``balance`` keeps its meaning.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Literal

import torch
from torch import Tensor

from stimulative.errors import UsageError
from stimulative.methods.base import Backward, Method, Terms, check_settings
from stimulative.objectives import cross_entropy, kl_divergence
from stimulative.unravel import ResidualNetwork, Subnet, SubnetLike
from stimulative.unravel.sampling import Sampler, resolve_sampler, sampler_problem


class StimulativeTraining(Method):
    """Train the main net and, each step, a sampled subnet to agree with it.

    Args:
        network: The network to train.
        balance: Weight of the subnet's divergence (the papers' lambda). 0 is common training, at its cost.
        balance_ramp: Share of training over which the balance rises linearly from 0, from 0 to 1. Needs to know
            ``total_steps``; without it the balance is constant.
        temperature: Temperature of both distributions; the divergence is multiplied by its square.
        subnets_per_step: The number of subnets sampled each step.
        every: Train subnets only each so many steps, with as many times the weight.
        sampler: How subnets are drawn: ``ordered``, ``unordered``, ``interstage``; with settings as a mapping such as
            ``{name: unordered, keep: 0.8}``; or a function of a subnet space and a generator.
        schedule: ``joint`` is one backward pass over everything. ``lean`` runs the main net backward before the subnet
            runs forward, which takes the memory of common training; it is used by ``backward``.
        freeze_subnet_statistics: Whether running statistics of BatchNorm are those of the main net alone.
        label_smoothing: Label smoothing of the main net's cross-entropy, 0 to 1.
        total_steps: The number of steps that training will take.
        seed: Seed of the sampler's generator.

    Raises:
        UsageError: If a setting has an impossible value.
    """

    def __init__(
        self,
        network: ResidualNetwork,
        *,
        balance: float = 1.0,
        balance_ramp: float = 1.0,
        temperature: float = 1.0,
        subnets_per_step: int = 1,
        every: int = 1,
        sampler: str | dict[str, Any] | Sampler = "ordered",
        schedule: Literal["joint", "lean"] = "joint",
        freeze_subnet_statistics: bool = True,
        label_smoothing: float = 0.0,
        total_steps: int | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(network, label_smoothing=label_smoothing, total_steps=total_steps, seed=seed)
        check_settings(
            type(self),
            {
                "balance": balance,
                "balance_ramp": balance_ramp,
                "temperature": temperature,
                "subnets_per_step": subnets_per_step,
                "every": every,
                "sampler": sampler,
                "schedule": schedule,
            },
        )
        self.balance = balance
        self.balance_ramp = balance_ramp
        self.temperature = temperature
        self.subnets_per_step = subnets_per_step
        self.every = every
        self.sampler = resolve_sampler(sampler, network.space)
        self.schedule = schedule
        self.freeze_subnet_statistics = freeze_subnet_statistics

    @classmethod
    def problems(cls, settings: Mapping[str, Any]) -> list[str]:
        """What is impossible about settings of this method, a sentence each."""
        found = []
        rules = {
            "balance": (lambda v: v >= 0, "0 or more (the paper's lambda is 1 to 10)"),
            "balance_ramp": (lambda v: 0 <= v <= 1, "a share of training, 0 to 1"),
            "temperature": (lambda v: v > 0, "above 0"),
            "subnets_per_step": (lambda v: v >= 1, "1 or more"),
            "every": (lambda v: v >= 1, "1 or more"),
            "schedule": (lambda v: v in ("joint", "lean"), "joint or lean"),
        }
        for key, (allowed, text) in rules.items():
            if key in settings and not allowed(settings[key]):
                found.append(f"{key}: got {settings[key]!r}, but it is {text}")
        problem = sampler_problem(settings.get("sampler", "ordered"))
        return found + ([problem] if problem else [])

    @property
    def current_balance(self) -> float:
        """The balance at the present step."""
        if self.total_steps is None or self.balance_ramp == 0:
            return self.balance
        return self.balance * min(1.0, (self.step + 1) / (self.balance_ramp * self.total_steps))

    @property
    def pollutes_statistics(self) -> bool:
        """Whether subnets' passes changed the main net's running statistics."""
        return not self.freeze_subnet_statistics

    def forward(self, x: Any, y: Tensor, subnets: Sequence[SubnetLike] | None = None) -> Terms:
        """The terms of one step; see ``Method.forward``."""
        chosen, weight = self._plan(subnets)
        outputs: list[Tensor] = [torch.empty(0)] * (1 + len(chosen))
        for position, logits, _ in self._passes(x, chosen, cut=False):
            outputs[position] = logits
        main, *others = outputs
        main_ce = cross_entropy(main, y, label_smoothing=self.label_smoothing)
        self._count()
        if not others:
            return Terms(loss=main_ce, main_ce=main_ce, logits=main)
        divergences = [kl_divergence(logits, main, temperature=self.temperature) for logits in others]
        subnet_kl = torch.stack(divergences).mean()
        loss = main_ce + weight * subnet_kl
        return Terms(loss=loss, main_ce=main_ce, subnet_kl=subnet_kl, logits=main, subnets=chosen)

    def backward(
        self,
        x: Any,
        y: Tensor,
        subnets: Sequence[SubnetLike] | None = None,
        *,
        scale: float = 1.0,
        backward: Backward = torch.autograd.backward,
    ) -> Terms:
        """The terms of one step, with their gradients added to the parameters'; see ``Method.backward``."""
        if self.schedule == "joint":
            return super().backward(x, y, subnets, scale=scale, backward=backward)
        chosen, weight = self._plan(subnets)
        main: Tensor | None = None
        main_ce: Tensor | None = None
        divergences = []
        for position, logits, retain_graph in self._passes(x, chosen, cut=bool(chosen)):
            if position == 0:
                term = cross_entropy(logits, y, label_smoothing=self.label_smoothing)
                main, main_ce, factor = logits.detach(), term.detach(), scale
            else:
                if main is None:
                    raise UsageError("the main net has to run before its subnets")
                term = kl_divergence(logits, main, temperature=self.temperature)
                divergences.append(term.detach())
                factor = scale * weight / len(chosen)
            with torch.autocast(term.device.type, enabled=False):  # a backward pass has its forward's formats
                backward(term * factor if factor != 1.0 else term, retain_graph=retain_graph)
            del logits, term  # their graph has to go before the next pass
        assert main is not None and main_ce is not None
        self._count()
        subnet_kl = torch.stack(divergences).mean() if divergences else None
        loss = main_ce if subnet_kl is None else main_ce + weight * subnet_kl
        return Terms(loss=loss, main_ce=main_ce, subnet_kl=subnet_kl, logits=main, subnets=chosen)

    def _plan(self, subnets: Sequence[SubnetLike] | None) -> tuple[list[Subnet], float]:
        """The subnets of this step and the weight of their divergence."""
        balance = self.current_balance
        if subnets is not None:
            return [self.network.resolve(subnet) for subnet in subnets], balance
        if balance == 0 or self.step % self.every:
            return [], 0.0
        drawn = [self.sampler(self.network.space, self.generator) for _ in range(self.subnets_per_step)]
        return drawn, balance * self.every

    def _passes(self, x: Any, subnets: Sequence[Subnet], *, cut: bool) -> Any:
        def before_pass(position: int) -> AbstractContextManager[None] | None:
            return self.network.frozen_statistics() if position and self.freeze_subnet_statistics else None

        return self.network.passes(x, [self.network.full, *subnets], cut=cut, before_pass=before_pass)
