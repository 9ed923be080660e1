"""Extraction: a subnet as a module of its own.

What comes out is a plain PyTorch module of the same class as the main net, with the blocks of the subnet alone, its
normalisation statistics its own, and nothing of this library in it. It can be saved, exported, compiled and trained
like any other. It is compared with the subnet in place before anybody gets it.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from stimulative.deploy.carving import Carving, NoStandIn, carve
from stimulative.deploy.comparing import compared_outputs, unlike
from stimulative.deploy.reloading import restored_otherwise
from stimulative.errors import UsageError
from stimulative.residual import (
    ResidualNetwork,
    Statistics,
    Subnet,
    SubnetLike,
    arguments_of,
    configs_of,
    evaluating,
    layers_with_statistics,
    put_statistics,
    stacks_of,
    undisturbed,
    without_caches,
)

Calibration = Statistics | Iterable[Any] | Literal["keep"]


@undisturbed
def extract(
    network: ResidualNetwork, subnet: SubnetLike, calibration: Calibration | None = None, *, images: int | None = None
) -> nn.Module:
    """Take a subnet out of its main net.

    The network stays as it is, also where the call is interrupted; the module that comes out shares no memory with it.
    It is of the same class, with the skipped blocks gone from their containers: what is left is renumbered, so that
    names of parameters are those of the architecture built with these depths. Of Transformers' models the config says
    how many layers are left. It is in evaluation mode, and can be trained further like any module.

    Args:
        network: The network.
        subnet: One of its subnets.
        calibration: Where its normalisation statistics come from: batches of training images, such as a loader (what
            ``network.recalibrate`` takes), or ``Statistics``; ``"keep"`` for those that the model has, which are the
            main net's. Can be left out for the main net, and for models that keep no statistics.
        images: How many images of the batches to use at most; all by default.

    Returns:
        The module.

    Warns:
        UserWarning: If ``from_pretrained`` of Transformers would not restore the module from its config and weights:
            it is tried.

    Raises:
        UsageError: If the subnet does not fit, statistics are needed and not given, or the model cannot do without the
            skipped blocks: then what would come out is not the subnet.
    """
    if not isinstance(network, ResidualNetwork):
        raise UsageError(
            f"a subnet is taken out of a ResidualNetwork, got {type(network).__name__}: "
            "stimulative.unravel(model, example_input) makes one of a model"
        )
    chosen = network.resolve(subnet)
    statistics = statistics_for(network, chosen, calibration, images)
    carving = carve_checked(network, chosen, statistics)
    if chosen != network.full and (reason := _restored_otherwise(network, carving)) is not None:
        warnings.warn(
            f"the config of what was extracted of {type(carving.model).__name__} builds another model: {reason}. The "
            "module itself is right, but from_pretrained would not restore it: keep it with torch.save(module, FILE), "
            "or export it",
            stacklevel=2,
        )
    return carving.model


def statistics_for(
    network: ResidualNetwork, subnet: Subnet, calibration: Calibration | None, images: int | None = None
) -> Statistics | None:
    """The statistics of a subnet, as ``extract`` takes them; None for those that the model has.

    Raises:
        UsageError: If they are needed and not given.
    """
    if not layers_with_statistics(network.model, network.wiring) or calibration == "keep":
        return None
    if isinstance(calibration, Statistics):
        calibration.check([subnet.stages])
        return calibration
    if calibration is not None and (isinstance(calibration, str) or not isinstance(calibration, Iterable)):
        raise UsageError(
            f"calibration is batches of training images (a loader), Statistics, or 'keep'; got {calibration!r:.80}"
        )
    if calibration is not None:
        return network.recalibrate(calibration, [subnet], images=images)
    if subnet == network.full:
        return None
    raise UsageError(
        f"the normalisation statistics of the model are the main net's, and subnet {subnet} needs its own: give "
        "calibration= batches of training images (a loader), or Statistics from network.recalibrate; "
        "calibration='keep' keeps the main net's"
    )


def carve_checked(
    network: ResidualNetwork, subnet: Subnet, statistics: Statistics | None, *, shared: bool = False
) -> Carving:
    """Carve a subnet out, give it its statistics, and make sure that it computes what the subnet in place does.

    Args:
        network: The network.
        subnet: The subnet.
        statistics: Its statistics; None for those that the model has.
        shared: Whether the parameters are those of the model.

    Raises:
        UsageError: If it computes something else, or does not run.
    """
    with evaluating(network), torch.no_grad(), without_caches(configs_of(network.model)):
        expected = compared_outputs(network(network.example_input, subnet, statistics=statistics))
    problems = []
    for deleting in (True, False):
        try:
            carving = carve(network, subnet, shared=shared, deleting=deleting)
        except NoStandIn as error:
            problems.append(str(error))
            continue
        if statistics is not None:
            _put_statistics(network, carving, statistics.of(network.wiring, subnet.stages))
        carving.model.eval()
        try:
            got = _run(carving.model, network.example_input)
        except Exception as error:  # whatever a model does that misses its blocks
            problems.append(f"it fails: {type(error).__name__}: {error}")
            continue
        difference = unlike(expected, got)
        if difference is None:
            return carving
        problems.append(difference)
    raise UsageError(
        f"subnet {subnet} cannot be taken out of {type(network.model).__name__}. Without the skipped blocks: "
        f"{problems[0]}; with something else in their places: {problems[1]}. Run it in place: network(x, subnet), or "
        "network.only(subnet)"
    )


def _put_statistics(network: ResidualNetwork, carving: Carving, statistics: Mapping[str, tuple[Tensor, ...]]) -> None:
    norms = layers_with_statistics(network.model, network.wiring)
    for name, values in statistics.items():
        own = {key: value.clone() for key, value in zip(norms[name].keys, values, strict=True)}
        put_statistics(carving.modules[name], own)


def _run(model: nn.Module, example_input: Any) -> list[Tensor]:
    args, kwargs = arguments_of(example_input)
    with torch.no_grad(), without_caches(configs_of(model)):
        return compared_outputs(model(*args, **kwargs))


def _restored_otherwise(network: ResidualNetwork, carving: Carving) -> str | None:
    """In what a carved model differs from what ``from_pretrained`` would restore of it; None if in nothing."""
    lists = {stack.name for stack in stacks_of(network.model, network.wiring)} | carving.children.keys()
    return restored_otherwise(carving.model, sorted(lists), lambda model: _run(model, network.example_input))
