"""The weights of an extracted subnet as safetensors, with a JSON beside it that says what they are of."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from stimulative.deploy.exporting.checking import ExportFailed
from stimulative.deploy.exporting.deployed import Deployed, runner
from stimulative.deploy.exporting.rebuilding import Rebuilding, fill
from stimulative.deploy.writing import KEY
from stimulative.files import save_model


def write_weights(model: nn.Module, path: Path, about: Mapping[str, Any]) -> None:
    """Write parameters and buffers, and the description as JSON into the header."""
    save_model(model, path, {"format": "pt", KEY: json.dumps(about)})


def weights_runner(module: Deployed, rebuilding: Rebuilding, path: Path) -> Callable[..., Tensor]:
    """What runs a module that was built again and has the weights of the file; the extracted one if there is no way.

    Raises:
        ExportFailed: If the file has not the weights of the module.
    """
    from safetensors.torch import load_file

    read = load_file(path)
    own = module.model.state_dict()
    if any(not torch.equal(value, own[name]) for name, value in read.items()):
        raise ExportFailed("the weights that were read back are not those that were written")
    if rebuilding.built is None:
        return runner(module)
    for tensor in rebuilding.built.state_dict().values():
        tensor.zero_()  # it has been filled before, and what the file lacks has to show
    fill(rebuilding.built, read)
    return runner(type(module)(rebuilding.built))
