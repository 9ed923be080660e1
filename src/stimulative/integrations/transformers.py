"""Stimulative training with the Trainer of Hugging Face Transformers: image classifiers and language models.

    from stimulative.integrations.transformers import StimulativeTrainer

    trainer = StimulativeTrainer(model, args, train_dataset=data, stimulative={"balance": 1.0})

For another Trainer, put the mixin in front: ``class MyTrainer(StimulativeMixin, TheirTrainer)``. The subnets run within
the model's own call in ``compute_loss`` (see ``stimulative.methods.beside``), so within its autocast and its
``DistributedDataParallel``. Evaluation and prediction are as they were.

Positions whose label is -100 count in neither term. Where the Trainer divides a loss by the number of tokens in all
accumulated batches, a batch's share of the subnets' term is its share of these tokens.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from stimulative.errors import UsageError
from stimulative.integrations.counting import batches_in
from stimulative.integrations.first_call import example_of, hearing, method_of, unraveled
from stimulative.methods import Beside, StimulativeTraining, check_settings_beside, known_targets, shifted_labels
from stimulative.objectives import IGNORED
from stimulative.residual import ResidualNetwork
from stimulative.tasks import MultiLabel, Task, task_of_model

try:
    import accelerate as accelerate  # what a Trainer cannot be made without
    from transformers import Trainer
    from transformers.trainer_utils import has_length
except ImportError as error:
    raise UsageError(
        "the Trainer of Transformers needs transformers and accelerate, and one of them is not installed: "
        "pip install 'stimulative[hf]'"
    ) from error

_STATE = "stimulative.pth"
_Base: Any = Trainer if TYPE_CHECKING else object


class StimulativeMixin(_Base):
    """Makes a Trainer train stimulatively; comes before the Trainer in the list of bases.

    The model is unraveled in the first training step. From then on ``network`` is there, for subnets and their
    statistics, after training as well. The mean divergence of the subnets is logged beside the loss as ``subnet_kl``.

    Args:
        args: Those of the Trainer.
        stimulative: Settings of ``StimulativeTraining``: ``balance``, ``sampler``, ``efficient`` and so on. Those of
            the loss are not among them. ``total_steps`` counts batches, also where gradients accumulate over several,
            and is by default as many as the Trainer will train on.
        example_input: What to unravel the model with, a mapping of keyword arguments; by default the first two samples
            of the first batch.
        kwargs: Those of the Trainer.

    Raises:
        UsageError: If a setting is unknown or impossible, or the model is compiled, sharded, or copied to several
            devices by one process. In the first step: if it has no residual blocks.
    """

    def __init__(
        self, *args: Any, stimulative: Mapping[str, Any] | None = None, example_input: Any = None, **kwargs: Any
    ) -> None:
        self._settings = dict(stimulative or {})
        check_settings_beside(StimulativeTraining, self._settings)
        super().__init__(*args, **kwargs)
        self.method: StimulativeTraining | None = None
        self._example_input = example_input
        self._saved: dict[str, Any] = {}
        self._divergences: list[Tensor] = []
        _check(self)

    @property
    def network(self) -> ResidualNetwork:
        """The network, unraveled.

        Raises:
            UsageError: Before the first training step.
        """
        if self.method is None:
            raise UsageError("the model is unraveled in the first training step, and there has been none yet")
        return self.method.network

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """Train from the beginning, or from a checkpoint; see ``Trainer.train``."""
        self.method, self._saved, self._divergences = None, {}, []
        return super().train(*args, **kwargs)

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """The Trainer's loss, in training with the subnets' term added; see ``Trainer.compute_loss``."""
        if not model.training:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        labels = shifted_labels(self.model, inputs)
        share = self._share({"labels": labels}, num_items_in_batch)
        known = dict(inputs)  # what the Trainer goes on to take out, such as the labels that it smooths

        def targets(outputs: Any) -> Any:
            return None if self.method is None else known_targets(self.method.task, self.model, known, outputs)

        with ExitStack() as stack:
            if self.method is None:
                found: list[Beside] = []
                heard = partial(self._found, labels, targets, found, stack)
                stack.enter_context(hearing({"": self.model}, lambda _, x: heard(x)))
            else:
                found = [stack.enter_context(self.method.beside(targets))]
            result = super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        if not found:
            raise UsageError(
                f"compute_loss did not call {type(self.model).__name__} in training mode and with gradients, so that "
                "no subnet could run beside it"
            )
        subnets = found[0]
        if subnets.divergences:
            self._divergences.append(subnets.subnet_kl)
        loss, *outputs = result if return_outputs else (result,)
        loss = loss + share * subnets.term
        return (loss, *outputs) if return_outputs else loss

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Log, with the mean divergence of the subnets since the last time; see ``Trainer.log``."""
        if "loss" in logs and self._divergences:
            logs["subnet_kl"] = float(torch.stack(self._divergences).mean())
            self._divergences = []
        super().log(logs, *args, **kwargs)

    def _found(self, labels: Any, targets: Callable[[Any], Any], found: list[Beside], stack: ExitStack, x: Any) -> None:
        if found:
            return
        example = example_of(x) if self._example_input is None else self._example_input
        task = _task_of(self.model, labels)
        settings = {"task": task, "total_steps": self._batches(), **self._settings}
        self.method = method_of(unraveled(self.model, example), settings)
        if self._saved:
            self.method.set_extra_state(self._saved)
        found.append(stack.enter_context(self.method.beside(targets)))

    def _batches(self) -> int | None:
        """How many batches the training will take."""
        loader = self.callback_handler.train_dataloader
        return batches_in(
            epochs=math.inf,
            updates=self.state.max_steps,
            per_epoch=len(loader) if has_length(loader) else math.inf,
            accumulate=lambda _: self.args.gradient_accumulation_steps,
        )

    def _share(self, inputs: Mapping[str, Any], items: Tensor | int | None) -> Tensor | float:
        """What the mean over this batch weighs, as the Trainer goes on to treat the loss."""
        scaled = self.loss_is_scaled_for_ga
        if scaled is None:
            scaled = (self.model_accepts_loss_kwargs and items is not None) or self.compute_loss_func is not None
        if not scaled:
            return 1.0
        if items is None or not isinstance(inputs["labels"], Tensor):
            return 1 / self.current_gradient_accumulation_steps
        across = self.accelerator.num_processes if self.args.average_tokens_across_devices else 1
        return (inputs["labels"] != IGNORED).sum() * across / items

    def _save_rng_state(self, output_dir: str) -> None:
        super()._save_rng_state(output_dir)
        if self.method is not None and self.args.should_save:
            torch.save(self.method.get_extra_state(), os.path.join(output_dir, _STATE))

    def _load_rng_state(self, checkpoint: str | None) -> None:
        super()._load_rng_state(checkpoint)
        path = os.path.join(checkpoint or "", _STATE)
        if checkpoint is not None and os.path.isfile(path):
            self._saved = torch.load(path, weights_only=True)


class StimulativeTrainer(StimulativeMixin, Trainer):
    """The Trainer of Transformers, training stimulatively; see ``StimulativeMixin``."""


def _task_of(model: nn.Module, labels: Any) -> Task | None:
    """What a model is for, of whose labels its own loss would conclude it in the first step; None if it does not."""
    config = getattr(model, "config", None)
    open_still = getattr(config, "problem_type", None) is None and getattr(config, "num_labels", 1) > 1
    sorts = type(model).__name__.endswith("Classification") and not type(model).__name__.endswith("TokenClassification")
    if open_still and sorts and isinstance(labels, Tensor) and labels.is_floating_point():
        return MultiLabel()
    return task_of_model(model)


def _check(trainer: Any) -> None:
    if trainer.args.torch_compile:
        raise UsageError(
            "torch_compile=True compiles the model as a whole, and the compiled code would not see which blocks are "
            "skipped; leave it out, and compile the model's blocks (block.compile()) if you like"
        )
    if trainer.is_deepspeed_enabled or trainer.is_fsdp_enabled:
        raise UsageError(
            "DeepSpeed and FSDP keep parts of parameters on each device, and blocks that are skipped would be gathered "
            "on none; use one device, or several by torchrun"
        )
    if trainer.args.n_gpu > 1:
        raise UsageError(
            f"one process would copy the model to {trainer.args.n_gpu} devices in each step (DataParallel), and its "
            "copies are not known; start a process for each of them (torchrun --nproc-per-node), or show it one device"
        )
