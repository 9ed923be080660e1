"""The benchmark of a family: its plan, what it writes down, and that nothing is trained twice."""

import json
import sys
from collections import Counter
from pathlib import Path

import pytest

from stimulative.methods import METHODS
from stimulative.studies.variants import variants
from stimulative.training import load_recipe

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))
import family


@pytest.fixture(scope="module")
def plan():
    return list(family.planned(load_recipe(family.RECIPE, family.SETTINGS)))


def test_all_methods_have_three_seeds_and_what_is_confirmed_five_others(plan):
    seeds = {part: {run.seed for run in plan if run.part == part} for part in ("table", "search", "longer", "confirm")}
    assert seeds["table"] == seeds["search"] == seeds["longer"] == {0, 1, 2}
    assert seeds["confirm"] == {3, 4, 5, 6, 7}
    of_table = Counter(str(run.variant) for run in {run.name: run for run in plan if run.part == "table"}.values())
    assert of_table == dict.fromkeys(METHODS, 3)


def test_a_name_stands_for_one_run(plan):
    words: dict[str, str] = {}
    for run in plan:
        what = f"{run.variant} {dict(run.overrides)} {run.seed}"
        assert words.setdefault(run.name, what) == what
    assert len(set(words.values())) == len(words)


def test_common_training_runs_longer_by_what_the_others_cost(plan):
    base = load_recipe(family.RECIPE, family.SETTINGS)
    parts = {run.part: run.overrides["schedule.epochs"] for run in plan if "schedule.epochs" in run.overrides}
    assert base.schedule.epochs < parts["confirm"] < parts["longer"] < 1.5 * base.schedule.epochs
    costs = [family.cost_of(one.recipe(base)) for one in variants(["common", family.EFFICIENT, "stimulative"])]
    assert costs[0] == 1 < costs[1] < costs[2]


def test_runs_are_written_down_once_and_candidates_without_the_test_split(monkeypatch, tmp_path, capsys):
    tiny = {"model.arguments": {"width": 2}, "schedule.epochs": 1, "evaluation.calibration_images": 64}
    common, stimulative = variants(["common", "stimulative"])
    runs = [family.Planned(common, 0, "table"), family.Planned(stimulative, 0, "search")]
    monkeypatch.setattr(family, "RECIPE", "digits")
    monkeypatch.setattr(family, "SETTINGS", tiny | {"training.loggers": [], "evaluation.calibration": "training"})
    monkeypatch.setattr(family, "RESULTS", tmp_path / "family.json")
    monkeypatch.setattr(family, "planned", lambda base: iter(runs))
    monkeypatch.setattr(sys, "argv", ["family.py", "--out", str(tmp_path / "runs"), "--jobs", "1"])
    family.main()
    written = json.loads((tmp_path / "family.json").read_text())["runs"]
    assert [*written] == ["common-seed0", "stimulative-seed0"]
    of_table, candidate = written.values()
    assert len(of_table["test"]) == len(of_table["validation"]) == len(candidate["validation"]) == 27
    assert "test" not in candidate and 0 <= of_table["test"]["3-3-3"] <= 100
    monkeypatch.setattr(sys, "argv", ["family.py", "--out", str(tmp_path / "elsewhere")])
    family.main()
    assert not [*tmp_path.glob("elsewhere/*")], "all stand in the file"
    monkeypatch.setattr(sys, "argv", ["family.py", "--list", "search"])
    family.main()
    assert capsys.readouterr().out.splitlines()[-1].split() == ["done", "search", "stimulative-seed0"]
