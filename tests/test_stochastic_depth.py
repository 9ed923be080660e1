"""Stochastic depth: what runs, with which probability, and that a deployed net is the expectation of what ran."""

import copy
import itertools
import math
import warnings
from pathlib import Path

import pytest
import timm
import torch
import torch.nn.functional as F
from nets import CLASSES, LoopedNet, SequentialNet, images, randomised
from safetensors.torch import load_file
from timm.models.resnet import BasicBlock, Bottleneck, ResNet
from torch import Tensor, nn

from stimulative.errors import UsageError
from stimulative.methods import CommonTraining, StochasticDepth, stochastic_depth
from stimulative.methods.stochastic_depth import survival_of
from stimulative.residual import ResidualNetwork, branch_ends, unravel
from stimulative.residual.surgery.branches import precise
from stimulative.training import load_recipe, train

LABELS = torch.tensor([0, 1, 2, 3])
VIT = {"img_size": 32, "patch_size": 8, "depth": 3, "embed_dim": 16, "num_heads": 2, "num_classes": CLASSES}
SWIN = {"img_size": 16, "patch_size": 2, "window_size": 4, "embed_dim": 8, "depths": (2, 2), "num_heads": (2, 2)}


class LinearBlock(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.linear(x)


class LinearNet(nn.Module):
    """Linear in its input whatever runs, so that the mean over subnets is that of products of matrices."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(3 * 8 * 8, 5)
        self.blocks = nn.Sequential(*[LinearBlock(5) for _ in range(4)])
        self.head = nn.Linear(5, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(self.embed(x.flatten(1))))


def network_of(model: nn.Module, size: int = 8) -> ResidualNetwork:
    return unravel(model, images(2, size))


def made(make, size: int = 8) -> ResidualNetwork:
    torch.manual_seed(0)
    return network_of(randomised(make()), size)


def linear() -> ResidualNetwork:
    torch.manual_seed(0)
    return network_of(LinearNet().double())


def state(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def gradients(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def test_survival_falls_linearly_over_all_blocks_and_fixed_ones_always_run():
    method = StochasticDepth(made(SequentialNet), survival=0.3)
    # 3 blocks, then 4 of which the first one changes the width: l = 4 of L = 7
    expected = [1 - l / 7 * 0.7 for l in range(1, 8)]  # noqa: E741 - the paper's letter
    expected[3] = 1.0
    assert method.probabilities.tolist() == pytest.approx(expected)
    assert method.probabilities[-1] == pytest.approx(0.3)


@pytest.mark.parametrize(
    ("decay", "expected"),
    [
        ("linear", [0.85, 0.7, 0.55, 0.4]),
        ("uniform", [0.4, 0.4, 0.4, 0.4]),
        ("exponential", [1.0, 0.844047, 0.647559, 0.4]),  # 1 - 0.6 (2^(0, 1/3, 2/3, 1) - 1)
    ],
)
def test_survival_by_hand(decay, expected):
    assert StochasticDepth(linear(), survival=0.4, decay=decay).probabilities.tolist() == pytest.approx(expected)


def test_exponential_survival_is_the_formula_of_layerskip():
    layers, most = 32, 0.2
    for layer in range(layers):
        rate = (math.exp(layer * math.log(2) / (layers - 1)) - 1) * most
        assert survival_of(layer + 1, layers, 1 - most, "exponential") == pytest.approx(1 - rate)
    assert survival_of(1, 1, 0.3, "exponential") == 0.3, "of one block that is the last one"


def test_fixed_blocks_always_run_and_count_whatever_the_decay():
    network = made(SequentialNet)
    assert StochasticDepth(network, survival=0.3, decay="uniform").probabilities.tolist() == [0.3] * 3 + [1] + [0.3] * 3
    exponential = StochasticDepth(network, survival=0.3, decay="exponential").probabilities.tolist()
    assert exponential == pytest.approx([1 - 0.7 * (2 ** (l / 6) - 1) if l != 3 else 1 for l in range(7)])  # noqa: E741


@pytest.mark.parametrize("decay", ["linear", "uniform", "exponential"])
def test_blocks_run_as_often_as_they_should(decay):
    method = StochasticDepth(made(SequentialNet), survival=0.4, decay=decay, seed=1)
    draws = 1500
    subnets = [method.draw() for _ in range(draws)]
    assert all(method.network.resolve(subnet) == subnet for subnet in subnets)
    for place, p in zip(method.network.wiring.places, method.probabilities.tolist(), strict=True):
        share = sum(place.index in subnet.stages[place.stage] for subnet in subnets) / draws
        assert abs(share - p) <= 4 * (p * (1 - p) / draws) ** 0.5, place.name


def test_a_step_is_cross_entropy_of_the_net_that_runs_and_no_other_block_is_computed():
    network = made(SequentialNet)
    ran = set()
    for stage in network.stages:
        for name in stage.block_names:
            conv = network.model.get_submodule(f"{name}.conv1")
            conv.register_forward_hook(lambda *_, name=name: ran.add(name))
    method = StochasticDepth(network, survival=0.2, label_smoothing=0.1, seed=2)
    skipped_any = 0
    for _ in range(4):
        ran.clear()
        before = copy.deepcopy(network.model)
        network.zero_grad()
        terms = method.backward(images(), LABELS)
        (subnet,) = terms.subnets
        kept = {
            name
            for stage, indices in zip(network.stages, subnet.stages, strict=True)
            for index, name in enumerate(stage.block_names)
            if index in indices
        }
        assert ran == kept
        skipped_any += len(kept) < 7
        twin = unravel(before, images(2))
        with twin.only(subnet) as model:
            expected = F.cross_entropy(model(images()), LABELS, label_smoothing=0.1)
        expected.backward()
        torch.testing.assert_close(terms.loss, expected.detach(), rtol=1e-12, atol=0)
        wanted, found = gradients(before), gradients(network.model)
        assert found.keys() == dict(network.model.named_parameters()).keys()
        for name, gradient in found.items():
            # as in the authors' code, what is skipped has a gradient of zero: momentum and weight decay go on
            torch.testing.assert_close(gradient, wanted.get(name, torch.zeros_like(gradient)), rtol=1e-10, atol=1e-14)
        # running statistics of skipped blocks stay, all others are those of the same pass
        for (name, ours), theirs in zip(network.model.named_buffers(), before.buffers(), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-14, msg=name)
    assert skipped_any == 4


def test_all_blocks_of_a_stage_without_fixed_entry_may_be_skipped_at_once():
    method = StochasticDepth(linear(), survival=1e-9, seed=0)
    depths = {method(images(), LABELS).subnets[0].blocks for _ in range(60)}
    assert min(depths) == 0 and len(depths) > 2


def test_each_image_has_blocks_of_its_own_per_sample():
    network = linear()
    method = StochasticDepth(network, survival=0.5, per_sample=True, seed=3)
    x = images(1).expand(64, -1, -1, -1)
    terms = method(x, torch.zeros(64, dtype=torch.long))
    assert terms.subnets == ()
    of_subnets = {
        subnet.stages[0]: network(x[:1], subnet)[0] for subnet in network.space.unordered().restrict([(0, 4)])
    }
    found = set()
    for row in terms.logits:
        matching = [kept for kept, logits in of_subnets.items() if torch.allclose(row, logits, rtol=1e-10)]
        assert len(matching) == 1
        found.add(matching[0])
    assert len(found) > 8


def test_per_sample_leaves_fixed_blocks_alone_and_trains_everything():
    network = made(SequentialNet)
    method = StochasticDepth(network, survival=0.1, per_sample=True, seed=0)
    method.backward(images(), LABELS)
    assert gradients(network.model).keys() == dict(network.model.named_parameters()).keys()
    assert bool(network.model.get_parameter("stage2.0.conv1.weight").grad.abs().sum() > 0)


def test_per_sample_draws_the_same_again_from_a_saved_state():
    method = StochasticDepth(made(SequentialNet), per_sample=True, seed=4)
    method(images(), LABELS)
    saved = copy.deepcopy(method.state_dict())
    expected = [method(images(), LABELS).logits for _ in range(3)]
    other = StochasticDepth(made(SequentialNet), per_sample=True, seed=99)
    other.load_state_dict(saved)
    for logits in expected:
        assert torch.equal(other(images(), LABELS).logits, logits)


def test_evaluation_skips_nothing_and_draws_nothing():
    network = made(SequentialNet)
    method = StochasticDepth(network, survival=0.1).eval()
    before = method.generator.get_state()
    terms = method(images(), LABELS)
    assert torch.equal(terms.logits, network.model(images()))
    assert torch.equal(before, method.generator.get_state()) and terms.subnets == ()


@pytest.mark.parametrize("per_sample", [False, True])
def test_survival_1_is_common_training_at_its_cost(per_sample, monkeypatch):
    def refuse(*_):
        raise AssertionError("branches are looked for in vain")

    monkeypatch.setattr(stochastic_depth, "branch_ends", refuse)
    ours, common = made(SequentialNet), made(SequentialNet)
    method = StochasticDepth(ours, survival=1.0, per_sample=per_sample)
    method.backward(images(), LABELS)
    CommonTraining(common).backward(images(), LABELS)
    found = gradients(ours.model)
    assert all(torch.equal(found[name], value) for name, value in gradients(common.model).items())
    before = state(ours.model)
    method.deploy()
    assert all(torch.equal(before[name], value) for name, value in state(ours.model).items())


def test_a_deployed_linear_net_is_the_mean_over_all_subnets_exactly():
    network = linear()
    method = StochasticDepth(network, survival=0.4)
    x, mean = images(), torch.zeros(4, CLASSES, dtype=torch.float64)
    p = method.probabilities.tolist()
    assert p == pytest.approx([0.85, 0.7, 0.55, 0.4])
    for kept in itertools.product((False, True), repeat=4):
        probability = torch.tensor([a if run else 1 - a for a, run in zip(p, kept, strict=True)]).prod()
        subnet = [index for index, run in enumerate(kept) if run]
        mean += probability * network(x, f"[{'.'.join(map(str, subnet))}]")
    with method.as_deployed():
        torch.testing.assert_close(network.model(x), mean, rtol=1e-6, atol=1e-9)
    assert not torch.allclose(network.model(x), mean, rtol=1e-3)


def test_a_deployed_linear_net_is_the_mean_of_what_training_runs():
    network = linear()
    x = images(1)
    with torch.no_grad():
        per_sample = StochasticDepth(network, survival=0.3, per_sample=True, seed=5)
        logits = per_sample(x.expand(6000, -1, -1, -1), torch.zeros(6000, dtype=torch.long)).logits
        whole = StochasticDepth(network, survival=0.3, seed=6)
        batches = torch.cat([whole(x, torch.zeros(1, dtype=torch.long)).logits for _ in range(400)])
        with whole.as_deployed():
            expected = network.model(x)[0]
    for sampled in (logits, batches):
        error = (sampled.mean(0) - expected).abs() / (sampled.std(0) / len(sampled) ** 0.5)
        assert float(error.max()) < 4


# Without scaling


@pytest.mark.parametrize("decay", ["linear", "uniform", "exponential"])
def test_without_rescaling_the_model_stays_as_it_was_trained(decay, monkeypatch):
    def refuse(*_):
        raise AssertionError("branches are looked for in vain")

    network, x = linear(), images()
    scaled = copy.deepcopy(network)
    monkeypatch.setattr(stochastic_depth, "branch_ends", refuse)
    method = StochasticDepth(network, survival=0.4, decay=decay, rescale=False)
    before, plain = state(network.model), network.model(x)
    monkeypatch.undo()
    with method.as_deployed():
        assert torch.equal(network.model(x), plain)
    method.deploy()
    assert all(torch.equal(before[name], value) for name, value in state(network.model).items())
    StochasticDepth(scaled, survival=0.4, decay=decay).deploy()
    embedded = network.model.embed(x.flatten(1))
    expected = embedded
    for block, p in zip(network.model.blocks, method.probabilities.tolist(), strict=True):
        expected = expected + p * block.linear(expected)
    torch.testing.assert_close(scaled.model(x), network.model.head(expected), rtol=1e-10, atol=0)
    assert not torch.allclose(scaled.model(x), plain, rtol=1e-3)
    method.train()(x, LABELS)  # nothing was scaled, so training may go on
    assert method.get_extra_state()["deployed"] is False


@pytest.mark.parametrize("per_sample", [False, True])
def test_rescaling_has_no_part_in_training(per_sample):
    found = []
    for rescale in (True, False):
        network = made(SequentialNet)
        method = StochasticDepth(network, decay="uniform", rescale=rescale, per_sample=per_sample, seed=5)
        terms = [method.backward(images(), LABELS).loss for _ in range(3)]
        found.append((torch.stack(terms), gradients(network.model)))
    assert torch.equal(found[0][0], found[1][0])
    assert all(torch.equal(found[1][1][name], value) for name, value in found[0][1].items())


def test_branches_that_cannot_be_scaled_can_be_dropped():
    torch.manual_seed(0)
    network = network_of(Stem(Gated(), Gated()).double())
    with pytest.raises(UsageError, match="Use rescale false, another method or another model"):
        StochasticDepth(network)
    terms = StochasticDepth(network, survival=1e-9, decay="uniform", rescale=False).backward(images(), LABELS)
    assert terms.subnets[0].blocks == 0
    assert torch.allclose(terms.logits, network(images(), "0")) and terms.loss.isfinite()


def test_a_densenet_can_be_trained_without_rescaling():
    model = timm.create_model("densenet121", num_classes=CLASSES, block_config=(2, 2), growth_rate=4).double()
    network = unravel(model, images(2, 32))
    method = StochasticDepth(network, survival=0.3, decay="uniform", rescale=False, seed=1)
    seen = set()
    for _ in range(12):
        twin = copy.deepcopy(network)
        network.zero_grad()
        terms = method.backward(images(4, 32), LABELS)
        (subnet,) = terms.subnets
        seen.add(subnet.depths)
        torch.testing.assert_close(terms.logits, twin(images(4, 32), subnet), rtol=1e-9, atol=1e-12)
        assert all(parameter.grad is not None for parameter in model.parameters())
    assert len(seen) > 3 and min(map(sum, seen)) == 0
    with pytest.raises(UsageError, match=r"per_sample: the layers of .* are concatenated .*use per_sample false"):
        StochasticDepth(network, rescale=False, per_sample=True)


def test_a_run_without_rescaling_saves_what_was_trained(tmp_path):
    settings = {
        "model.arguments": {"width": 4},
        "method": {"name": "stochastic_depth", "survival": 0.8, "decay": "uniform", "rescale": False},
        "schedule.max_steps": 2,
        "training.threads": 1,
        "training.loggers": [],
    }
    train(load_recipe("digits", settings), tmp_path, progress=False)
    trained = torch.load(tmp_path / "checkpoint-last.ckpt", weights_only=True)["method"]
    weights = {k: v for k, v in load_file(tmp_path / "model.safetensors").items() if "running" not in k}
    weights = {k: v for k, v in weights.items() if "num_batches" not in k}
    assert len(weights) > 50 and all(torch.equal(v, trained[f"network.model.{k}"]) for k, v in weights.items())


def relu_after(f):
    return lambda block, p, x: F.relu(x + p * f(block, x))


def basic(block, x):
    return block.bn2(block.conv2(block.act1(block.bn1(block.conv1(x)))))


def bottleneck(block, x):
    out = block.act1(block.bn1(block.conv1(x)))
    out = block.act2(block.bn2(block.conv2(out)))
    return block.bn3(block.conv3(out))


def inverted(block, p, x):
    out = block.bn2(block.conv_dw(block.bn1(block.conv_pw(x))))
    return x + p * block.bn3(block.conv_pwl(block.se(out)))


def convnext(block, p, x):
    return x + p * block.gamma.view(1, -1, 1, 1) * block.mlp(block.norm(block.conv_dw(x)))


def vit(block, p, x):
    x = x + p * block.ls1(block.attn(block.norm1(x)))
    return x + p * block.ls2(block.mlp(block.norm2(x)))


def swin(block, p, x):
    x = x + p * block._attn(block.norm1(x))
    return x + p * block.mlp(block.norm2(x))


# how to make each network, its images, its block in our own words, and the parameters that are scaled
DEPLOYED = {
    "basic": (
        lambda: ResNet(BasicBlock, (2, 2, 1, 2), num_classes=CLASSES, channels=(4, 6, 8, 8), stem_width=4),
        32,
        relu_after(basic),
        {"bn2.weight", "bn2.bias"},
    ),
    "bottleneck": (
        lambda: ResNet(Bottleneck, (2, 3, 1, 1), num_classes=CLASSES, channels=(4, 4, 4, 4), stem_width=4),
        32,
        relu_after(bottleneck),
        {"bn3.weight", "bn3.bias"},
    ),
    "mobilenetv3": (
        lambda: timm.create_model("mobilenetv3_small_050", num_classes=CLASSES),
        64,
        inverted,
        {"bn3.weight", "bn3.bias"},
    ),
    "convnext": (
        lambda: timm.create_model(
            "convnext_atto", num_classes=CLASSES, conv_mlp=True, depths=(2, 2, 3, 2), dims=(8, 12, 16, 20)
        ),
        32,
        convnext,
        {"mlp.fc2.weight", "mlp.fc2.bias"},
    ),
    "vit": (
        lambda: timm.create_model("vit_tiny_patch16_224", **VIT),
        32,
        vit,
        {"attn.proj.weight", "attn.proj.bias", "mlp.fc2.weight", "mlp.fc2.bias"},
    ),
    "vit with layer scale": (
        lambda: timm.create_model("vit_tiny_patch16_224", init_values=1e-6, **VIT),
        32,
        vit,
        {"ls1.gamma", "ls2.gamma"},
    ),
    "swin": (
        lambda: timm.create_model("swin_tiny_patch4_window7_224", num_classes=CLASSES, drop_path_rate=0.0, **SWIN),
        16,
        swin,
        {"attn.proj.weight", "attn.proj.bias", "mlp.fc2.weight", "mlp.fc2.bias"},
    ),
}


@pytest.mark.parametrize("kind", DEPLOYED)
def test_a_deployed_net_scales_each_branch_and_changes_nothing_else(kind):
    make, size, scaled_block, ends = DEPLOYED[kind]
    torch.manual_seed(0)
    model = make()
    # the ends are found on the net as it is made, last layers at zero and layer scales of 1e-6 among them
    network = unravel(model, torch.randn(2, 3, size, size))
    method = StochasticDepth(network, survival=0.4)
    randomised(model).eval()
    skippable = {
        place.name: p for place, p in zip(network.wiring.places, method.probabilities.tolist(), strict=True) if p < 1
    }
    assert len(skippable) >= 2
    reference = copy.deepcopy(model)
    for name, p in skippable.items():
        block = reference.get_submodule(name)
        block.forward = lambda x, block=block, p=p, **_: scaled_block(block, p, x)
    x = images(3, size)
    before, plain = state(model), model(x)
    with torch.no_grad():
        expected = reference(x)
    assert not torch.allclose(expected, plain, rtol=1e-3)
    method.deploy()
    torch.testing.assert_close(model(x), expected, rtol=1e-9, atol=1e-10)
    changed = {name for name, value in state(model).items() if not torch.equal(value, before[name])}
    assert changed == {f"{block}.{end}" for block in skippable for end in ends}
    assert model.state_dict().keys() == before.keys()


def test_subnets_of_a_deployed_net_are_scaled_too():
    network = linear()
    whole = copy.deepcopy(network.model)
    StochasticDepth(network, survival=0.4).deploy()
    x = whole.embed(images().flatten(1))
    for index, p in ((0, 0.85), (2, 0.55)):
        x = x + p * whole.blocks[index].linear(x)
    torch.testing.assert_close(network(images(), "[0.2]"), whole.head(x), rtol=1e-12, atol=0)


def test_after_validation_everything_is_bit_by_bit_as_it_was():
    network = made(SequentialNet)
    method = StochasticDepth(network, survival=0.37)
    before = state(network.model)
    with method.as_deployed():
        assert not torch.equal(network.model.get_parameter("stage1.2.bn2.weight"), before["stage1.2.bn2.weight"])
    with pytest.raises(ArithmeticError), method.as_deployed():
        raise ArithmeticError
    assert all(torch.equal(before[name], value) for name, value in state(network.model).items())


def test_a_net_is_deployed_once_and_not_trained_after_that():
    network = made(SequentialNet)
    method = StochasticDepth(network)
    unscaled = copy.deepcopy(method.state_dict())
    method.deploy()
    once = state(network.model)
    method.deploy()
    with method.as_deployed():
        assert all(torch.equal(once[name], value) for name, value in state(network.model).items())
    with pytest.raises(UsageError, match=r"has been deployed: its branches are scaled.*Train on from a checkpoint"):
        method(images(), LABELS)
    method.eval()(images(), LABELS)
    # the state says so, and one from before takes it back
    other = StochasticDepth(made(SequentialNet))
    other.load_state_dict(method.state_dict())
    other.deploy()
    assert all(torch.equal(once[name], value) for name, value in state(other.network.model).items())
    method.load_state_dict(unscaled)
    method.train()(images(), LABELS)


def test_a_run_whose_summary_is_lost_is_not_scaled_twice(tmp_path):
    settings = {
        "model.arguments": {"width": 4},
        "method.name": "stochastic_depth",
        "schedule.epochs": 1,
        "training.threads": 1,
        "training.loggers": [],
    }
    recipe = load_recipe("digits", settings)
    train(recipe, tmp_path, progress=False)
    first = load_file(tmp_path / "model.safetensors")
    (tmp_path / "summary.json").unlink()
    train(recipe, tmp_path, resume=True, progress=False)
    trained = torch.load(tmp_path / "checkpoint-last.ckpt", weights_only=True)["method"]
    for weights in (first, load_file(tmp_path / "model.safetensors")):
        for name, value in weights.items():
            if "running" in name or "num_batches" in name:
                continue
            stage, block, *end = name.removeprefix("layer").split(".")
            last = end in (["bn2", "weight"], ["bn2", "bias"]) and (stage, block) not in (("2", "0"), ("3", "0"))
            p = 1 - (3 * (int(stage) - 1) + int(block) + 1) / 9 * 0.5 if last else 1.0
            torch.testing.assert_close(value, trained[f"network.model.{name}"] * p, rtol=1e-6, atol=0, msg=name)


class Stem(nn.Module):
    """Blocks over (B, 6) behind an activation, so that half of their input is zero."""

    def __init__(self, *blocks: nn.Module) -> None:
        super().__init__()
        self.embed = nn.Sequential(nn.Linear(3 * 8 * 8, 6), nn.ReLU())
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Linear(6, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(self.embed(x.flatten(1))))


class Branch(nn.Module):
    """``x + f(x)`` for any ``f``, times a gain if asked to."""

    def __init__(self, *layers: nn.Module, gain: bool = False) -> None:
        super().__init__()
        if gain:
            self.gain = nn.Parameter(torch.full((6,), 1e-6))
        self.f = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return x + (self.gain * self.f(x) if hasattr(self, "gain") else self.f(x))


class Gated(nn.Module):
    """The gate looks at what it multiplies, so nothing scales their product."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(6, 6)
        self.gate = nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        out = self.linear(x)
        return x + out * self.gate(out).sigmoid()


def plain(width: int = 6) -> nn.Module:
    return nn.Linear(width, width, bias=False)


@pytest.mark.parametrize(
    ("block", "ends"),
    [
        # scaling the first one scales the branch as well; the one that is called last is taken
        (lambda: Branch(plain(), nn.ReLU(), plain()), ["f.2.weight"]),
        (lambda: Branch(nn.Linear(6, 6), nn.PReLU()), ["f.0.weight", "f.0.bias"]),
        (lambda: Branch(nn.Linear(6, 6), nn.GELU(), gain=True), ["gain"]),
        (lambda: Branch(plain(), nn.BatchNorm1d(6)), ["f.1.weight", "f.1.bias"]),
        (lambda: Branch(plain(), nn.MultiheadAttention(6, 2).out_proj), ["f.1.weight", "f.1.bias"]),
    ],
)
def test_the_last_parameters_that_scale_a_branch_are_found(block, ends):
    torch.manual_seed(0)
    network = network_of(Stem(block(), block()).double())
    assert branch_ends(network) == {
        f"blocks.{number}": tuple(f"blocks.{number}.{end}" for end in ends) for number in range(2)
    }


def shared() -> nn.Module:
    last = plain()
    return Stem(Branch(plain(), nn.Tanh(), last), Branch(plain(), nn.Tanh(), last))


@pytest.mark.parametrize(
    "model",
    [
        lambda: Stem(Gated(), Gated()),
        lambda: Stem(*(Branch(plain(), nn.Tanh()) for _ in range(2))),
        # at first its mean is zero and looks linear, after training it is not
        lambda: Stem(*(Branch(plain(), nn.BatchNorm1d(6, affine=False)) for _ in range(2))),
        shared,
    ],
)
def test_a_branch_that_cannot_be_scaled_is_refused_at_set_up(model):
    torch.manual_seed(0)
    network = network_of(model().double())
    with pytest.raises(UsageError, match=r"stochastic depth scales.*'blocks\.0'.*cannot be scaled.*survival 1 is"):
        StochasticDepth(network)


def test_a_densenet_is_refused():
    model = timm.create_model("densenet121", num_classes=CLASSES, block_config=(2, 2), growth_rate=4)
    network = unravel(model, images(2, 32, dtype=torch.float32))
    with pytest.raises(UsageError, match="concatenated, not added"):
        StochasticDepth(network)
    StochasticDepth(network, survival=1.0)


def test_looking_for_ends_leaves_no_trace():
    network = made(SequentialNet)
    network.model.stage1.eval()
    before, modes = state(network.model), [module.training for module in network.model.modules()]
    draws = torch.get_rng_state()
    branch_ends(network)
    assert all(torch.equal(before[name], value) for name, value in state(network.model).items())
    assert modes == [module.training for module in network.model.modules()]
    assert torch.equal(draws, torch.get_rng_state())
    assert all(parameter.grad is None for parameter in network.model.parameters())


def test_a_block_that_runs_several_times_is_scaled_each_time():
    network = made(lambda: LoopedNet(rounds=2))
    whole = copy.deepcopy(network.model)
    StochasticDepth(network, survival=0.5).deploy()
    x = whole.embed(images().flatten(1))
    for _ in range(2):
        for number, block in enumerate(whole.blocks, start=1):
            x = x + (1 - number / 5 * 0.5) * block.f(x)
    torch.testing.assert_close(network.model(images()), whole.head(x), rtol=1e-10, atol=0)


def test_half_precision_weights_are_looked_at_in_full():
    torch.manual_seed(0)
    model = SequentialNet().bfloat16()
    network = unravel(model, images(2, dtype=torch.bfloat16))
    assert branch_ends(network)["stage1.0"] == ("stage1.0.bn2.weight", "stage1.0.bn2.bias")
    assert precise(torch.ones(2, dtype=torch.bfloat16)).dtype is torch.float32


class DropPath(nn.Module):
    def __init__(self, drop_prob: float) -> None:
        super().__init__()
        self.drop_prob = drop_prob

    def forward(self, x: Tensor) -> Tensor:
        return x


class StochasticDepthLayer(nn.Module):
    pass


def test_drop_path_of_the_model_is_told_about():
    def model(rate: float) -> nn.Module:
        return Stem(*(Branch(plain(), DropPath(rate)) for _ in range(6)))

    expected = r"drop-path of its own.*blocks\.0\.f\.1 \(0\.2\).* and 2 more.*drop_path_rate: 0.*stochastic_depth_prob"
    with pytest.warns(UserWarning, match=expected):
        StochasticDepth(network_of(model(0.2).double()))
    torchvision_like = type("StochasticDepth", (DropPath,), {})(0.0)
    torchvision_like.p = 0.1
    del torchvision_like.drop_prob
    with pytest.warns(UserWarning, match=r"blocks\.1\.f\.1 \(0\.1\)"):
        StochasticDepth(network_of(Stem(Branch(plain()), Branch(plain(), torchvision_like)).double()))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        StochasticDepth(network_of(model(0.0).double()))
        StochasticDepth(network_of(model(0.2).double()), survival=1.0)


@pytest.mark.parametrize("survival", [0.0, -0.1, 1.5])
def test_impossible_survival_is_refused(survival):
    with pytest.raises(UsageError, match=f"survival: got {survival}, but it is a probability above 0, at most 1"):
        StochasticDepth(linear(), survival=survival)


def test_impossible_decay_is_refused():
    with pytest.raises(UsageError, match="decay: got 'cosine', but it is one of linear, uniform, exponential"):
        StochasticDepth(linear(), decay="cosine")
    with pytest.raises(UsageError, match=r"method\.decay: got 'cosine'.*one of linear, uniform, exponential"):
        load_recipe("digits", {"method.name": "stochastic_depth", "method.decay": "cosine"})


def test_a_recipe_names_a_wrong_setting():
    with pytest.raises(UsageError, match=r"method\.survival: got 2.*probability above 0"):
        load_recipe("digits", {"method.name": "stochastic_depth", "method.survival": 2})
    with pytest.raises(UsageError, match=r"method\.survivl: unknown setting.*did you mean 'method\.survival'"):
        load_recipe("digits", {"method.name": "stochastic_depth", "method.survivl": 0.5})


def test_subnets_are_refused():
    with pytest.raises(UsageError, match="draws the blocks that run and trains no other subnets, got 1"):
        StochasticDepth(linear())(images(), LABELS, ["2"])


@pytest.mark.parametrize("per_sample", [False, True])
def test_activation_checkpointing_is_refused(per_sample):
    model = timm.create_model("vit_tiny_patch16_224", **VIT)
    network = unravel(model, images(2, 32, dtype=torch.float32))
    method = StochasticDepth(network, survival=1e-6, per_sample=per_sample)
    model.set_grad_checkpointing(True)
    with pytest.raises(UsageError, match="activation checkpointing is on"):
        for _ in range(3):
            method(images(4, 32, dtype=torch.float32), LABELS)


class SequenceFirst(Stem):
    """Blocks over (T, B, 6)."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x.flatten(1)).expand(3, -1, -1)
        return self.head(self.blocks(x).mean(0))


def test_per_sample_refuses_what_has_no_sample_first():
    method = StochasticDepth(network_of(SequenceFirst(Branch(plain()), Branch(plain())).double()), per_sample=True)
    with pytest.raises(UsageError, match=r"'blocks\.0' returns a tensor of shape \(3, 4, 6\).*use per_sample false"):
        method(images(), LABELS)


def test_the_card_names_its_differences():
    text = (Path(stochastic_depth.__file__).parent / "stochastic_depth.md").read_text()
    assert "arXiv 1603.09382" in text and "differ" in text
