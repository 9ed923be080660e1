"""Scores of each task against scikit-learn, SciPy and arithmetic, batch by batch as all at once."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.stats import spearmanr
from sklearn.metrics import average_precision_score, f1_score, jaccard_score, r2_score
from torch import Tensor

from stimulative.runs import MainScore, Score
from stimulative.tasks import Classification, Embedding, ImageToImage, MultiLabel, OwnTask, Regression, Segmentation

G = torch.Generator().manual_seed(0)


def measured(task: Any, outputs: Tensor, targets: Any, batch: int = 7) -> Any:
    meter = task.meter()
    for start in range(0, len(outputs), batch):
        meter.add(outputs[start : start + batch], targets[start : start + batch])
    return meter.measured()


def test_classes():
    z, y = torch.randn(50, 4, generator=G), torch.randint(3, (50,), generator=G)  # class 3 does not occur
    found = measured(Classification(), z, y)
    assert found.quality == pytest.approx(100 * float((z.argmax(1) == y).double().mean()))
    assert found.loss == pytest.approx(float(F.cross_entropy(z.double(), y)), abs=1e-6)
    f1 = 100 * f1_score(y, z.argmax(1), average=None, labels=[0, 1, 2])
    assert list(found.by_class) == [0, 1, 2]
    assert list(found.by_class.values()) == pytest.approx(list(f1), abs=1e-3)
    assert found.more["macro_f1"] == pytest.approx(f1.mean(), abs=1e-3)


def test_one_logit_is_two_classes():
    z, y = torch.randn(30, 1, generator=G), torch.randint(2, (30,), generator=G)
    found = measured(Classification(), z, y)
    assert found.quality == pytest.approx(100 * float(((z[:, 0] > 0).long() == y).double().mean()))
    assert found.loss == pytest.approx(float(F.binary_cross_entropy_with_logits(z[:, 0], y.float())), abs=1e-6)


def test_positions_that_do_not_count():
    z, y = torch.randn(6, 5, 9, generator=G), torch.randint(9, (6, 5), generator=G)
    y[:, 3:] = -100
    found = measured(Classification(), z, y, batch=4)
    assert found.quality == pytest.approx(100 * float((z.argmax(-1) == y)[:, :3].double().mean()))
    assert found.loss == pytest.approx(float(F.cross_entropy(z[:, :3].flatten(0, 1), y[:, :3].flatten())), abs=1e-6)
    assert Score.of(found, "top1").perplexity == pytest.approx(math.exp(found.loss))


def test_labels():
    z, y = torch.randn(60, 5, generator=G), torch.randint(2, (60, 5), generator=G).float()
    y[:, 4] = 0  # it does not occur
    y[:10, 1] = -100
    found = measured(MultiLabel(), z, y)
    known = [y[:, at] != -100 for at in range(4)]
    precision = [100 * average_precision_score(y[k, at], z[k, at]) for at, k in enumerate(known)]
    assert list(found.by_class) == [0, 1, 2, 3]
    assert list(found.by_class.values()) == pytest.approx(precision, abs=1e-3)
    assert found.quality == pytest.approx(np.mean(precision), abs=1e-3)
    f1 = [100 * f1_score(y[k, at], z[k, at] > 0) for at, k in enumerate(known)]
    assert found.more["macro_f1"] == pytest.approx(np.mean(f1), abs=1e-3)
    mask = y != -100
    assert found.loss == pytest.approx(float(F.binary_cross_entropy_with_logits(z[mask], y[mask])), abs=1e-6)


def test_pixels():
    z, y = torch.randn(9, 4, 6, 6, generator=G), torch.randint(3, (9, 6, 6), generator=G)
    y[0] = 255
    found = measured(Segmentation(), z, y, batch=4)
    right, given = y[1:].flatten(), z[1:].argmax(1).flatten()
    overlap = 100 * jaccard_score(right, given, average=None, labels=[0, 1, 2, 3])
    assert list(found.by_class.values()) == pytest.approx(list(overlap), abs=1e-3)
    assert found.quality == pytest.approx(overlap.mean(), abs=1e-3)
    assert found.more["pixel_accuracy"] == pytest.approx(100 * float((right == given).double().mean()))
    assert found.loss == pytest.approx(float(F.cross_entropy(z[1:], y[1:])), abs=1e-6)


def test_a_class_that_neither_occurs_nor_is_predicted_has_no_iou():
    z, y = torch.zeros(2, 3, 4, 4), torch.zeros(2, 4, 4, dtype=torch.long)
    z[:, 0] = 1
    assert measured(Segmentation(), z, y).by_class == {0: 100.0}


@pytest.mark.parametrize("outputs", [1, 3])
def test_numbers(outputs: int):
    y = torch.randn(40, outputs, generator=G)
    z = y + 0.3 * torch.randn(40, outputs, generator=G)
    found = measured(Regression(), z, y)
    assert found.quality == pytest.approx(r2_score(y, z), abs=1e-5)
    assert found.loss == pytest.approx(float(F.mse_loss(z, y)), abs=1e-6)
    assert found.more["mae"] == pytest.approx(float((z - y).abs().mean()), abs=1e-6)


def test_images_of_images():
    y = torch.rand(10, 3, 8, 8, generator=G)
    z = y + 0.1 * torch.randn(y.shape, generator=G)
    found = measured(ImageToImage(), z, y, batch=4)
    each = -10 * torch.log10((z - y).square().mean((1, 2, 3)))
    assert found.quality == pytest.approx(float(each.mean()), abs=1e-4)
    assert found.loss == pytest.approx(float(F.mse_loss(z, y)), abs=1e-7)


def test_embeddings():
    y = torch.randn(20, 8, generator=G)
    z = y + torch.randn(20, 8, generator=G)
    found = measured(Embedding(), z, y)
    assert found.quality == pytest.approx(float(F.cosine_similarity(z, y).mean()), abs=1e-6)
    pairs = np.triu_indices(20, 1)
    similar = [(F.normalize(one) @ F.normalize(one).T).numpy()[pairs] for one in (z, y)]
    assert found.more["rank_correlation"] == pytest.approx(spearmanr(*similar).statistic, abs=1e-5)


def test_a_score_of_ones_own_is_the_mean_over_samples():
    z, y = torch.randn(20, 3, generator=G), torch.randn(20, 3, generator=G)
    task = OwnTask(F.l1_loss, score=lambda outputs, targets: (outputs * targets).mean())
    found = measured(task, z, y)
    assert found.quality == pytest.approx(float((z * y).mean()), abs=1e-6)
    assert found.loss == pytest.approx(float(F.l1_loss(z, y)), abs=1e-6)
    assert measured(OwnTask(F.l1_loss), z, y).quality == pytest.approx(-float(F.l1_loss(z, y)), abs=1e-6)


@pytest.mark.parametrize(("measure", "key"), [("top1", "top1"), ("miou", "miou"), ("psnr", "psnr")])
def test_files_call_a_quality_by_its_measure(measure: str, key: str):
    score = MainScore(61.5, 0.7, more={"pixel_accuracy": 90.0}, measure=measure, by_class={"cat": 50.0})
    mapping = score.to_mapping()
    assert mapping == {key: 61.5, "loss": 0.7, "pixel_accuracy": 90.0, "by_class": {"cat": 50.0}}
    assert MainScore.from_mapping(mapping) == score
