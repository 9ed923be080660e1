"""What all images have in common: their classes, their normalisation, and that training batches may be mixed."""

from abc import abstractmethod
from dataclasses import dataclass

from stimulative.data.dataset import ImageData
from stimulative.data.kind import KindSettings, Opening
from stimulative.data.mixing import with_mixing


@dataclass(frozen=True)
class ImageSettings(KindSettings):
    """Settings of images.

    Args:
        classes: Number of classes; None for as many as there are.
        image_size: Side of the square training image in pixels; None for the usual one.
        flip: Mirror half of the training images.
        mixup: Alpha of mixup; 0 for none.
        cutmix: Alpha of CutMix; 0 for none.
        mean: Mean of each channel, from 0 to 1; None for the usual one.
        std: Deviation of each channel, likewise.
    """

    task = "images"

    classes: int | None
    image_size: int | None
    flip: bool
    mixup: float
    cutmix: float
    mean: tuple[float, ...] | None
    std: tuple[float, ...] | None

    def open(self, opening: Opening) -> ImageData:
        """Open the images."""
        return with_mixing(self.unmixed(opening), mixup=self.mixup, cutmix=self.cutmix, seed=opening.seed)

    @abstractmethod
    def unmixed(self, opening: Opening) -> ImageData:
        """Open the images, each for itself."""
