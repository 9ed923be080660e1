"""Every file in examples/ runs, and gives subnets that have learned."""

import re
import runpy
import sys
from pathlib import Path

import pytest

EXAMPLES = sorted((Path(__file__).parents[1] / "examples").glob("*.py"))
EPOCHS = {"transformers_trainer": 8}
OPTIONS = {"sentence_encoder": ["--out", "run"]}


def test_there_are_examples():
    assert len(EXAMPLES) >= 4


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_prints_accuracies_of_subnets_far_above_chance(path, monkeypatch, capsys, tmp_path):
    """Of the sentence encoder they are cosines, which were near 0 in the random net."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(path.parent)  # as Python does for a script
    monkeypatch.setattr(
        sys, "argv", [str(path), "--epochs", str(EPOCHS.get(path.stem, 4)), *OPTIONS.get(path.stem, [])]
    )
    runpy.run_path(str(path), run_name="__main__")
    scores = dict(re.findall(r"^([\d-]+): ([\d.]+) %(?: |$)", capsys.readouterr().out, re.MULTILINE))
    assert len(scores) >= 3, "the main net and some of its subnets"
    assert min(map(float, scores.values())) > 40, "chance is 10 % of ten digits"
