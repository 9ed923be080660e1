"""docs/deploy.md is followed to the letter, on generated images: every command and every example, in their order."""

import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from stimulative.cli import main
from stimulative.config import load_recipe
from stimulative.data import load

PAGE = Path(__file__).parent.parent / "docs" / "deploy.md"
CLASSES = "daisy", "rose", "tulip"


def photos(folder: Path) -> None:
    """Photographs of one colour a class, more or less, in a frame of another class's colour."""
    draw = np.random.default_rng(0)
    for split, count in (("train", 24), ("val", 24)):
        for number, name in enumerate(CLASSES):
            place = folder / split / name
            place.mkdir(parents=True)
            for image in range(count):
                pixels = draw.integers(0, 120, (72, 96, 3))
                inside = np.zeros((72, 96, 1), bool)
                inside[5:-5, 17:-17] = True
                of = np.where(inside, number, draw.integers(3))
                pixels += (draw.integers(0, 120) * (np.arange(3) == of)).astype(int)
                Image.fromarray(pixels.astype("uint8")).save(place / f"{image}.jpg")


def shortened(words: list[str]) -> list[str]:
    """The same command with less to train; and a limit that a busy machine keeps to, too."""
    if words[0] == "train":
        return [*words, "--max-steps", "8"]
    return ["1000" if before == "--max-latency-ms" else word for before, word in zip(["", *words], words, strict=False)]


def accuracy_of(session, prepared) -> float:
    """Percent of the photographs in val/ that the exported file gives their class."""
    right = [
        session.run(None, {"images": prepared(file)[None]})[0].argmax() == CLASSES.index(file.parent.name)
        for file in sorted(Path("photos/val").glob("*/*.jpg"))
    ]
    return 100 * sum(right) / len(right)


@pytest.mark.filterwarnings("ignore")
def test_the_page_leads_from_images_to_files(tmp_path, monkeypatch, capsys):
    photos(tmp_path / "photos")
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```(bash|python)\n(.*?)```", PAGE.read_text(), re.DOTALL)
    known = {}
    commands = []
    for kind, text in blocks:
        if kind == "python":
            exec(text, known)
            continue
        for line in text.strip().splitlines():
            program, *words = shlex.split(line)
            assert program == "stimulative"
            assert main(shortened(words)) == 0, f"{line}\n{capsys.readouterr().err}"
            commands.append(words[0])
    assert {"init", "train", "evaluate", "choose", "export", "pack"} <= set(commands)
    printed = capsys.readouterr().out
    assert any(f"{name} 2-1-1-1" in printed for name in CLASSES)  # what the exported file says of a rose, 8 steps old
    assert "timm.create_model('resnet18'" in printed
    assert {file.name for file in tmp_path.glob("photos.*")} >= {"photos.onnx", "photos.pt2", "photos.safetensors"}
    assert known["logits"].shape == known["quick"].shape == (1, 3)
    said = json.loads(known["session"].get_modelmeta().custom_metadata_map["test"])["top1"]
    assert accuracy_of(known["session"], known["prepared"]) == pytest.approx(said)
    assert known["net"].about["preparation"] == known["preparation"] == known["about"]["preparation"]


@pytest.mark.parametrize("size", [31, 64])
@pytest.mark.parametrize("crop_ratio", [0.7, 0.875, 1.0])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_the_page_prepares_images_as_the_loaders_do(size, crop_ratio, interpolation, tmp_path):
    draw = np.random.default_rng(1)
    for split in ("train", "val"):
        for name in CLASSES:
            (tmp_path / split / name).mkdir(parents=True)
            for number, shape in enumerate([(71, 96, 3), (96, 71, 3), (33, 50), (40, 40, 4), (64, 231, 3)]):
                pixels = draw.integers(0, 256, shape).astype("uint8")
                Image.fromarray(pixels).save(tmp_path / split / name / f"{number}.png")
    settings = {"crop_ratio": crop_ratio, "interpolation": interpolation, "image_size": size, "workers": 0}
    recipe = load_recipe("imagenet-resnet50", {f"data.{key}": value for key, value in settings.items()})
    recipe = recipe.override({"data.name": f"folder:{tmp_path}", "data.classes": None, "data.validation": 0.4})
    data = load(recipe.data, seed=0)
    (text,) = re.findall(r"^def prepared.*?(?=^\S)", PAGE.read_text(), re.DOTALL | re.MULTILINE)[:1]
    known = {"Image": Image, "ImageOps": ImageOps, "numpy": np, "preparation": data.preparation.to_mapping()}
    exec(text, known)
    expected = torch.cat([x for x, _ in data.test]) * torch.tensor(data.std)[:, None, None]
    expected += torch.tensor(data.mean)[:, None, None]
    files = sorted(tmp_path.glob("val/*/*.png"))
    assert len(expected) == len(files) == 15
    for image, file in zip(expected, files, strict=True):
        np.testing.assert_allclose(known["prepared"](file), image, atol=1e-6)
