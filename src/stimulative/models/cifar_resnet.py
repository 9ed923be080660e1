"""The residual nets for CIFAR.

He, Zhang, Ren, Sun: Deep Residual Learning for Image Recognition, CVPR 2016 (arXiv 1512.03385), section 4.2:
a 3x3 convolution, three stages of n basic blocks with 16, 32 and 64 channels on maps of 32x32, 16x16 and 8x8,
global average pooling and a linear classifier: 6n + 2 layers. The shortcuts have no parameters (option A):
"the shortcut still performs identity mapping, with extra zero entries padded for increasing dimensions", read
with a stride of 2.

Convolutions start as N(0, 2 / (k * k * out)), BatchNorm as scale 1 and shift 0 (He, Zhang, Ren, Sun: Delving
Deep into Rectifiers, ICCV 2015, arXiv 1502.01852, in its backward form), the classifier as N(0, 0.01 ** 2)
and bias 0: the initialisation of the code published with Stimulative Training (arXiv 2210.04153).
"""

import torch
import torch.nn.functional as F
from torch import nn

from stimulative.errors import UsageError


class OptionAShortcut(nn.Module):
    """Every ``stride``-th pixel of the input, followed by channels of zeros.

    Args:
        added_channels: Number of zero channels put after the input's own.
        stride: Step between the pixels that are kept, along both axes.
    """

    def __init__(self, added_channels: int, stride: int) -> None:
        super().__init__()
        self.added_channels = added_channels
        self.stride = stride

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps (N, C, H, W) to (N, C + added_channels, ceil(H / stride), ceil(W / stride))."""
        kept = x[:, :, :: self.stride, :: self.stride]
        return F.pad(kept, (0, 0, 0, 0, 0, self.added_channels))


class CifarBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut, ReLU after the sum: ``relu(shortcut(x) + f(x))``.

    Args:
        in_channels: Channels of the input.
        channels: Channels of the output; not fewer than ``in_channels``.
        stride: Stride of the first convolution and of the shortcut.
    """

    def __init__(self, in_channels: int, channels: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.act1 = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        same_shape = stride == 1 and in_channels == channels
        self.shortcut = nn.Identity() if same_shape else OptionAShortcut(channels - in_channels, stride)
        self.act2 = nn.ReLU(inplace=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps (N, in_channels, H, W) to (N, channels, ceil(H / stride), ceil(W / stride))."""
        residual = self.bn2(self.conv2(self.act1(self.bn1(self.conv1(x)))))
        return self.act2(self.shortcut(x) + residual)


class CifarResNet(nn.Module):
    """The net of the paper: stem, stages ``layer1`` to ``layer3``, global average pooling, ``fc``.

    Args:
        blocks: Residual blocks per stage, the paper's n.
        num_classes: Number of logits.
        in_chans: Channels of the images.
        width: Channels of the first stage; the second has twice, the third four times as many.
    """

    def __init__(self, blocks: int, *, num_classes: int, in_chans: int, width: int = 16) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_chans, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.act1 = nn.ReLU()
        self.layer1 = _stage(width, width, blocks, stride=1)
        self.layer2 = _stage(width, 2 * width, blocks, stride=2)
        self.layer3 = _stage(2 * width, 4 * width, blocks, stride=2)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(4 * width, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        nn.init.normal_(self.fc.weight, std=0.01)
        nn.init.zeros_(self.fc.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps images (N, in_chans, H, W) to logits (N, num_classes)."""
        x = self.act1(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.fc(self.pool(x).flatten(1))


def cifar_resnet(depth: int, *, num_classes: int, in_chans: int = 3, width: int = 16) -> CifarResNet:
    """Builds the net with ``depth`` = 6n + 2 layers.

    Raises:
        UsageError: The width is no whole number of at least 1.
    """
    if not isinstance(width, int) or isinstance(width, bool) or width < 1:
        raise UsageError(f"argument 'width' of 'cifar/resnet{depth}' must be a whole number from 1; got {width!r}")
    return CifarResNet((depth - 2) // 6, num_classes=num_classes, in_chans=in_chans, width=width)


def _stage(in_channels: int, channels: int, blocks: int, stride: int) -> nn.Sequential:
    entry = CifarBlock(in_channels, channels, stride)
    return nn.Sequential(entry, *(CifarBlock(channels, channels) for _ in range(blocks - 1)))
