"""Every file in examples/ runs, and gives subnets that have learned."""

import re
import runpy
import sys
from pathlib import Path

import pytest

EXAMPLES = sorted((Path(__file__).parents[1] / "examples").glob("*.py"))
EPOCHS = {"transformers_trainer": 8, "super_resolution": 2, "segmentation": 2}
FLOORS = {
    "segmentation": (20, "background everywhere is less than 15 % of mean IoU"),
    "super_resolution": (15, "patches of one colour each, the right one, have 14 dB"),
}
OPTIONS = {"sentence_encoder": ["--out", "run"]}


def test_there_are_examples():
    assert len(EXAMPLES) >= 6


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_prints_scores_of_subnets_far_above_chance(path, monkeypatch, capsys, tmp_path):
    """Of the sentence encoder they are cosines, which were near 0 in the random net."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(path.parent)  # as Python does for a script
    monkeypatch.setattr(
        sys, "argv", [str(path), "--epochs", str(EPOCHS.get(path.stem, 4)), *OPTIONS.get(path.stem, [])]
    )
    runpy.run_path(str(path), run_name="__main__")
    scores = dict(re.findall(r"^([\d-]+): ([\d.]+) (?:%|dB)(?: |$)", capsys.readouterr().out, re.MULTILINE))
    floor, chance = FLOORS.get(path.stem, (40, "chance is 10 % of ten digits"))
    assert len(scores) >= 3, "the main net and some of its subnets"
    assert min(map(float, scores.values())) > floor, chance
