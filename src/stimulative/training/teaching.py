"""Targets where data have none: what the network gave before it was trained.

An encoder that learns from its own subnets alone has no reason to stay what it was: vectors that are all the same make
the distances 0, too. So a frozen copy of the net that training starts from gives the targets while batches are read.
Its weights stand in the run directory, so that a run that goes on, or is measured later, has the same.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from stimulative.data import Data
from stimulative.errors import UsageError
from stimulative.residual import arguments_of
from stimulative.tasks import Task
from stimulative.weights import load_weights


class Teacher:
    """A frozen copy of a model, which gives targets.

    Args:
        model: The model, on the device of the data; it stays as it is.
        aim: What it is for.
    """

    def __init__(self, model: nn.Module, aim: Task) -> None:
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self._aim = aim

    def fill(self, weights: Mapping[str, Tensor], file: str | Path, name: str, data: Data) -> None:
        """Give the copy weights of its own.

        Raises:
            UsageError: If they do not fit.
        """
        load_weights(self.model, weights, file=file, name=name, data=data.name, **data.sizes)

    def __call__(self, x: Any) -> Tensor:
        """The targets of what a model takes, float32 (batch, features)."""
        args, kwargs = arguments_of(x)
        with torch.no_grad(), torch.autocast(next(self.model.parameters()).device.type, enabled=False):
            return self._aim.outputs_of(self.model(*args, **kwargs))


def check_teachable(data: Data, weights: str | None) -> None:
    """Make sure that there is a net to take targets from.

    Args:
        data: The data.
        weights: What the recipe starts from.

    Raises:
        UsageError: If the data have no targets, and there is nothing to start from.
    """
    if data.unlabelled and weights is None:
        raise UsageError(
            f"{data.name} has texts without labels: the net keeps to the embeddings that it gives before it is "
            "trained, so it has to start from trained weights. Say model.weights: a directory in which Transformers "
            "saved an encoder, a file, or a run directory"
        )
