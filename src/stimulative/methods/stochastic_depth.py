"""Stochastic depth.

Huang et al., "Deep Networks with Stochastic Depth", ECCV 2016, arXiv 1603.09382. In each step, block ``l`` of ``L``
runs with its survival probability and is skipped otherwise,

    p_l = 1 - l / L * (1 - survival),        x_(l+1) = relu(x_l + b_l f_l(x_l)),  b_l = 1 with probability p_l, else 0,

and cross-entropy trains whatever ran. At test all blocks run, each branch times its probability:
``x_(l+1) = relu(x_l + p_l f_l(x_l))``.

Two later papers on transformers drop layers by other rules, and do not scale branches at test (``rescale: false``).
With ``d = 1 - survival``, their p and p_max:

    decay: uniform       p_l = 1 - d                              LayerDrop, Fan et al., ICLR 2020, arXiv 1909.11556
    decay: exponential   p_l = 1 - d (2^((l-1) / (L-1)) - 1)      LayerSkip, Elhoushi et al., ACL 2024, arXiv 2404.16710

The second is its D(l) = e^(l ln2 / (L-1)) - 1, where layers count from 0: the first one always runs, the last one with
probability ``survival``.

Where this differs from the paper and the authors' published code (Torch 7), and why:

- A block that changes stride or width always runs: its shortcut is no identity, and it cannot be skipped. It is counted
  in ``l`` and ``L``. The authors' shortcut there is an average pool and zeros for new channels, which they keep.
- The factor at test is folded into the parameters that end each branch (``residual.branches``), so that what
  is saved is a plain model, equal to theirs at test. A block with two branches, as in transformers, is skipped as a
  whole, and each of its branches is scaled.
- ``per_sample`` draws for each image instead of for the batch, as drop-path does; without its rescaling in training.

As in the authors' code, parameters of skipped blocks get a gradient of zero rather than none, so momentum and weight
decay go on for them.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from stimulative.errors import UsageError
from stimulative.methods.base import Method, Terms, check_settings, impossible
from stimulative.residual import Place, ResidualNetwork, Subnet, SubnetLike, branch_ends, sent, tensors_in
from stimulative.tasks import Task

Decay = Literal["linear", "uniform", "exponential"]

_DROP_PATH = ("droppath", "stochasticdepth")


def survival_of(block: int, blocks: int, survival: float, decay: Decay = "linear") -> float:
    """The probability that a block runs.

    Args:
        block: Number of the block, from 1 for the first one to ``blocks`` for the last.
        blocks: How many there are.
        survival: The probability of the last one.
        decay: How it falls from the first to the last: by equal steps (``linear``), not at all (``uniform``), or by
            steps that grow exponentially (``exponential``).
    """
    if decay == "linear":
        return 1 - block / blocks * (1 - survival)
    if decay == "uniform" or block == blocks:
        return survival
    return 1 - (2 ** ((block - 1) / (blocks - 1)) - 1) * (1 - survival)


class StochasticDepth(Method):
    """Train with blocks skipped at random, the later ones more often.

    Args:
        network: The network to train; with ``rescale`` its blocks' branches have to end in parameters that scale them.
        survival: Probability that the last block runs, above 0 and at most 1. 1 is common training.
        decay: How that of block ``l`` of ``L`` falls with its depth: ``linear`` is ``1 - l / L * (1 - survival)``
            (the paper's), ``uniform`` is ``survival`` for all (LayerDrop's), ``exponential`` is
            ``1 - (2 ** ((l - 1) / (L - 1)) - 1) * (1 - survival)`` (LayerSkip's).
        rescale: Whether each branch counts by its probability at test, folded into the weights when training ends.
            LayerDrop and LayerSkip do not, and the model is left as it was trained.
        per_sample: Whether blocks are skipped for each image by itself rather than for the whole batch. All of them
            are then computed, so that no time is saved.
        task: What the network is for; see ``Method``.
        label_smoothing: Label smoothing of the cross-entropy, 0 to 1.
        total_steps: The number of batches that training will take; nothing depends on it.
        seed: Seed of the draws.

    Raises:
        UsageError: If a setting has an impossible value, or the network's branches cannot be scaled (DenseNets among
            others) and would have to be.
    """

    def __init__(
        self,
        network: ResidualNetwork,
        *,
        survival: float = 0.5,
        decay: Decay = "linear",
        rescale: bool = True,
        per_sample: bool = False,
        task: str | Task | None = None,
        label_smoothing: float = 0.0,
        total_steps: int | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(network, task=task, label_smoothing=label_smoothing, total_steps=total_steps, seed=seed)
        check_settings(type(self), {"survival": survival, "decay": decay})
        self.survival = survival
        self.decay: Decay = decay
        self.rescale = rescale
        self.per_sample = per_sample
        self.deployed = False
        places = network.wiring.places
        self.probabilities = torch.tensor(
            [
                1.0
                if place.index == 0 and network.stages[place.stage].fixed_entry
                else survival_of(number, len(places), survival, decay)
                for number, place in enumerate(places, start=1)
            ],
            dtype=torch.float64,
        )
        self._factors: dict[str, float] = {}
        if survival < 1:
            _warn_of_drop_path(network.model)
            if per_sample:
                _check_adds(network)
        if survival < 1 and rescale:
            by_block = {place.name: p for place, p in zip(places, self.probabilities.tolist(), strict=True)}
            try:
                ends = branch_ends(network)
            except UsageError as error:
                raise UsageError(
                    f"stochastic depth scales each residual branch by its survival probability at test, and here it "
                    f"cannot: {error}. Use rescale false, another method or another model; survival 1 is common "
                    "training"
                ) from error
            self._factors = {name: by_block[block] for block, names in ends.items() for name in names}

    @classmethod
    def problems(cls, settings: Mapping[str, Any]) -> list[str]:
        """What is impossible about settings of this method, a sentence each."""
        words = "a probability above 0, at most 1 (the paper's is 0.5)"
        decays = get_args(Decay)
        rules = {
            "survival": (lambda v: 0 < v <= 1, words),
            "decay": (lambda v: v in decays, f"one of {', '.join(decays)}"),
        }
        return impossible(settings, rules)

    def as_deployed(self) -> AbstractContextManager[None]:
        """A context in which each branch is scaled by its survival probability; afterwards all is as it was.

        Without ``rescale`` nothing is scaled.
        """
        return nullcontext() if self.deployed else self._scaled()

    def deploy(self) -> None:
        """Scale each branch by its survival probability for good; a second time, or without ``rescale``, do nothing."""
        if self.rescale and not self.deployed:
            self._scale()
            self.deployed = True

    def forward(self, x: Any, y: Any, subnets: Sequence[SubnetLike] | None = None) -> Terms:
        """The terms of one step; see ``Method.forward``.

        ``main_ce`` and ``logits`` are those of the net that ran. In evaluation mode nothing is skipped.
        """
        if subnets:
            raise UsageError(
                f"stochastic depth draws the blocks that run and trains no other subnets, got {len(subnets)}; "
                "use StimulativeTraining"
            )
        if not self.training or self.survival == 1:
            drawn, logits = (), self.run_main(x)
        elif self.deployed:
            raise UsageError(
                "the network has been deployed: its branches are scaled by their survival probabilities, and further "
                "training would scale them again. Train on from a checkpoint, or call eval() on the method"
            )
        elif self.per_sample:
            drawn, logits = (), self._run_per_sample(x)
        else:
            subnet = self.draw()
            drawn = (subnet,)
            with self.network.only(subnet) if subnet != self.network.full else nullcontext():
                logits = self.run_main(x)
        main_ce = self.label_loss(logits, y)
        self._count()
        loss = main_ce
        for subnet in drawn:
            loss = loss + self._nothing(subnet)
        return Terms(loss=loss, main_ce=main_ce, logits=logits, subnets=drawn)

    def get_extra_state(self) -> dict[str, Any]:
        """The step, the generator's state, and whether the network's branches are scaled already."""
        return super().get_extra_state() | {"deployed": self.deployed}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Go on from a saved state."""
        super().set_extra_state(state)
        self.deployed = state["deployed"]

    def draw(self) -> Subnet:
        """The blocks that run in a step, each by its probability (``probabilities``), by the method's own generator."""
        survives = torch.rand(len(self.probabilities), generator=self.generator, dtype=torch.float64)
        stages: list[list[int]] = [[] for _ in self.network.stages]
        runs = (survives < self.probabilities).tolist()
        for place, survivor in zip(self.network.wiring.places, runs, strict=True):
            if survivor:
                stages[place.stage].append(place.index)
        return Subnet(tuple(tuple(sorted(stage)) for stage in stages))

    def _run_per_sample(self, x: Any) -> Tensor:
        first = tensors_in(x)[0]
        size = len(first)
        names = [place.name for place in self.network.wiring.places]
        drawn = torch.rand(len(self.probabilities), size, generator=self.generator, dtype=torch.float64)
        rows = sent(drawn < self.probabilities[:, None], first.device)
        survives = dict(zip(names, rows, strict=True))

        def choose(place: Place, output: Any, skipped: Callable[[], Any]) -> Any:
            if place.index == 0 and self.network.stages[place.stage].fixed_entry:
                return output  # it cannot be skipped

            def chosen(ran: Any, instead: Any) -> Any:
                if not isinstance(ran, Tensor):
                    return ran
                if len(ran) != size:
                    raise UsageError(
                        f"per_sample: block {place.name!r} returns a tensor of shape {tuple(ran.shape)}, of which the "
                        f"first dimension is not that of the {size} samples; use per_sample false"
                    )
                return torch.where(survives[place.name].view(-1, *[1] * (ran.dim() - 1)), ran, instead)

            return pytree.tree_map(chosen, output, skipped())

        with self.network.after_blocks(choose):
            return self.run_main(x)

    def _nothing(self, subnet: Subnet) -> Tensor:
        """Zero, with a gradient of zero for every parameter of the blocks that a subnet skips."""
        skipped = [
            self.network.model.get_submodule(name)
            for stage, kept in zip(self.network.stages, subnet.stages, strict=True)
            for index, name in enumerate(stage.block_names)
            if index not in kept
        ]
        parameters = [p for block in skipped for p in block.parameters() if p.requires_grad]
        return _Zero.apply(*parameters) if parameters else torch.zeros(())

    @contextmanager
    def _scaled(self) -> Iterator[None]:
        copies = self._scale()
        try:
            yield
        finally:
            with torch.no_grad():
                for name, value in copies.items():
                    self.network.model.get_parameter(name).copy_(value)

    def _scale(self) -> dict[str, Tensor]:
        """Scale the parameters that end branches; returns copies of what they were."""
        copies = {}
        with torch.no_grad():
            for name, factor in self._factors.items():
                parameter = self.network.model.get_parameter(name)
                copies[name] = parameter.detach().clone()
                parameter.mul_(factor)
        return copies


def _check_adds(network: ResidualNetwork) -> None:
    """Make sure that a block can be left out of some samples of a batch."""
    dense = [stage.name for stage in network.stages if stage.concatenates]
    if dense:
        raise UsageError(
            f"per_sample: the layers of {dense[0]!r} are concatenated (a DenseNet), so that a batch in which only some "
            "samples have a layer has no shape; use per_sample false"
        )


class _Zero(torch.autograd.Function):
    """Zero, as a function of tensors."""

    @staticmethod
    def forward(ctx: Any, *tensors: Tensor) -> Tensor:
        ctx.save_for_backward(*tensors)
        return tensors[0].new_zeros(())

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        return tuple(torch.zeros_like(tensor) for tensor in ctx.saved_tensors)


def _warn_of_drop_path(model: nn.Module) -> None:
    """Say which modules skip paths by themselves, and how to turn that off."""
    found = {}
    for name, module in model.named_modules():
        if type(module).__name__.lower().endswith(_DROP_PATH):
            rates = [getattr(module, key, None) for key in ("drop_prob", "p")]
            rate = next((rate for rate in rates if isinstance(rate, int | float)), 0)
            if rate > 0:
                found[name] = rate
    if found:
        named = ", ".join(f"{name} ({rate:.3g})" for name, rate in list(found.items())[:4])
        more = f" and {len(found) - 4} more" if len(found) > 4 else ""
        warnings.warn(
            f"the model has drop-path of its own, which skips branches on top of stochastic depth: {named}{more}. To "
            "turn it off, build it with model.arguments {drop_path_rate: 0} (timm), {stochastic_depth_prob: 0} "
            "(torchvision), or set its modules' drop_prob or p to 0",
            stacklevel=3,
        )
