"""The models of timm and torchvision, by the names they have there: with new parameters, or with published weights."""

import inspect
from functools import partial

from stimulative.errors import UsageError
from stimulative.models.factory import Factory
from stimulative.naming import did_you_mean
from stimulative.tasks import TaskName

NO_WEIGHTS = (
    "models are built without trained weights; to start from some, say model.weights: pretrained, or give a file, "
    "model.weights: PATH"
)
_NOT_CLASSIFIERS = ("detection", "optical_flow", "quantization", "segmentation", "video")


def find_timm(name: str) -> Factory:
    """Finds ``timm/NAME``, for instance ``timm/resnet50`` or ``timm/vit_tiny_patch16_224``.

    Raises:
        UsageError: timm has no model of that name.
    """
    import timm
    from timm.models import get_pretrained_cfg

    architecture = name.removeprefix("timm/")
    if not timm.is_model(architecture):
        nearest = did_you_mean(name, (f"timm/{known}" for known in timm.list_models()))
        raise UsageError(f"timm has no model {architecture!r}; timm.list_models() lists the known ones{nearest}")
    try:
        published = get_pretrained_cfg(architecture)
    except RuntimeError as error:
        bare = architecture.split(".")[0]
        raise UsageError(f"unknown model {name!r}: {error} Leave the tag off: 'timm/{bare}'") from error
    has_weights = published is not None and published.has_weights
    return Factory(
        name,
        partial(timm.create_model, architecture, pretrained=False),
        reserved={"pretrained": NO_WEIGHTS},
        make_pretrained=partial(timm.create_model, architecture, pretrained=True) if has_weights else None,
        none_published="timm publishes none",
    )


def find_torchvision(name: str, task: TaskName = "images") -> Factory:
    """Finds ``torchvision/NAME`` among the image classifiers, for instance ``torchvision/resnet50``.

    Args:
        name: The whole name.
        task: ``"segmentation"`` looks among the segmenters, such as ``torchvision/fcn_resnet50``.

    Raises:
        UsageError: torchvision has no image classifier, or segmenter, of that name.
    """
    from torchvision import models

    architecture = name.removeprefix("torchvision/")
    if task == "segmentation":
        known = models.list_models(module=models.segmentation)
        if architecture not in known:
            raise UsageError(
                f"torchvision has no segmenter {architecture!r}; known: {', '.join(known)}"
                f"{did_you_mean(architecture, known)}"
            )
        return Factory(
            name,
            partial(models.get_model, architecture, weights=None, weights_backbone=None),
            channels_keyword=None,
            rgb_only=True,
            reserved={"weights": NO_WEIGHTS, "weights_backbone": NO_WEIGHTS},
            none_published="torchvision's are for other classes; give a file",
        )
    others = {f"torchvision.models.{package}" for package in _NOT_CLASSIFIERS}
    # Detectors and the like would also download a trained backbone.
    known = [
        model
        for model in models.list_models()
        if models.get_model_builder(model).__module__.rpartition(".")[0] not in others
    ]
    if architecture not in known:
        nearest = did_you_mean(name, (f"torchvision/{model}" for model in known))
        raise UsageError(
            f"torchvision has no image classifier {architecture!r}; "
            f"torchvision.models.list_models(module=torchvision.models) lists the known ones{nearest}"
        )
    parameters = inspect.signature(models.get_model_builder(architecture)).parameters
    channels_keyword = next((keyword for keyword in ("in_chans", "in_channels") if keyword in parameters), None)
    return Factory(
        name,
        partial(models.get_model, architecture, weights=None),
        channels_keyword=channels_keyword,
        rgb_only=channels_keyword is None,
        reserved={"weights": NO_WEIGHTS},
        make_pretrained=partial(models.get_model, architecture, weights="DEFAULT"),
    )
