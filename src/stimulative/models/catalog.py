"""From a name to a model."""

from collections.abc import Mapping
from functools import partial
from typing import Any

from torch import nn

from stimulative.errors import UsageError
from stimulative.models.cifar_resnet import cifar_resnet
from stimulative.models.cifar_stem import (
    DENSENET_LAYERS,
    small_stem_densenet,
    small_stem_mobilenetv3,
    small_stem_resnet,
)
from stimulative.models.factory import Factory
from stimulative.models.huggingface import find_transformers
from stimulative.models.libraries import NO_WEIGHTS, find_timm, find_torchvision
from stimulative.models.own_factory import find_own
from stimulative.naming import did_you_mean
from stimulative.tasks import TaskName

_STEM_IS_FIXED = dict.fromkeys(("stem_type", "stem_width", "replace_stem_pool"), "the cifar/ stem is fixed")
_UNTRAINED = {"pretrained": NO_WEIGHTS}
_OTHER_STEM = "timm's weights are of another stem, for large images"
_CIFAR = {
    **{
        f"cifar/resnet{depth}": Factory(f"cifar/resnet{depth}", partial(cifar_resnet, depth))
        for depth in (20, 32, 44, 56, 110)
    },
    **{
        f"cifar/{name}": Factory(
            f"cifar/{name}",
            partial(small_stem_resnet, name),
            reserved=_STEM_IS_FIXED | _UNTRAINED,
            none_published=_OTHER_STEM,
        )
        for name in ("resnet18", "resnet34", "resnet50", "resnet101")
    },
    "cifar/mobilenetv3_large": Factory(
        "cifar/mobilenetv3_large",
        partial(small_stem_mobilenetv3, "mobilenetv3_large_100"),
        reserved=_UNTRAINED,
        none_published=_OTHER_STEM,
    ),
    **{
        f"cifar/densenet{depth}": Factory(
            f"cifar/densenet{depth}",
            partial(small_stem_densenet, depth),
            reserved=dict.fromkeys(("stem_type", "aa_layer", "aa_stem_only"), "the cifar/ stem is fixed") | _UNTRAINED,
            none_published=_OTHER_STEM,
        )
        for depth in DENSENET_LAYERS
    },
}


_LANGUAGE = [f"transformers/{name}" for name in ("gpt2", "llama", "mistral", "qwen2", "qwen3", "gemma3_text")]
_FOR_TEXT = (
    "transformers/MODEL_TYPE, such as transformers/gpt2, transformers/llama or transformers/qwen3, or "
    "package.module:factory"
)


_DENSE = {
    "segmentation": "torchvision/fcn_resnet50, torchvision/deeplabv3_resnet50, torchvision/lraspp_mobilenet_v3_large, "
    "transformers/MODEL_TYPE such as transformers/segformer, or package.module:factory",
    "image_to_image": "package.module:factory",
}


def names() -> list[str]:
    """Returns the names of this library's own models, those for small images."""
    return list(_CIFAR)


def find(name: str, task: TaskName = "images") -> Factory:
    """Finds the model without building it; imports the library or module it comes from.

    Raises:
        UsageError: No model has that name, or the model is not for the task.
    """
    if name.startswith("transformers/"):
        return find_transformers(name, task)
    if task == "text" and ":" not in name:
        for_images = name.startswith(("cifar/", "timm/", "torchvision/"))
        raise UsageError(
            f"model {name!r} classifies images, and the data are text; take {_FOR_TEXT}"
            if for_images
            else f"unknown model {name!r}; for text take {_FOR_TEXT}{did_you_mean(f'transformers/{name}', _LANGUAGE)}"
        )
    if task in _DENSE and ":" not in name and not (task == "segmentation" and name.startswith("torchvision/")):
        raise UsageError(f"model {name!r} gives one answer for a whole image; for {task} take {_DENSE[task]}")
    if name in _CIFAR:
        return _CIFAR[name]
    if name.startswith("timm/"):
        return find_timm(name)
    if name.startswith("torchvision/"):
        return find_torchvision(name, task)
    if ":" in name:
        return find_own(name, task)
    bare = {known.removeprefix("cifar/"): known for known in _CIFAR}
    nearest = f"; did you mean {bare[name]!r}?" if name in bare else did_you_mean(name, _CIFAR)
    raise UsageError(
        f"unknown model {name!r}; known: {', '.join(_CIFAR)}, timm/NAME, torchvision/NAME, "
        f"transformers/MODEL_TYPE, package.module:factory{nearest}"
    )


def build(
    name: str,
    *,
    classes: int,
    channels: int = 3,
    arguments: Mapping[str, Any] | None = None,
    task: TaskName = "images",
) -> nn.Module:
    """Builds the model with new parameters, drawn from torch's global generator.

    Args:
        name: ``cifar/NAME`` (see :func:`names`), ``timm/NAME``, ``torchvision/NAME``, ``transformers/MODEL_TYPE`` or
            ``package.module:factory``; for text one of the last two.
        classes: Number of logits: classes of images, or tokens of the vocabulary.
        channels: Channels of the images; nothing to a model for text.
        arguments: Further keyword arguments for the model's factory; of Transformers' models, fields of the config.
        task: ``"text"`` for a causal language model, ``"segmentation"`` for classes of pixels, ``"image_to_image"`` for
            images, ``"embedding"`` with a type of Transformers that is for texts for a :class:`SentenceEncoder`; else
            a model that gives one vector of numbers for an image, as a classifier does.

    Returns:
        A model from images (N, channels, H, W) to logits (N, classes), or from tokens (N, T) to logits
        (N, T, classes), or to vectors (N, features). Transformers' models return an output whose ``logits`` they are.

    Raises:
        UsageError: The name is unknown, the model is not for the task, an argument is unknown or refused, or the model
            cannot take the channels.
    """
    for word, count in (("classes", classes), ("channels", channels)):
        if count < 1:
            raise UsageError(f"a model needs at least 1 of its {word}; got {count}")
    return find(name, task).build(classes=classes, channels=channels, arguments=arguments or {})


def build_pretrained(
    name: str, *, channels: int = 3, arguments: Mapping[str, Any] | None = None, task: TaskName = "images"
) -> nn.Module:
    """Builds the model with the weights that timm or torchvision publishes, and with as many classes as these have.

    They are downloaded at first use. timm turns them into weights for other channels, and for other sizes of images
    where the arguments say so.

    Args:
        name: ``timm/NAME`` or ``torchvision/NAME``.
        channels: Channels of the images.
        arguments: Further keyword arguments for the model's factory.
        task: As for :func:`build`.

    Raises:
        UsageError: There are none, they cannot be had, or they do not fit the arguments or the channels.
    """
    return find(name, task).build_pretrained(channels=channels, arguments=arguments or {})
