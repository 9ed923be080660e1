"""What is done to photographs: one image at a time, by the processes that read them.

A training image is cropped in random scale and shape, mirrored, put through a policy, jittered in colour and lit, each
if asked, in this order; the policy `uniform-levels` comes last. An evaluation image is resized and its centre cut out.

Sources:
    Random crop in scale and shape: Szegedy et al., Going Deeper with Convolutions, 2015 (torchvision's defaults).
    Lighting: Krizhevsky, Sutskever, Hinton, ImageNet Classification with Deep CNNs, 2012, section 4.1.
    Policies: timm's; `uniform` is LingChen et al., UniformAugment, 2020 (arXiv 2003.14348), `uniform-levels` what
        Stimulative Training++ makes of it (`uniform_levels.py`).

`uniform` draws two operations uniformly, with replacement. Each is applied with a probability that is itself drawn
uniformly from 0 to 1, and with a magnitude drawn uniformly from the operation's whole range. A coin whose probability
is drawn anew for every toss is a fair coin, so timm's RandAugment with probability 1/2 and uniform magnitudes is the
same distribution. The operations and their ranges are those of Fast AutoAugment (arXiv 1905.00397), except that there
is no cutout and no pairing of samples, and that posterising keeps 4 to 7 bits.

Lighting is meant for pixels from 0 to 1, to which it is added here (`unit`). The published code of stimulative
training adds the same numbers to pixels from 0 to 255 and rounds towards 0 (`bytes`). Its noise, of deviation 0.1,
moves a channel by 0.013 levels, so that what remains is the rounding: where a channel's noise is negative, which is
half of the time, each of its values above 0 loses one level; where it is positive, nothing changes.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Self

import torch
from torch import Tensor

from stimulative.data.uniform_levels import UniformLevels, Warp
from stimulative.records import Record

UNIFORM = "uniform"
UNIFORM_LEVELS = "uniform-levels"

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
    byte_lighting: float = 0.0,
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
        byte_lighting: Deviation of the lighting noise that is added to pixels from 0 to 255; 0 for none.
        auto_augment: A policy in timm's words, `uniform` or `uniform-levels`.
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
    colours: list[Any] = []
    if color_jitter:
        colours.append(v2.ColorJitter(brightness=color_jitter, contrast=color_jitter, saturation=color_jitter))
    if byte_lighting:
        colours.append(partial(_lit, byte_lighting))
    changed: list[Any] = []
    if auto_augment is not None:
        changed.append(policy(auto_augment, size=size, mean=mean, interpolation=interpolation))
    steps += [*colours, *changed] if auto_augment == UNIFORM_LEVELS else [*changed, *colours]
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


def _lit(deviation: float, image: Any) -> Any:
    return lit_bytes(image, lighting_noise(deviation))


def lit_bytes(image: Any, noise: Tensor) -> Any:
    """An image whose channels are shifted on the scale 0..255, cut off there, and rounded towards 0.

    Args:
        image: PIL's RGB.
        noise: What is added to its red, green and blue, (3,).
    """
    shifted = torch.arange(256, dtype=torch.float64) + noise.double()[:, None]
    return image.point(shifted.clamp(0, 255).to(torch.uint8).flatten().tolist())


def policy(words: str, *, size: int, mean: tuple[float, ...], interpolation: str) -> Callable[[Any], Any]:
    """A policy from PIL image to PIL image, in timm's words, `uniform` or `uniform-levels`.

    Args:
        words: Its words, that `auto_augment_problem` finds no fault with.
        size: Side of the image in pixels.
        mean: Mean of each channel from 0 to 1, which empty pixels are filled with.
        interpolation: How images are transformed.
    """
    from PIL import Image
    from timm.data import auto_augment as timm_augment

    fill = tuple(min(255, round(255 * channel)) for channel in mean)
    resample = Image.Resampling[interpolation.upper()]
    if words == UNIFORM_LEVELS:
        return UniformLevels(Warp(resample, fill))
    settings: dict[str, Any] = {
        "translate_const": int(size * _TRANSLATION),
        "translate_pct": _TRANSLATION,
        "img_mean": fill,
        "interpolation": resample,
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
    known = f"{UNIFORM}, {UNIFORM_LEVELS}, or timm's words, such as rand-m9-mstd0.5, augmix-m3-w3, original"
    if not isinstance(words, str):
        return f"expected {known}, got {words!r}"
    if words in (UNIFORM, UNIFORM_LEVELS):
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
