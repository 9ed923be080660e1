"""The stem of a network: everything that runs before its first block.

What belongs to it is found by running it, not by names: the parameters are those that the input of the first block
depends on, as autograd tells. These are a ResNet's first convolution and norm, and of a vision transformer also the
class token and the positions, which are in no module of their own. The layers with statistics are those that were
called before the first block.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from stimulative.residual.access.caches import configs_of, without_caches
from stimulative.residual.access.trees import tensors_in
from stimulative.residual.access.undisturbed import uncut
from stimulative.residual.finding.recording import Keywords, arguments_of, before_calls, quietly
from stimulative.residual.network import ResidualNetwork
from stimulative.residual.running.statistics import FROZEN, layers_with_statistics


@dataclass(frozen=True)
class Stem:
    """What runs before the first block.

    Args:
        parameters: The names of its parameters in the model.
        layers: The names of its layers that keep running statistics.
    """

    parameters: tuple[str, ...]
    layers: tuple[str, ...]


class _Reached(Exception):
    """The first block is about to be called."""


def stem_of(network: ResidualNetwork) -> Stem:
    """Find the stem of a network; the network stays as it is.

    A parameter that the model also reads behind the first block, such as an embedding that is the output layer, too,
    belongs to it.

    Args:
        network: The network. Parameters that ask for no gradient are not found.
    """
    model, first = network.model, network.wiring.places[0].name
    called: list[str] = []
    inputs: list[Tensor] = []

    def look(name: str, module: nn.Module, args: tuple[Any, ...], kwargs: Keywords) -> None:
        if name == first:
            inputs.extend(tensor for tensor in tensors_in((args, kwargs)) if tensor.requires_grad)
            raise _Reached
        called.append(name)

    args, kwargs = arguments_of(network.example_input)
    parameters = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    gradients: Sequence[Tensor | None] = [None] * len(parameters)
    with quietly(model), without_caches(configs_of(model)), before_calls(model, look), torch.enable_grad():
        with suppress(_Reached):
            model(*args, **kwargs)
        if inputs:  # within the context: it puts buffers back, which the graph needs as they are
            sums = [tensor.sum() for tensor in inputs]
            gradients = torch.autograd.grad(sums, list(parameters.values()), allow_unused=True)
    reached = zip(parameters, gradients, strict=True)
    return Stem(
        tuple(name for name, gradient in reached if gradient is not None),
        tuple(name for name in layers_with_statistics(model, network.wiring) if name in called),
    )


@uncut
def freeze(network: ResidualNetwork, stem: Stem, *, new: Sequence[str] = ()) -> None:
    """Freeze a stem for good: its parameters ask for no gradient, its layers normalise by the statistics they have.

    Call ``keep_frozen`` whenever the model was put into training mode.

    Args:
        network: The network.
        stem: Its stem.
        new: Names of parameters that are trained all the same.
    """
    for name in stem.parameters:
        network.model.get_parameter(name).requires_grad_(name in new)
    for name in stem.layers:
        setattr(network.model.get_submodule(name), FROZEN, True)
    keep_frozen(network.model)


def keep_frozen(model: nn.Module) -> None:
    """Put frozen layers back into evaluation mode, in which they leave their statistics alone."""
    for module in model.modules():
        if getattr(module, FROZEN, False):
            module.eval()
