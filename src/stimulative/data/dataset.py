"""A data set, opened."""

from dataclasses import dataclass

from stimulative.data.loader import Loader


@dataclass(frozen=True)
class Data:
    """A data set, opened: its loaders and what a model and a report need to know of it.

    Args:
        name: The name it was opened by.
        classes: Number of classes.
        class_names: Their names, in the order of the labels.
        channels: Channels of an image.
        image_size: Side of the square training image in pixels.
        evaluation_image_size: Side of the square validation and test images in pixels.
        mean: Mean of each channel on the scale 0..1, subtracted from the images. Empty if unknown, which
            it is for loaders of one's own.
        std: Standard deviation of each channel on the scale 0..1, which the images are divided by. Empty if
            unknown.
        train: Training images, shuffled and augmented. The last batch is dropped if it is incomplete, unless
            it is the only one.
        validation: Training images held out, not augmented; to choose checkpoints on.
        test: The test split; read when first used.
        calibration: Training images that are not held out, shuffled and augmented as for training, the same
            in every pass; to recalibrate BatchNorm on.
    """

    name: str
    classes: int
    class_names: tuple[str, ...]
    channels: int
    image_size: int
    evaluation_image_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    train: Loader
    validation: Loader
    test: Loader
    calibration: Loader
