"""Runs: what they write, that they go on where they stopped, and how they fail."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from interrupting import Interrupt
from safetensors.torch import load_file
from torch import nn

from stimulative import data as data_room
from stimulative import models
from stimulative.config import OptimizerSettings, ScheduleSettings
from stimulative.errors import UsageError
from stimulative.runs import read_metrics
from stimulative.runs.metrics import columns_of
from stimulative.training import Diverged, load_recipe, optimizer_of, train
from stimulative.training.optimization import schedule_of

TINY = {
    "model.arguments": {"width": 4},
    "schedule.epochs": 3,
    "training.threads": 1,
    "training.log_every": 5,
}


def tiny(**overrides):
    return load_recipe("digits", {**TINY, **overrides})


def weights(directory: Path) -> dict[str, torch.Tensor]:
    return load_file(directory / "model.safetensors")


def assert_equal_weights(first: Path, second: Path) -> None:
    one, other = weights(first), weights(second)
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert torch.equal(value, other[name]), name


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "finished"
    train(tiny(), out, progress=False)
    return out


def test_a_run_directory_holds_everything(finished):
    assert {path.name for path in finished.iterdir()} == {
        ".lock",
        "authorship.json",
        "checksums.json",
        "recipe.yaml",
        "environment.json",
        "metrics.csv",
        "tensorboard",
        "checkpoint-last.ckpt",
        "checkpoint-previous.ckpt",
        "checkpoint-best.ckpt",
        "model.safetensors",
        "summary.json",
    }
    assert load_recipe(finished / "recipe.yaml") == tiny()
    assert list((finished / "tensorboard").glob("events.out.tfevents.*"))
    environment = json.loads((finished / "environment.json").read_text())
    assert environment["seed"] == 0 and torch.__version__.startswith(environment["versions"]["torch"])


def test_the_summary_names_what_was_done(finished):
    summary = json.loads((finished / "summary.json").read_text())
    assert set(summary) == {
        *("method", "model", "data", "seed", "epochs", "steps", "train_seconds", "peak_memory_mib", "parameters"),
        *("main", "subnets", "device", "versions", "task", "format", "calibration"),
    }
    assert summary["method"] == "stimulative" and summary["model"] == "cifar/resnet20" and summary["data"] == "digits"
    assert summary["task"] == "images" and summary["format"] == 1
    assert summary["subnets"]["count"] == 27 and summary["subnets"]["evaluated"] == 0
    assert set(summary["main"]) == {"top1", "loss", "macro_f1", "by_class"} and summary["main"]["top1"] > 15
    parameters = sum(v.numel() for k, v in weights(finished).items() if "running" not in k and "num_" not in k)
    assert summary["parameters"] == parameters


def test_metrics_have_a_row_an_epoch(finished):
    rows = read_metrics(finished / "metrics.csv")
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    assert list(rows[0]) == [*columns_of("top1").values()]
    assert float(rows[-1]["loss"]) < float(rows[0]["loss"])
    assert float(rows[-1]["train_top1"]) > float(rows[0]["train_top1"])


def test_the_best_checkpoint_is_that_of_the_best_validation(finished):
    best = torch.load(finished / "checkpoint-best.ckpt", weights_only=True)
    rows = read_metrics(finished / "metrics.csv")
    scores = [float(row["validation_top1"]) for row in rows]
    assert best["epoch"] == max(e for e, score in enumerate(scores, start=1) if score == max(scores))


def test_the_same_seed_gives_the_same_net_and_another_one_another(finished, tmp_path):
    train(tiny(), tmp_path / "same", progress=False)
    train(tiny(seed=1), tmp_path / "other", progress=False)
    assert_equal_weights(finished, tmp_path / "same")
    assert not torch.equal(weights(finished)["conv1.weight"], weights(tmp_path / "other")["conv1.weight"])


INTERRUPTS = {
    "first epoch": {"step": 4},
    "middle": {"step": 14},
    "between the log and the checkpoints": {"epoch": 2},
    "between best and last": {"checkpoint": ("checkpoint-best.ckpt", 1)},
    "before the summary": {"checkpoint": ("checkpoint-last.ckpt", 3)},
}


@pytest.mark.parametrize("where", INTERRUPTS)
def test_an_interrupted_run_goes_on_to_the_same_weights(finished, tmp_path, where):
    out = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        train(tiny(), out, progress=False, callbacks=[Interrupt(**INTERRUPTS[where])])
    assert not (out / "summary.json").exists()
    torch.rand(17)  # what happens in between must not matter
    train(tiny(), out, resume=True, progress=False)
    assert_equal_weights(finished, out)
    assert len(read_metrics(out / "metrics.csv")) == 3
    for column in ("loss", "subnet_kl", "validation_top1"):
        expected = [row[column] for row in read_metrics(finished / "metrics.csv")]
        assert [row[column] for row in read_metrics(out / "metrics.csv")] == expected


def test_a_killed_run_goes_on_to_the_same_weights(finished, tmp_path):
    out = tmp_path / "run"
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(tiny().to_yaml())
    command = [sys.executable, "-m", "stimulative", "train", str(recipe), "--out", str(out), "--resume"]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        if (out / "metrics.csv").exists() and len(read_metrics(out / "metrics.csv")) >= 1:
            break
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL and not (out / "summary.json").exists()
    subprocess.run(command, check=True, capture_output=True)
    assert_equal_weights(finished, out)


def test_a_finished_run_is_not_trained_again(finished):
    before = {path: path.stat().st_mtime_ns for path in finished.iterdir()}
    summary = train(tiny(), finished, resume=True, progress=False)
    assert summary == json.loads((finished / "summary.json").read_text())
    assert {path: path.stat().st_mtime_ns for path in finished.iterdir()} == before


def test_a_run_is_not_overwritten(finished):
    with pytest.raises(UsageError, match="holds a run already: go on with it"):
        train(tiny(), finished, progress=False)


def test_a_run_does_not_go_on_with_another_recipe(finished):
    with pytest.raises(UsageError, match=r"another recipe.*schedule\.epochs: 3 then, 5 now"):
        train(tiny(**{"schedule.epochs": 5}), finished, resume=True, progress=False)


def test_a_damaged_checkpoint_is_named(finished, tmp_path):
    (tmp_path / "recipe.yaml").write_text(tiny().to_yaml())
    (tmp_path / "checkpoint-last.ckpt").write_bytes((finished / "checkpoint-last.ckpt").read_bytes()[:5000])
    with pytest.raises(UsageError, match=r"checkpoint-last\.ckpt cannot be read as a checkpoint"):
        train(tiny(), tmp_path, resume=True, progress=False)


@pytest.mark.parametrize("content", [{"a": 1}, [1, 2]])
def test_a_file_that_is_no_checkpoint_is_named(tmp_path, content):
    (tmp_path / "recipe.yaml").write_text(tiny().to_yaml())
    torch.save(content, tmp_path / "checkpoint-last.ckpt")
    with pytest.raises(UsageError, match=r"checkpoint-last\.ckpt is no checkpoint of a run: it lacks best, epoch, "):
        train(tiny(), tmp_path, resume=True, progress=False)


def test_a_run_without_its_checkpoint_is_not_started_anew(tmp_path):
    (tmp_path / "recipe.yaml").write_text(tiny().to_yaml())
    with pytest.raises(UsageError, match=r"has lost its checkpoints and cannot go on"):
        train(tiny(), tmp_path, resume=True, progress=False)


def test_a_model_with_the_wrong_number_of_outputs_is_refused(tmp_path):
    model = models.build("cifar/resnet20", classes=7, channels=1)
    with pytest.raises(UsageError, match=r"gives shape \(2, 7\) for 2 images, but digits has 10 classes"):
        train(tiny(), tmp_path / "run", model=model, progress=False)


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_last_checkpoint(tmp_path):
    with pytest.raises(Diverged, match=r"(?s)no longer a finite number.*Try a lower optimizer\.lr"):
        train(tiny(**{"optimizer.lr": 1e12, "schedule.warmup_epochs": 0}), tmp_path / "run", progress=False)
    state = torch.load(tmp_path / "run" / "checkpoint-last.ckpt", weights_only=True)
    assert all(torch.isfinite(v).all() for v in state["method"].values() if isinstance(v, torch.Tensor))
    assert not (tmp_path / "run" / "summary.json").exists()


def test_a_loss_that_stays_at_chance_is_warned_about(tmp_path):
    with pytest.warns(UserWarning, match=r"after epoch 2 the training loss is still 2\.\d+, about ln\(10\) = 2\.303"):
        train(tiny(**{"optimizer.lr": 1e-9}), tmp_path / "run", progress=False)


TRANSFORMER = {
    "model.name": "timm/vit_tiny_patch16_224",
    "model.arguments": {"img_size": 8, "patch_size": 4, "depth": 3, "embed_dim": 24, "num_heads": 2},
    "data.crop_padding": 0,
    "schedule.epochs": 1,
    "optimizer.lr": 0.01,
}


def test_accumulated_batches_train_like_one_large_batch(tmp_path):
    whole = tiny(**TRANSFORMER, **{"data.batch_size": 200, "method.name": "common"})
    parts = tiny(**TRANSFORMER, **{"data.batch_size": 100, "training.accumulate": 2, "method.name": "common"})
    train(whole, tmp_path / "whole", progress=False)
    train(parts, tmp_path / "parts", progress=False)
    one, other = weights(tmp_path / "whole"), weights(tmp_path / "parts")
    started = one["blocks.0.attn.qkv.weight"]
    assert torch.allclose(started, other["blocks.0.attn.qkv.weight"], atol=2e-5)


def test_more_processes_than_cores_are_refused_before_they_start(tmp_path, monkeypatch):
    monkeypatch.setattr("os.cpu_count", lambda: 4)
    with pytest.raises(UsageError, match=r"training\.devices: on the CPU .* each of the 4 cores at most, got 99"):
        train(tiny(**{"training.devices": 99, "training.device": "cpu"}), tmp_path / "run", progress=False)


@pytest.mark.parametrize(
    "overrides",
    [
        {"training.precision": "bf16-mixed", "method.schedule": "lean"},
        {"training.precision": "64-true"},
        {"training.channels_last": True, "optimizer.clip_norm": 1.0},
        {"optimizer.name": "adamw", "optimizer.lr": 0.002, "optimizer.decay_norms_and_biases": True},
        {"method.freeze_subnet_statistics": False, "method.every": 2, "training.label_smoothing": 0.1},
    ],
)
def test_settings_of_the_loop_train(tmp_path, overrides):
    out = tmp_path / "run"
    summary = train(tiny(**{"schedule.epochs": 2}, **overrides), out, progress=False)
    rows = read_metrics(out / "metrics.csv")
    assert float(rows[1]["main_ce"]) < float(rows[0]["main_ce"])
    assert summary["main"]["top1"] > 12


@pytest.mark.parametrize("schedule", ["joint", "lean"])
@pytest.mark.parametrize(
    ("precision", "dtype"), [("bf16-mixed", torch.bfloat16), ("64-true", torch.float64), ("32-true", torch.float32)]
)
def test_the_precision_is_that_of_the_computation(tmp_path, schedule, precision, dtype):
    model = models.build("cifar/resnet20", classes=10, channels=1, arguments={"width": 4})
    seen = set()
    model.layer2[0].conv1.register_forward_hook(lambda m, x, output: seen.add(output.dtype) if m.training else None)
    recipe = tiny(
        **{
            "training.precision": precision,
            "method.schedule": schedule,
            "schedule.epochs": 1,
            "method.balance_ramp": 0.0,
        }
    )
    train(recipe, tmp_path / "run", model=model, progress=False)
    assert seen == {dtype}


def test_weight_decay_leaves_norms_and_biases_alone():
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 2))
    decayed = [
        parameter
        for group in optimizer_of(net, OptimizerSettings(weight_decay=0.1)).param_groups
        if group["weight_decay"]
        for parameter in group["params"]
    ]
    assert {id(p) for p in decayed} == {id(net[0].weight), id(net[2].weight)}
    everything = optimizer_of(net, OptimizerSettings(weight_decay=0.1, decay_norms_and_biases=True)).param_groups
    assert [group["weight_decay"] for group in everything] == [0.1] and len(everything[0]["params"]) == 6


def test_the_learning_rate_rises_and_falls_along_a_cosine():
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=2.0)
    scheduler = schedule_of(optimizer, ScheduleSettings(epochs=5, warmup_epochs=1, final_lr=0.1), steps_per_epoch=4)
    rates = []
    for _ in range(20):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert rates[:4] == pytest.approx([0.4, 0.8, 1.2, 1.6])
    assert rates[4] == pytest.approx(2.0)
    assert rates[12] == pytest.approx(0.2 + 1.8 / 2)  # halfway down the cosine
    assert rates[4:] == sorted(rates[4:], reverse=True)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.2)


class OwnBlock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(12, 12)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.inner(x).relu()


def test_a_model_and_loaders_of_ones_own(tmp_path):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(64, 3, 2, 2, generator=generator)
    y = (x.mean((1, 2, 3)) > 0).long()
    pairs = torch.utils.data.TensorDataset(x, y)
    shuffled = torch.utils.data.DataLoader(
        pairs, batch_size=16, shuffle=True, generator=torch.Generator().manual_seed(0)
    )
    plain = torch.utils.data.DataLoader(pairs, batch_size=32)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), OwnBlock(), OwnBlock(), nn.Linear(12, 2))
    recipe = tiny(**{"schedule.epochs": 30, "optimizer.lr": 0.05})
    data = data_room.from_loaders(shuffled, plain, plain, classes=2)
    summary = train(recipe, tmp_path / "run", data=data, model=model, progress=False)
    assert summary["main"]["top1"] > 90 and summary["subnets"]["count"] == 2
