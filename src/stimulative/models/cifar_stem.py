"""timm's ImageNet nets with a stem for images of 32x32.

The ImageNet stems divide the resolution by four (ResNet) or two (MobileNetV3) before the first block, which
leaves little of a CIFAR image (DenseNet's, too, by four). Here the first convolution is 3x3 with stride 1 and the
max-pool is gone; everything after it is timm's, class and all.

ResNet: He, Zhang, Ren, Sun, Deep Residual Learning for Image Recognition, CVPR 2016 (arXiv 1512.03385). It
starts as in the code published with Stimulative Training (arXiv 2210.04153): convolutions N(0, 2 / (k * k *
out)), every BatchNorm scale 1 and shift 0, classifier N(0, 0.01 ** 2) and bias 0. timm's own default differs
in the last BatchNorm of each block, which it starts at scale 0; the argument ``zero_init_last: true`` brings
that back.

MobileNetV3: Howard et al., Searching for MobileNetV3, ICCV 2019 (arXiv 1905.02244), started as timm does.

DenseNet: Huang, Liu, van der Maaten, Weinberger, Densely Connected Convolutional Networks, CVPR 2017 (arXiv
1608.06993), with the bottlenecks and the compression of its ImageNet nets (DenseNet-BC), started as timm does. The
paper's own nets for CIFAR have the same stem but for the norm after it, three blocks instead of four, and other
depths; the argument ``block_config`` gives any of them.
"""

from collections.abc import Sequence
from typing import Any, Literal

from torch import nn

from stimulative.errors import UsageError

# Layers of each dense block: Table 1 of Huang et al.
DENSENET_LAYERS = {
    121: (6, 12, 24, 16),
    169: (6, 12, 32, 32),
    201: (6, 12, 48, 32),
    264: (6, 12, 64, 48),
}


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


def small_stem_densenet(
    depth: int,
    *,
    num_classes: int,
    in_chans: int = 3,
    growth_rate: int = 32,
    block_config: Sequence[int] | None = None,
    **arguments: Any,
) -> nn.Module:
    """Builds timm's DenseNet of ``depth`` layers with a 3x3 stride-1 stem and no max-pool.

    Args:
        depth: 121, 169, 201 or 264.
        num_classes: Number of logits.
        in_chans: Channels of the images.
        growth_rate: Channels that each layer adds; the stem has twice as many.
        block_config: Layers of each dense block, instead of those that belong to the depth; any number of blocks.
        **arguments: Passed on to timm's ``DenseNet``.

    Raises:
        UsageError: ``growth_rate`` or ``block_config`` is not made of whole numbers from 1.
    """
    from timm.models.densenet import DenseNet

    layers = DENSENET_LAYERS[depth] if block_config is None else block_config
    if not isinstance(layers, list | tuple) or not layers or not all(map(_is_count, layers)):
        raise UsageError(
            f"argument 'block_config' of 'cifar/densenet{depth}' must be the number of layers of each dense block, "
            f"whole numbers from 1, such as {list(DENSENET_LAYERS[depth])}; got {block_config!r}"
        )
    if not _is_count(growth_rate):
        raise UsageError(
            f"argument 'growth_rate' of 'cifar/densenet{depth}' must be a whole number from 1; got {growth_rate!r}"
        )
    model = DenseNet(growth_rate, tuple(layers), num_classes, in_chans, **arguments)
    _shrink_first_convolution(model, "features.conv0", mode="fan_in")
    model.set_submodule("features.pool0", nn.Identity())
    return model


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _shrink_first_convolution(model: nn.Module, name: str, mode: Literal["fan_in", "fan_out"] = "fan_out") -> None:
    """Replaces the convolution ``name`` of the model by one of 3x3 with stride 1 and as many channels."""
    first = model.get_submodule(name)
    assert isinstance(first, nn.Conv2d)
    smaller = nn.Conv2d(first.in_channels, first.out_channels, 3, stride=1, padding=1, bias=False)
    nn.init.kaiming_normal_(smaller.weight, mode=mode, nonlinearity="relu")
    model.set_submodule(name, smaller)
