"""The family file: all subnets that are deployed together, in one file.

It is a safetensors file. The main net's parameters stand in it once, under their names in the model, but for blocks
that no subnet of the file runs. Normalisation statistics stand under ``statistics.NUMBER.LAYER.running_mean`` and
``.running_var``, or under the names of whatever else a layer keeps; subnets of which a layer has the same ones share
the number. The JSON in the header (key ``stimulative``), of which the same is written beside it as a file, says the
rest: the model, what it takes and gives, the blocks of its stages, and of each subnet its accuracy, its cost and the
numbers of its statistics.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from stimulative.deploy.extraction import carve_checked
from stimulative.deploy.packed import StoredStage, StoredSubnet
from stimulative.deploy.writing import KEY, check_new
from stimulative.errors import UsageError
from stimulative.files import blank_seal, replacing, seal
from stimulative.residual import (
    ResidualNetwork,
    Statistics,
    Subnet,
    SubnetLike,
    layers_with_statistics,
    undisturbed,
)

FORMAT = "stimulative family 1"


@undisturbed
def save_family(
    network: ResidualNetwork,
    file: str | Path,
    subnets: Sequence[SubnetLike],
    calibration: Statistics | Iterable[Any] | None = None,
    *,
    images: int | None = None,
    about: Mapping[str, Any] | None = None,
    entries: Sequence[Mapping[str, Any]] | None = None,
    force: bool = False,
    after_each: Callable[[], Any] | None = None,
) -> dict[str, Any]:
    """Write subnets of a network into one family file; ``stimulative.load`` makes one module of it.

    Each subnet is compared with what it is in place before anything is written.

    Args:
        network: The network.
        file: Where to; the JSON goes to ``FILE.json``.
        subnets: The subnets.
        calibration: Batches of training images, such as a loader, from which the subnets' normalisation statistics are
            estimated, or these; can be left out for models that keep none.
        images: How many images of the batches to use at most; all by default.
        about: What else the JSON is to say of the model.
        entries: What it is to say of each subnet, such as its accuracy.
        force: Whether files that are there are replaced.
        after_each: Called after each subnet, to show progress.

    Returns:
        What the JSON says, with ``file``, ``bytes`` and ``json``.

    Raises:
        UsageError: If a subnet does not fit or cannot be taken out, statistics are needed and not given, or the files
            cannot be written.
    """
    chosen = list(dict.fromkeys(network.resolve(subnet) for subnet in subnets))
    if not chosen:
        raise UsageError("a family has at least one subnet, got none")
    path, beside = check_files(file, force=force)
    statistics = _statistics(network, chosen, calibration, images)
    carvings = []
    for subnet in chosen:
        carvings.append(carve_checked(network, subnet, statistics, shared=True))
        if after_each is not None:
            after_each()
    own, numbers = _own_statistics(network, chosen, statistics)
    tensors = {**_used(network.model, [carving.model for carving in carvings]), **own}
    stored = [
        StoredSubnet(str(subnet), number, carving.deleting)
        for subnet, number, carving in zip(chosen, numbers, carvings, strict=True)
    ]
    said = {
        "format": FORMAT,
        **(about or {}),
        "stages": [StoredStage(stage.name, stage.block_names).to_mapping() for stage in network.stages],
        "calibration_images": statistics.images,
        "subnets": _entries(stored, entries),
    }
    _write(path, beside, tensors, said)
    return said | {"file": str(path), "bytes": path.stat().st_size, "json": str(beside)}


def check_files(file: str | Path, *, force: bool) -> tuple[Path, Path]:
    """The family file and its JSON, checked to be writable.

    Raises:
        UsageError: If they are not, or are there and not to be replaced.
    """
    path = Path(file)
    check_new(path, force=force)
    beside = path.with_name(f"{path.name}.json")
    check_new(beside, force=force)
    return path, beside


def _statistics(
    network: ResidualNetwork,
    subnets: Sequence[Subnet],
    calibration: Statistics | Iterable[Any] | None,
    images: int | None,
) -> Statistics:
    """The statistics of subnets, given or estimated now."""
    if isinstance(calibration, Statistics):
        return calibration
    if calibration is None and layers_with_statistics(network.model, network.wiring):
        raise UsageError(
            "the model keeps normalisation statistics, and each subnet needs its own: give calibration= batches of "
            "training images (a loader), or Statistics from network.recalibrate"
        )
    return network.recalibrate(() if calibration is None else calibration, subnets, images=images)


def _entries(stored: Sequence[StoredSubnet], more: Sequence[Mapping[str, Any]] | None) -> Sequence[Mapping[str, Any]]:
    """What the JSON says of each subnet: its text, what its user says of it, and how it is made of the tensors."""
    entries = [one.to_mapping() for one in stored]
    if more is None:
        return entries
    return [{"subnet": own["subnet"], **said, **own} for own, said in zip(entries, more, strict=True)]


def _write(path: Path, beside: Path, tensors: dict[str, Tensor], said: Mapping[str, Any]) -> None:
    from safetensors.torch import save_file

    with replacing(path) as temporary:
        save_file(tensors, temporary, metadata={"format": "pt", KEY: json.dumps(said)} | blank_seal())
        seal(temporary)
    with replacing(beside) as temporary:
        temporary.write_text(json.dumps(said, indent=2) + "\n", encoding="utf-8")


def _used(model: nn.Module, nets: Sequence[nn.Module]) -> dict[str, Tensor]:
    """The tensors of a model's state dict that its subnets have, each once, but for running statistics."""
    used = {id(tensor) for net in nets for tensor in (*net.parameters(), *net.buffers())}
    found: dict[int, tuple[str, Tensor]] = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        if isinstance(tensor, Tensor) and id(tensor) in used:
            found.setdefault(id(tensor), (name, tensor))
    return {name: tensor.detach().contiguous() for name, tensor in found.values()}


def _own_statistics(
    network: ResidualNetwork, subnets: Sequence[Subnet], statistics: Statistics
) -> tuple[dict[str, Tensor], list[dict[str, int]]]:
    """The statistics of subnets, each once, and for each subnet the number of those of each layer."""
    tensors: dict[str, Tensor] = {}
    norms = layers_with_statistics(network.model, network.wiring)
    known: dict[str, list[tuple[Tensor, ...]]] = {}
    numbers: list[dict[str, int]] = []
    for subnet in subnets:
        of = statistics.of(network.wiring, subnet.stages) if norms else {}
        own = {}
        for layer, values in of.items():
            before = known.setdefault(layer, [])
            same = (at for at, other in enumerate(before) if all(map(torch.equal, other, values)))
            own[layer] = next(same, len(before))
            if own[layer] == len(before):
                before.append(values)
                for key, value in zip(norms[layer].keys, values, strict=True):
                    tensors[f"statistics.{own[layer]}.{layer}.{key}"] = value.contiguous()
        numbers.append(own)
    return tensors, numbers
