"""Subnets of a finished run, measured, in one family file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

from stimulative.analysis import Steps
from stimulative.deploy.deployable import Finished, open_finished
from stimulative.deploy.family_file import check_files, save_family
from stimulative.deploy.packed import Quality
from stimulative.errors import UsageError
from stimulative.residual import Subnet, SubnetLike
from stimulative.runs import Family

FAMILY = "family.safetensors"


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
        subnets: Which subnets; ``"frontier"`` for those that no other one beats in FLOPs and accuracy on the validation
            part, which needs an evaluated run, and the main net.
        out: The file; by default ``family.safetensors`` in the run directory. The JSON goes to
            ``FILE.json``.
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
    path, _ = check_files(directory / FAMILY if out is None else out, force=force)
    steps = Steps(progress, len(finished.run.data.validation))
    if subnets == "frontier":
        finished = finished.validated(after_batch=steps.step)
    chosen = _chosen(finished, subnets)
    unmeasured = any(subnet not in finished.family for subnet in chosen)
    steps.total = steps.done + len(chosen) + (len(finished.run.data.test) if unmeasured else 0)
    statistics = finished.statistics(chosen)
    members = finished.members(chosen, statistics, after_batch=steps.step)
    return save_family(
        finished.network,
        path,
        chosen,
        statistics,
        about=finished.about().to_mapping(),
        entries=[Quality.of(member).to_mapping() for member in members],
        force=force,
        after_each=steps.step,
    )


def _chosen(finished: Finished, subnets: Literal["frontier"] | Sequence[SubnetLike]) -> list[Subnet]:
    network, family = finished.network, Family(tuple(finished.family.values()))
    if subnets == "frontier":
        if not family:
            raise UsageError(
                f"the subnets of {finished.directory} have not been measured, so there is no frontier: stimulative "
                f"evaluate {finished.directory}. Or name subnets: subnets=['{network.full}', "
                f"'{network.space.smallest}']"
            )
        selected = [member.subnet for member in family.selection()]
        return selected if network.full in selected else [*selected, network.full]
    if isinstance(subnets, str):
        raise UsageError(f"subnets: got {subnets!r}, allowed: 'frontier', or a list of subnets")
    return list(dict.fromkeys(network.resolve(subnet) for subnet in subnets))
