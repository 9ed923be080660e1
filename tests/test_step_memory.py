"""The memory of a step, to the byte, beside a step written by hand that shares the same prefix."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from fake_device import FakeDevice, Seen
from torch import Tensor, nn

from stimulative import models, unravel
from stimulative.methods import METHODS, Method
from stimulative.residual import ResidualNetwork

BATCH, SIDE, CLASSES = 32, 224, 1000
SUBNET = "2-3-1-1"  # of 3-4-6-3: it departs behind the second block
Step = Callable[[Tensor, Tensor], Any]

MORE_KERNELS = 4
"""Kernels that a step may launch beyond those of one by hand."""

LOGITS = BATCH * CLASSES * 4
"""Bytes of the logits of a net."""


@cache
def network() -> ResidualNetwork:
    torch.manual_seed(0)
    return unravel(models.build("torchvision/resnet50", classes=CLASSES).train(), torch.randn(2, 3, 64, 64))


@contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.track_running_stats = False
    yield
    for norm in norms:
        norm.track_running_stats = True


class ByHand:
    """Steps of a ResNet-50 as one would write them for this subnet alone."""

    def __init__(self, model: Any) -> None:
        self.model = model

    def prefix(self, x: Tensor) -> Tensor:
        model = self.model
        x = model.maxpool(model.relu(model.bn1(model.conv1(x))))
        return model.layer1[1](model.layer1[0](x))

    def end(self, x: Tensor, *stages: nn.Sequential) -> Tensor:
        for stage in stages:
            x = stage(x)
        return self.model.fc(self.model.avgpool(x).flatten(1))

    def main(self, x: Tensor) -> Tensor:
        return self.end(x, self.model.layer1[2:], self.model.layer2, self.model.layer3, self.model.layer4)

    def subnet(self, x: Tensor) -> Tensor:
        with frozen(self.model):
            return self.end(x, self.model.layer2[:3], self.model.layer3[:1], self.model.layer4[:1])

    def common(self, x: Tensor, y: Tensor) -> None:
        F.cross_entropy(self.main(self.prefix(x)), y).backward()

    def joint(self, x: Tensor, y: Tensor) -> None:
        shared = self.prefix(x)
        main, subnet = self.main(shared), self.subnet(shared)
        (F.cross_entropy(main, y) + divergence(subnet, main.detach())).backward()

    def lean(self, x: Tensor, y: Tensor) -> None:
        shared = self.prefix(x)
        leaf = shared.detach().requires_grad_()
        main = self.main(leaf)
        F.cross_entropy(main, y).backward()
        divergence(self.subnet(leaf), main.detach()).backward()
        shared.backward(leaf.grad)


def divergence(subnet: Tensor, main: Tensor) -> Tensor:
    student, teacher = F.log_softmax(subnet, -1), F.log_softmax(main, -1)
    return F.kl_div(student, teacher, reduction="batchmean", log_target=True)


def seen_of(gpu: FakeDevice, module: nn.Module, step: Step) -> Seen:
    """What happens in a step and in its optimiser's, the second one, when all is there that stays."""
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1, momentum=0.9)
    x, y = gpu.moved((torch.empty(BATCH, 3, SIDE, SIDE), torch.zeros(BATCH, dtype=torch.int64)))
    for _ in range(2):
        with gpu.watching() as seen:
            step(x, y)
            optimizer.step()
            optimizer.zero_grad()
    return seen


@pytest.fixture(scope="module")
def seen() -> dict[str, Seen]:
    """A step of each kind, ours and by hand."""
    found = {}
    with FakeDevice() as gpu:
        net = gpu.moved(network())
        by_hand = ByHand(net.model.train())
        for name in ("common", "joint", "lean"):
            found[f"{name} by hand"] = seen_of(gpu, net, getattr(by_hand, name))
        common = METHODS["common"](net).train()
        found["common"] = seen_of(gpu, common, common.backward)
        for schedule in ("joint", "lean"):
            method = METHODS["stimulative"](net, schedule=schedule, balance_ramp=0.0).train()
            found[schedule] = seen_of(gpu, method, partial(stepped, method))
    return found


def stepped(method: Method, x: Tensor, y: Tensor) -> None:
    method.backward(x, y, [SUBNET])


def held(seen: Seen) -> int:
    return seen.peak - seen.before


def test_steps_by_hand_hold_what_is_known_of_them(seen):
    """So that what is compared with is worth it: the prefix once, and of lean never two tails."""
    common, joint, lean = (held(seen[f"{name} by hand"]) for name in ("common", "joint", "lean"))
    assert abs(lean - common) <= LOGITS
    assert joint / common == pytest.approx(1.294, abs=0.001)


def test_common_training_holds_no_more_than_a_bare_step(seen):
    assert held(seen["common"]) - held(seen["common by hand"]) <= LOGITS + 8  # its logits are given back


@pytest.mark.parametrize("schedule", ["joint", "lean"])
def test_a_step_holds_no_more_than_one_by_hand(seen, schedule):
    assert held(seen[schedule]) - held(seen[f"{schedule} by hand"]) <= LOGITS


@pytest.mark.parametrize("schedule", ["joint", "lean"])
def test_a_step_launches_hardly_more_kernels_than_one_by_hand(seen, schedule):
    ours, by_hand = seen[schedule].kernels, seen[f"{schedule} by hand"].kernels
    assert ours.total() - by_hand.total() <= MORE_KERNELS, (ours - by_hand, by_hand - ours)
