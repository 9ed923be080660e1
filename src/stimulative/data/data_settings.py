"""The settings of a data set, and what can be wrong with them."""

import difflib
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

from stimulative.data.augmentation import auto_augment_problem
from stimulative.data.tokens import BYTES

NATIVE_SIZE = {"digits": 8, "cifar10": 32, "cifar100": 32}
"""Side in pixels of the small-image sets."""

NATIVE_CLASSES = {"digits": 10, "cifar10": 10, "cifar100": 100}
"""Number of classes of the small-image sets."""

FOLDER = "folder:"
FAKE = "fake"
TEXT = "text:"
PYDOC = "pydoc"
KNOWN = (*NATIVE_SIZE, FOLDER + "PATH", FAKE, PYDOC, TEXT + "PATH")

DEFAULT_LENGTH = 128
"""Tokens of a sequence."""

RESIZED_ONLY = ("evaluation_image_size", "color_jitter", "lighting", "auto_augment")
"""Settings that the small-image sets do not have: their images stay as they are on the device."""

_OF_BOTH = ("name", "batch_size", "evaluation_batch_size", "validation", "workers")
_OF_TEXT = ("length", "tokenizer")


@dataclass(frozen=True)
class DataSettings:
    """Which images or texts to train on, and how they are fed.

    Args:
        name: The data set: `digits` (scikit-learn's, built in), `cifar10`, `cifar100`, `folder:PATH` with
            one folder of images per class in `PATH/train` and `PATH/val`, or `fake`: images made up on the fly, to
            try a recipe without its data, which are prepared like those of `folder:PATH`. For language models `pydoc`
            (the manual pages on the language that come with Python) or `text:PATH` with text files (.txt), a document
            a file, in `PATH/train` and `PATH/val`.
        path: For CIFAR only: where torchvision keeps it and downloads it to (`$STIMULATIVE_DATA`, else
            `~/.cache/stimulative`, if not given), or a folder of Parquet files as Hugging Face lays them out
            (`train-*.parquet`, `test-*.parquet`).
        classes: Number of classes; null is as many as the data set has, and another number than that is an error.
            `fake` has as many as it is told, 10 if null.
        images: For `fake`: training images; a quarter as many are held out, half as many are tested on. Null is
            2,000, 500 and 1,000, or an image of every class where that is more.
        length: For text: tokens of a sequence, 128 if null. Documents are cut into sequences of so many, and a
            document's last one is padded.
        tokenizer: For text: `bytes`, which needs nothing and has 257 tokens, or the path of a `tokenizer.json` or of a
            folder in which Transformers saved a tokenizer.
        batch_size: Images or sequences per training step and device.
        evaluation_batch_size: Images or sequences per batch where nothing is trained. Sequences of a vocabulary of tens
            of thousands want few: each has that many logits for each of its tokens.
        image_size: Side of the square training image in pixels, for `folder:PATH` (224 if not given) and `fake` (32).
            The other sets keep their own size.
        evaluation_image_size: For `folder:PATH` and `fake`: side where nothing is trained; null is `image_size`.
        crop_padding: Zero pixels put around a training image before a random crop of its own size; 0 turns
            this augmentation off. `folder:PATH` and `fake` crop randomly in scale and shape instead.
        flip: Mirror training images left to right, each with probability 1/2.
        color_jitter: For `folder:PATH` and `fake`: brightness, contrast and saturation of training images are
            multiplied by factors drawn from 1 minus this to 1 plus this, in random order; 0 turns it off.
        lighting: For `folder:PATH` and `fake`: deviation of the noise along the principal components of ImageNet's
            colours that is added to training images (Krizhevsky et al. 2012: 0.1); 0 turns it off.
        auto_augment: For `folder:PATH` and `fake`: a policy of timm's in its words, such as `rand-m9-mstd0.5`,
            `augmix-m3-w3` or `original`, or `uniform` for UniformAugment; null turns it off.
        mixup: Alpha of the Beta distribution of the share that two training images are mixed by, and their labels
            alike; 0 turns it off. With `cutmix`, too, each batch gets one of them, with probability 1/2.
        cutmix: Alpha of the Beta distribution of the share of a training image that stays when a box of another one is
            put into it, and of its label; 0 turns it off.
        mean: Mean of each channel, from 0 to 1, that is subtracted; null takes ImageNet's for `folder:PATH` and `fake`,
            else that of the training images.
        std: Deviation of each channel, from 0 to 1, that is divided by; null as for the mean.
        crop_ratio: For `folder:PATH` and `fake`: share of an image's shorter side that evaluation crops out of its
            centre.
        interpolation: For `folder:PATH` and `fake`: how images are resized.
        validation: Share of the training images held out to choose the best checkpoint on; every class keeps
            its share. `fake` does not read it. Of text, whole documents with that share of the characters.
        workers: Processes that read and decode images, for `folder:PATH` and `fake`; no more than this
            machine has processors. The small sets live on the device.
    """

    name: str = "digits"
    path: str | None = None
    classes: int | None = None
    images: int | None = None
    length: int | None = None
    tokenizer: str = BYTES
    batch_size: int = 128
    evaluation_batch_size: int = 500
    image_size: int | None = None
    evaluation_image_size: int | None = None
    crop_padding: int = 4
    flip: bool = True
    color_jitter: float = 0.0
    lighting: float = 0.0
    auto_augment: str | None = None
    mixup: float = 0.0
    cutmix: float = 0.0
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    crop_ratio: float = 0.875
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    validation: float = 0.1
    workers: int = 4

    @property
    def folder(self) -> str | None:
        """The PATH of `folder:PATH`; None for every other data set."""
        return self.name.removeprefix(FOLDER) if self.name.startswith(FOLDER) else None

    @property
    def text_folder(self) -> str | None:
        """The PATH of `text:PATH`; None for every other data set."""
        return self.name.removeprefix(TEXT) if self.name.startswith(TEXT) else None

    @property
    def is_text(self) -> bool:
        """Whether these are texts for a language model, and not images."""
        return self.name == PYDOC or self.text_folder is not None

    @property
    def resized(self) -> bool:
        """Whether images are cropped, resized and augmented one by one, as those of `folder:PATH` and `fake` are."""
        return self.name == FAKE or self.folder is not None

    def problems(self) -> list[str]:
        """Everything that cannot be used as given, found without touching a file.

        Returns:
            One sentence per problem, each starting with the key it is about. Empty if all is well.
        """
        found = [
            self._name_problem(),
            self._path_problem(),
            self._classes_problem(),
            self._images_problem(),
            self._image_size_problem(),
            *self._small_set_problems(),
            *self._other_kind_problems(),
            None if self.length is None else _whole_number_problem("length", self.length, least=1),
        ]
        found += [
            _whole_number_problem("batch_size", self.batch_size, least=1),
            _whole_number_problem("evaluation_batch_size", self.evaluation_batch_size, least=1),
            self._crop_padding_problem(),
            self._normalisation_problem(),
            self._resizing_problem(),
            self._evaluation_image_size_problem(),
            *self._augmentation_problems(),
            _whole_number_problem("workers", self.workers, least=0),
        ]
        if not isinstance(self.flip, bool):
            found.append(f"data.flip: expected true or false, got {self.flip!r}")
        if not _is_number(self.validation) or not 0 < self.validation < 1:
            found.append(
                "data.validation: expected a share above 0 and below 1 (the best checkpoint is chosen on "
                f"this part of the training images), got {self.validation!r}"
            )
        return [problem for problem in found if problem]

    def _name_problem(self) -> str | None:
        if self.name in NATIVE_SIZE or self.name in (FAKE, PYDOC) or self.folder or self.text_folder:
            return None
        if self.text_folder == "":
            return "data.name: 'text:' needs the path of a folder with train/ and val/, as in text:PATH"
        if self.folder == "":
            return "data.name: 'folder:' needs the path of a folder with train/ and val/, as in folder:PATH"
        near = difflib.get_close_matches(str(self.name).lower(), KNOWN, n=1)
        hint = f"; did you mean '{near[0]}'?" if near else ""
        return f"data.name: unknown data set {self.name!r}; known: {', '.join(KNOWN)}{hint}"

    def _path_problem(self) -> str | None:
        if self.path is None or self.name in ("cifar10", "cifar100") or self.is_text:
            return None
        if self.name == "text":
            return f"data.path: a folder of texts is given in the name, as data.name: text:{self.path}"
        if self.name == "folder":
            return f"data.path: a folder of images is given in the name, as data.name: folder:{self.path}"
        return f"data.path: only cifar10 and cifar100 are read from a path, got {self.path!r} for {self.name!r}"

    def _classes_problem(self) -> str | None:
        if self.classes is None or self.is_text:
            return None
        native = NATIVE_CLASSES.get(self.name)
        if native is not None and self.classes != native:
            return f"data.classes: {self.name} has {native} classes, got {self.classes!r}; leave it out"
        return _whole_number_problem("classes", self.classes, least=2)

    def _images_problem(self) -> str | None:
        if self.images is None or self.is_text:
            return None
        if self.name != FAKE:
            return f"data.images: only fake makes as many images as it is told, got {self.images!r} for {self.name!r}"
        return _whole_number_problem("images", self.images, least=1)

    def _small_set_problems(self) -> list[str]:
        """Settings that only sets with resized images have, given for another one."""
        if self.resized or self.name not in NATIVE_SIZE:
            return []
        defaults = {field.name: field.default for field in fields(self)}
        return [
            f"data.{key}: only images of folder:PATH and fake are prepared so, got {getattr(self, key)!r} for "
            f"{self.name!r}; leave it out"
            for key in RESIZED_ONLY
            if getattr(self, key) != defaults[key]
        ]

    def _other_kind_problems(self) -> list[str]:
        """Settings of images given for text, and the reverse."""
        kind = "images" if self.is_text else "texts (pydoc, text:PATH)"
        return [
            f"data.{key}: a setting of {kind}, got {getattr(self, key)!r} for {self.name!r}; leave it out"
            for key, default in (defaults_of_images() if self.is_text else defaults_of_text()).items()
            if getattr(self, key) != default
        ]

    def _image_size_problem(self) -> str | None:
        if self.image_size is None or self.is_text:
            return None
        native = NATIVE_SIZE.get(self.name)
        if native is not None and self.image_size != native:
            return (
                f"data.image_size: images of {self.name} are {native} pixels wide and are not resized, "
                f"got {self.image_size!r}; leave it out"
            )
        return _whole_number_problem("image_size", self.image_size, least=1)

    def _normalisation_problem(self) -> str | None:
        if (self.mean is None) != (self.std is None):
            return "data.mean: mean and std go together; give both, or neither"
        if self.mean is None or self.std is None or self.is_text:
            return None
        if self.resized and (len(self.mean), len(self.std)) != (3, 3):
            return (
                f"data.mean: folder:PATH and fake have 3 channels, got mean {list(self.mean)} and std {list(self.std)}"
            )
        if len(self.mean) != len(self.std):
            return f"data.mean: mean and std have a number for each channel, got {list(self.mean)} and {list(self.std)}"
        if not all(0 <= mean <= 1 for mean in self.mean):
            return f"data.mean: pixels are counted from 0 to 1, got {list(self.mean)}"
        if not all(0 < std <= 1 for std in self.std):
            return f"data.std: pixels are counted from 0 to 1 and divided by it, got {list(self.std)}"
        return None

    def _resizing_problem(self) -> str | None:
        if not _is_number(self.crop_ratio) or not 0 < self.crop_ratio <= 1:
            return f"data.crop_ratio: expected a share above 0 and up to 1, got {self.crop_ratio!r}"
        known = get_args(type(self).__annotations__["interpolation"])
        if self.interpolation not in known:
            return f"data.interpolation: expected one of {', '.join(known)}, got {self.interpolation!r}"
        return None

    def _evaluation_image_size_problem(self) -> str | None:
        if self.evaluation_image_size is None or not self.resized:
            return None
        return _whole_number_problem("evaluation_image_size", self.evaluation_image_size, least=1)

    def _augmentation_problems(self) -> list[str]:
        found = [
            f"data.{key}: expected a number of at least 0, got {value!r}"
            for key in ("color_jitter", "lighting", "mixup", "cutmix")
            if not _is_number(value := getattr(self, key)) or not 0 <= value < float("inf")
        ]
        problem = None if self.auto_augment is None else auto_augment_problem(self.auto_augment)
        return [*found, f"data.auto_augment: {problem}"] if problem else found

    def _crop_padding_problem(self) -> str | None:
        native = NATIVE_SIZE.get(self.name)
        problem = _whole_number_problem("crop_padding", self.crop_padding, least=0)
        if problem is None and native is not None and self.crop_padding >= native:
            return (
                f"data.crop_padding: must be less than the {native} pixels of an image of {self.name}, or a "
                f"crop may miss the image, got {self.crop_padding}"
            )
        return problem


def defaults_of_text() -> dict[str, Any]:
    """The settings that only texts have, with their defaults."""
    return {field.name: field.default for field in fields(DataSettings) if field.name in _OF_TEXT}


def defaults_of_images() -> dict[str, Any]:
    """The settings that only images have, with their defaults."""
    return {field.name: field.default for field in fields(DataSettings) if field.name not in (*_OF_BOTH, *_OF_TEXT)}


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _whole_number_problem(key: str, value: object, *, least: int) -> str | None:
    if isinstance(value, int) and not isinstance(value, bool) and value >= least:
        return None
    return f"data.{key}: expected a whole number of at least {least}, got {value!r}"
