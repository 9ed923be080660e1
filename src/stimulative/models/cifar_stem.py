"""timm's ImageNet nets with a stem for images of 32x32.

The ImageNet stems divide the resolution by four (ResNet) or two (MobileNetV3) before the first block, which
leaves little of a CIFAR image. Here the first convolution is 3x3 with stride 1 and the max-pool is gone;
everything after it is timm's, class and all.

ResNet: He, Zhang, Ren, Sun, Deep Residual Learning for Image Recognition, CVPR 2016 (arXiv 1512.03385). It
starts as in the code published with Stimulative Training (arXiv 2210.04153): convolutions N(0, 2 / (k * k *
out)), every BatchNorm scale 1 and shift 0, classifier N(0, 0.01 ** 2) and bias 0. timm's own default differs
in the last BatchNorm of each block, which it starts at scale 0; the argument ``zero_init_last: true`` brings
that back.

MobileNetV3: Howard et al., Searching for MobileNetV3, ICCV 2019 (arXiv 1905.02244), started as timm does.
"""

from typing import Any

from torch import nn


def small_stem_resnet(architecture: str, *, num_classes: int, in_chans: int = 3, **arguments: Any) -> nn.Module:
    """Builds timm's ResNet ``architecture`` with a 3x3 stride-1 stem and no max-pool.

    Args:
        architecture: Its name in timm.
        num_classes: Number of logits.
        in_chans: Channels of the images.
        **arguments: Passed on to ``timm.create_model``.
    """
    import timm

    arguments = {"zero_init_last": False, **arguments}
    model = timm.create_model(architecture, pretrained=False, num_classes=num_classes, in_chans=in_chans, **arguments)
    _shrink_first_convolution(model, "conv1")
    model.set_submodule("maxpool", nn.Identity())
    classifier = model.get_submodule("fc")
    assert isinstance(classifier, nn.Linear)
    nn.init.normal_(classifier.weight, std=0.01)
    nn.init.zeros_(classifier.bias)
    return model


def small_stem_mobilenetv3(architecture: str, *, num_classes: int, in_chans: int = 3, **arguments: Any) -> nn.Module:
    """Builds timm's MobileNetV3 ``architecture`` with a 3x3 stride-1 stem.

    Args:
        architecture: Its name in timm.
        num_classes: Number of logits.
        in_chans: Channels of the images.
        **arguments: Passed on to ``timm.create_model``.
    """
    import timm

    model = timm.create_model(architecture, pretrained=False, num_classes=num_classes, in_chans=in_chans, **arguments)
    _shrink_first_convolution(model, "conv_stem")
    return model


def _shrink_first_convolution(model: nn.Module, name: str) -> None:
    """Replaces the convolution ``name`` of the model by one of 3x3 with stride 1 and as many channels."""
    first = model.get_submodule(name)
    assert isinstance(first, nn.Conv2d)
    smaller = nn.Conv2d(first.in_channels, first.out_channels, 3, stride=1, padding=1, bias=False)
    nn.init.kaiming_normal_(smaller.weight, mode="fan_out", nonlinearity="relu")
    model.set_submodule(name, smaller)
