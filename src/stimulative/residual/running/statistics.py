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
from torch.nn.modules.instancenorm import _InstanceNorm

from stimulative.errors import UsageError
from stimulative.residual.access.slots import RUNNING, exchanged_statistics, statistics_in
from stimulative.residual.finding.inside import inside_of
from stimulative.residual.finding.norms import TORCH_NORM, Norm
from stimulative.residual.finding.wiring import Wiring
from stimulative.residual.running.one_pass import Node
from stimulative.residual.running.order import Stages

LayerStatistics = dict[str, tuple[Tensor, ...]]
"""Mean and variance, or whatever else a layer keeps, by the name of the layer within its unit."""


@dataclass(frozen=True)
class Statistics:
    """Recalibrated statistics of subnets of one network.

    Args:
        images: The number of images that they were estimated on (0 where no layer has running statistics).
        subnets: The subnets that they belong to.
        nodes: Mean and variance (or whatever else it keeps) of each layer of each unit, by the node of the tree of
            prefixes.
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


def layers_with_statistics(model: nn.Module, wiring: Wiring) -> dict[str, Norm]:
    """The layers of a model that keep running statistics, and what they keep, by name.

    A frozen layer is none of them: it has its statistics for good.

    Args:
        model: The model.
        wiring: Its wiring, which knows the layers that are not PyTorch's own.
    """
    return {name: norm for name, _, norm in norms_in(model, wiring)}


def norms_in(model: nn.Module, wiring: Wiring) -> Iterator[tuple[str, Any, Norm]]:
    """The layers of ``layers_with_statistics``, each with its name and what it keeps."""
    for name, layer, of_its_own in inside_of(model, wiring).norms:
        norm = of_its_own or (TORCH_NORM if layer._buffers.get("running_mean") is not None else None)
        if norm is not None and norm.keys and not vars(layer).get(FROZEN, False):
            yield name, layer, norm


def check_statistics(model: nn.Module, wiring: Wiring) -> None:
    """Make sure that the statistics of all layers can be estimated.

    Raises:
        UsageError: If a layer has some that cannot.
    """
    for name, layer, norm in norms_in(model, wiring):
        if norm.problem is not None:
            raise UsageError(
                f"the statistics of layer {name!r} ({type(layer).__name__}: "
                f"{', '.join(norm.keys)}) cannot be estimated: evaluation mode normalises by them, but {norm.problem}. "
                "Let its forward write running averages in training mode; or, if they are to stay what they are for "
                "all subnets, let training mode normalise by them, too (a frozen norm)"
            )


def with_statistics(
    model: nn.Module, wiring: Wiring, statistics: Statistics
) -> Callable[[Node, Callable[[], Any]], Any]:
    """An ``around`` for ``replay``: each unit normalises with the statistics of its node."""
    keys = {layer: norm.keys for _, layer, norm in norms_in(model, wiring)}

    def around(node: Node, compute: Callable[[], Any]) -> Any:
        layers = statistics.nodes.get(node)
        if not layers:
            return compute()
        unit = model.get_submodule(node.unit)
        other = {}
        for name, values in layers.items():
            layer = unit.get_submodule(name)
            other[layer] = dict(zip(keys[layer], values, strict=True))
        with exchanged_statistics(other):
            return compute()

    return around


@contextmanager
def frozen_statistics(model: nn.Module, wiring: Wiring) -> Iterator[None]:
    """Layers in training mode normalise by their batch, as always, but leave their running statistics alone.

    PyTorch's own norms have a switch for that, which costs nothing. Code that was compiled would be compiled once more
    for it, so compiled units have others to write into, always the same ones.
    """
    tracking: list[dict[str, Any]] = []
    other: dict[nn.Module, dict[str, Tensor | None]] = {}
    compiled = inside_of(model, wiring).compiled and not wiring.live.as_written
    for _, layer, norm in norms_in(model, wiring):
        if not layer.training:
            continue
        if not norm.as_torch:  # it may read what it writes
            own = statistics_in(layer, (*norm.keys, *norm.others))
            other[layer] = {key: value if value is None else value.detach().clone() for key, value in own.items()}
        elif layer.track_running_stats:
            if compiled or isinstance(layer, _InstanceNorm):  # which has no regard to the switch
                other[layer] = _spare(layer, wiring.observed.spare)
            else:
                tracking.append(vars(layer))
    for attributes in tracking:
        attributes["track_running_stats"] = False
    try:
        with exchanged_statistics(other):
            yield
    finally:
        for attributes in tracking:
            attributes["track_running_stats"] = True


def _spare(layer: nn.Module, known: dict[nn.Module, dict[str, Tensor]]) -> dict[str, Tensor | None]:
    """Statistics for one of PyTorch's norms to write into, which nobody reads."""
    own, spare = statistics_in(layer, (*RUNNING, "num_batches_tracked")), known.setdefault(layer, {})
    for key, value in own.items():
        if value is not None and not _alike(spare.get(key), value):
            spare[key] = value.detach().clone()
    return {key: value if value is None else spare[key] for key, value in own.items()}


def _alike(one: Tensor | None, other: Tensor) -> bool:
    return one is not None and (one.shape, one.dtype, one.device) == (other.shape, other.dtype, other.device)
