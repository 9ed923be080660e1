"""A finished run as what is deployed from it needs it: the network, subnets as measured, and what to say of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from stimulative.analysis import CostModel, open_run
from stimulative.data import TextData
from stimulative.deploy.about import About, NamedModel
from stimulative.residual import ResidualNetwork, Statistics, Subnet, SubnetLike
from stimulative.runs import Calibration, Member, RunDirectory, Summary, versions
from stimulative.training import Prepared, as_in, calibration_of, estimate_statistics, fit_temperatures, measure


@dataclass(frozen=True)
class Finished:
    """A finished run, opened.

    Args:
        directory: The run directory.
        run: Its recipe, data, network (with the trained weights, in evaluation mode) and method.
        summary: What ``summary.json`` says.
        family: The subnets of ``subnets.csv`` by name; empty before the run has been evaluated.
    """

    directory: Path
    run: Prepared
    summary: Summary
    family: dict[Subnet, Member]

    @property
    def network(self) -> ResidualNetwork:
        """The network."""
        return self.run.network

    @property
    def calibrates(self) -> bool:
        """Whether logits come out at a scale of their own, so that they have to be divided by a temperature."""
        return self.summary.method is not None and self.run.method.calibrates

    def statistics(self, subnets: Sequence[SubnetLike]) -> Statistics:
        """Recalibrated statistics of subnets, on the images that ``stimulative evaluate`` uses."""
        if self.calibration is None:
            return self.network.recalibrate((), subnets)
        return estimate_statistics(self.run, self.calibration.view, subnets)

    @cached_property
    def calibration(self) -> Calibration | None:
        """Which training images these statistics come from; None where the network keeps none."""
        return calibration_of(self.run, self.summary)

    def members(
        self, subnets: Sequence[Subnet], statistics: Statistics, *, after_batch: Callable[[], Any] | None = None
    ) -> list[Member]:
        """Subnets with their accuracy on the test split and their cost; those not measured before are measured now.

        Args:
            subnets: The subnets.
            statistics: Their statistics.
            after_batch: Called after each batch that is measured.
        """
        new = [subnet for subnet in subnets if subnet not in self.family]
        found = dict(self.family)
        if new:
            temperatures = None
            if self.calibrates:
                temperatures = fit_temperatures(self.network, self.run.data.validation, new, statistics=statistics)
            scores = measure(
                self.network,
                self.run.data.test,
                new,
                statistics=statistics,
                temperatures=temperatures,
                aim=self.run.data.aim,
                after_batch=after_batch,
            )
            costs = CostModel(self.network, as_in(self.network, self.run.data.example(1, evaluation=True)))
            for position, (subnet, score) in enumerate(zip(new, scores, strict=True)):
                temperature = None if temperatures is None else temperatures[position]
                found[subnet] = Member(subnet, score, costs.of(subnet), None, temperature)
        return [found[subnet] for subnet in subnets]

    def validated(self, *, after_batch: Callable[[], Any] | None = None) -> Finished:
        """The run with the accuracy of all its measured subnets on the validation part, to select by.

        ``evaluate`` has measured it; for subnets that an earlier version evaluated it is measured now.

        Args:
            after_batch: Called after each batch that is measured.
        """
        new = [member for member in self.family.values() if member.validation_quality is None]
        if not new:
            return self
        subnets = [member.subnet for member in new]
        batches, statistics = self.run.data.validation, self.statistics(subnets)
        scores = measure(
            self.network, batches, subnets, statistics=statistics, aim=self.run.data.aim, after_batch=after_batch
        )
        found = {
            member.subnet: replace(member, validation_quality=score.quality)
            for member, score in zip(new, scores, strict=True)
        }
        return replace(self, family={**self.family, **found})

    def about(self) -> About:
        """Where the network comes from, and what it takes and gives."""
        from stimulative import __version__

        data, recipe = self.run.data, self.run.recipe
        about = About(
            stimulative=__version__,
            versions=versions(),
            model=NamedModel(recipe.model.name, recipe.to_mapping()["model"]["arguments"]),
            task=data.task,
            data=data.name,
            recipe=recipe.to_mapping(),
        )
        if isinstance(data, TextData):
            return replace(about, vocabulary=data.classes, length=data.length)
        return replace(
            about,
            classes=data.class_names,
            channels=data.channels,
            image_size=data.evaluation_image_size,
            mean=data.mean,
            std=data.std,
            preparation=data.preparation,
        )


def open_finished(run: str | Path, *, device: torch.device | str = "cpu") -> Finished:
    """Open a finished run.

    Args:
        run: The run directory.
        device: Where to compute.

    Raises:
        UsageError: If the directory is not that of a finished run.
    """
    directory = Path(run)
    opened = open_run(directory, device=device)
    opened.network.eval()
    stored = RunDirectory(directory)
    return Finished(directory, opened, stored.summary, stored.family.by_subnet)
