"""UniformAugment in 31 levels, as the run of Stimulative Training++ that reached 81.0 % on ImageNet has it.

Two operations are drawn uniformly of 14, with replacement. Each is applied with probability 1/2, at one of 31 levels
that is drawn uniformly, too. LingChen et al., UniformAugment, 2020 (arXiv 2003.14348), draw magnitudes and
probabilities from continuous ranges, and invert pixels where this leaves them as they are: the policy `uniform`.

Known of the authors' code: the 14 operations hold identity and not invert, the 31 levels, the probability, translations
by up to 10 pixels, and posterising that keeps 4 to 8 bits. Ours is what it leaves open: the other operations and all
other ranges are those of torchvision's RandAugment (Cubuk et al., 2020, arXiv 1909.13719), in which geometric
operations and changes of colour go either way with probability 1/2; empty pixels get the mean colour.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

LEVELS = 31
DRAWN = 2
PROBABILITY = 0.5

_SHEAR = 0.3  # pixels per pixel
_TRANSLATION = 10  # pixels
_ROTATION = 30.0  # degrees
_CHANGE = 0.9  # as a share
_LEAST_BITS, _ALL_BITS = 4, 8


@dataclass(frozen=True)
class Warp:
    """How geometric operations make new pixels.

    Args:
        resample: Pillow's resampling filter.
        fill: Red, green and blue of empty pixels, from 0 to 255.
    """

    resample: Any
    fill: tuple[int, ...]

    def affine(self, image: Any, coefficients: tuple[float, ...]) -> Any:
        """The image whose pixel at (x, y) is the old one's at (a x + b y + c, d x + e y + f)."""
        from PIL import Image

        return image.transform(
            image.size, Image.Transform.AFFINE, coefficients, resample=self.resample, fillcolor=self.fill
        )


Operation = Callable[[Any, float, Warp], Any]
"""From PIL's image, the level as a share of the highest one and a geometry to an image of the same size. Where the
operation has two directions, the share is negative for the other one."""


def _enhanced(enhancer: str) -> Operation:
    def operation(image: Any, share: float, warp: Warp) -> Any:
        from PIL import ImageEnhance

        return getattr(ImageEnhance, enhancer)(image).enhance(1 + _CHANGE * share)

    return operation


def _posterized(image: Any, share: float, warp: Warp) -> Any:
    from PIL import ImageOps

    return ImageOps.posterize(image, _ALL_BITS - round((_ALL_BITS - _LEAST_BITS) * share))


def _solarized(image: Any, share: float, warp: Warp) -> Any:
    from PIL import ImageOps

    # a threshold of pixels from 0 to 255 that starts at the brightest one: at the lowest level 255 becomes 0
    return ImageOps.solarize(image, 255 * (1 - share))  # pyright: ignore[reportArgumentType]


def _plain(operation: str) -> Operation:
    def applied(image: Any, share: float, warp: Warp) -> Any:
        from PIL import ImageOps

        return getattr(ImageOps, operation)(image)

    return applied


TWO_WAY: Mapping[str, Operation] = {
    "shear_x": lambda image, share, warp: warp.affine(image, (1, _SHEAR * share, 0, 0, 1, 0)),
    "shear_y": lambda image, share, warp: warp.affine(image, (1, 0, 0, _SHEAR * share, 1, 0)),
    # whole pixels, rounded towards none
    "translate_x": lambda image, share, warp: warp.affine(image, (1, 0, int(_TRANSLATION * share), 0, 1, 0)),
    "translate_y": lambda image, share, warp: warp.affine(image, (1, 0, 0, 0, 1, int(_TRANSLATION * share))),
    "rotate": lambda image, share, warp: image.rotate(_ROTATION * share, resample=warp.resample, fillcolor=warp.fill),
    "brightness": _enhanced("Brightness"),
    "color": _enhanced("Color"),
    "contrast": _enhanced("Contrast"),
    "sharpness": _enhanced("Sharpness"),
}
"""The operations that have two directions."""

ONE_WAY: Mapping[str, Operation] = {
    "identity": lambda image, share, warp: image,
    "posterize": _posterized,
    "solarize": _solarized,
    "auto_contrast": _plain("autocontrast"),
    "equalize": _plain("equalize"),
}
"""Those that have one, or none."""

OPERATIONS: Mapping[str, Operation] = {**TWO_WAY, **ONE_WAY}


@dataclass(frozen=True)
class UniformLevels:
    """The policy: from PIL's RGB to another image of its size. Draws from the global generator of PyTorch.

    Args:
        warp: How geometric operations make new pixels.
    """

    warp: Warp

    def __call__(self, image: Any) -> Any:
        """Apply two operations, each half of the time."""
        names = tuple(OPERATIONS)
        for _ in range(DRAWN):
            name = names[int(torch.randint(len(names), ()))]
            level = int(torch.randint(LEVELS, ()))
            applied, other_way = (torch.rand(2) < PROBABILITY).tolist()
            if applied:
                image = self.apply(image, name, -level if other_way and name in TWO_WAY else level)
        return image

    def apply(self, image: Any, name: str, level: int) -> Any:
        """Apply one operation.

        Args:
            image: PIL's RGB.
            name: One of `OPERATIONS`.
            level: From 0 to 30; negative for the other direction.
        """
        return OPERATIONS[name](image, level / (LEVELS - 1), self.warp)
