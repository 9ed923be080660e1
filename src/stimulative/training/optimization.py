"""Optimisers and learning rates from a recipe."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from stimulative.config import OptimizerSettings, ScheduleSettings


def optimizer_of(
    module: nn.Module, settings: OptimizerSettings, trunk: Collection[nn.Parameter] | None = None
) -> Optimizer:
    """The optimiser of a recipe for the parameters of a module that ask for a gradient.

    Args:
        module: The module.
        settings: The recipe's.
        trunk: The parameters that ``trunk_lr`` is for. Their groups come last, so that the first one has ``lr``.
    """
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
    if trunk is not None and settings.trunk_lr != 1:
        groups = _slower(groups, {id(parameter) for parameter in trunk}, settings.lr * settings.trunk_lr)
    # false would also turn off what PyTorch does instead, a few kernels for all parameters
    fused = _is_fused(groups, settings) or None
    if settings.name == "adamw":
        return torch.optim.AdamW(groups, lr=settings.lr, betas=settings.betas, fused=fused)
    return torch.optim.SGD(groups, lr=settings.lr, momentum=settings.momentum, nesterov=settings.nesterov, fused=fused)


def _is_fused(groups: Sequence[Mapping[str, Any]], settings: OptimizerSettings) -> bool:
    if settings.fused is not None:
        return settings.fused
    return all(parameter.device.type == "cuda" for group in groups for parameter in group["params"])


def restore_optimizer(optimizer: Optimizer, state: Mapping[str, Any]) -> None:
    """Go on from a saved state, by the kernels of this device, not by those that it was saved with.

    Args:
        optimizer: The optimiser.
        state: Its ``state_dict``, of any device.
    """
    fused = optimizer.defaults["fused"]
    groups = [{**group, "fused": fused} for group in state["param_groups"]]
    optimizer.load_state_dict({**state, "param_groups": groups})


def _slower(groups: Sequence[Mapping[str, Any]], trunk: Collection[int], lr: float) -> list[dict[str, Any]]:
    """The groups, those of the trunk's parameters apart and with a learning rate of their own."""

    def part(group: Mapping[str, Any], *, slow: bool) -> dict[str, Any]:
        return {**group, "params": [p for p in group["params"] if (id(p) in trunk) == slow]}

    new = [part(group, slow=False) for group in groups]
    old = [{**part(group, slow=True), "lr": lr} for group in groups]
    return [group for group in (*new, *old) if group["params"]]


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
