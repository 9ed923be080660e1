"""The model part of a recipe."""

from dataclasses import dataclass, field
from typing import Any, get_args

from stimulative.errors import UsageError
from stimulative.models.catalog import find
from stimulative.residual import Subnet
from stimulative.tasks import TaskName

PRETRAINED = "pretrained"
"""What ``weights`` says for the weights that the model's library publishes."""


@dataclass(frozen=True)
class ModelSettings:
    """Which network is trained.

    Args:
        name: The model: cifar/resnet20, 32, 44, 56 or 110 (He et al.'s nets for small images);
            cifar/resnet18, 34, 50, 101, cifar/mobilenetv3_large or cifar/densenet121, 169, 201, 264 (timm's,
            with a stem for small images);
            timm/NAME; torchvision/NAME; transformers/MODEL_TYPE, such as transformers/vit for images,
            transformers/gpt2 for text or transformers/bert for sentences:PATH; or package.module:factory for one of
            your own, called with num_classes and in_chans.
        arguments: Keyword arguments for the model's factory, for instance {drop_path_rate: 0.1}; He et al.'s
            nets take {width: 32} (channels of the first stage, 16 in the paper); Transformers' models take the
            fields of their config, for instance {num_hidden_layers: 4, hidden_size: 64}. Encoders of sentences:PATH
            also take {pooling: mean, normalise: true}: whether the vector of a text is the mean over its tokens or
            that of its first one (cls), and whether its length is 1.
        subnet: Blocks to keep: the others are removed before training, so that this subnet is trained alone. A
            depth for each stage, such as 2-1-3; null keeps all.
        weights: Trained weights to start from: a file, the directory of a finished run, a directory in which
            Transformers saved a model, or pretrained for those that
            timm or torchvision publishes (downloaded at first use). FILE#KEY is one of several sets in a file, such as
            best.pth#model_ema for averaged weights. A layer that differs in the number of classes alone starts anew;
            everything else has to fit. Null starts with new parameters.
        freeze_stem: Leave everything that runs before the first block as it was trained: its parameters, and the
            statistics of its normalisation layers, for subnets, too. Of what is new it freezes nothing.
    """

    name: str = "cifar/resnet20"
    arguments: dict[str, Any] = field(default_factory=dict)
    subnet: str | None = None
    weights: str | None = None
    freeze_stem: bool = False

    def problems(self, task: TaskName | None = "images") -> list[str]:
        """Returns what is wrong with these settings, one sentence each, without building the model.

        Args:
            task: What the recipe's data are; None if that is not known yet, and what is fine for either is fine.
        """
        if task is None:
            either = [self.problems(one) for one in get_args(TaskName)]
            return min(either, key=lambda found: (any(one.startswith("model.name") for one in found), len(found)))
        problems = []
        try:
            factory = find(self.name, task)
            problems += [f"model.arguments: {problem}" for problem in factory.problems(self.arguments)]
            if self.weights == PRETRAINED and factory.make_pretrained is None:
                problems.append(f"model.weights: {factory.no_pretrained()}")
        except UsageError as error:
            problems.append(f"model.name: {error}")
        try:
            if self.subnet is not None:
                Subnet.parse(self.subnet)
        except UsageError as error:
            problems.append(f"model.subnet: {error}")
        if self.weights == "":
            problems.append("model.weights: expected a file, a run directory, pretrained, or null; got an empty text")
        return problems
