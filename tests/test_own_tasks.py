"""Loaders of one's own for other tasks than classes: trained on by a recipe, measured, refused if they do not fit."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stimulative.config import load_recipe
from stimulative.data import from_loaders
from stimulative.errors import UsageError
from stimulative.runs import RunDirectory, read_metrics
from stimulative.tasks import OwnTask
from stimulative.training import train


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(8, 8, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.a(x.relu())


class Net(nn.Module):
    def __init__(self, outputs: int, *, pooled: bool) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.blocks = nn.Sequential(Block(), Block())
        self.head = nn.Conv2d(8, outputs, 1)
        self.pooled = pooled

    def forward(self, x: Tensor) -> Tensor:
        z = self.head(self.blocks(self.stem(x)))
        return z.mean((2, 3)) if self.pooled else z


def batches(targets: Any, count: int = 4) -> list[Any]:
    numbers = torch.Generator().manual_seed(0)
    return [(x, targets(x)) for x in (torch.rand(8, 3, 8, 8, generator=numbers) for _ in range(count))]


def trained(tmp_path: Any, targets: Any, task: Any, classes: int, *, pooled: bool) -> Any:
    data = from_loaders(*(batches(targets),) * 3, classes=classes, task=task)
    torch.manual_seed(0)
    settings = {"schedule.epochs": 8, "method.name": "stimulative", "optimizer.lr": 0.05}
    recipe = load_recipe("digits", settings)
    train(recipe, tmp_path / "run", data=data, model=Net(classes, pooled=pooled), progress=False)
    return RunDirectory(tmp_path / "run").summary.main, read_metrics(tmp_path / "run" / "metrics.csv")


def colours(x: Tensor) -> Tensor:
    return x.mean((2, 3))[:, :2]


def negative(x: Tensor) -> Tensor:
    return 1 - x


def test_numbers_are_learned(tmp_path):
    main, rows = trained(tmp_path, colours, "regression", 2, pooled=True)
    assert main.measure == "r2"
    assert main.quality == pytest.approx(float(rows[-1]["validation_r2"]), abs=1e-3)
    assert float(rows[-1]["validation_loss"]) < float(rows[0]["validation_loss"])
    assert "mae" in main.more


def test_images_of_images_are_learned(tmp_path):
    main, rows = trained(tmp_path, negative, "image_to_image", 3, pooled=False)
    assert main.measure == "psnr"
    assert main.quality > float(rows[0]["validation_psnr"]) > 0


def test_a_task_of_ones_own_is_learned_by_its_own_loss_and_score(tmp_path):
    def score(outputs: Tensor, targets: list[dict[str, Tensor]]) -> Tensor:
        return -F.l1_loss(outputs, torch.stack([one["colour"] for one in targets]))

    task = OwnTask(lambda z, y: -score(z, y), lambda subnet, main, y: F.l1_loss(subnet, main), score=score)
    main, rows = trained(tmp_path, lambda x: [{"colour": one} for one in colours(x)], task, 2, pooled=True)
    assert main.measure == "score"
    assert main.quality == pytest.approx(-main.loss)
    assert main.quality > float(rows[0]["validation_score"])


@pytest.mark.parametrize(
    ("targets", "task", "classes", "message"),
    [
        (
            lambda x: torch.zeros(8, dtype=torch.long),
            "regression",
            1,
            "train must give targets for regression.*y.float",
        ),
        (lambda x: torch.zeros(8, 3), "multilabel", 4, "train must give targets for multilabel, as classes=4 says"),
        (lambda x: torch.full((8, 8, 8), 7), "segmentation", 4, "class indices are from 0 to 3"),
        (colours, None, 2, "train must give one label per image"),
        (colours, "regresion", 2, "did you mean 'regression'"),
    ],
)
def test_targets_that_do_not_fit_are_refused(targets, task, classes, message):
    with pytest.raises(UsageError, match=message):
        from_loaders(*(batches(targets),) * 3, classes=classes, task=task)


def test_a_net_that_does_not_fit_the_task_is_refused_before_training(tmp_path):
    data = from_loaders(
        *(batches(lambda x: torch.zeros(8, 8, 8, dtype=torch.long)),) * 3, classes=4, task="segmentation"
    )
    recipe = load_recipe("digits", {"schedule.epochs": 1})
    with pytest.raises(UsageError, match=r"segmentation takes logits .*the model gives \(2, 4\)"):
        train(recipe, tmp_path / "run", data=data, model=Net(4, pooled=True), progress=False)
    assert not (tmp_path / "run" / "recipe.yaml").exists()
