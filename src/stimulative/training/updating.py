"""The end of an optimiser step: gradients at their own scale, clipped, followed, and the learning rate moved on.

With a loss scaler (``16-mixed``) a step whose gradients overflow changes no weights. The learning rate moves on all the
same: it belongs to the place in the run, so that a run ends at the rate that its recipe says, however many steps were
left out, and the host need not wait in each step to know whether one was.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from stimulative.methods import Backward

KEY = "scaler"
"""What a checkpoint calls the scaler's state; there is none without a scaler, nor in those of older versions."""


class Update:
    """Takes optimiser steps.

    Args:
        fabric: Lightning Fabric.
        module: What it made of the module that is trained.
        optimizer: The optimiser.
        wrapped: What Fabric made of it.
        scheduler: Moves the learning rate.
        clip_norm: The norm that longer gradients are scaled down to; None leaves them alone.

    Attributes:
        backward: Goes backward from a loss, at the scale of the scaler.
        keeps_gradients: Whether gradients are zeros behind a step, instead of none.
    """

    def __init__(
        self,
        fabric: Any,
        module: nn.Module,
        optimizer: Optimizer,
        wrapped: Any,
        scheduler: LRScheduler,
        clip_norm: float | None,
    ) -> None:
        self.fabric = fabric
        self.module = module
        self.optimizer = optimizer
        self.wrapped = wrapped
        self.scheduler = scheduler
        self.clip_norm = clip_norm
        self.keeps_gradients = False
        self.scaler = getattr(fabric.strategy.precision, "scaler", None)
        self.backward: Backward = torch.autograd.backward if self.scaler is None else fabric.backward
        if self.scaler is not None:
            # without gradients it changes nothing; the scheduler would take it for an error that its step comes before
            # the optimiser's first one, which a scaler mostly leaves out
            optimizer.step()
            self._begin_momentum()

    def take(self) -> None:
        """Follow the gradients, and forget them; nothing waits for the device."""
        if self.clip_norm is not None:
            self._clip(self.clip_norm)
        self.wrapped.step()
        self.wrapped.zero_grad(set_to_none=not self.keeps_gradients)
        self.scheduler.step()

    def _clip(self, norm: float) -> None:
        if self.scaler is None:
            self.fabric.clip_gradients(self.module, self.wrapped, max_norm=norm, error_if_nonfinite=False)
            return
        # Fabric refuses to do this for a fused optimiser, which would bring gradients to their scale by itself
        self.scaler.unscale_(self.optimizer)
        nn.utils.clip_grad_norm_([p for group in self.optimizer.param_groups for p in group["params"]], norm)

    def _begin_momentum(self) -> None:
        """Let a fused SGD start from zeros: else it starts from any memory, where its first step is left out."""
        for group in self.optimizer.param_groups:
            if group.get("fused") and group.get("momentum"):
                for parameter in group["params"]:
                    self.optimizer.state[parameter].setdefault("momentum_buffer", torch.zeros_like(parameter))

    def state(self) -> dict[str, Any]:
        """What a checkpoint has to hold of it."""
        return {} if self.scaler is None else {KEY: self.scaler.state_dict()}

    def restore(self, checkpoint: Mapping[str, Any]) -> None:
        """Go on from a checkpoint, which the optimiser has been restored from."""
        if self.scaler is not None:
            self._begin_momentum()
            if checkpoint.get(KEY):
                self.scaler.load_state_dict(checkpoint[KEY])
