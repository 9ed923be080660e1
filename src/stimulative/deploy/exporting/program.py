"""A module as a program of ``torch.export``, with a batch of any size where it lets itself be traced so."""

from __future__ import annotations

import io
import json
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.export import Dim, ExportedProgram

from stimulative.deploy.exporting.deployed import Deployed, runner
from stimulative.errors import UsageError
from stimulative.residual import configs_of, without_caches

ABOUT = "about.json"
"""The name of the description among a program's extra files."""


@dataclass(frozen=True)
class Traced:
    """A traced module.

    Args:
        program: The program.
        free: The names of its inputs' free dimensions, by their number; the others are those of the example.
        fixed: Why not all that could be are free; None if they are.
    """

    program: ExportedProgram
    free: Mapping[int, str]
    fixed: str | None


def trace(module: Deployed, example: tuple[Tensor, ...]) -> Traced:
    """Trace a module; where it does not let its batch be free, for a batch of one.

    Args:
        module: The module, in evaluation mode.
        example: An input for each of its arguments, of 2 samples or more.

    Raises:
        UsageError: If it cannot be traced at all.
    """
    reasons = []
    for free in module.freedoms:
        inputs = example if 0 in free else tuple(part[:1] for part in example)
        shapes = tuple({number: Dim.DYNAMIC for number in free} for _ in inputs)
        try:
            with torch.no_grad(), without_caches(configs_of(module)), warnings.catch_warnings(action="ignore"):
                program = torch.export.export(module, inputs, dynamic_shapes=shapes)
        except Exception as error:  # whatever a model does that cannot be traced
            reasons.append(f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}")
            continue
        for node in program.graph.nodes:
            node.meta.pop("stack_trace", None)  # paths of this machine
        return Traced(program, free, reasons[0] if reasons else None)
    raise UsageError(
        f"{type(module.model).__name__} cannot be exported: torch.export fails with {reasons[-1]}. "
        "format='safetensors' keeps its weights"
    )


def write_program(traced: Traced, path: Path, about: Mapping[str, Any]) -> None:
    """Write a program, with its description among its extra files."""
    packed = io.BytesIO()  # PyTorch's own writer ends the process where the disk is full
    with warnings.catch_warnings(action="ignore"):
        torch.export.save(traced.program, packed, extra_files={ABOUT: json.dumps(about)})
    path.write_bytes(packed.getbuffer())


def program_runner(path: Path) -> Callable[..., Tensor]:
    """What runs a program that was written."""
    with path.open("rb") as file, warnings.catch_warnings(action="ignore"):
        return runner(torch.export.load(file).module())
