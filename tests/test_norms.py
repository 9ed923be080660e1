"""Statistics of norms of every kind: what a layer makes of its batch is what it writes, whatever it is like."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from nets import images
from timm.layers import EvoNorm2dB0, FilterResponseNormAct2d, FrozenBatchNormAct2d
from torch import Tensor, nn
from torchvision.ops import FrozenBatchNorm2d

from stimulative import extract, load, unravel
from stimulative.deploy import save_family
from stimulative.errors import UsageError
from stimulative.methods import StimulativeTraining
from stimulative.residual import ResidualNetwork, layers_with_statistics

MAPS = 0, 2, 3  # the dimensions behind a channel's statistics


def shaped(value: Tensor) -> Tensor:
    return value.view(1, -1, 1, 1)


class OldShare(nn.Module):
    """The momentum is the share of the old value, as in TensorFlow, and so are the names."""

    def __init__(self, channels: int, momentum: float = 0.9) -> None:
        super().__init__()
        self.momentum = momentum
        self.gain = nn.Parameter(torch.ones(channels, 1, 1))
        self.register_buffer("moving_mean", torch.zeros(channels))
        self.register_buffer("moving_variance", torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        mean, var = self.moving_mean, self.moving_variance
        if self.training:
            mean, var = x.mean(MAPS), x.var(MAPS)
            for old, new in ((self.moving_mean, mean), (self.moving_variance, var)):
                old.mul_(self.momentum).add_((1 - self.momentum) * new.detach())
        return (x - shaped(mean)) / (shaped(var) + 1e-5).sqrt() * self.gain


class NoMomentum(OldShare):
    """Puts other tensors in place of its own, and has its share in its code."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        del self.momentum

    def forward(self, x: Tensor) -> Tensor:
        mean, var = self.moving_mean, self.moving_variance
        if self.training:
            mean, var = x.mean(MAPS), x.var(MAPS)
            self.moving_mean = torch.lerp(self.moving_mean, mean.detach(), 0.01)
            self.moving_variance = torch.lerp(self.moving_variance, var.detach(), 0.01)
        return (x - shaped(mean)) / (shaped(var) + 1e-5).sqrt() * self.gain


class Flipped(nn.BatchNorm2d):
    """Derived from PyTorch's, with TensorFlow's momentum, and without regard to ``track_running_stats``."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, momentum=0.99)

    def forward(self, input: Tensor) -> Tensor:
        return nn.functional.batch_norm(
            input,
            self.running_mean,
            self.running_var,
            self.weight,
            self.bias,
            self.training,
            1 - (self.momentum or 0.0),
            self.eps,
        )


class Switch(nn.Module):
    """Switchable normalisation (Luo et al., ICLR 2019), as in its authors' code."""

    def __init__(self, channels: int, *, average: bool = True) -> None:
        super().__init__()
        self.momentum, self.average = 0.9, average
        self.mean_weight, self.var_weight = nn.Parameter(torch.randn(3)), nn.Parameter(torch.randn(3))
        self.register_buffer("running_mean", torch.zeros(1, channels, 1))
        self.register_buffer("running_var", torch.zeros(1, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        flat = x.flatten(2)
        mean_in, var_in = flat.mean(-1, keepdim=True), flat.var(-1, keepdim=True)
        squares = var_in + mean_in**2
        mean_ln = mean_in.mean(1, keepdim=True)
        var_ln = squares.mean(1, keepdim=True) - mean_ln**2
        if self.training:
            mean_bn = mean_in.mean(0, keepdim=True)
            var_bn = squares.mean(0, keepdim=True) - mean_bn**2
            for old, new in ((self.running_mean, mean_bn), (self.running_var, var_bn)):
                old.mul_(self.momentum if self.average else 1.0)
                old.add_((1 - self.momentum if self.average else 1.0) * new.data)
        else:
            mean_bn, var_bn = self.running_mean, self.running_var
        a, b = self.mean_weight.softmax(0), self.var_weight.softmax(0)
        mean = a[0] * mean_in + a[1] * mean_ln + a[2] * mean_bn
        var = b[0] * var_in + b[1] * var_ln + b[2] * var_bn
        return ((flat - mean) / (var + 1e-5).sqrt()).view_as(x)


class Renormalised(nn.Module):
    """Batch renormalisation (Ioffe, 2017): its training mode reads its statistics; a running standard deviation."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_std", torch.ones(channels))
        self.register_buffer("num_batches_tracked", torch.tensor(70_000))

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return (x - shaped(self.running_mean)) / shaped(self.running_std)
        mean, std = x.mean(MAPS), x.std(MAPS, correction=0) + 1e-3
        furthest = 1 + (self.num_batches_tracked / 10_000).clamp(max=2)
        r = (std.detach() / self.running_std).clamp(1 / furthest, furthest)
        d = ((mean.detach() - self.running_mean) / self.running_std).clamp(-furthest, furthest)
        self.running_mean += 0.05 * (mean.detach() - self.running_mean)
        self.running_std += 0.05 * (std.detach() - self.running_std)
        self.num_batches_tracked += 1
        return (x - shaped(mean)) / shaped(std) * shaped(r) + shaped(d)


class MeanSquare(nn.Module):
    """Keeps one number alone, the mean square, and of groups of channels, in a parameter that is not trained."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.ema = nn.Parameter(torch.ones(2), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        size = self.ema
        if self.training:
            size = x.unflatten(1, (2, -1)).square().mean((0, 2, 3, 4))
            self.ema.data.mul_(0.8).add_(0.2 * size.detach())
        return x / shaped(size.sqrt().repeat_interleave(x.shape[1] // 2) + 1e-3)


class RootMeanSquare(nn.Module):
    """Averages squares and keeps their root: no average of the old value and the new one."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("running_rms", torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        size = self.running_rms
        if self.training:
            size = x.square().mean().sqrt()
            self.running_rms.copy_((0.9 * self.running_rms**2 + 0.1 * size.detach() ** 2).sqrt())
        return x / size


class ChannelsLast(nn.Module):
    """A norm of the last dimension, PyTorch's functional one."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        flat = x.movedim(1, -1).flatten(0, -2)
        y = nn.functional.batch_norm(flat, self.running_mean, self.running_var, None, None, self.training, 0.1, 1e-5)
        return y.view(len(x), *x.shape[2:], -1).movedim(-1, 1)


class Counting(OldShare):
    """The mean over all batches so far, of which there have been very many."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.register_buffer("seen", torch.tensor(10**9))

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.seen += 1
            self.momentum = 1 - 1 / int(self.seen)
        return super().forward(x)


class Ghost(nn.Module):
    """Statistics of parts of a batch, as TabNet's."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.bn = nn.BatchNorm2d(channels, momentum=0.02)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.bn(part) for part in x.split(2)])


class Page(nn.BatchNorm2d):
    """Statistics of parts of a batch, put together when training ends, as in the ResNets of David Page."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.register_buffer("running_mean", torch.zeros(2 * channels))
        self.register_buffer("running_var", torch.ones(2 * channels))

    def train(self, mode: bool = True) -> "Page":
        if self.training and not mode:
            for key in ("running_mean", "running_var"):
                setattr(self, key, getattr(self, key).view(2, -1).mean(0).repeat(2))
        return super().train(mode)

    def forward(self, input: Tensor) -> Tensor:
        mean, var, count = self.running_mean, self.running_var, self.num_features
        if not self.training:
            return nn.functional.batch_norm(
                input, mean[:count], var[:count], self.weight, self.bias, False, 0, self.eps
            )
        parts = input.reshape(-1, 2 * count, *input.shape[2:])
        gain, bias = self.weight.repeat(2), self.bias.repeat(2)
        return nn.functional.batch_norm(parts, mean, var, gain, bias, True, 0.1, self.eps).view_as(input)


class Listed(OldShare):
    """Takes a list of tensors, or a mapping, by name."""

    def forward(self, *, parts: Any) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        return {"out": [super(Listed, self).forward(part) for part in parts["in"]]}


def mean_and_var(x: Tensor, correction: int = 1) -> tuple[Tensor, ...]:
    return x.mean(MAPS), x.var(MAPS, correction=correction)


def of_parts(x: Tensor) -> tuple[Tensor, ...]:
    parts = [(len(part), mean_and_var(part, correction=0)) for part in x.split(2)]
    return tuple(sum(size * of[at] for size, of in parts) / len(x) for at in (0, 1))  # pyright: ignore


def of_page(x: Tensor) -> tuple[Tensor, ...]:
    return tuple(of.view(2, -1).mean(0).repeat(2) for of in mean_and_var(x.reshape(-1, 2 * x.shape[1], *x.shape[2:])))


def of_switch(x: Tensor) -> tuple[Tensor, ...]:
    mean = x.mean((2, 3)).mean(0)
    var = (x.var((2, 3)) + x.mean((2, 3)) ** 2).mean(0) - mean**2
    return mean.view(1, -1, 1), var.view(1, -1, 1)


def of_evonorm(x: Tensor) -> tuple[Tensor, ...]:
    return (x.var(MAPS),)


KINDS: dict[str, tuple[Callable[[int], nn.Module], Callable[[Tensor], tuple[Tensor, ...]]]] = {
    "the momentum of the old value": (OldShare, mean_and_var),
    "a share that is written in the code": (NoMomentum, mean_and_var),
    "derived from PyTorch's, with another momentum": (Flipped, mean_and_var),
    "switchable": (Switch, of_switch),
    "renormalisation": (Renormalised, lambda x: (x.mean(MAPS), x.std(MAPS, correction=0) + 1e-3)),
    "mean squares of groups in a parameter": (
        MeanSquare,
        lambda x: (x.unflatten(1, (2, -1)).square().mean((0, 2, 3, 4)),),
    ),
    "a root of averaged squares": (RootMeanSquare, lambda x: (x.square().mean().sqrt(),)),
    "channels last": (ChannelsLast, mean_and_var),
    "a mean over all batches": (Counting, mean_and_var),
    "parts of a batch": (Ghost, of_parts),
    "parts of a batch, put together": (Page, of_page),
    "a list by name": (Listed, mean_and_var),
    "EvoNorm": (EvoNorm2dB0, of_evonorm),
    "SyncBatchNorm": (nn.SyncBatchNorm, lambda x: mean_and_var(x, correction=0)),
    "a cumulative average of PyTorch's": (
        lambda channels: nn.BatchNorm2d(channels, momentum=None),
        lambda x: mean_and_var(x, correction=0),
    ),
}


class NormBlock(nn.Module):
    def __init__(self, channels: int, make: Callable[[int], nn.Module]) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.norm = make(channels)
        self.end = nn.Conv2d(channels, channels, 1)

    def normalised(self, x: Tensor) -> Tensor:
        if isinstance(self.norm, Listed):
            return self.norm(parts={"in": [x]})["out"][0]
        if isinstance(self.norm, nn.BatchNorm2d):
            return self.norm(input=x)
        return self.norm(x)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.end(self.normalised(self.conv(x)).relu())


def net_of(make: Callable[[int], nn.Module], blocks: int = 3) -> nn.Sequential:
    torch.manual_seed(0)
    stage = nn.Sequential(*[NormBlock(6, make) for _ in range(blocks)])
    return nn.Sequential(nn.Conv2d(3, 6, 1), stage, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 4)).double()


def statistics_of(norm: nn.Module) -> list[Tensor]:
    return [
        value
        for value in (*norm.parameters(), *norm.buffers())
        if value.is_floating_point() and not value.requires_grad
    ]


BATCHES = [images(6, seed=1) + 3, images(4, seed=2) + 3]


def by_hand(
    network: ResidualNetwork, kept: list[int], own: Callable[[Tensor], tuple[Tensor, ...]]
) -> tuple[nn.Module, list[tuple[Tensor, ...]]]:
    """A net with only the kept blocks, its statistics worked out from what its norms are given; and these."""
    plain = copy.deepcopy(network.model).train()
    plain[1] = nn.Sequential(*[plain[1][at] for at in kept])
    found: list[list[tuple[int, tuple[Tensor, ...]]]] = [[] for _ in kept]
    with torch.no_grad():
        for batch in BATCHES:
            h = plain[0](batch)
            for block, seen in zip(plain[1], found, strict=True):
                values = own(block.conv(h))
                seen.append((len(batch), values))
                for tensor, value in zip(statistics_of(block.norm), values, strict=True):
                    tensor.data.copy_(value)  # what its training mode reads is its batch's own
                h = block(h)
    images = sum(map(len, BATCHES))
    means: list[tuple[Tensor, ...]] = [
        tuple(sum(size * values[at] for size, values in seen) / images for at in range(len(seen[0][1])))  # pyright: ignore
        for seen in found
    ]
    for block, values in zip(plain[1], means, strict=True):
        for tensor, value in zip(statistics_of(block.norm), values, strict=True):
            tensor.data.copy_(value)
    return plain.eval(), means


def assert_close(actual: Tensor, expected: Tensor, what: str) -> None:
    assert actual.shape == expected.shape, what
    assert torch.allclose(actual, expected, rtol=1e-6, atol=1e-8), f"{what}: {(actual - expected).abs().max():.3g}"


@pytest.mark.parametrize("kind", KINDS)
def test_statistics_are_what_the_layer_makes_of_its_batch(kind, tmp_path):
    make, own = KINDS[kind]
    network = unravel(net_of(make), images(2)).eval()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    subnets = {"3": [0, 1, 2], "2": [0, 1], "[2]": [2]}
    statistics = network.recalibrate(BATCHES, list(subnets))
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    family = tmp_path / "family.safetensors"
    save_family(network, family, list(subnets), calibration=statistics)
    loaded = load(family, model=net_of(make), example_input=images(2))
    x = images(3, seed=9) + 3
    for text, kept in subnets.items():
        plain, means = by_hand(network, kept, own)
        taken: Any = extract(network, text, calibration=BATCHES)
        for block, values in zip(taken[1], means, strict=True):
            for tensor, value in zip(statistics_of(block.norm), values, strict=True):
                assert_close(tensor, value, f"statistics of {text}")
        with torch.no_grad():
            expected = plain(x)
            assert not torch.allclose(network(x, text), expected), "the main net's own give another output"
            assert_close(network(x, text, statistics=statistics), expected, f"{text} in place")
            assert_close(taken(x), expected, f"{text} taken out")
            assert_close(loaded.net(text)(x), expected, f"{text} of a family")
            network.load_statistics(statistics, text)
            assert_close(network(x, text), expected, f"{text} with loaded statistics")
            network.load_state_dict(before)


@pytest.mark.parametrize("kind", KINDS)
def test_a_subnet_in_training_leaves_the_statistics_to_the_main_net(kind):
    make, _ = KINDS[kind]
    network = unravel(net_of(make), images(2)).train()
    alone = copy.deepcopy(network.model)
    x, y = images(6), torch.tensor([0, 1, 2, 3, 0, 1])
    nn.functional.cross_entropy(alone(x), y).backward()
    method = StimulativeTraining(network, sampler="unordered", subnets_per_step=2)
    method(x, y).loss.backward()
    kept = dict(network.model.named_buffers()) | dict(network.model.named_parameters())
    changed = 0
    for name, value in (*alone.named_buffers(), *alone.named_parameters()):
        assert torch.equal(kept[name], value), name
        changed += name.startswith("1.") and not value.requires_grad
    assert changed
    assert all(parameter.grad is not None for parameter in network.model.parameters() if parameter.requires_grad)


def test_what_else_a_norm_writes_is_left_alone():
    class Also(OldShare):
        """Counts in whole numbers and in others, which nobody reads."""

        def __init__(self, channels: int) -> None:
            super().__init__(channels)
            self.register_buffer("seen", torch.tensor(5))
            self.register_buffer("steps", torch.tensor(5.0))

        def forward(self, x: Tensor) -> Tensor:
            if self.training:
                self.seen += 1
                self.steps = self.steps + 1
            return super().forward(x)

    network = unravel(net_of(Also), images(2)).train()
    statistics = network.recalibrate(BATCHES, ["2"])
    with network.frozen_statistics():
        network(images(4))
    before = {name: value.clone() for name, value in net_of(Also).state_dict().items()}
    assert all(torch.equal(value, before[name]) for name, value in network.model.state_dict().items())
    assert all(len(values) == 2 for values in statistics.of(network.wiring, network.resolve("2").stages).values())


class Noted(nn.Module):
    """Not a norm: takes notes, a power iteration, and has a table."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("mean_seen", torch.zeros(()))
        self.register_buffer("vector", torch.ones(channels))
        self.register_buffer("table", torch.ones(channels))
        self.weight = nn.Parameter(torch.randn(channels, channels))

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.mean_seen.copy_(x.detach().mean())
            self.vector.copy_(nn.functional.normalize(self.weight.detach() @ self.vector, dim=0))
        return x * shaped(self.table) * (self.weight @ self.vector).norm()


@pytest.mark.parametrize(
    "make",
    [
        FrozenBatchNorm2d,
        lambda channels: FrozenBatchNormAct2d(channels, apply_act=False),
        FilterResponseNormAct2d,
        nn.InstanceNorm2d,
        lambda channels: nn.BatchNorm2d(channels, track_running_stats=False),
        Noted,
    ],
)
def test_what_keeps_nothing_needs_no_calibration(make):
    network = unravel(net_of(make), images(2)).eval()
    assert not layers_with_statistics(network.model, network.wiring)
    taken = extract(network, "1")
    assert_close(taken(images(3)), network(images(3), "1"), "without calibration")
    assert network.recalibrate(BATCHES).images == 0


def test_a_norm_that_writes_nothing_is_refused_by_name():
    class Elsewhere(OldShare):
        """Its averages are updated by somebody else."""

        def forward(self, x: Tensor) -> Tensor:
            kept = self.moving_mean.clone(), self.moving_variance.clone()
            y = super().forward(x)
            self.moving_mean.copy_(kept[0])
            self.moving_variance.copy_(kept[1])
            return y

    network = unravel(net_of(Elsewhere), images(2))
    with pytest.raises(
        UsageError, match=r"'1\.0\.norm' \(Elsewhere: moving_mean, moving_variance\) cannot be estimat.*nothing"
    ):
        extract(network, "2", calibration=BATCHES)
    with pytest.raises(UsageError, match="needs its own"):
        extract(network, "2")
    assert extract(network, "2", calibration="keep")


def test_a_norm_that_stopped_writing_is_refused_by_name():
    network = unravel(net_of(OldShare), images(2))
    network.model[1][1].norm.momentum = 1.0
    with pytest.raises(UsageError, match=r"'1\.1\.norm' \(OldShare: .*wrote nothing into them\. Let its forward write"):
        network.recalibrate(BATCHES, ["2"])


def test_a_norm_that_adds_up_is_refused():
    network = unravel(net_of(lambda channels: Switch(channels, average=False)), images(2))
    with pytest.raises(UsageError, match=r"adds to running_mean without letting go .*using_moving_average=True"):
        network.recalibrate(BATCHES, ["2"])


def test_a_norm_that_does_not_settle_is_refused():
    class Growing(OldShare):
        def forward(self, x: Tensor) -> Tensor:
            if self.training:
                self.moving_mean.copy_(self.moving_mean**2 + 1 + x.detach().mean())
            return x - shaped(self.moving_mean)

    network = unravel(net_of(Growing), images(2))
    with pytest.raises(UsageError, match="no average of the old value and that of the batch"):
        network.recalibrate(BATCHES, ["2"])


def test_rows_of_other_domains_stay_what_they_are():
    class Domains(nn.Module):
        """A row of statistics for each domain; the second one is in use."""

        def __init__(self, channels: int) -> None:
            super().__init__()
            self.register_buffer("running_mean", torch.randn(3, channels))

        def forward(self, x: Tensor) -> Tensor:
            mean = self.running_mean[1]
            if self.training:
                mean = x.mean(MAPS)
                self.running_mean[1] += 0.1 * (mean.detach() - self.running_mean[1])
            return x - shaped(mean)

    network = unravel(net_of(Domains), images(2)).eval()
    own: Any = network.model[1][0]
    taken: Any = extract(network, "1", calibration=BATCHES)
    with torch.no_grad():
        seen = torch.cat([own.conv(network.model[0](batch)) for batch in BATCHES])
    found = taken[1][0].norm.running_mean
    assert_close(found[1], seen.mean(MAPS), "the row in use")
    assert torch.equal(found[::2], own.norm.running_mean[::2])


@pytest.mark.parametrize(("dtype", "error"), [(torch.float32, 2e-5), (torch.bfloat16, 0.05)])
def test_in_single_and_half_precision(dtype, error):
    network = unravel(net_of(OldShare).to(dtype), images(2).to(dtype)).eval()
    taken: Any = extract(network, "1", calibration=BATCHES[:1])  # which is double
    with torch.no_grad():
        seen = network.model[1][0].conv(network.model[0](BATCHES[0].to(dtype))).double()
    for tensor, value in zip(statistics_of(taken[1][0].norm), (seen.mean(MAPS), seen.var(MAPS)), strict=True):
        assert tensor.dtype == dtype
        assert ((tensor - value).abs() <= error * value.abs().max()).all()


def test_a_norm_that_is_called_twice_in_a_block_has_the_mean_of_both():
    class Twice(NormBlock):
        def forward(self, x: Tensor) -> Tensor:
            first, second = x[:1], x[1:]  # of different sizes
            return x + self.end(torch.cat([self.norm(self.conv(first)), self.norm(self.conv(second))]).relu())

    torch.manual_seed(0)
    stage = nn.Sequential(*[Twice(6, nn.BatchNorm2d) for _ in range(2)])
    network = unravel(nn.Sequential(nn.Conv2d(3, 6, 1), stage).double(), images(2))
    (batch, _), block = BATCHES, stage[0]
    statistics = network.recalibrate([batch], ["1"]).of(network.wiring, network.resolve("1").stages)
    with torch.no_grad():
        parts = [block.conv(network.model[0](part)) for part in (batch[:1], batch[1:])]
    for found, part in zip(statistics["1.0.norm"], (0, 1), strict=True):
        wanted = sum(len(of) * mean_and_var(of, correction=0)[part] for of in parts) / len(batch)
        assert_close(found, wanted, "the mean of both calls")


def test_a_ruined_batch_does_not_reach_other_subnets():
    """One subnet's activations may run over; what is shared before and other subnets are sound."""
    network = unravel(net_of(nn.BatchNorm2d).float(), images(2).float())
    with torch.no_grad():
        network.model[1][2].end.bias.fill_(float("inf"))
    statistics = network.recalibrate([images(4).float()], ["[2.0]", "[0.1]"])
    sound = statistics.of(network.wiring, network.resolve("[0.1]").stages)
    assert sound
    assert all(value.isfinite().all() for values in sound.values() for value in values)
    ruined = statistics.of(network.wiring, network.resolve("[2.0]").stages)
    assert not all(value.isfinite().all() for values in ruined.values() for value in values)
