"""The loop of Stimulative Training++ as its authors published it, written plainly, against the settings for it."""

import copy

import pytest
import torch
import torch.nn.functional as F
from nets import CLASSES, SequentialNet, images, randomised
from torch import Tensor

import stimulative
from stimulative.errors import UsageError
from stimulative.methods import StimulativeTraining
from stimulative.methods.inputs import resized

MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
SIX = ["3-4", "2-1", "1-1", "3-2", "2-1", "1-4"]
SIDES = [8, 5, 7, 3, 6, 4]
Y = torch.tensor([0, 1, 2, 3, 0, 1])
AS_PUBLISHED = {
    "objective": "directional",
    "normalise_main": True,
    "subnets_per_step": 6,
    "reduction": "sum",
    "balance_ramp": 0.0,
    "smaller_inputs": 0.3,
    "resizing": "published",
    "normalise_again": {"mean": MEAN, "std": STD},
    "freeze_subnet_statistics": False,
}


def run(model: SequentialNet, x: Tensor, subnet: str) -> Tensor:
    first, second = map(int, subnet.split("-"))
    hidden = model.stage1[:first](model.act(model.bn(model.conv(x))))
    return model.head(model.stage2[:second](hidden).mean((2, 3)))


def unit(logits: Tensor) -> Tensor:
    """A layer norm over the classes without parameters."""
    return F.layer_norm(logits, (CLASSES,), eps=1e-7)


def published(model: SequentialNet, x: Tensor) -> list[Tensor]:
    """A step of the published loop: the images that each of the six subnets has seen."""
    main = model(x)
    F.cross_entropy(unit(main), Y).backward()
    target = unit(main.detach()).softmax(-1)
    mean, std = (torch.tensor(values, dtype=x.dtype)[:, None, None] for values in (MEAN, STD))
    seen = []
    for subnet, side in zip(SIX, SIDES, strict=True):
        x = F.interpolate(x, size=(side, side), mode="bilinear", align_corners=False)
        x = (x - mean) / std
        seen.append(x)
        logits = unit(run(model, x, subnet)).log_softmax(-1)
        F.kl_div(logits, target, reduction="batchmean").backward()
    return seen


@pytest.fixture
def network():
    torch.manual_seed(0)
    return stimulative.unravel(randomised(SequentialNet()), images())


@pytest.mark.parametrize("schedule", ["joint", "lean"])
def test_gradients_and_statistics_are_those_of_the_published_loop(network, schedule, monkeypatch):
    plain = copy.deepcopy(network.model)
    x = images(6, seed=1)
    published(plain, x)
    method = StimulativeTraining(network, schedule=schedule, **AS_PUBLISHED)
    monkeypatch.setattr(method, "draw_sides", lambda x, count: [None if side == 8 else side for side in SIDES])
    method.backward(x, Y, SIX)
    for (name, ours), theirs in zip(network.model.named_parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-5, atol=1e-9, msg=name)
    for (name, ours), theirs in zip(network.model.named_buffers(), plain.buffers(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12, msg=name)


def test_each_subnet_sees_what_the_one_before_saw_made_smaller_and_normalised_again(network, monkeypatch):
    x = images(6, seed=1)
    expected = published(copy.deepcopy(network.model), x)
    method = StimulativeTraining(network, **AS_PUBLISHED)
    seen, passes = [], network.passes
    monkeypatch.setattr(network, "passes", lambda x, *args, **kw: (seen.append(x), passes(x, *args, **kw))[1])
    monkeypatch.setattr(method, "draw_sides", lambda x, count: [None if side == 8 else side for side in SIDES])
    method(x, Y, SIX)
    assert seen[0] is x and len(seen) == 7
    for ours, theirs in zip(seen[1:], expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


def test_without_antialiasing_pixels_between_samples_do_not_count():
    x = torch.zeros(1, 1, 8, 8)
    x[..., 0, 0] = 1.0
    # the one of two pixels a side whose centre is at 1.5 of eight is between pixels 1 and 2
    assert resized(x, 2, antialias=False)[0, 0, 0, 0] == 0 and resized(x, 2)[0, 0, 0, 0] > 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"resizing": "twice"}, "resizing: got 'twice', but it is original or published"),
        (
            {"resizing": "published"},
            "resizing: 'published' says how images are made smaller, and smaller_inputs is null",
        ),
        (
            {"smaller_inputs": 0.5, "normalise_again": {"mean": [0.5], "std": [0.5]}},
            "normalise_again: it belongs to resizing 'published'; leave it out",
        ),
        *(
            (
                {"smaller_inputs": 0.5, "resizing": "published", "normalise_again": wrong},
                f"normalise_again: got {wrong}",
            )
            for wrong in (
                {"mean": [0.5]},
                {"mean": [0.5], "std": [0]},
                {"mean": [1, 2], "std": [1]},
                {"mean": 1, "std": 1},
            )
        ),
        (
            {"smaller_inputs": 0.5, "resizing": "published", "normalise_again": {"mean": [0, 0], "std": [1, 1]}},
            "normalise_again: got means of 2 channels, and images have 3",
        ),
    ],
)
def test_settings_that_do_not_go_together_are_refused(network, settings, message):
    with pytest.raises(UsageError) as caught:
        StimulativeTraining(network, **settings)
    assert message in str(caught.value)
