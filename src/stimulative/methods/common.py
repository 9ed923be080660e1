"""Common training: the main net alone, with cross-entropy. What every other method is compared with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from stimulative.methods.base import Method, Terms, refuse_subnets
from stimulative.residual import SubnetLike


class CommonTraining(Method):
    """Train the main net alone, by the loss of its task: ``loss = CE(z_main, y)`` where it tells classes apart."""

    def forward(self, x: Any, y: Any, subnets: Sequence[SubnetLike] | None = None) -> Terms:
        """The terms of one step; see ``Method.forward``."""
        refuse_subnets("common training", subnets)
        logits = self.run_main(x)
        loss = self.label_loss(logits, y)
        self._count()
        return Terms(loss=loss, main_ce=loss, logits=logits)
