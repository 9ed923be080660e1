"""A traced module as an ONNX file."""

from __future__ import annotations

import importlib
import json
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from stimulative.deploy.exporting.deployed import Deployed
from stimulative.deploy.exporting.program import Traced
from stimulative.errors import UsageError

OPSET = 18
"""What PyTorch's exporter translates to without a conversion; runtimes know it since 2023."""

MOST_BYTES = 1536 * 2**20
"""Of weights in one file: ONNX's format ends at 2 GiB, and PyTorch puts more than this into a second file."""

_PACKAGES = "onnx", "onnxscript", "onnxruntime"


def check_installed() -> None:
    """Make sure that the packages that ONNX needs are there.

    Raises:
        UsageError: If not.
    """
    for package in _PACKAGES:
        try:
            importlib.import_module(package)
        except ImportError as error:
            raise UsageError(
                f"ONNX needs the packages {', '.join(_PACKAGES)}, and {package} cannot be imported ({error}): "
                "pip install 'stimulative[onnx]', or choose another format="
            ) from error


def check_size(model: nn.Module) -> None:
    """Make sure that a model fits into one file.

    Raises:
        UsageError: If not.
    """
    size = sum(tensor.numel() * tensor.element_size() for tensor in (*model.parameters(), *model.buffers()))
    if size > MOST_BYTES:
        raise UsageError(
            f"an ONNX file holds up to {MOST_BYTES / 1e9:.1f} GB of weights, and this subnet has {size / 1e9:.1f} GB; "
            "choose a smaller one, or format='torch' or 'safetensors'"
        )


def write_onnx(traced: Traced, module: Deployed, path: Path, about: Mapping[str, Any]) -> None:
    """Write an ONNX file, with its description as metadata: strings as they are, all else as JSON.

    Raises:
        UsageError: If PyTorch cannot translate the graph.
    """
    try:
        with _quietly():
            made = torch.onnx.export(
                traced.program,
                dynamo=True,
                verbose=False,
                opset_version=OPSET,
                input_names=list(module.inputs),
                output_names=[module.output],
                dynamic_shapes=[dict(traced.free) for _ in module.inputs],
            )
    except Exception as error:  # the exporter's own around whatever went wrong
        cause = error.__cause__ or error
        reason = next(filter(None, map(str.strip, str(cause).splitlines())), type(cause).__name__)
        raise UsageError(
            f"PyTorch cannot translate {type(module.model).__name__} to ONNX: {reason}. Choose format='torch'"
        ) from error
    assert made is not None
    model = made.model
    properties = {key: value if isinstance(value, str) else json.dumps(value) for key, value in about.items()}
    model.metadata_props.update(properties)
    for node in model.graph.all_nodes():
        node.metadata_props.clear()  # a stack trace each, with paths of this machine
    made.save(path)


def onnx_runner(path: Path) -> Callable[..., Tensor]:
    """What runs an ONNX file in ONNX Runtime, on the processor."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    names = [entry.name for entry in session.get_inputs()]

    def run(*inputs: Tensor) -> Tensor:
        given = dict(zip(names, (part.numpy() for part in inputs), strict=True))
        return torch.from_numpy(session.run(None, given)[0])

    return run


@contextmanager
def _quietly() -> Iterator[None]:
    """Without the warnings of the exporter, which are about itself."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        logging.disable(before)
