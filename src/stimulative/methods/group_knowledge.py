"""Group knowledge training.

Tang et al., "Boosting Residual Networks with Group Knowledge", AAAI 2024, arXiv 2308.13772; a successor of stimulative
training. Subnets are drawn one inside the other ("subnet-in-subnet"), beginning again from the main net ("loops"). The
subnets of one level are a group; what a group knows is the exponential moving average of their logits, and each group
learns from the one above it, the first one from the main net:

    L = CE(z_m, y) + balance * KL(softmax(g_(k-1)) || softmax(z_k)),    g_0 = z_m,

teachers without gradient. In the paper's words the averages are of subnets of *different steps*. So each step draws one
subnet, of the level below that of the step before, and ``levels`` steps are a loop. What a group knows is an average
for each training image over the epochs in which it met a subnet of that group (``memory: images``). Where nobody
numbers the images, or has no room for so many averages, they can be of a class (``classes``), or begin anew in each
step, which then draws the subnets of several loops (``step``): the mean over loops and levels of the divergence, on one
batch. The groups' averages within a step are in ``stimulative.objectives.groups``, those over steps in
``logit_memory.py``, the drawing in ``stimulative.residual.sampling.nested_inside``.

What is ours: all that the paper's summary leaves open. We have read its abstract, the caption of its Figure 3 and
reviews of it, not its equations; the repository that it names held a licence and a title when it was stored for us.
From these are the nested drawing, the loops from the main net, the average of logits by group over different steps, and
larger subnets favoured by an "inheriting exponential decay" rule. That averages are of each image is inferred: a later
paper of the same first author calls their updating slow and hard to combine with mixing of images. Ours are every
number, and:

- of an image that the group above has not met the main net's logits stand for the group's;
- with ``step``, a teacher's average holds the loops so far, the present one included;
- the rule itself: each block less than the outer subnet has in that stage is ``decay`` times as likely;
- with ``step``, the mean over all subnets, so that ``balance`` means what it does in stimulative training; its ramp.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Any, Literal, get_args

from torch import Tensor, nn

from stimulative.errors import UsageError
from stimulative.methods.balance import ADVICE, BALANCE_RULES, BalanceSchedule, warn_of_more_batches
from stimulative.methods.base import Method, Terms, check_settings, impossible
from stimulative.methods.inputs import gives_logits_of_samples
from stimulative.methods.logit_memory import LogitMemory, Numbered
from stimulative.methods.teachers import known_numbers
from stimulative.objectives import group_divergence
from stimulative.residual import ResidualNetwork, Subnet, SubnetLike, nested_inside
from stimulative.tasks import TASKS, Task

Memory = Literal["auto", "images", "classes", "step"]
_LARGEST = 2**30
"""The most bytes that averages of images take where nobody asks for them."""


class GroupKnowledge(Method):
    """Train the main net, and subnets inside of subnets to agree with the average of the group above them.

    Args:
        network: The network to train.
        balance: Weight of the subnets' mean divergence. 0 is common training, at its cost.
        balance_ramp: Share of training over which the balance rises linearly from 0, from 0 to 1. Needs to know
            ``total_steps``; without it the balance is constant.
        temperature: Temperature of both distributions; the divergence is multiplied by its square.
        memory: What a group's average is of: the subnets of different steps for each of the training ``images``, or for
            each of the ``classes``; or those of one ``step``. ``auto`` is images where they are numbered (not where
            they are mixed, or in a loop of your own that does not say it) and one process trains, classes where that
            would take more than 1 GiB, and else step.
        loops: With ``step``, how often a step begins from the main net. Otherwise a loop is ``levels`` steps.
        levels: The number of subnets that each loop draws, one inside the other; the number of groups below the main
            net.
        momentum: What a group's average keeps of itself when the next logits come, from 0 to below 1.
        decay: How much less likely a stage's depth is with each block less than in the subnet around, above 0 and at
            most 1; 1 makes all depths equally likely.
        freeze_subnet_statistics: Whether running statistics of BatchNorm are those of the main net alone.
        task: What the network is for; see ``Method``.
        label_smoothing: Label smoothing of the main net's cross-entropy, 0 to 1.
        total_steps: The number of batches that training will take, accumulated or not.
        seed: Seed of the draws.

    Raises:
        UsageError: If a setting has an impossible value, or averages cannot be of what the network gives.
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
        memory: Memory = "auto",
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
                "memory": memory,
                "loops": loops,
                "levels": levels,
                "momentum": momentum,
                "decay": decay,
            },
        )
        self.balance = balance
        self.balance_ramp = balance_ramp
        self.temperature = temperature
        self.memory: Memory = memory
        self.loops = loops
        self.levels = levels
        self.momentum = momentum
        self.decay = decay
        self.freeze_subnet_statistics = freeze_subnet_statistics
        self._of_samples = memory != "step" and gives_logits_of_samples(network, self.task)
        if memory in ("images", "classes") and not self._of_samples:
            raise UsageError(
                f"GroupKnowledge: memory: got {memory!r}, but averages over steps are of logits of classes, some for "
                "each sample, which this network does not give; use step"
            )
        kept = levels - 1 if self._of_samples else 0  # the last group teaches nobody
        self.groups = nn.ModuleList(LogitMemory(momentum=momentum) for _ in range(kept))
        self._loop = 0, network.full  # how many subnets of the present loop were drawn in steps before, and the last

    @classmethod
    def problems(cls, settings: Mapping[str, Any]) -> list[str]:
        """What is impossible about settings of this method, a sentence each."""
        rules = {
            **BALANCE_RULES,
            "temperature": (lambda v: v > 0, "above 0"),
            "memory": (lambda v: v in get_args(Memory), "auto, images, classes or step"),
            "loops": (lambda v: v >= 1, "1 or more"),
            "levels": (lambda v: v >= 1, "1 or more"),
            "momentum": (lambda v: 0 <= v < 1, "a share that the average keeps, from 0 to below 1"),
            "decay": (lambda v: 0 < v <= 1, "a factor above 0 and at most 1"),
        }
        return impossible(settings, rules)

    @classmethod
    def problem_on_devices(cls, settings: Mapping[str, Any]) -> str | None:
        """Averages over steps are kept by one process."""
        memory = settings.get("memory", "auto")
        if memory not in ("images", "classes"):
            return None
        return f"memory: averages of {memory} over steps are kept by one process; use one device, or memory step"

    @property
    def within_steps(self) -> bool:
        """Whether averages begin anew in each step."""
        return not self._of_samples or (self.memory == "auto" and self.numbered is None)

    @property
    def needs_numbers(self) -> bool:
        """Whether averages are of each training image, because somebody asked for that."""
        return self.memory == "images"

    @property
    def current_balance(self) -> float:
        """The balance at the present step."""
        return BalanceSchedule(self.balance, self.balance_ramp).at(self.step, self.total_steps)

    @property
    def pollutes_statistics(self) -> bool:
        """Whether subnets' passes changed the main net's running statistics."""
        return not self.freeze_subnet_statistics

    def forward(self, x: Any, y: Any, subnets: Sequence[SubnetLike] | None = None) -> Terms:
        """The terms of one step; see ``Method.forward``.

        Args:
            x: A batch, as the network takes it.
            y: Its targets.
            subnets: The subnets instead of drawn ones; see ``checked``.
        """
        balance = self.current_balance
        if balance and self.balance_ramp and self.training:
            warn_of_more_batches(self.step, self.total_steps)
        drawn = self.draw() if subnets is None and balance else []  # none where they have no weight
        chosen = drawn if subnets is None else self.checked(subnets)
        main, *others = self._run(x, chosen)
        main_ce = self.label_loss(main, y)
        if not others:
            self._count()
            return Terms(loss=main_ce, main_ce=main_ce, logits=main)
        compare = partial(self.task.divergence, targets=y, temperature=self.temperature)
        if self.within_steps:
            loops = [others[start : start + self.levels] for start in range(0, len(others), self.levels)]
            subnet_kl = group_divergence(main, loops, momentum=self.momentum, divergence=compare)
        else:
            subnet_kl = compare(others[0], self._group_above(main, others[0], y))
            self._go_on(chosen[0])
        self._count()
        loss = main_ce + balance * subnet_kl
        return Terms(loss=loss, main_ce=main_ce, subnet_kl=subnet_kl, logits=main, subnets=chosen)

    def draw(self) -> list[Subnet]:
        """The subnets of a step: those of all loops one after the other, or the next one of a loop over steps."""
        space = self.network.space
        if not self.within_steps:
            return [nested_inside(space, self._loop[1], self.generator, decay=self.decay)]
        drawn: list[Subnet] = []
        for _ in range(self.loops):
            subnet = space.full
            for _ in range(self.levels):
                subnet = nested_inside(space, subnet, self.generator, decay=self.decay)
                drawn.append(subnet)
        return drawn

    def checked(self, subnets: Sequence[SubnetLike]) -> list[Subnet]:
        """Subnets for a step, as the network has them.

        Args:
            subnets: Those of all loops one after the other, ``levels`` of them a loop, each inside the one before; or
                the next one of a loop over steps.

        Raises:
            UsageError: If they are not as many, or not one inside the other.
        """
        chosen = [self.network.resolve(subnet) for subnet in subnets]
        if not self.within_steps and len(chosen) > 1:
            raise UsageError(
                f"group knowledge whose averages are over steps takes one subnet a step; got {len(chosen)} subnets"
            )
        if self.within_steps and len(chosen) % self.levels:
            raise UsageError(
                f"group knowledge takes {self.levels} subnets a loop (levels), each inside the one before; "
                f"got {len(chosen)} subnets"
            )
        for number, subnet in enumerate(chosen):
            around = chosen[number - 1] if number % self.levels else self.network.full
            outer = around if self.within_steps else self._loop[1]
            if any(not set(kept) <= set(wide) for kept, wide in zip(subnet.stages, outer.stages, strict=True)):
                raise UsageError(
                    f"in a loop of group knowledge each subnet is inside the one before; got {subnet} after {outer}"
                )
        return chosen

    def get_extra_state(self) -> dict[str, Any]:
        """The step, the generator's state, and where the loop over steps is."""
        level, last = self._loop
        return {**super().get_extra_state(), "level": level, "last": last.to_json()}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Go on from there."""
        super().set_extra_state(state)
        if "level" in state:
            self._loop = state["level"], Subnet.from_json(state["last"])

    def _group_above(self, main: Tensor, logits: Tensor, y: Any) -> Tensor:
        """What the group above knows of a batch; what this subnet's own group knows has these logits in it from now on.

        Args:
            main: The main net's logits.
            logits: Those of the subnet.
            y: The targets.
        """
        level = self._loop[0]
        of, shared = self._rows(main, y)
        memories = [memory for memory in self.groups if isinstance(memory, LogitMemory)]
        above = memories[level - 1].recalled(of, otherwise=main) if level else main
        if self.training and level < len(memories):
            memories[level].learn(of, logits, shared=shared)
        return above

    def _go_on(self, subnet: Subnet) -> None:
        """Go on to the next level, or to the next loop."""
        if self.training:
            level = (self._loop[0] + 1) % self.levels
            self._loop = level, subnet if level else self.network.full

    def _rows(self, main: Tensor, y: Any) -> tuple[Numbered, bool]:
        """Which averages belong to the samples of a batch, and whether several may have the same."""
        known = self.memory != "classes" and known_numbers(self.numbered, f"memory: {self.memory}")
        wanted = 2 * len(self.groups) * known.size * main.shape[-1] if known else 0
        if known and (self.memory == "images" or wanted <= _LARGEST):
            return known, False
        classes = y.argmax(-1) if y.is_floating_point() else y.flatten().long()
        return Numbered(classes, main.shape[-1]), True

    def _run(self, x: Any, subnets: Sequence[Subnet]) -> list[Tensor]:
        def before_pass(position: int) -> AbstractContextManager[None] | None:
            return self.network.frozen_statistics() if position and self.freeze_subnet_statistics else None

        outputs: list[Any] = [None] * (1 + len(subnets))
        for position, output, _ in self.network.passes(x, [self.network.full, *subnets], before_pass=before_pass):
            outputs[position] = self.task.outputs_of(output)
        return outputs
