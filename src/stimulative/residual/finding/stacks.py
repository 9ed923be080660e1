"""Lists of layers that a model's config counts.

Hugging Face Transformers builds a model from a config: how many layers there are (``num_hidden_layers``), what each of
them is (``layer_types``), and which number each has (``layer_idx``), by which it finds its keys and values in a cache.
Such a list is a *stack*.

Nothing is known of any model's class. A stack is a list of modules whose length is written in a config next to it,
alone or, of the stages of a hierarchical model such as Swin, among its ``depths``; how layers know their numbers is
found in them (``numbers``); what the config has one of for each layer are lists of that length.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from stimulative.residual.finding.numbers import Number, numbers_in

_COUNT = "num_hidden_layers"
_OF_STAGES = "depth", "block", "layer"
_PER_LAYER = "layer", "block", "type", "pattern", "intermediate_size"
_NOT_PER_LAYER = "_id", "_ids", "_idx", "_indices", "architectures"
_DECODER = "decoder_layers", "num_decoder_layers"
_ENCODER = "encoder_layers", "num_encoder_layers"


@dataclass(frozen=True)
class Stack:
    """A list of layers that a config counts.

    Args:
        name: The module name of the list.
        layers: The module names of its layers, in order.
        numbers: Where each layer keeps its number.
        untold: Where the layers hold what counts them, but may be something else than their number.
        configs: The modules whose configs count the layers, and the fields that do; of a field that counts the layers
            of several stages (``depths``), also which of its numbers it is.
    """

    name: str
    layers: tuple[str, ...]
    numbers: tuple[tuple[Number, ...], ...]
    untold: tuple[str, ...]
    configs: tuple[tuple[str, tuple[tuple[str, int | None], ...]], ...]


def stacks_in(model: nn.Module) -> Iterator[Stack]:
    """All lists of modules that configs of a model count."""
    for name, module in model.named_modules():
        stack = _stack(model, name, module)
        if stack is not None:
            yield stack


def config_of(module: nn.Module) -> Any:
    """The config that Transformers has built a module from, or None."""
    config = getattr(module, "config", None)
    return config if hasattr(config, "attribute_map") and hasattr(config, "model_type") else None


def per_layer(
    fields: Mapping[str, Any], length: int, counts: Sequence[tuple[str, int | None]]
) -> dict[str, list[Any] | tuple[Any, ...]]:
    """What a config has one of for each layer."""
    if any(number is not None for _, number in counts):
        return {}  # what it says of stages is of no layer
    return {
        field: values
        for field, values in fields.items()
        if isinstance(values, list | tuple)
        and len(values) == length > 1
        and any(word in field for word in _PER_LAYER)
        and not field.endswith(_NOT_PER_LAYER)
    }


def _stack(model: nn.Module, name: str, layers: nn.Module) -> Stack | None:
    """A list of layers as a stack, or None if no config counts them."""
    children = list(layers.children())
    by_number = list(layers._modules) == [str(number) for number in range(len(children))]
    if not isinstance(layers, nn.ModuleList | nn.Sequential) or not children or not by_number:
        return None
    parts = name.split(".")
    owners = [".".join(parts[:end]) for end in range(len(parts))]  # the outermost one first
    found = [(owner, config) for owner in owners if (config := config_of(model.get_submodule(owner))) is not None]
    if not found:
        return None
    inside = parts[len(found[0][0].split(".")) if found[0][0] else 0 :]
    within = [int(part) for part in inside if part.isdigit()]  # the numbers of lists that the list is in
    configs = []
    for owner, config in found:
        fields = vars(config)
        if not within:
            of_layers = type(config) is type(found[-1][1])  # it is theirs, and not that of a model around
            wanted = _counts(config, found[0][1], decoder="decoder" in parts, of_layers=of_layers)
            counts = tuple((field, None) for field in wanted if fields.get(field) == len(children))
        else:
            counts = tuple((field, within[0]) for field in fields if _of_stage(fields, field, within, len(children)))
        if counts or (not within and _listed(config, len(children))):
            configs.append((owner, counts))
    if not configs:
        return None
    counting = numbers_in(children)
    names = tuple(f"{name}.{key}" for key in layers._modules)
    return Stack(name, names, counting.numbers, counting.untold, tuple(configs))


def _of_stage(fields: Mapping[str, Any], field: str, within: Sequence[int], length: int) -> bool:
    """Whether a field counts the layers of each stage, of which a list is one."""
    values = fields[field]
    if not isinstance(values, list | tuple) or not all(type(value) is int for value in values):
        return False
    of_stages = any(word in field for word in _OF_STAGES) and "head" not in field
    return of_stages and len(within) == 1 and within[0] < len(values) and values[within[0]] == length


def _listed(config: Any, length: int) -> bool:
    """Whether a config counts layers by a list of what each of them is, and by nothing else."""
    fields = vars(config)
    if _COUNT in fields or _COUNT in getattr(config, "attribute_map", {}) or getattr(config, _COUNT, None) != length:
        return False
    return bool(per_layer(fields, length, ()))


def _counts(config: Any, top: Any, *, decoder: bool, of_layers: bool) -> tuple[str, ...]:
    """The fields that may count the layers of a list; top is the config of the whole model."""
    both = bool(getattr(top, "is_encoder_decoder", False))
    sides = [*_DECODER, *_ENCODER] if not both else list(_DECODER if decoder else _ENCODER)
    of_encoder = both and decoder and config is top and not hasattr(top, "encoder_config")
    if of_layers and not of_encoder:
        sides.append(getattr(config, "attribute_map", {}).get(_COUNT, _COUNT))
    return tuple(dict.fromkeys(sides))
