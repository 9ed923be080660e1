"""Whether a config that counts layers builds the model that has it."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from stimulative.residual.finding.numbers import constants_of, held_at
from stimulative.residual.finding.stacks import config_of


def misfit(model: nn.Module, lists: Iterable[str]) -> str | None:
    """In what the layers of a model are others than its class builds from its config; None if they are the same.

    The model is built anew for this, without memory for its parameters, and compared: the names and shapes of all
    parameters and buffers, and whatever numbers, words and switches the layers hold, in attributes or inside of them.
    Rates of dropping are left out, since they follow from the depth and change nothing in evaluation.

    Args:
        model: The model.
        lists: The module names of its lists of layers.
    """
    if config_of(model) is None:
        return None  # a model of one's own around one of Transformers
    try:
        built = built_from(restored_config(model), type(model))
    except Exception as error:  # whatever a constructor does
        return f"{type(model).__name__} is not built from its config alone ({type(error).__name__}: {error})"
    shapes = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    expected = {key: tuple(value.shape) for key, value in built.state_dict().items()}
    for key in sorted(shapes.keys() | expected.keys()):
        if shapes.get(key) != expected.get(key):
            return f"{key} is of shape {shapes.get(key)} here and {expected.get(key)} there"
    within = tuple(f"{name}." for name in lists)
    modules = dict(model.named_modules())
    for name, other in built.named_modules():
        if not name.startswith(within):
            continue
        if name not in modules:
            return f"{name} is not here"
        own = _constants(modules[name])
        for where, value in _constants(other).items():
            if own.get(where, value if "." in where else None) != value:
                return f"{name}.{where} is {own.get(where)!r} here and {value!r} there"
    return None


def built_from(config: Any, kind: type[nn.Module]) -> nn.Module:
    """A model of a class and a config, without memory for its parameters.

    Raises:
        Exception: Whatever its constructor raises.
    """
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        return kind(config)


def restored_config(model: nn.Module) -> Any:
    """The config of a model as it is read back from the file that it is saved to."""
    config = config_of(model)
    with tempfile.TemporaryDirectory() as folder:
        config.save_pretrained(folder)
        return type(config).from_pretrained(folder)


def _constants(module: nn.Module) -> dict[str, Any]:
    """The numbers, words and switches that a module holds, by where they are."""
    found = {
        held_at(attribute, way): value
        for attribute, way, value in constants_of(module)
        if isinstance(value, int | float | str)
    }
    return {where: value for where, value in found.items() if not where.startswith("_") and "drop" not in where}
