"""Images with lists of labels and with masks: read, prepared, trained on, measured; files that do not fit."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from stimulative.analysis import evaluate
from stimulative.config import load_recipe
from stimulative.data import DataSettings, load
from stimulative.errors import UsageError
from stimulative.runs import RunDirectory, read_metrics
from stimulative.training import train

COLOURS = {"red": (230, 20, 20), "green": (20, 230, 20), "blue": (20, 20, 230)}
SIDE = 16

NET = """
from torch import nn


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Conv2d(8, 8, 3, padding=1)

    def forward(self, x):
        return x + self.a(x.relu())


def net(num_classes, in_chans=3):
    stem, head = nn.Conv2d(in_chans, 8, 3, padding=1), nn.Conv2d(8, num_classes, 1)
    return nn.Sequential(stem, nn.Sequential(Block(), Block()), head)
"""


def labelled(root: Path, *, columns: bool = False, images: int = 40) -> Path:
    """Images whose quarters have colours, and the colours as labels."""
    numbers = np.random.default_rng(0)
    for split in ("train", "val"):
        (root / split).mkdir(parents=True)
        rows = []
        for number in range(images):
            pixels, there = np.zeros((SIDE, SIDE, 3), np.uint8), set()
            for quarter in range(4):
                colour = numbers.choice([*COLOURS, ""])
                if colour:
                    top, left = SIDE // 2 * (quarter // 2), SIDE // 2 * (quarter % 2)
                    pixels[top : top + SIDE // 2, left : left + SIDE // 2] = COLOURS[colour]
                    there.add(str(colour))
            Image.fromarray(pixels).save(root / split / f"{number}.png")
            told = [str(int(colour in there)) for colour in COLOURS] if columns else ["|".join(sorted(there))]
            rows.append([f"{split}/{number}.png", *told])
        header = ["file", *(COLOURS if columns else ["labels"])]
        with (root / f"{split}.csv").open("w", newline="") as file:
            csv.writer(file).writerows([header, *rows])
    return root


def masked(root: Path, images: int = 30) -> Path:
    """Images whose pixels are 60 times their class and some noise; the first row of each mask is no class."""
    numbers = np.random.default_rng(0)
    for split in ("train", "val"):
        for kind in ("images", "masks"):
            (root / split / kind).mkdir(parents=True)
        for number in range(images):
            mask = np.repeat(np.repeat(numbers.integers(0, 4, (4, 4)), 5, 0), 6, 1).astype(np.uint8)  # 20 x 24 pixels
            Image.fromarray(mask * 60).convert("RGB").save(root / split / "images" / f"{number:02}.png")
            mask[0] = 255
            Image.fromarray(mask).save(root / split / "masks" / f"{number:02}.png")
    return root


def opened(name: str, **settings: Any) -> Any:
    plain: dict[str, Any] = {"workers": 0, "image_size": SIDE, "batch_size": 8, "mean": (0.0,) * 3, "std": (1.0,) * 3}
    return load(DataSettings(name, **{**plain, **settings}), seed=0)


@pytest.mark.parametrize("columns", [False, True])
def test_labels_are_those_of_the_list(tmp_path, columns):
    data = opened(f"multilabel:{labelled(tmp_path, columns=columns)}", crop_ratio=1.0)
    assert data.task == "multilabel"
    assert data.class_names == (("red", "green", "blue") if columns else ("blue", "green", "red"))
    for x, y in [*data.validation, *data.test]:
        assert y.dtype == torch.float32
        for image, labels in zip(x, y, strict=True):
            there = {data.class_names[at] for at in labels.nonzero()[:, 0]}
            seen = {name for name, colour in COLOURS.items() if _has(image, colour)}
            assert there == seen


def _has(image: torch.Tensor, colour: tuple[int, ...]) -> bool:
    return bool(((image.permute(1, 2, 0) * 255 - torch.tensor(colour)).abs() < 1).all(-1).any())


def test_a_label_that_nobody_knows_does_not_count(tmp_path):
    labelled(tmp_path, columns=True)
    lines = (tmp_path / "train.csv").read_text().splitlines()
    (tmp_path / "train.csv").write_text("\n".join([lines[0], *(line[:-1] for line in lines[1:])]))
    (y,) = {float(labels[2]) for _, batch in opened(f"multilabel:{tmp_path}").train for labels in batch}
    assert y == -100


def test_masks_move_with_their_images(tmp_path):
    data = opened(f"segmentation:{masked(tmp_path)}", crop_scale=(0.2, 1.0), crop_ratio=1.0)
    assert (data.task, data.classes) == ("segmentation", 4)
    for loader in (data.train, data.validation, data.test):
        right = counted = ignored = 0.0
        for x, y in loader:
            assert y.dtype == torch.int64
            assert y.shape == (len(x), SIDE, SIDE)
            known = y != 255
            right += float(((x[:, 0] * 255 / 60).round() == y)[known].sum())
            counted += float(known.sum())
            ignored += float((~known).sum())
        assert ignored > 0
        assert right / counted > 0.8  # all but where a resized edge lies between two classes
    views = [torch.cat([y for _, y in data.calibration_as(view)]) for view in ("training", "evaluation")]
    assert views[0].shape == views[1].shape


def test_both_are_trained_on_and_measured(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("masknet.py").write_text(NET)
    common = {"workers": 0, "image_size": SIDE, "batch_size": 8, "crop_ratio": 1.0}
    for name, model, measure, more in (
        (f"multilabel:{labelled(tmp_path / 'a')}", "cifar/resnet20", "map", "macro_f1"),
        (f"segmentation:{masked(tmp_path / 'b')}", "masknet:net", "miou", "pixel_accuracy"),
    ):
        recipe = load_recipe(
            {
                "model": {"name": model},
                "data": {"name": name, **common},
                "method": {"name": "stimulative"},
                "schedule": {"epochs": 2},
                "evaluation": {"subnets": 2},
            }
        )
        out = tmp_path / measure
        train(recipe, out, progress=False)
        summary = evaluate(out, latency=False)
        assert {measure, "loss", more, "by_class"} == set(summary["main"])
        assert 0 < summary["main"][measure] <= 100
        row = read_metrics(out / "metrics.csv")[-1]
        assert float(row[f"validation_{measure}"]) > 0
        assert row[f"train_{measure}"] == ""
        with (out / "subnets.csv").open() as file:
            subnets = list(csv.DictReader(file))
        assert {measure, f"validation_{measure}", more} <= set(subnets[0])
        family = RunDirectory(out).family
        assert [f"{member.score.quality:.4f}" for member in family] == [row[measure] for row in subnets]
        assert json.loads((out / "summary.json").read_text())["task"] == name.partition(":")[0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda root: (root / "val.csv").unlink(), "val.csv cannot be read"),
        (lambda root: (root / "train.csv").write_text("file,labels\n"), "2 columns and 0 files"),
        (
            lambda root: (root / "train.csv").write_text("file,a,b\nx.png,1\n"),
            "line 2: 2 columns, where",
        ),
        (lambda root: (root / "train.csv").write_text("file,a,b\nx.png,1,yes\n"), "line 2: got 'yes' for a label"),
        (
            lambda root: (root / "val.csv").write_text("file,labels\nval/0.png,red|pink\n"),
            "'pink' is in no image",
        ),
    ],
)
def test_lists_that_do_not_fit_are_refused(tmp_path, change, message):
    change(labelled(tmp_path))
    with pytest.raises(UsageError, match=message):
        opened(f"multilabel:{tmp_path}")


def test_masks_that_do_not_fit_are_refused(tmp_path):
    root = masked(tmp_path)
    (root / "train" / "masks" / "03.png").unlink()
    with pytest.raises(UsageError, match=r"1 of 30 images have no mask of their name, such as 03\.png"):
        opened(f"segmentation:{root}")
    Image.new("RGB", (24, 20)).save(root / "train" / "masks" / "03.png")
    with pytest.raises(UsageError, match="mode RGB, and has to have one channel"):
        opened(f"segmentation:{root}")
    Image.new("L", (3, 3)).save(root / "train" / "masks" / "03.png")
    with pytest.raises(UsageError, match="3x3 pixels, where the image has 24x20"):
        opened(f"segmentation:{root}")
    with pytest.raises(UsageError, match=r"is not a folder; expected .* to hold images/ and masks/"):
        opened(f"segmentation:{tmp_path / 'nowhere'}")
    for key, value in (("mixup", 0.2), ("auto_augment", "uniform"), ("lighting_scale", "bytes")):
        with pytest.raises(UsageError, match=rf"data\.{key}: (bytes )?is not for images with masks"):
            opened(f"segmentation:{root}", **{key: value})


def test_a_mask_with_more_classes_than_there_are_is_refused_where_it_is_met(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("fewclasses.py").write_text(NET)
    data = {"name": f"segmentation:{masked(tmp_path)}", "classes": 3, "workers": 0, "image_size": SIDE}
    model, schedule = {"name": "fewclasses:net"}, {"epochs": 1}
    recipe = load_recipe({"model": model, "data": data, "method": {"name": "common"}, "schedule": schedule})
    with pytest.raises(UsageError, match="class indices are from 0 to 2 here"):
        train(recipe, tmp_path / "run", progress=False)


def test_names_of_classes_are_read(tmp_path):
    root = masked(tmp_path)
    (root / "classes.txt").write_text("ground\nroad\nhouse\ntree\n")
    assert opened(f"segmentation:{root}").class_names == ("ground", "road", "house", "tree")


def test_a_model_that_classifies_whole_images_is_refused_for_masks(tmp_path):
    data = {"name": f"segmentation:{tmp_path}"}
    with pytest.raises(UsageError, match="gives one answer for a whole image; for segmentation take torchvision/fcn"):
        load_recipe({"model": {"name": "cifar/resnet20"}, "data": data, "method": {"name": "common"}})
