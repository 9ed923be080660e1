"""Recorded blocks: as many recordings as blocks and passes, and the same training, though each has one memory only."""

import copy

import pytest
import torch
from nets import LoopedNet, SequentialNet, images, randomised
from safetensors.torch import load_file
from torch import Tensor, nn

from stimulative import unravel
from stimulative.errors import UsageError
from stimulative.methods import METHODS
from stimulative.training import capturing, load_recipe, train
from stimulative.training.capturing import CapturedBlocks

Y = torch.tensor([0, 1, 2, 0])


class Recorded:
    """What a CUDA graph is to its caller: one memory for inputs, outputs, all in between, and gradients.

    Whoever replays it once more before the backward pass of the first time, or keeps a gradient for the next step, gets
    wrong numbers here as there.
    """

    def __init__(self, module: nn.Module, args: tuple[Tensor, ...]) -> None:
        self.module = module
        self.inputs = [part.detach().clone().requires_grad_(part.requires_grad) for part in args]
        self.trained = [tensor for tensor in [*self.inputs, *module.parameters()] if tensor.requires_grad]
        self.output: Tensor = module(*self.inputs)
        self.memory = self.output.detach().clone()
        self.gradients = [torch.zeros_like(tensor) for tensor in self.trained]

    def __call__(self, *args: Tensor) -> Tensor:
        return _Replay.apply(self, *args, *self.module.parameters())


class _Replay(torch.autograd.Function):
    @staticmethod
    def forward(ctx, recorded, *args):
        ctx.recorded, ctx.needed = recorded, [x.requires_grad for x in args]
        with torch.no_grad():
            for own, given in zip(recorded.inputs, args, strict=False):
                own.copy_(given)
        with torch.enable_grad():
            recorded.output = recorded.module(*recorded.inputs)
        recorded.memory.copy_(recorded.output.detach())
        return recorded.memory.detach()

    @staticmethod
    def backward(ctx, gradient):
        recorded = ctx.recorded
        found = torch.autograd.grad(recorded.output, recorded.trained, gradient, retain_graph=True)
        for own, value in zip(recorded.gradients, found, strict=True):
            own.copy_(value)
        own = iter(recorded.gradients)
        return None, *[next(own).detach() if needed else None for needed in ctx.needed]


def trained(model, subnets, *, captured, schedule="joint", steps=4, accumulate=1):
    """The state after some steps of one batch or more, and the captured blocks."""
    network = unravel(model, images()).train()
    method = METHODS["stimulative"](network, schedule=schedule).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    blocks = CapturedBlocks(network, images(), subnets=len(subnets), capture=Recorded) if captured else None
    for number in range(steps):
        x = images(seed=number)
        if blocks is None:
            method.backward(x, Y, subnets)
        else:
            blocks.begin_step()
            with blocks.replaying():
                method.backward(x, Y, subnets)
        if number % accumulate == accumulate - 1:
            optimizer.step()
            optimizer.zero_grad(set_to_none=not captured)
    return model.state_dict(), blocks


@pytest.mark.parametrize("schedule", ["joint", "lean"])
@pytest.mark.parametrize("subnets", [["1-2"], ["2-3", "1-1"], ["3-4", "2-2", "2-2"]], ids=str)
@pytest.mark.parametrize("kind", [SequentialNet, LoopedNet])
def test_training_is_the_same_with_a_recording_for_each_block_and_pass(kind, subnets, schedule):
    if kind is LoopedNet:
        subnets = [subnet[-1] for subnet in subnets]
    model = randomised(kind())
    plain, _ = trained(copy.deepcopy(model), subnets, captured=False, schedule=schedule)
    found, blocks = trained(model, subnets, captured=True, schedule=schedule)
    assert blocks is not None
    assert len(blocks.recorded) == len(blocks.blocks) * (1 + len(subnets)) and not blocks.ran
    assert blocks.replayed >= 4 * len(blocks.blocks)
    for key, value in plain.items():
        torch.testing.assert_close(found[key], value, rtol=1e-10, atol=1e-12)


def test_gradients_of_several_batches_add_up():
    model = randomised(SequentialNet())
    plain, _ = trained(copy.deepcopy(model), ["1-2"], captured=False, accumulate=2)
    found, _ = trained(model, ["1-2"], captured=True, accumulate=2)
    for key, value in plain.items():
        torch.testing.assert_close(found[key], value, rtol=1e-10, atol=1e-12)


def test_as_many_recordings_whatever_subnets_come():
    network = unravel(randomised(SequentialNet()), images()).train()
    blocks = CapturedBlocks(network, images(), capture=Recorded)
    method = METHODS["stimulative"](network).train()
    for subnet in network.space:
        blocks.begin_step()
        with blocks.replaying():
            method.backward(images(), Y, [subnet])
    assert len(blocks.recorded) == 2 * 7 and not blocks.ran


def test_a_block_that_runs_again_before_its_backward_pass_is_not_replayed():
    network = unravel(randomised(SequentialNet()), images()).train()
    blocks = CapturedBlocks(network, images(), capture=Recorded)
    with blocks.replaying():
        first, second = network.model(images(seed=1)), network.model(images(seed=2))
    assert blocks.replayed == blocks.ran == 7
    wanted = network.model(images(seed=1)), network.model(images(seed=2))
    torch.testing.assert_close((first, second), wanted)


def test_other_shapes_and_evaluation_run_as_they_were_written():
    network = unravel(randomised(SequentialNet()), images()).train()
    blocks = CapturedBlocks(network, images(), capture=Recorded)
    with blocks.replaying():
        network.model(images(2))
        network.eval()
        network.model(images())
        with torch.no_grad():
            network.train().model(images())
    assert blocks.replayed == 0 and blocks.ran == 3 * 7


def test_blocks_that_have_changed_since_run_as_they_were_written():
    network = unravel(randomised(SequentialNet()), images()).train()
    blocks = CapturedBlocks(network, images(), capture=Recorded)
    first, second, third, *others = blocks.blocks.values()
    first.bn1 = nn.BatchNorm2d(6).double()
    next(second.parameters()).requires_grad_(False)
    third.bn2.eval()
    with blocks.replaying():
        network.model(images())
    assert blocks.ran == 3 and blocks.replayed == len(others)


def test_modes_and_forwards_of_ones_own_are_left_alone():
    network = unravel(randomised(SequentialNet()), images()).train()
    block = network.model.stage1[0]
    block.bn1.eval()
    block.forward = own = lambda x, forward=block.forward: 2 * forward(x)
    blocks = CapturedBlocks(network, images(), capture=Recorded)
    with blocks.replaying():
        found = network.model(images())
    assert not block.bn1.training and vars(block)["forward"] is own and not blocks.ran
    network.model.load_state_dict(network.model.state_dict())
    torch.testing.assert_close(found, network.model(images()))


def test_recording_leaves_no_trace():
    model = randomised(SequentialNet())
    before = copy.deepcopy(model.state_dict())
    network = unravel(model, images()).train()
    state = torch.get_rng_state()
    blocks = CapturedBlocks(network, images(), capture=Recorded)
    with pytest.raises(ZeroDivisionError), blocks.replaying():
        raise ZeroDivisionError
    assert torch.equal(torch.get_rng_state(), state)
    assert not [name for name, module in model.named_modules() if "forward" in vars(module)]
    torch.testing.assert_close(model.state_dict(), before)


@pytest.mark.parametrize("schedule", ["joint", "lean"])
def test_a_run_that_captures_ends_with_the_same_weights(tmp_path, monkeypatch, schedule):
    settings = {"schedule.epochs": 2, "schedule.max_steps": 2, "evaluation.subnets": 2, "method.schedule": schedule}
    recipe = load_recipe("digits", {**settings, "training.accumulate": 2})
    train(recipe, tmp_path / "plain", progress=False)
    monkeypatch.setitem(capturing.CAPTURES, "cpu", Recorded)
    train(recipe.override({"training.capture": True}), tmp_path / "captured", progress=False)
    plain, found = (load_file(tmp_path / name / "model.safetensors") for name in ("plain", "captured"))
    torch.testing.assert_close(found, plain, rtol=1e-5, atol=1e-6)


def test_capturing_is_for_gpus(tmp_path):
    recipe = load_recipe("digits", {"training.capture": True, "training.device": "cpu"})
    with pytest.raises(UsageError, match=r"training.capture: CUDA graphs are recorded on a GPU"):
        train(recipe, tmp_path / "run", progress=False)
    with pytest.raises(UsageError, match="capture: it records the kernels"):
        load_recipe("digits", {"training.capture": True, "training.compile": True})


class Conditioned(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(192, 192)

    def forward(self, x, *, scale=1.0):
        return x + scale * self.linear(x)


class ConditionedNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList([Conditioned(), Conditioned()])
        self.head = nn.Linear(192, 4)

    def forward(self, x):
        x = x.flatten(1)
        for block in self.blocks:
            x = block(x, scale=0.5)
        return self.head(x)


def test_blocks_that_cannot_be_recorded_are_refused_by_name():
    network = unravel(randomised(ConditionedNet()), images()).train()
    with pytest.raises(UsageError, match=r"training.capture: block 'blocks.0' takes more than tensors by position"):
        CapturedBlocks(network, images(), capture=Recorded)
