"""Replay against models whose blocks are really gone: outputs, gradients, statistics; and what must never leak."""

import copy
import gc
import io
import itertools
import random
import threading
import weakref
from contextlib import nullcontext

import pytest
import timm
import torch
from nets import (
    AddingNet,
    AttributeNet,
    BasicBlock,
    ConditionedNet,
    DropoutNet,
    FailingNet,
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
from reference import Removed, run_one_by_one
from timm.models.resnet import Bottleneck, ResNet
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from stimulative import extract, unravel
from stimulative.errors import UsageError
from stimulative.residual import ResidualNetwork, Subnet

VIT = {"img_size": 32, "patch_size": 8, "depth": 4, "embed_dim": 24, "num_heads": 2}

# how to make each network, the images it takes, and subnets of it: unsorted, with a duplicate, the main net among them
NETWORKS = {
    "resnet": (
        lambda: ResNet(Bottleneck, (2, 3, 2, 2), num_classes=4, channels=(4, 6, 8, 8), stem_width=8),
        32,
        ["2-2-1-1", "1-3-2-2", "2-3-2-2", "2-2-1-2", "2-2-1-1", "2-3-1-2"],
    ),
    "mobilenetv3": (
        lambda: timm.create_model("mobilenetv3_small_050", num_classes=4),
        64,
        ["2-2-0-3", "1-3-2-2", "2-3-2-3", "2-3-[1]-3", "2-2-1-3", "2-3-2-3"],
    ),
    "vit": (
        lambda: timm.create_model("vit_tiny_patch16_224", num_classes=4, **VIT),
        32,
        ["2", "4", "[0.2.3]", "1", "2", "[3]"],
    ),
    "convnext": (
        lambda: timm.create_model(
            "convnext_atto", num_classes=4, depths=(2, 2, 3, 2), dims=(8, 12, 16, 20), ls_init_value=0.5
        ),
        64,
        ["2-1-3-1", "1-2-3-2", "2-2-3-2", "2-2-[0.2]-2", "1-2-3-2", "2-2-0-1"],
    ),
    "Sequential": (SequentialNet, 8, ["3-1", "1-4", "3-[0.2]", "3-4", "[1.2]-3", "3-1"]),
    "ModuleList": (LoopedNet, 8, ["5", "[0.1.4]", "2", "5", "[1.2.3.4]"]),
    "shared weights": (lambda: LoopedNet(rounds=3), 8, ["5", "[0.1.4]", "2", "4", "[1.2.3.4]"]),
    "attributes": (AttributeNet, 8, ["2", "4", "[0.3]", "[1]"]),
    "norms": (NormNet, 8, ["[0.2.3]", "2", "4", "1", "3"]),
    "keywords": (StatefulNet, 8, ["2", "[0.3]", "4", "[1.2]"]),
    "condition first": (ConditionedNet, 8, ["2", "[0.3]", "4", "[1.2]"]),
    "writing into the input": (AddingNet, 8, ["2", "4", "1", "[0.3]", "3", "0"]),
    "in-place activation": (PreActivationNet, 8, ["3", "4", "2", "1", "4", "[0.2.3]", "[0.3]"]),
    "no stem": (lambda: AddingNet(embed=False), 8, ["3", "4", "2", "1", "0", "[1.2]"]),
    "writing in between": (GlueNet, 8, ["3-3", "1-2", "3-1", "3-3", "2-3", "3-[1]"]),
}
# blocks in these are out of reach of a container that could be shortened
REPLACED = {"attributes", "keywords", "condition first"}
BY_HAND = {"in-place activation": ["blocks"]}


def prepared(name: str) -> tuple[ResidualNetwork, Tensor, list[Subnet]]:
    make, size, texts = NETWORKS[name]
    torch.manual_seed(0)
    model = randomised(make())
    x = images(4, size)
    network = unravel(model, x, stages=BY_HAND.get(name))
    return network, x, [Subnet.parse(text) for text in texts]


def loss_of(position: int, output: Tensor) -> Tensor:
    """Another loss for each subnet, so that no two can be mixed up."""
    weights = torch.linspace(-1, 1, output.numel(), dtype=output.dtype).view_as(output)
    return ((position + 1) * weights * output).sum() + output.tanh().square().sum()


def assert_close(actual: Tensor, expected: Tensor, what: str, least_scale: float = 1e-6) -> None:
    assert actual.shape == expected.shape, what
    scale = expected.abs().max().item() if expected.numel() else 0.0
    difference = (actual - expected).abs().max().item() if expected.numel() else 0.0
    assert difference <= 1e-10 * max(scale, least_scale), f"{what}: {difference:.3g} of {scale:.3g}"


def assert_same(actual: dict[str, Tensor], expected: dict[str, Tensor], what: str) -> None:
    assert actual.keys() == expected.keys(), f"{what}: {sorted(actual.keys() ^ expected.keys())}"
    # some gradients are zero but for rounding, such as that of a bias in front of a BatchNorm
    rounding = 1e-3 * max(value.abs().max().item() for value in expected.values())
    for name, value in expected.items():
        assert_close(actual[name].double(), value.double(), f"{what} of {name}", rounding)


def run(network: ResidualNetwork, x: Tensor, subnets: list[Subnet], schedule: str, frozen: bool = False) -> tuple:
    """Outputs, gradients and buffers after running subnets jointly or in the lean schedule, and the walk's order."""
    outputs, walk, losses = {}, [], []

    def freeze(position: int):
        return network.frozen_statistics() if subnets[position] != network.full else None

    passes = network.passes(x.clone(), subnets, cut=schedule == "lean", before_pass=freeze if frozen else None)
    for position, output, retain_graph in passes:
        outputs[position] = output.detach().clone()
        walk.append(position)
        if schedule == "lean":
            loss_of(position, output).backward(retain_graph=retain_graph)
        elif schedule == "joint":
            losses.append(loss_of(position, output))
        del output
    if losses:
        sum(losses[1:], losses[0]).backward()
    gradients = {n: p.grad.clone() for n, p in network.model.named_parameters() if p.grad is not None}
    buffers = {n: b.clone() for n, b in network.model.named_buffers()}
    return [outputs[position] for position in range(len(subnets))], gradients, buffers, walk


def assert_equals_reference(
    name: str,
    network: ResidualNetwork,
    x: Tensor,
    subnets: list[Subnet],
    schedule: str,
    frozen: bool = False,
) -> None:
    main = copy.deepcopy(network.model)
    outputs, gradients, buffers, walk = run(network, x, subnets, schedule, frozen)
    names = [stage.block_names for stage in network.stages]
    expected = run_one_by_one(main, names, x, subnets, loss=loss_of, walk=walk, frozen=frozen, replace=name in REPLACED)
    assert sorted(walk) == list(range(len(subnets)))
    assert len({tuple(output.flatten().tolist()) for output in expected[0]}) == len(set(subnets)), "subnets must differ"
    for position, subnet in enumerate(subnets):
        assert_close(outputs[position], expected[0][position], f"output of {subnet}")
    if schedule != "none":
        assert gradients, "something must have a gradient"
        assert_same(gradients, expected[1], "gradient")
    assert buffers.keys() == expected[2].keys()
    for key, value in buffers.items():
        assert_close(value.double(), expected[2][key].double(), f"statistics {key}")


@pytest.mark.parametrize("schedule", ["joint", "lean"])
@pytest.mark.parametrize("name", NETWORKS)
def test_training_equals_the_reference(name, schedule):
    network, x, subnets = prepared(name)
    before = {key: value.clone() for key, value in network.model.named_buffers()}
    assert_equals_reference(name, network, x, subnets, schedule)
    for key, value in network.model.named_buffers():
        if key.endswith("running_mean") and "unused" not in key:
            assert not torch.equal(value, before[key]), f"{key} should have been updated"


@pytest.mark.parametrize("mode", ["grad", "no_grad", "inference"])
@pytest.mark.parametrize("name", NETWORKS)
def test_evaluation_equals_the_reference(name, mode):
    network, x, subnets = prepared(name)
    network.eval()
    with {"grad": nullcontext, "no_grad": torch.no_grad, "inference": torch.inference_mode}[mode]():
        outputs = network.run(x.clone(), subnets)
    names = [stage.block_names for stage in network.stages]
    for subnet, output in zip(subnets, outputs, strict=True):
        removed = Removed(network.model, names, subnet, replace=name in REPLACED)
        with torch.no_grad():
            assert_close(output.detach(), removed.model(x.clone()), f"{name} {subnet}")
        assert_close(network(x.clone(), subnet).detach(), output.detach(), f"{subnet} alone")


@pytest.mark.parametrize("schedule", ["joint", "lean"])
def test_every_subnet_of_a_space_at_once(schedule):
    network, x, _ = prepared("Sequential")
    subnets = list(network.space)
    random.Random(0).shuffle(subnets)
    assert len(subnets) == 12
    assert_equals_reference("Sequential", network, x, subnets, schedule)


@pytest.mark.parametrize("schedule", ["joint", "lean"])
@pytest.mark.parametrize("name", ["writing into the input", "in-place activation", "no stem"])
def test_every_deletion_of_blocks_that_write_into_their_input(name, schedule):
    network, x, _ = prepared(name)
    subnets = [Subnet((kept,)) for depth in range(5) for kept in itertools.combinations(range(4), depth)]
    if network.stages[0].fixed_entry:
        subnets = [subnet for subnet in subnets if 0 in subnet.stages[0]]
    random.Random(1).shuffle(subnets)
    assert_equals_reference(name, network, x, subnets, schedule)


@pytest.mark.parametrize("schedule", ["joint", "lean"])
@pytest.mark.parametrize(
    ("name", "texts"),
    [
        ("Sequential", ["[0.2.1]-4", "3-4", "[0.2.1]-[0.3.2.1]", "[2.0]-[0.3.1]", "[0.2.1]-2"]),
        ("vit", ["[3.2.1.0]", "[0.2.1.3]", "4", "[2.0]", "[0.2.3.1]", "[0.2]"]),
        ("no stem", ["[2.1]", "[3.0.1.2]", "4", "[1.0]"]),
        ("norms", ["[0.2.1]", "[1.0.2.3]", "4", "[0.2.3.1]", "[3.1]"]),
        ("attributes", ["[1.0.2.3]", "4", "[3.0]"]),
        ("shared weights", ["[1.0.2]", "5", "[4.3.2.1.0]"]),
    ],
)
def test_reordered_blocks_equal_a_model_that_is_really_reordered(name, texts, schedule):
    network, x, _ = prepared(name)
    assert_equals_reference(name, network, x, [Subnet.parse(text) for text in texts], schedule)


@pytest.mark.parametrize("schedule", ["joint", "lean"])
@pytest.mark.parametrize("name", ["resnet", "norms"])
def test_with_frozen_statistics_only_the_main_net_updates(name, schedule):
    network, x, subnets = prepared(name)
    subnets = sorted(set(subnets))  # a second run of the main net would be a main net, too
    assert_equals_reference(name, network, x, subnets, schedule, frozen=True)
    alone, x, _ = prepared(name)
    alone(x)
    for (key, value), (_, expected) in zip(network.model.named_buffers(), alone.model.named_buffers(), strict=True):
        assert torch.equal(value, expected), key
    assert all(getattr(module, "track_running_stats", True) for module in network.model.modules())


def test_a_shared_layer_updates_once_and_a_layer_after_it_once_a_subnet():
    network, x, _ = prepared("Sequential")
    network.run(x, ["3-4", "3-1", "3-2"])
    model = network.model
    counts = {key: int(value) for key, value in model.named_buffers() if key.endswith("num_batches_tracked")}
    assert counts["bn.num_batches_tracked"] == 1
    assert counts["stage1.2.bn2.num_batches_tracked"] == 1
    assert counts["stage2.0.bn1.num_batches_tracked"] == 1
    assert counts["stage2.1.bn1.num_batches_tracked"] == 1, "only 3-1 lacks it; 3-2 shares it with the main net"
    assert counts["stage2.3.bn1.num_batches_tracked"] == 1


def test_the_main_net_comes_first_and_prefixes_stay_together():
    network, x, _ = prepared("Sequential")
    network.eval()
    texts = ["1-1", "3-1", "1-4", "3-4", "3-2", "1-2"]
    order = [texts[position] for position, _, _ in network.passes(x, texts)]
    assert order == ["3-4", "3-2", "3-1", "1-4", "1-2", "1-1"]


def count_calls(model: nn.Module) -> dict[str, int]:
    """Counts how often the convolutions of a model compute."""
    counts: dict[str, int] = {}
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.register_forward_hook(lambda m, a, o, name=name: counts.__setitem__(name, counts.get(name, 0) + 1))
    return counts


@pytest.mark.parametrize("cut", [False, True])
def test_what_is_shared_is_computed_once(cut):
    network, x, _ = prepared("Sequential")
    counts = count_calls(network.model)
    for _, output, retain_graph in network.passes(x, list(network.space), cut=cut):
        output.sum().backward(retain_graph=retain_graph)
    # a node of the tree of prefixes each: 3 depths of the first stage, for each of which the second is one chain
    assert [counts[f"stage1.{block}.conv1"] for block in range(3)] == [1, 1, 1]
    assert [counts[f"stage2.{block}.conv1"] for block in range(4)] == [3, 3, 3, 3]


@pytest.mark.parametrize("name", ["Sequential", "in-place activation", "writing in between"])
def test_nothing_is_computed_twice_because_something_writes_in_place(name):
    network, x, _ = prepared(name)
    counts = count_calls(network.model)
    network.run(x, [network.full, network.space.smallest])
    first = {
        "Sequential": "stage1.0.conv1",
        "in-place activation": "blocks.0.conv",
        "writing in between": "first.0.f.1",
    }[name]
    assert counts[first] == 1


class ScalesItsInput(nn.Module):
    """As the RCANs that take images from 0 to 1 and compute in 0 to 255: ``x *= 255`` reaches the caller's tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 1)
        self.blocks = nn.Sequential(*[BasicBlock(4, 4) for _ in range(3)])

    def forward(self, x: Tensor) -> Tensor:
        x *= 255
        return self.blocks(self.stem(x)) / 255


@pytest.mark.parametrize("subnets", [["3"], ["1"], ["3", "1"]])
def test_a_model_that_writes_into_its_input_gets_one_of_its_own(subnets):
    torch.manual_seed(0)
    model = ScalesItsInput().eval()
    x = torch.rand(2, 3, 8, 8)
    given = x.clone()
    network = unravel(model, x)
    for _ in range(2):
        outputs = network.run(x, subnets)
        assert torch.equal(x, given)
        for output, subnet in zip(outputs, subnets, strict=True):
            small = nn.Sequential(model.stem, *model.blocks[: int(subnet)])
            assert_close(output.detach(), small(255 * given).detach() / 255, subnet)
    taken = extract(network, subnets[-1], "keep")
    assert_close(taken(x.clone()).detach(), outputs[-1].detach(), "extracted")


def test_deletion_of_every_block_of_a_stage_without_an_entry():
    network, x, _ = prepared("ModuleList")
    model = network.model
    assert_close(network(x, "0").detach(), model.head(model.embed(x.flatten(1))).detach(), "no blocks")


def test_four_forms_of_a_subnet():
    network, x, _ = prepared("Sequential")
    network.eval()
    expected = network(x, Subnet.parse("2-3"))
    assert torch.equal(network(x, "2-3"), expected)
    assert torch.equal(network(x, (2, 3)), expected)
    assert torch.equal(network(x, torch.tensor([2, 3]).tolist()), expected)
    assert torch.equal(network(x), network.model(x))
    assert network.run(x, []) == []


@pytest.mark.parametrize(
    ("subnet", "message"),
    [
        ("4-4", r"stage 'stage1': it runs blocks \[0, 1, 2, 3\], but it has 3 blocks \(0\.\.2\) and runs 0 to 3"),
        ("3-0", r"stage 'stage2': it runs blocks \[\], .* runs 1 to 4 of them\. Allowed: depths \(1\.\.3, 1\.\.4\)"),
        ("3-[1.2]", r"stage 'stage2': its block 0 changes stride or width and always runs first, got \[1, 2\]"),
        ("3-[1.0]", r"always runs first, got \[1, 0\]"),
        ("3-4-1", r"it has 3 stages, the network 2"),
        ("3-[0.4]", r"runs blocks \[0, 4\], but it has 4 blocks \(0\.\.3\)"),
        ("three", r"cannot read the subnet 'three'"),
        ((3, -1), r"depth of stage 1 is a whole number from 0 to 10,000, got -1"),
    ],
)  # fmt: skip
def test_a_subnet_that_cannot_run_is_refused(subnet, message):
    network, x, _ = prepared("Sequential")
    with pytest.raises(UsageError, match=message):
        network(x, subnet)
    assert network(x).isfinite().all(), "the network still runs"


# --- writing in place -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["stem", "middle", "head"])
@pytest.mark.parametrize("mode", ["joint", "lean", "inference"])
def test_code_between_modules_may_write(where, mode):
    torch.manual_seed(0)
    network = unravel(randomised(GlueNet(where)), images())
    subnets = [Subnet.parse(text) for text in ["3-3", "3-3", "3-1", "2-2", "1-1", "1-3"]]
    with torch.inference_mode() if mode == "inference" else nullcontext():
        assert_equals_reference("", network, images(), subnets, "none" if mode == "inference" else mode)


@pytest.mark.parametrize("name", ["in-place activation", "no stem", "writing into the input", "writing in between"])
def test_an_output_stays_what_it_was_while_later_subnets_run(name):
    network, x, subnets = prepared(name)
    given = x.clone()
    seen = []
    with torch.inference_mode():
        for _, output, _ in network.passes(given, subnets):
            seen.append((output, output.clone()))
    assert all(torch.equal(output, then) for output, then in seen)


def test_a_caller_may_write_into_an_output():
    network, x, _ = prepared("Sequential")
    network.eval()
    with torch.no_grad():
        expected = network.run(x, ["3-4", "3-4", "1-4"])
        for position, output, _ in network.passes(x, ["3-4", "3-4", "1-4"]):
            assert torch.equal(output, expected[position])
            output.zero_()


def test_tensors_of_inference_mode_are_taken_in_any_mode():
    model = randomised(AddingNet(embed=False))
    expected = unravel(model, images())
    with torch.inference_mode():
        x = images()
    for context in (torch.inference_mode, torch.no_grad):
        with context():
            outputs = expected.run(x, ["4", "2", "0"])
        for output, text in zip(outputs, ["4", "2", "0"], strict=True):
            with torch.no_grad():
                assert_close(output, expected(images(), text), text)


@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize("schedule", ["joint", "lean"])
def test_dropout_of_a_shared_prefix_is_drawn_once(inplace, schedule):
    torch.manual_seed(0)
    network = unravel(randomised(DropoutNet(inplace=inplace)), images())
    torch.manual_seed(1)
    outputs, gradients, _, _ = run(network, images(), [Subnet.parse("4"), Subnet.parse("2")], schedule)
    # by hand: the masks of the prefix from one draw, those of the tails from the draws that follow
    model = copy.deepcopy(network.model)
    model.zero_grad()
    torch.manual_seed(1)
    prefix = model.drop(model.embed(images().flatten(1)))
    prefix = model.blocks[1](model.blocks[0](prefix))
    tail = model.head(model.drop_after(model.blocks[3](model.blocks[2](prefix)).clone()))
    short = model.head(model.drop_after(prefix.clone()))
    assert_close(outputs[0], tail.detach(), "main net")
    assert_close(outputs[1], short.detach(), "subnet")
    (loss_of(0, tail) + loss_of(1, short)).backward()
    assert_same(gradients, {name: p.grad for name, p in model.named_parameters()}, "gradient")


def test_the_gradient_reaches_the_input():
    network, x, subnets = prepared("Sequential")
    network.eval()
    grads = []
    for cut in (False, True):
        given = x.clone().requires_grad_()
        for position, output, retain_graph in network.passes(given, subnets, cut=cut):
            loss_of(position, output).backward(retain_graph=retain_graph)
        grads.append(given.grad)
    assert_close(grads[1], grads[0], "input")


def test_frozen_parameters_and_a_frozen_prefix():
    network, x, subnets = prepared("Sequential")
    for parameter in [*network.model.conv.parameters(), *network.model.stage1.parameters()]:
        parameter.requires_grad_(False)
    for schedule in ("joint", "lean"):
        network.zero_grad()
        assert_equals_reference("Sequential", copy.deepcopy(network), x, subnets, schedule)


# --- nothing stays ----------------------------------------------------------------------------------------------


def traces(model: nn.Module) -> list:
    return [(name, sorted(vars(module)), len(module._forward_hooks)) for name, module in model.named_modules()]


@pytest.mark.parametrize("cut", [False, True])
def test_nothing_stays_on_the_model(cut):
    network, x, subnets = prepared("Sequential")
    before = traces(network.model)
    for position, output, retain_graph in network.passes(x, subnets, cut=cut):
        assert traces(network.model) == before, "between two passes the model is a plain one"
        loss_of(position, output).backward(retain_graph=retain_graph)
    assert traces(network.model) == before


def test_an_exception_in_a_forward_leaves_nothing_behind():
    network = unravel(randomised(FailingNet()), images())
    before = traces(network.model)
    alive = []
    hook = network.model.blocks[1].register_forward_hook(lambda m, a, output: alive.append(weakref.ref(output)))
    bad = images()
    bad[0, 0, 0, 0] = 1000.0
    with pytest.raises(ArithmeticError, match="too large"):
        network.run(bad, ["5", "2"])
    hook.remove()
    gc.collect()
    assert alive and all(reference() is None for reference in alive)
    assert traces(network.model) == before
    assert_close(network(images(), "5").detach(), network.model(images()).detach(), "afterwards")


def test_an_exception_in_a_block_of_the_second_pass():
    network, x, _ = prepared("Sequential")
    before = traces(network.model)
    passes = network.passes(x, ["3-4", "1-4"])
    next(passes)

    def fail(module: nn.Module, args: tuple) -> None:
        raise ArithmeticError("in the block")

    hook = network.model.stage2[1].register_forward_pre_hook(fail)
    with pytest.raises(ArithmeticError, match="in the block"):
        next(passes)
    hook.remove()
    assert traces(network.model) == before
    assert network(x, "1-1").isfinite().all()


@pytest.mark.parametrize("cut", [False, True])
def test_what_was_remembered_goes_with_the_run(cut):
    network, x, subnets = prepared("Sequential")
    alive: list[weakref.ref] = []
    for module in network.model.modules():
        if isinstance(module, BasicBlock):
            module.register_forward_hook(lambda m, a, output: alive.append(weakref.ref(output)))
    gc.collect()
    gc.disable()
    try:
        for position, output, retain_graph in network.passes(x, subnets, cut=cut):
            loss_of(position, output).backward(retain_graph=retain_graph)
            del output
        assert len(alive) > 7
        assert not [reference for reference in alive if reference() is not None], "without the garbage collector's help"
    finally:
        gc.enable()


def test_the_lean_schedule_releases_a_tail_before_the_next():
    network, x, _ = prepared("Sequential")
    tails: list[weakref.ref] = []

    class Probe(torch.autograd.Function):
        """An identity whose node in the graph holds something that can be seen to go."""

        @staticmethod
        def forward(ctx, x):
            ctx.token = threading.Event()
            tails.append(weakref.ref(ctx.token))
            return x.clone()

        @staticmethod
        def backward(ctx, gradient):
            return gradient

    network.model.stage2[3].register_forward_hook(lambda m, a, output: Probe.apply(output))
    for number, (_, output, retain_graph) in enumerate(network.passes(x, ["3-4", "2-4", "1-4"], cut=True)):
        assert sum(reference() is not None for reference in tails) == 1
        assert len(tails) == number + 1
        output.sum().backward(retain_graph=retain_graph)
        del output


def test_a_run_that_is_given_up_leaves_nothing():
    network, x, subnets = prepared("Sequential")
    before = traces(network.model)
    passes = network.passes(x, subnets)
    _, output, _ = next(passes)
    reference = weakref.ref(output)
    del output
    passes.close()
    assert reference() is None
    assert traces(network.model) == before
    assert torch.equal(network.eval()(x), network.model(x))


# --- nesting and threads ----------------------------------------------------------------------------------------


def test_a_run_within_a_forward_is_refused():
    network, x, _ = prepared("ModuleList")
    inner: list[str] = []

    def call(module: nn.Module, args: tuple) -> None:
        try:
            network(x, "1")
        except UsageError as error:
            inner.append(str(error))

    hook = network.model.head.register_forward_pre_hook(call)
    output = network(x, "3")
    hook.remove()
    assert len(inner) == 1 and "LoopedNet is already running a subnet in this thread" in inner[0]
    assert_close(output.detach(), network(x, "3").detach(), "the outer run")


def test_a_run_between_two_passes_is_fine():
    network, x, _ = prepared("ModuleList")
    expected = [network(x, text).detach() for text in ("5", "3", "1")]
    for position, output, _ in network.passes(x, ["5", "3", "1"]):
        assert_close(output.detach(), expected[position], "outer")
        assert_close(network(x, "2").detach(), network(x, "2").detach(), "inner")
        assert_close(network.model(x).detach(), expected[0], "the model itself")


def in_threads(*jobs) -> None:
    failures: list[BaseException] = []

    def guarded(job) -> None:
        try:
            job()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=guarded, args=(job,)) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive(), "a thread hangs"
    if failures:
        raise failures[0]


def test_two_threads_on_one_network():
    network, x, _ = prepared("Sequential")
    network.eval()
    texts = ["3-4", "1-4", "3-2", "2-1"]
    with torch.no_grad():
        expected = {text: network(x, text) for text in texts}

    def work(mine: list[str]) -> None:
        for _ in range(15):
            with torch.no_grad():
                for text, output in zip(mine, network.run(x, mine), strict=True):
                    assert torch.equal(output, expected[text]), text

    in_threads(lambda: work(texts), lambda: work(texts[::-1]), lambda: work(["2-1"]))


def test_the_model_itself_runs_in_another_thread_during_a_run():
    network, x, _ = prepared("ModuleList")
    with torch.no_grad():
        expected = network.model(x)
    plain: list[Tensor] = []

    def other() -> None:
        with torch.no_grad():
            plain.append(network.model(x))

    busy = threading.local()
    busy.main = True

    def during(module: nn.Module, args: tuple) -> None:
        if getattr(busy, "main", False):
            in_threads(other)

    hook = network.model.blocks[2].register_forward_pre_hook(during)
    with torch.no_grad():
        output = network(x, "1")
    hook.remove()
    assert len(plain) == 1
    assert torch.equal(plain[0], expected)
    assert not torch.equal(output, expected)


# --- a used network ---------------------------------------------------------------------------------------------


def used() -> tuple[ResidualNetwork, Tensor]:
    network, x, subnets = prepared("Sequential")
    for schedule in ("joint", "lean"):
        run(network, x, subnets, schedule)
    network.recalibrate([x], ["1-1", "3-4"])
    return network, x


def test_a_used_network_can_be_copied_saved_and_unraveled_again():
    network, x = used()
    network.eval()
    plain = SequentialNet()
    assert list(network.model.state_dict()) == list(plain.state_dict())
    plain.double().load_state_dict(network.model.state_dict())
    assert torch.equal(plain.eval()(x), network(x))

    expected = network.run(x, ["3-4", "1-2", "[0.2]-[0.3]"])
    saved = io.BytesIO()
    torch.save(network, saved)
    saved.seek(0)
    copies = {
        "copy": copy.deepcopy(network),
        "file": torch.load(saved, weights_only=False),
        "again": unravel(network.model, x),
        "copied model": unravel(copy.deepcopy(network.model), x),
    }
    for name, other in copies.items():
        assert other.stages == network.stages and other.space == network.space, name
        for a, b in zip(other.run(x, ["3-4", "1-2", "[0.2]-[0.3]"]), expected, strict=True):
            assert torch.equal(a, b), name
    with torch.no_grad():
        copies["copy"].model.head.weight.zero_()
    assert torch.equal(network(x), expected[0]), "a copy has parameters of its own"


def test_the_state_dict_of_the_network_is_the_models_with_a_prefix():
    network, _ = used()
    assert list(network.state_dict()) == [f"model.{key}" for key in network.model.state_dict()]


@pytest.mark.parametrize("schedule", ["joint", "lean"])
def test_compiled_blocks_run(schedule):
    network, x, subnets = prepared("Sequential")
    torch._dynamo.reset()
    for module in network.model.modules():
        if isinstance(module, BasicBlock):
            module.compile(backend="eager")
    outputs, gradients, buffers, walk = run(network, x, subnets, schedule)
    network, x, subnets = prepared("Sequential")
    expected = run(network, x, subnets, schedule)
    assert all(torch.allclose(a, b, rtol=1e-10) for a, b in zip(outputs, expected[0], strict=True))
    assert_same(gradients, expected[1], "gradient")
    assert all(torch.equal(value, expected[2][key]) for key, value in buffers.items())
    assert walk == expected[3]


def test_a_stage_compiled_after_unraveling_is_refused():
    network, x, _ = prepared("Sequential")
    network.model.stage1.compile(backend="eager")
    with pytest.raises(UsageError, match=r"'stage1' is compiled as a whole .*block\.compile\(\)"):
        network(x, "1-1")


def test_activation_checkpointing_is_refused_where_it_would_act():
    network, x, _ = prepared("vit")
    network.model.set_grad_checkpointing(True)
    with pytest.raises(UsageError, match=r"checkpointing is on in 'VisionTransformer'.*set_grad_checkpointing"):
        network(x, "2")
    with torch.no_grad():
        without = network(x, "2")
    network.model.set_grad_checkpointing(False)
    assert_close(network(x, "2").detach(), without, "without gradients it does nothing")


@pytest.mark.parametrize("cut", [False, True])
def test_automatic_mixed_precision(cut):
    network, x, _ = prepared("Sequential")
    network.float().eval()
    x = x.float()
    subnets = ["3-4", "1-4", "3-1"]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        for position, output, retain_graph in network.passes(x, subnets, cut=cut):
            assert output.dtype == torch.bfloat16
            alone = network(x, subnets[position])
            assert torch.equal(output, alone)
            output.float().sum().backward(retain_graph=retain_graph)
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())


class BiasedNet(torch.nn.Module):
    """Each block also reads a bias made before the first one, so that a tensor goes around any cut."""

    class Block(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = torch.nn.Linear(5, 5)

        def forward(self, x: Tensor, bias: Tensor) -> Tensor:
            return x + torch.tanh(self.linear(x) * bias)

    def __init__(self) -> None:
        super().__init__()
        self.make_bias = torch.nn.Sequential(torch.nn.Linear(5, 5), torch.nn.Tanh())
        self.blocks = torch.nn.ModuleList(self.Block() for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        bias = self.make_bias(x)
        doubled = bias * bias  # computed between modules, and read on both sides of the cut
        for block in self.blocks:
            x = block(x, doubled + bias)
        return x


def test_the_graph_is_kept_just_where_a_tensor_goes_around_the_cut():
    torch.manual_seed(0)
    net = BiasedNet().double()
    network = unravel(net, torch.randn(3, 5, dtype=torch.float64))
    x = torch.randn(3, 5, dtype=torch.float64)
    gradients = []
    for cut, expected in ((False, [True, True, False]), (True, [True, False, False])):
        net.zero_grad()
        kept = []
        # subnets 2 and 1 skip all blocks after their cuts, and with them what reads the bias
        for position, output, retain_graph in network.passes(x, ["4", "2", "1"], cut=cut):
            kept.append(retain_graph)
            loss_of(position, output).backward(retain_graph=retain_graph)
        assert kept == expected
        gradients.append({name: parameter.grad.clone() for name, parameter in net.named_parameters()})
    assert_same(gradients[1], gradients[0], "gradient")


def test_the_graph_is_freed_where_nothing_goes_around_the_cut():
    network, x, subnets = prepared("Sequential")
    for position, output, retain_graph in network.passes(x, sorted(set(subnets)), cut=True):
        assert not retain_graph
        loss_of(position, output).backward()


# --- only one subnet --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NETWORKS)
def test_only_a_subnet_is_what_the_model_then_computes(name):
    network, x, subnets = prepared(name)
    network.eval()
    before = traces(network.model)
    whole = network.model(x.clone())
    for subnet in subnets:
        with network.only(subnet) as model:
            assert model is network.model
            output = model(x.clone())
            again = model(x.clone())
        assert_close(output.detach(), network(x.clone(), subnet).detach(), f"{subnet}")
        assert torch.equal(output, again)
        assert traces(network.model) == before
    assert torch.equal(network.model(x.clone()), whole)


def test_only_takes_another_order_and_trains_with_the_models_own_statistics():
    gradients, statistics = [], []
    for way in ("run", "only"):
        network, x, _ = prepared("Sequential")
        if way == "run":
            output = network(x, "[0.2.1]-[0.3.1]")
        else:
            with network.only("[0.2.1]-[0.3.1]") as model:
                output = model(x)
        loss_of(0, output).backward()
        gradients.append({name: p.grad for name, p in network.model.named_parameters() if p.grad is not None})
        statistics.append(dict(network.model.named_buffers()))
    assert_same(gradients[1], gradients[0], "gradient")
    assert all(torch.equal(statistics[1][key], value) for key, value in statistics[0].items())


def test_only_intercepts_nothing_but_the_skipped_blocks():
    network, _, _ = prepared("Sequential")
    with network.only("2-[0.1.3]"):
        changed = {name for name, module in network.model.named_modules() if "forward" in vars(module)}
    assert changed == {"stage1.2", "stage2.2"}


def test_units_are_intercepted_as_long_as_anything_is_to_be_done_at_them():
    network, x, _ = prepared("Sequential")
    network.run(x, [network.full])  # a first pass looks at every block
    seen = []
    network.model.head.register_forward_pre_hook(
        lambda *_: seen.append({name for name, module in network.model.named_modules() if "forward" in vars(module)})
    )
    network.run(x, ["2-3", "3-4", "2-4"])
    writes = {"act"}
    # the main net parts from the next pass at stage1.2, that one from the last at stage2.3
    assert seen == [writes, {"stage1.2", *writes}, {"stage1.2", "stage2.3", *writes}]


class TakesTurns(nn.Module):
    """Calls one of two modules before its blocks, now this one and now that one, and one of them again behind it."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.other, self.again = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)
        self.blocks = nn.Sequential(*[MLPBlock(4) for _ in range(2)])
        self.head = nn.Linear(4, 3)
        self.turn = 0

    def forward(self, x: Tensor) -> Tensor:
        self.turn += 1
        x = self.again(self.other(x)) if self.turn % 2 else self.again(self.one(self.other(x)))
        return self.head(self.blocks(x))


@pytest.mark.parametrize("turn", [0, 1])
def test_what_is_remembered_of_another_way_is_not_handed_out(turn):
    x = torch.randn(2, 4)
    network = unravel(TakesTurns(), x)
    network.model.turn = turn
    main, other = network.run(x, ["2", "1"])
    for number, (output, kept) in enumerate([(main, [0, 1]), (other, [0])]):
        model = copy.deepcopy(network.model)
        model.blocks = nn.Sequential(*[model.blocks[block] for block in kept])
        model.turn = turn + number
        torch.testing.assert_close(output, model(x))


def test_only_leaves_nothing_behind_after_an_error_and_refuses_what_cannot_be():
    network, x, _ = prepared("Sequential")
    before = traces(network.model)
    with pytest.raises(ArithmeticError), network.only("1-1"):
        raise ArithmeticError
    assert traces(network.model) == before
    with network.only("1-1"), pytest.raises(UsageError, match=r"already running a subnet .* from within only"):
        network(x, "3-4")
    with network.only("1-1"), pytest.raises(UsageError, match=r"already running a subnet"), network.only("2-2"):
        pass
    with pytest.raises(UsageError, match="it has 3 stages, the network 2"):
        network.only("3-4-1")
    assert traces(network.model) == before


def test_a_module_with_two_names_is_as_it_was_after_a_run():
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            act = nn.ReLU()
            self.stem = nn.Sequential(nn.Linear(3 * 8 * 8, 5), act)
            self.net = nn.ModuleDict({"blocks": nn.Sequential(*GlueNet().first), "act": act})

        def forward(self, x: Tensor) -> Tensor:
            return self.net["act"](self.net["blocks"](self.stem(x.flatten(1))))

    network = unravel(randomised(Shared()), images())
    before = traces(network.model)
    assert_close(
        network(images(), "1").detach(),
        network.model.net["blocks"][0](network.model.stem(images().flatten(1))).relu().detach(),
        "one block",
    )
    assert traces(network.model) == before


# Part of a batch, blocks seen, the example input


def run_part(network: ResidualNetwork, x: Tensor, subnets: list[Subnet], samples: int, schedule: str) -> tuple:
    """Outputs and summed gradients, the subnets after the first on the first samples."""
    outputs, losses = {}, []
    for position, output, retain in network.passes(x.clone(), subnets, cut=schedule == "lean", samples=samples):
        outputs[position] = output.detach().clone()
        if schedule == "lean":
            loss_of(position, output).backward(retain_graph=retain)
        else:
            losses.append(loss_of(position, output))
        del output
    if losses:
        sum(losses[1:], losses[0]).backward()
    return outputs, {n: p.grad.clone() for n, p in network.model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("schedule", ["joint", "lean"])
@pytest.mark.parametrize("name", NETWORKS)
def test_on_part_of_a_batch_subnets_give_what_they_give_on_that_part_alone(name, schedule):
    network, x, subnets = prepared(name)
    network.eval()  # where samples do not see each other
    main = copy.deepcopy(network.model)
    subnets = [network.full, *subnets]
    outputs, gradients = run_part(network, x, subnets, 3, schedule)
    expected: dict[str, Tensor] = {}
    for position, subnet in enumerate(subnets):
        removed = Removed(main, [stage.block_names for stage in network.stages], subnet, replace=name in REPLACED)
        output = removed.model(x[:3].clone() if position else x.clone())
        assert len(outputs[position]) == (3 if position else 4)
        assert_close(outputs[position], output.detach(), f"output of {subnet}")
        loss_of(position, output).backward()
        for key, gradient in removed.gradients().items():
            expected[key] = expected[key] + gradient if key in expected else gradient
    assert_same(gradients, expected, "gradient")


@pytest.mark.parametrize("schedule", ["joint", "lean"])
def test_on_part_of_a_batch_the_shared_prefix_is_normalised_with_the_whole_of_it(schedule):
    network, x, _ = prepared("Sequential")
    twin, x = copy.deepcopy(network.model), torch.cat([x, images(3, seed=5)])
    subnets = [Subnet.parse(text) for text in ("3-4", "2-4", "3-2")]
    outputs, gradients = run_part(network, x, subnets, 4, schedule)

    stem = twin.act(twin.bn(twin.conv(x)))  # in training mode
    two = twin.stage1[1](twin.stage1[0](stem))
    three = twin.stage1[2](two)
    both = twin.stage2[1](twin.stage2[0](three))
    expected = [
        twin.head(twin.stage2[3](twin.stage2[2](both)).mean((2, 3))),
        twin.head(twin.stage2(two[:4]).mean((2, 3))),  # from where it departs, normalised with its own samples
        twin.head(both[:4].mean((2, 3))),
    ]
    sum(loss_of(position, output) for position, output in enumerate(expected)).backward()
    for position, output in enumerate(expected):
        assert_close(outputs[position], output.detach(), str(subnets[position]))
    assert_same(gradients, {name: p.grad for name, p in twin.named_parameters()}, "gradient")


def test_the_shared_prefix_updates_its_statistics_once_on_the_whole_batch():
    network, x, _ = prepared("Sequential")
    alone = copy.deepcopy(network)
    list(network.passes(x, ["3-4", "3-2", "2-4"], samples=2, before_pass=lambda _: network.frozen_statistics()))
    list(alone.passes(x, ["3-4"], before_pass=lambda _: alone.frozen_statistics()))
    for (name, value), (_, expected) in zip(network.named_buffers(), alone.named_buffers(), strict=True):
        assert torch.equal(value, expected), name
    list(network.passes(x, ["3-4", "3-2"], samples=2))
    assert network.model.bn.num_batches_tracked == 1 and network.model.stage2[3].bn1.num_batches_tracked == 1


@pytest.mark.parametrize("samples", [4, 9])
def test_the_whole_batch_is_no_part(samples):
    network, x, subnets = prepared("Sequential")
    subnets = [network.full, *subnets]
    whole = copy.deepcopy(network).run(x, subnets)
    outputs, _ = run_part(network, x, subnets, samples, "joint")
    for position, output in outputs.items():
        assert torch.equal(output, whole[position])


def test_only_the_main_net_first_can_run_on_more_samples_than_the_others():
    network, x, _ = prepared("Sequential")
    with pytest.raises(UsageError, match="with samples=, the first subnet has to be the main net"):
        list(network.passes(x, ["1-1", "3-4"], samples=2))


@pytest.mark.parametrize("name", NETWORKS)
def test_blocks_are_seen_where_they_run_with_what_skipping_them_gives(name):
    network, x, subnets = prepared(name)
    network.eval()
    calls_a_block = 3 if name == "shared weights" else 1

    def ran(subnet: Subnet | None) -> list:
        seen = []

        def callback(place, output, skipped):
            seen.append((place.stage, place.index))
            return output

        with torch.no_grad(), network.after_blocks(callback):
            network.model(x.clone()) if subnet is None else network(x.clone(), subnet)
        return seen

    main = [(stage, index) for stage, kept in enumerate(network.full.stages) for index in kept]
    assert ran(None) == main * calls_a_block
    for subnet in subnets:
        assert ran(subnet) == [(s, i) for s, kept in enumerate(subnet.stages) for i in kept] * calls_a_block

    # going on with what skipping a block gives is the subnet without it, whatever else it does
    last = len(network.stages) - 1
    dropped = (last, network.stages[last].blocks - 1)

    def drop(place, output, skipped):
        return skipped() if (place.stage, place.index) == dropped else output

    without = Subnet((*network.full.stages[:-1], network.full.stages[-1][:-1]))
    with torch.no_grad():
        expected = network(x.clone(), without)
        with network.after_blocks(drop):
            assert_close(network.model(x.clone()), expected, "dropped by the model's own call")
            assert_close(network(x.clone()), expected, "dropped in a pass of the main net")
        assert_close(network.model(x.clone()), network(x.clone()), "nothing is left behind")
    assert not torch.equal(network(x.clone()).detach(), expected)


def test_blocks_are_not_seen_after_an_error():
    network, x, _ = prepared("Sequential")
    before = traces(network.model)

    def failing(place, output, skipped):
        raise ArithmeticError

    with pytest.raises(ArithmeticError), network.after_blocks(failing):
        network(x)
    assert traces(network.model) == before


def test_the_example_input_follows_the_model():
    network, x, _ = prepared("keywords")
    assert torch.equal(network.example_input, x)
    network.to(torch.float32)
    assert network.example_input.dtype == torch.float32
    numbers = unravel(LoopedNet(), (images(2, dtype=torch.float32),))
    numbers.double()
    (moved,) = numbers.example_input
    assert moved.dtype == torch.float64 and len(moved) == 2


def test_a_subnet_of_no_known_form_is_refused():
    network = unravel(LoopedNet().double(), images())
    with pytest.raises(UsageError, match=r"a subnet is a Subnet, its text such as '5', or a depth .* \[5\]; got 3"):
        network(images(), 3)


class CheckpointingNet(LoopedNet):
    """Checkpoints its blocks by itself, when it is trained."""

    def __init__(self, reentrant: bool) -> None:
        super().__init__()
        self.reentrant = reentrant

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x.flatten(1))
        for block in self.blocks:
            x = checkpoint(block, x, use_reentrant=self.reentrant) if self.training else block(x)
        return self.head(x)


@pytest.mark.parametrize("reentrant", [True, False])
def test_a_model_that_checkpoints_its_blocks_itself_is_refused_where_it_would_go_wrong(reentrant):
    network = unravel(CheckpointingNet(reentrant).double(), images())
    network.eval()
    assert network(images(), "2").shape == (4, 4)
    network.train()
    for _ in range(2):  # not only in the first pass
        with pytest.raises(UsageError, match=r"block 'blocks.0' is called by torch.utils.checkpoint"):
            network(images(), "2")
        with (
            pytest.raises(UsageError, match=r"block 'blocks.2' is called by torch.utils.checkpoint"),
            network.only("2") as model,
        ):
            model(images())
    with torch.no_grad():
        assert network(images(), "2").shape == (4, 4)
