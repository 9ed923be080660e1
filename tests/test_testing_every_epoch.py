"""Accuracy on the test split after each epoch: measured where asked, logged, and without any part in the training."""

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch.utils.data import DataLoader, TensorDataset

from stimulative.data import Batch, Data, from_loaders
from stimulative.data.batches import LazyLoader
from stimulative.runs import METRICS, MODEL, Epoch, RunDirectory, read_metrics
from stimulative.training import Callback, Trainer, TrainingStopped, load_recipe, train

TINY = {
    "model.arguments": {"width": 2},
    "method.name": "stimulative",
    "data.batch_size": 64,
    "schedule.epochs": 3,
    "training.loggers": [],
    "evaluation.calibration_images": 64,
}
TESTED = {**TINY, "evaluation.test_every_epoch": True}


class Plain(Callback):
    """Measures the test split by hand after each epoch, and notes whether training had opened it."""

    def __init__(self, *, measures: bool) -> None:
        self.measures = measures
        self.opened: list[bool] = []
        self.top1: list[float] = []

    def on_epoch(self, trainer: Trainer, epoch: Epoch) -> None:
        assert isinstance(trainer.data.test, LazyLoader)
        self.opened.append(trainer.data.test.built)
        if not self.measures:
            return
        model = trainer.network.model.eval()
        with torch.no_grad():
            hits = torch.cat([model(x).argmax(1) == y for x, y in trainer.data.test])
        self.top1.append(100 * hits.double().mean().item())


def log_of(run: Path) -> list[dict[str, str]]:
    """The log without what depends on the clock."""
    return [{k: v for k, v in row.items() if "second" not in k} for row in read_metrics(run / METRICS)]


def without_test(run: Path) -> list[dict[str, str]]:
    return [{key: value for key, value in row.items() if key != "test_top1"} for row in log_of(run)]


def assert_equal_nets(one: Path, other: Path) -> None:
    first, second = load_file(one / MODEL), load_file(other / MODEL)
    assert first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)
    assert RunDirectory(one).summary.main == RunDirectory(other).summary.main


@pytest.fixture(scope="module")
def tested(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "tested"
    train(load_recipe("digits", TESTED), out, progress=False)
    return out


def test_the_test_split_is_measured_after_each_epoch_and_chooses_nothing(tested, tmp_path):
    plain = Plain(measures=True)
    train(load_recipe("digits", TESTED), tmp_path / "again", progress=False, callbacks=[plain])
    assert plain.opened == [True] * 3
    assert [float(row["test_top1"]) for row in log_of(tested)] == pytest.approx(plain.top1, abs=1e-3)
    assert log_of(tmp_path / "again") == log_of(tested)
    epochs = RunDirectory(tested).metrics
    assert [epoch.test_quality for epoch in epochs] == pytest.approx(plain.top1, abs=1e-3)

    unopened = Plain(measures=False)
    train(load_recipe("digits", TINY), tmp_path / "off", progress=False, callbacks=[unopened])
    assert unopened.opened == [False] * 3
    assert_equal_nets(tested, tmp_path / "off")
    assert log_of(tmp_path / "off") == without_test(tested)
    assert "test" not in (tmp_path / "off" / METRICS).read_text().splitlines()[0]
    best = [torch.load(run / "checkpoint-best.ckpt", weights_only=True) for run in (tested, tmp_path / "off")]
    assert best[0]["epoch"] == best[1]["epoch"] and best[0]["best"] == best[1]["best"]
    kept = [(value, best[1]["method"][name]) for name, value in best[0]["method"].items() if torch.is_tensor(value)]
    assert kept and all(torch.equal(one, other) for one, other in kept)


def own_data(labels_of_test: int) -> Data:
    """Data whose test loader draws from the global generator, and whose test labels are all of one class."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(96, 1, 8, 8, generator=generator)
    y = (x.mean((1, 2, 3)) > 0).long()
    training = DataLoader(TensorDataset(x, y), batch_size=8, shuffle=True, generator=torch.Generator())
    fixed: list[Batch] = list(DataLoader(TensorDataset(x, y), batch_size=32))
    of_test = TensorDataset(x, torch.full_like(y, labels_of_test))
    test = DataLoader(of_test, batch_size=32, shuffle=True)
    return from_loaders(training, fixed, test, classes=2, calibration=fixed)


def test_what_the_test_loader_draws_and_holds_has_no_effect_on_the_training(tmp_path):
    dropout = {"model.name": "timm/resnet18", "model.arguments": {"drop_rate": 0.5}, "schedule.epochs": 2}
    runs = {"off": (TINY, 0), "zeros": (TESTED, 0), "ones": (TESTED, 1)}
    for name, (settings, label) in runs.items():
        recipe = load_recipe("digits", {**settings, **dropout, "training.threads": 1})
        train(recipe, tmp_path / name, data=own_data(label), progress=False)
    zeros, ones = ([float(row["test_top1"]) for row in log_of(tmp_path / name)] for name in ("zeros", "ones"))
    assert [a + b for a, b in zip(zeros, ones, strict=True)] == pytest.approx([100, 100], abs=1e-3)
    first = load_file(tmp_path / "off" / MODEL)
    for name in ("zeros", "ones"):
        other = load_file(tmp_path / name / MODEL)
        assert all(torch.equal(first[key], other[key]) for key in first)
        assert without_test(tmp_path / name) == log_of(tmp_path / "off")
        checkpoints = [torch.load(tmp_path / run / "checkpoint-best.ckpt", weights_only=True) for run in ("off", name)]
        assert checkpoints[0]["epoch"] == checkpoints[1]["epoch"]


class SignalWhileTesting(Callback):
    """Sends a signal when the test split is read after the second epoch."""

    def on_epoch(self, trainer: Trainer, epoch: Epoch) -> None:
        if epoch.epoch != 1:
            return
        loader: Any = trainer.data.test.loader  # pyright: ignore[reportAttributeAccessIssue]

        class Sending:
            images = loader.images

            def __len__(self) -> int:
                return len(loader)

            def __iter__(self):
                for batch in loader:
                    os.kill(os.getpid(), signal.SIGTERM)
                    yield batch

        trainer.data.test._loader = Sending()  # pyright: ignore[reportAttributeAccessIssue]


def test_a_run_that_is_stopped_while_it_is_tested_has_the_same_log_in_the_end(tested, tmp_path):
    out = tmp_path / "run"
    recipe = load_recipe("digits", TESTED)
    with pytest.raises(TrainingStopped):
        train(recipe, out, progress=False, callbacks=[SignalWhileTesting()])
    assert log_of(out) == log_of(tested)[:1]
    state = torch.load(out / "checkpoint-last.ckpt", weights_only=True)
    assert state["epoch"] == 1 and state["under_way"]["batches"] > 0
    train(recipe, out, resume=True, progress=False)
    assert log_of(out) == log_of(tested)
    assert_equal_nets(tested, out)


def test_a_run_goes_on_with_the_columns_that_it_began_with(tested, tmp_path):
    class Stop(Callback):
        def on_epoch(self, trainer: Trainer, epoch: Epoch) -> None:
            if epoch.epoch == 2:
                raise KeyboardInterrupt

    recipe = load_recipe("digits", TESTED)
    with pytest.raises(KeyboardInterrupt):
        train(recipe, tmp_path / "run", progress=False, callbacks=[Stop()])
    train(recipe, tmp_path / "run", resume=True, progress=False)
    assert log_of(tmp_path / "run") == log_of(tested)
    assert list(log_of(tested)[0])[-1] == "test_top1"
