"""Auxiliary classifiers: where they read, in what layout, what they add to the loss, and that they leave no trace."""

import copy

import pytest
import timm
import torch
import torch.nn.functional as F
import torchvision
from nets import (
    CLASSES,
    AddingNet,
    DropoutNet,
    GlueNet,
    LoopedNet,
    MLPBlock,
    NormNet,
    PreActivationNet,
    SequentialNet,
    StatefulNet,
    images,
    randomised,
)
from safetensors.torch import load_file
from timm.models.densenet import DenseNet
from timm.models.mlp_mixer import MlpMixer
from timm.models.resnet import Bottleneck, ResNet
from torch import Tensor, nn

from stimulative import unravel
from stimulative.errors import UsageError
from stimulative.methods import CommonTraining, LayerSupervision, SelfDistillation, StageSupervision
from stimulative.methods.heads import Point, block_points, layouts_of, reading, stage_points
from stimulative.residual import ResidualNetwork, keep_only
from stimulative.runs import read_metrics
from stimulative.training import load_recipe, train

SUPERVISED = [LayerSupervision, StageSupervision, SelfDistillation]
NAMES = ["layer_supervision", "stage_supervision", "self_distillation"]
TARGETS = torch.tensor([0, 1, 2, 3])


def vit(**settings) -> nn.Module:
    sizes = {"img_size": 16, "patch_size": 8, "depth": 3, "embed_dim": 12, "num_heads": 2}
    name = settings.pop("name", "vit_tiny_patch16_224")
    return timm.create_model(name, num_classes=CLASSES, **{**sizes, **settings})


def swin() -> nn.Module:
    sizes = {"img_size": 16, "patch_size": 2, "window_size": 4, "depths": (2, 2), "num_heads": (2, 2), "embed_dim": 8}
    return timm.create_model("swin_tiny_patch4_window7_224", num_classes=CLASSES, **sizes)


def convnext() -> nn.Module:  # 8 channels on 8x8 positions: sizes do not tell which is which
    return timm.create_model("convnext_atto", num_classes=CLASSES, depths=(2, 2, 2, 2), dims=(8, 4, 6, 6))


class SignalNet(nn.Module):
    """Two residual blocks on signals (B, C, N), with as many channels as positions."""

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv1d(6, 6, 3, 1, 1)

        def forward(self, x: Tensor) -> Tensor:
            return x + self.conv(x).relu()

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(3 * 8 * 8, 36)
        self.blocks = nn.Sequential(self.Block(), self.Block(), self.Block())
        self.head = nn.Linear(6, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(self.embed(x.flatten(1)).view(-1, 6, 6)).mean(2))


# how to make a network, the side of its images, and behind each block: the channels and the dimension they are in
KINDS = {
    "resnet": (
        lambda: ResNet(Bottleneck, (2, 1, 2, 2), num_classes=CLASSES, channels=(2, 3, 4, 3), stem_width=4),
        32,
        [(8, 1), (8, 1), (16, 1), (16, 1), (12, 1), (12, 1)],  # a single block is no stage
    ),
    "mobilenetv3": (
        lambda: timm.create_model("mobilenetv3_small_050", num_classes=CLASSES),
        32,
        [(width, 1) for width in (16, 16, 24, 24, 24, 24, 24, 48, 48, 48)],
    ),
    "vit": (vit, 16, [(12, 2)] * 3),
    "torchvision vit": (
        lambda: torchvision.models.VisionTransformer(16, 8, 3, 2, 12, 16, num_classes=CLASSES),
        16,
        [(12, 2)] * 3,
    ),
    "swin": (swin, 16, [(8, 3), (8, 3), (16, 3), (16, 3)]),
    "convnext": (convnext, 32, [(8, 1)] * 2 + [(4, 1)] * 2 + [(6, 1)] * 4),
    "mixer": (
        lambda: MlpMixer(CLASSES, 16, patch_size=4, num_blocks=3, embed_dim=16),  # as many channels as tokens
        16,
        [(16, 2)] * 3,
    ),
    "densenet": (lambda: DenseNet(4, (2, 3), CLASSES), 32, [(12, 1), (16, 1), (12, 1), (16, 1), (20, 1)]),
    "looped": (LoopedNet, 8, [(6, 1)] * 5),
    "tuples": (StatefulNet, 8, [(6, 1)] * 4),
    "signals": (SignalNet, 8, [(6, 1)] * 3),
}


def network_of(kind: str) -> ResidualNetwork:
    make, size, _ = KINDS[kind]
    torch.manual_seed(0)
    return unravel(make(), images(size=size, dtype=torch.float32))


def batch_of(kind: str) -> tuple[Tensor, Tensor]:
    return images(size=KINDS[kind][1], dtype=torch.float32), TARGETS


def small() -> ResidualNetwork:
    torch.manual_seed(0)
    return unravel(randomised(SequentialNet()), images())


# ---- where, and in what layout


@pytest.mark.parametrize("kind", KINDS)
def test_channels_are_found_on_any_kind_of_network(kind):
    network = network_of(kind)
    points = block_points(network)
    layouts, classes = layouts_of(network, points)
    assert [(layout.channels, layout.channel_dim) for layout in layouts] == KINDS[kind][2]
    assert [point.name for point in points] == [place.name for place in network.wiring.places]
    assert classes == CLASSES


def test_an_activation_is_known_by_its_features():
    layouts, _ = layouts_of(network_of("resnet"), block_points(network_of("resnet")))
    assert all(layout.non_negative for layout in layouts)
    layouts, _ = layouts_of(network_of("convnext"), block_points(network_of("convnext")))
    assert not any(layout.non_negative for layout in layouts)


@pytest.mark.parametrize(
    ("settings", "tokens"),
    [
        ({}, slice(0, 1)),  # the class token, of five
        ({"reg_tokens": 2}, slice(0, 1)),
        ({"global_pool": "avg"}, slice(1, None)),
        ({"global_pool": "avg", "class_token": False}, None),
        ({"name": "deit_tiny_distilled_patch16_224"}, slice(0, 2)),
    ],
)
def test_heads_read_the_tokens_that_the_models_own_classifier_reads(settings, tokens):
    network = unravel(vit(**settings), images(size=16, dtype=torch.float32))
    layouts, _ = layouts_of(network, block_points(network))
    assert [layout.tokens for layout in layouts] == [tokens] * 3
    features = torch.randn(2, layouts[0].positions[0], 12)
    expected = features.mean(1) if tokens is None else features[:, tokens].mean(1)
    assert torch.equal(layouts[0].pool([features]), expected)


def test_a_classifier_that_starts_at_zero_reads_the_class_token_all_the_same():
    model = vit()
    nn.init.zeros_(model.head.weight)
    layouts, _ = layouts_of(network := unravel(model, images(size=16, dtype=torch.float32)), block_points(network))
    assert layouts[0].tokens == slice(0, 1)
    assert not model.head.weight.any()


def test_stages_end_with_their_last_blocks_and_dense_ones_as_a_whole():
    assert stage_points(small()) == [Point("stage1.2"), Point("stage2.3")]
    dense = network_of("densenet")
    assert stage_points(dense) == [Point("features.denseblock1"), Point("features.denseblock2")]
    layouts, _ = layouts_of(dense, stage_points(dense))
    assert [layout.channels for layout in layouts] == [16, 20]


@pytest.mark.parametrize(
    ("blocks", "ends"),
    [(12, [2, 5, 8, 11]), (5, [0, 1, 3, 4]), (4, [0, 1, 2, 3]), (3, [0, 1, 2]), (2, [0, 1])],
)
def test_a_network_of_one_stage_is_divided_into_four_sections(blocks, ends):
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 5), *[MLPBlock(5) for _ in range(blocks)], nn.Linear(5, 4))
    network = unravel(randomised(model), images())
    assert [point.name for point in stage_points(network)] == [str(2 + end) for end in ends]


def test_classifiers_are_behind_all_blocks_or_stages_but_the_last():
    assert [p.name for p in LayerSupervision(small()).points] == [
        *(f"stage1.{n}" for n in range(3)),
        *(f"stage2.{n}" for n in range(3)),
    ]
    assert [p.name for p in StageSupervision(small()).points] == ["stage1.2"]


def test_what_is_left_of_a_network_is_supervised():
    network = keep_only(small(), "2-[0.3]")
    method = LayerSupervision(network)
    assert [p.name for p in method.points] == ["stage1.0", "stage1.1", "stage2.0"]
    assert torch.isfinite(method(images(), TARGETS).loss)


# ---- what is computed


def layer_features(model: nn.Module, x: Tensor) -> list[Tensor]:
    """Behind each block, by hand."""
    x = model.act(model.bn(model.conv(x)))
    features = []
    for block in [*model.stage1, *model.stage2]:
        x = block(x)
        features.append(x)
    return features


@pytest.mark.parametrize(("make", "behind"), [(LayerSupervision, range(6)), (StageSupervision, [2])])
@pytest.mark.parametrize("soft", [False, True])
def test_the_loss_is_that_of_classifiers_on_averaged_features(make, behind, soft):
    network = small()
    method = make(network, weight=0.7, label_smoothing=0.1, seed=3)
    y = torch.rand(4, CLASSES, dtype=torch.float64).softmax(1) if soft else TARGETS
    reference = copy.deepcopy(network.model)
    terms = method(images(), y)
    features = layer_features(reference, images())
    main = F.cross_entropy(reference.head(features[-1].mean((2, 3))), y, label_smoothing=0.1)
    losses = []
    for head, at in zip(method.heads, behind, strict=True):
        logits = features[at].mean((2, 3)) @ head.classifier.weight.T + head.classifier.bias
        losses.append(F.cross_entropy(logits, y, label_smoothing=0.1))
    assert torch.allclose(terms.main_ce, main, rtol=1e-12)
    assert torch.allclose(terms.loss, main + 0.7 * sum(losses), rtol=1e-12)
    assert torch.allclose(terms.auxiliary, sum(losses) / len(losses), rtol=1e-12)
    assert terms.subnets == () and not terms.logits.requires_grad


def test_behind_a_dense_layer_is_all_that_the_next_one_reads():
    network = network_of("densenet")
    network.model.eval()
    seen = {}
    points = block_points(network)
    layouts, _ = layouts_of(network, points)
    x, _ = batch_of("densenet")

    def keep(number, features):
        seen[number] = layouts[number].pool(features)

    with torch.no_grad(), reading(network, points, layouts, keep):
        network.model(x)
    with torch.no_grad():
        block = network.model.features.denseblock2
        before = network.model.features[: list(network.model.features.children()).index(block)](x)
        whole = block(before)
    for number, channels in zip((2, 3, 4), (12, 16, 20), strict=True):
        assert torch.allclose(seen[number], whole[:, :channels].mean((2, 3)), atol=1e-6)


@pytest.mark.parametrize(
    ("make", "stages"),
    [(AddingNet, None), (lambda: PreActivationNet(), ["blocks"]), (GlueNet, None), (lambda: LoopedNet(3), None)],
)
def test_features_are_those_of_their_moment_whatever_writes_into_them_later(make, stages):
    network = unravel(randomised(make()), images(), stages=stages)
    method = LayerSupervision(network, seed=1)
    before: dict[str, Tensor] = {}
    handles = [
        network.model.get_submodule(point.name).register_forward_hook(
            lambda m, a, output, name=point.name: before.update({name: output.detach().clone()})
        )
        for point in method.points
    ]
    read: dict[int, Tensor] = {}
    for number, head in enumerate(method.heads):
        head.classifier.register_forward_hook(lambda m, a, output, n=number: read.update({n: output.detach()}))
    method.backward(images(), TARGETS)
    for number, (point, head) in enumerate(zip(method.points, method.heads, strict=True)):
        features = before[point.name]
        pooled = features.mean((2, 3)) if features.dim() == 4 else features
        assert torch.allclose(read[number], F.linear(pooled, head.classifier.weight, head.classifier.bias))
    assert all(p.grad is not None for p in method.parameters())
    for handle in handles:
        handle.remove()


def test_only_features_that_are_written_into_are_copied():
    def overwritten(make, stages=None):
        network = unravel(randomised(make()), images(), stages=stages)
        return [layout.overwritten for layout in layouts_of(network, block_points(network))[0]]

    assert overwritten(SequentialNet) == [False] * 7  # its stem has an in-place activation, of no concern
    assert overwritten(PreActivationNet, ["blocks"]) == [True, True, True, False]
    assert overwritten(lambda: GlueNet("middle")) == [False, False, True, False, False, False]
    assert overwritten(lambda: DropoutNet(inplace=True)) == [True] * 4


@pytest.mark.parametrize("make", SUPERVISED)
@pytest.mark.parametrize("kind", ["resnet", "vit", "swin", "densenet"])
def test_classifiers_train(make, kind):
    method = make(network_of(kind), seed=1)
    assert len(method.heads) >= 1
    optimizer = torch.optim.Adam(method.heads.parameters(), lr=0.02)
    method.network.requires_grad_(False).eval()
    x, y = batch_of(kind)
    losses = []
    for _ in range(15):
        terms = method.backward(x, y)
        losses.append(float(terms.auxiliary))
        optimizer.step()
        optimizer.zero_grad()
    assert losses[-1] < 0.9 * losses[0]


# ---- what is left alone


@pytest.mark.parametrize("make", SUPERVISED)
def test_a_weight_of_zero_is_common_training_at_its_cost(make):
    expected, network = small(), small()
    CommonTraining(expected).backward(images(), TARGETS)
    method = make(network, weight=0.0)
    assert not list(method.heads.parameters())
    calls = []
    for module in method.modules():
        module.register_forward_hook(lambda module, *_: calls.append(module))
    terms = method.backward(images(), TARGETS)
    assert calls and all(module in {*network.model.modules(), method} for module in calls)
    assert calls.count(network.model) == 1
    assert terms.auxiliary == 0
    for (name, one), (_, other) in zip(expected.named_parameters(), network.named_parameters(), strict=True):
        assert torch.equal(one.grad, other.grad), name


@pytest.mark.parametrize("make", SUPERVISED)
def test_setting_up_leaves_the_model_and_random_numbers_alone(make):
    network = unravel(randomised(NormNet()), images())
    network.model.blocks[1].eval()
    before = copy.deepcopy(network.model)
    attributes = [set(vars(module)) for module in network.model.modules()]
    state = torch.get_rng_state()
    make(network, seed=5)
    assert torch.equal(torch.get_rng_state(), state)
    for (name, one), (_, other) in zip(before.state_dict().items(), network.model.state_dict().items(), strict=True):
        assert torch.equal(one, other), name
    assert [m.training for m in before.modules()] == [m.training for m in network.model.modules()]
    assert [set(vars(module)) for module in network.model.modules()] == attributes
    assert all(parameter.grad is None for parameter in network.parameters())


@pytest.mark.parametrize("make", SUPERVISED)
def test_dropout_of_the_main_net_is_that_of_common_training(make):
    results = []
    for method in (CommonTraining, make):
        torch.manual_seed(0)
        model = randomised(DropoutNet())
        method = method(unravel(model, images()))
        results.append(method(images(), TARGETS).main_ce)
    assert torch.equal(*results)


@pytest.mark.parametrize("make", SUPERVISED)
def test_the_seed_decides_how_classifiers_start(make):
    first, again, other = (make(small(), seed=seed).state_dict() for seed in (0, 0, 1))
    heads = [key for key in first if key.startswith("heads.") and key.endswith("classifier.weight")]
    assert heads
    assert all(torch.equal(first[key], again[key]) and not torch.equal(first[key], other[key]) for key in heads)
    assert not any(key.startswith("network") and "heads" in key for key in first)


# ---- what is refused


@pytest.mark.parametrize("make", SUPERVISED)
def test_subnets_are_refused(make):
    with pytest.raises(UsageError, match=r"trains no subnets, got 1; use StimulativeTraining"):
        make(small())(images(), TARGETS, ["1-1"])


@pytest.mark.parametrize("make", SUPERVISED)
def test_a_negative_weight_is_refused(make):
    with pytest.raises(UsageError, match=r"weight: got -1.0, but it is 0 or more"):
        make(small(), weight=-1.0)


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_knows_the_settings(name):
    recipe = load_recipe("digits", {"method.name": name, "method.weight": 0.5})
    assert recipe.method.settings["weight"] == 0.5
    with pytest.raises(UsageError, match=r"method\.wieght: unknown setting.*weight"):
        load_recipe("digits", {"method.name": name, "method.wieght": 0.5})
    with pytest.raises(UsageError, match=r"method\.weight: got -2.0, but it is 0 or more"):
        load_recipe("digits", {"method.name": name, "method.weight": -2.0})


@pytest.mark.parametrize("make", SUPERVISED)
def test_a_network_of_a_single_block_has_nothing_to_supervise(make):
    network = keep_only(unravel(nn.Sequential(*_two_stages()), images(dtype=torch.float32)), "[0]-[]")
    with pytest.raises(UsageError, match="this network has a single block"):
        make(network)


def _two_stages() -> list[nn.Module]:
    stages = [nn.Sequential(MLPBlock(5), MLPBlock(5)), nn.Sequential(MLPBlock(5), MLPBlock(5))]
    return [nn.Flatten(), nn.Linear(192, 5), *stages, nn.Linear(5, 4)]


class Wrapped(nn.Module):
    def __init__(self, change) -> None:
        super().__init__()
        self.net = SequentialNet()
        self.change = change

    def forward(self, x: Tensor):
        return self.change(self.net(x))


@pytest.mark.parametrize(
    ("change", "got"),
    [
        (lambda z: z[:, :, None], r"returns shape \(4, 4, 1\) for a batch of 4"),
        (lambda z: z.sum(0, keepdim=True), r"returns shape \(1, 4\) for a batch of 4"),
    ],
)
def test_a_model_that_returns_no_logits_is_refused(change, got):
    network = unravel(Wrapped(change), images(dtype=torch.float32))
    with pytest.raises(UsageError, match=rf"logits of shape \(batch, classes\); this one {got}"):
        LayerSupervision(network)


def test_a_model_without_logits_is_refused_and_one_that_names_them_is_not():
    with pytest.raises(UsageError, match="returns dict of scores, in which there are no logits"):
        LayerSupervision(unravel(Wrapped(lambda z: {"scores": z}), images(dtype=torch.float32)))
    LayerSupervision(unravel(Wrapped(lambda z: {"scores": z, "logits": z}), images(dtype=torch.float32)))


class SequenceFirst(nn.Module):
    """Tokens before batch."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(3 * 8, 5)
        self.blocks = nn.Sequential(MLPBlock(5), MLPBlock(5), MLPBlock(5))
        self.head = nn.Linear(5, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(self.embed(x.flatten(1).view(-1, 8, 24)).transpose(0, 1)).mean(0))


def test_features_without_the_batch_first_are_refused():
    network = unravel(SequenceFirst(), images(dtype=torch.float32))
    with pytest.raises(UsageError, match=r"'blocks\.0': it returns \(8, 4, 5\), but features have the batch first"):
        LayerSupervision(network)


class Secretive(nn.Module):
    """No parameter of its blocks shows which dimension is which."""

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gain = nn.Parameter(torch.ones(()))

        def forward(self, x: Tensor) -> Tensor:
            return x + self.gain * x.sin()

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.Sequential(self.Block(), self.Block())
        self.head = nn.Linear(3, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(x).mean((2, 3)))


def test_features_of_which_nothing_shows_the_channels_are_refused():
    with pytest.raises(UsageError, match=r"\(4, 3, 8, 8\), and none of its parameters shows which dimension"):
        LayerSupervision(unravel(Secretive(), images(dtype=torch.float32)))


# ---- what lasts


@pytest.mark.parametrize("make", SUPERVISED)
def test_training_goes_on_from_a_saved_state_bit_by_bit(make):
    def trained(method, optimizer, steps):
        for _ in range(steps):
            method.backward(images(), TARGETS)
            optimizer.step()
            optimizer.zero_grad()
        return method.state_dict()

    def prepared(seed):
        method = make(small(), seed=seed)
        return method, torch.optim.SGD(method.parameters(), lr=0.01, momentum=0.9)

    method, optimizer = prepared(0)
    saved = copy.deepcopy((trained(method, optimizer, 3), optimizer.state_dict()))
    expected = trained(method, optimizer, 3)
    other, other_optimizer = prepared(9)
    other.load_state_dict(saved[0])
    other_optimizer.load_state_dict(saved[1])
    actual = trained(other, other_optimizer, 3)
    tensors = [key for key, value in expected.items() if isinstance(value, Tensor)]
    assert any(key.startswith("heads.") for key in tensors) and other.step == 6
    assert all(torch.equal(expected[key], actual[key]) for key in tensors)


def test_a_run_has_its_classifiers_in_the_checkpoint_and_not_in_the_saved_model(tmp_path):
    settings = {"model.arguments": {"width": 4}, "schedule.epochs": 1, "training.threads": 1, "training.loggers": []}
    settings |= {"method.name": "self_distillation", "data.batch_size": 256}
    train(load_recipe("digits", settings), tmp_path / "run", progress=False)
    state = torch.load(tmp_path / "run" / "checkpoint-last.ckpt", weights_only=True)
    heads = {key for key in state["method"] if key.startswith("heads.")}
    assert {"heads.0.classifier.weight", "heads.1.bottleneck.2.running_mean"} <= heads
    trained = sum(len(group["params"]) for group in state["optimizer"]["param_groups"])
    buffers = ("running_mean", "running_var", "num_batches_tracked", "_extra_state")
    assert trained == sum(not key.endswith(buffers) for key in state["method"])
    saved = load_file(tmp_path / "run" / "model.safetensors")
    assert {f"network.model.{key}" for key in saved} == {k for k in state["method"] if k.startswith("network.model.")}
    assert float(read_metrics(tmp_path / "run" / "metrics.csv")[0]["auxiliary"]) > 0
