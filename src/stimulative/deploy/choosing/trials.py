"""Accuracy and latency of subnets that could be chosen."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch

from stimulative.analysis import CostModel, Latencies, draw_images, measure_modules
from stimulative.deploy.deployable import Finished
from stimulative.deploy.extraction import carve_checked
from stimulative.errors import UsageError
from stimulative.residual import Subnet
from stimulative.runs import Member
from stimulative.training import as_in, fit_temperatures, measure


class Accuracy:
    """Accuracy of subnets on the validation part, each with statistics of its own.

    Args:
        finished: The run.
        costs: What its subnets cost.
        images: On how many images to measure, drawn; None for all.
        seed: The seed of the draw.
        after_batch: Called after each batch.

    Attributes:
        batches: What is measured on.
        images: On how many images.
        calibration_images: On how many training images statistics were estimated; 0 before anything was measured.
    """

    def __init__(
        self,
        finished: Finished,
        costs: CostModel,
        images: int | None,
        seed: int,
        after_batch: Callable[[], Any] | None = None,
    ) -> None:
        self._finished = finished
        self._costs = costs
        self._after_batch = after_batch
        validation = finished.run.data.validation
        self.images = min(images or validation.images, validation.images)
        self.batches = validation if self.images == validation.images else draw_images(validation, self.images, seed)
        self.calibration_images = 0

    def of(self, subnets: Sequence[Subnet]) -> list[Member]:
        """Measure subnets, sharing what they have in common."""
        if not subnets:
            return []
        finished = self._finished
        statistics = finished.statistics(subnets)
        self.calibration_images = statistics.images
        temperatures = None
        if finished.calibrates and finished.run.data.is_text:  # of images nothing that is asked for depends on them
            temperatures = fit_temperatures(finished.network, self.batches, subnets, statistics=statistics)
        scores = measure(
            finished.network,
            self.batches,
            subnets,
            statistics=statistics,
            temperatures=temperatures,
            aim=finished.run.data.aim,
            after_batch=self._after_batch,
        )
        return [Member(subnet, score, self._costs.of(subnet)) for subnet, score in zip(subnets, scores, strict=True)]


class Stopwatch:
    """Latency of subnets, as modules that were taken out of the main net.

    Args:
        finished: The run.
        batch: Images, or sequences, in the batch that is timed.
        threads: CPU threads to compute with meanwhile.
        seed: The seed of the order.
        after_round: Called after each round.
    """

    def __init__(
        self, finished: Finished, batch: int, threads: int, seed: int, after_round: Callable[[int], Any] | None = None
    ) -> None:
        self._network = finished.network
        try:
            self._batch = as_in(self._network, finished.run.data.example(batch, evaluation=True))
        except (RuntimeError, MemoryError) as error:  # PyTorch's own is of the first kind
            raise UsageError(f"batch=: {batch:,} samples do not fit into memory: {error}") from error
        self._threads = threads
        self._seed = seed
        self._after_round = after_round

    def extracted(self, subnet: Subnet) -> torch.nn.Module:
        """A subnet as a module, with the statistics of the main net, whose values do not matter for its latency.

        Raises:
            UsageError: If it cannot be taken out.
        """
        # layers that read dense ones would be made narrower in each call if they shared their parameters
        shared = self._network.wiring.channels is None
        return carve_checked(self._network, subnet, None, shared=shared).model

    def latencies(self, subnets: Sequence[Subnet], seconds: float) -> Latencies:
        """Time subnets in turns.

        Args:
            subnets: The subnets.
            seconds: About how long that may take, rounds beyond the fifth.
        """
        modules = [self.extracted(subnet) for subnet in subnets]
        before = torch.get_num_threads()
        torch.set_num_threads(self._threads)
        try:
            return measure_modules(
                modules,
                self._batch,
                seconds=seconds,
                seed=self._seed,
                after_round=self._after_round,
            )
        finally:
            torch.set_num_threads(before)

    def timed(self, members: Sequence[Member], seconds: float) -> tuple[list[Member], Latencies]:
        """Members with their latencies, and how these were measured."""
        latencies = self.latencies([member.subnet for member in members], seconds)
        return [replace(member, latency=of) for member, of in zip(members, latencies.of, strict=True)], latencies
