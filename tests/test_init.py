"""A recipe for one's own model and data, and the learning-rate range test."""

import copy
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import yaml
from PIL import Image
from torch import nn

from stimulative import data as data_room
from stimulative.cli import main
from stimulative.errors import UsageError
from stimulative.proposing import Proposal, RangeTest, lr_range_test, propose
from stimulative.proposing.lr_range import DIVERGED, raise_rates
from stimulative.training import load_recipe, prepare, random_states, train

TINY = ["--model.arguments", "{width: 4}", "--training.threads", "1"]
VIT = ["--model.arguments.depth", "2", "--model.arguments.embed_dim", "16", "--model.arguments.num_heads", "2"]
GPT2 = ["--model.arguments", "{n_layer: 2, n_embd: 16, n_head: 2}", "--data.length", "32"]


def folder(path: Path, *, classes: int = 3, images: int = 10, sides: tuple[int, ...] = (50, 90)) -> Path:
    """Images of noise, the shorter side of each in turn one of some lengths."""
    generator = np.random.default_rng(0)
    for split in ("train", "val"):
        for number in range(classes):
            (path / split / str(number)).mkdir(parents=True)
            for image in range(images):
                side = sides[image % len(sides)]
                pixels = generator.integers(0, 256, (side, side + 20, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(path / split / str(number) / f"{image}.png")
    return path


def reason(proposal: Proposal, key: str) -> str:
    (setting,) = [setting for setting in proposal.settings if setting.key == key]
    return setting.why


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "trained"
    settings = {"model.arguments": {"width": 4}, "method.name": "common", "schedule.max_steps": 2}
    train(load_recipe("digits", {**settings, "training.threads": 1}), out, progress=False)
    return out


def test_init_writes_a_recipe_that_trains(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["init", "--model", "cifar/resnet20", "--data", "digits", "--out", "mine.yaml", *TINY]) == 0
    said = capsys.readouterr().out
    assert "data: digits: 718 training and 180 validation images of 1x8x8, 10 classes" in said
    assert "stages layer1 (3), layer2 (3), layer3 (3)" in said and "subnets: 27, 1-1-1 to 3-3-3" in said
    assert "stimulative train mine.yaml --out runs/mine" in said
    assert main(["train", "mine.yaml", "--out", "runs/mine", "--max-steps", "1"]) == 0
    assert load_recipe("runs/mine/recipe.yaml") == load_recipe("mine.yaml", {"schedule.max_steps": 1})


def test_every_setting_has_its_reason_above_it_and_lines_are_short(tmp_path):
    proposal = propose("cifar/resnet20", "digits", settings=TINY)
    text = proposal.to_yaml("mine.yaml")
    lines = text.splitlines()
    assert all(len(line) <= 120 for line in lines)
    for number, line in enumerate(lines):
        if re.match(r"  \w+:|seed:", line):
            assert lines[number - 1].strip().startswith("# "), line
    assert load_recipe(yaml.safe_load(text)) == proposal.recipe
    assert len(re.findall(r"^  \w+:", text, re.MULTILINE)) == len(proposal.settings) - 1


def test_what_is_given_stays_and_the_rest_goes_by_it():
    given = ["--data.batch_size", "64", "--optimizer.name", "adamw", "--method.sampler.name", "ordered", "--seed=7"]
    proposal = propose("cifar/resnet20", "digits", settings=[*TINY, *given])
    recipe = proposal.recipe
    assert (recipe.data.batch_size, recipe.optimizer.name, recipe.seed) == (64, "adamw", 7)
    assert recipe.optimizer.lr == pytest.approx(1e-3 * math.sqrt(64 / 128), rel=0.02)
    assert recipe.optimizer.clip_norm == 1.0
    assert reason(proposal, "data.batch_size") == reason(proposal, "method.sampler") == "Given, not proposed."


def test_convolutions_with_batchnorm_get_sgd_at_a_rate_that_goes_with_the_batch():
    small = propose("cifar/resnet20", "fake", settings=[*TINY, "--data.images", "40", "--data.workers", "0"]).recipe
    large = propose("cifar/resnet20", "fake", settings=[*TINY, "--data.images", "6000", "--data.workers", "0"]).recipe
    assert (small.optimizer.name, small.data.batch_size, large.data.batch_size) == ("sgd", 8, 128)
    assert large.optimizer.lr == 0.1 and small.optimizer.lr == pytest.approx(0.1 * 8 / 128, rel=0.02)
    assert small.evaluation.calibration_images == 40 and large.evaluation.calibration_images == 2000
    assert small.schedule.epochs == 200 and large.schedule.epochs == round(4000 / (6000 // 128))


def test_transformers_get_adamw_and_are_told_the_size_of_small_images():
    proposal = propose("timm/vit_tiny_patch16_224", "digits", settings=[*VIT, "--training.threads", "1"])
    recipe = proposal.recipe
    assert recipe.optimizer.name == "adamw" and recipe.optimizer.lr == pytest.approx(5e-4)
    assert recipe.model.arguments == {"depth": 2, "embed_dim": 16, "num_heads": 2, "img_size": 8, "patch_size": 1}
    assert "norms without running statistics" in reason(proposal, "model.name")
    assert "evaluation.calibration_images" not in {setting.key for setting in proposal.settings}


def test_a_size_that_is_given_is_told_to_a_model_of_one_size():
    settings = [*VIT, "--data.image_size", "96", "--data.images", "40", "--data.workers", "0"]
    recipe = propose("timm/vit_tiny_patch16_224", "fake", settings=settings).recipe
    assert recipe.data.image_size == 96 and recipe.model.arguments["img_size"] == 96
    assert "patch_size" not in recipe.model.arguments


def test_text_gets_a_recipe_of_a_language_model():
    recipe = propose("transformers/gpt2", "pydoc", settings=GPT2).recipe
    assert (recipe.optimizer.name, recipe.optimizer.betas, recipe.optimizer.clip_norm) == ("adamw", (0.9, 0.95), 1.0)
    assert recipe.data.batch_size == 32 and recipe.schedule.epochs <= 20


@pytest.mark.parametrize(
    ("sides", "side", "said"),
    [((50, 90), 64, "50 to 90 pixels, 70 in the middle"), ((20,), 32, "20 to 20"), ((600,), 224, "600 to 600")],
)
def test_the_files_of_a_folder_say_how_large_images_are(tmp_path, sides, side, said):
    path = folder(tmp_path, images=2, sides=sides)
    proposal = propose("torchvision/resnet18", f"folder:{path}", settings=["--data.workers", "0"])
    assert proposal.recipe.data.image_size == side and said in reason(proposal, "data.image_size")
    assert "3 classes" in proposal.found()[0]
    assert proposal.recipe.data.validation == 0.5 and "every class is in it" in reason(proposal, "data.validation")


def test_a_folder_of_photographs_suits_a_model_of_one_size(tmp_path):
    path = folder(tmp_path, images=2, sides=(300,))
    proposal = propose("timm/vit_tiny_patch16_224", f"folder:{path}", settings=[*VIT, "--data.workers", "0"])
    assert proposal.recipe.data.image_size == 224 and "img_size" not in proposal.recipe.model.arguments


def test_a_run_is_started_from_with_its_own_model(trained, tmp_path, capsys):
    out = tmp_path / "tuned.yaml"
    assert main(["init", "--from", str(trained), "--data", "digits", "--out", str(out)]) == 0
    assert "weights: loaded all 97 tensors from" in capsys.readouterr().out
    recipe = load_recipe(out)
    assert recipe.model.arguments == {"width": 4} and recipe.model.weights == str(trained)
    scratch = propose("cifar/resnet20", "digits", settings=TINY).recipe
    assert recipe.optimizer.lr == pytest.approx(scratch.optimizer.lr / 3, rel=0.02) and recipe.optimizer.trunk_lr == 1
    assert recipe.schedule.epochs == 30 < scratch.schedule.epochs


def test_images_of_other_channels_than_the_weights_are_refused(trained):
    with pytest.raises(UsageError, match="images with 1 channel, fake has 3"):
        propose(None, "fake", weights=str(trained), settings=["--data.images", "40", "--data.workers", "0"])


def test_published_weights_bring_the_normalisation_of_their_images(tmp_path, monkeypatch):
    torch.manual_seed(0)
    net = timm.create_model("vit_tiny_patch16_224", depth=2, embed_dim=16, num_heads=2)
    torch.save(net.state_dict(), tmp_path / "vit.pth")
    overlay = f"{{file: {tmp_path / 'vit.pth'}, custom_load: false}}"
    path = folder(tmp_path / "images", images=4, sides=(300,))
    settings = [*VIT, "--model.arguments.pretrained_cfg_overlay", overlay, "--data.workers", "0"]
    proposal = propose("timm/vit_tiny_patch16_224", f"folder:{path}", weights="pretrained", settings=settings)
    recipe = proposal.recipe
    assert recipe.data.mean == recipe.data.std == (0.5, 0.5, 0.5) and recipe.data.image_size == 224
    assert recipe.optimizer.trunk_lr == 0.3 and "for the new head alone" in reason(proposal, "optimizer.lr")
    assert "new: head.weight, head.bias (3 classes instead of 1000)" in reason(proposal, "model.weights")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["--data", "digits"],
            "which model: give --model NAME, or a run directory, or that of a saved model, to start from",
        ),
        (["--model", "cifar/resnet20"], "--data"),
        (["--model", "cifar/resnet21", "--data", "digits"], "unknown model 'cifar/resnet21'"),
        (["--model", "cifar/resnet20", "--data", "digit"], "unknown data set 'digit'"),
        (["--model", "cifar/resnet20", "--data", "folder:nowhere"], "nowhere/train is not a folder"),
        (["--model", "cifar/resnet20", "--data", "pydoc"], "classifies images, and the data are text"),
        (["--model", "timm/vgg11", "--data", "fake", "--data.workers", "0"], "no residual blocks"),
        (["--model", "cifar/resnet20", "--data", "digits", "--out", "there.yaml"], "there.yaml is there already"),
        (["--model", "cifar/resnet20", "--data", "digits", "--out", "no/where.yaml"], "there is no folder no"),
        (["--model", "cifar/resnet20", "--data", "digits", "--model.name", "a"], "--model.name is said with --model"),
        (["--model", "cifar/resnet20", "--data", "digits", "--data.batch_size", "0"], "batch_size"),
        (
            ["--model", "cifar/resnet20", "--data", "digits", "--from", "missing"],
            "no file and no run directory missing",
        ),
        (
            ["--model", "cifar/resnet20", "--data", "digits", "--lr-range-test", "--optimizer.lr", "1"],
            "got both --lr-range-test and --optimizer.lr",
        ),
    ],
)
def test_bad_input_is_refused_and_nothing_is_written(tmp_path, monkeypatch, capsys, words, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there.yaml").write_text("mine")
    assert main(["init", *words]) == 2
    assert message in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["there.yaml"]
    assert (tmp_path / "there.yaml").read_text() == "mine"


def test_a_model_has_to_be_named_or_come_from_a_run():
    with pytest.raises(UsageError) as caught:
        propose(None, "digits")
    assert (
        str(caught.value)
        == "which model: give model=NAME, or a run directory, or that of a saved model, to start from (weights=RUN)"
    )


def test_force_overwrites(tmp_path):
    out = tmp_path / "there.yaml"
    out.write_text("mine")
    assert main(["init", "--model", "cifar/resnet20", "--data", "digits", "--out", str(out), "--force", *TINY]) == 0
    assert load_recipe(out).model.arguments == {"width": 4}


# The learning-rate range test.


def descent(curvature: float, **settings: Any) -> RangeTest:
    """Gradient descent on ``curvature / 2 * (w - z)**2`` with ``z`` of 1 and -1 in turn, from far away.

    Of the error a step leaves ``1 - rate * curvature``: training diverges at rates above ``2 / curvature``.
    """
    w = nn.Parameter(torch.tensor(30.0, dtype=torch.float64))
    optimizer = torch.optim.SGD([w], lr=1.0)
    number = 0

    def step() -> float:
        nonlocal number
        number += 1
        optimizer.zero_grad()
        loss = curvature / 2 * (w - (-1) ** number) ** 2
        loss.backward()
        optimizer.step()
        return loss.item()

    return raise_rates(step, optimizer, **settings)


@pytest.mark.parametrize("curvature", [1.0, 50.0])
def test_rates_rise_until_training_diverges_where_it_must(curvature):
    limit = 2 / curvature
    test = descent(curvature, lowest=1e-4 * limit, highest=1e3 * limit, steps=200)
    assert test.diverged and len(test.rates) < test.steps == 200
    assert limit < test.rates[-1] < 20 * limit
    assert 1e-3 * limit < test.suggestion < 0.2 * limit and test.suggestion < test.lowest
    assert test.smoothed[-1] > DIVERGED * min(test.smoothed) > max(test.smoothed[-5:-1]) / 2
    ratios = [after / before for before, after in zip(test.rates, test.rates[1:], strict=False)]
    assert max(ratios) == pytest.approx(min(ratios)) and test.rates[0] == pytest.approx(1e-4 * limit)


def test_the_suggestion_is_where_a_hand_made_curve_falls_fastest():
    steps, middle = 101, 60  # a logistic fall around step 60
    losses = iter(2 / (1 + math.exp((number - middle) / 6)) for number in range(steps))
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    test = raise_rates(lambda: next(losses), optimizer, lowest=1e-5, highest=1.0, steps=steps)
    fastest = 10 ** (-5 + 5 * middle / 100)  # the smoothing adds nine steps' delay
    assert not test.diverged and fastest < test.suggestion < fastest * 10 ** (5 * 12 / 100)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(1.0)


def test_a_second_fall_after_training_broke_does_not_count():
    falls = [2.3] * 30 + [2.3 - 0.04 * n for n in range(10)] + [1.9 + 0.1 * n for n in range(30)] + [1.0] * 30
    losses = iter(falls)
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    test = raise_rates(lambda: next(losses), optimizer, lowest=1e-5, highest=10.0, steps=100)
    assert min(test.smoothed) == test.smoothed[-1]
    assert test.rates[30] < test.suggestion < test.lowest < test.rates[50]


def test_smoothing_starts_at_the_first_loss_and_ends_at_no_number():
    losses = iter([3.0, 1.0, 0.5, 0.4, 0.3, math.nan, 0.1])
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    test = raise_rates(lambda: next(losses), optimizer, lowest=0.1, highest=10.0, steps=7)
    assert test.losses == (3.0, 1.0, 0.5, 0.4, 0.3) and test.diverged
    assert test.smoothed[:2] == (pytest.approx(3.0), pytest.approx((0.9 * 3.0 + 1.0) / 1.9))


def test_groups_keep_the_ratios_of_their_rates():
    parameters = [nn.Parameter(torch.ones(1)) for _ in range(2)]
    optimizer = torch.optim.SGD([{"params": parameters[:1]}, {"params": parameters[1:], "lr": 0.02}], lr=0.2)
    seen = []
    losses = iter(range(20, 0, -1))

    def step() -> float:
        seen.append([group["lr"] for group in optimizer.param_groups])
        return float(next(losses))

    raise_rates(step, optimizer, lowest=1e-3, highest=1.0, steps=20)
    assert all(slow == pytest.approx(fast / 10) for fast, slow in seen) and seen[-1][0] == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("losses", "settings", "message"),
    [
        ([math.nan], {}, "falls at no learning rate from 1e-05 to 10: it is no finite number"),
        ([float(n) for n in range(1, 200)], {}, "falls at no learning rate"),
        ([1.0], {"lowest": 1.0, "highest": 0.1}, "from 1.0 to 0.1"),
        ([1.0], {"steps": 1}, "at least 2 steps"),
    ],
)
def test_a_loss_that_never_falls_gives_no_rate(losses, settings, message):
    values = iter(losses)
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    with pytest.raises(UsageError, match=message):
        raise_rates(lambda: next(values), optimizer, **settings)


@pytest.mark.parametrize("schedule", ["joint", "lean"])
def test_on_digits_the_rate_is_one_that_trains_and_nothing_stays(schedule):
    recipe = load_recipe(
        "digits", {"model.arguments": {"width": 4}, "method.schedule": schedule, "training.threads": 1}
    )
    data = data_room.load(recipe.data, seed=0)
    model = prepare(recipe).network.model
    before, states = copy.deepcopy(model.state_dict()), random_states()
    first = next(iter(data.train))[0].clone()
    test = lr_range_test(recipe, data=data, model=model)
    assert 0.005 < test.suggestion < 0.3 and test.lowest > test.suggestion
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert torch.equal(random_states()["torch"], states["torch"]) and random_states()["python"] == states["python"]
    assert torch.equal(next(iter(data.train))[0], first)
    assert lr_range_test(recipe, data=data, model=model) == test


def test_the_range_test_starts_from_the_recipe_s_weights_with_what_is_frozen(trained):
    settings = {"model.arguments": {"width": 4}, "model.weights": str(trained), "model.freeze_stem": True}
    recipe = load_recipe("digits", {**settings, "training.threads": 1, "optimizer.clip_norm": 1.0})
    test = lr_range_test(recipe, steps=20, lowest=1e-3, highest=0.5)
    assert (
        test.rates[0] == pytest.approx(1e-3)
        and test.losses
        != lr_range_test(
            recipe.override({"model.weights": None, "model.freeze_stem": False}), steps=20, lowest=1e-3, highest=0.5
        ).losses
    )


def test_init_writes_the_rate_of_the_test_and_shows_it(tmp_path, capsys):
    out = tmp_path / "mine.yaml"
    words = ["--model", "cifar/resnet20", "--data", "digits", "--out", str(out), "--lr-range-test", *TINY]
    assert main(["init", *words]) == 0
    said = capsys.readouterr().out
    rate = load_recipe(out).optimizer.lr
    assert f"optimizer.lr {rate:g}" in said and "smoothed" in said
    assert 0.005 < rate < 0.3 and rate != propose("cifar/resnet20", "digits", settings=TINY).recipe.optimizer.lr
    assert "by a range test (Smith 2017, arXiv 1506.01186)" in out.read_text()
