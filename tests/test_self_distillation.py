"""Self-distillation: its terms, what each of them reaches, and the bottlenecks of any kind of network."""

import copy
import math

import pytest
import timm
import torch
import torch.nn.functional as F
from nets import CLASSES, BasicBlock, LoopedNet, SequentialNet, images, randomised
from timm.models.densenet import DenseNet
from timm.models.resnet import Bottleneck, ResNet
from torch import Tensor, nn

from stimulative import unravel
from stimulative.errors import UsageError
from stimulative.methods import SelfDistillation
from stimulative.objectives import hint_loss, shallow_loss

TARGETS = torch.tensor([0, 1, 2, 3])


def method_of(model: nn.Module | None = None, **settings) -> SelfDistillation:
    torch.manual_seed(0)
    model = randomised(SequentialNet() if model is None else model)
    return SelfDistillation(unravel(model, images()), **settings)


class Net(nn.Module):
    """Three stages on maps of sides 8, 4 and 2."""

    def __init__(self) -> None:
        super().__init__()
        first = SequentialNet()
        self.stem = first.conv
        self.stage1, self.stage2 = first.stage1, first.stage2
        self.stage3 = nn.Sequential(BasicBlock(8, 5, 2), BasicBlock(5, 5))
        self.head = nn.Linear(5, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.stage3(self.stage2(self.stage1(self.stem(x)))).mean((2, 3)))


# ---- objectives


def test_the_shallow_loss_by_hand():
    # softmax at T = 2 is (1/4, 3/4) of the student and (3/4, 1/4) of the teacher, so KL = ln(3) / 2; at T = 1 the
    # student has (1/10, 9/10), so the cross-entropy of class 0 is ln(10)
    student = torch.tensor([[0.0, 2 * math.log(3)]], dtype=torch.float64)
    teacher = torch.tensor([[2 * math.log(3), 0.0]], dtype=torch.float64)
    loss = shallow_loss(student, teacher, torch.tensor([0]), alpha=0.3, temperature=2.0)
    assert loss.item() == pytest.approx(0.7 * math.log(10) + 0.3 * math.log(3) / 2, rel=1e-12)


@pytest.mark.parametrize("soft", [False, True])
def test_the_shallow_loss_is_that_of_soft_targets_up_to_a_constant(soft):
    generator = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(5, 4, generator=generator, dtype=torch.float64) for _ in range(2))
    targets = torch.randint(4, (5,), generator=generator)
    targets = F.one_hot(targets, 4).double() * 0.8 + 0.05 if soft else targets
    p = (teacher / 3).softmax(1)
    soft_ce = -(p * (student / 3).log_softmax(1)).sum(1).mean()  # what the authors' code computes
    entropy = -(p * p.log()).sum(1).mean()
    expected = 0.6 * F.cross_entropy(student, targets, label_smoothing=0.1) + 0.4 * (soft_ce - entropy)
    actual = shallow_loss(student, teacher, targets, alpha=0.4, temperature=3.0, label_smoothing=0.1)
    assert torch.allclose(actual, expected, rtol=1e-12)


def test_the_hint_by_hand():
    features = torch.tensor([[1.0, 2.0], [0.0, 4.0]], requires_grad=True)
    deepest = torch.tensor([[1.0, -1.0], [0.0, 0.0]], requires_grad=True)
    loss = hint_loss(features, deepest)
    assert loss.item() == 5.0  # sqrt(3^2 + 4^2): over the batch, not its mean, and not squared
    loss.backward()
    assert torch.allclose(features.grad, torch.tensor([[0.0, 0.6], [0.0, 0.8]])) and deepest.grad is None


def test_the_hint_of_equal_features_is_0_and_so_is_its_gradient():
    features = torch.ones(2, 3, requires_grad=True)
    loss = hint_loss(features, torch.ones(2, 3))
    loss.backward()
    assert loss == 0 and not features.grad.any()


def test_the_hint_of_half_precision_is_computed_in_single():
    features = torch.full((64, 64), 300.0, dtype=torch.float16)
    assert hint_loss(features, torch.zeros_like(features)).item() == 300 * 64  # its square exceeds float16


@pytest.mark.parametrize("shapes", [((2, 3), (2, 4)), ((2,), (2,)), ((0, 3), (0, 3))])
def test_features_that_do_not_fit_are_refused(shapes):
    with pytest.raises(UsageError, match=r"must have the same shape \(batch, channels\)"):
        hint_loss(*map(torch.zeros, shapes))


def test_impossible_shares_and_shapes_are_refused():
    z = torch.zeros(2, 3)
    with pytest.raises(UsageError, match=r"alpha is a share, 0 to 1; got 1\.5"):
        shallow_loss(z, z, torch.tensor([0, 1]), alpha=1.5, temperature=1.0)
    with pytest.raises(UsageError, match="must have the same shape"):
        shallow_loss(z, torch.zeros(2, 4), torch.tensor([0, 1]), alpha=0.5, temperature=1.0)
    with pytest.raises(UsageError, match="the temperature must be a positive number; got 0"):
        shallow_loss(z, z, torch.tensor([0, 1]), alpha=0.5, temperature=0.0)


# ---- the method


def test_the_loss_is_that_of_the_paper():
    settings = {"alpha": 0.4, "temperature": 2.0, "hint_weight": 0.2, "weight": 0.7, "label_smoothing": 0.1}
    method = method_of(Net(), **settings)
    model, heads = copy.deepcopy(method.network.model), copy.deepcopy(method.heads)
    terms = method(images(), TARGETS)
    first = model.stage1(model.stem(images()))
    second = model.stage2(first)
    deepest = model.stage3(second).mean((2, 3))
    z = model.head(deepest)
    expected = F.cross_entropy(z, TARGETS, label_smoothing=0.1)
    parts = []
    for x, head in zip((first, second), heads, strict=True):
        features = head.bottleneck(x).mean((2, 3))
        logits = head.classifier(features)
        divergence = F.kl_div((logits / 2).log_softmax(1), (z / 2).softmax(1), reduction="batchmean")
        hint = (features - deepest).square().sum().sqrt()
        ce = F.cross_entropy(logits, TARGETS, label_smoothing=0.1)
        parts.append(0.6 * ce + 0.4 * divergence + 0.2 * hint)
    assert torch.allclose(terms.main_ce, expected, rtol=1e-12)
    assert torch.allclose(terms.auxiliary, sum(parts) / 2, rtol=1e-10)
    assert torch.allclose(terms.loss, expected + 0.7 * sum(parts), rtol=1e-10)


def test_the_defaults_are_those_of_the_authors_code():
    method = method_of()
    assert (method.alpha, method.temperature, method.hint_weight, method.weight) == (0.3, 3.0, 0.03, 1.0)


class Parts:
    """The graph's pieces of one step: features and logits of each classifier, and the main net's logits."""

    def __init__(self, method: SelfDistillation) -> None:
        self.shallow: dict[int, tuple[Tensor, Tensor]] = {}
        self.main = torch.empty(0)
        for number, head in enumerate(method.heads):
            head.register_forward_hook(lambda m, a, output, n=number: self.shallow.update({n: output}))
        method.network.model.register_forward_hook(lambda m, a, output: setattr(self, "main", output))
        method(images(), TARGETS)


@pytest.mark.parametrize("term", ["divergence", "hint"])
@pytest.mark.parametrize("number", [0, 1])
def test_what_a_classifier_learns_from_the_deepest_reaches_the_trunk_up_to_its_stage(term, number):
    method = method_of(Net())
    parts = Parts(method)
    features, logits = parts.shallow[number]
    if term == "divergence":
        loss = shallow_loss(logits, parts.main, TARGETS, alpha=1.0, temperature=3.0)
    else:
        deepest = torch.randn(features.shape, dtype=features.dtype, requires_grad=True)
        loss = hint_loss(features, deepest + 0 * parts.main.sum())
    names, parameters = zip(*method.named_parameters(), strict=True)
    gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
    reached = {name for name, gradient in zip(names, gradients, strict=True) if gradient is not None}
    trunk = ("stem.", "stage1.", "stage2.")[: 2 + number]
    own = f"heads.{number}.bottleneck." if term == "hint" else f"heads.{number}."
    wanted = (*(f"network.model.{part}" for part in trunk), own)
    assert reached == {name for name in names if name.startswith(wanted)}
    assert all(bool(g.any()) for n, g in zip(names, gradients, strict=True) if g is not None and n.endswith("weight"))


def test_the_labels_reach_all_of_the_trunk_and_no_classifier_inside():
    method = method_of(Net())
    main = Parts(method).main
    names, parameters = zip(*method.named_parameters(), strict=True)
    gradients = torch.autograd.grad(F.cross_entropy(main, TARGETS), parameters, allow_unused=True)
    reached = {name for name, gradient in zip(names, gradients, strict=True) if gradient is not None}
    assert reached == {name for name in names if name.startswith("network.model.")}


def test_nothing_of_the_shallow_classifiers_reaches_the_deepest_stage():
    plain, distilled = method_of(Net(), weight=0.0), method_of(Net())
    plain.backward(images(), TARGETS)
    distilled.backward(images(), TARGETS)
    ones, others = plain.network.model.named_parameters(), distilled.network.model.named_parameters()
    same = {name for (name, one), (_, other) in zip(ones, others, strict=True) if torch.equal(one.grad, other.grad)}
    assert same == {name for name, _ in plain.network.model.named_parameters() if name.startswith(("stage3", "head"))}
    assert all(parameter.grad is not None for parameter in distilled.parameters())


def test_without_hints_the_features_are_free():
    method = method_of(hint_weight=0.0, alpha=0.0, weight=0.5)
    terms = method(images(), TARGETS)
    logits = Parts(method).shallow[0][1]
    assert torch.allclose(terms.auxiliary, F.cross_entropy(logits, TARGETS), rtol=1e-10)


# ---- bottlenecks


def vit() -> nn.Module:
    sizes = {"img_size": 16, "patch_size": 8, "depth": 4, "embed_dim": 12, "num_heads": 2}
    return timm.create_model("vit_tiny_patch16_224", num_classes=CLASSES, **sizes)


def swin() -> nn.Module:
    sizes = {"img_size": 16, "patch_size": 2, "window_size": 4, "depths": (2, 2), "num_heads": (2, 2), "embed_dim": 8}
    return timm.create_model("swin_tiny_patch4_window7_224", num_classes=CLASSES, **sizes)


# how to make a network, the side of its images, the deepest width, the number of shallow classifiers, and how many
# separable convolutions each has; none where features are pooled first
KINDS = {
    "resnet": (
        lambda: ResNet(Bottleneck, (2, 2, 2, 2), num_classes=CLASSES, channels=(2, 3, 4, 3), stem_width=4),
        32,
        12,
        [6, 4, 2],
    ),
    "mobilenetv3": (lambda: timm.create_model("mobilenetv3_small_050", num_classes=CLASSES), 32, 48, [4, 2, 2]),
    "convnext": (
        lambda: timm.create_model("convnext_atto", num_classes=CLASSES, depths=(2, 2, 2, 2), dims=(8, 4, 6, 6)),
        32,
        6,
        [6, 4, 2],
    ),
    "densenet": (lambda: DenseNet(4, (2, 3), CLASSES), 32, 20, [2]),
    "vit": (vit, 16, 12, [0, 0, 0]),
    "swin": (swin, 16, 16, [0]),
    "vectors": (LoopedNet, 8, 6, [0, 0, 0]),
}


@pytest.mark.parametrize("kind", KINDS)
def test_bottlenecks_give_features_the_deepest_shape(kind):
    make, size, width, separable = KINDS[kind]
    torch.manual_seed(0)
    x = images(size=size, dtype=torch.float32)
    method = SelfDistillation(unravel(make(), x))
    convolutions = [sum(isinstance(m, nn.Conv2d) for m in head.bottleneck) // 2 for head in method.heads]
    assert convolutions == separable
    sizes = []
    for head in method.heads:
        head.bottleneck.register_forward_hook(lambda m, a, output: sizes.append(tuple(output.shape)))
        head.register_forward_hook(lambda m, a, output: sizes.append((output[0].shape, output[1].shape)))
    terms = method.backward(x, TARGETS)
    deepest = {"resnet": 1, "mobilenetv3": 1, "convnext": 1, "densenet": 4}.get(kind)
    spatial = () if deepest is None else (deepest, deepest)
    assert sizes == [(4, width, *spatial), ((4, width), (4, CLASSES))] * len(separable)
    assert torch.isfinite(terms.loss) and all(p.grad is not None for p in method.heads.parameters())


def test_a_bottleneck_ends_with_a_relu_where_the_deepest_features_do():
    def last(kind):
        make, size, *_ = KINDS[kind]
        network = unravel(make(), images(size=size, dtype=torch.float32))
        return [type(head.bottleneck[-1]) for head in SelfDistillation(network).heads]

    assert last("resnet") == [nn.ReLU] * 3
    assert last("convnext") == [nn.BatchNorm2d] * 3


def test_a_bottleneck_goes_through_the_shapes_of_the_stages():
    def steps(head):
        found = [m for m in head.bottleneck if isinstance(m, nn.Conv2d)]
        return [(m.kernel_size[0], m.stride[0], m.groups, m.in_channels, m.out_channels) for m in found]

    first, second = method_of(Net()).heads
    to_second = [(3, 2, 6, 6, 6), (1, 1, 1, 6, 6), (3, 1, 6, 6, 6), (1, 1, 1, 6, 8)]
    to_third = [(3, 2, 8, 8, 8), (1, 1, 1, 8, 8), (3, 1, 8, 8, 8), (1, 1, 1, 8, 5)]
    assert steps(first) == to_second + to_third
    assert steps(second) == to_third


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"alpha": 1.2}, "alpha: got 1.2, but it is a share, 0 to 1"),
        ({"alpha": -0.1}, "alpha: got -0.1, but it is a share, 0 to 1"),
        ({"temperature": 0.0}, "temperature: got 0.0, but it is above 0"),
        ({"hint_weight": -1.0}, "hint_weight: got -1.0, but it is 0 or more"),
        ({"weight": -1.0}, "weight: got -1.0, but it is 0 or more"),
        ({"alpha": 2.0, "weight": -1.0}, r"alpha: .*weight: "),
    ],
)
def test_impossible_settings_are_refused(settings, message):
    with pytest.raises(UsageError, match=message):
        method_of(**settings)
