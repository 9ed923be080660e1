"""Recalibration against a hand-written loop over nets whose blocks are really gone."""

import copy
import random

import pytest
import timm
import torch
from nets import LoopedNet, NormNet, SequentialNet, images, randomised
from reference import Removed, norms
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from stimulative import unravel
from stimulative.errors import UsageError
from stimulative.residual import ResidualNetwork, Statistics, Subnet

NETWORKS = {
    "Sequential": (SequentialNet, 8, None),
    "norms": (NormNet, 8, None),
    "mobilenetv3": (
        lambda: timm.create_model("mobilenetv3_small_050", num_classes=4),
        64,
        ["1-1-1-1", "2-3-2-3", "1-3-2-2", "2-1-[1]-2"],
    ),
}


def prepared(name: str) -> tuple[ResidualNetwork, list[Tensor], list[Subnet]]:
    make, size, texts = NETWORKS[name]
    torch.manual_seed(0)
    network = unravel(randomised(make()), images(2, size))
    subnets = list(network.space) if texts is None else [Subnet.parse(text) for text in texts]
    # the last batch is smaller, so a plain mean over batches would be another number
    return network, [images(count, size, seed=count) for count in (5, 4, 3)], subnets


def by_hand(network: ResidualNetwork, subnet: Subnet, batches: list[Tensor]) -> tuple[Removed, dict[str, tuple]]:
    """The statistics of one subnet: every layer normalises by its batch, written out without its own bookkeeping."""
    removed = Removed(network.model, [stage.block_names for stage in network.stages], subnet)
    model = removed.model.eval()
    layers = {name: m for name, m in removed.modules.items() if name in norms(network.model)}
    collected: dict[str, list[tuple[int, Tensor, Tensor]]] = {}

    def normalise(layer: nn.Module, args: tuple, output: Tensor, *, name: str) -> Tensor:
        (x,) = args
        shape = (1, -1) + (1,) * (x.dim() - 2)
        if isinstance(layer, nn.modules.instancenorm._InstanceNorm):
            mean, var = x.mean((2, 3)), x.var((2, 3), correction=0)
            collected.setdefault(name, []).append((len(x), mean.mean(0), var.mean(0)))
            mean, var = mean[:, :, None, None], var[:, :, None, None]
        else:
            dims = [d for d in range(x.dim()) if d != 1]
            mean, var = x.mean(dims), x.var(dims, correction=0)
            collected.setdefault(name, []).append((len(x), mean, var))
            mean, var = mean.view(shape), var.view(shape)
        y = (x - mean) / (var + layer.eps).sqrt()
        if layer.affine:
            y = y * layer.weight.view(shape) + layer.bias.view(shape)
        # an activation that the layer brings along, as timm's do
        return layer.act(y) if hasattr(layer, "act") else y

    handles = [
        layer.register_forward_hook(lambda m, a, o, name=name: normalise(m, a, o, name=name))
        for name, layer in layers.items()
    ]
    with torch.no_grad():
        for batch in batches:
            model(batch.clone())
    for handle in handles:
        handle.remove()
    total = sum(len(batch) for batch in batches)
    return removed, {
        name: tuple(sum(entry[0] * entry[part] for entry in entries) / total for part in (1, 2))
        for name, entries in collected.items()
    }


def load(removed: Removed, statistics: dict[str, tuple]) -> nn.Module:
    for name, (mean, var) in statistics.items():
        removed.modules[name].running_mean.copy_(mean)
        removed.modules[name].running_var.copy_(var)
    return removed.model.eval()


def assert_close(actual: Tensor, expected: Tensor, what: str) -> None:
    assert actual.shape == expected.shape, what
    difference = (actual - expected).abs().max().item()
    assert difference <= 1e-10 * max(expected.abs().max().item(), 1e-3), f"{what}: {difference:.3g}"


def assert_equals_hand_written(network: ResidualNetwork, statistics: Statistics, subnet: Subnet, batches) -> None:
    removed, expected = by_hand(network, subnet, batches)
    found = statistics.of(network.wiring, subnet.stages)
    assert found.keys() == expected.keys() and expected, subnet
    for name, (mean, var) in expected.items():
        assert_close(found[name][0], mean, f"mean of {name} in {subnet}")
        assert_close(found[name][1], var, f"variance of {name} in {subnet}")
    network.eval()
    x = images(3, batches[0].shape[-1], seed=99)
    with torch.no_grad():
        expected_output = load(removed, expected)(x)
        output = network(x, subnet, statistics=statistics)
    assert_close(output, expected_output, f"output of {subnet}")
    assert not torch.allclose(network(x, subnet), output), "the main net's own statistics give another output"


@pytest.mark.parametrize("name", NETWORKS)
def test_one_subnet_equals_a_hand_written_loop(name):
    network, batches, subnets = prepared(name)
    statistics = network.recalibrate(batches, [subnets[0]])
    assert statistics.images == 12
    assert_equals_hand_written(network, statistics, subnets[0], batches)


@pytest.mark.parametrize("name", NETWORKS)
def test_all_subnets_equal_a_hand_written_loop_and_sharing_changes_nothing(name):
    network, batches, subnets = prepared(name)
    shuffled = random.Random(0).sample(subnets, len(subnets))
    statistics = network.recalibrate(batches, shuffled)
    x = images(3, batches[0].shape[-1], seed=99)
    network.eval()
    with torch.no_grad():
        together = network.run(x, shuffled, statistics=statistics)
    for subnet, output in zip(shuffled, together, strict=True):
        assert_equals_hand_written(network, statistics, subnet, batches)
        alone = network.recalibrate(batches, [subnet])
        with torch.no_grad():
            assert_close(network(x, subnet, statistics=alone), output, f"{subnet} alone")


def test_by_default_the_whole_space_is_recalibrated():
    network, batches, subnets = prepared("Sequential")
    statistics = network.recalibrate(batches)
    assert statistics.subnets == {subnet.stages for subnet in subnets}


@pytest.mark.parametrize("texts", [["[0.2.1]-4", "3-[0.3.1]", "3-4"], ["[1.2]-[0.2]", "0-1"]])
def test_reordered_and_deleted_blocks(texts):
    network, batches, _ = prepared("Sequential")
    subnets = [Subnet.parse(text) for text in texts]
    statistics = network.recalibrate(batches, subnets)
    for subnet in subnets:
        assert_equals_hand_written(network, statistics, subnet, batches)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("fail", [False, True])
def test_the_main_nets_own_statistics_and_modes_are_untouched(training, fail):
    network, batches, _ = prepared("norms")
    network.train(training)
    network.model.blocks[1].bn.training = not training
    network.model.blocks[2].bn.track_running_stats = False
    modules = list(network.modules())
    before = {key: value.clone() for key, value in network.state_dict().items()}
    settings = [(m.training, getattr(m, "momentum", 0), getattr(m, "track_running_stats", 0)) for m in modules]
    identity = [id(buffer) for buffer in network.buffers()]
    if fail:
        with pytest.raises(RuntimeError, match="channels"):
            network.recalibrate([batches[0], torch.zeros(2, 7, 8, 8, dtype=torch.float64)])
    else:
        network.recalibrate(batches)
    assert [(m.training, getattr(m, "momentum", 0), getattr(m, "track_running_stats", 0)) for m in modules] == settings
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    assert [id(buffer) for buffer in network.buffers()] == identity
    assert not any(m._forward_pre_hooks or m._forward_hooks for m in network.modules())
    assert all(p.grad is None for p in network.parameters())


def test_a_ruined_statistic_does_not_reach_the_new_ones():
    network, batches, _ = prepared("Sequential")
    expected = network.recalibrate(batches, ["2-2"]).of(network.wiring, Subnet.parse("2-2").stages)
    network.model.bn.running_mean.fill_(float("nan"))
    network.model.stage1[0].bn1.running_var.fill_(float("inf"))
    found = network.recalibrate(batches, ["2-2"]).of(network.wiring, Subnet.parse("2-2").stages)
    assert all(torch.equal(found[name][part], expected[name][part]) for name in expected for part in (0, 1))
    assert network.model.bn.running_mean.isnan().all(), "the main net's own stay what they were"


@pytest.mark.parametrize("asked", [5, 7, 9, 12, 100])
def test_the_number_of_images_is_recorded_and_cut(asked):
    network, batches, subnets = prepared("Sequential")
    statistics = network.recalibrate(batches, [subnets[3]], images=asked)
    assert statistics.images == min(asked, 12)
    expected, left = [], asked
    for batch in batches:
        expected += [batch[:left]] if left else []
        left -= min(left, len(batch))
    assert_equals_hand_written(network, statistics, subnets[3], expected)


def test_no_more_batches_are_read_than_needed():
    network, batches, subnets = prepared("Sequential")
    read = []

    def reading():
        for batch in batches:
            read.append(len(batch))
            yield batch

    network.recalibrate(reading(), [subnets[0]], images=5)
    assert read == [5]


@pytest.mark.parametrize("images_", [0, -1])
def test_a_number_of_images_that_is_none_is_refused(images_):
    network, batches, subnets = prepared("Sequential")
    with pytest.raises(UsageError, match=r"recalibration needs at least one image, got"):
        network.recalibrate(batches, [subnets[0]], images=images_)
    with pytest.raises(UsageError, match=r"recalibration needs at least one image, got none"):
        network.recalibrate([], [subnets[0]])


def test_a_batch_of_one_image_is_left_out_and_the_next_one_is_not():
    network, batches, subnets = prepared("norms")
    statistics = network.recalibrate([batches[0], batches[1][:1], batches[2]], [subnets[0]])
    assert statistics.images == 8
    assert_equals_hand_written(network, statistics, subnets[0], [batches[0], batches[2]])


def test_pairs_of_a_loader_will_do():
    network, batches, subnets = prepared("Sequential")
    data = torch.cat(batches)
    loader = DataLoader(TensorDataset(data, torch.zeros(12, dtype=torch.long)), batch_size=5)
    statistics = network.recalibrate(loader, [subnets[0]])
    assert_equals_hand_written(network, statistics, subnets[0], list(data.split(5)))


def test_loaded_statistics_are_the_models_own():
    network, batches, subnets = prepared("norms")
    statistics = network.recalibrate(batches)
    x = images(3, seed=99)
    network.eval()
    with torch.no_grad():
        for subnet in subnets:
            expected = network(x, subnet, statistics=statistics)
            network.load_statistics(statistics, subnet)
            assert_close(network(x, subnet), expected, str(subnet))
        expected = network(x, statistics=statistics)
        network.load_statistics(statistics)
        assert_close(network.model(x), expected, "the main net by default")


def test_a_loaded_statistic_is_a_copy():
    network, batches, _ = prepared("Sequential")
    statistics = network.recalibrate(batches, ["3-4"])
    network.load_statistics(statistics)
    before = {name: mean.clone() for name, (mean, _) in statistics.of(network.wiring, network.full.stages).items()}
    network.train()(images())
    after = statistics.of(network.wiring, network.full.stages)
    assert all(torch.equal(after[name][0], mean) for name, mean in before.items())


@pytest.mark.parametrize("rounds", [1, 2])
def test_blocks_that_run_several_times_have_statistics_for_each(rounds):
    torch.manual_seed(0)
    model = LoopedNet(rounds=rounds)
    model.blocks = nn.ModuleList([NormMLP(6) for _ in range(3)])
    network = unravel(randomised(model), images())
    batches = [images(5, seed=1), images(3, seed=2)]
    statistics = network.recalibrate(batches, ["3", "[0.2]"])
    network.eval()
    x = images(3, seed=99)
    for text in ("3", "[0.2]"):
        # by hand: one copy of each block for every time that it runs
        kept = Subnet.parse(text).stages[0]
        plain = copy.deepcopy(network.model)
        plain.blocks = nn.ModuleList([copy.deepcopy(network.model.blocks[i]) for _ in range(rounds) for i in kept])
        plain.rounds = 1
        plain.eval()
        sums: dict[nn.Module, list[Tensor]] = {}
        with torch.no_grad():
            for batch in batches:
                h = plain.embed(batch.flatten(1))
                for block in plain.blocks:
                    mean, var = h.mean(0), h.var(0, correction=0)
                    total = sums.setdefault(block.bn, [torch.zeros(6).double(), torch.zeros(6).double()])
                    total[0] += len(batch) * mean
                    total[1] += len(batch) * var
                    normal = (h - mean) / (var + block.bn.eps).sqrt() * block.bn.weight + block.bn.bias
                    h = h + block.linear(normal)
            for bn, (mean, var) in sums.items():
                bn.running_mean.copy_(mean / 8)
                bn.running_var.copy_(var / 8)
            assert_close(network(x, text, statistics=statistics), plain(x), text)
    if rounds == 1:
        assert len(statistics.of(network.wiring, network.full.stages)) == 3
    else:
        with pytest.raises(UsageError, match=r"runs more than once.*run\(\.\.\., statistics=\.\.\.\)"):
            network.load_statistics(statistics)


class NormMLP(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.bn = nn.BatchNorm1d(width)
        self.linear = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.linear(self.bn(x))


def test_a_net_without_running_statistics_reads_no_image():
    network = unravel(randomised(LoopedNet()), images())

    def never():
        raise AssertionError("no image is needed")
        yield

    statistics = network.recalibrate(never())
    assert statistics.images == 0
    network.eval()
    assert torch.equal(network(images(), "3", statistics=statistics), network(images(), "3"))


def test_statistics_of_another_subnet_are_refused():
    network, batches, _ = prepared("Sequential")
    statistics = network.recalibrate(batches, ["3-4", "1-1"])
    with pytest.raises(UsageError, match=r"no statistics for 1 of 2 subnets, such as .*recalibrate them first"):
        network.run(images(), ["3-4", "2-1"], statistics=statistics)
    with pytest.raises(UsageError, match="no statistics for 1 of 1 subnets"):
        network.load_statistics(statistics, "2-1")


def test_statistics_made_in_inference_mode_serve_training_too():
    network, batches, _ = prepared("Sequential")
    with torch.inference_mode():
        statistics = network.recalibrate(batches, ["2-2"])
    network.eval()
    network(images(), "2-2", statistics=statistics).sum().backward()
    assert network.model.conv.weight.grad is not None
    assert not any(buffer.is_inference() for buffer in network.buffers())


def test_single_precision_adds_up_in_double():
    network, batches, _ = prepared("Sequential")
    network.float()
    batches = [1000.0 + batch.float() for batch in batches]
    found = network.recalibrate(batches, ["1-1"]).of(network.wiring, Subnet.parse("1-1").stages)
    assert all(mean.dtype == torch.float32 and mean.isfinite().all() for mean, _ in found.values())


def test_what_a_norm_layer_brings_along_stays_in_evaluation_mode():
    """A layer with dropout inside, as timm's norms with activations can have: only its statistics are of the batch."""
    from timm.layers import BatchNormAct2d

    torch.manual_seed(0)
    model = SequentialNet()
    model.bn = BatchNormAct2d(6, drop_layer=lambda: nn.Dropout(0.5))
    network = unravel(randomised(model), images())
    batches = [images(5, seed=1)]
    first, second = (
        network.recalibrate(batches, ["1-1"]).of(network.wiring, Subnet.parse("1-1").stages) for _ in range(2)
    )
    assert all(torch.equal(first[name][part], second[name][part]) for name in first for part in (0, 1))


def test_recalibrating_without_a_subnet_or_twice_the_same():
    network, batches, subnets = prepared("Sequential")
    twice = network.recalibrate(batches, [subnets[2], subnets[2]])
    assert_equals_hand_written(network, twice, subnets[2], batches)
