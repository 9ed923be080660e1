"""What commands leave behind, as far as it does not depend on the clock, to be compared."""

import csv
import hashlib
import io
import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from faults.command import Faulty
from stimulative.analysis import verify
from stimulative.runs import METRICS, MODEL, SUBNETS, SUMMARY

OF_THE_CLOCK = "train_seconds", "images_per_second", "peak_memory_mib", "latency", "latency_ms", "latency_iqr_ms"


def same_training(run: Path, other: Path) -> None:
    """Make sure that two runs have come to the same: weights, log and scores.

    Raises:
        Faulty: If not.
    """
    same_tensors(run / MODEL, other / MODEL)
    _same(_rows(run / METRICS), _rows(other / METRICS), f"{METRICS} of {run}")
    _same(_summary(run)["main"], _summary(other)["main"], f"the main net of {run}")


def same_measured(run: Path, other: Path) -> None:
    """Likewise, what was measured of their subnets."""
    _same(_rows(run / SUBNETS), _rows(other / SUBNETS), f"{SUBNETS} of {run}")
    for key in ("main", "subnets", "by_blocks", "by_stage"):
        _same(_summary(run).get(key), _summary(other).get(key), f"{key} of {run}")


def same_tensors(file: Path, other: Path) -> None:
    """Likewise, the tensors in two safetensors files."""
    try:
        one, two = load_file(file), load_file(other)
    except Exception as error:
        raise Faulty("lost", f"{file} cannot be read: {error}") from error
    if one.keys() != two.keys() or not all(torch.equal(value, two[name]) for name, value in one.items()):
        raise Faulty("wrong", f"{file} holds other weights")


def same_page(directory: Path, other: Path) -> None:
    """Likewise, the pages and pictures of two reports."""
    for path in sorted(other.rglob("*")):
        if path.is_file() and path.suffix in (".html", ".csv", ".svg", ".png") and "figures" in str(path):
            found = directory / path.relative_to(other)
            if not found.exists():
                raise Faulty("lost", f"{found} is missing")
            _same(_hash(found), _hash(path), str(found))


def check_whole(run: Path) -> None:
    """Make sure that a run says of itself that nothing is wrong, and that no temporary files are left.

    Raises:
        Faulty: If not.
    """
    wrong = [finding for finding in verify(run) if not finding.fine]
    if wrong:
        raise Faulty("lost", f"{run}: {wrong}")
    left = [path.name for path in run.rglob(".*.tmp")]
    if left:
        raise Faulty("left behind", f"{run}: {left}")


def _same(found: Any, expected: Any, what: str) -> None:
    if found != expected:
        raise Faulty("wrong", f"{what}: {str(found)[:600]}\nand not {str(expected)[:600]}")


def _summary(run: Path) -> dict[str, Any]:
    try:
        return json.loads((run / SUMMARY).read_text())
    except (OSError, ValueError) as error:
        raise Faulty("lost", f"{run / SUMMARY}: {error}") from error


def _rows(path: Path) -> list[dict[str, str]]:
    try:
        read = list(csv.DictReader(io.StringIO(path.read_text())))
    except OSError as error:
        raise Faulty("lost", f"{path}: {error}") from error
    return [{key: value for key, value in row.items() if key not in OF_THE_CLOCK} for row in read]


def _hash(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
