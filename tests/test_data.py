"""The data room: what loaders give, that epochs replay, and what is said about data that cannot be used."""

import dataclasses
import inspect
import io
import json
import random
import urllib.error
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pytest
import torch
from PIL import Image
from pyarrow import parquet
from torch import Tensor
from torch.nn.functional import pad
from torch.utils.data import DataLoader, DistributedSampler, IterableDataset, TensorDataset

from stimulative.data import Data, DataSettings, ImageData, Loader, TextData, from_loaders, generator_for, load
from stimulative.data.augmentation import auto_augment_problem, lighting_noise, policy
from stimulative.data.batches import LazyLoader
from stimulative.data.fake import FakeImages
from stimulative.data.images import IMAGENET_MEAN, IMAGENET_STD
from stimulative.data.pixels import Normalisation, Pixels, PixelStore, Views, augmented_views, plain_views
from stimulative.data.split import hold_out
from stimulative.errors import UsageError

CPU = torch.device("cpu")


def epoch(loader: Loader, number: int = 0) -> tuple[Tensor, Tensor]:
    """All images and labels of an epoch."""
    loader.set_epoch(number)
    batches = list(loader)
    assert len(batches) == len(loader)
    x, y = torch.cat([x for x, _ in batches]), torch.cat([y for _, y in batches])
    assert len(x) == len(y) == loader.images
    return x, y


def same(first: tuple[Tensor, Tensor], second: tuple[Tensor, Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def as_rows(images: Tensor) -> list[bytes]:
    """Images as values that can be sorted and counted."""
    return sorted(image.numpy().tobytes() for image in images)


# Settings


def test_default_settings_have_no_problem():
    assert DataSettings().problems() == []


def test_every_setting_is_explained_for_the_command_line():
    explained = inspect.getdoc(DataSettings) or ""
    for field in dataclasses.fields(DataSettings):
        assert f"\n    {field.name}: " in explained


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "cifar99"}, "data set 'cifar99'; known: digits, cifar10, cifar100, folder:PATH, fake"),
        ({"name": "digit"}, "did you mean 'digits'?"),
        ({"name": "CIFAR10"}, "did you mean 'cifar10'?"),
        ({"name": "folder"}, "did you mean 'folder:PATH'?"),
        ({"name": "folder:"}, "data.name: 'folder:' needs the path"),
        ({"path": "somewhere"}, "data.path: only cifar10 and cifar100 are read from a path, got 'somewhere'"),
        ({"name": "folder", "path": "pets"}, "data.path: a folder of images is given in the name, as"),
        ({"name": "folder", "path": "pets"}, "as data.name: folder:pets"),
        ({"batch_size": 0}, "data.batch_size: expected a whole number of at least 1, got 0"),
        ({"batch_size": True}, "data.batch_size: expected a whole number of at least 1, got True"),
        ({"evaluation_batch_size": 2.5}, "data.evaluation_batch_size: expected a whole number"),
        ({"image_size": 64}, "data.image_size: images of digits are 8 pixels wide and are not resized"),
        ({"name": "folder:x", "image_size": 0}, "data.image_size: expected a whole number of at least 1"),
        ({"crop_padding": -1}, "data.crop_padding: expected a whole number of at least 0, got -1"),
        ({"crop_padding": 8}, "data.crop_padding: must be less than the 8 pixels of an image of digits"),
        ({"flip": "yes"}, "data.flip: expected true or false, got 'yes'"),
        ({"validation": 0.0}, "data.validation: expected a share above 0 and below 1"),
        ({"validation": float("nan")}, "data.validation: expected a share above 0 and below 1"),
        ({"workers": -2}, "data.workers: expected a whole number of at least 0, got -2"),
        ({"classes": 12}, "data.classes: digits has 10 classes, got 12; leave it out"),
        ({"name": "cifar100", "classes": 10}, "data.classes: cifar100 has 100 classes, got 10"),
        ({"name": "fake", "classes": 1}, "data.classes: expected a whole number of at least 2, got 1"),
        ({"images": 8}, "data.images: only fake makes as many images as it is told, got 8 for 'digits'"),
        ({"name": "fake", "images": 0}, "data.images: expected a whole number of at least 1, got 0"),
        ({"name": "fake", "path": "x"}, "data.path: only cifar10 and cifar100 are read from a path"),
        ({"color_jitter": 0.4}, "data.color_jitter: only images of folder:PATH and fake are prepared so, got 0.4"),
        ({"name": "cifar10", "lighting": 0.1}, "data.lighting: only images of folder:PATH and fake"),
        ({"name": "cifar10", "auto_augment": "uniform"}, "data.auto_augment: only images of folder:PATH and fake"),
        ({"evaluation_image_size": 8}, "data.evaluation_image_size: only images of folder:PATH and fake"),
        ({"name": "fake", "evaluation_image_size": 0}, "data.evaluation_image_size: expected a whole number of at"),
        ({"name": "fake", "color_jitter": -0.1}, "data.color_jitter: expected a number of at least 0, got -0.1"),
        ({"name": "cifar10", "lighting_scale": "bytes"}, "data.lighting_scale: only images of folder:PATH and fake"),
        ({"name": "fake", "lighting_scale": "byte"}, "data.lighting_scale: expected one of unit, bytes, got 'byte'"),
        ({"name": "fake", "lighting": float("nan")}, "data.lighting: expected a number of at least 0, got nan"),
        ({"name": "fake", "auto_augment": "magic"}, "data.auto_augment: timm does not know 'magic'"),
    ],
)  # fmt: skip
def test_impossible_settings_are_named_with_their_key(settings: dict[str, Any], message: str):
    problems = DataSettings(**settings).problems()
    assert any(message in problem for problem in problems)
    assert all(problem.startswith("data.") for problem in problems)


def test_all_problems_are_reported_together():
    with pytest.raises(UsageError) as error:
        load(DataSettings(name="mnist", batch_size=0, validation=2), seed=0)
    message = str(error.value)
    assert len(message.splitlines()) == 3
    for key in ("data.name", "data.batch_size", "data.validation"):
        assert key in message


def test_each_kind_has_the_settings_that_it_reads_and_no_others():
    names = ("digits", "cifar10", "folder:x", "fake", "pydoc", "wds:x")
    keys = {name: set(DataSettings(name).kind.keys()) for name in names}
    assert set.union(*keys.values()) | {"arguments"} == {field.name for field in dataclasses.fields(DataSettings)}
    assert set.intersection(*keys.values()) == {"name", "batch_size", "evaluation_batch_size"}
    assert keys["cifar10"] - keys["digits"] == {"path"}
    assert (keys["folder:x"] - keys["fake"], keys["fake"] - keys["folder:x"]) == (
        {"train_images", "validation"},
        {"images"},
    )
    assert keys["pydoc"] - keys["digits"] == {"length", "tokenizer"}
    assert keys["wds:x"] - keys["folder:x"] == {"test_shards", "streams"}
    assert DataSettings("fake", length=-1).kind.problems() == {}  # that is no business of made-up images
    with pytest.raises(UsageError, match="unknown data set 'mnist'"):
        _ = DataSettings("mnist").kind


def test_what_a_recipe_may_have_for_other_data_does_not_count_but_has_to_be_possible():
    assert DataSettings("digits", crop_ratio=0.5, interpolation="bicubic", workers=0).problems() == []
    assert DataSettings("fake", crop_padding=40, validation=0.3).problems() == []
    assert DataSettings("pydoc", workers=0).problems() == []
    (problem,) = DataSettings("digits", crop_ratio=2).problems()
    assert problem == "data.crop_ratio: expected a share above 0 and up to 1, got 2"


def test_models_are_told_of_images_what_they_need_and_of_texts_less():
    images, texts = load(DataSettings(), seed=0), load(DataSettings("pydoc", length=16), seed=0)
    assert (images.sizes, texts.sizes) == ({"classes": 10, "channels": 1}, {"classes": 257})
    assert (isinstance(images, ImageData), isinstance(texts, TextData)) == (True, True)
    assert all(isinstance(data, Data) for data in (images, texts))
    for missing in ("channels", "image_size", "mean"):
        assert not hasattr(texts, missing)
    assert not hasattr(images, "length")


# Digits, and what all small-image sets share


PLAIN = DataSettings(crop_padding=0, flip=False)


def test_digits_are_all_there_and_normalised():
    data = load(PLAIN, seed=0)
    assert (data.name, data.classes, data.channels, data.image_size) == ("digits", 10, 1, 8)
    assert data.class_names == tuple("0123456789")
    assert data.calibration.images + data.validation.images + data.test.images == 1797

    everything = torch.cat([epoch(data.calibration)[0], epoch(data.validation)[0]])
    assert everything.dtype == torch.float32
    assert everything.mean().abs() < 1e-5
    assert abs(everything.std(correction=0) - 1) < 1e-5
    grey = everything * data.std[0] + data.mean[0]
    assert grey.min().abs() < 1e-6
    assert (grey.max() - 1).abs() < 1e-6
    assert len((grey * 255).round().unique()) == 17


def test_the_splits_hold_different_images_and_every_class_in_its_share():
    data = load(PLAIN, seed=3)
    parts = {name: epoch(getattr(data, name)) for name in ("train", "calibration", "validation", "test")}
    rows = {name: set(as_rows(x)) for name, (x, _) in parts.items()}
    assert rows["train"] <= rows["calibration"]
    assert rows["validation"].isdisjoint(rows["calibration"])
    assert rows["test"].isdisjoint(rows["calibration"] | rows["validation"])
    for _, labels in parts.values():
        assert labels.dtype == torch.int64
        share = labels.bincount(minlength=10) / len(labels)
        assert share.min() > 0.085
        assert share.max() < 0.115


def test_the_test_split_is_the_same_for_every_seed_and_the_validation_part_is_not():
    first, second = load(PLAIN, seed=0), load(PLAIN, seed=1)
    assert same(epoch(first.test), epoch(second.test))
    assert not same(epoch(first.validation), epoch(second.validation))
    assert same(epoch(first.validation), epoch(load(PLAIN, seed=0).validation))


def test_the_test_split_is_read_only_when_it_is_used():
    data = load(PLAIN, seed=0)
    epoch(data.train)
    epoch(data.validation)
    assert isinstance(data.test, LazyLoader)
    assert not data.test.built
    assert data.test.images == 899
    assert data.test.built


def test_an_epoch_shows_every_training_image_once_in_a_new_order():
    data = load(dataclasses.replace(PLAIN, batch_size=1), seed=0)
    first, second = epoch(data.train, 0), epoch(data.train, 1)
    assert not same(first, second)
    assert as_rows(first[0]) == as_rows(second[0]) == as_rows(epoch(data.calibration)[0])


def test_an_epoch_depends_only_on_the_seed_and_its_number():
    settings = DataSettings(crop_padding=1)
    once, again = load(settings, seed=5), load(settings, seed=5)
    wanted = [epoch(once.train, number) for number in range(3)]
    for number in (2, 0, 0, 1):
        assert same(epoch(again.train, number), wanted[number])
    assert not same(wanted[0], wanted[1])
    assert not same(epoch(load(settings, seed=6).train, 0), wanted[0])


def test_the_global_random_state_is_neither_read_nor_changed():
    torch.manual_seed(1)
    wanted = epoch(load(DataSettings(), seed=0).train)
    torch.manual_seed(2)
    before = torch.get_rng_state()
    assert same(epoch(load(DataSettings(), seed=0).train), wanted)
    assert torch.equal(torch.get_rng_state(), before)


def test_calibration_images_are_augmented_as_for_training_and_the_same_in_every_pass():
    padding = 2
    data = load(DataSettings(crop_padding=padding, flip=True, evaluation_batch_size=100), seed=0)
    images, labels = epoch(data.calibration, 0)
    assert same((images, labels), epoch(data.calibration, 7))
    assert data.calibration.images % 100 != 0
    assert len(labels[:100].unique()) == 10
    assert not torch.equal(labels, labels.sort().values)

    unmoved = epoch(load(PLAIN, seed=0).calibration)[0]
    black = Normalisation(data.mean, data.std, CPU)(torch.zeros(1, 1, 1, 1, dtype=torch.uint8)).item()
    padded = pad(unmoved, (padding,) * 4, value=black)
    views = {
        row
        for top in range(2 * padding + 1)
        for left in range(2 * padding + 1)
        for view in (padded[..., top : top + 8, left : left + 8],)
        for row in (*as_rows(view), *as_rows(view.flip(-1)))
    }
    rows = as_rows(images)
    assert views.issuperset(rows)
    assert len(set(rows) & set(as_rows(unmoved))) < len(rows) / 10
    assert not same((images, labels), epoch(load(DataSettings(crop_padding=padding), seed=1).calibration))


@pytest.mark.parametrize(("batch_size", "batches", "images"), [(300, 2, 600), (808, 1, 808), (5000, 1, 808)])
def test_an_incomplete_last_batch_is_dropped_unless_it_is_the_only_one(batch_size: int, batches: int, images: int):
    train = load(DataSettings(batch_size=batch_size), seed=0).train
    assert (len(train), train.images) == (batches, images)
    epoch(train)


def test_processes_share_an_epoch_without_overlap():
    whole = load(DataSettings(batch_size=64, crop_padding=2), seed=0).train
    parts = [
        load(DataSettings(batch_size=64, crop_padding=2), seed=0, rank=rank, world_size=2).train for rank in (0, 1)
    ]
    for loader in (whole, *parts):
        loader.set_epoch(4)
    assert len(whole) == len(parts[0]) == len(parts[1]) == 12
    for together, first, second in zip(whole, *parts, strict=True):
        interleaved = [torch.stack(pair, dim=1).flatten(0, 1) for pair in zip(first, second, strict=True)]
        assert same(together, (interleaved[0], interleaved[1]))


def test_a_rank_that_cannot_be_is_refused():
    with pytest.raises(UsageError, match="rank must be from 0 to world_size - 1 = 1, got 2"):
        load(DataSettings(), seed=0, rank=2, world_size=2)
    with pytest.raises(UsageError, match="808 training images cannot be shared among 2000 processes"):
        load(DataSettings(batch_size=2000), seed=0, rank=0, world_size=2000)


# Augmentation on the device


def random_store(padding: int, normalisation: Normalisation) -> tuple[Tensor, PixelStore]:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (40, 3, 6, 6), generator=generator, dtype=torch.uint8)
    pixels = Pixels(images, torch.arange(40))
    return images, PixelStore.of(pixels, padding=padding, normalisation=normalisation, device=CPU)


def cropped_one_by_one(images: Tensor, views: Views, padding: int) -> Tensor:
    """The plain way: pad, cut and mirror each image on its own."""
    result = []
    for image, top, left, mirrored in zip(*(values.tolist() for values in views), strict=True):
        padded = torch.zeros(3, 6 + 2 * padding, 6 + 2 * padding, dtype=torch.uint8)
        padded[:, padding : padding + 6, padding : padding + 6] = images[image]
        crop = padded[:, top : top + 6, left : left + 6]
        result.append(crop.flip(-1) if mirrored else crop)
    return torch.stack(result)


@pytest.mark.parametrize("padding", [0, 1, 4])
def test_one_gather_crops_and_mirrors_like_the_plain_way(padding: int):
    raw_bytes = Normalisation((0.0,) * 3, (1 / 255,) * 3, CPU)
    images, store = random_store(padding, raw_bytes)
    generator = torch.Generator().manual_seed(1)
    views = augmented_views(torch.arange(40), padding=padding, flip=True, generator=generator)
    x, y = store.batch(views)
    assert torch.equal(x, cropped_one_by_one(images, views, padding).float())
    assert torch.equal(y, views.image)
    assert not torch.equal(x, images[views.image].float())


def test_normalisation_is_by_channel_on_the_scale_of_0_to_1():
    mean, std = (0.5, 0.25, 0.1), (0.2, 0.3, 0.4)
    images, store = random_store(2, Normalisation(mean, std, CPU))
    x, _ = store.batch(plain_views(torch.arange(40), padding=2))
    wanted = (images.double() / 255 - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    torch.testing.assert_close(x.double(), wanted, rtol=0, atol=1e-6)


def test_crops_reach_every_offset_and_half_the_images_are_mirrored():
    generator = torch.Generator().manual_seed(0)
    views = augmented_views(torch.arange(5000), padding=2, flip=True, generator=generator)
    for offsets in (views.top, views.left):
        counts = offsets.bincount(minlength=5)
        assert len(counts) == 5
        assert counts.min() > 900
    assert 2350 < int(views.mirrored.sum()) < 2650
    assert torch.equal(views.image.sort().values, torch.arange(5000))
    plain = augmented_views(torch.arange(5000), padding=2, flip=False, generator=generator)
    assert not plain.mirrored.any()


def test_random_numbers_of_neighbouring_seeds_and_epochs_are_unrelated():
    draws = [
        torch.randperm(50, generator=generator_for(seed, f"training epoch {number}")).tolist()
        for seed in range(4)
        for number in range(4)
    ]
    assert len({tuple(draw) for draw in draws}) == 16


# The held out part


def test_a_class_with_one_image_cannot_be_split():
    with pytest.raises(UsageError, match=r"class 'cat' has 1 training image; .* at least 2 in every class"):
        hold_out(np.array([0] * 30 + [1]), 0.5, seed=0, class_names=("dog", "cat"))


def test_a_share_that_leaves_out_classes_is_refused_with_the_possible_range():
    labels = np.arange(10).repeat(4)
    message = r"0.1 of 40 training images leaves 4 to hold out, .* 10 classes; allowed here: 0.25 to 0.75"
    with pytest.raises(UsageError, match=message):
        hold_out(labels, 0.1, seed=0, class_names=tuple("abcdefghij"))
    with pytest.raises(UsageError, match="leaves 4 to train on"):
        hold_out(labels, 0.9, seed=0, class_names=tuple("abcdefghij"))
    training, held = hold_out(labels, 0.25, seed=0, class_names=tuple("abcdefghij"))
    assert sorted([*training, *held]) == list(range(40))
    assert np.bincount(labels[held]).tolist() == [1] * 10


# CIFAR by torchvision


class FakeCifar:
    """Stands for torchvision's class: complete only after a download."""

    url = "https://example.org/cifar.tar.gz"
    requests: list[tuple[str, bool, bool]]
    failure: Exception | None = None

    def __init__(self, root: str, train: bool, download: bool) -> None:
        self.requests.append((root, train, download))
        marker = Path(root) / "complete"
        if download:
            if self.failure is not None:
                raise self.failure
            marker.touch()
        if not marker.exists():
            raise RuntimeError("Dataset not found or corrupted.")
        count = 200 if train else 50
        rng = np.random.default_rng(count)
        self.data = rng.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
        self.targets = [number % 10 for number in range(count)]
        self.classes = [f"class {number}" for number in range(10)]


@pytest.fixture
def fake_cifar(monkeypatch: pytest.MonkeyPatch) -> type[FakeCifar]:
    fake = type("Fake", (FakeCifar,), {"requests": []})
    monkeypatch.setattr("torchvision.datasets.CIFAR10", fake)
    return fake


def test_cifar_is_downloaded_once_and_its_test_split_read_at_the_end(fake_cifar: type[FakeCifar], tmp_path: Path):
    root = tmp_path / "new"
    settings = DataSettings(name="cifar10", path=str(root), crop_padding=0, flip=False)
    data = load(settings, seed=0)
    assert fake_cifar.requests == [(str(root), True, False), (str(root), True, True)]
    assert (data.channels, data.image_size, data.classes) == (3, 32, 10)
    assert data.class_names[3] == "class 3"

    expected = fake_cifar(str(root), train=False, download=False)
    x, y = epoch(data.test)
    assert fake_cifar.requests[2:] == [(str(root), False, False)] * 2
    shown = (x * torch.tensor(data.std).view(3, 1, 1) + torch.tensor(data.mean).view(3, 1, 1)) * 255
    assert torch.equal(shown.round().byte(), torch.from_numpy(expected.data).permute(0, 3, 1, 2))
    assert y.tolist() == expected.targets


def test_cifar_goes_to_the_named_cache(fake_cifar: type[FakeCifar], tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("STIMULATIVE_DATA", str(tmp_path / "cache"))
    load(DataSettings(name="cifar10"), seed=0)
    monkeypatch.delenv("STIMULATIVE_DATA")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    load(DataSettings(name="cifar10"), seed=0)
    roots = [root for root, _, download in fake_cifar.requests if download]
    assert roots == [str(tmp_path / "cache"), str(tmp_path / "home" / ".cache" / "stimulative")]


@pytest.mark.parametrize(
    "failure", [urllib.error.URLError("no route to host"), RuntimeError("File not found or corrupted.")]
)
def test_without_network_it_is_said_what_to_do(fake_cifar: type[FakeCifar], tmp_path: Path, failure: Exception):
    fake_cifar.failure = failure
    with pytest.raises(UsageError) as error:
        load(DataSettings(name="cifar10", path=str(tmp_path)), seed=0)
    message = str(error.value)
    for part in (str(failure), str(tmp_path), fake_cifar.url, "by hand", "data.path", "train-*.parquet"):
        assert part in message


def test_a_file_is_no_place_for_cifar(tmp_path: Path):
    file = tmp_path / "cifar.zip"
    file.touch()
    with pytest.raises(UsageError, match=r"data.path: .*cifar.zip is a file; expected the folder"):
        load(DataSettings(name="cifar10", path=str(file)), seed=0)


# CIFAR from Parquet files


def encoded(image: np.ndarray, kind: str = "PNG", mode: str = "RGB") -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).convert(mode).save(file, kind)
    return file.getvalue()


def random_images(count: int, seed: int, side: int = 32) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, side, side, 3), dtype=np.uint8)


def write_parquet(
    file: Path,
    images: Sequence[bytes | None],
    labels: list[int],
    *,
    image_column: str = "img",
    label_column: str = "label",
    names: list[str] | None = None,
    plain: bool = False,
) -> None:
    cells: list[Any] = list(images) if plain else [{"bytes": content, "path": None} for content in images]
    table = pyarrow.table({image_column: cells, "other": labels, label_column: labels})
    if names is not None:
        features = {label_column: {"names": names, "_type": "ClassLabel"}}
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    file.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(table, file)


LABELS = [number % 10 for number in range(60)]


def write_cifar(root: Path, **options: Any) -> np.ndarray:
    """A tiny CIFAR-10: 60 training images in two files, 20 test images. Returns the training images."""
    images = random_images(60, seed=0)
    contents = [encoded(image) for image in images]
    write_parquet(root / "train-00000-of-00002.parquet", contents[:40], LABELS[:40], **options)
    write_parquet(root / "train-00001-of-00002.parquet", contents[40:], LABELS[40:], **options)
    write_parquet(root / "test-00000-of-00001.parquet", contents[:20], LABELS[:20], **options)
    return images


def open_cifar(root: Path, name: str = "cifar10") -> Data:
    return load(DataSettings(name=name, path=str(root), validation=0.5, crop_padding=0, flip=False), seed=0)


def shown_bytes(data: Data, images: Tensor) -> Tensor:
    """Back from normalised images to bytes, (images, height, width, channels)."""
    scaled = images * torch.tensor(data.std).view(3, 1, 1) + torch.tensor(data.mean).view(3, 1, 1)
    return (scaled * 255).round().byte().permute(0, 2, 3, 1)


@pytest.mark.parametrize(
    "options",
    [{}, {"image_column": "image"}, {"plain": True}, {"names": [f"class {number}" for number in range(10)]}],
    ids=["img", "image", "plain bytes", "names"],
)
def test_parquet_images_arrive_as_they_are(tmp_path: Path, options: dict[str, Any]):
    images = write_cifar(tmp_path, **options)
    data = open_cifar(tmp_path)
    x, y = epoch(data.test)
    assert np.array_equal(shown_bytes(data, x).numpy(), images[:20])
    assert y.tolist() == LABELS[:20]

    x = torch.cat([epoch(data.calibration)[0], epoch(data.validation)[0]])
    assert as_rows(shown_bytes(data, x)) == as_rows(torch.from_numpy(images))
    np.testing.assert_allclose(data.mean, images.mean((0, 1, 2)) / 255, rtol=1e-9)
    np.testing.assert_allclose(data.std, images.std((0, 1, 2)) / 255, rtol=1e-9)
    assert data.class_names[7] == ("class 7" if "names" in options else "7")


def test_parquet_files_may_lie_in_one_subfolder_but_not_in_two(tmp_path: Path):
    write_cifar(tmp_path / "plain_text")
    assert open_cifar(tmp_path).test.images == 20
    write_cifar(tmp_path / "other")
    with pytest.raises(UsageError, match=r"several folders in .* hold Parquet files \(other, plain_text\)"):
        open_cifar(tmp_path)


def test_fine_labels_are_read_for_cifar100(tmp_path: Path):
    images = [encoded(image) for image in random_images(200, seed=0)]
    for split in ("train", "test"):
        file = tmp_path / f"{split}-00000-of-00001.parquet"
        write_parquet(file, images, [number % 100 for number in range(200)], label_column="fine_label")
    data = open_cifar(tmp_path, "cifar100")
    assert data.classes == 100
    assert epoch(data.test)[1].tolist() == [number % 100 for number in range(200)]


def test_grey_and_jpeg_images_in_parquet_become_rgb(tmp_path: Path):
    write_cifar(tmp_path)
    grey = np.full((32, 32, 3), 77, dtype=np.uint8)
    contents = [encoded(grey, mode="L"), encoded(grey, kind="JPEG")] * 10
    write_parquet(tmp_path / "test-00000-of-00001.parquet", contents, LABELS[:20])
    data = open_cifar(tmp_path)
    assert shown_bytes(data, epoch(data.test)[0]).unique().tolist() == [77]


def damage(contents: list[bytes | None]) -> list[bytes | None]:
    good = contents[7]
    assert good is not None
    contents[7] = good[:200] + bytes(len(good) - 200)
    return contents


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (damage, r"train-00001-of-00002.parquet, row 7 \(counting from 0\): the image cannot be read"),
        (lambda c: [b"no image", *c[1:]], r"row 0 \(counting from 0\): the image cannot be read"),
        (lambda c: [*c[:3], None, *c[4:]], r"row 3 \(counting from 0\): holds no image bytes"),
        (
            lambda c: [*c[:5], encoded(random_images(1, 0, side=28)[0]), *c[6:]],
            r"row 5 .*is 28x28, expected 32x32",
        ),
    ],
    ids=["damaged", "not an image", "missing", "wrong size"],
)
def test_an_image_that_cannot_be_used_is_named_by_file_and_row(
    tmp_path: Path, change: Callable[[list[bytes | None]], list[bytes | None]], message: str
):
    images = write_cifar(tmp_path)
    contents = change([encoded(image) for image in images[40:]])
    write_parquet(tmp_path / "train-00001-of-00002.parquet", contents, LABELS[40:])
    with pytest.raises(UsageError, match=message):
        open_cifar(tmp_path)


def test_parquet_files_of_something_else_are_refused(tmp_path: Path):
    write_cifar(tmp_path, names=["cat", "dog"])
    with pytest.raises(UsageError, match=r"has 2 classes \(cat, dog\), but cifar10 has 10"):
        open_cifar(tmp_path)

    write_cifar(tmp_path, label_column="species")
    with pytest.raises(UsageError, match="has no column of classes; expected label, got img, other, species"):
        open_cifar(tmp_path)

    write_cifar(tmp_path, image_column="picture")
    with pytest.raises(UsageError, match="has no column of images; expected img or image, got picture"):
        open_cifar(tmp_path)

    images = write_cifar(tmp_path)
    contents: list[bytes | None] = [encoded(image) for image in images[:20]]
    write_parquet(tmp_path / "train-00000-of-00002.parquet", contents, [*LABELS[:19], 10])
    with pytest.raises(UsageError, match=r"row 19 .*class 10 is not one of the 10 classes of cifar10, 0 to 9"):
        open_cifar(tmp_path)

    (tmp_path / "train-00000-of-00002.parquet").write_bytes(b"nothing of the kind")
    with pytest.raises(UsageError, match=r"train-00000-of-00002.parquet cannot be read as a Parquet file"):
        open_cifar(tmp_path)


def test_a_missing_test_split_is_noticed_at_once(tmp_path: Path):
    write_cifar(tmp_path)
    (tmp_path / "test-00000-of-00001.parquet").unlink()
    with pytest.raises(UsageError, match=r"holds no test-\*.parquet; got train-00000-of-00002.parquet"):
        open_cifar(tmp_path)


# Folders of images


COLOURS = {"apple": (200, 30, 40), "pear": (60, 180, 20)}


def write_folder(root: Path, per_class: int = 8) -> Path:
    """Noisy images of two classes in `train/` and `val/`, of several sizes."""
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for name, colour in COLOURS.items():
            folder = root / split / name
            folder.mkdir(parents=True)
            for number in range(per_class):
                noise = rng.integers(-20, 20, (30 + number, 40 - number, 3))
                Image.fromarray((np.array(colour) + noise).astype(np.uint8)).save(folder / f"{number}.png")
    return root


def folder_settings(root: Path, **options: Any) -> DataSettings:
    defaults = {
        "image_size": 16,
        "batch_size": 4,
        "evaluation_batch_size": 5,
        "validation": 0.25,
        "workers": 0,
    }
    return DataSettings(name=f"folder:{root}", **{**defaults, **options})


def test_a_folder_of_images_is_a_data_set(tmp_path: Path):
    data = load(folder_settings(write_folder(tmp_path)), seed=0)
    assert (data.classes, data.class_names, data.channels, data.image_size) == (2, ("apple", "pear"), 3, 16)
    assert data.mean == (0.485, 0.456, 0.406)
    counts = [loader.images for loader in (data.train, data.validation, data.test, data.calibration)]
    assert counts == [12, 4, 16, 12]
    for loader in (data.train, data.validation, data.test, data.calibration):
        x, y = epoch(loader)
        assert x.shape[1:] == (3, 16, 16)
        assert x.dtype == torch.float32
        assert y.dtype == torch.int64
        # Red beats green in apples only: the labels belong to the images.
        red, green, _ = shown_bytes(data, x).float().mean((1, 2)).unbind(1)
        assert torch.equal((red < green).long(), y)
    assert epoch(data.test)[1].tolist() == [0] * 8 + [1] * 8


def test_images_are_224_pixels_wide_unless_said_otherwise(tmp_path: Path):
    data = load(folder_settings(write_folder(tmp_path, per_class=4), image_size=None), seed=0)
    assert data.image_size == 224
    assert next(iter(data.test))[0].shape[1:] == (3, 224, 224)


def test_evaluation_shows_the_centre_of_the_image(tmp_path: Path):
    write_folder(tmp_path)
    picture = np.zeros((256, 512, 3), dtype=np.uint8)
    picture[16:240, 144:368] = 255
    Image.fromarray(picture).save(tmp_path / "val" / "apple" / "0.png")
    data = load(folder_settings(tmp_path, image_size=224), seed=0)
    assert shown_bytes(data, epoch(data.test)[0][:1]).unique().tolist() == [255]


def test_folder_images_are_prepared_as_other_weights_want_them(tmp_path: Path):
    generator = np.random.default_rng(3)
    write_folder(tmp_path)
    picture = Image.fromarray(generator.integers(0, 255, (20, 25, 3), dtype=np.uint8))
    picture.save(tmp_path / "val" / sorted(p.name for p in (tmp_path / "val").iterdir())[0] / "0.png")
    wanted = {"mean": (0.5, 0.5, 0.5), "std": (0.25, 0.5, 0.5), "crop_ratio": 1.0, "interpolation": "bicubic"}
    data = load(folder_settings(tmp_path, image_size=16, **wanted), seed=0)
    assert (data.mean, data.std) == (wanted["mean"], wanted["std"])
    first = next(iter(data.test))[0][0]
    # by hand: the shorter side becomes 16 pixels by Pillow's own cubic filter, then the centre, then (x - mean) / std
    resized = np.asarray(picture.resize((20, 16), Image.Resampling.BICUBIC), dtype=np.float64)
    start = (resized.shape[1] - 16) // 2
    centre = resized[:, start : start + 16].transpose(2, 0, 1) / 255
    by_hand = (centre - 0.5) / np.array([0.25, 0.5, 0.5])[:, None, None]
    assert np.abs(first.numpy() - by_hand).max() < 1e-5


def test_small_images_are_normalised_by_other_numbers_if_asked():
    own, other = (load(DataSettings(**kw), seed=0) for kw in ({}, {"mean": (0.5,), "std": (0.25,)}))
    x, y = next(iter(own.test))[0], next(iter(other.test))[0]
    pixels = x * own.std[0] + own.mean[0]
    assert torch.allclose(y, (pixels - 0.5) / 0.25, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mean": (0.5,)}, "data.mean: mean and std go together"),
        ({"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}, "digits has 1 channels, got 3"),
        ({"name": "folder:x", "mean": (0.5,), "std": (0.5,)}, "folder:PATH and fake have 3 channels"),
        ({"mean": (127.5,), "std": (0.5,)}, "data.mean: pixels are counted from 0 to 1"),
        ({"mean": (0.5,), "std": (0.0,)}, "data.std: pixels are counted from 0 to 1 and divided by it"),
        ({"name": "folder:x", "crop_ratio": 0.0}, "data.crop_ratio: expected a share above 0 and up to 1"),
        ({"name": "folder:x", "interpolation": "cubic"}, "data.interpolation: expected one of bilinear, bicubic"),
    ],
)
def test_images_cannot_be_prepared_in_impossible_ways(options: dict[str, Any], message: str):
    with pytest.raises(UsageError, match=message):
        load(DataSettings(**options), seed=0)


def test_a_folder_has_as_many_classes_as_it_is_said_to_have(tmp_path: Path):
    write_folder(tmp_path)
    assert load(folder_settings(tmp_path, classes=2), seed=0).classes == 2
    with pytest.raises(UsageError, match=r"data\.classes: .* has 2 classes, got 1000; leave it out"):
        load(folder_settings(tmp_path, classes=1000), seed=0)


def test_images_may_be_larger_where_nothing_is_trained(tmp_path: Path):
    write_folder(tmp_path)
    picture = np.zeros((240, 480, 3), dtype=np.uint8)
    picture[8:232, 128:352] = 255
    Image.fromarray(picture).save(tmp_path / "val" / "apple" / "0.png")
    settings = folder_settings(tmp_path, image_size=32, evaluation_image_size=224, crop_ratio=0.9333)
    data = load(settings, seed=0)
    assert (data.image_size, data.evaluation_image_size) == (32, 224)
    for loader, side in ((data.train, 32), (data.calibration, 32), (data.validation, 224), (data.test, 224)):
        assert epoch(loader)[0].shape[1:] == (3, side, side)
    # resized to 240 pixels, which it has, and the centre of 224 of them
    assert shown_bytes(data, epoch(data.test)[0][:1]).unique().tolist() == [255]
    assert load(folder_settings(tmp_path), seed=0).evaluation_image_size == 16


# Augmentation of photographs


def fake_settings(**options: Any) -> DataSettings:
    defaults = {"image_size": 8, "images": 40, "batch_size": 10, "evaluation_batch_size": 10, "workers": 0}
    return DataSettings(name="fake", **{**defaults, **options})


EVERYTHING = {"color_jitter": 0.4, "lighting": 0.1, "auto_augment": "rand-m9-mstd0.5-inc1"}
PUBLISHED = {**EVERYTHING, "lighting_scale": "bytes", "auto_augment": "uniform-levels"}


@pytest.mark.parametrize(
    "options", [EVERYTHING, PUBLISHED, {"auto_augment": "uniform"}, {"auto_augment": "augmix-m3-w2"}]
)
def test_augmented_images_depend_on_seed_and_epoch_but_not_on_workers(options: dict[str, Any]):
    alone, helped = (load(fake_settings(image_size=16, workers=n, **options), seed=0) for n in (0, 2))
    wanted = [epoch(alone.train, number) for number in range(2)]
    for number in (1, 0):
        assert same(epoch(helped.train, number), wanted[number])
    assert not torch.equal(wanted[0][0], wanted[1][0])
    assert same(epoch(helped.calibration, 0), epoch(alone.calibration, 3))
    plain = load(fake_settings(image_size=16), seed=0)
    assert not same(epoch(plain.train), wanted[0])
    assert not same(epoch(plain.calibration), epoch(alone.calibration))
    assert same(epoch(plain.validation), epoch(alone.validation))
    assert same(epoch(plain.test), epoch(alone.test))


@pytest.mark.parametrize("options", [EVERYTHING, PUBLISHED, {**EVERYTHING, "auto_augment": "augmix-m3-w2"}])
def test_augmentation_neither_reads_nor_changes_any_global_random_state(options: dict[str, Any]):
    data = load(fake_settings(**options), seed=0)
    passes = []
    for seed in (1, 2):
        for seed_generator in (random.seed, np.random.seed, torch.manual_seed):
            seed_generator(seed)
        before = random.getstate(), repr(np.random.get_state()), torch.get_rng_state()
        passes.append(epoch(data.train))
        assert random.getstate() == before[0]
        assert repr(np.random.get_state()) == before[1]
        assert torch.equal(torch.get_rng_state(), before[2])
    assert same(*passes)


def test_color_jitter_multiplies_brightness_by_up_to_its_share(tmp_path: Path):
    write_folder(tmp_path, per_class=24)
    for file in tmp_path.rglob("*.png"):
        Image.fromarray(np.full((12, 12, 3), 100, dtype=np.uint8)).save(file)
    # contrast and saturation leave one even grey as it is
    data = load(folder_settings(tmp_path, image_size=8, color_jitter=0.4), seed=0)
    for part in (data.train, data.calibration):
        levels = shown_bytes(data, epoch(part)[0]).flatten(1)
        assert torch.equal(levels.min(1).values, levels.max(1).values)
        assert 60 <= int(levels.min()) < 70
        assert 130 < int(levels.max()) <= 140
    for part in (data.validation, data.test):
        assert shown_bytes(data, epoch(part)[0]).unique().tolist() == [100]


def test_lighting_is_a_sum_of_principal_components_by_hand():
    torch.manual_seed(3)
    a, b, c = (0.1 * torch.randn(3)).double().tolist()
    torch.manual_seed(3)
    red, green, blue = lighting_noise(0.1).tolist()
    assert red == pytest.approx(-0.5675 * 0.2175 * a + 0.7192 * 0.0188 * b + 0.4009 * 0.0045 * c, rel=1e-5)
    assert green == pytest.approx(-0.5808 * 0.2175 * a - 0.0045 * 0.0188 * b - 0.8140 * 0.0045 * c, rel=1e-5)
    assert blue == pytest.approx(-0.5836 * 0.2175 * a - 0.6948 * 0.0188 * b + 0.4203 * 0.0045 * c, rel=1e-5)


def test_lighting_lifts_a_whole_image_and_is_drawn_for_each():
    settings = {"images": 250, "batch_size": 250}
    dark, lit = (load(fake_settings(lighting=lighting, **settings), seed=0) for lighting in (0.0, 0.1))
    (x, y), (shone, z) = epoch(dark.train), epoch(lit.train)
    assert torch.equal(y, z)
    added = (shone - x) * torch.tensor(IMAGENET_STD).view(3, 1, 1)
    assert added.flatten(2).std(-1).max() < 1e-6
    added = added.mean((2, 3)).double()
    components = torch.tensor([[-0.5675, 0.7192, 0.4009], [-0.5808, -0.0045, -0.8140], [-0.5836, -0.6948, 0.4203]])
    strengths = added @ components.double() / torch.tensor([0.2175, 0.0188, 0.0045]).double()
    assert torch.allclose(strengths.std(0), torch.full((3,), 0.1).double(), rtol=0.2)
    assert strengths.mean(0).abs().max() < 0.03
    assert (torch.corrcoef(strengths.T) - torch.eye(3)).abs().max() < 0.25
    assert same(epoch(dark.test), epoch(lit.test))


def test_uniform_augment_applies_half_of_two_uniform_draws_at_uniform_magnitudes():
    chosen = policy("uniform", size=32, mean=IMAGENET_MEAN, interpolation="bilinear")
    applied: list[tuple[str, float]] = []

    def spy(name: str) -> Callable[..., Any]:
        def record(image: Any, *magnitude: float, **options: Any) -> Any:
            applied.append((name, magnitude[0] if magnitude else 0.0))
            return image

        return record

    for operation in chosen.ops:  # pyright: ignore[reportFunctionMemberAccess]
        operation.aug_fn = spy(operation.name)
    random.seed(0)
    np.random.seed(0)
    per_image = []
    for _ in range(6000):
        applied_before = len(applied)
        chosen(None)
        per_image.append(len(applied) - applied_before)
    # two operations, each with a fair coin: none, one or both in 1/4, 1/2, 1/4 of the images
    shares = np.bincount(per_image, minlength=3) / 6000
    assert np.abs(shares - [0.25, 0.5, 0.25]).max() < 0.02
    names = [name for name, _ in applied]
    counts = {name: names.count(name) for name in set(names)}
    assert len(counts) == 14
    assert all(abs(count / len(names) - 1 / 14) < 0.015 for count in counts.values())
    ranges = {"Rotate": (-30, 30), "ShearX": (-0.3, 0.3), "TranslateYRel": (-0.45, 0.45), "Color": (0.1, 1.9)}
    for name, (low, high) in {**ranges, "Solarize": (0, 256)}.items():
        magnitudes = np.array([magnitude for other, magnitude in applied if other == name])
        shares = np.histogram(magnitudes, bins=5, range=(low, high))[0] / len(magnitudes)
        assert shares.sum() == pytest.approx(1)  # none outside
        assert np.abs(shares - 0.2).max() < 0.08
    assert {magnitude for name, magnitude in applied if name == "PosterizeOriginal"} == {4, 5, 6, 7}


@pytest.mark.parametrize(
    "words",
    [
        "uniform",
        "uniform-levels",
        "rand-m9-mstd0.5",
        "rand-m9-n3-mstd0.5-inc1",
        "rand-m7-tweights",
        "augmix-m5-w4-d2",
        "v0",
        "3a",
    ],
)
def test_a_policy_in_timms_words_makes_images_of_the_same_size(words: str):
    assert auto_augment_problem(words) is None
    picture = FakeImages("training", 1, 2, 16).read(0)
    chosen = policy(words, size=16, mean=IMAGENET_MEAN, interpolation="bicubic")
    random.seed(0)
    np.random.seed(0)
    results = [chosen(picture) for _ in range(8)]
    assert all((result.size, result.mode) == ((16, 16), "RGB") for result in results)
    assert any(not np.array_equal(np.asarray(result), np.asarray(picture)) for result in results)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("rand-m9-strong", "'strong' in 'rand-m9-strong' is not a letter or word with a number after it"),
        (
            "rand-q3",
            "timm does not know 'rand-q3' (Unknown RandAugment config section); expected uniform, uniform-levels, or",
        ),
        ("random", "timm does not know 'random'; expected"),
        ("v7", "timm does not know 'v7' (Unknown AA policy v7)"),
        ("", "timm does not know ''"),
        (
            3,
            "expected uniform, uniform-levels, or timm's words, such as rand-m9-mstd0.5, augmix-m3-w3, original, got 3",
        ),
    ],
)
def test_a_policy_that_timm_does_not_know_is_explained(words: object, message: str):
    assert message in (auto_augment_problem(words) or "")


# Images made up on the fly


def test_fake_images_are_as_many_as_they_are_said_to_be():
    data = load(DataSettings(name="fake", workers=0), seed=0)
    assert (data.name, data.classes, data.channels, data.image_size) == ("fake", 10, 3, 32)
    assert (data.calibration.images, data.validation.images, data.test.images) == (2000, 500, 1000)
    assert (data.mean, data.std) == (IMAGENET_MEAN, IMAGENET_STD)
    many = load(DataSettings(name="fake", classes=1500, workers=0), seed=0)
    assert (many.calibration.images, many.validation.images, many.test.images) == (2000, 1500, 1500)
    few = load(fake_settings(images=8, classes=4, batch_size=3), seed=0)
    counts = [loader.images for loader in (few.train, few.validation, few.test, few.calibration)]
    assert counts == [6, 2, 4, 8]
    one = load(fake_settings(images=1), seed=0)
    assert [loader.images for loader in (one.train, one.validation, one.test)] == [1, 1, 1]


def test_fake_images_belong_to_their_number_whatever_the_seed_of_the_run():
    first, second = (load(fake_settings(), seed=seed) for seed in (0, 1))
    assert same(epoch(first.test), epoch(second.test))
    assert same(epoch(first.validation), epoch(second.validation))
    assert not same(epoch(first.train), epoch(second.train))
    assert epoch(first.test)[1].tolist() == [number % 10 for number in range(20)]
    rows = [set(as_rows(epoch(part)[0])) for part in (first.validation, first.test)]
    assert [len(part) for part in rows] == [10, 20]
    assert rows[0].isdisjoint(rows[1])
    larger = load(fake_settings(images=80), seed=0)
    assert torch.equal(epoch(larger.test)[0][:20], epoch(first.test)[0])


def test_an_epoch_of_fake_images_shows_each_class_as_often_and_is_shared_by_processes():
    whole = load(fake_settings(), seed=0)
    x, y = epoch(whole.train, 3)
    assert y.bincount().tolist() == [4] * 10
    assert x.dtype == torch.float32
    parts = [epoch(load(fake_settings(), seed=0, rank=rank, world_size=2).train, 3) for rank in (0, 1)]
    together = [torch.stack(pair, dim=1).flatten(0, 1) for pair in zip(*parts, strict=True)]
    assert same((x, y), (together[0], together[1]))
    with pytest.raises(UsageError, match="40 training images cannot be shared among 50 processes"):
        load(fake_settings(batch_size=50), seed=0, rank=0, world_size=50)


def test_a_linear_classifier_learns_fake_images_from_augmented_ones():
    data = load(fake_settings(images=250, classes=5), seed=0)
    passes = [epoch(data.train, number) for number in range(2)]
    x, y = torch.cat([x for x, _ in passes]).flatten(1), torch.cat([y for _, y in passes])
    gram = x.T @ x + 100 * torch.eye(x.shape[1])
    weights = torch.linalg.solve(gram, x.T @ torch.nn.functional.one_hot(y).float())
    tested, labels = epoch(data.test)
    accuracy = ((tested.flatten(1) @ weights).argmax(1) == labels).float().mean()
    assert accuracy > 0.7  # chance is 0.2


def test_fake_images_are_large_enough_for_what_is_cut_out_of_them():
    settings = fake_settings(image_size=8, evaluation_image_size=20, crop_ratio=0.5, images=2)
    data = load(settings, seed=0)
    pixels = shown_bytes(data, epoch(data.test)[0])[0]
    whole = np.asarray(FakeImages("test", 1, 10, 40).read(0))
    assert np.array_equal(pixels.numpy(), whole[10:30, 10:30])


def test_a_folder_epoch_depends_on_seed_and_epoch_but_not_on_workers(tmp_path: Path):
    write_folder(tmp_path)
    alone = load(folder_settings(tmp_path), seed=0)
    helped = load(folder_settings(tmp_path, workers=2), seed=0)
    wanted = [epoch(alone.train, number) for number in range(2)]
    for number in (1, 0, 0):
        assert same(epoch(helped.train, number), wanted[number])
    assert not torch.equal(wanted[0][0], wanted[1][0])
    assert not same(epoch(load(folder_settings(tmp_path), seed=1).train), wanted[0])
    assert same(epoch(helped.calibration, 0), epoch(alone.calibration, 5))


def test_folder_loaders_leave_the_global_random_state_alone(tmp_path: Path):
    data = load(folder_settings(write_folder(tmp_path)), seed=0)
    torch.manual_seed(123)
    before = torch.get_rng_state()
    epoch(data.train)
    assert torch.equal(torch.get_rng_state(), before)
    epoch(data.validation)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("flip", [True, False])
@pytest.mark.parametrize("part", ["train", "calibration"])
def test_folder_images_are_mirrored_only_if_asked(tmp_path: Path, flip: bool, part: str):
    write_folder(tmp_path, per_class=16)
    ramp = np.broadcast_to(np.linspace(0, 255, 64, dtype=np.uint8)[None, :, None], (64, 64, 3))
    for file in (tmp_path / "train").rglob("*.png"):
        Image.fromarray(ramp).save(file)
    x, _ = epoch(getattr(load(folder_settings(tmp_path, flip=flip), seed=0), part))
    rising = x[..., 8:].mean((1, 2, 3)) > x[..., :8].mean((1, 2, 3))
    assert len(rising) == 24
    if flip:
        assert 5 < int(rising.sum()) < 19
    else:
        assert rising.all()


def test_processes_share_a_folder_without_overlap(tmp_path: Path):
    write_folder(tmp_path)
    whole = epoch(load(folder_settings(tmp_path), seed=0).train)
    parts = [epoch(load(folder_settings(tmp_path, batch_size=2), seed=0, rank=r, world_size=2).train) for r in (0, 1)]
    together = [torch.stack(pair, dim=1).flatten(0, 1) for pair in zip(*parts, strict=True)]
    assert same(whole, (together[0], together[1]))


def test_images_of_every_kind_become_rgb(tmp_path: Path):
    write_folder(tmp_path)
    apples = tmp_path / "val" / "apple"
    grey = np.full((20, 20), 90, dtype=np.uint8)
    for file in apples.iterdir():
        file.unlink()
    Image.fromarray(grey).save(apples / "0.png")
    Image.fromarray(np.stack([grey, grey, grey, np.full_like(grey, 255)], axis=-1), mode=None).save(apples / "1.png")
    Image.fromarray(grey).convert("P").save(apples / "2.png")
    Image.fromarray(grey.astype(np.uint16) * 256).save(apples / "3.png")
    with Image.open(apples / "1.png") as second, Image.open(apples / "3.png") as last:
        assert second.mode == "RGBA"
        assert last.mode.startswith("I")
    data = load(folder_settings(tmp_path), seed=0)
    x, y = epoch(data.test)
    assert shown_bytes(data, x[y == 0]).unique().tolist() == [90]


@pytest.mark.parametrize("workers", [0, 1])
def test_an_unreadable_image_is_named_also_from_a_worker(tmp_path: Path, workers: int):
    write_folder(tmp_path)
    broken = tmp_path / "train" / "pear" / "3.png"
    broken.write_bytes(broken.read_bytes()[:300])
    data = load(folder_settings(tmp_path, workers=workers), seed=0)

    def read_all_training_images() -> None:
        epoch(data.train)
        epoch(data.validation)

    with pytest.raises(UsageError) as error:
        read_all_training_images()
    message = str(error.value)
    assert message.startswith(f"{broken} cannot be read as an image (")
    assert message.endswith("); replace or remove it")
    assert "\n" not in message


def test_a_broken_test_image_is_found_when_the_test_split_is_read(tmp_path: Path):
    write_folder(tmp_path)
    broken = tmp_path / "val" / "apple" / "0.png"
    broken.write_text("not an image")
    data = load(folder_settings(tmp_path), seed=0)
    epoch(data.train)
    with pytest.raises(UsageError, match=r"val/apple/0\.png cannot be read as an image"):
        epoch(data.test)


def remove(path: Path) -> None:
    for file in path.rglob("*.png"):
        file.unlink()
    for folder in sorted([*path.rglob("*"), path], reverse=True):
        folder.rmdir()


def test_a_folder_laid_out_wrongly_is_explained(tmp_path: Path):
    with pytest.raises(UsageError, match=r"train is not a folder; expected .* to hold train/ and val/"):
        load(folder_settings(tmp_path / "nowhere"), seed=0)

    root = write_folder(tmp_path / "images")
    for file in (root / "val" / "pear").iterdir():
        file.unlink()
    with pytest.raises(UsageError, match=r"val: no images in pear; expected files ending in \.jpg"):
        load(folder_settings(root), seed=0)

    (root / "train" / "plum").mkdir()
    remove(root / "val" / "pear")
    message = "must hold the same classes; only in train/: pear, plum; only in val/: none"
    with pytest.raises(UsageError, match=message):
        load(folder_settings(root), seed=0)

    remove(root / "val" / "apple")
    with pytest.raises(UsageError, match="val is empty; expected one folder of images per class"):
        load(folder_settings(root), seed=0)

    remove(root / "val")
    with pytest.raises(UsageError, match="val is not a folder"):
        load(folder_settings(root), seed=0)


def test_a_class_too_small_to_hold_out_from_is_named(tmp_path: Path):
    root = write_folder(tmp_path)
    for number in range(7):
        (root / "train" / "apple" / f"{number}.png").unlink()
    with pytest.raises(UsageError, match="class 'apple' has 1 training image"):
        load(folder_settings(root), seed=0)


# Loaders of one's own


def own_batches(count: int = 3) -> list[tuple[Tensor, Tensor]]:
    return [(torch.full((4, 3, 5, 5), float(n)), torch.tensor([0, 1, 2, 0])) for n in range(count)]


def own_dataset(count: int = 22) -> TensorDataset:
    return TensorDataset(torch.arange(float(count)).view(-1, 1, 1, 1).expand(-1, 3, 6, 6), torch.arange(count) % 3)


def shuffling_loader(seed: int = 0, **options: Any) -> DataLoader:
    return DataLoader(
        own_dataset(), batch_size=4, shuffle=True, generator=torch.Generator().manual_seed(seed), **options
    )


def test_a_list_of_batches_is_enough():
    batches = own_batches()
    data = from_loaders(batches, batches[:1], batches[1:], classes=3)
    assert (data.name, data.classes, data.channels, data.image_size) == ("own", 3, 3, 5)
    assert data.evaluation_image_size == 5
    assert (data.mean, data.std, data.class_names) == ((), (), ("0", "1", "2"))
    assert [len(data.train), len(data.validation), len(data.test)] == [3, 1, 2]
    assert [data.train.images, data.validation.images, data.test.images] == [12, 4, 8]
    assert same(epoch(data.train), (torch.cat([x for x, _ in batches]), torch.cat([y for _, y in batches])))
    assert same(epoch(data.calibration), epoch(data.train))


def test_labels_of_any_whole_type_arrive_as_int64():
    batches = [(x, y.to(torch.uint8)) for x, y in own_batches()]
    data = from_loaders(batches, batches, batches, classes=3)
    assert next(iter(data.train))[1].dtype == torch.int64


def test_batches_move_to_the_device():
    batches = own_batches()
    data = from_loaders(batches, batches, batches, classes=3, device="meta")
    for x, y in data.validation:
        assert x.device.type == y.device.type == "meta"


@pytest.mark.parametrize(("drop_last", "images", "batches"), [(False, 22, 6), (True, 20, 5)])
def test_a_data_loader_tells_its_size_without_a_pass(drop_last: bool, images: int, batches: int):
    loader = shuffling_loader(drop_last=drop_last)
    data = from_loaders(loader, loader, loader, classes=3)
    assert (data.train.images, len(data.train)) == (images, batches)
    epoch(data.train)


def test_images_of_a_batch_sampler_are_counted_without_reading_them():
    class Unreadable(TensorDataset):
        def __getitem__(self, index: int) -> Any:
            raise AssertionError("read")

    dataset = Unreadable(*own_dataset().tensors)
    loader = DataLoader(dataset, batch_sampler=[[0, 1, 2], [5, 3]])
    validation = from_loaders([own_batches()[0]], loader, own_batches(), classes=3).validation
    assert (validation.images, len(validation)) == (5, 2)


def test_an_epoch_of_a_seeded_data_loader_can_be_replayed():
    loader = shuffling_loader()
    data = from_loaders(loader, [own_batches()[0]], own_batches(), classes=3)
    wanted = [epoch(data.train, number) for number in range(3)]
    assert not same(wanted[0], wanted[1])
    for number in (2, 0, 0, 1):
        assert same(epoch(data.train, number), wanted[number])
    assert not same(epoch(from_loaders(shuffling_loader(1), own_batches(), own_batches(), classes=3).train), wanted[0])

    used_again = from_loaders(loader, own_batches(), own_batches(), classes=3)
    assert same(epoch(used_again.train, 1), wanted[1])


def test_calibration_on_the_training_loader_does_not_move_its_epoch():
    data = from_loaders(shuffling_loader(), own_batches(), own_batches(), classes=3)
    wanted = epoch(data.train, 2)
    calibration = epoch(data.calibration)
    assert same(epoch(data.calibration), calibration)
    assert same((torch.cat([x for x, _ in data.train]), torch.cat([y for _, y in data.train])), wanted)


def test_a_sampler_is_told_the_epoch():
    dataset = own_dataset()
    sampler = DistributedSampler(dataset, num_replicas=2, rank=1, seed=3)
    data = from_loaders(DataLoader(dataset, batch_size=4, sampler=sampler), own_batches(), own_batches(), classes=3)
    wanted = []
    for number in range(2):
        reference = DistributedSampler(dataset, num_replicas=2, rank=1, seed=3)
        reference.set_epoch(number)
        wanted.append(list(reference))
    assert wanted[0] != wanted[1]
    for number in (1, 0):
        assert epoch(data.train, number)[0][:, 0, 0, 0].int().tolist() == wanted[number]


def test_looking_at_the_first_batch_leaves_the_global_random_state_alone():
    loader = DataLoader(own_dataset(), batch_size=4, shuffle=True)
    before = torch.get_rng_state()
    from_loaders(loader, loader, loader, classes=3)
    assert torch.equal(torch.get_rng_state(), before)


def test_an_iterable_that_knows_no_length_is_counted_by_a_pass():
    class Endless:
        passes = 0

        def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
            self.passes += 1
            yield from own_batches()

    source = Endless()
    data = from_loaders([own_batches()[0]], source, own_batches(), classes=3)
    assert source.passes == 0
    assert (len(data.validation), data.validation.images) == (3, 12)
    assert source.passes == 1


def test_names_of_classes_come_from_the_data_set():
    dataset = own_dataset()
    dataset.classes = ["a", "b", "c"]  # pyright: ignore[reportAttributeAccessIssue]
    loader = DataLoader(dataset, batch_size=4)
    assert from_loaders(loader, own_batches(), own_batches(), classes=3).class_names == ("a", "b", "c")


class Nothing(IterableDataset):
    """A stream that ends before it begins."""

    def __iter__(self):
        return iter(())


def test_parts_without_batches_are_refused():
    batches = own_batches()
    for validation, test, name in (
        ([], batches, "validation"),
        (batches, DataLoader(own_dataset(), 4, sampler=[]), "test"),
    ):
        with pytest.raises(UsageError, match=f"{name} gives no batch; it must hold at least one"):
            from_loaders(batches, validation, test, classes=3)
    stream = from_loaders(batches, batches, DataLoader(Nothing()), classes=3).test  # how long it is nobody knows
    with pytest.raises(UsageError, match="test gives no batch"):
        list(stream)


@pytest.mark.parametrize(
    ("train", "message"),
    [
        (iter(own_batches()), "train must be iterable again and again, .* got list_iterator"),
        (5, "train must be iterable again and again, .* got int"),
        ([], "train gives no batch"),
        ([{"pixels": torch.zeros(1)}], r"train must give batches \(x, y\) of two tensors, got dict"),
        ([(torch.zeros(2, 3, 5, 5), [0, 1])], r"of two tensors, got tuple of \(Tensor, list\)"),
        ([(torch.zeros(2, 3, 5, 5), torch.zeros(2, 3))], r"one label per image, got y of shape \(2, 3\)"),
        ([(torch.zeros(2, 3, 5, 5), torch.tensor([0, 3]))], "as classes=3 says, got labels from 0 to 3"),
        ([(torch.zeros(2, 3, 5, 5), torch.tensor([-1, 2]))], "got labels from -1 to 2"),
    ],
)  # fmt: skip
def test_a_loader_that_cannot_be_trained_on_is_explained(train: Any, message: str):
    with pytest.raises(UsageError, match=message):
        from_loaders(train, own_batches(), own_batches(), classes=3)
