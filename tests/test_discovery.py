"""Discovery finds exactly the stages that an architecture has, and changes nothing."""

import copy
import re

import pytest
import timm
import torch
import torchvision
from nets import (
    AddingNet,
    AttributeNet,
    BasicBlock,
    CachingNet,
    ConditionedNet,
    DropoutNet,
    GlueNet,
    LoopedNet,
    NormNet,
    PreActivationNet,
    SequentialNet,
    StatefulNet,
    images,
)
from torch import Tensor, nn
from torchvision.models.vgg import make_layers

from stimulative import unravel
from stimulative.errors import UsageError
from stimulative.residual import ResidualNetwork, Subnet

# (name, blocks, fixed entry) of every stage, from the architectures' own tables
FAMILIES = {
    "timm/resnet18": [("layer1", 2, False), ("layer2", 2, True), ("layer3", 2, True), ("layer4", 2, True)],
    "timm/resnet26": [("layer1", 2, True), ("layer2", 2, True), ("layer3", 2, True), ("layer4", 2, True)],
    "timm/resnext50_32x4d": [("layer1", 3, True), ("layer2", 4, True), ("layer3", 6, True), ("layer4", 3, True)],
    "timm/seresnet50": [("layer1", 3, True), ("layer2", 4, True), ("layer3", 6, True), ("layer4", 3, True)],
    # one block a stage in the first two: nothing to skip there
    "timm/regnetx_002": [("s3", 4, True), ("s4", 7, True)],
    "timm/regnety_002": [("s3", 4, True), ("s4", 7, True)],
    "timm/mobilenetv2_050": [(f"blocks.{i}", n, True) for i, n in [(1, 2), (2, 3), (3, 4), (4, 3), (5, 3)]],
    "timm/mobilenetv3_small_100": [(f"blocks.{i}", n, True) for i, n in [(1, 2), (2, 3), (3, 2), (4, 3)]],
    # at half width, stages 2 and 3 are equally wide, so the entry of stage 3 is an ordinary block
    "timm/mobilenetv3_small_050": [(f"blocks.{i}", n, i != 3) for i, n in [(1, 2), (2, 3), (3, 2), (4, 3)]],
    "timm/mobilenetv3_large_100": [(f"blocks.{i}", n, True) for i, n in [(1, 2), (2, 3), (3, 4), (4, 2), (5, 3)]],
    "timm/efficientnet_b0": [(f"blocks.{i}", n, True) for i, n in [(1, 2), (2, 2), (3, 3), (4, 3), (5, 4)]],
    "timm/convnext_atto": [(f"stages.{i}.blocks", n, False) for i, n in enumerate([2, 2, 6, 2])],
    "timm/vit_tiny_patch16_224": [("blocks", 4, False)],
    "timm/swin_tiny_patch4_window7_224": [(f"layers.{i}.blocks", n, False) for i, n in enumerate([2, 2, 6, 2])],
    "torchvision/resnet18": [("layer1", 2, False), ("layer2", 2, True), ("layer3", 2, True), ("layer4", 2, True)],
    "torchvision/mobilenet_v2": [
        ("features.2-3", 2, True),
        ("features.4-6", 3, True),
        ("features.7-10", 4, True),
        ("features.11-13", 3, True),
        ("features.14-16", 3, True),
    ],
    "torchvision/mobilenet_v3_small": [
        ("features.2-3", 2, True),
        ("features.4-6", 3, True),
        ("features.7-8", 2, True),
        ("features.9-11", 3, True),
    ],
    # features.1 can be skipped, but stands alone
    "torchvision/mobilenet_v3_large": [
        ("features.2-3", 2, True),
        ("features.4-6", 3, True),
        ("features.7-10", 4, True),
        ("features.11-12", 2, True),
        ("features.13-15", 3, True),
    ],
    "torchvision/VisionTransformer": [("encoder.layers", 4, False)],
}
SETTINGS = {
    "timm/vit_tiny_patch16_224": {"img_size": 32, "patch_size": 8, "depth": 4},
    "timm/swin_tiny_patch4_window7_224": {"img_size": 64, "window_size": 2, "embed_dim": 24, "num_heads": (1, 2, 2, 4)},
    "torchvision/VisionTransformer": {
        "image_size": 64, "patch_size": 16, "num_layers": 4, "num_heads": 2, "hidden_dim": 16, "mlp_dim": 32,
    },
}  # fmt: skip


def family(name: str) -> tuple[nn.Module, torch.Tensor]:
    library, _, model = name.partition("/")
    settings = {"num_classes": 4, **SETTINGS.get(name, {})}
    size = settings.get("img_size", 64)
    torch.manual_seed(0)
    if library == "timm":
        return timm.create_model(model, **settings), torch.randn(2, 3, size, size)
    return getattr(torchvision.models, model)(**settings), torch.randn(2, 3, size, size)


def plan(network: ResidualNetwork) -> list[tuple[str, int, bool]]:
    assert all(stage.min_depth == 1 for stage in network.stages)
    return [(stage.name, stage.blocks, stage.fixed_entry) for stage in network.stages]


@pytest.mark.parametrize("name", FAMILIES)
def test_stages_of_the_families(name):
    model, x = family(name)
    network = unravel(model, x)
    assert plan(network) == FAMILIES[name]
    assert network.space.lengths == tuple(blocks for _, blocks, _ in FAMILIES[name])
    assert network.space.fixed == tuple(fixed for _, _, fixed in FAMILIES[name])
    model.eval()
    with torch.no_grad():
        assert torch.equal(network(x), model(x))
        smallest = network(x, network.space.smallest)
    assert smallest.shape == (2, 4) and smallest.isfinite().all()


def test_the_number_of_subnets_of_resnet50():
    model = timm.create_model("resnet50", num_classes=4)
    assert len(unravel(model, torch.randn(1, 3, 32, 32)).space) == 216


OWN = {
    "Sequential": (SequentialNet(), [("stage1", 3, False), ("stage2", 4, True)]),
    "ModuleList": (LoopedNet(), [("blocks", 5, False)]),
    "shared weights": (LoopedNet(rounds=2), [("blocks", 5, False)]),
    "attributes": (AttributeNet(), [("block0-block3", 4, False)]),
    "writing": (AddingNet(), [("blocks", 4, False)]),
    "code in between": (GlueNet(), [("first", 3, False), ("second", 3, False)]),
    "dropout": (DropoutNet(), [("blocks", 4, False)]),
    "norms": (NormNet(), [("blocks", 4, False)]),
    "keywords": (StatefulNet(), [("blocks", 4, False)]),
    "condition first": (ConditionedNet(), [("blocks", 4, False)]),
}


@pytest.mark.parametrize("name", OWN)
def test_stages_of_own_models(name):
    model, expected = OWN[name]
    assert plan(unravel(model.double(), images())) == expected


def test_blocks_come_in_the_order_in_which_they_run():
    (stage,) = unravel(AttributeNet(backwards=True).double(), images()).stages
    assert stage.block_names == ("block0", "block1", "block2", "block3")


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    "model",
    [SequentialNet(), DropoutNet(), NormNet(), AddingNet(), PreActivationNet(), CachingNet()],
    ids=lambda model: type(model).__name__,
)
def test_the_model_is_untouched(model, training):
    model = copy.deepcopy(model).train(training)
    children = list(model.modules())
    children[2].training = not training  # a mixture of modes is the user's, too
    next(model.parameters()).requires_grad_(False)
    state = {key: value.clone() for key, value in model.state_dict().items()}
    kept = [*model.parameters(), *model.buffers()]
    modes = [module.training for module in children]
    grads = [parameter.requires_grad for parameter in model.parameters()]
    attributes = [dict(vars(module)) for module in children]
    random = torch.get_rng_state()
    hooks = list(re.findall("hooks", " ".join(vars(model))))
    assert hooks, "hooks live in attributes"

    x = images(dtype=torch.float32)
    network = unravel(model, x, stages=["blocks"] if isinstance(model, PreActivationNet) else None)

    assert network.model is model
    assert list(model.state_dict()) == list(state)
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert [id(tensor) for tensor in [*model.parameters(), *model.buffers()]] == [id(tensor) for tensor in kept]
    assert list(model.modules()) == children
    assert [module.training for module in children] == modes
    assert [parameter.requires_grad for parameter in model.parameters()] == grads
    assert all(parameter.grad is None for parameter in model.parameters())
    for module, before in zip(children, attributes, strict=True):
        assert vars(module).keys() == before.keys()
        assert all(len(value) == 0 for key, value in vars(module).items() if key.endswith("_hooks"))
    assert torch.equal(torch.get_rng_state(), random)


def test_the_example_input_is_untouched():
    x = images(dtype=torch.float32)
    before = x.clone()
    unravel(PreActivationNet(stem=False), x, stages=["blocks"])
    assert torch.equal(x, before)


def test_inference_mode_and_its_tensors_will_do():
    model = LoopedNet()
    with torch.inference_mode():
        x = images(dtype=torch.float32)
        network = unravel(model, x)
        assert network(x, "1").shape == (4, 4)
    assert network(images(dtype=torch.float32), "1").requires_grad


class Merging(nn.Module):
    """A low-rank change of a layer's weights, which evaluation mode adds to them, and a cache that training forgets."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.merged, self.cache = nn.Linear(6, 6), False, None
        self.left, self.right = nn.Parameter(torch.randn(6, 1)), nn.Parameter(torch.randn(1, 6))

    def train(self, mode: bool = True) -> "Merging":
        super().train(mode)
        if self.merged == mode:
            self.linear.weight.data += (self.left @ self.right).data * (-1 if mode else 1)
            self.merged = not mode
        self.cache = None if mode else self.cache
        return self

    def forward(self, x: Tensor) -> Tensor:
        y = self.linear(x) + (x @ (self.left @ self.right).T if self.training else 0)
        self.cache = self.linear.bias.exp() if self.cache is None else self.cache
        return x + y * self.cache


def test_modules_that_do_something_when_the_mode_changes_are_told_of_both_changes():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 6), *[Merging() for _ in range(3)]).double()
    weights = [block.linear.weight.clone() for block in model[2:]]
    assert unravel(model, images()).stages[0].block_names == ("2", "3", "4")
    assert not any(block.merged for block in model[2:]) and all(block.cache is None for block in model[2:])
    assert all(torch.allclose(block.linear.weight, old) for block, old in zip(model[2:], weights, strict=True))


def test_a_zero_initialised_net_has_the_same_stages():
    torch.manual_seed(0)
    model = torchvision.models.resnet18(num_classes=4, zero_init_residual=True)
    assert plan(unravel(model, torch.randn(2, 3, 64, 64))) == FAMILIES["torchvision/resnet18"]
    everything = SequentialNet()
    with torch.no_grad():
        for parameter in everything.parameters():
            parameter.zero_()
    network = unravel(everything, images(dtype=torch.float32))
    assert plan(network) == [("stage1", 3, False), ("stage2", 4, True)]


def test_a_net_whose_activations_are_all_zero_has_the_same_stages():
    model = SequentialNet()
    with torch.no_grad():
        model.conv.weight.zero_()
        model.bn.bias.zero_()
    network = unravel(model, images(dtype=torch.float32))
    assert plan(network) == [("stage1", 3, False), ("stage2", 4, True)]
    assert plan(unravel(SequentialNet(), torch.zeros(2, 3, 8, 8))) == plan(network)


def test_a_stage_of_one_kind_of_block_after_a_strided_stage_does_not_swallow_it():
    """A stage whose only block can be skipped looks like a block to its neighbour, which is a container too."""
    model = nn.Sequential(
        nn.Conv2d(3, 6, 3, 1, 1),
        nn.Sequential(BasicBlock(6, 8, 2), BasicBlock(8, 8), BasicBlock(8, 8)),
        nn.Sequential(BasicBlock(8, 8)),
        nn.Flatten(),
    )
    assert plan(unravel(model, images(dtype=torch.float32))) == [("1", 3, True)]


def test_blocks_around_a_pooling_layer_are_found():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 6, 3, 1, 1), nn.ReLU(), BasicBlock(6, 6), nn.MaxPool2d(2), BasicBlock(6, 6), nn.Flatten()
    )
    (stage,) = unravel(model, images(dtype=torch.float32)).stages
    assert stage.block_names == ("2", "4")


@pytest.mark.parametrize("form", ["tensor", "tuple", "mapping"])
def test_the_example_input_takes_three_forms(form):
    x = images()
    given = {"tensor": x, "tuple": (x,), "mapping": {"x": x}}[form]
    network = unravel(LoopedNet().double(), given)
    assert torch.equal(network(given, "2"), unravel(network.model, x)(x, "2"))


def test_stages_by_hand_as_containers_and_as_lists():
    torch.manual_seed(0)
    model = SequentialNet()
    x = images(dtype=torch.float32)
    assert plan(unravel(model, x, stages=["stage2"])) == [("stage2", 4, True)]
    network = unravel(model, x, stages=["stage2", ["stage1.0", "stage1.2"]])
    assert plan(network) == [("stage1.0-2", 2, False), ("stage2", 4, True)], "in the order in which they run"
    without = copy.deepcopy(model).eval()
    del without.stage1[2]
    model.eval()
    assert torch.allclose(network(x, "1-4"), without(x))


def test_blocks_that_are_not_residual_can_be_named_by_hand():
    model = nn.Sequential(
        nn.Conv2d(3, 6, 3, 1, 1), nn.Sequential(*[nn.Conv2d(6, 6, 3, 1, 1) for _ in range(3)]), nn.Flatten()
    )
    with pytest.raises(UsageError, match="no residual blocks found in Sequential"):
        unravel(model, images(dtype=torch.float32))
    network = unravel(model, images(dtype=torch.float32), stages=["1"])
    assert plan(network) == [("1", 3, True)], "the first one does not pass the test, so it always runs"


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        (["layer9"], r"SequentialNet has no module 'layer9'\. Its containers: stage1, stage2; all names: model\.named"),
        ([["stage1.0", "stage1.7"]], r"SequentialNet has no module 'stage1\.7'"),
        (["stage1", ["stage1.0", "stage1.1"]], r"'stage1\.0' is named twice"),
        ([["stage1.0"]], r"stage 'stage1\.0' has 1 block\(s\); at least two"),
        (["head"], r"stage 'head' has 0 block\(s\); at least two"),
        ([["stage1.2", "stage2.0"]], r"'stage2\.0' cannot be skipped, .* turns \(4, 6, 8, 8\) into \(4, 8, 4, 4\)"),
        ([], r"stages= is empty: name at least one container"),
        ("stage1", r"stages= .*list.*got 'stage1'"),
    ],
)  # fmt: skip
def test_stages_by_hand_that_cannot_be(stages, message):
    with pytest.raises(UsageError, match=message):
        unravel(SequentialNet(), images(dtype=torch.float32), stages=stages)


def test_a_named_block_that_does_not_run_is_refused():
    model = LoopedNet()
    model.spare = nn.ModuleList([nn.Linear(6, 6), nn.Linear(6, 6)])
    with pytest.raises(UsageError, match=r"stage 'spare': its block 'spare\.0' did not run on the example input"):
        unravel(model, images(dtype=torch.float32), stages=["spare"])


def test_vgg_gets_the_teaching_error():
    features = make_layers([8, "M", 16, "M", 16, 16, "M"], batch_norm=True)
    model = nn.Sequential(features, nn.Flatten(), nn.Linear(16, 4))
    with pytest.raises(UsageError) as error:
        unravel(model, images(dtype=torch.float32))
    message = str(error.value)
    assert message.startswith("no residual blocks found in Sequential")
    assert "Looked at" in message and "stages=['layer1', ...]" in message


def test_a_single_residual_block_is_no_stage():
    with pytest.raises(UsageError, match=r"no run of two or more modules.*1 \(BasicBlock\)"):
        unravel(nn.Sequential(nn.Conv2d(3, 6, 1), BasicBlock(6, 6), nn.Flatten()), images(dtype=torch.float32))


def test_models_that_cannot_be_taken_apart_are_refused():
    model, x = LoopedNet(), images(dtype=torch.float32)
    with pytest.raises(UsageError, match=r"compiled as a whole.*block\.compile\(\)"):
        unravel(torch.compile(model, backend="eager"), x)
    with pytest.raises(UsageError, match=r"the model inside of DataParallel \(its \.module\)"):
        unravel(nn.DataParallel(model), x)
    with pytest.raises(UsageError, match=r"scripted model.*before torch\.jit\.script"):
        unravel(torch.jit.trace(model, x), x)
    with pytest.raises(UsageError, match=r"a model is an nn\.Module, got function"):
        unravel(lambda x: x, x)
    with pytest.raises(UsageError, match=r"ResidualNetwork already; unravel its \.model"):
        unravel(unravel(model, x), x)


def test_a_model_compiled_in_place_is_refused():
    model, x = LoopedNet(), images(dtype=torch.float32)
    model.compile(backend="eager")
    with pytest.raises(UsageError, match=r"compiled as a whole"):
        unravel(model, x)


def test_an_error_of_the_model_is_passed_on_and_leaves_it_as_it_was():
    model = SequentialNet()
    with pytest.raises(RuntimeError, match="channels"):
        unravel(model, torch.randn(2, 5, 8, 8))
    assert model.training and all(module.training for module in model.modules())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_the_plan_is_in_the_representation():
    network = unravel(SequentialNet(), images(dtype=torch.float32))
    assert "stages=['stage1: 3', 'stage2: 4'], subnets=12" in repr(network)
    assert network.full == Subnet.parse("3-4")


class TwiceNamedBlock(nn.Module):
    """A block whose layer has two names, and whose second layer shares the first one's weight."""

    def __init__(self) -> None:
        super().__init__()
        self.first = self.again = nn.Linear(6, 6)
        self.tied = nn.Linear(6, 6)
        self.tied.weight = self.first.weight

    def forward(self, x):
        return x + self.tied(torch.relu(self.again(x)))


def test_shared_parameters_are_as_they_were_after_unraveling():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.Sequential(*[TwiceNamedBlock() for _ in range(3)]), nn.Linear(6, 2))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    network = unravel(model, torch.randn(2, 4))
    assert network.space.lengths == (3,)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    for block in model[1]:
        assert block.first is block.again and block.tied.weight is block.first.weight
