"""Layers that concatenate, in whichever order: dense blocks, layers that return their input among more, and others."""

import copy
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor, nn

import stimulative
from stimulative.analysis import CostModel
from stimulative.errors import UsageError


def series(dims: int, seed: int = 0) -> Tensor:
    return torch.randn(2, 3, *[6] * dims, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def moved(model: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    model.double()
    with torch.no_grad():
        for value in [*model.parameters(), *model.buffers()]:
            if value.is_floating_point():
                value.add_(0.3 * torch.rand_like(value))
    return model


class Reader(nn.Module):
    """A layer of a dense block."""

    def __init__(self, width: int, growth: int) -> None:
        super().__init__()
        self.norm, self.conv = nn.BatchNorm2d(width), nn.Conv2d(width, growth, 3, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(self.norm(x).relu())


class DenseBlock(nn.Module):
    """The channels of each layer come in front of, behind, or in the middle of what was there before."""

    def __init__(self, width: int, growths: list[int], where: str) -> None:
        super().__init__()
        self.where, self.names = where, [f"layer{number}" for number in range(len(growths))]
        for number, growth in enumerate(growths):
            self.add_module(self.names[number], Reader(width + sum(growths[:number]), growth))

    def forward(self, x: Tensor) -> Tensor:
        for name in self.names:
            new = self.get_submodule(name)(x)
            parts = {"in front": [new, x], "behind": [x, new], "within": [x[:, :1], new, x[:, 1:]]}[self.where]
            x = torch.cat(parts, 1)
        return x


class Unit(nn.Module):
    """A module that concatenates for itself what its one layer makes; a run of these is a dense block."""

    def __init__(self, width: int, growth: int, where: str) -> None:
        super().__init__()
        self.where, self.reader = where, Reader(width, growth)

    def forward(self, x: Tensor) -> Tensor:
        new = self.reader(x)
        return torch.cat([new, x] if self.where == "in front" else [x, new], 1)


class DenseNet(nn.Module):
    def __init__(self, where: str, first: list[int], second: list[int], width: int = 4, units: bool = False) -> None:
        super().__init__()
        self.where, self.units = where, units
        self.stem = nn.Conv2d(3, width, 3, 1, 1)
        self.block1, total = self.block(width, first), width + sum(first)
        self.norm, self.transition = nn.BatchNorm2d(total), nn.Conv2d(total, total // 2, 1)
        self.block2 = self.block(total // 2, second)
        self.last = nn.BatchNorm2d(total // 2 + sum(second))
        self.head = nn.Linear(self.last.num_features, 3)

    def block(self, width: int, growths: list[int]) -> nn.Module:
        if not self.units:
            return DenseBlock(width, growths, self.where)
        block = nn.Sequential()
        for number, growth in enumerate(growths):
            block.add_module(f"layer{number}", Unit(width + sum(growths[:number]), growth, self.where))
        return block

    def forward(self, x: Tensor) -> Tensor:
        x = self.block1(self.stem(x))
        x = self.block2(self.transition(self.norm(x).relu()))
        return self.head(self.last(x).mean((2, 3)))


Part = Callable[[Tensor], Tensor]


def _some(channels: list[int], value: Tensor) -> Tensor:
    return value[channels]


def _some_of_the_first(rows: int, channels: list[int], value: Tensor) -> Tensor:
    return value[:rows, channels]


def smaller(net: DenseNet, kept: tuple[list[int], list[int]]) -> tuple[DenseNet, dict[str, tuple[str, Part]]]:
    """The net that is built with some layers only; and of what each of its parameters and statistics is which part."""
    inside = ".reader" if net.units else ""
    blocks = [[layer for layer in block.modules() if isinstance(layer, Reader)] for block in (net.block1, net.block2)]
    wholes = [[layer.conv.out_channels for layer in layers] for layers in blocks]
    growths = [[whole[at] for at in some] for whole, some in zip(wholes, kept, strict=True)]
    small = DenseNet(net.where, *growths, width=net.stem.out_channels, units=net.units).double()
    sources: dict[str, tuple[str, Part]] = {}

    def reads(name: str, whole: str, channels: list[int]) -> None:
        module = small.get_submodule(name)
        for key, value in module.state_dict().items():
            if isinstance(module, nn.BatchNorm2d):
                part: Part = partial(_some, channels)
            elif key == "weight":
                part = partial(_some_of_the_first, len(value), channels)
            else:
                part = partial(_some, list(range(len(value))))
            if value.dim():
                sources[f"{name}.{key}"] = f"{whole}.{key}", part

    reads("stem", "stem", list(range(3)))
    for number, (name, whole) in enumerate(zip(("block1", "block2"), wholes, strict=True)):
        first = f"{name}.layer0{inside}.norm"
        everything = [("entering", channel) for channel in range(net.get_submodule(first).num_features)]
        present = everything[: small.get_submodule(first).num_features]
        for at, growth in enumerate(whole):
            places, new = [everything.index(channel) for channel in present], [(str(at), n) for n in range(growth)]
            left = new if at in kept[number] else []
            if left:
                own = f"{name}.layer{kept[number].index(at)}{inside}"
                reads(f"{own}.norm", f"{name}.layer{at}{inside}.norm", places)
                reads(f"{own}.conv", f"{name}.layer{at}{inside}.conv", places)
            behind = net.where == "behind"
            everything = [*everything, *new] if behind else [*new, *everything]
            present = [*present, *left] if behind else [*left, *present]
        for reader in (("norm", "transition"), ("last", "head"))[number]:
            reads(reader, reader, [everything.index(channel) for channel in present])
    return small, sources


@pytest.mark.parametrize("where", ["in front", "behind"])
@pytest.mark.parametrize("kept", [([0, 1, 2], [0, 1]), ([0], [0]), ([1, 2], [1]), ([2], [0, 1])])
@pytest.mark.parametrize("units", [False, True])
def test_a_subnet_of_a_dense_net_is_the_net_that_is_built_with_fewer_layers(where, kept, units):
    net, x = moved(DenseNet(where, [2, 3, 4], [3, 2], units=units)), series(2)
    network = stimulative.unravel(net, x)
    assert [(stage.name, stage.blocks, stage.concatenates) for stage in network.stages] == [
        ("block1", 3, True),
        ("block2", 2, True),
    ]
    subnet = stimulative.Subnet(tuple(map(tuple, kept)))
    small, sources = smaller(net, kept)
    for training in (False, True):
        small.load_state_dict(
            {key: part(net.state_dict()[whole]) for key, (whole, part) in sources.items()}, strict=False
        )
        network.train(training)
        small.train(training)
        output, expected = network(x, subnet), small(x)
        assert torch.allclose(output, expected, rtol=0, atol=1e-12)
        output.square().sum().backward()
        expected.square().sum().backward()
        for name, parameter in small.named_parameters():
            whole, part = sources[name]
            assert torch.allclose(part(net.get_parameter(whole).grad), parameter.grad, rtol=0, atol=1e-10), name
        for name, buffer in small.named_buffers():
            whole, part = sources.get(name, (name, torch.clone))
            assert name not in sources or torch.allclose(part(net.get_buffer(whole)), buffer, rtol=0, atol=1e-12), name
        net.zero_grad()
        small.zero_grad()
    network.eval()
    small.eval()
    taken = stimulative.extract(network, subnet, "keep")
    with torch.no_grad():
        assert torch.allclose(taken(x), small(x), rtol=0, atol=1e-12)
    count = sum(parameter.numel() for parameter in small.parameters())
    assert sum(parameter.numel() for parameter in taken.parameters()) == count
    assert CostModel(network, x).of(subnet).parameters == count


class Growing(nn.Module):
    """Returns its input and what it makes of it, the one in front of the other."""

    def __init__(self, width: int, growth: int, dims: int, where: str) -> None:
        super().__init__()
        self.where = where
        self.conv = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)[dims](width, growth, *[1] * (dims > 0))

    def forward(self, x: Tensor) -> Tensor:
        new = self.conv(x.relu())
        return torch.cat([new, x] if self.where == "in front" else [x, new], 1)


class GrowingNet(nn.Module):
    def __init__(self, dims: int, where: str) -> None:
        super().__init__()
        self.stem = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)[dims](3, 4, *[1] * (dims > 0))
        self.layers = nn.Sequential(*[Growing(4 + 3 * number, 3, dims, where) for number in range(4)])
        self.head = nn.Linear(16, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layers(self.stem(x)).flatten(2).mean(2) if x.dim() > 2 else self.layers(self.stem(x)))


@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize("where", ["in front", "behind"])
def test_a_skipped_layer_that_returns_its_input_among_more_adds_channels_of_zeros(where, dims):
    net, x = moved(GrowingNet(dims, where)), series(dims)
    network = stimulative.unravel(net, x)
    (stage,) = network.stages
    assert (stage.name, stage.blocks, stage.widens, stage.fixed_entry) == ("layers", 4, True, False)
    for kept in ((0,), (1, 3), ()):
        y = net.stem(x)
        for number, layer in enumerate(net.layers):
            nothing = y.new_zeros(2, 3, *y.shape[2:])
            y = layer(y) if number in kept else torch.cat([nothing, y] if where == "in front" else [y, nothing], 1)
        expected = net.head(y.flatten(2).mean(2))
        found = network(x, stimulative.Subnet((kept,)))
        assert torch.allclose(found, expected, rtol=0, atol=1e-12)
        gradients = [torch.autograd.grad(each.square().sum(), net.stem.weight)[0] for each in (found, expected)]
        assert torch.allclose(*gradients, rtol=0, atol=1e-10)
        if kept:
            taken = stimulative.extract(network, stimulative.Subnet((kept,)))
            assert torch.allclose(taken(x), expected, rtol=0, atol=1e-12)
            assert (
                taken.layers[0 if 0 in kept else 1].conv.weight.shape
                == net.layers[0 if 0 in kept else 1].conv.weight.shape
            )


@pytest.mark.parametrize(
    ("make", "x", "says"),
    [
        (
            lambda: DenseNet("within", [2, 3, 4], [3, 2]),
            series(2),
            r"'block1' has as many channels as its input and its layers' outputs together, but does not return these",
        ),
        (
            lambda: GrowingNet(0, "behind"),
            torch.ones(2, 3, dtype=torch.float64),
            r"'layers\.0' returns its input and something beside it, along dimension 1 of \(2, 7\)",
        ),
    ],
)
def test_the_message_says_why_it_is_no_densenet(make, x, says):
    with pytest.raises(UsageError, match=f"no residual blocks found.* not taken for a DenseNet, either: {says}"):
        stimulative.unravel(moved(make()), x)


class Token(nn.Module):
    """Adds a token of its own in front of others, whatever these are."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.zeros(1, 1, width))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.token.expand(len(x), -1, -1), x], 1)


def test_what_adds_tokens_of_its_own_is_no_layer_of_a_densenet():
    block = nn.TransformerEncoderLayer(6, 2, 8, batch_first=True, norm_first=True)
    model = nn.Sequential(Token(6), Token(6), *[copy.deepcopy(block) for _ in range(3)])
    (stage,) = stimulative.unravel(model.eval(), torch.randn(2, 5, 6)).stages
    assert stage.block_names == ("2", "3", "4")
