"""Whether ``from_pretrained`` of Transformers gives back the model that ``save_pretrained`` would write.

It builds a model anew from the config, and puts the weights into it by their names. Where the config does not say what
the layers of a subnet are, this is another model: some weights find no place, others stay random, or a layer treats
its input otherwise. So the model is restored once, in memory, and compared.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from stimulative.deploy.comparing import unlike
from stimulative.residual import config_of, misfit, restored_config


def restored_otherwise(
    model: nn.Module, lists: Iterable[str], outputs: Callable[[nn.Module], list[Tensor]]
) -> str | None:
    """In what a model differs from the one that ``from_pretrained`` makes of its config and weights.

    The restored model shares the weights of the model.

    Args:
        model: A model, in evaluation mode.
        lists: The names of its modules that hold layers, of which attributes are compared too: a number that only a
            cache of keys and values depends on shows in no output.
        outputs: What a model computes on the example input.

    Returns:
        The first difference; None if there is none, or the model is not one of Transformers.
    """
    if config_of(model) is None:
        return None
    reason = misfit(model, lists)
    if reason is not None:
        return reason
    weights = {key: value.detach() for key, value in model.state_dict().items()}
    kind: Any = type(model)
    try:
        with _quietly(), torch.random.fork_rng(devices=[]):
            restored, found = kind.from_pretrained(
                None, config=restored_config(model), state_dict=weights, output_loading_info=True
            )
            restored.to(next(model.parameters()).device).eval()
    except Exception as error:  # whatever a model's own way of loading does
        return f"{type(model).__name__} cannot be restored ({type(error).__name__}: {error})"
    left_out = sorted({*found["missing_keys"], *found["unexpected_keys"]})
    try:
        difference = unlike(outputs(model), outputs(restored))
    except Exception as error:  # it may be made for other inputs
        difference = f"it fails: {type(error).__name__}: {error}"
    if difference is not None and left_out:
        return f"{difference}, and these weights find no place: {', '.join(left_out[:3])}"
    return difference


@contextmanager
def _quietly() -> Iterator[None]:
    """Nothing is said of a restoring that nobody asked for."""
    from transformers.utils import logging as of_transformers

    level, bar = of_transformers.get_verbosity(), of_transformers.is_progress_bar_enabled()
    of_transformers.set_verbosity(logging.CRITICAL)
    of_transformers.disable_progress_bar()
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        of_transformers.set_verbosity(level)
        if bar:
            of_transformers.enable_progress_bar()
