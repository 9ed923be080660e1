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
    misfit,
    put_statistics,
    stacks_of,
    tensors_in,
    without_caches,
)

Calibration = Statistics | Iterable[Any] | Literal["keep"]

_TOLERANCES = {torch.float64: 1e-10, torch.float32: 1e-5}
_COARSE = 2e-2  # half precision


def extract(
    network: ResidualNetwork, subnet: SubnetLike, calibration: Calibration | None = None, *, images: int | None = None
) -> nn.Module:
    """Take a subnet out of its main net.

    The network stays as it is; the module that comes out shares no memory with it. It is of the same class, with the
    skipped blocks gone from their containers: what is left is renumbered, so that names of parameters are those of the
    architecture built with these depths. Of Transformers' models the config says how many layers are left. It is in
    evaluation mode, and can be trained further like any module.

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
        UserWarning: If a config that counts the layers cannot say which of them are left.

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
    lists = [stack.name for stack in stacks_of(network.model, network.wiring)]
    if lists and chosen != network.full and (reason := misfit(carving.model, lists)) is not None:
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
    args, kwargs = arguments_of(network.example_input)
    with evaluating(network), torch.no_grad():
        expected = _outputs(network(network.example_input, subnet, statistics=statistics))
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
            with torch.no_grad(), without_caches(configs_of(carving.model)):
                got = _outputs(carving.model(*args, **kwargs))
        except Exception as error:  # whatever a model does that misses its blocks
            problems.append(f"it fails: {type(error).__name__}: {error}")
            continue
        difference = _difference(expected, got)
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


def _outputs(output: Any) -> list[Tensor]:
    """The tensors of an output, without the caches of keys and values that a model of Transformers may add."""
    if isinstance(output, Mapping):
        output = {key: value for key, value in output.items() if key != "past_key_values"}
    return tensors_in(output)


def _difference(expected: list[Tensor], got: list[Tensor]) -> str | None:
    """In what outputs differ beyond rounding; None if they do not."""
    shapes = [[tuple(tensor.shape) for tensor in tensors] for tensors in (expected, got)]
    if shapes[0] != shapes[1]:
        return f"it returns tensors of shape {shapes[1]} instead of {shapes[0]}"
    for wanted, own in zip(expected, got, strict=True):
        if not wanted.is_floating_point():
            if not torch.equal(wanted, own):
                return "it returns other numbers"
            continue
        error = float((wanted - own).abs().amax()) if wanted.numel() else 0.0
        largest = float(wanted.abs().amax()) if wanted.numel() else 0.0
        if not error <= _TOLERANCES.get(wanted.dtype, _COARSE) * max(largest, 1e-6):
            return f"its outputs differ by up to {error:.3g}, where the largest is {largest:.3g}"
    return None
