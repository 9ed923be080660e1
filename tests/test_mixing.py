"""Mixup and CutMix: what becomes of images and labels, that epochs replay, and that nothing else is mixed."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from interrupting import Count, Interrupt
from PIL import Image
from safetensors.torch import load_file
from timm.data.mixup import mixup_target
from torch import Tensor

from stimulative.data import Batch, Data, DataSettings, load
from stimulative.data.mixing import MixedLoader
from stimulative.errors import UsageError
from stimulative.objectives import cross_entropy
from stimulative.training import load_recipe, train

MIXINGS: list[dict[str, Any]] = [{"mixup": 1.0}, {"cutmix": 1.0}, {"mixup": 0.8, "cutmix": 1.0}]


class Batches:
    """A loader of given batches."""

    def __init__(self, *batches: Batch) -> None:
        self._batches = batches

    @property
    def images(self) -> int:
        return sum(len(y) for _, y in self._batches)

    def set_epoch(self, epoch: int) -> None: ...

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[Batch]:
        return iter(self._batches)


def numbered(images: int, side: int = 8, classes: int = 10) -> Batch:
    """Images of one value, their number, which is also their class."""
    numbers = torch.arange(images)
    return numbers.float()[:, None, None, None].expand(images, 1, side, side).clone(), numbers % classes


def mixed(*batches: Batch, mixup: float = 0.0, cutmix: float = 0.0, classes: int = 10, seed: int = 0) -> list[Batch]:
    return list(MixedLoader(Batches(*batches), mixup=mixup, cutmix=cutmix, classes=classes, seed=seed))


def opened(**settings: Any) -> Data:
    return load(DataSettings(**{"workers": 0, "batch_size": 32, **settings}), seed=0)


def epoch(data: Data, number: int = 0) -> list[Batch]:
    data.train.set_epoch(number)
    return list(data.train)


def same(first: list[Batch], second: list[Batch]) -> bool:
    return len(first) == len(second) and all(
        torch.equal(x, other_x) and torch.equal(y, other_y)
        for (x, y), (other_x, other_y) in zip(first, second, strict=True)
    )


def draw_always(monkeypatch: pytest.MonkeyPatch, share: float) -> None:
    monkeypatch.setattr(torch.distributions.Beta, "sample", lambda self, shape=(): torch.tensor([share]))


# What becomes of a batch


def test_mixup_by_hand(monkeypatch: pytest.MonkeyPatch):
    draw_always(monkeypatch, 0.25)
    x = torch.tensor([[1.0, 2.0], [3.0, 4.0], [10.0, 20.0]])[:, None, None, :]
    ((images, labels),) = mixed((x, torch.tensor([0, 2, 2])), mixup=1.0, classes=3)
    # a quarter of each image, three quarters of the one before it
    assert images[:, 0, 0].tolist() == [[7.75, 15.5], [1.5, 2.5], [4.75, 8.0]]
    assert labels.tolist() == [[0.25, 0.0, 0.75], [0.75, 0.0, 0.25], [0.0, 0.0, 1.0]]
    assert (images.dtype, labels.dtype) == (torch.float32, torch.float32)


def test_cutmix_by_hand(monkeypatch: pytest.MonkeyPatch):
    draw_always(monkeypatch, 0.75)
    # the box of 1 - 0.75 of 16x16 pixels has 8x8 of them, and may be cut off at the border
    seen = set()
    for seed in range(8):
        ((images, labels),) = mixed(numbered(4, side=16), cutmix=1.0, seed=seed)
        for number, (image, label) in enumerate(zip(images[:, 0], labels, strict=True)):
            partner = (number - 1) % 4
            box = image == partner
            rows, columns = int(box.any(1).sum()), int(box.any(0).sum())
            assert ((image == number) | box).all() and int(box.sum()) == rows * columns
            assert 4 <= rows <= 8 and 4 <= columns <= 8
            wanted = torch.zeros(10)
            wanted[number], wanted[partner] = 1 - rows * columns / 256, rows * columns / 256
            assert torch.equal(label, wanted)
            seen.add((rows, columns))
    assert (8, 8) in seen and len(seen) > 1


@pytest.mark.parametrize("mixing", MIXINGS)
@pytest.mark.parametrize("images", [1, 5, 32])
def test_labels_are_probabilities_and_say_what_is_in_the_images(mixing: dict[str, Any], images: int):
    happened = 0
    for x, y in mixed(*[numbered(images, classes=32)] * 12, **mixing, classes=32):
        assert y.shape == (images, 32) and bool((y >= 0).all())
        assert torch.allclose(y.sum(1), torch.ones(images), atol=1e-6)
        assert torch.allclose(x.mean((1, 2, 3)), y @ torch.arange(32.0), atol=1e-4)
        happened += int((y.max(1).values < 1).any())
    assert happened == 0 if images == 1 else happened > 6


def test_of_two_each_batch_gets_one_and_both_come_equally_often():
    batches = mixed(*[numbered(6)] * 200, mixup=1.0, cutmix=1.0)
    # only mixup makes a value that is no image's
    blended = sum(bool((x != x.round()).any()) for x, _ in batches)
    assert 75 < blended < 125


@pytest.mark.parametrize(("alpha", "low", "high"), [(0.2, 0.05, 0.16), (1.0, 0.22, 0.28), (8.0, 0.38, 0.46)])
def test_a_larger_alpha_mixes_more(alpha: float, low: float, high: float):
    smaller = [float(torch.minimum(y[1, 0], y[1, 1])) for _, y in mixed(*[numbered(2)] * 400, mixup=alpha)]
    assert low < np.mean(smaller) < high  # of Beta(1, 1), a quarter


def test_images_given_are_not_written_into():
    x, y = numbered(6)
    before = x.clone(), y.clone()
    mixed((x, y), mixup=1.0)
    mixed((x, y), cutmix=1.0)
    assert torch.equal(x, before[0]) and torch.equal(y, before[1])


def test_label_smoothing_is_spread_over_mixed_labels():
    ((_, y),) = mixed(numbered(2, classes=4), mixup=1.0, classes=4, seed=3)
    share = float(y[0, 0])
    assert 0.1 < share < 0.9
    logits = torch.randn(2, 4, generator=torch.Generator().manual_seed(0))
    # timm's partner of an image is the last one for the first: of two images, the same one
    wanted = mixup_target(torch.tensor([0, 1]), 4, lam=share, smoothing=0.1)
    assert torch.allclose(cross_entropy(logits, y, label_smoothing=0.1), cross_entropy(logits, wanted))
    by_hand = -((0.9 * y + 0.1 / 4) * logits.log_softmax(1)).sum(1).mean()
    assert torch.allclose(cross_entropy(logits, y, label_smoothing=0.1), by_hand)


# Epochs


def folder_of_images(root: Path) -> str:
    generator = np.random.default_rng(0)
    for split in ("train", "val"):
        for name in ("apple", "pear"):
            (root / split / name).mkdir(parents=True)
            for number in range(12):
                pixels = generator.integers(0, 256, (20, 20, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / split / name / f"{number}.png")
    return f"folder:{root}"


@pytest.mark.parametrize("kind", ["digits", "fake", "folder"])
def test_an_epoch_is_replayed_bit_by_bit(kind: str, tmp_path: Path):
    small = {"batch_size": 6, "image_size": 16}
    settings: dict[str, Any] = {
        "digits": {},
        "fake": {"name": "fake", "images": 40, **small},
        "folder": {"name": folder_of_images(tmp_path) if kind == "folder" else "", **small},
    }[kind]
    both = {"mixup": 1.0, "cutmix": 1.0}
    data = opened(**settings, **both)
    torch.manual_seed(1)
    wanted = [epoch(data, number) for number in range(2)]
    assert not torch.equal(wanted[0][0][1], wanted[1][0][1])
    torch.manual_seed(2)
    again = opened(**settings, **both)
    assert same(epoch(again, 1), wanted[1]) and same(epoch(again, 0), wanted[0]) and same(epoch(data, 0), wanted[0])
    assert not same(epoch(load(DataSettings(**{"workers": 0, **settings, **both}), seed=1)), wanted[0])
    assert (len(wanted[0]), sum(len(y) for _, y in wanted[0])) == (len(data.train), data.train.images)
    # the images of a batch are those that it has without mixing: mixup keeps their mean
    plain, blended = epoch(opened(**settings)), epoch(opened(**settings, mixup=1.0))
    assert not torch.equal(plain[0][0], blended[0][0])
    assert torch.allclose(plain[0][0].mean(0), blended[0][0].mean(0), atol=1e-5)


def test_drawing_leaves_the_random_state_of_the_training_alone():
    data = opened(mixup=1.0, cutmix=1.0)
    torch.manual_seed(123)
    before = torch.get_rng_state()
    for _ in data.train:
        assert torch.equal(torch.get_rng_state(), before)


def test_processes_mix_by_the_same_shares():
    settings = DataSettings(mixup=1.0, batch_size=16)
    first, second = (list(load(settings, seed=0, rank=rank, world_size=2).train) for rank in (0, 1))
    for (_, y), (_, other) in zip(first, second, strict=True):
        shares, others = (
            {round(float(value), 5) for value in labels[(labels > 0) & (labels < 1)]} for labels in (y, other)
        )
        assert shares and shares == others


# What is not mixed


def test_off_by_default_and_then_nothing_is_drawn(monkeypatch: pytest.MonkeyPatch):
    assert (DataSettings().mixup, DataSettings().cutmix) == (0.0, 0.0)
    monkeypatch.setattr("stimulative.data.mixing.MixedLoader", None)  # not to be called
    for x, y in opened().train:
        assert y.dtype == torch.int64 and y.dim() == 1 and len(x) == len(y)


@pytest.mark.parametrize("name", ["digits", "fake"])
@pytest.mark.parametrize("mixing", MIXINGS)
def test_only_training_batches_are_mixed(name: str, mixing: dict[str, Any]):
    settings: dict[str, Any] = {"name": name, **({"images": 40} if name == "fake" else {})}
    plain, data = opened(**settings), opened(**settings, **mixing)
    for part in ("validation", "test", "calibration"):
        assert same(list(getattr(data, part)), list(getattr(plain, part)))
    assert all(y.dim() == 2 for _, y in data.train)
    assert (data.train.images, len(data.train)) == (plain.train.images, len(plain.train))


# What cannot be


@pytest.mark.parametrize("key", ["mixup", "cutmix"])
@pytest.mark.parametrize("value", [-0.1, float("inf"), float("nan"), "much", True])
def test_an_alpha_that_is_none_is_refused(key: str, value: Any):
    with pytest.raises(UsageError, match=rf"^data\.{key}: expected a number of at least 0, got {value!r}$"):
        load(DataSettings(**{key: value}), seed=0)


def test_texts_are_not_mixed():
    (problem,) = DataSettings(name="pydoc", mixup=0.2).problems()
    assert problem.startswith("data.mixup: ") and problem.endswith("got 0.2 for 'pydoc'; leave it out")


# Training


TINY = {
    "model.arguments": {"width": 4},
    "data.batch_size": 256,
    "data.mixup": 0.8,
    "data.cutmix": 1.0,
    "schedule.epochs": 2,
    "training.label_smoothing": 0.1,
    "training.threads": 1,
    "training.loggers": ["csv"],
    "evaluation.calibration_images": 64,
}


def weights(directory: Path) -> dict[str, Tensor]:
    return load_file(directory / "model.safetensors")


@pytest.mark.parametrize("method", ["stimulative", "self_distillation"])
def test_a_run_on_mixed_images_that_was_stopped_goes_on_to_the_same_weights(method: str, tmp_path: Path):
    recipe, count = load_recipe("digits", {**TINY, "method.name": method}), Count()
    whole = train(recipe, tmp_path / "whole", progress=False)
    assert whole["epochs"] == 2

    with pytest.raises(KeyboardInterrupt):
        train(recipe, tmp_path / "run", progress=False, callbacks=[count, Interrupt(step=5)])
    assert len(count.steps) == 5
    assert all(step.part.y.shape == (len(step.part.x), 10) for step in count.steps)
    train(recipe, tmp_path / "run", resume=True, progress=False)
    one, other = weights(tmp_path / "whole"), weights(tmp_path / "run")
    assert one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())
