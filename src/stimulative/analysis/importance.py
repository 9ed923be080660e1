"""How much each block of a trained network matters: what skipping it alone changes.

The error by which blocks are ordered is the normalised one of Nemotron Elastic (arXiv 2511.16664), of the network's
outputs; here it is the mean over images of the ratio of norms, so that it has a standard error. All nets without one
block share what runs before that block, so that ranking takes about half as long as measuring that many nets.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from stimulative.analysis.steps import Steps
from stimulative.analysis.trained import open_run
from stimulative.claiming import claimed
from stimulative.errors import UsageError
from stimulative.objectives import counted
from stimulative.residual import (
    KEPT,
    RANKED,
    Kept,
    Order,
    Stage,
    Statistics,
    Subnet,
    by_importance,
    check_kept,
    skippable,
    tensors_in,
    without,
)
from stimulative.runs import RankedBlock, Ranking, RunDirectory, Score, Summary
from stimulative.training import (
    Prepared,
    calibration_of,
    estimate_statistics,
    groups_to_recalibrate,
    measure,
    measuring_as,
    tuned,
    warn_of_loss,
)


def rank(
    run: str | Path,
    *,
    out: str | Path | None = None,
    device: torch.device | str | None = None,
    progress: Callable[[int, int], Any] | None = None,
) -> Ranking:
    """Measure how much each block of a finished run matters, by skipping each alone, and write ``rank.json``.

    Outputs, losses and qualities are those on the validation part, never on the test split: which blocks a subnet
    keeps is chosen by them. Each net without a block has statistics of its own, as in ``evaluate``, and the main net
    that they are compared with is recalibrated on the same images. ``evaluate(run, space="ranked")`` then measures the
    subnets that keep the most important blocks.

    Args:
        run: The run directory.
        out: A directory to copy the run to first, where ``run`` cannot be written to.
        device: Where to compute; by default as the recipe says.
        progress: Called with the batches done and how many there are.

    Returns:
        What ``rank.json`` holds.

    Raises:
        UsageError: If ``run`` has not finished or cannot be written to, or ``out`` is not empty.
    """
    directory = RunDirectory.open(run)
    if out is not None:
        directory = directory.copied(Path(out))
    with claimed(directory.path, "measuring"):
        ranking = _ranked(open_run(directory.path, device=device), directory.summary, progress)
        directory.write_ranking(ranking)
    return ranking


def check_space(space: Any) -> None:
    """Make sure that a space can be asked for of a run: a rule for blocks, or ``ranked`` for its own order.

    Raises:
        UsageError: If there is no such space.
    """
    if isinstance(space, str) and space.startswith(f"{RANKED}:"):
        check_kept(space)
    elif space not in (*KEPT, RANKED):
        raise UsageError(
            f"space= is one of {', '.join(KEPT)}, {RANKED} (by what rank has measured of the run) or an order such as "
            f"{RANKED}:[0.2.1]-2, got {space!r}"
        )


def kept_in(run: str | Path, space: str) -> Kept:
    """Which blocks the stages of a run's subnets keep.

    Args:
        run: The run directory.
        space: Which, as ``SubnetSpace`` names it, or ``ranked`` for the order in the run's ``rank.json``.

    Raises:
        UsageError: If there is no such space, or ``rank`` has not measured the run.
    """
    check_space(space)
    return by_importance(RunDirectory.open(run).ranking.order) if space == RANKED else space


def _ranked(opened: Prepared, summary: Summary, progress: Callable[[int, int], Any] | None) -> Ranking:
    network, data, device = opened.network, opened.data, next(opened.network.parameters()).device
    nets = [without(network.stages, {place}) for place in skippable(network.stages)]
    groups = groups_to_recalibrate(network, nets) or [nets]
    steps = Steps(progress, len(groups) * len(data.validation))
    compared: list[tuple[Score, list[RankedBlock]]] = []
    images = 0
    with tuned(opened.recipe, device), measuring_as(opened.recipe, device):
        calibration = calibration_of(opened, summary)
        if calibration is not None:
            warn_of_loss(calibration)
        for group in groups:
            statistics = None
            if calibration is not None:
                statistics = estimate_statistics(opened, calibration.view, [network.full, *group])
                images = statistics.images
            compared.append(_compared(opened, group, statistics, summary.main.temperature, steps))
    blocks = [block for _, found in compared for block in found]
    order = _order(network.stages, blocks)
    return Ranking(
        task=summary.task,
        main=compared[0][0],
        images=data.validation.images,
        calibration=None if calibration is None else calibration.view,
        calibration_images=images,
        blocks=tuple(blocks),
        order=order,
        space=by_importance(order),
    )


def _compared(
    opened: Prepared, nets: Sequence[Subnet], statistics: Statistics | None, temperature: float | None, steps: Steps
) -> tuple[Score, list[RankedBlock]]:
    """The main net, and how nets that each lack one of its blocks differ from it."""
    network, data = opened.network, opened.data
    chosen = [network.full, *nets]
    errors = _Errors(len(chosen))
    main, *scores = measure(
        network,
        data.validation,
        chosen,
        statistics=statistics,
        temperatures=None if temperature is None else [temperature] * len(chosen),
        aim=data.aim,
        each=errors.add,
        after_batch=steps.step,
    )
    found = []
    for position, (net, score) in enumerate(zip(nets, scores, strict=True), start=1):
        ((stage, block),) = (place for place in skippable(network.stages) if place[1] not in net.stages[place[0]])
        error, error_se = errors.of(position)
        found.append(
            RankedBlock(
                stage=stage,
                block=block,
                name=network.stages[stage].block_names[block],
                error=error,
                error_se=error_se,
                loss=score.loss - main.loss,
                quality=score.quality - main.quality,
            )
        )
    return main, found


class _Errors:
    """How far the outputs of nets are from those of the first one, the main net, image by image.

    Args:
        nets: How many nets there are, the main net among them.
    """

    def __init__(self, nets: int) -> None:
        self._of: list[list[Tensor]] = [[] for _ in range(nets)]
        self._main: list[Tensor] = []

    def add(self, position: int, outputs: Any, targets: Any) -> None:
        """Count the outputs of a net for a batch; the main net's come first."""
        tensors = [_rows(tensor, targets) for tensor in tensors_in(outputs) if tensor.is_floating_point()]
        if position == 0:
            self._main = tensors
        difference = _norms([ours - theirs for ours, theirs in zip(tensors, self._main, strict=True)])
        norms = _norms(self._main)
        self._of[position].append((difference / norms.clamp_min(torch.finfo(norms.dtype).tiny)).cpu())

    def of(self, position: int) -> tuple[float, float]:
        """The mean error of a net, and its standard error."""
        errors = torch.cat(self._of[position]).double()
        return float(errors.mean()), float(errors.std(correction=0)) / math.sqrt(len(errors))


def _rows(outputs: Tensor, targets: Any) -> Tensor:
    """Outputs as one row an image or sequence; positions of sequences that do not count are 0."""
    outputs = outputs.float()
    counts = counted(targets) if isinstance(targets, Tensor) else None
    if counts is not None and counts.shape == outputs.shape[:-1]:
        outputs = outputs * counts.unsqueeze(-1)
    return outputs.flatten(1) if outputs.dim() > 1 else outputs.unsqueeze(1)


def _norms(parts: Sequence[Tensor]) -> Tensor:
    return torch.stack([part.square().sum(1) for part in parts]).sum(0).sqrt()


def _order(stages: Sequence[Stage], blocks: Sequence[RankedBlock]) -> Order:
    """For each stage its blocks from the most to the least important, a first one that always runs first of all."""
    errors = {(block.stage, block.block): block.error for block in blocks}
    return tuple(
        tuple(sorted(range(stage.blocks), key=lambda block: -errors.get((number, block), math.inf)))
        for number, stage in enumerate(stages)
    )
