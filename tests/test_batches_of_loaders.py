"""Which part of a loader's batch is the model's input: what the example input says, for whoever takes batches."""

from collections import OrderedDict, UserDict, namedtuple
from typing import Any

import pytest
import torch
from nets import SequentialNet, images, randomised
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from stimulative import extract, load, unravel
from stimulative.deploy import save_family
from stimulative.errors import UsageError
from stimulative.residual import ResidualNetwork
from stimulative.training import fit_temperatures, measure

Pair = namedtuple("Pair", ["image", "target"])


class TimedBlock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.bn = nn.BatchNorm2d(6)
        self.conv = nn.Conv2d(6, 6, 1)
        self.time = nn.Linear(1, 6)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return x + self.conv(self.bn(x + 5 * self.time(t[:, None].to(x.dtype))[:, :, None, None]))


class TimedNet(nn.Module):
    """Two inputs; the second one can be left out, and what is computed is another thing then."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([TimedBlock() for _ in range(3)])
        self.head = nn.Linear(6, 4)

    def forward(self, x: Tensor, t: Tensor | None = None, scale: float = 1.0) -> Tensor:
        t = torch.zeros(len(x)) if t is None else t * scale
        for block in self.blocks:
            x = block(x, t)
        return self.head(x.mean((2, 3)))


class NeedsTime(TimedNet):
    def forward(self, x: Tensor, t: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        return super().forward(x, t)


class Listing(nn.Module):
    """One input, a list of tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.net = TimedNet()

    def forward(self, maps: list[Tensor]) -> Tensor:
        return self.net(maps[0] + maps[1])


def maps(count: int, seed: int = 0) -> Tensor:
    return torch.randn(count, 6, 5, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


X, T = maps(8), torch.arange(8) + 1
Y, SOFT, INDEX = torch.zeros(8, dtype=torch.long), torch.rand(8, 4).softmax(1), torch.arange(8)


def network_of(model: nn.Module, example: Any, **more: Any) -> ResidualNetwork:
    torch.manual_seed(0)
    return unravel(randomised(model).double(), example, **more).eval()


def by_hand(network: ResidualNetwork, *args: Any, **kwargs: Any) -> Tensor:
    """What the last block's norm is given in a pass of the whole net whose norms take the statistics of their batch."""
    seen = []
    bn: Any = next(m for name, m in reversed([*network.model.named_modules()]) if isinstance(m, nn.BatchNorm2d))
    handle = bn.register_forward_pre_hook(lambda m, given: seen.append(given[0].mean((0, 2, 3))))
    state = {name: value.clone() for name, value in network.model.state_dict().items()}
    with torch.no_grad():
        network.model.train()(*args, **kwargs)
    network.model.eval().load_state_dict(state)
    handle.remove()
    return seen[0]


def last_mean(network: ResidualNetwork, batch: Any) -> Tensor:
    statistics = network.recalibrate([batch], [network.full])
    assert statistics.images == 8
    return [*statistics.of(network.wiring, network.full.stages).values()][-1][0]


ONE = {
    "alone": X,
    "in a list": [X],
    "with classes": (X, Y),
    "with soft targets": (X, SOFT),
    "with targets of one column": (X, Y[:, None]),
    "with targets like images": (X, X + 1),
    "with targets and numbers": [X, Y, INDEX],
    "with targets of boxes": (X, [{"boxes": SOFT}] * 8),
    "a pair with names": Pair(X, Y),
    "by its name": {"x": X},
    "by its name, with labels and more": OrderedDict(labels=Y, x=X, name=["a"] * 8),
    "by its name, in a mapping that is no dict": UserDict(x=X, labels=Y),
    "by its name, and targets": ({"x": X}, Y),
    "in a tuple, and targets": ((X,), Y),
}


@pytest.mark.parametrize("batch", ONE.values(), ids=ONE)
@pytest.mark.parametrize(
    "example", [maps(2), (maps(2),), {"x": maps(2)}, (maps(2), None)], ids=["tensor", "tuple", "mapping", "with None"]
)
def test_the_input_of_a_net_of_one(example, batch):
    network = network_of(TimedNet(), example)
    assert torch.allclose(last_mean(network, batch), by_hand(network, X))


TWO = {
    "alone": (X, T),
    "in a list": [X, T],
    "with classes": (X, T, Y),
    "with soft targets and numbers": [X, T, SOFT, INDEX],
    "in a tuple, and targets": ((X, T), Y),
    "in a list, and targets": [[X, T], SOFT],
    "by names": {"x": X, "t": T},
    "by names, with labels": {"t": T, "labels": Y, "x": X},
    "by names, and targets": ({"x": X, "t": T}, Y),
}


@pytest.mark.parametrize("batch", TWO.values(), ids=TWO)
@pytest.mark.parametrize("stages", [None, ["blocks"]])
@pytest.mark.parametrize("make", [TimedNet, NeedsTime])
def test_the_inputs_of_a_net_of_two(make, stages, batch):
    network = network_of(make(), (maps(2), T[:2]), stages=stages)
    assert torch.allclose(last_mean(network, batch), by_hand(network, X, T))
    assert not torch.allclose(by_hand(network, X, T), by_hand(network, X, 0 * T))


@pytest.mark.parametrize("batch", [X, [X], {"x": X}, {"x": X, "labels": Y}])
def test_an_input_that_the_model_can_do_without_may_be_missing_where_nothing_stands_in_its_place(batch):
    network = network_of(TimedNet(), (maps(2), T[:2]))
    assert torch.allclose(last_mean(network, batch), by_hand(network, X))
    with pytest.raises(UsageError, match="a batch is what the model is called with"):
        network_of(NeedsTime(), (maps(2), T[:2])).recalibrate([batch])


def test_arguments_that_are_no_tensors():
    network = network_of(TimedNet(), (maps(2), T[:2], 2.0))
    for batch in ((X, T, 3.0), ((X, T, 3.0), Y), {"x": X, "t": T, "scale": 3.0, "labels": Y}):
        assert torch.allclose(last_mean(network, batch), by_hand(network, X, T, 3.0))
    for batch in ((X, T), (X, T, Y)):
        assert torch.allclose(last_mean(network, batch), by_hand(network, X, T))


def test_one_argument_that_is_a_list():
    network = network_of(Listing(), ([maps(2), maps(2)],))
    for batch in ([X, X], ([X, X],), ([X, X], Y), [[X, X], Y]):
        assert torch.allclose(last_mean(network, batch), by_hand(network, [X, X]))


def test_a_mapping_has_what_the_model_takes_by_name_and_targets_are_none_of_it():
    class Named(TimedNet):
        def forward(self, x: Tensor, t: Tensor | None = None, *, labels: Any = None, **rest: Any) -> Any:  # pyright: ignore
            assert labels is None and not rest
            return super().forward(x, t)

    network = network_of(Named(), {"x": maps(2)})
    batch = {"x": X, "t": T, "labels": Y, "file": ["a"] * 8}
    assert torch.allclose(last_mean(network, batch), by_hand(network, X, T)), "the model takes t, too"
    assert network.split(batch)[1][0] is batch["labels"]


WRONG = {
    "numbers first": (INDEX, X, Y),
    "of another kind": X.long(),
    "one image": X[0],
    "another name": {"image": X, "label": Y},
    "nothing": (),
    "names of files": ["a.png", "b.png"],
    "no batch": None,
}


@pytest.mark.parametrize("batch", WRONG.values(), ids=WRONG)
def test_anything_else_is_refused(batch):
    network = network_of(TimedNet(), maps(2))
    wanted = r"The example: tensor of floating point numbers of 4 dimensions; the batch: .+\. Give batches like"
    with pytest.raises(UsageError, match=wanted):
        network.recalibrate([batch])


def test_soft_targets_are_no_second_input():
    with pytest.raises(UsageError, match=r"of 4 dimensions, tensor of whole .* of shape \(8, 4\)\)\. Give"):
        network_of(TimedNet(), (maps(2), T[:2])).recalibrate([(X, SOFT)])


@pytest.mark.parametrize("batches", [X, {"x": X}, None, 3, "abc"], ids=str)
def test_a_batch_is_no_list_of_batches(batches):
    network = network_of(TimedNet(), maps(2))
    with pytest.raises(UsageError, match=r"batches are a loader, or a list of batches; got .*\[batch\]"):
        network.recalibrate(batches)


def test_extraction_families_and_measuring_take_the_same_batches(tmp_path):
    network = network_of(TimedNet(), (maps(2), T[:2]))
    loader = DataLoader(TensorDataset(X, T, Y), batch_size=8)  # gives lists of three
    expected = network.recalibrate([(X, T)])
    file = tmp_path / "family.safetensors"
    save_family(network, file, ["3", "1"], calibration=loader)
    loaded = load(file, model=TimedNet().double(), example_input=(maps(2), T[:2]))
    with torch.no_grad():
        wanted = network((X, T), "1", statistics=expected)
        assert torch.allclose(extract(network, "1", calibration=loader)(X, T), wanted)
        assert torch.allclose(loaded.net("1")(X, T), wanted)
    pairs = [((X, T), Y)]
    assert measure(network, loader) == measure(network, pairs) == measure(network, [{"x": X, "t": T, "labels": Y}])
    assert fit_temperatures(network, loader) == fit_temperatures(network, pairs)
    for batches in ([(X, T)], [{"x": X, "t": T}]):
        with pytest.raises(UsageError, match=r"followed by targets; there is nothing behind the input"):
            measure(network, batches)


def test_a_batch_is_cut_where_it_holds_samples():
    class Positions(TimedNet):
        def forward(self, table: Tensor, x: Tensor, t: Tensor, step: Tensor) -> Tensor:  # pyright: ignore
            assert table.shape == (3, 6) and step.dim() == 0
            return super().forward(x + table.mean(0)[:, None, None] * step, t)

    table, step = torch.randn(3, 6).double(), torch.tensor(2.0).double()
    network = network_of(Positions(), (table, maps(2), T[:2], step))
    statistics = network.recalibrate([(table, X, T, step)] * 2, [network.full], images=5)
    assert statistics.images == 5
    found = [*statistics.of(network.wiring, network.full.stages).values()][-1][0]
    assert torch.allclose(found, by_hand(network, table, X[:5], T[:5], step))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_batches_come_in_the_models_number_format(dtype):
    network = unravel(randomised(SequentialNet()).to(dtype), images(2).to(dtype))
    batch = images(5)
    assert batch.dtype == torch.float64
    (found, *_), (wanted, *_) = (
        network.recalibrate([(given, Y[:5])], ["1-1"]).of(network.wiring, network.resolve("1-1").stages).values()
        for given in (batch, batch.to(dtype))
    )
    assert found[0].dtype == dtype and found[0].equal(wanted[0])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs another device")
def test_batches_come_to_the_models_device():
    network = unravel(randomised(SequentialNet()).cuda(), images(2).cuda())
    assert network.recalibrate([(images(5), Y[:5])], ["1-1"]).images == 5
    assert measure(network, [(images(5), Y[:5])])
