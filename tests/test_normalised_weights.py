"""Blocks whose weights are computed: by hooks, by parametrisations of PyTorch, or in a layer's own code."""

import copy
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn import utils as hooks
from torch.nn.utils import parametrizations, parametrize

import stimulative
from stimulative.errors import UsageError
from stimulative.residual import branch_ends, evaluating

pytestmark = pytest.mark.filterwarnings("ignore:.*weight_norm.*is deprecated:FutureWarning")
Wrap = Callable[[nn.Module], nn.Module]


class Standardised(nn.Conv2d):
    """A convolution whose weights have a mean of 0 and a deviation of 1, exactly: 0/0 where they are all the same."""

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight.flatten(1)
        weight = (weight - weight.mean(1, keepdim=True)) / weight.std(1, keepdim=True)
        return F.conv2d(x, weight.view_as(self.weight), self.bias, self.stride, self.padding)


class Positive(nn.Module):
    """A parametrisation of one's own: no value of the parameter makes the weight zero."""

    def forward(self, weight: Tensor) -> Tensor:
        return 0.01 * weight.exp()


class LowRank(nn.Module):
    """A parametrisation that has parameters of its own."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.left, self.right = (
            nn.Parameter(torch.ones(len(weight), 2)),
            nn.Parameter(torch.randn(2, weight[0].numel())),
        )

    def forward(self, weight: Tensor) -> Tensor:
        return weight + (self.left @ self.right).view_as(weight).softmax(0)


def parametrised(how: Callable[[Tensor], nn.Module]) -> Wrap:
    def wrap(layer: nn.Module) -> nn.Module:
        parametrize.register_parametrization(layer, "weight", how(layer.weight))
        return layer

    return wrap


def standardised(conv: nn.Module) -> nn.Module:
    assert isinstance(conv, nn.Conv2d)
    return Standardised(conv.in_channels, conv.out_channels, conv.kernel_size, padding=conv.padding)


WRAPS: dict[str, Wrap] = {
    "plain": lambda layer: layer,
    "weight norm by hooks": hooks.weight_norm,
    "weight norm": parametrizations.weight_norm,
    "spectral norm by hooks": hooks.spectral_norm,
    "spectral norm": parametrizations.spectral_norm,
    "orthogonal by exponential": lambda layer: parametrizations.orthogonal(layer, orthogonal_map="matrix_exp"),
    "orthogonal by reflections": lambda layer: parametrizations.orthogonal(layer, orthogonal_map="householder"),
    "positive": parametrised(lambda weight: Positive()),
    "low rank": parametrised(LowRank),
    "both": lambda layer: parametrizations.spectral_norm(parametrizations.weight_norm(layer)),
    "standardised": standardised,
}


class Block(nn.Module):
    def __init__(self, wrap: Wrap, norm: str) -> None:
        super().__init__()
        self.conv1, self.conv2 = (wrap(nn.Conv2d(4, 4, 3, padding=1)) for _ in range(2))
        self.norm = nn.GroupNorm(1, 4) if norm else None
        self.behind = norm == "behind"

    def forward(self, x: Tensor) -> Tensor:
        y = x if self.norm is None or self.behind else self.norm(x)
        y = x + self.conv2(self.conv1(y.relu()).relu())
        return self.norm(y) if self.norm is not None and self.behind else y


class Net(nn.Module):
    def __init__(self, wrap: Wrap, norm: str = "", block: Callable[[Wrap, str], nn.Module] = Block) -> None:
        super().__init__()
        self.stem, self.head = wrap(nn.Conv2d(3, 4, 3, padding=1)), nn.Linear(4, 3)
        self.blocks = nn.Sequential(*[block(wrap, norm) for _ in range(3)])

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(F.layer_norm(self.stem(x), (8,))).mean((2, 3)))


def by_hand(net: Net, x: Tensor, kept: tuple[int, ...]) -> Tensor:
    x = F.layer_norm(net.stem(x), (8,))
    for number in kept:
        x = net.blocks[number](x)
    return net.head(x.mean((2, 3)))


def made(*arguments, **keywords) -> nn.Module:
    torch.manual_seed(0)
    return Net(*arguments, **keywords).double()


def images() -> Tensor:
    return torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.mark.parametrize("norm", ["", "in front", "behind"])
@pytest.mark.parametrize("name", WRAPS)
def test_blocks_with_computed_weights_are_found_like_plain_ones(name, norm):
    net, x = made(WRAPS[name], norm), images()
    net(x).sum().backward()  # hooks leave weights with a graph behind
    state, kept = copy.deepcopy(net.state_dict()), [vars(module).get("weight") for module in net.modules()]
    network = stimulative.unravel(net, x)
    assert [(stage.name, stage.blocks, stage.fixed_entry) for stage in network.stages] == [("blocks", 3, False)]
    assert all(torch.equal(value, state[key]) for key, value in net.state_dict().items())
    assert all(vars(module).get("weight") is own for module, own in zip(net.modules(), kept, strict=True))
    assert {(part.name, part.kind) for part in network.left_out} == {
        ("stem", "Standardised" if name == "standardised" else "Conv2d"), ("head", "Linear"),
    }  # fmt: skip


@pytest.mark.parametrize("name", WRAPS)
def test_they_are_run_trained_and_taken_apart(name):
    net, x = made(WRAPS[name]), images()
    network = stimulative.unravel(net, x)
    with torch.no_grad(), evaluating(network):
        for kept in ((0, 1), (2,), ()):
            assert torch.allclose(network(x, stimulative.Subnet((kept,))), by_hand(net, x, kept), rtol=0, atol=1e-12)
    network.train()
    optimizer = torch.optim.SGD(network.parameters(), 0.01)
    before = copy.deepcopy(net.state_dict())
    for _ in range(2):
        sum(output.square().mean() for output in network.run(x, ["3", "1"])).backward()
        optimizer.step()
        optimizer.zero_grad()
    for key, parameter in net.blocks.named_parameters(prefix="blocks"):
        assert parameter.isfinite().all() and not torch.equal(parameter, before[key]), key
    network.eval()
    taken = stimulative.extract(network, "2")
    assert torch.allclose(taken(x), by_hand(net, x, (0, 1)), rtol=0, atol=1e-12)
    assert taken.state_dict().keys() < net.state_dict().keys()
    before = copy.deepcopy(net.state_dict())
    taken.train()(x).sum().backward()
    torch.optim.SGD(taken.parameters(), 0.1).step()
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items()), "it is a copy"


@pytest.mark.parametrize("name", [name for name in WRAPS if "weight norm" in name])
def test_a_branch_is_scaled_by_the_lengths_of_its_last_weights(name):
    net, x = made(WRAPS[name]), images()
    network = stimulative.unravel(net, x)
    start = F.layer_norm(net.stem(x), (8,))
    whole = net.blocks[0](start) - start
    for parameter in branch_ends(network)["blocks.0"]:
        net.get_parameter(parameter).data *= 0.5
    assert torch.allclose(net.blocks[0](start) - start, whole / 2)


def test_a_branch_that_no_parameter_scales_is_refused():
    with pytest.raises(UsageError, match=r"branch of block 'blocks\.0' \(Block\) cannot be scaled"):
        branch_ends(stimulative.unravel(made(hooks.spectral_norm), images()))


class Plain(nn.Module):
    """Layers without a shortcut."""

    def __init__(self, wrap: Wrap, norm: str) -> None:
        super().__init__()
        self.conv, self.norm = wrap(nn.Conv2d(4, 4, 3, padding=1)), nn.GroupNorm(1, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x)).relu()


@pytest.mark.parametrize("name", WRAPS)
def test_computed_weights_make_no_blocks(name):
    with pytest.raises(UsageError, match="no residual blocks found in Net"):
        stimulative.unravel(made(WRAPS[name], block=Plain), images())


class Held(nn.Module):
    """A block that holds its weight itself; PyTorch makes a class for each module with parametrisations."""

    def __init__(self, wrap: Wrap, norm: str) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 4))
        parametrizations.spectral_norm(self)

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.einsum("ij,bjhw->bihw", self.weight, x)


def test_blocks_of_one_class_before_they_had_parametrisations():
    net, x = made(WRAPS["plain"], block=Held), images()
    network = stimulative.unravel(net, x)
    assert [(stage.name, stage.blocks) for stage in network.stages] == [("blocks", 3)]
    net.eval()
    assert torch.allclose(stimulative.extract(network, "1")(x), by_hand(net, x, (0,)), rtol=0, atol=1e-12)


class Cosine(nn.Module):
    """Attention by cosines: queries and keys over their lengths, which are 0/0 where the parameters are zero."""

    def __init__(self, wrap: Wrap, norm: str) -> None:
        super().__init__()
        self.qk, self.v = nn.Conv2d(4, 8, 1, bias=False), nn.Conv2d(4, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        q, k = (part.flatten(2) / part.flatten(2).norm(dim=1, keepdim=True) for part in self.qk(x).chunk(2, 1))
        weights = (q.transpose(1, 2) @ k).softmax(-1)
        return x + (self.v(x).flatten(2) @ weights.transpose(1, 2)).view_as(x)


def test_nothing_over_nothing_inside_of_a_block():
    network = stimulative.unravel(made(WRAPS["plain"], block=Cosine), images())
    assert [(stage.name, stage.blocks) for stage in network.stages] == [("blocks", 3)]
