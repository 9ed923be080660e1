"""docs/deploy.md is followed to the letter, on generated images: every command and every example, in their order."""

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from stimulative.cli import main

PAGE = Path(__file__).parent.parent / "docs" / "deploy.md"
CLASSES = "daisy", "rose", "tulip"


def photos(folder: Path) -> None:
    """Photographs of one colour a class, more or less."""
    draw = np.random.default_rng(0)
    for split, count in (("train", 24), ("val", 8)):
        for number, name in enumerate(CLASSES):
            place = folder / split / name
            place.mkdir(parents=True)
            for image in range(count):
                pixels = draw.integers(0, 80, (72, 96, 3))
                pixels[..., number] += 100
                Image.fromarray(pixels.astype("uint8")).save(place / f"{image}.jpg")


def shortened(words: list[str]) -> list[str]:
    """The same command with less to train; and a limit that a busy machine keeps to, too."""
    if words[0] == "train":
        return [*words, "--max-steps", "8"]
    return ["1000" if before == "--max-latency-ms" else word for before, word in zip(["", *words], words, strict=False)]


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
    assert "rose 2-1-1-1" in printed  # what the exported file says of a rose
    assert "timm.create_model('resnet18'" in printed
    assert {file.name for file in tmp_path.glob("photos.*")} >= {"photos.onnx", "photos.pt2", "photos.safetensors"}
    assert known["logits"].shape == known["quick"].shape == (1, 3)
