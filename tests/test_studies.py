"""What all studies have in common: their files, one way to carry plans out, and methods of the user's own."""

import json
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from stimulative.analysis import evaluate
from stimulative.cli import main
from stimulative.config import load_recipe
from stimulative.errors import UsageError
from stimulative.residual import Subnet
from stimulative.runs import FamilySummary, MainScore, Spread, Summary
from stimulative.studies import (
    Comparison,
    ComparisonPlan,
    Destruction,
    Failed,
    Job,
    Loafing,
    Matrix,
    Outcome,
    Plan,
    Study,
    StudyOfRuns,
    Sweep,
    carry_out,
    compare,
    over_seeds,
)
from stimulative.studies import planning as planning_room
from stimulative.studies.destruction import DestroyedNet
from stimulative.studies.smaller import run_name
from stimulative.studies.variants import Variant, variants

OLD = Path(__file__).parent / "studies_of_0_1_0"
NEW_KEYS = {"format", "task"}
QUICK = {
    "model.arguments": {"width": 4},
    "schedule.max_steps": 1,
    "training.threads": 1,
    "training.loggers": [],
    "evaluation.subnets": 2,
    "evaluation.calibration_images": 64,
}
MODULE = '''
from stimulative.methods import CommonTraining, Terms

class Louder(CommonTraining):
    """Common training with a larger loss.

    Args:
        network: The network to train.
        factor: How much larger.
    """

    def __init__(self, network, *, factor: float = 2.0, **more) -> None:
        super().__init__(network, **more)
        self.factor = factor

    def forward(self, x, y, subnets=None):
        terms = super().forward(x, y, subnets)
        return Terms(loss=self.factor * terms.loss, main_ce=terms.main_ce, logits=terms.logits)
'''


# --- files -----------------------------------------------------------------------------------------------------------


def in_order(value):
    """A value of a JSON file with its keys in their order."""
    if isinstance(value, dict):
        return [(key, in_order(inner)) for key, inner in value.items()]
    return [in_order(inner) for inner in value] if isinstance(value, list) else value


def without_new_keys(mapping):
    return {key: value for key, value in mapping.items() if key not in NEW_KEYS}


@pytest.mark.parametrize("kind", [Comparison, Loafing, Matrix, Sweep, Destruction])
def test_files_of_version_0_1_0_are_read_and_written_the_same_but_for_format_and_task(kind: type[Study], tmp_path):
    written = json.loads(kind.file(OLD).read_text())
    study = kind.read(OLD)
    assert (study.format, study.task) == (1, "images")
    study.write(tmp_path)
    again = json.loads(kind.file(tmp_path).read_text())
    assert again.keys() >= NEW_KEYS and kind.read(tmp_path) == study
    again = without_new_keys(again)
    if kind is Comparison:
        again["runs"] = [without_new_keys(run) for run in again["runs"]]
    assert in_order(again) == in_order(written)


def test_what_version_0_1_0_kept_of_a_destroyed_run_is_still_of_use():
    kept = json.loads((OLD / "part.json").read_text())
    part = DestroyedNet.from_mapping(kept).called("common", Path("runs/common"))
    assert {row.run for row in (*part.single, *part.swaps, *part.delete_rows)} == {"common"} == {part.run.run}
    assert part.run.directory == "runs/common"
    assert in_order(json.loads(json.dumps(part.to_mapping()))) == in_order(kept)


# --- plans -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Mains(StudyOfRuns):
    """A study in a few lines: the accuracies of main nets."""

    NAME = "mains"

    top1: tuple[float, ...]
    failed: tuple[Failed, ...] = ()

    @property
    def empty(self) -> bool:
        return not self.top1


class MainsPlan:
    def __init__(self, recipe, seeds, subnets=()):
        self.recipe = recipe
        self.jobs = {f"seed{seed}": Job(replace(recipe, seed=seed), subnets) for seed in range(seeds)}

    def result(self, outcome: Outcome, out: Path) -> Mains:
        top1 = tuple(one.main.quality for one in outcome.summaries.values())
        return Mains(task="images", top1=top1, failed=outcome.failures)


def test_a_study_of_ones_own_is_a_record_and_a_plan(tmp_path):
    plan: Plan[Mains] = MainsPlan(load_recipe("digits", {**QUICK, "method.name": "common"}), 2)
    told = []
    study = carry_out(plan, tmp_path, after_run=lambda name, summary: told.append((name, summary.main.quality)))
    assert not study.empty and told == list(zip(plan.jobs, study.top1, strict=True))
    assert Mains.read(tmp_path) == study


def test_a_study_says_which_images_statistics_are_from(tmp_path):
    settings = {**QUICK, "method.name": "common", "evaluation.calibration": "evaluation"}
    plan = MainsPlan(load_recipe("digits", settings), 1, ("1-1-1",))
    study = carry_out(plan, tmp_path / "mains")
    assert (study.calibration, study.calibration_images) == ("evaluation", 64)
    assert study.statistics == "64 training images prepared as for evaluation"
    evaluate(tmp_path / "mains" / "seed0", subnets=["1-1-1"], calibration="training")
    assert carry_out(plan, tmp_path / "mains").statistics == "64 training images prepared as for training"

    vit = {key: value for key, value in QUICK.items() if key != "model.arguments"}
    without = carry_out(MainsPlan(load_recipe("digits-vit", vit), 1, None), tmp_path / "vit")
    assert not without.failed
    assert (without.calibration, without.calibration_images, without.statistics) == (None, 0, None)
    assert (Comparison.read(OLD).calibration_images, Comparison.read(OLD).statistics) == (None, None)


def test_runs_start_where_their_study_does(tmp_path, monkeypatch):
    plan = MainsPlan(load_recipe("digits", {**QUICK, "method.name": "common"}), 1)
    carry_out(plan, tmp_path / "before")  # the fork server has started somewhere else
    monkeypatch.chdir(tmp_path)
    assert carry_out(plan, "here").failed == ()
    assert (tmp_path / "here" / "seed0" / "summary.json").exists()


@pytest.mark.parametrize(("recipe", "task"), [("digits", "images"), ("text-gpt2-tiny", "text")])
def test_a_study_of_which_nothing_finished_has_the_task_of_its_recipe(tmp_path, monkeypatch, recipe, task):
    def run_all(jobs, out, **more):
        return Outcome({}, dict.fromkeys(jobs, "killed"))

    monkeypatch.setattr(planning_room, "run_all", run_all)
    comparison = compare(load_recipe(recipe), tmp_path / "out", methods="common", seeds=1)
    assert comparison.task == task and comparison.empty
    assert [failure.error for failure in Comparison.read(tmp_path / "out").failed] == ["killed"]


def test_means_over_seeds_have_perplexities_where_all_runs_do():
    def summary(top1: float, perplexity: float | None) -> Summary:
        spread = None if perplexity is None else Spread(2 * perplexity, perplexity / 10, perplexity, 3 * perplexity)
        family = FamilySummary(count=3, evaluated=3, mean=top1 - 5, std=1.0, min=top1 - 9, max=top1, perplexity=spread)
        main = MainScore(top1, 1.0, perplexity)
        return Summary(task="text", method="common", model="m", data="d", seed=0, main=main, subnets=family)

    assert over_seeds([summary(70.0, None)]).main_perplexity is None
    assert "main_perplexity" not in over_seeds([summary(70.0, None)]).to_mapping()
    assert over_seeds([summary(70.0, None), summary(72.0, 10.0)]).all_perplexity is None
    both = over_seeds([summary(70.0, 10.0), summary(72.0, 14.0)])
    assert (both.main_mean, both.all_mean, both.all_min) == (71, 66, 62)
    assert (both.main_perplexity, both.all_perplexity, both.all_perplexity_max) == (12, 24, 36)
    assert both.main_perplexity_std == pytest.approx(8**0.5)  # (10 - 12)² + (14 - 12)², over n - 1
    assert both.all_perplexity_std == pytest.approx(1.2)


# --- methods of the user's own ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "variant", "directory"),
    [
        ("mine:Louder", Variant("mine:Louder"), "mine-Louder"),
        ("a.mine:Louder:factor=3", Variant("a.mine:Louder", (("factor", "3"),)), "a.mine-Louder-factor=3"),
    ],
)
def test_a_method_of_ones_own_is_one_name_in_front_of_its_settings(tmp_path, monkeypatch, text, variant, directory):
    monkeypatch.chdir(tmp_path)
    package = tmp_path / "a"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "mine.py").write_text(MODULE)
    (tmp_path / "mine.py").write_text(MODULE)
    assert variants(f"common,{text}") == [Variant("common"), variant]
    assert str(variant) == text and variant.directory == directory
    assert run_name(variant.method, Subnet.parse("2-2"), 0) == f"{variant.method.replace(':', '-')}-2-2-seed0"


def test_samplers_and_objectives_of_ones_own_are_named_behind_a_method():
    text = "stimulative:sampler=mine.parts:draw:every=2:objective=mine:loss"
    settings = (("sampler", "mine.parts:draw"), ("every", "2"), ("objective", "mine:loss"))
    assert variants(text) == [Variant("stimulative", settings)] and str(variants(text)[0]) == text
    with pytest.raises(UsageError, match=r"NAME:key=value\[:key=value\], got 'every'"):
        variants("stimulative:every:2")


def test_a_method_of_ones_own_that_is_not_there_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=r"cannot import 'nowhere' for method 'nowhere:Louder'"):
        ComparisonPlan(load_recipe("digits"), "nowhere:Louder:factor=2")
    with pytest.raises(UsageError, match=r"NAME:key=value\[:key=value\], got 'Louder' in 'stimulative:Louder'"):
        ComparisonPlan(load_recipe("digits"), "stimulative:Louder")


def test_a_run_by_a_method_of_ones_own_has_a_name_for_every_file_system(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "louder_method.py").write_text(MODULE)
    assert main(["train", "digits", "--method.name", "louder_method:Louder", "--dry-run"]) == 0
    assert "runs/digits-louder_method-Louder-seed0" in capsys.readouterr().out


def test_methods_of_ones_own_are_compared_like_others(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "louder_method.py").write_text(MODULE)
    methods = ["common", "louder_method:Louder", "louder_method:Louder:factor=3"]
    words = [f"--{key}={json.dumps(value)}" for key, value in QUICK.items()]
    assert main(["compare", "digits", "--methods", ",".join(methods), "--seeds", "1", "--out", "out", *words]) == 0
    printed = capsys.readouterr().out
    assert "louder_method-Louder-factor=3-seed0: main " in printed
    assert "louder_method:Louder, main net: " in printed
    comparison = Comparison.read(tmp_path / "out")
    assert [row.method for row in comparison.rows] == methods and not comparison.failed
    assert comparison.runs[2].summary.method == "louder_method:Louder"
    recipe = load_recipe(tmp_path / "out" / "louder_method-Louder-factor=3-seed0" / "recipe.yaml")
    assert (recipe.method.name, dict(recipe.method.settings)) == ("louder_method:Louder", {"factor": 3.0})
    assert "| `louder_method:Louder:factor=3` | 1 | " in (tmp_path / "out" / "comparison.md").read_text()
    words = ["loafing", "digits", "--main", "1-1-2", "--methods", "louder_method:Louder", "--out", "loafing", *words]
    assert main(words) == 0
    assert (tmp_path / "loafing" / "louder_method-Louder-1-1-2-seed0" / "summary.json").exists()
    assert [row.method for row in Loafing.read(tmp_path / "loafing").rows] == ["louder_method:Louder"]
