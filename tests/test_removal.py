"""Removing blocks for good gives the architecture of the subnet, and nothing else."""

import copy

import pytest
import timm
import torch
from torch import nn

import stimulative
from stimulative import models
from stimulative.errors import UsageError
from stimulative.residual import evaluating, keep_only
from stimulative.training import load_recipe, prepare, train


def residual_net() -> nn.Module:
    return models.build("cifar/resnet20", classes=10, arguments={"width": 4})


@pytest.mark.parametrize(
    ("make", "subnet"),
    [
        (residual_net, "2-1-3"),
        (residual_net, "[0.2]-1-2"),
        (lambda: timm.create_model("vit_tiny_patch16_224", img_size=32, num_classes=10, embed_dim=48), "5"),
        (lambda: timm.create_model("convnext_atto", num_classes=10), "1-2-[0.3.4]-1"),
    ],
    ids=["resnet", "resnet-middle", "vit", "convnext"],
)
def test_what_is_left_computes_and_weighs_what_the_subnet_did(make, subnet):
    torch.manual_seed(0)
    x = torch.randn(2, 3, 32, 32)
    network = stimulative.unravel(make(), x)
    whole = copy.deepcopy(network.model)
    with evaluating(network), torch.no_grad():
        expected = network(x, subnet)
    depths = stimulative.Subnet.parse(subnet).depths
    removed = [
        name
        for stage, kept in zip(network.stages, stimulative.Subnet.parse(subnet).stages, strict=True)
        for block, name in enumerate(stage.block_names)
        if block not in kept
    ]
    left = keep_only(network, subnet)
    assert left.space.lengths == depths and left.full.depths == depths
    with evaluating(left), torch.no_grad():
        assert torch.equal(left(x), expected)
        assert torch.equal(left.model(x), expected)  # the model alone too: nothing is skipped, it is gone
    gone = sum(p.numel() for name in removed for p in whole.get_submodule(name).parameters())
    assert gone > 0
    assert sum(p.numel() for p in left.model.parameters()) == sum(p.numel() for p in whole.parameters()) - gone


def test_subnets_of_what_is_left_are_those_of_the_whole_net():
    x = torch.randn(4, 3, 32, 32)
    network = stimulative.unravel(residual_net(), x)
    whole = stimulative.unravel(copy.deepcopy(network.model), x)
    left = keep_only(network, "3-2-1")
    with evaluating(whole), evaluating(left), torch.no_grad():
        for subnet in left.space:
            assert torch.equal(left(x, subnet), whole(x, subnet))
        statistics = left.recalibrate([x], ["2-1-1"])
        expected = whole.recalibrate([x], ["2-1-1"])
        assert torch.equal(left(x, "2-1-1", statistics=statistics), whole(x, "2-1-1", statistics=expected))


class WritesBetweenBlocks(nn.Module):
    """Its own code writes into what a block returned, which must not reach what came before a removed block."""

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(4, 4)

        def forward(self, x):
            return x + self.linear(x)

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([self.Block() for _ in range(3)])

    def forward(self, x):
        for block in self.blocks:
            x = block(x)
            x += 1
        return x


def test_writes_into_outputs_stay_apart_in_what_is_left():
    x = torch.randn(2, 4)
    network = stimulative.unravel(WritesBetweenBlocks(), x)
    with torch.no_grad():
        expected = network(x.clone(), "[0.2]")
        left = keep_only(network, "[0.2]")
        both = left.run(x.clone(), ["1", "2"])
    assert torch.equal(both[1], expected)


def test_a_stage_of_which_nothing_is_left_is_no_stage():
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Sequential(WritesBetweenBlocks.Block(), WritesBetweenBlocks.Block())
            self.b = nn.Sequential(WritesBetweenBlocks.Block(), WritesBetweenBlocks.Block())

        def forward(self, x):
            return self.b(self.a(x))

    x = torch.randn(2, 4)
    network = stimulative.unravel(Net(), x)
    expected = network(x, "[]-1")
    left = keep_only(network, "[]-1")
    assert [stage.name for stage in left.stages] == ["b"]
    assert torch.equal(left(x, "1"), expected)


@pytest.mark.parametrize(
    ("subnet", "message"),
    [
        ("3-[0.2.1]-3", r"removing blocks leaves the others in their order; got 3-\[0.2.1\]-3"),
        ("4-1-1", "does not fit stage 'layer1'"),
        ("1-1", "has 2 stages, the network 3"),
    ],
)
def test_what_cannot_be_kept_is_refused(subnet, message):
    network = stimulative.unravel(residual_net(), torch.randn(2, 3, 32, 32))
    with pytest.raises(UsageError, match=message):
        keep_only(network, subnet)


def test_a_recipe_can_train_a_subnet_alone(tmp_path):
    settings = {"model.arguments": {"width": 4}, "schedule.epochs": 1, "training.loggers": [], "method.name": "common"}
    recipe = load_recipe("digits", {**settings, "model.subnet": "2-1-3"})
    network = prepare(recipe).network
    whole = prepare(load_recipe("digits", settings)).network
    assert network.space.lengths == (2, 1, 3)
    kept = network.model.state_dict()
    assert kept.keys() < whole.model.state_dict().keys()
    assert all(torch.equal(value, whole.model.state_dict()[key]) for key, value in kept.items())  # same beginning
    summary = train(recipe, tmp_path / "run", progress=False)
    assert summary["subnets"]["count"] == 6 and summary["parameters"] < 70_000
    assert load_recipe(tmp_path / "run" / "recipe.yaml").model.subnet == "2-1-3"


def test_a_text_that_is_no_subnet_is_refused_with_the_other_problems():
    with pytest.raises(UsageError, match=r"(?s)2 problems.*model.subnet: cannot read the subnet '2-x'"):
        load_recipe("digits", ["--model.subnet=2-x", "--schedule.epochs=0"])
    assert load_recipe("digits", ["--model.subnet=[0.2]-1-1"]).model.subnet == "[0.2]-1-1"
    assert load_recipe("digits", ["--model.subnet=3"]).model.subnet == "3"
