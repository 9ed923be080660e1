"""What is done to photographs: one image at a time, by the processes that read them.

A training image is cropped in random scale and shape, mirrored, put through a policy, jittered in colour and lit, each
if asked, in this order. An evaluation image is resized and its centre cut out.

Sources:
    Random crop in scale and shape: Szegedy et al., Going Deeper with Convolutions, 2015 (torchvision's defaults).
    Lighting: Krizhevsky, Sutskever, Hinton, ImageNet Classification with Deep CNNs, 2012, section 4.1.
    Policies: timm's; `uniform` is LingChen et al., UniformAugment, 2020 (arXiv 2003.14348).

`uniform` draws two operations uniformly, with replacement. Each is applied with a probability that is itself drawn
uniformly from 0 to 1, and with a magnitude drawn uniformly from the operation's whole range. A coin whose probability
is drawn anew for every toss is a fair coin, so timm's RandAugment with probability 1/2 and uniform magnitudes is the
same distribution. The operations and their ranges are those of Fast AutoAugment (arXiv 1905.00397), except that there
is no cutout and no pairing of samples, and that posterising keeps 4 to 7 bits.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor

from stimulative.records import Record

UNIFORM = "uniform"

# The covariance of the colours of ImageNet's training images, on the scale 0..1: its eigenvalues, and its eigenvectors
# as columns. These are the numbers that everybody uses, since the implementations for Torch7.
COLOUR_EIGENVALUES = (0.2175, 0.0188, 0.0045)
COLOUR_EIGENVECTORS = (
    (-0.5675, 0.7192, 0.4009),
    (-0.5808, -0.0045, -0.8140),
    (-0.5836, -0.6948, 0.4203),
)

CROP_SCALE = (0.08, 1.0)
"""The shares of an image's area that the random crop takes by default, as Szegedy et al. and torchvision do."""

CROP_ASPECT = (0.75, 4 / 3)
"""The widths of that crop by default, as multiples of its height."""

_UNIFORM_OPERATIONS = [
    *("AutoContrast", "Equalize", "Invert", "Rotate", "PosterizeOriginal", "Solarize", "Color", "Contrast"),
    *("Brightness", "Sharpness", "ShearX", "ShearY", "TranslateXRel", "TranslateYRel"),
]
_UNIFORM_WORDS = "rand-m10-n2-p0.5-mstd101"  # above 100 timm draws magnitudes uniformly from 0 to m
_TRANSLATION = 0.45


def training_transform(
    size: int,
    *,
    crop_scale: tuple[float, float] = CROP_SCALE,
    crop_aspect: tuple[float, float] = CROP_ASPECT,
    flip: bool,
    interpolation: str,
    color_jitter: float,
    auto_augment: str | None,
    mean: tuple[float, ...],
) -> Callable[[Any], Tensor]:
    """What is done to a training image: from a PIL image to uint8 (3, size, size).

    Draws from the global generator of PyTorch; policies, from those of NumPy and Python, too.

    Args:
        size: Side of the result in pixels.
        crop_scale: Least and greatest share of the image's area that is cropped.
        crop_aspect: Least and greatest width of the crop as a multiple of its height.
        flip: Mirror half of the images.
        interpolation: How they are resized.
        color_jitter: Greatest change of brightness, contrast and saturation, as a share.
        auto_augment: A policy in timm's words, or `uniform`.
        mean: Mean of each channel from 0 to 1, which policies fill empty pixels with.
    """
    from torchvision.transforms import v2

    steps: list[Any] = [
        v2.RandomResizedCrop(
            size,
            scale=crop_scale,
            ratio=crop_aspect,
            interpolation=v2.InterpolationMode(interpolation),
            antialias=True,
        ),
    ]
    if flip:
        steps.append(v2.RandomHorizontalFlip())
    if auto_augment is not None:
        steps.append(policy(auto_augment, size=size, mean=mean, interpolation=interpolation))
    if color_jitter:
        steps.append(v2.ColorJitter(brightness=color_jitter, contrast=color_jitter, saturation=color_jitter))
    return v2.Compose([*steps, channels_of])


def channels_of(image: Any) -> Tensor:
    """PIL's RGB of (width, height) as uint8 (3, height, width).

    Taken channel by channel, as tensors have them: a batch of pixels that have their channels side by side would have
    to be transposed.
    """
    channels = bytearray().join(image.tobytes("raw", channel) for channel in "RGB")
    return torch.frombuffer(channels, dtype=torch.uint8).view(3, image.height, image.width)


@dataclass(frozen=True)
class Preparation(Record):
    """How an image is prepared where nothing is trained: its shorter side is resized, and its centre cut out.

    Args:
        resize: The shorter side in pixels; the other one keeps the ratio, rounded down.
        interpolation: How it is resized: `bilinear` or `bicubic`.
        antialias: Whether every pixel counts where it is made smaller, as Pillow does it.
        crop: Side in pixels of the square that is cut out of the centre.
    """

    resize: int
    interpolation: str
    antialias: bool
    crop: int

    @classmethod
    def of(cls, size: int, *, crop_ratio: float, interpolation: str) -> Self:
        """Images of this side, which is `crop_ratio` of the shorter one."""
        return cls(resized_side(size, crop_ratio), interpolation, antialias=True, crop=size)

    def transform(self) -> Callable[[Any], Tensor]:
        """From a PIL image to uint8 (3, crop, crop)."""
        from torchvision.transforms import v2

        resize = v2.Resize(
            self.resize, interpolation=v2.InterpolationMode(self.interpolation), antialias=self.antialias
        )
        return v2.Compose([resize, v2.CenterCrop(self.crop), channels_of])

    def __str__(self) -> str:
        return (
            f"shorter side resized to {self.resize} pixels ({self.interpolation}, "
            f"{'antialiased' if self.antialias else 'not antialiased'}), centre crop of {self.crop}x{self.crop}"
        )


def resized_side(size: int, crop_ratio: float) -> int:
    """The shorter side in pixels that an image is resized to before a centre of `size` pixels is cut out."""
    return round(size / crop_ratio)


def lighting_noise(deviation: float) -> Tensor:
    """What is added to the red, green and blue of a whole image, on the scale 0..1: float32 (3,).

    Each principal component of the colours of ImageNet, times its eigenvalue, times a normal random number of this
    deviation, drawn from PyTorch's global generator.
    """
    strength = torch.randn(3) * deviation * torch.tensor(COLOUR_EIGENVALUES)
    return torch.tensor(COLOUR_EIGENVECTORS) @ strength


def policy(words: str, *, size: int, mean: tuple[float, ...], interpolation: str) -> Callable[[Any], Any]:
    """A policy from PIL image to PIL image, in timm's words or `uniform`.

    Args:
        words: Its words, that `auto_augment_problem` finds no fault with.
        size: Side of the image in pixels.
        mean: Mean of each channel from 0 to 1, which empty pixels are filled with.
        interpolation: How images are transformed.
    """
    from PIL import Image
    from timm.data import auto_augment as timm_augment

    fill = tuple(min(255, round(255 * channel)) for channel in mean)
    settings: dict[str, Any] = {
        "translate_const": int(size * _TRANSLATION),
        "translate_pct": _TRANSLATION,
        "img_mean": fill,
        "interpolation": Image.Resampling[interpolation.upper()],
    }
    if words == UNIFORM:
        return timm_augment.rand_augment_transform(_UNIFORM_WORDS, settings, transforms=_UNIFORM_OPERATIONS)
    if words.startswith("rand"):
        return timm_augment.rand_augment_transform(words, settings)
    if words.startswith("augmix"):
        return timm_augment.augment_and_mix_transform(words, {**settings, "translate_pct": 0.3})
    return timm_augment.auto_augment_transform(words, settings)


def auto_augment_problem(words: object) -> str | None:
    """What is wrong with the words of a policy; None if they are fine."""
    known = f"{UNIFORM}, or timm's words, such as rand-m9-mstd0.5, augmix-m3-w3, original"
    if not isinstance(words, str):
        return f"expected {known}, got {words!r}"
    if words == UNIFORM:
        return None
    # timm leaves out, without a word, what does not look like a setting to it
    odd = [part for part in words.split("-")[1:] if not re.fullmatch(r"t\w+|(?!t)[a-z]+\d+(\.\d+)?", part)]
    if odd:
        return f"{odd[0]!r} in {words!r} is not a letter or word with a number after it; expected {known}"
    try:
        policy(words, size=224, mean=(0.5, 0.5, 0.5), interpolation="bilinear")
    except (AssertionError, ValueError, TypeError) as error:
        reason = f" ({error})" if str(error) else ""
        return f"timm does not know {words!r}{reason}; expected {known}"
    return None
