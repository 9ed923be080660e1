"""Makes a list of layers that a config counts a smaller one, with all that the config and the layers say of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from stimulative.errors import UsageError
from stimulative.residual.access.slots import put_children
from stimulative.residual.counted.numbering import Undo, number_layer, restore
from stimulative.residual.finding.stacks import Stack, config_of, per_layer
from stimulative.residual.finding.trying import kind_of

_TYPES = "layer_types", "layers_block_type"


def resize(model: nn.Module, stack: Stack, running: Sequence[int]) -> tuple[dict[str, nn.Module | None], Undo]:
    """Leave just some layers in a stack, say so in its configs, and number the layers anew.

    Args:
        model: The model.
        stack: The stack.
        running: The numbers of the layers that are left, in their order.

    Returns:
        What `put_back` takes.

    Raises:
        UsageError: If no config describes a model of these layers; then nothing has changed.
    """
    layers = model.get_submodule(stack.name)
    before = dict(layers._modules)
    kept = [model.get_submodule(stack.layers[number]) for number in running]
    undo = number(model, stack, running)
    seen: set[int] = set()
    replaced: dict[int, list[int]] = {}
    for owner, counts in stack.configs:
        own = vars(model.get_submodule(owner))
        of_model = all(number is None for _, number in counts)
        if of_model:  # some models note the number of layers themselves
            noted = [name for name, value in own.items() if type(value) is int and "layer" in name]
            copied = {name: own[name] for name in noted if own[name] == len(stack.layers)}
            undo.append((own, copied))
            own.update(dict.fromkeys(copied, len(running)))
        config = config_of(model.get_submodule(owner))
        fields = vars(config)
        if id(fields) in seen:
            continue
        seen.add(id(fields))
        missing = [name for name in _TYPES if of_model and name not in fields]
        computed = {name: list(getattr(config, name, None) or ()) for name in missing}
        each = per_layer(fields, len(stack.layers), counts)
        new = {field: _counted(fields[field], number, len(running)) for field, number in counts}
        new |= {field: type(values)(values[number] for number in running) for field, values in each.items()}
        new |= _features(fields, len(stack.layers), len(running))
        chosen = _chosen(fields, [model.get_submodule(name) for name in stack.layers], running)
        replaced |= {id(fields[field]): numbers for field, numbers in chosen.items()}
        new |= chosen
        undo.append((fields, {field: fields[field] for field in new}))
        fields.update(new)
        for name, types in computed.items():
            made, wanted = list(getattr(config, name, None) or ()), [types[at] for at in running if at < len(types)]
            if len(types) == len(stack.layers) and made != wanted:
                restore(undo)
                raise UsageError(
                    f"layers {list(running)} of {stack.name!r} are no model of their own: {type(config).__name__} "
                    f"computes {name} from their number, and would make them {made}; these "
                    f"are {wanted}. Keep the first layers instead, in their order"
                )
    for owner, _ in stack.configs:  # models note these lists, too
        own = vars(model.get_submodule(owner))
        noted = {name: replaced[id(value)] for name, value in own.items() if id(value) in replaced}
        undo.append((own, {name: own[name] for name in noted}))
        own.update(noted)
    put_children(layers, {str(number): layer for number, layer in enumerate(kept)})
    return before, undo


def put_back(model: nn.Module, stack: Stack, was: tuple[dict[str, nn.Module | None], Undo]) -> None:
    """Make a stack what it was before it was resized."""
    put_children(model.get_submodule(stack.name), was[0])
    restore(was[1])


def number(model: nn.Module, stack: Stack, running: Sequence[int]) -> Undo:
    """Number the layers that run as those of the smaller model are."""
    layers = [(model.get_submodule(stack.layers[number]), stack.numbers[number]) for number in running]
    return [entry for at, (layer, numbers) in enumerate(layers) for entry in number_layer(layer, numbers, at)]


def _counted(value: Any, number: int | None, count: int) -> Any:
    if number is None:
        return count
    return type(value)(count if at == number else other for at, other in enumerate(value))


def _chosen(fields: Mapping[str, Any], layers: Sequence[nn.Module], running: Sequence[int]) -> dict[str, list[int]]:
    """The lists of numbers of layers that a config has, such as ``cross_attention_layers``, as of those that are left.

    A list of whole numbers is one if the layers with these numbers are made of other modules than all others.
    """
    lists = {
        field: values
        for field, values in fields.items()
        if "layer" in field and type(values) is list and values and all(type(value) is int for value in values)
    }
    made_of = [tuple(map(kind_of, layer.modules())) for layer in layers] if lists else []  # a long walk, every pass
    found = {}
    for field, values in lists.items():
        there = {number for number in values if 0 <= number < len(layers)}
        listed = {made_of[number] for number in there}
        if listed and listed.isdisjoint(made_of[number] for number in range(len(layers)) if number not in there):
            found[field] = [at for at, number in enumerate(running) if number in there]
    return found


def _features(fields: Mapping[str, Any], length: int, left: int) -> dict[str, Any]:
    """What a config that can be a backbone's says of the features to give out: the names of its layers, and which."""
    names, chosen = fields.get("stage_names"), fields.get("_out_features")
    if not isinstance(names, list) or len(names) != length + 1 or not isinstance(chosen, list):
        return {}
    names = names[: left + 1]
    chosen = [name for name in chosen if name in names] or names[-1:]
    return {"stage_names": names, "_out_features": chosen, "_out_indices": [names.index(name) for name in chosen]}
