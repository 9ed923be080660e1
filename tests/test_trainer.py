"""The public loop: what it tells of, in which order, and what hangs on it."""

import json
import sys
from pathlib import Path

import pytest
import torch

from stimulative.errors import UsageError
from stimulative.runs import Epoch, RunDirectory, Summary
from stimulative.training import Callback, Step, Trainer, load_recipe, train

TINY = {
    "model.arguments": {"width": 4},
    "data.batch_size": 128,
    "schedule.epochs": 2,
    "training.loggers": ["csv"],
    "evaluation.calibration_images": 64,
}


class Story(Callback):
    """What is told, in its order."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.steps: list[Step] = []
        self.epochs: list[Epoch] = []

    def on_step(self, trainer: Trainer, step: Step) -> None:
        assert trainer.method.training and trainer.epoch == step.epoch - 1
        self.steps.append(step)
        self.told.append(f"step {step.epoch}.{step.number}")

    def on_epoch(self, trainer: Trainer, epoch: Epoch) -> None:
        self.epochs.append(epoch)
        self.told.append(f"epoch {epoch.epoch}")

    def on_checkpoint(self, trainer: Trainer, path: Path) -> None:
        assert torch.load(path, weights_only=True)["epoch"] == trainer.epoch
        self.told.append(f"{path.name} {trainer.epoch}")


def test_a_run_tells_of_steps_epochs_and_checkpoints_in_their_order(tmp_path):
    story = Story()
    summary = train(load_recipe("digits", TINY), tmp_path / "run", progress=False, callbacks=[story])
    batches = summary["steps"] // 2
    first, second = (epoch.validation_quality for epoch in story.epochs)
    expected = ["checkpoint-last.ckpt 0"]
    for epoch in (1, 2):
        expected += [f"step {epoch}.{number}" for number in range(1, batches + 1)] + [f"epoch {epoch}"]
        is_best = epoch == 1 or second >= first
        expected += [f"checkpoint-best.ckpt {epoch}"] * is_best + [f"checkpoint-last.ckpt {epoch}"]
    assert story.told == expected
    assert all(step.of == batches and step.part.last and step.part.share == 1.0 for step in story.steps)
    assert all(step.terms.logits.shape == (128, 10) and not step.terms.loss.requires_grad for step in story.steps)


def test_a_finished_run_and_one_of_another_recipe_stay_as_they_are(tmp_path):
    recipe = load_recipe("digits", TINY | {"schedule.epochs": 1})
    train(recipe, tmp_path, progress=False)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    with pytest.raises(UsageError, match="has finished; choose another directory"):
        Trainer(recipe, tmp_path, progress=False)
    with pytest.raises(UsageError, match=r"another recipe.*seed: 0 then, 5 now"):
        Trainer(recipe.override({"seed": 5}), tmp_path, progress=False)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == before


def test_what_training_refuses_a_trainer_refuses_and_writes_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr("os.cpu_count", lambda: 4)
    many = {"training.device": "cpu", "training.devices": 3, "data.batch_size": 128}
    for refused in (many, {"model.weights": str(tmp_path / "missing.pth")}):
        recipe = load_recipe("digits", TINY | refused)
        with pytest.raises(UsageError) as by_train:
            train(recipe, tmp_path / "run", progress=False)
        with pytest.raises(UsageError) as by_trainer:
            Trainer(recipe, tmp_path / "run", progress=False)
        assert str(by_train.value) == str(by_trainer.value)
        assert not (tmp_path / "run").exists()


def test_a_trainer_makes_its_directory(tmp_path):
    recipe = load_recipe("digits", TINY | {"schedule.max_steps": 1})
    Trainer(recipe, tmp_path / "a" / "b", progress=False).run()
    assert RunDirectory(tmp_path / "a" / "b").finished


@pytest.mark.parametrize("callback", [print, Story])
def test_what_is_no_callback_is_refused_before_anything_is_written(tmp_path, callback):
    with pytest.raises(UsageError, match=r"callbacks= are instances of stimulative\.training\.Callback, got <"):
        Trainer(load_recipe("digits", TINY), tmp_path / "run", progress=False, callbacks=[callback])
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("given", ["None", "(main_ce, None)", "main_ce"])
def test_a_method_that_gives_no_terms_is_named(tmp_path, monkeypatch, given):
    monkeypatch.delitem(sys.modules, "odd_method", raising=False)
    (tmp_path / "odd_method.py").write_text(
        "from stimulative.methods import CommonTraining\n"
        "class Odd(CommonTraining):\n"
        "    def forward(self, x, y, subnets=None):\n"
        "        main_ce = super().forward(x, y, subnets).loss\n"
        f"        return {given}\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    kind = {"None": "NoneType", "main_ce": "Tensor"}.get(given, "tuple")
    with pytest.raises(UsageError, match=f"method 'odd_method:Odd' gave {kind} for a batch, and has to give"):
        train(load_recipe("digits", TINY | {"method.name": "odd_method:Odd"}), tmp_path / "run", progress=False)


def test_what_an_epoch_tells_is_what_the_log_says(tmp_path):
    story = Story()
    train(
        load_recipe("digits", TINY | {"evaluation.test_every_epoch": True}),
        tmp_path / "run",
        progress=False,
        callbacks=[story],
    )
    logged = RunDirectory.open(tmp_path / "run").metrics
    assert [epoch.epoch for epoch in logged] == [epoch.epoch for epoch in story.epochs] == [1, 2]
    for told, read in zip(story.epochs, logged, strict=True):
        numbers = {key: value for key, value in vars(told).items() if key != "measure"}
        assert all(getattr(read, key) == pytest.approx(value, rel=1e-5) for key, value in numbers.items())
        assert read.measure == told.measure == "top1"
    ce = [float(step.terms.main_ce) for step in story.steps if step.epoch == 2]
    assert story.epochs[1].main_ce == pytest.approx(sum(ce) / len(ce), rel=1e-5)


def test_a_trainer_gives_the_summary_that_it_writes(tmp_path):
    recipe = load_recipe("digits", {**TINY, "schedule.max_steps": 1})
    (tmp_path / "run").mkdir()
    trainer = Trainer(recipe, tmp_path / "run", progress=False)
    assert (trainer.epochs, trainer.epoch, trainer.steps) == (1, 0, 0)
    summary = trainer.run()
    assert isinstance(summary, Summary) and summary.steps == 1
    assert json.loads((tmp_path / "run/summary.json").read_text()) == summary.to_mapping()
    assert RunDirectory(tmp_path / "run").summary == summary


def test_an_exception_of_a_callback_ends_the_run_and_loses_nothing(tmp_path):
    class Enough(Callback):
        def on_epoch(self, trainer, epoch):
            raise RuntimeError("enough")

    recipe = load_recipe("digits", TINY)
    with pytest.raises(RuntimeError, match="enough"):
        train(recipe, tmp_path / "run", progress=False, callbacks=[Enough()])
    assert not RunDirectory(tmp_path / "run").finished
    again = Story()
    assert train(recipe, tmp_path / "run", resume=True, progress=False, callbacks=[again])["epochs"] == 2
    assert [epoch.epoch for epoch in again.epochs] == [1, 2]


def test_the_loop_asks_the_method_and_not_its_name(tmp_path):
    """Common training has no balance, a lean schedule calls backward itself; both are asked as properties."""
    for settings, balance in (({"method.name": "common"}, 0.0), ({"method.schedule": "lean"}, None)):
        story = Story()
        recipe = load_recipe("digits", {**TINY, "schedule.max_steps": 2, **settings})
        train(recipe, tmp_path / str(balance), progress=False, callbacks=[story])
        (epoch,) = story.epochs
        assert epoch.balance == balance if balance is not None else epoch.balance > 0
