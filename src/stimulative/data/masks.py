"""Images and the class of each of their pixels: folders of images and of masks.

`PATH/train/images/NAME.jpg` and `PATH/train/masks/NAME.png`, and the same in `PATH/val`. A mask is an image of one
channel, or with a palette, whose values are the numbers of classes; 255 counts as none. Their names are the lines of
`PATH/classes.txt`, if there is one. Images and masks are cropped, resized and mirrored together, masks by their nearest
pixel; validation and test are measured at the size that the net sees.
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stimulative.data import fingerprints
from stimulative.data.augmentation import Preparation, channels_of
from stimulative.data.folder import FOLDER_SIZE, names_in
from stimulative.data.image_files import read_rgb, size_of
from stimulative.data.images import Transform
from stimulative.data.resized_images import ImageSource, ResizedSettings
from stimulative.data.split import hold_out_any
from stimulative.errors import UsageError
from stimulative.files import regular, user_path

SEGMENTATION = "segmentation:"
NO_CLASS = 255

_TRAIN, _TEST, _NAMES = "train", "val", "classes.txt"


@dataclass(frozen=True)
class MaskSettings(ResizedSettings):
    """Settings of images with masks.

    Args:
        validation: Share of the training images held out.
    """

    task = "segmentation"

    validation: float

    def problems(self) -> dict[str, str]:
        """What cannot be used as given, by key."""
        found = super().problems()
        if self.name == SEGMENTATION:
            found["name"] = f"data.name: '{SEGMENTATION}' needs the path of a folder with {_TRAIN}/ and {_TEST}/"
        if self.lighting_scale == "bytes":
            found["lighting_scale"] = "data.lighting_scale: bytes is not for images with masks, got 'bytes'; use unit"
        for key in ("mixup", "cutmix", "auto_augment"):
            if getattr(self, key):
                found[key] = f"data.{key}: is not for images with masks, got {getattr(self, key)!r}; leave it out"
        return found

    def source(self, seed: int) -> ImageSource:
        """List the files, and find out how many classes there are."""
        root = user_path(self.name.removeprefix(SEGMENTATION))
        train, test = MaskedImages.find(root / _TRAIN), MaskedImages.find(root / _TEST)
        names = _class_names(root, train, self.classes)
        training, validation = hold_out_any(len(train), self.validation, seed=seed)
        fingerprint = fingerprints.of_split(str(root), train, test)
        return ImageSource(names, self.image_size or FOLDER_SIZE, train, training, validation, test, fingerprint)

    def augmentation(self, size: int, mean: tuple[float, ...]) -> Transform:
        """What is done to training images and their masks."""
        from torchvision.transforms import v2

        steps: list[Any] = [
            v2.RandomResizedCrop(
                size,
                scale=self.crop_scale,
                ratio=self.crop_aspect,
                interpolation=v2.InterpolationMode(self.interpolation),
                antialias=True,
            )
        ]
        if self.flip:
            steps.append(v2.RandomHorizontalFlip())
        if self.color_jitter:
            steps.append(v2.ColorJitter(*(self.color_jitter,) * 3))
        return partial(_together, v2.Compose(steps))

    def prepared(self, preparation: Preparation) -> Transform:
        """What is done to images and masks that nothing is trained on."""
        from torchvision.transforms import v2

        mode = v2.InterpolationMode(preparation.interpolation)
        resize = v2.Resize(preparation.resize, interpolation=mode, antialias=preparation.antialias)
        return partial(_together, v2.Compose([resize, v2.CenterCrop(preparation.crop)]))


@dataclass(frozen=True)
class MaskedImages:
    """The images of one split, and their masks.

    Args:
        images: Their files.
        masks: The files of their masks.
    """

    images: tuple[str, ...]
    masks: tuple[str, ...]

    @classmethod
    def find(cls, split: Path) -> "MaskedImages":
        """List the images of a split.

        Raises:
            UsageError: If a folder is missing or empty, or an image has no mask.
        """
        from torchvision.datasets.folder import IMG_EXTENSIONS

        for folder in (split / "images", split / "masks"):
            if not folder.is_dir():
                raise UsageError(
                    f"data.name: {folder} is not a folder; expected {split} to hold images/ and masks/, with a mask of "
                    "the same name for each image"
                )
        files = [file for file in sorted((split / "images").iterdir()) if file.suffix.lower() in IMG_EXTENSIONS]
        files = [file for file in files if not file.name.startswith(".")]
        if not files:
            raise UsageError(f"{split / 'images'} is empty; expected files ending in {', '.join(IMG_EXTENSIONS)}")
        masks = {file.stem: file for file in (split / "masks").iterdir() if not file.name.startswith(".")}
        missing = [file.name for file in files if file.stem not in masks]
        if missing:
            raise UsageError(
                f"{split / 'masks'}: {len(missing)} of {len(files)} images have no mask of their name, such as "
                f"{missing[0]}"
            )
        return cls(tuple(map(str, files)), tuple(str(masks[file.stem]) for file in files))

    def __len__(self) -> int:
        return len(self.images)

    def read(self, number: int) -> Any:
        """The image of a number, as PIL's RGB."""
        return read_rgb(self.images[number])

    def target(self, number: int) -> Any:
        """Its mask, the class of each pixel."""
        from torchvision import tv_tensors

        return tv_tensors.Mask(torch.from_numpy(self.classes_of(number)))

    def classes_of(self, number: int) -> np.ndarray:
        """The class of each pixel, int64 (height, width).

        Raises:
            ValueError: If the mask is of another kind or size.
        """
        from PIL import Image

        with Image.open(regular(Path(self.masks[number]))) as mask:
            if mask.mode not in ("L", "P", "1", "I", "I;16"):
                raise ValueError(
                    f"its mask is of mode {mask.mode}, and has to have one channel with numbers of classes"
                )
            values = np.asarray(mask).astype(np.int64)
        width, height = size_of(self.images[number])
        if (height, width) != values.shape:
            raise ValueError(
                f"its mask has {values.shape[1]}x{values.shape[0]} pixels, where the image has {width}x{height}"
            )
        return values

    def origin(self, number: int) -> str:
        """Where the image of a number is from, for messages."""
        return self.images[number]


def _together(transform: Any, image: Any, target: Any) -> tuple[Tensor, Tensor]:
    """An image and its mask, changed alike."""
    image, mask = transform(image, target)
    return channels_of(image), torch.as_tensor(mask).long()


def _class_names(root: Path, train: MaskedImages, classes: int | None) -> tuple[str, ...]:
    """The names of the classes: those of the file, or numbers up to the greatest one in a mask of training."""
    file = root / _NAMES
    if file.exists():
        names = names_in(file)
        if classes not in (None, len(names)):
            raise UsageError(f"data.classes: {file} has {len(names)} classes, got {classes}; leave it out")
    elif classes is not None:
        names = tuple(map(str, range(classes)))
    else:
        names = tuple(map(str, range(_greatest(train) + 1)))
    if len(names) < 2:
        raise UsageError(
            f"{root} has {len(names)} class in its masks; there have to be 2 or more, the background one of them"
        )
    return names


def _greatest(train: MaskedImages) -> int:
    """The greatest class in the masks of training."""
    greatest = 0
    for number in range(len(train)):
        try:
            values = train.classes_of(number)
        except (ValueError, OSError) as error:
            raise UsageError(f"{train.origin(number)} cannot be used: {error}") from error
        known = values[values != NO_CLASS]
        greatest = max(greatest, int(known.max(initial=0)))
    return greatest
