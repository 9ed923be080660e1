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
import family_tables


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
    assert costs[0] == {"operations": 1, "memory": 1}
    for what in ("operations", "memory"):
        assert 1 < costs[1][what] < costs[2][what] < 2


def test_runs_are_written_down_once_and_candidates_without_the_test_split(monkeypatch, tmp_path, capsys):
    tiny = {"model.arguments": {"width": 2}, "schedule.epochs": 1, "evaluation.calibration_images": 64}
    common, stimulative = variants(["common", "stimulative"])
    runs = [family.Planned(common, 0, "table"), family.Planned(stimulative, 0, "search")]
    monkeypatch.setattr(family, "RECIPE", "digits")
    monkeypatch.setattr(family, "cost_of", lambda recipe: {"operations": 1.0, "memory": 1.0})
    monkeypatch.setattr(family, "SETTINGS", tiny | {"training.loggers": [], "evaluation.calibration": "training"})
    monkeypatch.setattr(family, "RESULTS", tmp_path / "family.json")
    monkeypatch.setattr(family, "planned", lambda base: iter(runs))
    monkeypatch.setattr(sys, "argv", ["family.py", "--out", str(tmp_path / "runs"), "--jobs", "1"])
    family.main()
    results = json.loads((tmp_path / "family.json").read_text())
    written = results["runs"]
    assert results["costs"].keys() == {"common", "stimulative"}
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


def made(method: str, seed: int, main: float, other: float, **more: object) -> dict[str, object]:
    return {"part": "table", "method": method, "seed": seed, "test": {"3-3-3": main, "1-1-1": other}, **more}


def test_the_table_by_hand():
    """Differences of 1, 2 and 3 points: 2 ± 1, and Student's 4.303 / sqrt(3) = 2.48 times that around it."""
    runs = {
        **{f"a{seed}": made("common", seed, 40.0, 10.0) for seed in range(3)},
        **{f"b{seed}": made("stimulative", seed, 41.0 + seed, 30.0 + seed) for seed in range(3)},
        "c0": made("common", 0, 42.0, 11.0, settings={"schedule.epochs": 53}),
        "d0": {**made("stimulative", 0, 1.0, 1.0), "part": "search"},
    }
    costs = {"common": {"operations": 1.0, "memory": 1.0}, "stimulative": {"operations": 1.32, "memory": 1.4}}
    first, _, *rows = family_tables.table(runs, costs, "table").splitlines()
    assert first.endswith("| main net, less common | all, less common |")
    assert rows == [
        "| `common` | 1.00 | 1.00 | 3 | 40.00 ± 0.00 | 25.00 ± 15.00 | 10.00 |  |  |",
        "| `stimulative` | 1.32 | 1.40 | 3 | 42.00 ± 1.00 | 36.50 ± 5.50 | 31.00 | +2.00 (-0.48 to +4.48) | "
        "**+11.50 (+9.02 to +13.98)** |",
        "| `common epochs 53` | 1.00 | 1.00 | 1 | 42.00 | 26.50 ± 15.50 | 11.00 | +2.00 (n = 1) | +1.50 (n = 1) |",
    ]
    assert family_tables.table(runs, costs, "wide") == "No run of the part wide is done.\n"
