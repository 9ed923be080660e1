"""Optimisers and learning rates from a recipe."""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from stimulative.training.settings import OptimizerSettings, ScheduleSettings


def optimizer_of(module: nn.Module, settings: OptimizerSettings) -> Optimizer:
    """The optimiser of a recipe for the parameters of a module."""
    from timm.optim import param_groups_weight_decay  # pyright: ignore[reportPrivateImportUsage]

    if settings.decay_norms_and_biases:
        groups = [
            {
                "params": [p for p in module.parameters() if p.requires_grad],
                "weight_decay": settings.weight_decay,
            }
        ]
    else:
        groups = param_groups_weight_decay(module, settings.weight_decay)
    if settings.name == "adamw":
        return torch.optim.AdamW(groups, lr=settings.lr, betas=settings.betas)
    return torch.optim.SGD(groups, lr=settings.lr, momentum=settings.momentum, nesterov=settings.nesterov)


def schedule_of(optimizer: Optimizer, settings: ScheduleSettings, steps_per_epoch: int) -> LambdaLR:
    """The learning rate of each step: a linear rise over the warm-up, then a cosine down to the final share."""
    total = settings.epochs * steps_per_epoch
    warmup = settings.warmup_epochs * steps_per_epoch

    def share(step: int) -> float:
        if step < warmup:
            return (step + 1) / (warmup + 1)
        progress = (step - warmup) / max(1.0, total - warmup)
        return settings.final_lr + (1 - settings.final_lr) * (1 + math.cos(math.pi * min(1.0, progress))) / 2

    return LambdaLR(optimizer, share)
