"""What is exported: an extracted subnet, with what stands in front of it and behind it in the exported graph."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from stimulative.residual import configs_of, without_caches
from stimulative.tasks import Classification, Task


class Deployed(nn.Module):
    """A model as it is exported.

    Args:
        model: The extracted subnet.
        temperature: What logits are divided by; None for nothing.
        aim: What the model is for; classification by default.
        probabilities: Whether probabilities come out, the softmax of logits or what the task has instead.
    """

    inputs: tuple[str, ...] = ()
    """The names of what it takes."""

    freedoms: tuple[dict[int, str], ...] = ({},)
    """The dimensions of its inputs that can be free, the most wanted choice first."""

    def __init__(
        self,
        model: nn.Module,
        *,
        aim: Task | None = None,
        temperature: float | None = None,
        probabilities: bool = False,
    ) -> None:
        super().__init__()
        self.model = model
        self.aim = aim or Classification()
        self.temperature = temperature
        self.probabilities = probabilities

    @property
    def output(self) -> str:
        """The name of what comes out."""
        if self.aim.has_temperature:
            return "probabilities" if self.probabilities else "logits"
        return "outputs"

    def finish(self, logits: Tensor) -> Tensor:
        """What comes out for the logits of the model."""
        if self.temperature is not None:
            logits = logits / self.temperature
        return self.aim.probabilities(logits) if self.probabilities else logits

    def before(self, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """What it has to be given so that the model is given these inputs."""
        return inputs


class DeployedImages(Deployed):
    """A model of images as it is exported.

    Args:
        model: The extracted subnet.
        mean: Mean of each channel, from 0 to 1, that is subtracted here; None if images come normalised.
        std: Standard deviation of each channel, which is divided by.
        temperature: What logits are divided by; None for nothing.
        aim: What the model is for; classification by default.
        probabilities: Whether probabilities come out, the softmax of logits or what the task has instead.
    """

    inputs = ("images",)
    freedoms = ({0: "batch"}, {})
    mean: Tensor
    std: Tensor

    def __init__(
        self,
        model: nn.Module,
        *,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        aim: Task | None = None,
        temperature: float | None = None,
        probabilities: bool = False,
    ) -> None:
        super().__init__(model, aim=aim, temperature=temperature, probabilities=probabilities)
        self.normalises = mean is not None and std is not None
        if mean is not None and std is not None:
            self.register_buffer("mean", torch.tensor(mean)[:, None, None])
            self.register_buffer("std", torch.tensor(std)[:, None, None])

    def forward(self, images: Tensor) -> Tensor:
        """Map images (B, C, H, W) to logits or probabilities (B, classes), or to what the task has instead."""
        if self.normalises:
            images = (images - self.mean) / self.std
        return self.finish(self.aim.outputs_of(self.model(images)))

    def before(self, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Images whose normalisation is undone, if it is done here."""
        return (inputs[0] * self.std + self.mean,) if self.normalises else inputs


class DeployedText(Deployed):
    """A model of texts as it is exported: logits or vectors alone come out, and no cache of keys and values."""

    inputs = ("input_ids", "attention_mask")
    freedoms = ({0: "batch", 1: "length"}, {0: "batch"}, {})

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Map tokens and their mask (B, T) to logits or probabilities of the next token (B, T, vocabulary).

        Of an encoder to vectors (B, features).
        """
        return self.finish(self.aim.outputs_of(self.model(input_ids=input_ids, attention_mask=attention_mask)))


def runner(module: nn.Module) -> Callable[..., Tensor]:
    """What runs a module without gradients and without caches of keys and values."""

    def run(*inputs: Tensor) -> Tensor:
        with torch.no_grad(), without_caches(configs_of(module)):
            return module(*inputs)

    return run
