"""Which training images normalisation statistics come from: augmented as in training, or prepared as in evaluation.

Statistics that are estimated on images unlike those that a net was trained on, or is measured on, cost accuracy: a net
that never saw small crops loses much by the statistics of small crops. Which view of the training images suits a net
cannot be told from its weights, so the main net is asked, on the validation part and never on the test split.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from stimulative.config import CalibrationSetting
from stimulative.data import Batch, View
from stimulative.errors import UsageError
from stimulative.residual import (
    ResidualNetwork,
    Statistics,
    Subnet,
    SubnetLike,
    layers_with_statistics,
    norms_in,
    statistics_in,
)
from stimulative.runs import Calibration, Summary
from stimulative.training.measuring import measure
from stimulative.training.preparing import Prepared
from stimulative.training.synchronising import each_by_itself

MOST_LOST = 1.0
"""The points that the main net may lose by recalibration before somebody is told."""

STATISTICS_BYTES = 2**30
"""Memory for the statistics of subnets that are recalibrated at once."""


def estimate_statistics(
    prepared: Prepared,
    view: View,
    subnets: Sequence[SubnetLike] | None = None,
    *,
    on_batch: Callable[[], Any] | None = None,
) -> Statistics:
    """Statistics of subnets, estimated on as many training images as the recipe says.

    Args:
        prepared: The network and its data.
        view: Which view of the training images.
        subnets: Which subnets; by default the main net alone.
        on_batch: Called with each batch, to show progress.

    Raises:
        UsageError: If the data have no such view.
    """
    network, settings = prepared.network, prepared.recipe.evaluation
    check_view(prepared, view)
    batches = prepared.data.calibration_as(view)
    with each_by_itself(network.model):
        return network.recalibrate(
            batches if on_batch is None else _told(batches, on_batch),
            subnets or [network.full],
            images=settings.calibration_images,
        )


def check_view(prepared: Prepared, view: CalibrationSetting) -> None:
    """Make sure that the data have a view of their training images.

    Raises:
        UsageError: If they have not.
    """
    if view == "evaluation" and prepared.data.plain_calibration is None:
        raise UsageError(
            f"evaluation.calibration: {view!r} needs training images that are prepared as those of validation, and "
            f"{prepared.data.name} has none; give plain_calibration= to from_loaders, or choose training"
        )


def choose_calibration(prepared: Prepared, setting: CalibrationSetting | None = None) -> Calibration | None:
    """Choose the view of the training images that statistics come from, and measure what that makes of the main net.

    Args:
        prepared: The network, with the statistics that it has by itself, and its data.
        setting: ``auto`` measures the main net by both views on the validation part and takes the better one, that of
            training where they are alike; or the view. By default what the recipe says.

    Returns:
        The view, and what the main net has on the validation part; None where the network keeps no statistics.

    Raises:
        UsageError: If the data have no such view.
    """
    network, data = prepared.network, prepared.data
    setting = prepared.recipe.evaluation.calibration if setting is None else setting
    check_view(prepared, setting)
    if not layers_with_statistics(network.model, network.wiring):
        return None
    alike = data.plain_calibration is None or data.plain_calibration is data.calibration
    views: tuple[View, ...] = ("training", "evaluation") if setting == "auto" and not alike else ("training",)
    if setting != "auto":
        views = (setting,)
    scores: dict[View, float] = {}
    images = 0
    for view in views:
        statistics = estimate_statistics(prepared, view)
        scores[view] = measure(network, data.validation, statistics=statistics, aim=data.aim)[0].quality
        images = statistics.images
    best = max(views, key=lambda view: scores[view])
    own = None if prepared.method.pollutes_statistics else measure(network, data.validation, aim=data.aim)[0].quality
    return Calibration(best, setting, images, own, scores.get("training"), scores.get("evaluation"))


def calibration_of(
    prepared: Prepared, summary: Summary, setting: CalibrationSetting | None = None
) -> Calibration | None:
    """The view that statistics of a finished run come from: what its summary says, or else what is chosen now.

    Args:
        prepared: The run's network, with its weights and statistics, and its data.
        summary: Its summary.
        setting: What is asked for instead of what the summary says.

    Raises:
        UsageError: If the data have no such view.
    """
    known = summary.calibration
    if known is not None and setting is None:
        return known
    if setting is None and summary.subnets.evaluated:
        setting = "training"  # a version that knew of no other view has measured the subnets
    found = choose_calibration(prepared, setting)
    if found is not None and known is not None and summary.method is not None:
        return replace(found, own=known.own)  # what the net has by now are statistics that were estimated, too
    return found


def warn_of_loss(calibration: Calibration) -> None:
    """Warn where recalibration costs the main net more than a point against its own statistics."""
    if calibration.lost is None or calibration.lost <= MOST_LOST:
        return
    hint = "" if calibration.setting == "auto" else ", or let evaluation.calibration: auto find out which is better"
    warnings.warn(
        f"recalibrated on {calibration.images:,} training images prepared as for {calibration.view}, the main net has "
        f"{calibration.recalibrated:.2f} on the validation part; by its own statistics {calibration.own:.2f}. What is "
        "measured of subnets suffers alike: prepare training images as they were when the net was trained "
        "(data.crop_scale, data.crop_aspect, data.mean, data.std, ...), take more of them "
        f"(evaluation.calibration_images){hint}",
        stacklevel=3,
    )


def groups_to_recalibrate(network: ResidualNetwork, subnets: Sequence[Subnet]) -> list[Sequence[Subnet]]:
    """Subnets to recalibrate at once: so many that their statistics fit into memory; none without any statistics."""
    numbers = sum(
        value.numel()
        for _, layer, norm in norms_in(network.model, network.wiring)
        for value in statistics_in(layer, norm.keys).values()
        if value is not None
    )
    if not numbers:
        return []
    each = numbers * (8 + 4)  # summed in double precision and kept in single
    size = max(1, STATISTICS_BYTES // each)
    return [subnets[start : start + size] for start in range(0, len(subnets), size)]


def _told(batches: Iterable[Batch], on_batch: Callable[[], Any]) -> Iterator[Batch]:
    for batch in batches:
        on_batch()
        yield batch
