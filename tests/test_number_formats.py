"""What is found in a model does not depend on the format that its numbers are in, and the model stays as it is."""

import math
from collections.abc import Callable
from functools import partial

import pytest
import timm
import torch
import torch.nn.functional as F
from public_nets import NETS, Attention
from torch import Tensor, nn

import stimulative
from stimulative.residual import evaluating

FORMATS = torch.float64, torch.float32, torch.bfloat16, torch.float16


class RMSNorm(nn.Module):
    """By the root mean square, with a gain that is one by itself or is what it is more than one."""

    def __init__(self, width: int, more_than_one: bool = False, eps: float = 1e-6) -> None:
        super().__init__()
        self.offset, self.eps = float(more_than_one), eps
        self.weight = nn.Parameter(torch.full((width,), 1 - self.offset))

    def forward(self, x: Tensor) -> Tensor:
        y = x.float() if x.dtype != torch.float64 else x
        return (y * (y.square().mean(-1, keepdim=True) + self.eps).rsqrt()).to(x) * (self.offset + self.weight)


class PostNorm(nn.Module):
    """A norm behind each addition."""

    def __init__(self, width: int, norm: Callable[[int], nn.Module] = nn.LayerNorm, scale: float = 1.0) -> None:
        super().__init__()
        self.scale = scale
        self.attention, self.norm1 = Attention(width), norm(width)
        self.mlp, self.norm2 = nn.Sequential(nn.Linear(width, 12), nn.GELU(), nn.Linear(12, width)), norm(width)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm1(self.scale * x + self.attention(x))
        return self.norm2(self.scale * x + self.mlp(x))


class OnSphere(nn.Module):
    """nGPT's block: a step towards the branch, normalised without parameters, before and afterwards."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.attention, self.step = Attention(width), nn.Parameter(torch.full((width,), 0.1))

    def forward(self, x: Tensor) -> Tensor:
        x = F.normalize(x, dim=-1)
        return F.normalize(x + self.step * (F.normalize(self.attention(x), dim=-1) - x), dim=-1)


class Weighed(nn.Module):
    """Input and branch over the root of two."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width))

    def forward(self, x: Tensor) -> Tensor:
        return (x + self.mlp(x)) * math.sqrt(0.5)


class Tokens(nn.Module):
    """Blocks over the patches of an image."""

    def __init__(self, block: Callable[[int], nn.Module], width: int = 8) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, 2, 2)
        self.blocks = nn.ModuleList(block(width) for _ in range(3))
        self.head = nn.Linear(width, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        for block in self.blocks:
            x = block(x)
        return self.head(x.mean(1))


class Changing(Tokens):
    """The blocks in bfloat16, whatever comes in and goes out."""

    def __init__(self, block: Callable[[int], nn.Module]) -> None:
        super().__init__(block)
        self.blocks.bfloat16()

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2).bfloat16()
        for block in self.blocks:
            x = block(x)
        return self.head(x.to(self.head.weight).mean(1))


class ChangingInside(nn.Module):
    """Each block computes its branch in bfloat16; no other format would run."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.linear = nn.LayerNorm(width), nn.Linear(width, width).bfloat16()

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x + self.linear(x.bfloat16()).to(x))


class Autocast(Tokens):
    """Turns on automatic mixed precision itself."""

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return super().forward(x)


def images() -> tuple[Tensor, ...]:
    return NETS["ESRGAN"].inputs()


BLOCKS = {
    "norms behind": PostNorm,
    "norms without a mean": partial(PostNorm, norm=RMSNorm),
    "gains that are more than one": partial(PostNorm, norm=partial(RMSNorm, more_than_one=True)),
    "norms of zero": partial(PostNorm, norm=partial(RMSNorm, eps=0.0)),
    "DeepNorm": partial(PostNorm, scale=1.7),
    "on the sphere": OnSphere,
    "weighed": Weighed,
}
MODELS: dict[str, tuple[Callable[[], nn.Module], Callable[[], tuple[Tensor, ...]]]] = {
    **{name: (partial(Tokens, block), images) for name, block in BLOCKS.items()},
    **{name: (net.make, net.inputs) for name, net in NETS.items()},
    "Swin": (
        lambda: timm.create_model("swinv2_cr_tiny_ns_224", img_size=32, window_size=1, depths=(2, 2), num_heads=(1, 2),
                                  embed_dim=8, num_classes=4),
        lambda: (torch.randn(1, 3, 32, 32),),
    ),
}  # fmt: skip
THREE = [("blocks", ("blocks.0", "blocks.1", "blocks.2"), False)]


def stages(model: nn.Module, inputs: tuple[Tensor, ...]) -> list[tuple[str, tuple[str, ...], bool]]:
    """What is found; the model stays as it is, and its smallest subnet runs."""
    state = {key: value.clone() for key, value in model.state_dict().items()}
    network = stimulative.unravel(model, inputs)
    for key, value in model.state_dict().items():
        assert value.dtype == state[key].dtype and torch.equal(value, state[key]), key
    with evaluating(network), torch.no_grad():
        assert network(inputs, network.space.smallest).isfinite().all()
    return [(stage.name, stage.block_names, stage.fixed_entry) for stage in network.stages]


def built(make: Callable[[], nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    return make()


@pytest.mark.parametrize("name", MODELS)
def test_the_same_stages_are_found_in_every_format(name):
    make, inputs = MODELS[name]
    found = {}
    for each in FORMATS:
        given = tuple(x.to(each) if x.is_floating_point() else x for x in inputs())
        found[each] = stages(built(make).to(each), given)
    assert found[torch.float64] and all(other == found[torch.float64] for other in found.values())
    if name in BLOCKS:  # the first block on the sphere normalises what has not been
        assert found[torch.float64] == [(*THREE[0][:2], name == "on the sphere")]


@pytest.mark.parametrize("block", [PostNorm, Weighed, OnSphere])
@pytest.mark.parametrize("kind", [Changing, Autocast])
def test_a_model_that_changes_the_format_itself(kind, block):
    found = stages(built(partial(kind, block)), (images()[0].float(),))
    assert found == [(*THREE[0][:2], block is OnSphere)]


def test_a_block_that_runs_in_a_format_of_its_own_alone():
    assert stages(built(partial(Tokens, ChangingInside)), (images()[0].float(),)) == THREE


@pytest.mark.parametrize("block", [PostNorm, partial(PostNorm, norm=RMSNorm), Weighed])
def test_within_automatic_mixed_precision(block):
    model, x = built(partial(Tokens, block)), images()[0].float()
    with torch.autocast("cpu", torch.bfloat16):
        assert stages(model, (x,)) == THREE
        network = stimulative.unravel(model, x)
    assert network(x, "1").dtype == torch.float32, "in the model's own format where it is off"


class Kept(Tokens):
    """With a table in half precision among its buffers, which the blocks read."""

    class Block(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.linear, self.norm = nn.Linear(width, width), nn.LayerNorm(width)
            self.register_buffer("table", torch.rand(16, width).half())

        def forward(self, x: Tensor) -> Tensor:
            return self.norm(x + self.linear(x + self.table.to(x.dtype)))

    def __init__(self) -> None:
        super().__init__(self.Block)


def test_buffers_of_another_format():
    assert stages(built(Kept), (images()[0].float(),)) == THREE
    assert stages(built(Kept).bfloat16(), (images()[0].bfloat16(),)) == THREE


def test_numbers_that_are_too_large_for_the_format():
    """Blocks are tried on what they are given; that it is infinite says nothing about them."""
    model = built(partial(Tokens, Weighed)).half()
    with torch.no_grad():
        model.patches.weight.mul_(3e4)
    x = 10 * images()[0].half()
    assert not model(x).isfinite().all()
    assert stimulative.unravel(model, x).stages[0].block_names == THREE[0][1]


def test_a_skipped_block_returns_its_input_in_the_format_of_its_output():
    class Widening(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.linear = nn.Linear(width, width)

        def forward(self, x: Tensor) -> Tensor:
            return x.double() + self.linear(x.float()).double()

    model, x = built(partial(Tokens, Widening)), images()[0].float()
    model.head.double()
    network = stimulative.unravel(model, x)
    assert [stage.block_names for stage in network.stages] == [("blocks.0", "blocks.1", "blocks.2")]
    start = model.patches(x).flatten(2).transpose(1, 2)
    expected = model.head((start.double() + model.blocks[2].linear(start).double()).mean(1))
    for subnet in ("[2]", "[0]"):
        assert network(x, subnet).dtype == torch.float64
    assert torch.allclose(network(x, "[2]"), expected)
    taken = stimulative.extract(network, "[2]")
    assert torch.allclose(taken(x), expected)


def test_the_example_keeps_its_format_where_the_model_keeps_its_own():
    network = stimulative.unravel(built(partial(Changing, Weighed)), images()[0].float())
    assert network.example_input.dtype == torch.float32
    network.model.patches.double()
    assert network.example_input.dtype == torch.float64, "it follows the model"
