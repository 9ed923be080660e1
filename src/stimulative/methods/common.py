"""Common training: the main net alone, with cross-entropy. What every other method is compared with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from stimulative.methods.base import Method, Terms, refuse_subnets, run_main
from stimulative.objectives import cross_entropy
from stimulative.residual import SubnetLike


class CommonTraining(Method):
    """Train the main net alone: ``loss = CE(z_main, y)``."""

    def forward(self, x: Any, y: Tensor, subnets: Sequence[SubnetLike] | None = None) -> Terms:
        """The terms of one step; see ``Method.forward``."""
        refuse_subnets("common training", subnets)
        logits = run_main(self.network, x)
        loss = cross_entropy(logits, y, label_smoothing=self.label_smoothing)
        self._count()
        return Terms(loss=loss, main_ce=loss, logits=logits)
