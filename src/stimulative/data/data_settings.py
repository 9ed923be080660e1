"""The settings of a data set as a recipe has them, flat, and which of them belong to which kind of data."""

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from typing import Any

from stimulative.data.augmentation import CROP_ASPECT, CROP_SCALE
from stimulative.data.cifar import CifarSettings
from stimulative.data.digits import DigitsSettings
from stimulative.data.fake import FAKE, FakeSettings
from stimulative.data.folder import FOLDER, FolderSettings
from stimulative.data.kind import KindSettings
from stimulative.data.label_lists import MULTILABEL, LabelListSettings
from stimulative.data.masks import SEGMENTATION, MaskSettings
from stimulative.data.own_data import OwnSettings
from stimulative.data.resized_images import ResizedSettings
from stimulative.data.sentences import SENTENCES, SentenceSettings
from stimulative.data.shards import SHARDS, ShardSettings
from stimulative.data.texts import PYDOC, TEXT, TextSettings
from stimulative.data.tokens import BYTES
from stimulative.data.value_checks import CHECKS, Interpolation, LightingScale, value_problems
from stimulative.errors import UsageError
from stimulative.extension import is_own
from stimulative.naming import did_you_mean, nearest
from stimulative.tasks import TaskName

_NAMED: Mapping[str, type[KindSettings]] = {
    "digits": DigitsSettings,
    "cifar10": CifarSettings,
    "cifar100": CifarSettings,
    FAKE: FakeSettings,
    PYDOC: TextSettings,
}
_IN_FOLDERS: Mapping[str, type[KindSettings]] = {
    FOLDER: FolderSettings,
    MULTILABEL: LabelListSettings,
    SEGMENTATION: MaskSettings,
    SENTENCES: SentenceSettings,
    SHARDS: ShardSettings,
    TEXT: TextSettings,
}
_KINDS = {*_NAMED.values(), *_IN_FOLDERS.values()}

KNOWN = (
    *("digits", "cifar10", "cifar100", FOLDER + "PATH", FAKE, MULTILABEL + "PATH", SEGMENTATION + "PATH"),
    SHARDS + "PATTERN",
    *(PYDOC, TEXT + "PATH", SENTENCES + "PATH"),
)

_TOLD_FIRST = ("name", "path", "classes", "images", "image_size")
_OF_ONE = {
    "path": "only cifar10 and cifar100 are read from a path, got {}",
    "images": "only fake makes as many images as it is told, got {}",
    "test_shards": "only wds:PATTERN has shards to test on, got {}; leave it out",
    "train_images": "only digits, cifar10, cifar100, folder:PATH and wds:PATTERN read it, got {}; leave it out",
    "streams": "only wds:PATTERN has shards to read from in turn, got {}; leave it out",
    "arguments": "only a data set of your own (package.module:name) takes arguments, got {}; leave it out",
}
_OF_RESIZED = "only images of folder:PATH and fake are prepared so, got {}; leave it out"


@dataclass(frozen=True)
class DataSettings:
    """Which images or texts to train on, and how they are fed.

    Args:
        name: The data set: `digits` (scikit-learn's, built in), `cifar10`, `cifar100`, `folder:PATH` with
            one folder of images per class in `PATH/train` and `PATH/val`, or `fake`: images made up on the fly, to
            try a recipe without its data, which are prepared like those of `folder:PATH`. Prepared alike, too, are
            `multilabel:PATH`, images of which each has any number of labels, listed in `PATH/train.csv` and
            `PATH/val.csv` (file and labels, `a.jpg,cat|dog`; or a column of 0 and 1 for each label), and
            `segmentation:PATH`, with the class of each pixel in masks beside the images (`PATH/train/images`,
            `PATH/train/masks`, `PATH/val/...`; 255 is no class), and `wds:PATTERN`, images in shards, tar files as
            WebDataset has them, such as `wds:imagenet/train-{000..146}.tar`, with `test_shards`. For language models
            `pydoc` (the manual pages on the language that come with Python) or `text:PATH` with text files (.txt), a
            document a file, in `PATH/train` and `PATH/val`. For sentence encoders `sentences:PATH`, texts without
            labels, a line each in `PATH/train.txt` and `PATH/val.txt`. Or `package.module:name`: a function of your own
            that gets these settings and returns a `Data`, most simply what `from_loaders` gives.
        path: For CIFAR only: where torchvision keeps it and downloads it to (`$STIMULATIVE_DATA`, else
            `~/.cache/stimulative`, if not given), or a folder of Parquet files as Hugging Face lays them out
            (`train-*.parquet`, `test-*.parquet`).
        classes: Number of classes; null is as many as the data set has, and another number than that is an error.
            `fake` has as many as it is told, 10 if null.
        images: For `fake`: training images; a quarter as many are held out, half as many are tested on. Null is
            2,000, 500 and 1,000, or an image of every class where that is more.
        test_shards: For `wds:PATTERN`: the shards to test on, such as `imagenet/val-{000..006}.tar`.
        train_images: For `digits`, CIFAR and `folder:PATH`: train on so many of the training images, those held out
            included; of every class its share, and always the same ones, whatever the seed. Null is all of them. For
            `wds:PATTERN`: how many images the shards to train on have to hold; another number is an error.
        streams: For `wds:PATTERN`: how many shards training images are read from in turn. Several processes whose
            number divides it read from different shards.
        length: For text: tokens of a sequence, 128 if null. Documents are cut into sequences of so many, and a
            document's last one is padded. Of `sentences:PATH` the most tokens of a text; what is longer is cut off.
        tokenizer: For text: `bytes`, which needs nothing and has 257 tokens, or the path of a `tokenizer.json` or of a
            folder in which Transformers saved a tokenizer.
        batch_size: Images or sequences per training step, of all devices together: each takes an equal share, so that
            a recipe trains alike on any number of devices that divides it.
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
        lighting_scale: For `folder:PATH` and `fake`: what that noise is added to: `unit`, pixels from 0 to 1, for which
            it is meant, or `bytes`, pixels from 0 to 255, rounded towards 0, as in the published code of stimulative
            training. At 0.1 that hardly lights: half of the time a channel is one level of 255 darker.
        crop_scale: For `folder:PATH` and `fake`: least and greatest share of an image's area that a training image is
            cropped from, drawn anew each time; [1, 1] crops nothing but what `crop_aspect` asks for.
        crop_aspect: For `folder:PATH` and `fake`: least and greatest width of that crop as a multiple of its height,
            before it is resized to a square; [1, 1] keeps shapes as they are.
        auto_augment: For `folder:PATH` and `fake`: a policy of timm's in its words, such as `rand-m9-mstd0.5`,
            `augmix-m3-w3` or `original`; `uniform` for UniformAugment; `uniform-levels` for what Stimulative Training++
            makes of it (31 levels of strength, after `color_jitter` and the `lighting` of bytes, where all other
            policies come before them); null turns it off.
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
            its share. `fake` does not read it. Of text, whole documents with that share of the characters; of
            `sentences:PATH` that share of the lines.
        workers: Processes that read and decode images, for `folder:PATH` and `fake`; no more than this
            machine has processors. The small sets live on the device.
        arguments: For `package.module:name`: further keyword arguments of the function. It also gets `seed`, `device`,
            `rank` and `world_size`, if it takes them, and of the other settings here it reads what it likes. Its
            `batch_size` is that of one process.
    """

    name: str = "digits"
    path: str | None = None
    classes: int | None = None
    images: int | None = None
    test_shards: str | None = None
    train_images: int | None = None
    streams: int = 16
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
    lighting_scale: LightingScale = "unit"
    crop_scale: tuple[float, float] = CROP_SCALE
    crop_aspect: tuple[float, float] = CROP_ASPECT
    auto_augment: str | None = None
    mixup: float = 0.0
    cutmix: float = 0.0
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    crop_ratio: float = 0.875
    interpolation: Interpolation = "bilinear"
    validation: float = 0.1
    workers: int = 4
    arguments: Mapping[str, Any] = field(default_factory=dict)

    @property
    def folder(self) -> str | None:
        """The PATH of `folder:PATH`; None for every other data set."""
        return self.name.removeprefix(FOLDER) if self.name.startswith(FOLDER) else None

    @property
    def text_folder(self) -> str | None:
        """The PATH of `text:PATH`; None for every other data set."""
        return self.name.removeprefix(TEXT) if self.name.startswith(TEXT) else None

    @property
    def task(self) -> TaskName | None:
        """What they are for, as far as the name tells: None for a data set of one's own, which tells when opened."""
        kind = kind_named(self.name)
        return "images" if kind is None else kind.task

    @property
    def is_text(self) -> bool:
        """Whether these are texts for a language model by their name, and not images."""
        return self.task == "text"

    @property
    def takes_tokens(self) -> bool:
        """Whether a tokenizer makes what a model takes."""
        kind = kind_named(self.name)
        return kind is not None and kind is not OwnSettings and "tokenizer" in kind.keys()  # noqa: SIM118

    @property
    def is_own(self) -> bool:
        """Whether the user's own code makes them."""
        return kind_named(self.name) is OwnSettings

    @property
    def resized(self) -> bool:
        """Whether images are cropped, resized and augmented one by one, as those of `folder:PATH` and `fake` are."""
        return issubclass(kind_named(self.name) or KindSettings, ResizedSettings)

    @property
    def kind(self) -> KindSettings:
        """What they say to the data that the name stands for.

        Raises:
            UsageError: If there are no such data.
        """
        kind = kind_named(self.name)
        if kind is None:
            raise UsageError(_unknown(self.name))
        return kind.of(self)

    def problems(self) -> list[str]:
        """Everything that cannot be used as given, found without touching a file.

        Returns:
            One sentence per problem, each starting with the key it is about. Empty if all is well.
        """
        kind = kind_named(self.name)
        strange: dict[str, str] = {}
        if kind is None:
            found = {**value_problems(self, CHECKS), "name": _unknown(self.name)}
            if self.path is not None and f"{self.name}:" in _IN_FOLDERS:
                what = "texts" if f"{self.name}:" in (TEXT, SENTENCES) else "images"
                found["path"] = (
                    f"data.path: a folder of {what} is given in the name, as data.name: {self.name}:{self.path}"
                )
        else:
            given = {key: getattr(self, key) for key in foreign_to(self.name)}
            strange = {
                key: _foreign_problem(key, f"{given[key]!r} for {self.name!r}", kind)
                for key, default in foreign_to(self.name).items()
                if given[key] != default
            }
            found = {**value_problems(self, kind.accepted), **self.kind.problems(), **strange}
        if kind is OwnSettings and "name" in found:
            start, _, rest = self.name.partition(":")
            near = [f"{known}{rest}" for known in _IN_FOLDERS if nearest(start, [known])]
            found["name"] += did_you_mean(self.name, near)
        order = dict.fromkeys((*_TOLD_FIRST, *strange, *CHECKS, *found))
        return [found[key] for key in order if key in found]


def kind_named(name: str) -> type[KindSettings] | None:
    """What kind of data a name stands for; None if there are no such data."""
    if name in _NAMED:
        return _NAMED[name]
    start, colon, _ = name.partition(":")
    return _IN_FOLDERS.get(start + colon) or (OwnSettings if is_own(name) else None)


def foreign_to(name: str) -> Mapping[str, object]:
    """The settings that are not for the data of a name, with their defaults; none if there are no such data."""
    kind = kind_named(name)
    if kind is None:
        return {}
    own = {*kind.keys(), *kind.accepted}
    return {one.name: _default(one) for one in fields(DataSettings) if one.name not in own}


def _default(one: Any) -> Any:
    return one.default if one.default_factory is MISSING else one.default_factory()


def _foreign_problem(key: str, got: str, kind: type[KindSettings]) -> str:
    """Why a setting is refused that is for other data than these."""
    tasks = {other.task for other in _KINDS if key in other.keys()}  # noqa: SIM118, it is no mapping
    if key != "arguments" and kind.task not in tasks:
        whose = "texts (pydoc, text:PATH, sentences:PATH)" if tasks <= {"text", "embedding"} else "images"
        return f"data.{key}: a setting of {whose}, got {got}; leave it out"
    return f"data.{key}: {_OF_ONE.get(key, _OF_RESIZED).format(got)}"


def _unknown(name: str) -> str:
    hint = did_you_mean(name.lower(), KNOWN)
    if ":" in name and not hint:
        hint = "; a data set of your own is written 'package.module:name'"
    return f"data.name: unknown data set {name!r}; known: {', '.join(KNOWN)}{hint}"
