"""Which statistics of normalisation layers belong to which subnets, and normalising with them.

A layer's statistics depend only on what ran before it. They therefore belong to the node of the tree of prefixes, not
to the subnet: subnets with the same prefix share them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from stimulative.errors import UsageError
from stimulative.residual.access.slots import put_statistics, statistics_in, without_statistics
from stimulative.residual.finding.wiring import Wiring
from stimulative.residual.running.one_pass import Node

Stages = tuple[tuple[int, ...], ...]
LayerStatistics = dict[str, tuple[Tensor, Tensor]]
"""Mean and variance by the name of the layer within its unit."""


@dataclass(frozen=True)
class Statistics:
    """Recalibrated statistics of subnets of one network.

    Args:
        images: The number of images that they were estimated on (0 where no layer has running statistics).
        subnets: The subnets that they belong to.
        nodes: Mean and variance of each layer of each unit, by the node of the tree of prefixes.
    """

    images: int
    subnets: frozenset[Stages]
    nodes: dict[Node, LayerStatistics]

    def check(self, subnets: Sequence[Stages]) -> None:
        """Make sure that all these subnets were recalibrated.

        Raises:
            UsageError: If one was not.
        """
        missing = [stages for stages in subnets if stages not in self.subnets]
        if missing:
            raise UsageError(
                f"there are no statistics for {len(missing)} of {len(subnets)} subnets, such as {missing[0]}: "
                "recalibrate them first"
            )

    def of(self, wiring: Wiring, stages: Stages) -> LayerStatistics:
        """The statistics of one subnet, by the name of the layer in the model.

        Raises:
            UsageError: If the subnet was not among those recalibrated, or a layer has several statistics.
        """
        self.check([stages])
        decisions = wiring.decisions(stages)
        found: LayerStatistics = {}
        for node, layers in self.nodes.items():
            if node.path[: len(decisions)] != decisions[: len(node.path)]:
                continue
            for layer, values in layers.items():
                name = f"{node.unit}.{layer}" if layer else node.unit
                if name in found:
                    raise UsageError(
                        f"layer {name!r} runs more than once in a forward, each time with statistics of its own, and "
                        "cannot have one of them for all: pass them to run(..., statistics=...) instead"
                    )
                found[name] = values
        return found


FROZEN = "statistics_are_frozen"
"""The attribute of a layer that keeps the statistics that it has, in training and for all subnets."""


def layers_with_statistics(module: nn.Module) -> dict[str, Any]:
    """The layers of a module that keep running statistics, by name: BatchNorm and whatever is built like it.

    A frozen layer is none of them: it has its statistics for good.
    """
    return {
        name: layer
        for name, layer in module.named_modules()
        if isinstance(getattr(layer, "running_mean", None), Tensor)
        and isinstance(getattr(layer, "running_var", None), Tensor)
        and hasattr(layer, "momentum")
        and not getattr(layer, FROZEN, False)
    }


def with_statistics(model: nn.Module, statistics: Statistics) -> Callable[[Node, Callable[[], Any]], Any]:
    """An ``around`` for ``replay``: each unit normalises with the statistics of its node."""

    def around(node: Node, compute: Callable[[], Any]) -> Any:
        layers = statistics.nodes.get(node)
        if not layers:
            return compute()
        unit = model.get_submodule(node.unit)
        own = {}
        for name, (mean, var) in layers.items():
            layer = unit.get_submodule(name)
            own[layer] = statistics_in(layer)
            put_statistics(layer, mean, var)
        try:
            return compute()
        finally:
            for layer, (mean, var) in own.items():
                put_statistics(layer, mean, var)

    return around


@contextmanager
def frozen_statistics(model: nn.Module) -> Iterator[None]:
    """Layers in training mode normalise by their batch, as always, but leave their running statistics alone."""
    layers = [
        layer
        for layer in layers_with_statistics(model).values()
        if layer.training and getattr(layer, "track_running_stats", False)
    ]
    # InstanceNorm updates whatever statistics it has, without regard to the switch, so it has none for a while
    eager = [layer for layer in layers if isinstance(layer, nn.modules.instancenorm._InstanceNorm)]
    for layer in layers:
        layer.track_running_stats = False
    try:
        with without_statistics(eager):
            yield
    finally:
        for layer in layers:
            layer.track_running_stats = True
