"""Which training images statistics come from: other hands' checkpoint against a plain loop, and which view is taken."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from sklearn.datasets import load_digits
from torch import Tensor, nn

from stimulative.analysis import evaluate
from stimulative.cli import main
from stimulative.config import load_recipe
from stimulative.data import load
from stimulative.errors import UsageError
from stimulative.runs import Calibration, RunDirectory
from stimulative.studies import ComparisonPlan, compare
from stimulative.training import train, warn_of_loss

SIDE, MEAN, STD = 16, (0.31, 0.32, 0.33), (0.21, 0.22, 0.23)

NET = """
from torch import nn


class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width),
        )

    def forward(self, x):
        return (x + self.body(x)).relu()


class Net(nn.Module):
    def __init__(self, num_classes=10):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU())
        self.one = nn.Sequential(Block(8), Block(8), Block(8))
        self.down = nn.Conv2d(8, 16, 3, stride=2, padding=1)
        self.two = nn.Sequential(Block(16), Block(16))
        self.head = nn.Linear(16, num_classes)

    def forward(self, x):
        return self.head(self.two(self.down(self.one(self.stem(x)))).mean((2, 3)))
"""


@pytest.fixture(scope="module")
def published(tmp_path_factory) -> Path:
    """Digits as images in folders, and weights that a plain loop has trained on them, without crops."""
    root = tmp_path_factory.mktemp("published")
    digits = load_digits()
    for number, (image, label) in enumerate(zip(digits.images, digits.target, strict=True)):
        folder = root / "digits" / ("val" if number % 3 == 0 else "train") / str(label)
        folder.mkdir(parents=True, exist_ok=True)
        grey = Image.fromarray((image * 15.9).astype(np.uint8)).resize((SIDE, SIDE), Image.Resampling.BILINEAR)
        grey.convert("RGB").save(folder / f"{number:04}.png")
    (root / "othernet.py").write_text(NET)
    x, y = plain_images(root / "digits" / "train")
    torch.manual_seed(0)
    net = made(root)
    optimizer = torch.optim.SGD(net.parameters(), 0.05, momentum=0.9)
    for epoch in range(6):
        optimizer.param_groups[0]["lr"] = 0.05 if epoch < 4 else 0.005  # small steps, so that its statistics settle
        order = torch.randperm(len(x), generator=torch.Generator().manual_seed(epoch))
        for batch in order.split(64):
            optimizer.zero_grad()
            F.cross_entropy(net(x[batch]), y[batch]).backward()
            optimizer.step()
    torch.save(net.state_dict(), root / "weights.pth")
    return root


def made(root: Path) -> Any:
    space: dict[str, Any] = {}
    exec((root / "othernet.py").read_text(), space)
    return space["Net"]()


def plain_images(split: Path) -> tuple[Tensor, Tensor]:
    """All images of a split, normalised, in the order of their folders and names."""
    files = sorted(split.glob("*/*.png"))
    pixels = torch.from_numpy(np.stack([np.asarray(Image.open(file)) for file in files])).permute(0, 3, 1, 2) / 255
    labels = torch.tensor([int(file.parent.name) for file in files])
    return (pixels - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None], labels


def plain_accuracy(net: nn.Module, x: Tensor, y: Tensor) -> float:
    net.eval()
    with torch.no_grad():
        return 100 * float((net(x).argmax(1) == y).double().mean())


def recalibrated(net: Any, batches: list[Tensor]) -> Any:
    """A copy whose BatchNorms have the mean over batches of each batch's mean and biased variance."""
    net = copy.deepcopy(net).train()
    norms = [module for module in net.modules() if isinstance(module, nn.BatchNorm2d)]
    sums = {norm: [torch.zeros(norm.num_features), torch.zeros(norm.num_features)] for norm in norms}
    total = sum(len(batch) for batch in batches)

    def add(norm: Any, args: Any) -> None:
        sums[norm][0] += args[0].mean((0, 2, 3)) * batch_size / total
        sums[norm][1] += args[0].var((0, 2, 3), correction=0) * batch_size / total

    handles = [norm.register_forward_pre_hook(add) for norm in norms]
    with torch.no_grad():
        for batch in batches:
            batch_size = len(batch)
            net(batch)
    for norm, handle in zip(norms, handles, strict=True):
        handle.remove()
        norm.running_mean, norm.running_var = sums[norm]
    return net.eval()


def options(root: Path) -> list[str]:
    pixels = ["--data.image_size", str(SIDE), "--data.crop_ratio", "1.0", "--data.workers", "0"]
    normal = ["--data.mean", str(list(MEAN)), "--data.std", str(list(STD))]
    return ["--data", f"folder:{root / 'digits'}", *pixels, *normal]


@pytest.mark.parametrize("view", ["evaluation", "training"])
def test_a_checkpoint_of_other_hands_has_the_numbers_of_a_plain_loop(published, tmp_path, monkeypatch, capsys, view):
    monkeypatch.chdir(published)
    weights = ["--model", "othernet:Net", "--weights", "weights.pth", "--out", str(tmp_path / "run")]
    crops = ["--data.crop_scale", "[1, 1]", "--data.crop_aspect", "[1, 1]", "--data.flip", "false"]
    asked = [*crops, "--evaluation.calibration", view, "--evaluation.calibration_images", "500"]
    assert main(["evaluate", *weights, *options(published), *asked, "--no-latency", "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)

    net = made(published)
    net.load_state_dict(torch.load(published / "weights.pth"))
    x, y = plain_images(published / "digits" / "val")
    data = load(RunDirectory(tmp_path / "run").recipe.data, seed=0)
    batches = [batch for batch, _ in data.calibration_as(view)][:1]  # 500 images each
    found = {}
    for one in (1, 2, 3):
        for two in (1, 2):
            small = copy.deepcopy(net)
            small.one, small.two = small.one[:one], small.two[:two]
            found[f"{one}-{two}"] = plain_accuracy(recalibrated(small, batches), x, y)
    assert summary["main"]["top1"] == pytest.approx(plain_accuracy(net, x, y), abs=0.1)
    family = {str(member.subnet): member.score.quality for member in RunDirectory(tmp_path / "run").family}
    assert family == pytest.approx(found, abs=0.1)
    assert summary["subnets"]["mean"] == pytest.approx(np.mean(list(found.values())), abs=0.1)
    assert summary["calibration"]["view"] == view
    assert summary["calibration"]["setting"] == view
    assert summary["calibration"]["images"] == 500


def test_auto_takes_the_view_that_suits_the_main_net_on_the_validation_part(published, tmp_path, monkeypatch, capsys):
    """The net never saw crops, so statistics of crops of 8 to 100 % of the area are bad for it."""
    monkeypatch.chdir(published)
    weights = ["--model", "othernet:Net", "--weights", "weights.pth", "--no-latency"]
    assert main(["evaluate", *weights, *options(published), "--out", str(tmp_path / "auto")]) == 0
    shown = capsys.readouterr().out
    calibration = RunDirectory(tmp_path / "auto").summary.calibration
    assert calibration is not None
    assert (calibration.view, calibration.setting) == ("evaluation", "auto")
    assert calibration.training is not None
    assert calibration.evaluation is not None
    assert calibration.evaluation > calibration.training + 5
    assert "training images prepared as for evaluation" in shown
    for value in (calibration.own, calibration.training, calibration.evaluation):
        assert f"{value:.2f}%" in shown

    forced = [*options(published), "--evaluation.calibration", "training", "--out", str(tmp_path / "training")]
    with pytest.warns(UserWarning, match=r"by its own statistics .*data\.crop_scale.*evaluation\.calibration: auto"):
        assert main(["evaluate", *weights, *forced]) == 0
    worse, better = (RunDirectory(tmp_path / name).summary.subnets.mean for name in ("training", "auto"))
    assert better is not None
    assert worse is not None
    assert better > worse + 5
    assert main(["evaluate", str(tmp_path / "training"), "--calibration", "evaluation", "--no-latency"]) == 0
    assert RunDirectory(tmp_path / "training").summary.subnets.mean == pytest.approx(better, abs=0.01)


def test_a_loss_of_a_point_is_said_and_less_is_not(recwarn):
    warn_of_loss(Calibration("training", "auto", 100, 90.0, 89.1, 80.0))
    warn_of_loss(Calibration("training", "auto", 100, None, 10.0, 80.0))
    assert not recwarn
    with pytest.warns(UserWarning, match="has 88.90 on the validation part; by its own statistics 90.00"):
        warn_of_loss(Calibration("evaluation", "auto", 100, 90.0, 80.0, 88.9))


def test_a_run_says_what_its_main_net_has_by_each_kind_of_statistics(tmp_path):
    recipe = load_recipe("digits", {"schedule.epochs": 2, "evaluation.subnets": 3})
    train(recipe, tmp_path / "run", progress=False)
    calibration = RunDirectory(tmp_path / "run").summary.calibration
    assert calibration is not None
    assert None not in (calibration.own, calibration.training, calibration.evaluation)
    better = max(calibration.training or 0, calibration.evaluation or 0)
    assert calibration.recalibrated == better
    evaluate(tmp_path / "run", latency=False)
    after = RunDirectory(tmp_path / "run").summary
    assert after.calibration == calibration  # what was chosen in the end of training holds
    full = RunDirectory(tmp_path / "run").family.by_subnet
    assert max(full.values(), key=lambda one: one.subnet.blocks).score.quality == pytest.approx(
        after.main.quality, abs=0.01
    )


def test_all_runs_of_a_study_take_the_view_of_the_reference(tmp_path, monkeypatch):
    recipe = load_recipe("digits", {"schedule.epochs": 1, "evaluation.subnets": 2})
    plan = ComparisonPlan(recipe, ("stimulative", "common"), seeds=1)
    assert next(iter(plan.jobs)) == "common-seed0"
    compare(plan, tmp_path / "study")
    found = [RunDirectory(tmp_path / "study" / name).summary.calibration for name in plan.jobs]
    first, second = found
    assert first is not None
    assert second is not None
    assert first.setting == "auto"
    assert second.setting == first.view
    assert second.view == first.view


def test_a_view_that_is_not_there_is_refused_before_any_training(tmp_path):
    recipe = load_recipe("digits", {"evaluation.calibration": "evaluation", "schedule.epochs": 1})
    from dataclasses import replace

    data = replace(load(recipe.data, seed=0), plain_calibration=None)
    with pytest.raises(UsageError, match=r"evaluation\.calibration: 'evaluation' needs.*plain_calibration="):
        train(recipe, tmp_path / "run", data=data, progress=False)
    assert not (tmp_path / "run" / "recipe.yaml").exists()


def test_both_views_are_of_the_same_images(published, monkeypatch):
    monkeypatch.chdir(published)
    recipe = load_recipe(
        {"data": {"name": f"folder:{published / 'digits'}"}, "method": {"name": "common"}}, options(published)[2:]
    )
    data = load(recipe.data, seed=3)
    views = [torch.cat([y for _, y in data.calibration_as(view)]) for view in ("training", "evaluation")]
    assert torch.equal(*views)
    x, _ = plain_images(published / "digits" / "train")
    plain = torch.cat([batch for batch, _ in data.calibration_as("evaluation")])
    known = {tuple(image.flatten()[:64].round(decimals=3).tolist()) for image in x}
    assert all(tuple(image.flatten()[:64].round(decimals=3).tolist()) in known for image in plain)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"crop_scale": [0.5, 0.2]}, "data.crop_scale: expected two shares of an image's area"),
        ({"crop_scale": [0.0, 1.0]}, "data.crop_scale"),
        ({"crop_aspect": [2.0, 1.0]}, "data.crop_aspect: expected two ratios"),
    ],
)
def test_impossible_crops_are_refused(settings, message):
    with pytest.raises(UsageError, match=message):
        load_recipe("digits", {"data.name": "fake", **{f"data.{key}": value for key, value in settings.items()}})


def test_crops_keep_to_their_settings(published):
    """Whole images in their own shape are what is left without a random crop."""
    settings = {"name": f"folder:{published / 'digits'}", "image_size": SIDE, "flip": False, "workers": 0}
    settings |= {"crop_ratio": 1.0, "mean": list(MEAN), "std": list(STD)}

    def images(**more: Any) -> Tensor:
        recipe = load_recipe({"data": settings | more, "method": {"name": "common"}})
        return next(iter(load(recipe.data, seed=0).calibration))[0]

    whole = images(crop_scale=[1.0, 1.0], crop_aspect=[1.0, 1.0])
    recipe = load_recipe({"data": settings, "method": {"name": "common"}})
    plain = next(iter(load(recipe.data, seed=0).calibration_as("evaluation")))[0]
    assert torch.equal(whole, plain)
    assert not torch.equal(images(), plain)
