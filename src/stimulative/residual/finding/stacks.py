"""Lists of layers that a model's config counts.

Hugging Face Transformers builds a model from a config: how many layers there are (``num_hidden_layers``), what each of
them is (``layer_types``), and which number each has (``layer_idx``), by which it finds its keys and values in a cache.
Such a list is a *stack*.

Nothing is known of any model's class. A stack is a list of modules whose length is written in a config next to it,
alone or, of the stages of a hierarchical model such as Swin, among the ``depths``; a number is an attribute that says
"layer" or "block" and counts the layers of the list; what the config has one of for each layer are lists of that
length.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

_COUNT = "num_hidden_layers"
_DEPTHS = "depths"
_DECODER = "decoder_layers", "num_decoder_layers"
_ENCODER = "encoder_layers", "num_encoder_layers"
_NUMBERS = "layer", "block"


@dataclass(frozen=True)
class Stack:
    """A list of layers that a config counts.

    Args:
        name: The module name of the list.
        layers: The module names of its layers, in order.
        numbers: For each layer, the modules inside, the names of their attributes that hold its number, and what these
            start with.
        configs: The modules whose configs count the layers, and the fields that do; of a field that counts the layers
            of several stages (``depths``), also which of its numbers it is.
    """

    name: str
    layers: tuple[str, ...]
    numbers: tuple[tuple[tuple[str, str, int], ...], ...]
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
            wanted = _counts(config, found[0][1], decoder="decoder" in parts)
            counts = tuple((field, None) for field in wanted if fields.get(field) == len(children))
        else:
            depths = fields.get(_DEPTHS)
            several = len(within) == 1 and isinstance(depths, list | tuple) and within[0] < len(depths)
            counts = ((_DEPTHS, within[0]),) if several and depths[within[0]] == len(children) else ()
        if counts:
            configs.append((owner, counts))
    if not configs:
        return None
    return Stack(name, tuple(f"{name}.{key}" for key in layers._modules), _numbers(children), tuple(configs))


def _counts(config: Any, top: Any, *, decoder: bool) -> tuple[str, ...]:
    """The fields that may count the layers of a list; top is the config of the whole model."""
    both = bool(getattr(top, "is_encoder_decoder", False))
    sides = [*_DECODER, *_ENCODER] if not both else list(_DECODER if decoder else _ENCODER)
    if not (both and decoder and config is top):  # there it counts the layers of the encoder
        sides.append(getattr(config, "attribute_map", {}).get(_COUNT, _COUNT))
    return tuple(dict.fromkeys(sides))


def _numbers(layers: Sequence[nn.Module]) -> tuple[tuple[tuple[str, str, int], ...], ...]:
    """The attributes inside of layers that count them: wherever one of that name is, it holds the layer's number."""
    found = [
        [
            (inside, attribute, value - position)
            for inside, module in layer.named_modules()
            for attribute, value in vars(module).items()
            if type(value) is int and any(word in attribute for word in _NUMBERS)
        ]
        for position, layer in enumerate(layers)
    ]
    starts: dict[str, set[int]] = {}
    holders: dict[str, int] = {}
    for own in found:
        for _, attribute, start in own:
            starts.setdefault(attribute, set()).add(start)
        for attribute in {attribute for _, attribute, _ in own}:
            holders[attribute] = holders.get(attribute, 0) + 1
    counting = {name for name, start in starts.items() if len(start) == 1 and holders[name] > 1}
    return tuple(tuple(entry for entry in own if entry[1] in counting) for own in found)
