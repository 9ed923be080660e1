"""Stimulative training in an existing Lightning project: one callback more, and nothing else changes.

    from stimulative.integrations.lightning import StimulativeCallback

    trainer = Trainer(max_epochs=30, callbacks=[StimulativeCallback(balance=1.0)])

The subnets run within the LightningModule's own call of its network, in ``training_step`` (see
``stimulative.methods.beside``). Their term is added to the loss that the step returns, so that accumulation, clipping,
precision and ``DistributedDataParallel`` see one loss. Validation and prediction are as they were.
"""

from __future__ import annotations

import functools
import math
from contextlib import ExitStack
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import GradientAccumulationScheduler
from lightning.pytorch.strategies import DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy
from torch import Tensor, nn

from stimulative.errors import UsageError
from stimulative.integrations.counting import batches_in
from stimulative.integrations.first_call import method_of
from stimulative.integrations.locating import Search, named
from stimulative.methods import Beside, StimulativeTraining, check_settings_beside
from stimulative.residual import ResidualNetwork


class StimulativeCallback(Callback):
    """Train the network of a LightningModule stimulatively.

    The network is unraveled in the first training step. From then on ``network`` is there, for subnets and their
    statistics, after training as well.

    Args:
        network: The name of the network within the LightningModule, such as ``model``; what it returns has to be logits
            (alone, first in a tuple, or as ``logits``). ``""`` is the LightningModule itself, by its ``forward``. By
            default it is what the step calls that has residual blocks.
        example_input: What to unravel the network with, as ``stimulative.unravel`` takes it; by default the first two
            samples of the first batch.
        log: Name under which the mean divergence of the step's subnets is logged; None for nowhere.
        settings: Settings of ``StimulativeTraining``: ``balance``, ``sampler``, ``efficient`` and so on. Those of the
            loss are not among them. ``total_steps`` counts batches, also where gradients accumulate over several, and
            is by default as many as the trainer will train on.

    Raises:
        UsageError: If a setting is unknown or impossible. At the start of ``fit``: if the LightningModule optimises by
            hand or is compiled, or its parameters are sharded. In the first step: if there is no such network.
    """

    def __init__(
        self, network: str | None = None, *, example_input: Any = None, log: str | None = "subnet_kl", **settings: Any
    ) -> None:
        check_settings_beside(StimulativeTraining, settings)
        self.method: StimulativeTraining | None = None
        self._name = network
        self._example_input = example_input
        self._log = log
        self._settings = settings
        self._saved: dict[str, Any] = {}
        self._module: LightningModule | None = None
        self._undo: ExitStack = ExitStack()

    @property
    def network(self) -> ResidualNetwork:
        """The network, unraveled.

        Raises:
            UsageError: Before the first training step.
        """
        if self.method is None:
            raise UsageError("the network is unraveled in the first training step, and there has been none yet")
        return self.method.network

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse what cannot be trained, and begin anew unless the same training goes on."""
        if stage == "fit":
            _check(trainer, pl_module)
            if pl_module is not self._module or trainer.global_step == 0:
                self.method, self._saved = None, {}
            self._module = pl_module

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Put this callback around the module's ``training_step``."""
        if self._name is not None:
            named(pl_module, self._name)  # before any work
        if self.method is not None:
            self.method.total_steps = self._total_steps(trainer)
        own, step = vars(pl_module), pl_module.training_step

        @functools.wraps(step)
        def training_step(*args: Any, **kwargs: Any) -> Any:
            return self._step(trainer, pl_module, step, *args, **kwargs)

        if "training_step" in own:
            self._undo.callback(own.__setitem__, "training_step", step)
        else:
            self._undo.callback(own.pop, "training_step", None)
        own["training_step"] = training_step

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave the module as it was."""
        self._undo.close()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Leave the module as it was."""
        self._undo.close()

    def state_dict(self) -> dict[str, Any]:
        """The method's step and the state of its generator; before the first step, what was loaded."""
        return self._saved if self.method is None else self.method.get_extra_state()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a saved state."""
        self._saved = state_dict
        if self.method is not None:
            self.method.set_extra_state(state_dict)

    def _step(self, trainer: Trainer, pl_module: LightningModule, step: Any, *args: Any, **kwargs: Any) -> Any:
        """The module's own ``training_step``, with the subnets' term added to its loss."""
        if self.method is None:
            search = Search(pl_module, self._name, self._example_input)
            with search.open(lambda network: self._set_up(trainer, network)):
                result = step(*args, **kwargs)
            if result is not None:
                search.check()
            subnets = search.subnets
        else:
            with self.method.beside() as subnets:
                result = step(*args, **kwargs)
        return result if result is None or subnets is None else self._added(pl_module, result, subnets)

    def _added(self, pl_module: LightningModule, result: Any, subnets: Beside) -> Any:
        if self._log is not None and subnets.divergences:
            pl_module.log(self._log, subnets.subnet_kl)
        if isinstance(result, Tensor):
            return result + subnets.term
        return {**result, "loss": result["loss"] + subnets.term} if "loss" in result else result

    def _set_up(self, trainer: Trainer, network: ResidualNetwork) -> StimulativeTraining:
        if self._settings.get("task") is None and self._module is not None:
            _check_criteria(self._module)
        self.method = method_of(network, {**self._settings, "total_steps": self._total_steps(trainer)})
        if self._saved:
            self.method.set_extra_state(self._saved)
        return self.method

    def _total_steps(self, trainer: Trainer) -> int | None:
        return self._settings["total_steps"] if "total_steps" in self._settings else _batches(trainer)


def _batches(trainer: Trainer) -> int | None:
    """How many batches a trainer trains on; None if that is not known."""
    callbacks: Any = trainer  # pyright takes the attribute for one that is not always there
    scheduled = [callback for callback in callbacks.callbacks if isinstance(callback, GradientAccumulationScheduler)]

    def accumulate(epoch: int) -> int:
        return scheduled[0].get_accumulate_grad_batches(epoch) if scheduled else trainer.accumulate_grad_batches

    return batches_in(
        epochs=math.inf if trainer.max_epochs in (None, -1) else trainer.max_epochs,
        updates=math.inf if trainer.max_steps == -1 else trainer.max_steps,
        per_epoch=trainer.num_training_batches,
        accumulate=accumulate,
    )


def _check(trainer: Trainer, pl_module: LightningModule) -> None:
    name = type(pl_module).__name__
    if not pl_module.automatic_optimization:
        raise UsageError(
            f"{name} optimises by hand (automatic_optimization is False), so that the loss is not Lightning's to add "
            "to. Make a method yourself, and in training_step: with method.beside() as subnets: loss = ...; "
            "self.manual_backward(loss + subnets.term)"
        )
    if getattr(pl_module, "_compiler_ctx", None) is not None:
        raise UsageError(
            f"{name} is compiled as a whole, and the compiled code would not see which blocks are skipped; leave it as "
            "it is, and compile its blocks (block.compile()) if you like"
        )
    if isinstance(trainer.strategy, DeepSpeedStrategy | FSDPStrategy | ModelParallelStrategy):
        raise UsageError(
            f"{type(trainer.strategy).__name__} keeps parts of parameters on each device, and blocks that are skipped "
            "would be gathered on none; use one device or strategy='ddp'"
        )


_OTHER_CRITERIA = {
    nn.BCEWithLogitsLoss: "multilabel",
    nn.MultiLabelSoftMarginLoss: "multilabel",
    nn.MSELoss: "regression",
    nn.L1Loss: "regression",
    nn.SmoothL1Loss: "regression",
    nn.HuberLoss: "regression",
}


def _check_criteria(pl_module: LightningModule) -> None:
    """Refuse to take a module for one that tells classes apart where all its criteria are of another task.

    Raises:
        UsageError: If they are.
    """
    criteria = [module for module in pl_module.modules() if isinstance(module, nn.modules.loss._Loss)]
    tasks = {_OTHER_CRITERIA.get(type(criterion)) for criterion in criteria}
    if criteria and None not in tasks:
        kind, task = type(criteria[0]).__name__, _OTHER_CRITERIA[type(criteria[0])]
        raise UsageError(
            f"{type(pl_module).__name__} has a {kind}, but its subnets would learn class probabilities: say what the "
            f"network is for, StimulativeCallback(task={task!r}), or task='classification' if that is meant"
        )
