"""Group knowledge: subnets that learn from the average of a group of larger ones.

Source: Tang et al., "Boosting Residual Networks with Group Knowledge", AAAI 2024, arXiv 2308.13772. In several loops,
subnets are drawn one inside the other; those of level ``k`` of all loops are group ``k``, and the main net is group 0.
What a group knows of a batch is an exponential moving average of its subnets' logits, which the group below learns
from. The authors' code was not available to us: the formulas are ours, made after the paper's summary,

    g_k = z_k                                 in the first loop,
    g_k = momentum * g_k + (1 - momentum) * z_k       in each further one,
    loss = mean over loops and levels of  KL(softmax(g_(k-1) / T) || softmax(z_k / T)) * T^2,   g_0 = z_main,

where ``g_(k-1)`` holds the subnets of the loops so far, the present one included.
"""

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from stimulative.errors import UsageError
from stimulative.objectives.kl import kl_divergence


def running_averages(values: Sequence[Tensor], *, momentum: float) -> list[Tensor]:
    """The exponential moving averages of tensors, after each of them; the first one is the first tensor itself.

    Args:
        values: Tensors of one shape, in their order.
        momentum: What the average keeps of itself when the next tensor comes, from 0 (that tensor alone) to below 1.

    Returns:
        As many averages as tensors, in float32 at least and without gradient.

    Raises:
        UsageError: The shapes differ, or the momentum is none.
    """
    if not 0 <= momentum < 1:
        raise UsageError(f"the momentum of an average is a number from 0 to below 1; got {momentum}")
    if len({value.shape for value in values}) > 1:
        raise UsageError(f"only tensors of one shape have an average; got {[tuple(value.shape) for value in values]}")
    averages: list[Tensor] = []
    for value in values:
        precise = value.detach().to(torch.promote_types(torch.float32, value.dtype))
        averages.append(momentum * averages[-1] + (1 - momentum) * precise if averages else precise)
    return averages


def group_divergence(
    main_logits: Tensor,
    subnet_logits: Sequence[Sequence[Tensor]],
    *,
    momentum: float = 0.5,
    temperature: float = 1.0,
    counted: Tensor | None = None,
    divergence: Callable[[Tensor, Tensor], Tensor] | None = None,
) -> Tensor:
    """How far subnets are from what the group above them knows.

    Args:
        main_logits: The main net's logits, shape ``(batch, ..., classes)``; a fixed target.
        subnet_logits: For each loop the logits of its subnets, from the largest level to the smallest, each of the
            same shape. They learn, and what they add to their group's average is a fixed target.
        momentum: What a group's average keeps of itself from loop to loop, from 0 to below 1.
        temperature: ``T``; above 1 it softens both distributions.
        counted: Which samples count, booleans of the leading dimensions' shape; all of them by default.
        divergence: How far outputs that learn, the first, are from those that they learn from, a scalar; by default
            ``kl_divergence`` with these two.

    Returns:
        A scalar in nats: the mean over loops, levels and the batch.

    Raises:
        UsageError: There are no subnets, loops have different numbers of levels, or shapes differ.
    """
    compare = divergence or partial(kl_divergence, temperature=temperature, counted=counted)
    levels = {len(logits) for logits in subnet_logits}
    if len(levels) != 1 or 0 in levels:
        raise UsageError(
            "every loop has the same number of subnets, one or more, from the largest to the smallest; got "
            f"{[len(logits) for logits in subnet_logits]}"
        )
    above: Sequence[Tensor] = [main_logits] * len(subnet_logits)
    divergences = []
    for group in zip(*subnet_logits, strict=True):
        divergences += [compare(logits, teacher) for logits, teacher in zip(group, above, strict=True)]
        above = running_averages(group, momentum=momentum)
    return torch.stack(divergences).mean()
