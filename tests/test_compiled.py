"""Blocks that are compiled: how many pieces of code there are, what runs by them, and that nothing else is computed."""

import copy
import warnings
from types import SimpleNamespace

import pytest
import torch
from timm.models.resnet import Bottleneck, ResNet
from torch import nn

import stimulative
from stimulative import models
from stimulative.methods import METHODS
from stimulative.training.compiling import TellsOfFallbacks, compile_blocks, compiling


def images(count, side):
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(0))


class CountingCompiler:
    """A backend of ``torch.compile`` that counts pieces of code and how often they run, and compiles nothing."""

    def __init__(self):
        torch.compiler.reset()
        self.runs = []

    def __call__(self, module, inputs):
        number = len(self.runs)
        self.runs.append(0)

        def run(*args):
            self.runs[number] += 1
            return module.forward(*args)

        return run

    @property
    def pieces(self):
        return len(self.runs)

    @property
    def calls(self):
        return sum(self.runs)


def blocks_that_run(network, subnet):
    """By hand: those of the main net, and the subnet's behind the first one that it skips."""
    full, chosen = network.full.stages, network.resolve(subnet).stages
    places = [(stage, block) for stage, blocks in enumerate(full) for block in blocks]
    kept = [(stage, block) for stage, blocks in enumerate(chosen) for block in blocks]
    first = next((at for at, place in enumerate(places) if place not in kept), len(places))
    return len(places) + sum(places.index(place) > first for place in kept)


def test_every_block_that_runs_is_compiled_and_each_shape_once():
    resnet50 = ResNet(Bottleneck, (3, 4, 6, 3), num_classes=10, channels=(4, 8, 16, 32))
    network = stimulative.unravel(resnet50, images(2, 32)).train()
    compiler = CountingCompiler()
    compile_blocks(network, backend=compiler)
    x, y = images(4, 32), torch.arange(4)
    with compiling():
        for schedule in ("joint", "lean"):
            method = METHODS["stimulative"](network, schedule=schedule).train()
            for subnet in ("2-3-1-1", "1-1-1-1", "3-4-6-3", "3-2-4-1", "1-4-6-3", "3-4-6-1"):
                before = compiler.calls
                method.backward(x, y, [subnet])
                assert compiler.calls - before == blocks_that_run(network, subnet)
    assert compiler.pieces == 8  # in each of four stages a first block and others


def test_compiled_training_computes_what_plain_training_does_and_keeps_the_main_nets_statistics():
    model = models.build("cifar/resnet20", classes=10).double()
    compiled = copy.deepcopy(model)
    x, y = images(6, 16).double(), torch.arange(6)
    states, compiler = [], CountingCompiler()
    for one, compiles in [(model, False), (compiled, True)]:
        network = stimulative.unravel(one, x[:2])
        if compiles:
            compile_blocks(network, backend=compiler)
        method = METHODS["stimulative"](network, seed=3).train()
        optimizer = torch.optim.SGD(one.parameters(), lr=0.1)
        for _ in range(3):
            method.backward(x, y)
            optimizer.step()
            optimizer.zero_grad()
        states.append(one.state_dict())
    assert compiler.pieces == 5  # the first stage has no first block of its own
    for key, value in states[0].items():
        torch.testing.assert_close(
            states[1][key], value, rtol=1e-9, atol=1e-11, msg=lambda text, key=key: f"{key}: {text}"
        )


def test_compiled_blocks_go_backward_twice_through_what_main_net_and_subnet_share():
    torch.compiler.reset()
    network = stimulative.unravel(models.build("cifar/resnet20", classes=10), images(2, 8))
    plain = copy.deepcopy(network)
    compile_blocks(network, backend="aot_eager")
    x, y, gradients = images(4, 8), torch.arange(4), []
    for one in (plain, network):
        method = METHODS["stimulative"](one, schedule="lean").train()
        with compiling(several=method.calls_backward):
            for subnet in ("3-3-3", "1-3-2"):  # the first one is the main net itself, whose graph is kept
                method.backward(x, y, [subnet])
        gradients.append([parameter.grad for parameter in one.parameters()])
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-4, atol=1e-5)


def test_evaluation_and_recalibration_compile_nothing():
    network = stimulative.unravel(models.build("cifar/resnet20", classes=10), images(2, 16)).eval()
    x, subnets = images(5, 16), ["3-3-3", "1-2-1"]
    plain = network.run(x, subnets, statistics=network.recalibrate([x], subnets))
    compiler = CountingCompiler()
    compile_blocks(network, backend=compiler)
    statistics = network.recalibrate([x], subnets)
    with network.uncompiled(), torch.no_grad():
        found = network.run(x, subnets, statistics=statistics)
    assert compiler.pieces == 0
    for one, other in zip(found, plain, strict=True):
        torch.testing.assert_close(one, other)


class Breaking(nn.Module):
    """A block with something in it that cannot be compiled."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, x):
        made = self.conv(x)
        torch._dynamo.graph_break()
        return x + made


def test_what_is_not_compiled_is_told_once():
    network = stimulative.unravel(
        nn.Sequential(nn.Sequential(Breaking(), Breaking()), nn.Flatten(), nn.Linear(192, 4)), images(2, 8)
    )
    compile_blocks(network, backend=CountingCompiler())
    tells, trainer = TellsOfFallbacks(), SimpleNamespace(epoch=1, epochs=2, whole_passes=None)
    METHODS["common"](network).train().backward(images(2, 8), torch.tensor([0, 1]))
    with pytest.warns(UserWarning, match="training.compile: a part of the blocks runs as it was written"):
        tells.on_epoch(trainer, None)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tells.on_epoch(trainer, None)
