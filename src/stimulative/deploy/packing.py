"""The family file: all subnets that are deployed together, in one file.

It is a safetensors file. The main net's parameters stand in it once, under their names in the model, but for blocks
that no subnet of the file runs. Normalisation statistics stand under ``statistics.NUMBER.LAYER.running_mean`` and
``.running_var``; subnets of which a layer has the same ones share the number. The JSON in the header (key
``stimulative``), of which the same is written beside it as a file, says the rest: the model, what it takes and gives,
the blocks of its stages, and of each subnet its accuracy, its cost and the numbers of its statistics.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from stimulative.analysis.family import Steps
from stimulative.analysis.frontier import frontier
from stimulative.analysis.member import Member
from stimulative.deploy.extraction import carve_checked
from stimulative.deploy.finished import Finished, open_finished
from stimulative.deploy.writing import check_new, writing
from stimulative.errors import UsageError
from stimulative.unravel import ResidualNetwork, Statistics, Subnet, SubnetLike, layers_with_statistics

FAMILY = "family.safetensors"
KEY = "stimulative"
FORMAT = "stimulative family 1"


def pack(
    run: str | Path,
    subnets: Literal["frontier"] | Sequence[SubnetLike] = "frontier",
    *,
    out: str | Path | None = None,
    force: bool = False,
    progress: Callable[[int, int], Any] | None = None,
) -> dict[str, Any]:
    """Write subnets of a finished run into one family file.

    Each subnet's statistics are recalibrated, and it is compared with the subnet in place before anything is written.

    Args:
        run: The run directory.
        subnets: Which subnets; ``"frontier"`` for those that no other one beats in accuracy and FLOPs, which needs an
            evaluated run.
        out: The file; by default ``family.safetensors`` in the run directory. The JSON has its name, ending in
            ``.json``.
        force: Whether files that are there are replaced.
        progress: Called with the steps done and the steps in all.

    Returns:
        What the JSON says, with ``file``, ``bytes`` and ``json``.

    Raises:
        UsageError: If the directory is not that of a finished run, a subnet does not fit or cannot be taken out, or the
            files cannot be written.
    """
    directory = Path(run)
    finished = open_finished(directory)
    chosen = _chosen(finished, subnets)
    path = Path(out) if out is not None else directory / FAMILY
    beside = path.with_suffix(".json")
    if path == beside:
        raise UsageError(
            f"--out is the family file, whose JSON is written beside it; got {path}, give FILE.safetensors"
        )
    for file in (path, beside):
        check_new(file, force=force)
    unmeasured = any(subnet not in finished.family for subnet in chosen)
    steps = Steps(progress, len(chosen) + (len(finished.run.data.test) if unmeasured else 0))
    network = finished.network
    statistics = finished.statistics(chosen)
    members = finished.members(chosen, statistics, after_batch=steps.step)
    carvings = []
    for subnet in chosen:
        carvings.append(carve_checked(network, subnet, statistics, shared=True))
        steps.step()
    tensors, numbers = _own_statistics(network, chosen, statistics)
    tensors = {**_used(network.model, [carving.model for carving in carvings]), **tensors}
    about = {
        "format": FORMAT,
        **finished.about(),
        "stages": [{"name": stage.name, "blocks": list(stage.block_names)} for stage in network.stages],
        "calibration_images": statistics.images,
        "subnets": [
            {**_described(member), "statistics": number, "deleting": carving.deleting}
            for member, number, carving in zip(members, numbers, carvings, strict=True)
        ],
    }
    from safetensors.torch import save_file

    with writing(path) as temporary:
        save_file(tensors, temporary, metadata={"format": "pt", KEY: json.dumps(about)})
    with writing(beside) as temporary:
        temporary.write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
    return about | {"file": str(path), "bytes": path.stat().st_size, "json": str(beside)}


def _chosen(finished: Finished, subnets: Literal["frontier"] | Sequence[SubnetLike]) -> list[Subnet]:
    if subnets == "frontier":
        if not finished.family:
            raise UsageError(
                f"the subnets of {finished.directory} have not been measured, so there is no frontier: stimulative "
                f"evaluate {finished.directory}. Or name subnets: --subnets {finished.network.full},"
                f"{finished.network.space.smallest}"
            )
        return [member.subnet for member in frontier(list(finished.family.values()))]
    if isinstance(subnets, str):
        raise UsageError(f"subnets: got {subnets!r}, allowed: 'frontier', or a list of subnets")
    chosen = list(dict.fromkeys(finished.network.resolve(subnet) for subnet in subnets))
    if not chosen:
        raise UsageError("a family has at least one subnet, got none")
    return chosen


def _described(member: Member) -> dict[str, Any]:
    """What the JSON says of one subnet."""
    found = {
        "subnet": str(member.subnet),
        **member.score.to_mapping(),
        "parameters": member.cost.parameters,
        "flops": member.cost.flops,
    }
    return found | ({} if member.temperature is None else {"temperature": member.temperature})


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
    known: dict[str, list[tuple[Tensor, Tensor]]] = {}
    numbers: list[dict[str, int]] = []
    for subnet in subnets:
        of = statistics.of(network.wiring, subnet.stages) if layers_with_statistics(network.model) else {}
        own = {}
        for layer, values in of.items():
            before = known.setdefault(layer, [])
            same = (at for at, other in enumerate(before) if all(map(torch.equal, other, values)))
            own[layer] = next(same, len(before))
            if own[layer] == len(before):
                before.append(values)
                prefix = f"statistics.{own[layer]}.{layer}"
                tensors[f"{prefix}.running_mean"], tensors[f"{prefix}.running_var"] = (v.contiguous() for v in values)
        numbers.append(own)
    return tensors, numbers
