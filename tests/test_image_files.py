"""Images are seen as they are meant, or refused by name; what is none is left out, and counted."""

import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from stimulative.data import DataSettings, load
from stimulative.data.augmentation import Preparation, channels_of, training_transform
from stimulative.data.image_files import AGAIN, HIDDEN, NO_IMAGE, NOWHERE, images_below, read_rgb, size_of
from stimulative.errors import UsageError
from stimulative.runs import RunDirectory
from stimulative.training import load_recipe, train


def grey(path: Path) -> list[int]:
    return np.asarray(read_rgb(str(path)))[..., 0].ravel().tolist()


def test_16_bits_become_8(tmp_path):
    values = (np.arange(16).reshape(4, 4) * 4000).astype(np.uint16)
    for name in ("a.png", "a.tif"):
        Image.fromarray(values).save(tmp_path / name)
        assert grey(tmp_path / name) == (values >> 8).ravel().tolist()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ((np.arange(16).reshape(4, 4) * 4000).astype(np.int32), "32-bit integers, of which nobody knows"),
        ((np.arange(16).reshape(4, 4) / 16).astype(np.float32), "32-bit floating point numbers, of which nobody"),
    ],
)
def test_32_bits_are_refused(values, message, tmp_path):
    Image.fromarray(values).save(tmp_path / "a.tif")
    with pytest.raises(ValueError, match=message):
        read_rgb(str(tmp_path / "a.tif"))


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA", "P"])
def test_a_shape_that_is_held_in_alpha_is_seen(mode, tmp_path):
    alpha = np.zeros((4, 4), np.uint8)
    alpha[1:3, 1:3] = 255
    black = Image.new("RGB", (4, 4))
    black.putalpha(Image.fromarray(alpha))
    if mode == "P":  # one colour of the palette is transparent
        image = Image.fromarray((alpha > 0).astype(np.uint8), mode="P")
        image.putpalette([9, 9, 9, 0, 0, 0])
        image.save(tmp_path / "a.png", transparency=0)
    else:
        black.convert(mode).save(tmp_path / ("a.png" if mode != "PA" else "a.tif"))
    path = next(tmp_path.iterdir())
    assert grey(path) == np.where(alpha > 0, 0, 255).ravel().tolist()


@pytest.mark.parametrize("kind", ["tif", "png"])
@pytest.mark.parametrize("turn", range(1, 9))
def test_an_image_is_upright(turn, kind, tmp_path):
    values = np.arange(6, dtype=np.uint8).reshape(2, 3) * 40
    image = Image.fromarray(values)
    exif = image.getexif()
    exif[0x0112] = turn
    more = {"compression": "tiff_lzw"} if kind == "tif" else {}  # Pillow turns one without compression wrongly
    image.save(tmp_path / f"a.{kind}", exif=exif, **more)
    stood = {
        1: values,
        2: values[:, ::-1],
        3: values[::-1, ::-1],
        4: values[::-1],
        5: values.T,
        6: np.rot90(values, -1),
        7: values[::-1, ::-1].T,
        8: np.rot90(values),
    }
    assert np.array_equal(np.asarray(read_rgb(str(tmp_path / f"a.{kind}")))[..., 0], stood[turn])
    assert size_of(str(tmp_path / f"a.{kind}")) == stood[turn].shape[::-1]


def test_an_image_that_is_too_slim_is_refused_at_once(tmp_path):
    Image.new("L", (60_000, 1)).save(tmp_path / "a.png")
    with pytest.raises(ValueError, match="60000x1 pixels; one side may be 200 times the other"):
        read_rgb(str(tmp_path / "a.png"))


def noise(width: int, height: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_images_are_prepared_as_torchvision_prepares_them(interpolation):
    image, mode = noise(90, 70), v2.InterpolationMode(interpolation)
    assert torch.equal(channels_of(image), v2.functional.pil_to_tensor(image))
    crop = v2.RandomResizedCrop(32, interpolation=mode, antialias=True)
    theirs = v2.Compose([crop, v2.RandomHorizontalFlip(), v2.PILToTensor()])
    ours = training_transform(
        32, flip=True, interpolation=interpolation, color_jitter=0.0, auto_augment=None, mean=(0.5, 0.5, 0.5)
    )
    for seed in range(10):
        torch.manual_seed(seed)
        wanted, after = theirs(image), torch.get_rng_state()
        torch.manual_seed(seed)
        assert torch.equal(ours(image), wanted)
        assert torch.equal(torch.get_rng_state(), after)
    still = v2.Compose([v2.Resize(40, interpolation=mode, antialias=True), v2.CenterCrop(32), v2.PILToTensor()])
    prepared = Preparation(resize=40, interpolation=interpolation, antialias=True, crop=32).transform()
    assert torch.equal(prepared(image), still(image))


def make(folder: Path, classes: str = "ab", images: int = 6) -> None:
    for split in ("train", "val"):
        for name in classes:
            (folder / split / name).mkdir(parents=True)
            for number in range(images):
                Image.new("RGB", (8, 8), (20 * number, 0, 0)).save(folder / split / name / f"{number}.png")


def opened(folder: Path, **more):
    settings = DataSettings(f"folder:{folder}", image_size=8, workers=0, batch_size=4, **more)
    return load(settings, seed=0)


def test_hidden_files_others_and_loops_of_links_are_left_out_and_counted(tmp_path):
    make(tmp_path)
    a = tmp_path / "train/a"
    (a / "._0.png").write_bytes(b"of a Mac")
    (a / ".thumbnails").mkdir()
    Image.new("RGB", (8, 8)).save(a / ".thumbnails/0.png")
    (a / "notes.txt").write_text("text")
    (a / "loop").symlink_to(a)
    (a / "again.png").symlink_to(a / "0.png")
    (a / "gone.png").symlink_to(a / "nothing.png")
    (a / "more").mkdir()
    Image.new("RGB", (8, 8)).save(a / "more/7.PNG")
    left_out: Counter[str] = Counter()
    found = images_below(a, left_out)
    assert [os.path.relpath(path, a) for path in found] == [*(f"{n}.png" for n in range(6)), "more/7.PNG"]
    assert left_out == {HIDDEN: 2, NO_IMAGE: 1, AGAIN: 1 + len(os.listdir(a)), NOWHERE: 1}
    assert all(real == os.path.realpath(path) for path, real in found.items())
    data = opened(tmp_path)
    assert data.left_out[NO_IMAGE] == 1
    settings = {"data.name": f"folder:{tmp_path}", "data.image_size": 8, "data.workers": 0, "data.batch_size": 4}
    more = {"model.arguments": {"width": 2}, "schedule.epochs": 1, "evaluation.calibration_images": 8}
    train(load_recipe("digits", settings | more), tmp_path / "run", progress=False)
    assert RunDirectory(tmp_path / "run").summary.files_left_out == dict(data.left_out)


def test_a_test_image_that_is_a_link_to_a_training_image_is_refused(tmp_path):
    make(tmp_path)
    (tmp_path / "val/a/leak.png").symlink_to(tmp_path / "train/a/0.png")
    with pytest.raises(UsageError, match=r"1 of the 13 images of val/ are files of train/, too, such as .*leak.png"):
        opened(tmp_path)


def test_one_class_is_no_task(tmp_path):
    make(tmp_path, classes="a")
    with pytest.raises(UsageError, match="has one class, 'a': a classifier of one class is always right"):
        opened(tmp_path)


def test_what_cannot_be_seen_rightly_is_named(tmp_path):
    make(tmp_path)
    Image.fromarray(np.ones((8, 8), np.float32)).save(tmp_path / "train/a/9.tif")
    data = opened(tmp_path)
    with pytest.raises(UsageError, match=r"9\.tif cannot be read as an image \(its grey values are 32-bit"):
        _ = [*data.calibration, *data.validation]
