"""The recipes that come with the package: what they say, that each starts, and stopping a run after some steps."""

import json
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from interrupting import Count, Interrupt
from safetensors.torch import load_file
from timm.layers import DropPath  # pyright: ignore[reportPrivateImportUsage]
from torch import nn

from stimulative import data as data_room
from stimulative import models
from stimulative.cli import main
from stimulative.cli.data_option import data_settings
from stimulative.errors import UsageError
from stimulative.runs import read_metrics
from stimulative.training import Step, Trainer, load_recipe, prepare, train

PAPERS = {
    "cifar10-mobilenetv3": ("cifar/mobilenetv3_large", 5.0),
    "cifar100-mobilenetv3": ("cifar/mobilenetv3_large", 10.0),
    "cifar100-resnet50": ("cifar/resnet50", 10.0),
    "cifar100-resnet101": ("cifar/resnet101", 10.0),
    "imagenet-resnet50": ("timm/resnet50", 1.0),
    "imagenet-resnet50-plus": ("timm/resnet50", 1.0),
    "imagenet-resnet50-plus-400": ("timm/resnet50", 1.0),
}
IMAGENET = [name for name in PAPERS if name.startswith("imagenet")]
TRANSFORMERS = {
    "digits-vit": "timm/vit_tiny_patch16_224",
    "cifar100-vit-tiny": "timm/vit_tiny_patch16_224",
    "imagenet-vit-small": "timm/vit_small_patch16_224",
}
SMALL = {
    "data.images": "2",
    "data.batch_size": "2",
    "data.workers": "0",
    "evaluation.calibration_images": "2",
    "training.threads": "1",
    "training.loggers": "[csv]",
}


def words(settings: dict[str, str]) -> list[str]:
    return [word for key, value in settings.items() for word in (f"--{key}", value)]


def on_fake_images(name: str, **more: str) -> Any:
    return load_recipe(name, [*data_settings(name, "fake"), *words({**SMALL, **more})])


@pytest.fixture
def out(tmp_path: Path) -> Iterator[Path]:
    """A run directory that is not kept: the checkpoints of large nets are gigabytes."""
    yield tmp_path / "run"
    shutil.rmtree(tmp_path / "run", ignore_errors=True)


# The recipes of the papers, and those of transformers


@pytest.mark.parametrize("name", [*PAPERS, *TRANSFORMERS])
def test_a_recipe_starts_on_made_up_images_and_stops_after_a_step(name: str, out: Path, capsys):
    side = {"data.image_size": "16"}
    if name in IMAGENET:
        side = {"data.image_size": "64", "data.evaluation_image_size": "64"}
    elif name in TRANSFORMERS:
        side = {}  # their positions are made for images of one size
    command = ["train", name, "--data", "fake", "--max-steps", "1", "--out", str(out), *words({**SMALL, **side})]
    assert main(command) == 0
    summary = json.loads((out / "summary.json").read_text())
    assert (summary["data"], summary["steps"], summary["epochs"]) == ("fake", 1, 1)
    assert summary["model"] == (TRANSFORMERS[name] if name in TRANSFORMERS else PAPERS[name][0])
    (row,) = read_metrics(out / "metrics.csv")
    assert row["step"] == "1" and float(row["main_ce"]) > 1
    before = {path: path.stat().st_mtime_ns for path in out.iterdir()}
    assert main([*command, "--resume"]) == 0
    assert {path: path.stat().st_mtime_ns for path in out.iterdir()} == before
    capsys.readouterr()


@pytest.mark.parametrize(("name", "model", "balance"), [(name, *said) for name, said in PAPERS.items()])
def test_a_recipe_has_the_network_and_the_balance_of_its_paper(name: str, model: str, balance: float):
    recipe = load_recipe(name)
    assert (recipe.model.name, recipe.method.settings["balance"]) == (model, balance)
    assert recipe.data.name == ("folder:imagenet" if name in IMAGENET else name.partition("-")[0])


@pytest.mark.parametrize("name", IMAGENET)
def test_the_imagenet_recipes_have_the_settings_of_the_published_code(name: str):
    recipe = load_recipe(name)
    optimizer, schedule, data = recipe.optimizer, recipe.schedule, recipe.data
    assert (optimizer.name, optimizer.lr, optimizer.momentum, optimizer.nesterov) == ("sgd", 0.2, 0.9, True)
    assert (optimizer.weight_decay, data.batch_size, data.classes) == (1e-4, 512, 1000)
    assert (schedule.epochs, schedule.final_lr) == (400 if name.endswith("400") else 200, 0.0)
    assert optimizer.decay_norms_and_biases
    assert (data.color_jitter, data.lighting, data.lighting_scale, data.flip) == (0.4, 0.1, "bytes", True)
    assert (recipe.evaluation.calibration, recipe.evaluation.calibration_images) == ("training", 4 * 512)
    assert data.evaluation_batch_size == 512
    assert data.auto_augment == ("uniform-levels" if name.endswith("400") else None)


@pytest.mark.parametrize("name", IMAGENET[1:])
def test_the_plus_recipes_have_the_three_strategies(name: str):
    recipe = load_recipe(name)
    said = recipe.method.settings
    assert (said["objective"], said["amplitude"], said["temperature"], said["normalise_main"]) == (
        *("directional", 1.0, 1.0),
        True,
    )
    assert said["sampler"] == {"name": "interstage", "ranges": [[3, 3], [3, 4], [3, 6], [3, 3]]}
    assert (said["smaller_inputs"], said["subnets_per_step"]) == (0.43, 6)
    assert (said["balance"], said["reduction"]) == (1.0, "sum")  # each of the six at weight 1


@pytest.mark.parametrize(("name", "train_side", "resized"), [("imagenet-resnet50", 224, 256), (IMAGENET[1], 200, 240)])
def test_the_imagenet_recipes_crop_as_the_published_code_does(name: str, train_side: int, resized: int):
    recipe = on_fake_images(name)
    assert round(224 / recipe.data.crop_ratio) == resized
    data = data_room.load(recipe.data, seed=0)
    assert (data.classes, data.image_size, data.evaluation_image_size) == (1000, train_side, 224)
    for loader, side in ((data.train, train_side), (data.calibration, train_side), (data.validation, 224)):
        assert next(iter(loader))[0].shape[1:] == (3, side, side)


def test_the_imagenet_net_starts_with_every_scale_at_one():
    recipe = load_recipe("imagenet-resnet50")
    net = models.build(recipe.model.name, classes=10, arguments=recipe.model.arguments)
    scales = [module.weight for module in net.modules() if isinstance(module, nn.BatchNorm2d)]
    assert len(scales) == 53 and all(bool((scale == 1).all()) for scale in scales)


# The recipes of transformers


@pytest.mark.parametrize(
    ("name", "blocks", "tokens", "width", "dropped"),
    [("digits-vit", 8, 4, 64, 0.0), ("cifar100-vit-tiny", 9, 65, 192, 0.1), ("imagenet-vit-small", 12, 196, 384, 0.0)],
)
def test_a_transformer_can_skip_every_block_and_drops_branches_only_where_its_source_does(
    name: str, blocks: int, tokens: int, width: int, dropped: float
):
    network = prepare(on_fake_images(name)).network
    assert [len(stage.block_names) for stage in network.stages] == [blocks]
    assert network.space.count == blocks
    assert tuple(network.model.get_parameter("pos_embed").shape) == (1, tokens, width)
    rates = [module.drop_prob for module in network.modules() if isinstance(module, DropPath)]
    assert max(rates, default=0.0) == pytest.approx(dropped)


@pytest.mark.parametrize(
    ("name", "mixup", "cutmix"), [("cifar100-vit-tiny", 1.0, 1.0), ("imagenet-vit-small", 0.2, 0.0)]
)
def test_the_recipes_of_large_transformers_mix_images(name: str, mixup: float, cutmix: float):
    recipe = on_fake_images(name)
    assert (recipe.data.mixup, recipe.data.cutmix) == (mixup, cutmix)
    x, y = next(iter(data_room.load(recipe.data, seed=0).train))
    assert y.shape == (len(x), 1000 if name.startswith("imagenet") else 100)


def test_the_cifar_transformer_has_the_settings_of_its_source():
    recipe = load_recipe("cifar100-vit-tiny")
    optimizer, schedule = recipe.optimizer, recipe.schedule
    assert (optimizer.name, optimizer.lr, optimizer.weight_decay, optimizer.decay_norms_and_biases) == (
        *("adamw", 1e-3, 0.05),
        True,
    )
    assert (schedule.epochs, schedule.warmup_epochs, recipe.data.batch_size) == (100, 10, 128)
    assert recipe.training.label_smoothing == 0.1


def test_the_imagenet_transformer_has_the_settings_of_its_source():
    recipe = load_recipe("imagenet-vit-small")
    optimizer, schedule, data = recipe.optimizer, recipe.schedule, recipe.data
    assert (optimizer.name, optimizer.lr, optimizer.clip_norm, schedule.epochs) == ("adamw", 1e-3, 1.0, 90)
    # its weight decay is not multiplied by the learning rate, AdamW's is
    assert optimizer.lr * optimizer.weight_decay == pytest.approx(1e-4)
    steps = int(1_281_167 * (1 - data.validation)) // data.batch_size
    assert schedule.warmup_epochs * steps == pytest.approx(10_000, rel=1e-3)
    assert (data.auto_augment, data.mean, data.std) == ("rand-m10-n2-p1.0", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    assert round(224 / data.crop_ratio) == 256


# A recipe on other images


@pytest.mark.parametrize(
    ("name", "classes", "size"),
    [("digits", 10, 8), ("cifar100-resnet20", 100, 32), (IMAGENET[0], 1000, 224), (IMAGENET[1], 1000, 200)],
)
def test_fake_images_have_the_classes_and_the_size_of_those_they_stand_for(name: str, classes: int, size: int):
    data = data_room.load(on_fake_images(name).data, seed=0)
    assert (data.name, data.classes, data.image_size, data.channels) == ("fake", classes, size, 3)


def test_what_fits_only_the_images_that_are_replaced_is_dropped(tmp_path: Path):
    file = tmp_path / "mine.yaml"
    file.write_text(
        "model: {name: cifar/resnet20}\nmethod: {name: common}\n"
        "data: {name: cifar10, path: somewhere, mean: [0.5, 0.4, 0.3], std: [0.2, 0.2, 0.2], batch_size: 32}\n"
    )
    fake = load_recipe(file, data_settings(file, "fake")).data
    assert (fake.name, fake.path, fake.mean, fake.std, fake.classes, fake.batch_size) == (
        *("fake", None, None, None, 10),
        32,
    )
    digits = load_recipe("imagenet-resnet50-plus-400", data_settings("imagenet-resnet50-plus-400", "digits")).data
    assert (digits.classes, digits.image_size, digits.auto_augment, digits.color_jitter) == (None, None, None, 0.0)
    own = load_recipe("imagenet-resnet50", data_settings("imagenet-resnet50", "folder:pets")).data
    assert (own.name, own.classes, own.image_size, own.color_jitter) == ("folder:pets", None, None, 0.4)
    assert load_recipe("digits", data_settings("digits", None)) == load_recipe("digits")


def test_the_command_line_stands_over_what_is_replaced():
    rest = ["--data.classes", "7", "--data.image_size=48"]
    fake = load_recipe("cifar100-resnet20", [*data_settings("cifar100-resnet20", "fake", rest), *rest]).data
    assert (fake.classes, fake.image_size) == (7, 48)
    with pytest.raises(UsageError, match=r"got both --data and --data\.name"):
        data_settings("digits", "fake", ["--data.name=digits"])


def test_a_recipe_that_cannot_be_read_is_reported_as_ever(tmp_path: Path):
    with pytest.raises(UsageError, match="did you mean 'digits'"):
        load_recipe("digts", data_settings("digts", "fake"))


# Stopping after some steps


TINY = {
    "model.arguments": {"width": 4},
    "schedule.epochs": 3,
    "schedule.warmup_epochs": 3,
    "training.threads": 1,
    "data.batch_size": 256,
}


def tiny(**overrides: Any) -> Any:
    return load_recipe("digits", {**TINY, **overrides})


def weights(directory: Path) -> dict[str, torch.Tensor]:
    return load_file(directory / "model.safetensors")


def same_weights(first: Path, second: Path) -> bool:
    one, other = weights(first), weights(second)
    return one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())


@pytest.fixture(scope="module")
def stopped(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "stopped"
    train(tiny(**{"schedule.max_steps": 4}), out, progress=False)
    return out


def test_a_run_stops_after_the_steps_it_is_given_and_is_finished(stopped: Path, tmp_path: Path):
    summary = json.loads((stopped / "summary.json").read_text())
    assert (summary["steps"], summary["epochs"]) == (4, 2)  # three steps an epoch
    rows = read_metrics(stopped / "metrics.csv")
    assert [(row["epoch"], row["step"]) for row in rows] == [("1", "3"), ("2", "4")]
    state = torch.load(stopped / "checkpoint-last.ckpt", weights_only=True)
    assert state["step"] == 4 and state["scheduler"]["last_epoch"] == 4

    whole = train(tiny(), tmp_path / "whole", progress=False)
    assert (whole["steps"], whole["epochs"]) == (9, 3)
    first = read_metrics(tmp_path / "whole" / "metrics.csv")[0]
    timing = ("images_per_second", "train_seconds")
    # the learning rate and the balance move as in the whole run
    assert {k: v for k, v in first.items() if k not in timing} == {k: v for k, v in rows[0].items() if k not in timing}


def test_a_stopped_run_stays_finished_when_it_is_resumed(stopped: Path, tmp_path: Path, monkeypatch):
    recipe = tiny(**{"schedule.max_steps": 4})
    before = {path: path.stat().st_mtime_ns for path in stopped.iterdir()}
    assert train(recipe, stopped, resume=True, progress=False)["steps"] == 4
    assert {path: path.stat().st_mtime_ns for path in stopped.iterdir()} == before

    copy = tmp_path / "copy"
    shutil.copytree(stopped, copy)
    (copy / "summary.json").unlink()
    (copy / "model.safetensors").unlink()
    count = Count()
    assert train(recipe, copy, resume=True, progress=False, callbacks=[count])["steps"] == 4
    assert not count.steps
    assert same_weights(copy, stopped)


def test_a_stopped_run_that_was_interrupted_goes_on_to_the_same_weights(stopped: Path, tmp_path: Path):
    recipe = tiny(**{"schedule.max_steps": 4})
    with pytest.raises(KeyboardInterrupt):
        train(recipe, tmp_path / "run", progress=False, callbacks=[Interrupt(step=4)])
    train(recipe, tmp_path / "run", resume=True, progress=False)
    assert same_weights(tmp_path / "run", stopped)


@pytest.mark.parametrize(("accumulate", "batches"), [(1, [3, 2]), (2, [3, 3, 2]), (3, [3, 3, 3])])
def test_steps_are_those_of_the_optimiser(accumulate: int, batches: list[int], tmp_path: Path):
    count = Count()
    recipe = tiny(**{"schedule.max_steps": 5, "training.accumulate": accumulate, "method.name": "common"})
    summary = train(recipe, tmp_path / "run", progress=False, callbacks=[count])
    assert list(Counter(step.epoch for step in count.steps).values()) == batches
    assert summary["epochs"] == len(batches)
    assert summary["steps"] == {1: 5, 2: 5, 3: 3}[accumulate]


@pytest.mark.parametrize("accumulate", [1, 2, 4])
def test_the_balance_is_full_at_the_end_however_many_batches_are_accumulated(accumulate: int, tmp_path: Path):
    """The balance rises over the batches that training was said to take: they have to be those that it takes."""

    class Watched(Count):
        def on_step(self, trainer: Trainer, step: Step) -> None:
            super().on_step(trainer, step)
            assert trainer.method.total_steps == 3 * len(trainer.data.train)
            assert trainer.method.step == len(self.steps)

    count = Watched()
    recipe = tiny(**{"training.accumulate": accumulate})
    train(recipe, tmp_path / "run", progress=False, callbacks=[count])
    assert len(count.steps) == 3 * count.steps[0].of


def test_a_last_step_takes_no_more_batches_than_it_needs(tmp_path: Path):
    count = Count()
    recipe = tiny(**{"schedule.max_steps": 1, "training.accumulate": 2, "method.name": "common"})
    assert train(recipe, tmp_path / "run", progress=False, callbacks=[count])["steps"] == 1
    assert [(step.part.share, step.part.last) for step in count.steps] == [(0.5, False), (0.5, True)]


# Images of another size where nothing is trained


def test_a_model_that_cannot_take_the_evaluation_images_is_refused_before_any_training():
    arguments = {"img_size": 16, "patch_size": 4, "depth": 2, "embed_dim": 24, "num_heads": 2}
    settings = {"model.name": "timm/vit_tiny_patch16_224", "model.arguments": arguments}
    recipe = load_recipe("digits", {**settings, "data.name": "fake", "data.image_size": 16, "data.workers": 0})
    prepare(recipe)
    other = recipe.override({"data.evaluation_image_size": 24})
    with pytest.raises(UsageError, match=r"built for training images of 16x16 pixels and does not run on .* 24x24"):
        prepare(other)
