"""Group knowledge training.

Tang et al., "Boosting Residual Networks with Group Knowledge", AAAI 2024, arXiv 2308.13772; a successor of stimulative
training. Each step draws several subnets one inside the other ("subnet-in-subnet"), then begins again from the main net
("loops"). The subnets of one level are a group; what a group knows is the exponential moving average of their logits,
and each group learns from the one above it, the first one from the main net:

    L = CE(z_m, y) + balance * mean over loops and levels of  KL(softmax(g_(k-1)) || softmax(z_k)),    g_0 = z_m,

teachers without gradient. The groups' averages are in ``stimulative.objectives.groups``, the drawing in
``stimulative.residual.sampling.nested_inside``.

What is ours: all that the paper's summary leaves open. We have read its abstract, the caption of its Figure 3 and
reviews of it, not its equations; the repository that it names held a licence and a title when it was stored for us.
From these are the nested drawing, the loops from the main net, the average of logits by group, and larger subnets
favoured by an "inheriting exponential decay" rule. Ours are every number, and:

- averages begin anew in each step, over its loops, since logits of other images cannot be averaged;
- a teacher's average holds the loops so far, the present one included;
- the rule itself: each block less than the outer subnet has in that stage is ``decay`` times as likely;
- the mean over all subnets, so that ``balance`` means what it does in stimulative training, and its ramp.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

from torch import Tensor

from stimulative.errors import UsageError
from stimulative.methods.balance import ADVICE, ramped, warn_of_more_batches
from stimulative.methods.base import Method, Terms, check_settings, impossible
from stimulative.objectives import group_divergence
from stimulative.residual import ResidualNetwork, Subnet, SubnetLike, nested_inside
from stimulative.tasks import TASKS, Task


class GroupKnowledge(Method):
    """Train the main net, and subnets inside of subnets to agree with the average of the group above them.

    Args:
        network: The network to train.
        balance: Weight of the subnets' mean divergence. 0 is common training, at its cost.
        balance_ramp: Share of training over which the balance rises linearly from 0, from 0 to 1. Needs to know
            ``total_steps``; without it the balance is constant.
        temperature: Temperature of both distributions; the divergence is multiplied by its square.
        loops: How often a step begins from the main net.
        levels: The number of subnets that each loop draws, one inside the other; the number of groups below the main
            net.
        momentum: What a group's average keeps of itself when the next loop's logits come, from 0 to below 1.
        decay: How much less likely a stage's depth is with each block less than in the subnet around, above 0 and at
            most 1; 1 makes all depths equally likely.
        freeze_subnet_statistics: Whether running statistics of BatchNorm are those of the main net alone.
        task: What the network is for; see ``Method``.
        label_smoothing: Label smoothing of the main net's cross-entropy, 0 to 1.
        total_steps: The number of batches that training will take, accumulated or not.
        seed: Seed of the draws.

    Raises:
        UsageError: If a setting has an impossible value.
    """

    advice = ADVICE
    tasks = tuple(TASKS)

    def __init__(
        self,
        network: ResidualNetwork,
        *,
        balance: float = 1.0,
        balance_ramp: float = 1.0,
        temperature: float = 1.0,
        loops: int = 2,
        levels: int = 3,
        momentum: float = 0.5,
        decay: float = 0.5,
        freeze_subnet_statistics: bool = True,
        task: str | Task | None = None,
        label_smoothing: float = 0.0,
        total_steps: int | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(network, task=task, label_smoothing=label_smoothing, total_steps=total_steps, seed=seed)
        check_settings(
            type(self),
            {
                "balance": balance,
                "balance_ramp": balance_ramp,
                "temperature": temperature,
                "loops": loops,
                "levels": levels,
                "momentum": momentum,
                "decay": decay,
            },
        )
        self.balance = balance
        self.balance_ramp = balance_ramp
        self.temperature = temperature
        self.loops = loops
        self.levels = levels
        self.momentum = momentum
        self.decay = decay
        self.freeze_subnet_statistics = freeze_subnet_statistics

    @classmethod
    def problems(cls, settings: Mapping[str, Any]) -> list[str]:
        """What is impossible about settings of this method, a sentence each."""
        rules = {
            "balance": (lambda v: v >= 0, "0 or more"),
            "balance_ramp": (lambda v: 0 <= v <= 1, "a share of training, 0 to 1"),
            "temperature": (lambda v: v > 0, "above 0"),
            "loops": (lambda v: v >= 1, "1 or more"),
            "levels": (lambda v: v >= 1, "1 or more"),
            "momentum": (lambda v: 0 <= v < 1, "a share that the average keeps, from 0 to below 1"),
            "decay": (lambda v: 0 < v <= 1, "a factor above 0 and at most 1"),
        }
        return impossible(settings, rules)

    @property
    def current_balance(self) -> float:
        """The balance at the present step."""
        return ramped(self.balance, self.balance_ramp, self.step, self.total_steps)

    @property
    def pollutes_statistics(self) -> bool:
        """Whether subnets' passes changed the main net's running statistics."""
        return not self.freeze_subnet_statistics

    def forward(self, x: Any, y: Any, subnets: Sequence[SubnetLike] | None = None) -> Terms:
        """The terms of one step; see ``Method.forward``.

        Args:
            x: A batch, as the network takes it.
            y: Its targets.
            subnets: The subnets of all loops one after the other, instead of drawn ones: ``levels`` of them a loop,
                each inside the one before.
        """
        balance = self.current_balance
        if balance and self.balance_ramp and self.training:
            warn_of_more_batches(self.step, self.total_steps)
        drawn = self.draw() if subnets is None and balance else []  # none where they have no weight
        chosen = drawn if subnets is None else self.checked(subnets)
        main, *others = self._run(x, chosen)
        main_ce = self.label_loss(main, y)
        self._count()
        if not others:
            return Terms(loss=main_ce, main_ce=main_ce, logits=main)
        loops = [others[start : start + self.levels] for start in range(0, len(others), self.levels)]
        compare = partial(self.task.divergence, targets=y, temperature=self.temperature)
        subnet_kl = group_divergence(main, loops, momentum=self.momentum, divergence=compare)
        loss = main_ce + balance * subnet_kl
        return Terms(loss=loss, main_ce=main_ce, subnet_kl=subnet_kl, logits=main, subnets=chosen)

    def draw(self) -> list[Subnet]:
        """The subnets of a step: those of all loops one after the other, ``levels`` of them a loop."""
        space = self.network.space
        drawn: list[Subnet] = []
        for _ in range(self.loops):
            subnet = space.full
            for _ in range(self.levels):
                subnet = nested_inside(space, subnet, self.generator, decay=self.decay)
                drawn.append(subnet)
        return drawn

    def checked(self, subnets: Sequence[SubnetLike]) -> list[Subnet]:
        """Subnets for all loops, as the network has them.

        Args:
            subnets: ``levels`` of them a loop, each inside the one before.

        Raises:
            UsageError: If they are not as many, or not one inside the other.
        """
        chosen = [self.network.resolve(subnet) for subnet in subnets]
        if len(chosen) % self.levels:
            raise UsageError(
                f"group knowledge takes {self.levels} subnets a loop (levels), each inside the one before; "
                f"got {len(chosen)} subnets"
            )
        for number, subnet in enumerate(chosen):
            outer = chosen[number - 1] if number % self.levels else self.network.full
            if any(not set(kept) <= set(around) for kept, around in zip(subnet.stages, outer.stages, strict=True)):
                raise UsageError(
                    f"in a loop of group knowledge each subnet is inside the one before; got {subnet} after {outer}"
                )
        return chosen

    def _run(self, x: Any, subnets: Sequence[Subnet]) -> list[Tensor]:
        def before_pass(position: int) -> AbstractContextManager[None] | None:
            return self.network.frozen_statistics() if position and self.freeze_subnet_statistics else None

        outputs: list[Any] = [None] * (1 + len(subnets))
        for position, output, _ in self.network.passes(x, [self.network.full, *subnets], before_pass=before_pass):
            outputs[position] = self.task.outputs_of(output)
        return outputs
