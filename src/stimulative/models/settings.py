"""The model part of a recipe."""

from dataclasses import dataclass, field
from typing import Any

from stimulative.errors import UsageError
from stimulative.models.catalog import find


@dataclass(frozen=True)
class ModelSettings:
    """Which network is trained.

    Args:
        name: The model: cifar/resnet20, 32, 44, 56 or 110 (He et al.'s nets for small images);
            cifar/resnet18, 34, 50, 101 or cifar/mobilenetv3_large (timm's, with a stem for small images);
            timm/NAME; torchvision/NAME; or package.module:factory for one of your own, called with
            num_classes and in_chans.
        arguments: Keyword arguments for the model's factory, for instance {drop_path_rate: 0.1}; He et al.'s
            nets take {width: 32} (channels of the first stage, 16 in the paper).
    """

    name: str = "cifar/resnet20"
    arguments: dict[str, Any] = field(default_factory=dict)

    def problems(self) -> list[str]:
        """Returns what is wrong with these settings, one sentence each, without building the model."""
        try:
            factory = find(self.name)
        except UsageError as error:
            return [f"model.name: {error}"]
        return [f"model.arguments: {problem}" for problem in factory.problems(self.arguments)]
