"""Latency that is predicted from depths, to steer a search; what is chosen is measured."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from stimulative.residual import Subnet, SubnetSpace


def probes(space: SubnetSpace) -> list[Subnet]:
    """The subnets to predict from: the smallest and the largest, and each stage by itself small or large."""
    lows, highs = [[bounds[end] for bounds in space.ranges] for end in (0, 1)]
    depths = [lows, highs]
    for stage in range(len(lows)):
        depths += [[*one[:stage], other[stage], *one[stage + 1 :]] for one, other in ((lows, highs), (highs, lows))]
    return [space.at(each) for each in dict.fromkeys(map(tuple, depths))]


class Prediction:
    """Latency as a constant and a price for each block of a stage, fitted by least squares.

    Args:
        subnets: Subnets that were timed.
        milliseconds: Their latencies.
    """

    def __init__(self, subnets: Sequence[Subnet], milliseconds: Sequence[float]) -> None:
        rows = np.array([(1, *subnet.depths) for subnet in subnets], dtype=float)
        self._prices = np.linalg.lstsq(rows, np.array(milliseconds), rcond=None)[0]

    def of(self, subnet: Subnet) -> float:
        """The predicted latency of a subnet in milliseconds."""
        return float(self._prices @ (1, *subnet.depths))
