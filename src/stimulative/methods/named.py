"""All training methods by name: those of this library, and of the user's own."""

from __future__ import annotations

import inspect

from stimulative.errors import UsageError
from stimulative.extension import imported, is_own
from stimulative.methods.base import Method
from stimulative.methods.common import CommonTraining
from stimulative.methods.group_knowledge import GroupKnowledge
from stimulative.methods.layer_supervision import LayerSupervision
from stimulative.methods.self_distillation import SelfDistillation
from stimulative.methods.stage_supervision import StageSupervision
from stimulative.methods.stimulative import StimulativeTraining
from stimulative.methods.stochastic_depth import StochasticDepth
from stimulative.naming import did_you_mean

METHODS: dict[str, type[Method]] = {
    "common": CommonTraining,
    "layer_supervision": LayerSupervision,
    "stage_supervision": StageSupervision,
    "self_distillation": SelfDistillation,
    "stochastic_depth": StochasticDepth,
    "stimulative": StimulativeTraining,
    "group_knowledge": GroupKnowledge,
}
"""The methods of this library; whoever adds one to the table can name it like these."""


def method_named(name: str) -> type[Method]:
    """The class of a method.

    Args:
        name: A name of ``METHODS``, or ``package.module:Class`` for one of your own: a subclass of ``Method`` that
            takes the network, and ``label_smoothing``, ``total_steps`` and ``seed`` by name. What else it takes by name
            are its settings in a recipe.

    Raises:
        UsageError: If there is none, or it cannot be made as the methods of this library are.
    """
    if name in METHODS:
        return METHODS[name]
    if not is_own(name):
        raise UsageError(
            f"unknown method {name!r}, known: {', '.join(METHODS)}, package.module:Class{did_you_mean(name, METHODS)}"
        )
    found = imported(name, "method", "Class", "a subclass of stimulative.methods.Method")
    if not (isinstance(found, type) and issubclass(found, Method)):
        raise UsageError(f"{name!r} is no method: it must be a subclass of stimulative.methods.Method; got {found!r}")
    try:
        inspect.signature(found).bind_partial(None, label_smoothing=0.0, total_steps=None, seed=0)
    except TypeError as error:
        raise UsageError(
            f"method {name!r} has to take the network first, and label_smoothing, total_steps and seed by name (or as "
            f"**settings that it hands on to Method); its constructor says: {error}"
        ) from error
    return found
