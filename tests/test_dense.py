"""DenseNets: a subnet is the smaller DenseNet, built by its library, with weights sliced by hand."""

import copy
import gc
import io
import itertools
import random
import weakref
from collections.abc import Iterator, Sequence
from contextlib import nullcontext

import pytest
import timm
import torch
import torchvision
from nets import images, randomised
from timm.models.densenet import DenseNet as TimmDenseNet
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models.densenet import DenseNet

from stimulative import StimulativeTraining, unravel
from stimulative.analysis import CostModel
from stimulative.errors import UsageError
from stimulative.residual import ResidualNetwork, Subnet
from stimulative.residual.finding.channels import share

# layers of each block, from Table 1 of arXiv 1608.06993
CONFIGS = {121: (6, 12, 24, 16), 169: (6, 12, 32, 32), 201: (6, 12, 48, 32), 264: (6, 12, 64, 48)}
CLASSES = 5


def torchvision_net(config: Sequence[int], growth: int = 4, init: int | None = None) -> nn.Module:
    return DenseNet(growth, tuple(config), growth * 2 if init is None else init, num_classes=CLASSES)  # type: ignore


def timm_net(config: Sequence[int], growth: int = 4) -> nn.Module:
    return TimmDenseNet(growth, tuple(config), CLASSES)


Part = tuple[str, str, list[int] | None, list[int] | None]


def parts(main: nn.Module, kept: Sequence[Sequence[int]], small: nn.Module) -> Iterator[Part]:
    """For each tensor of the small net: its name, its name in the main net, and the rows and columns that it is of."""
    tensors = main.state_dict()
    sizes = {name: value.shape for name, value in small.state_dict().items()}

    def norm(name: str, big: str, channels: list[int] | None) -> Iterator[Part]:
        for key in ("weight", "bias", "running_mean", "running_var"):
            yield f"{name}.{key}", f"{big}.{key}", channels, None

    yield "features.conv0.weight", "features.conv0.weight", None, None
    yield from norm("features.norm0", "features.norm0", None)
    channels = list(range(tensors["features.norm0.weight"].numel()))
    for block, layers in enumerate(kept, 1):
        end = tensors[f"features.denseblock{block}.denselayer1.norm1.weight"].numel()
        place = layer = 0
        while f"features.denseblock{block}.denselayer{layer + 1}.conv1.weight" in tensors:
            big = f"features.denseblock{block}.denselayer{layer + 1}"
            width = len(tensors[f"{big}.conv2.weight"])
            if layer in layers:
                place += 1
                name = f"features.denseblock{block}.denselayer{place}"
                yield from norm(f"{name}.norm1", f"{big}.norm1", list(channels))
                yield f"{name}.conv1.weight", f"{big}.conv1.weight", None, list(channels)
                yield from norm(f"{name}.norm2", f"{big}.norm2", None)
                yield f"{name}.conv2.weight", f"{big}.conv2.weight", None, None
                channels += range(end, end + width)
            end += width
            layer += 1
        if block < len(kept):
            transition = f"features.transition{block}"
            yield from norm(f"{transition}.norm", f"{transition}.norm", list(channels))
            outputs = list(range(sizes[f"{transition}.conv.weight"][0]))
            yield f"{transition}.conv.weight", f"{transition}.conv.weight", outputs, list(channels)
            channels = outputs
    yield from norm("features.norm5", "features.norm5", list(channels))
    yield "classifier.weight", "classifier.weight", None, list(channels)
    yield "classifier.bias", "classifier.bias", None, None


def index(whole: Tensor, rows: list[int] | None, columns: list[int] | None) -> tuple[Tensor, ...]:
    row = torch.arange(len(whole)) if rows is None else torch.tensor(rows)
    if whole.dim() < 2:
        return (row,)
    return row[:, None], (torch.arange(whole.shape[1]) if columns is None else torch.tensor(columns))[None]


def built_small(main: nn.Module, subnet: Subnet, make) -> nn.Module:
    """The net of a subnet's depths as its library builds it, with the main net's weights, sliced."""
    small = make(subnet.depths).to(next(main.parameters()).dtype)
    big, own = main.state_dict(), small.state_dict()
    left = {name for name in own if not name.endswith("num_batches_tracked")}
    for name, source, rows, columns in parts(main, subnet.stages, small):
        value = big[source][index(big[source], rows, columns)]
        assert value.shape == own[name].shape, name
        own[name].copy_(value)
        left.remove(name)
    assert not left
    return small.train(main.training)


def close(actual: Tensor, expected: Tensor, what: str = "") -> None:
    assert actual.shape == expected.shape, what
    difference = (actual - expected).abs().max().item()
    assert difference <= 1e-9 * max(expected.abs().max().item(), 1e-6), f"{what}: {difference:.3g}"


def network_of(make, config: Sequence[int], size: int = 32) -> ResidualNetwork:
    torch.manual_seed(0)
    return unravel(randomised(make(config)), images(2, size))


SMALL = (2, 3, 1, 4)
MAKES = {
    "torchvision": torchvision_net,
    "timm": timm_net,
    "odd widths": lambda config: torchvision_net(config, growth=3, init=5),
}
SUBNETS = ["1-1-1-1", "2-2-1-3", "2-[0.2]-1-4", "[1]-[1.2]-1-[0.2.3]", "2-3-1-2", "0-3-0-1", "2-0-1-[3]", "2-3-1-4"]


def subnets(texts: Sequence[str] = SUBNETS) -> list[Subnet]:
    return [Subnet.parse(text) for text in texts]


# --- the published nets within each other -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("main", "inner", "make"),
    [
        (169, 121, lambda config: torchvision_net(config, 32)),
        (169, 121, lambda config: timm_net(config, 32)),
        (201, 121, torchvision_net),
        (201, 169, timm_net),
        (264, 121, timm_net),
        (264, 201, torchvision_net),
    ],
    ids=["121 in 169", "121 in 169 of timm", "121 in 201", "169 in 201", "121 in 264", "201 in 264"],
)
def test_a_published_densenet_within_a_larger_one(main, inner, make):
    network = network_of(make, CONFIGS[main])
    assert [stage.blocks for stage in network.stages] == list(CONFIGS[main])
    assert all(stage.concatenates and not stage.fixed_entry for stage in network.stages)
    text = "-".join(map(str, CONFIGS[inner]))
    network.eval()
    x = images(2, 32, seed=7)
    with torch.no_grad():
        small = built_small(network.model, Subnet.parse(text), make)
        close(network(x, text), small(x))
        assert torch.equal(network(x), network.model(x)), "the main net is the model"
        assert not torch.allclose(network(x, text), network(x), rtol=1e-3)


def test_the_libraries_own_functions_give_the_nets_that_are_built_by_hand():
    network = unravel(timm.create_model("densenet169", num_classes=CLASSES), images(2, 32, dtype=torch.float32))
    network.eval()
    small = built_small(network.model, Subnet.parse("6-12-24-16"), lambda config: torchvision_net(config, 32, 64))
    reference = torchvision.models.densenet121(num_classes=CLASSES).eval()
    reference.load_state_dict(small.state_dict())
    x = images(2, 32, dtype=torch.float32)
    with torch.no_grad():
        torch.testing.assert_close(network(x, "6-12-24-16"), reference(x), rtol=1e-4, atol=1e-4)


# --- any subnet -------------------------------------------------------------------------------------------------


def run(network: ResidualNetwork, x: Tensor, chosen: list[Subnet], schedule: str) -> tuple[list[Tensor], dict]:
    outputs, losses = {}, []
    for position, output, retain_graph in network.passes(x, chosen, cut=schedule == "lean"):
        outputs[position] = output.detach().clone()
        if schedule == "lean":
            assert not retain_graph, "all of the graph is cut"
            loss_of(position, output).backward(retain_graph=retain_graph)
        elif output.requires_grad:
            losses.append(loss_of(position, output))
    if losses:
        sum(losses[1:], losses[0]).backward()
    gradients = {name: p.grad.clone() for name, p in network.model.named_parameters() if p.grad is not None}
    return [outputs[position] for position in range(len(chosen))], gradients


def loss_of(position: int, output: Tensor) -> Tensor:
    weights = torch.linspace(-1, 1, output.numel(), dtype=output.dtype).view_as(output)
    return ((position + 1) * weights * output).sum() + output.tanh().square().sum()


def reference(main: nn.Module, x: Tensor, chosen: list[Subnet], make) -> tuple[list[Tensor], dict[str, Tensor]]:
    """Outputs of nets that are built small, and their gradients added up where their weights come from."""
    whole = dict(main.named_parameters())
    outputs, gradients = [], {}
    for position, subnet in enumerate(chosen):
        small = built_small(main, subnet, make)
        output = small(x)
        outputs.append(output.detach())
        loss_of(position, output).backward()
        own = dict(small.named_parameters())
        for name, source, rows, columns in parts(main, subnet.stages, small):
            if name in own:
                total = gradients.setdefault(source, torch.zeros_like(whole[source]))
                total[index(total, rows, columns)] += own[name].grad
    return outputs, gradients


@pytest.mark.parametrize("schedule", ["joint", "lean"])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("make", MAKES.values(), ids=MAKES)
def test_outputs_and_gradients_are_those_of_nets_that_are_built_small(make, training, schedule):
    network = network_of(make, SMALL, 64)
    network.train(training)
    chosen = random.Random(0).sample(subnets(), len(SUBNETS))
    x = images(3, 64)
    expected, gradients = reference(copy.deepcopy(network.model), x, chosen, make)
    found, own = run(network, x, chosen, schedule)
    for subnet, output, value in zip(chosen, found, expected, strict=True):
        close(output, value, str(subnet))
    assert own.keys() == gradients.keys() == dict(network.model.named_parameters()).keys()
    scale = max(value.abs().max().item() for value in gradients.values())
    for name, value in gradients.items():
        assert (own[name] - value).abs().max().item() <= 1e-9 * max(value.abs().max().item(), 1e-3 * scale), name
    if not training:
        alone = [network(x, subnet).detach() for subnet in chosen]
        assert all(torch.equal(a, b) for a, b in zip(alone, found, strict=True)), "sharing changes nothing"


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_every_subnet_of_the_space(mode):
    network = network_of(timm_net, (2, 3, 2))
    network.eval()
    chosen = list(network.space)
    assert len(chosen) == 12
    x = images(2, 32)
    with mode():
        for subnet, output in zip(chosen, network.run(x, chosen), strict=True):
            close(output, built_small(network.model, subnet, timm_net)(x), str(subnet))


def test_every_deletion_of_layers():
    network = network_of(torchvision_net, (3, 2))
    network.eval()
    chosen = [
        Subnet((first, second))
        for first in itertools.chain.from_iterable(itertools.combinations(range(3), n) for n in range(4))
        for second in itertools.chain.from_iterable(itertools.combinations(range(2), n) for n in range(3))
    ]
    x = images(2, 32)
    with torch.no_grad():
        for subnet, output in zip(chosen, network.run(x, chosen), strict=True):
            close(output, built_small(network.model, subnet, torchvision_net)(x), str(subnet))


def test_running_statistics_are_updated_where_the_small_net_has_them():
    network = network_of(torchvision_net, SMALL, 64)
    network.train()
    subnet = Subnet.parse("[1]-[0.2]-1-[0.2.3]")
    before = {name: value.clone() for name, value in network.model.named_buffers()}
    small = built_small(network.model, subnet, torchvision_net)
    pieces = list(parts(network.model, subnet.stages, small))
    x = images(3, 64)
    small(x)
    network(x, subnet)
    expected, updated = dict(before), dict(small.named_buffers())
    for name, source, rows, columns in pieces:
        if name in updated:
            expected[source] = expected[source].clone()
            expected[source][index(expected[source], rows, columns)] = updated[name]
    for name, value in network.model.named_buffers():
        if not name.endswith("num_batches_tracked"):
            close(value, expected[name], name)
    assert not torch.equal(expected["features.norm5.running_mean"], before["features.norm5.running_mean"])
    assert torch.equal(
        network.model.get_buffer("features.denseblock1.denselayer1.norm1.running_mean"),
        before["features.denseblock1.denselayer1.norm1.running_mean"],
    )


@pytest.mark.parametrize("schedule", ["joint", "lean"])
def test_with_frozen_statistics_a_subnet_leaves_them_alone(schedule):
    network = network_of(timm_net, (2, 3), 32)
    alone = copy.deepcopy(network)
    x, y = images(4, 32), torch.tensor([0, 1, 2, 3])
    StimulativeTraining(network, schedule=schedule).backward(x, y, ["1-[0.2]"])
    alone(x)
    for (name, value), (_, expected) in zip(network.model.named_buffers(), alone.model.named_buffers(), strict=True):
        assert torch.equal(value, expected), name


def test_stimulative_training_is_the_same_in_both_schedules_and_by_hand():
    x, y = images(4, 32), torch.tensor([0, 1, 2, 3])
    found = []
    for schedule in ("joint", "lean"):
        network = network_of(torchvision_net, (2, 3, 2))
        method = StimulativeTraining(network, balance=2.0, balance_ramp=0, schedule=schedule, subnets_per_step=2)
        terms = method.backward(x, y, ["1-[0.2]-1", "2-2-1"])
        found.append((terms, {name: p.grad for name, p in network.model.named_parameters()}))
    network = network_of(torchvision_net, (2, 3, 2))
    main = network.model(x)
    target = main.detach().softmax(1)
    divergence = 0
    smalls = []
    for text in ("1-[0.2]-1", "2-2-1"):
        subnet = Subnet.parse(text)
        smalls.append((subnet, built_small(network.model, subnet, torchvision_net)))
        divergence += nn.functional.kl_div(smalls[-1][1](x).log_softmax(1), target, reduction="batchmean") / 2
    loss = nn.functional.cross_entropy(main, y) + 2.0 * divergence
    loss.backward()
    gradients = {name: p.grad for name, p in network.model.named_parameters()}
    for subnet, small in smalls:
        own = dict(small.named_parameters())
        for name, source, rows, columns in parts(network.model, subnet.stages, small):
            if name in own:
                gradients[source][index(gradients[source], rows, columns)] += own[name].grad
    scale = max(value.abs().max().item() for value in gradients.values())
    for terms, own in found:
        close(terms.loss, loss.detach(), "loss")
        for name, value in gradients.items():
            assert (own[name] - value).abs().max().item() <= 1e-9 * scale, name


def test_stimulative_training_makes_subnets_agree_with_the_main_net():
    x, y = images(8, 32, dtype=torch.float32), torch.arange(8) % CLASSES
    divergence = {}
    for balance in (0.0, 1.0):
        torch.manual_seed(0)
        network = unravel(timm_net((2, 3)), images(2, 32, dtype=torch.float32))
        method = StimulativeTraining(network, balance=balance, balance_ramp=0, seed=1)
        optimizer = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9)
        first = last = 0.0
        for step in range(30):
            optimizer.zero_grad()
            terms = method(x, y)
            terms.loss.backward()
            optimizer.step()
            first, last = (terms.main_ce.item() if step == 0 else first), terms.main_ce.item()
        assert last < 0.3 * first
        with torch.no_grad():
            main, *others = (output.log_softmax(1) for output in network.run(x, [network.full, "1-1", "1-2", "2-1"]))
        divergence[balance] = sum(nn.functional.kl_div(o, main, log_target=True).item() for o in others)
    assert divergence[1.0] < 0.5 * divergence[0.0]


@pytest.mark.parametrize("cut", [False, True])
def test_what_subnets_share_is_computed_once(cut):
    network = network_of(torchvision_net, (3, 4))
    counts: dict[str, int] = {}
    for name, module in network.model.named_modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(lambda m, a, o, name=name: counts.__setitem__(name, counts.get(name, 0) + 1))
    for _, output, retain_graph in network.passes(images(2, 32), list(network.space), cut=cut):
        output.sum().backward(retain_graph=retain_graph)
    first, second = "features.denseblock1.denselayer{}.conv1", "features.denseblock2.denselayer{}.conv1"
    assert [counts[first.format(n)] for n in (1, 2, 3)] == [1, 1, 1]
    assert [counts[second.format(n)] for n in (1, 2, 3, 4)] == [3, 3, 3, 3], "once for each depth of the first block"


def test_the_main_net_is_not_sliced():
    network = network_of(torchvision_net, SMALL, 64)
    assert network.wiring.slices(network.full.stages) == {}
    x = images(2, 64).requires_grad_()
    network(x).sum().backward()
    assert "SliceBackward" not in " ".join(graph(network(x))), "no slice is in the graph"
    assert "SliceBackward" in " ".join(graph(network(x, "2-3-1-3"))), "it would be seen"


def graph(output: Tensor) -> set[str]:
    names, nodes = set(), [output.grad_fn]
    while nodes:
        node = nodes.pop()
        names.add(type(node).__name__)
        nodes += [following for following, _ in node.next_functions if following is not None]
    return names


# --- statistics -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", MAKES.values(), ids=MAKES)
def test_recalibration_equals_that_of_nets_that_are_built_small(make):
    network = network_of(make, SMALL, 64)
    batches = [images(count, 64, seed=count) for count in (5, 4, 3)]
    chosen = random.Random(1).sample(subnets(), len(SUBNETS))
    before = {name: value.clone() for name, value in network.state_dict().items()}
    statistics = network.recalibrate(batches, chosen)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    network.eval()
    x = images(3, 64, seed=99)
    with torch.no_grad():
        together = network.run(x, chosen, statistics=statistics)
    for subnet, output in zip(chosen, together, strict=True):
        if 0 in subnet.depths or max(subnet.depths) == 1:
            continue  # the small net has nothing to skip, and is no network
        small = built_small(network.model, subnet, make).eval()
        own = unravel(small, images(2, 64))
        expected = own.recalibrate(batches, [own.full])
        found = statistics.of(network.wiring, subnet.stages)
        of_small = expected.of(own.wiring, own.full.stages)
        assert len(found) == len(of_small)
        for name, source, _, _ in parts(network.model, subnet.stages, small):
            if name.endswith("running_mean"):
                name, source = name.rpartition(".")[0], source.rpartition(".")[0]
                close(found[source][0], of_small[name][0], f"mean of {source} in {subnet}")
                close(found[source][1], of_small[name][1], f"variance of {source} in {subnet}")
        with torch.no_grad():
            close(output, own(x, statistics=expected), f"output of {subnet}")
            alone = network.recalibrate(batches, [subnet])
            close(network(x, subnet, statistics=alone), output, f"{subnet} alone")
            assert not torch.allclose(network(x, subnet), output), "the main net's own statistics give another output"


@pytest.mark.parametrize("text", ["2-[0.2]-1-3", "2-3-1-4"])
def test_loading_a_subnets_statistics(text):
    network = network_of(timm_net, SMALL, 64)
    statistics = network.recalibrate([images(6, 64)], [text])
    network.eval()
    x = images(3, 64, seed=5)
    with torch.no_grad():
        expected = network(x, text, statistics=statistics)
        network.load_statistics(statistics, text)
        close(network(x, text), expected)
        close(built_small(network.model, Subnet.parse(text), timm_net)(x), expected)


# --- only one subnet --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", [nullcontext, torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("make", [torchvision_net, timm_net])
def test_only_a_subnet_is_what_the_model_then_computes(make, mode):
    network = network_of(make, SMALL, 64)
    network.eval()
    x = images(2, 64)
    before = traces(network.model)
    for subnet in subnets():
        with mode(), network.only(subnet) as model:
            output = model(x)
            assert torch.equal(model(x), output)
        close(output.detach().clone(), built_small(network.model, subnet, make)(x).detach(), str(subnet))
        assert traces(network.model) == before


def test_only_slices_once_where_gradients_are_off():
    network = network_of(torchvision_net, SMALL, 64)
    network.eval()
    with torch.no_grad(), network.only("2-2-1-3") as model:
        weight = model.get_submodule("features.transition2.conv")._parameters["weight"]
        assert weight.shape == (8, 16, 1, 1) and weight.is_contiguous()
        assert "forward" not in vars(model.get_submodule("features.transition2")), "nothing in the way of a reader"


def test_only_trains_with_gradients():
    gradients, statistics = [], []
    for way in ("run", "only"):
        network = network_of(torchvision_net, (2, 3), 32)
        optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
        with network.only("1-[0.2]") if way == "only" else nullcontext() as model:
            for seed in range(2):  # the second step has to see the parameters of the first
                x = images(3, 32, seed=seed)
                optimizer.zero_grad()
                loss_of(0, model(x) if way == "only" else network(x, "1-[0.2]")).backward()
                optimizer.step()
        gradients.append({name: p.grad for name, p in network.model.named_parameters() if p.grad is not None})
        statistics.append(dict(network.model.named_buffers()))
    assert all(torch.equal(gradients[1][name], value) for name, value in gradients[0].items())
    assert all(torch.equal(statistics[1][name], value) for name, value in statistics[0].items())


def test_only_updates_running_statistics_without_gradients():
    a, b = network_of(timm_net, (2, 3)), network_of(timm_net, (2, 3))
    x = images(3, 32)
    with torch.no_grad():
        a(x, "[1]-[0.2]")
        with b.only("[1]-[0.2]") as model:
            model(x)
    changed = 0
    start = dict(network_of(timm_net, (2, 3)).model.named_buffers())
    for (name, value), (_, other) in zip(a.model.named_buffers(), b.model.named_buffers(), strict=True):
        close(other.double(), value.double(), name)
        changed += not torch.equal(value, start[name])
    assert changed > 10


# --- what it costs ----------------------------------------------------------------------------------------------


def counted(model: nn.Module, x: Tensor) -> tuple[int, int]:
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model.eval()(x)
    return sum(p.numel() for p in model.parameters()), counter.get_total_flops()


@pytest.mark.parametrize("make", MAKES.values(), ids=MAKES)
def test_the_cost_of_a_subnet_is_that_of_the_net_that_is_built_small(make):
    network = network_of(make, SMALL, 64)
    x = images(1, 64)
    costs = CostModel(network, x)
    for subnet in subnets():
        cost = costs.of(subnet)
        assert (cost.parameters, cost.flops) == counted(built_small(network.model, subnet, make), x), subnet
    assert costs.of(network.full) == costs.main
    assert (costs.main.parameters, costs.main.flops) == counted(network.model, x)


def test_the_cost_of_121_in_169_is_that_of_densenet121():
    network = unravel(torchvision.models.densenet169(), images(1, 64, dtype=torch.float32))
    x = images(1, 64, dtype=torch.float32)
    costs = CostModel(network, x)
    cost = costs.of(Subnet.parse("6-12-24-16"))
    assert cost.parameters == 7_978_856, "the number that torchvision's documentation gives"
    assert (cost.parameters, cost.flops) == counted(torchvision.models.densenet121(), x)


# --- nothing stays ----------------------------------------------------------------------------------------------


def traces(model: nn.Module) -> list:
    return [
        (
            name,
            sorted(vars(module)),
            {key: id(value) for key, value in (*module._parameters.items(), *module._buffers.items())},
            len(module._forward_hooks),
        )
        for name, module in model.named_modules()
    ]


@pytest.mark.parametrize("schedule", ["joint", "lean", "none"])
def test_the_model_is_itself_between_and_after_passes(schedule):
    network = network_of(torchvision_net, SMALL, 64)
    before = traces(network.model)
    state = {key: value.clone() for key, value in network.state_dict().items()}
    network.eval()
    with torch.no_grad() if schedule == "none" else nullcontext():
        for _, output, retain_graph in network.passes(images(2, 64), subnets(), cut=schedule == "lean"):
            assert traces(network.model) == before
            if schedule != "none":
                output.sum().backward(retain_graph=retain_graph)
    assert traces(network.model) == before
    assert list(network.state_dict()) == list(state)
    assert all(torch.equal(value, state[key]) for key, value in network.state_dict().items())
    assert all(isinstance(p, nn.Parameter) and p.is_leaf for p in network.parameters())


@pytest.mark.parametrize("where", ["features.denseblock2.denselayer2.norm1", "features.transition2.conv", "classifier"])
@pytest.mark.parametrize("way", ["run", "only", "only without gradients", "recalibrate"])
def test_an_exception_in_a_reader_leaves_nothing_behind(where, way):
    network = network_of(timm_net, SMALL, 64)
    before = traces(network.model)
    state = {key: value.clone() for key, value in network.state_dict().items()}
    network.eval()
    modes = [module.training for module in network.modules()]

    def fail(module: nn.Module, args: tuple) -> None:
        (width,) = {len(p) for key, p in module._parameters.items() if key == "weight" and p.dim() == 1} or {0}
        raise ArithmeticError(f"in the reader of {width}")

    hook = network.model.get_submodule(where).register_forward_pre_hook(fail)
    x = images(2, 64)
    with pytest.raises(ArithmeticError, match="in the reader of 8" if where.endswith("norm1") else "in the reader"):
        if way == "run":
            network(x, "2-[1.2]-1-3") if where.endswith("norm1") else network(x, "1-2-1-3")
        elif way == "recalibrate":
            network.recalibrate([x], ["2-[1.2]-1-3" if where.endswith("norm1") else "1-2-1-3"])
        else:
            context = torch.no_grad() if way == "only without gradients" else nullcontext()
            with context, network.only("2-[1.2]-1-3" if where.endswith("norm1") else "1-2-1-3") as model:
                model(x)
    hook.remove()
    assert traces(network.model) == before
    assert all(torch.equal(value, state[key]) for key, value in network.state_dict().items())
    assert [module.training for module in network.modules()] == modes
    assert network(x, "1-1-1-1").isfinite().all()


@pytest.mark.parametrize("cut", [False, True])
def test_what_was_remembered_goes_with_the_run(cut):
    network = network_of(torchvision_net, (3, 4))
    alive: list[weakref.ref] = []
    for module in network.model.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(lambda m, a, output: alive.append(weakref.ref(output)))
    gc.collect()
    gc.disable()
    try:
        for position, output, retain_graph in network.passes(
            images(2, 32), subnets(["3-4", "3-1", "1-[0.3]"]), cut=cut
        ):
            loss_of(position, output).backward(retain_graph=retain_graph)
            del output
        assert len(alive) > 12
        assert not [reference for reference in alive if reference() is not None], "without the garbage collector's help"
    finally:
        gc.enable()


def test_a_used_network_can_be_copied_saved_and_unraveled_again():
    network = network_of(timm_net, SMALL, 64)
    run(network, images(2, 64), subnets(), "lean")
    network.zero_grad()
    network.eval()
    x = images(2, 64)
    expected = network.run(x, SUBNETS)
    saved = io.BytesIO()
    torch.save(network, saved)
    saved.seek(0)
    for other in (
        copy.deepcopy(network),
        torch.load(saved, weights_only=False),
        unravel(copy.deepcopy(network.model), x),
    ):
        assert other.stages == network.stages and other.space == network.space
        assert all(torch.equal(a, b) for a, b in zip(other.run(x, SUBNETS), expected, strict=True))
    assert list(network.model.state_dict()) == list(timm_net(SMALL).state_dict())


@pytest.mark.parametrize("schedule", ["joint", "lean"])
def test_compiled_layers_run(schedule):
    chosen = subnets(["2-3", "1-[0.2]", "2-2"])
    network = network_of(torchvision_net, (2, 3))
    expected = run(network, images(2, 32), chosen, schedule)
    network = network_of(torchvision_net, (2, 3))
    torch._dynamo.reset()
    for module in network.model.modules():
        if type(module).__name__ == "_DenseLayer":
            module.compile(backend="eager")
    found = run(network, images(2, 32), chosen, schedule)
    for a, b in zip(found[0], expected[0], strict=True):
        close(a, b)
    for name, value in expected[1].items():
        torch.testing.assert_close(found[1][name], value)


@pytest.mark.parametrize("cut", [False, True])
def test_automatic_mixed_precision(cut):
    network = network_of(timm_net, (2, 3))
    network.float().eval()
    x = images(2, 32, dtype=torch.float32)
    chosen = ["2-3", "1-[0.2]", "1-3"]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        for position, output, retain_graph in network.passes(x, chosen, cut=cut):
            assert output.dtype == torch.bfloat16
            assert torch.equal(output, built_small(network.model, Subnet.parse(chosen[position]), timm_net)(x))
            output.float().sum().backward(retain_graph=retain_graph)
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())


# --- what is refused --------------------------------------------------------------------------------------------


def test_layers_cannot_change_places():
    network = network_of(timm_net, (2, 3))
    message = (
        r"subnet 2-\[0\.2\.1\] does not fit stage 'features\.denseblock2': its layers have different widths.*"
        r"in their own order only; got \[0, 2, 1\]"
    )
    for ask in (
        lambda: network(images(2, 32), "2-[0.2.1]"),
        lambda: network.only("2-[0.2.1]"),
        lambda: network.recalibrate([images(2, 32)], ["2-[0.2.1]"]),
    ):
        with pytest.raises(UsageError, match=message):
            ask()


def test_checkpointing_is_refused_where_it_would_act():
    for make in (
        lambda: DenseNet(4, (2, 3), 8, num_classes=CLASSES, memory_efficient=True),  # type: ignore
        lambda: TimmDenseNet(4, (2, 3), CLASSES, memory_efficient=True),
    ):
        network = unravel(randomised(make()), images(2, 32))
        network.eval()
        with pytest.raises(UsageError, match=r"checkpointing is on .*memory_efficient=False"):
            network(images(2, 32), "1-2")
        with torch.no_grad():
            assert network(images(2, 32), "1-2").isfinite().all()


# --- finding them -----------------------------------------------------------------------------------------------


class Layer(nn.Module):
    def __init__(self, inputs: int, growth: int, norm=nn.BatchNorm2d) -> None:
        super().__init__()
        self.norm = norm(inputs)
        self.conv = nn.Conv2d(inputs, growth, 3, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(torch.relu(self.norm(x)))


class OwnDenseNet(nn.Module):
    """A dense block over concatenated tensors instead of lists, and a head that reads each pixel."""

    class Block(nn.Module):
        def __init__(self, how: str, norm) -> None:
            super().__init__()
            self.how = how
            self.layers = nn.ModuleList([Layer(6 + 3 * n if how != "parallel" else 6, 3, norm) for n in range(3)])
            # a container is no module that is called, so the layers are children of what concatenates
            for number, layer in enumerate(self.layers):
                self.add_module(f"layer{number}", layer)
            del self.layers

        def forward(self, x: Tensor) -> Tensor:
            parts = [x]
            for number in range(3):
                before = {
                    "parallel": lambda: x,
                    "backwards": lambda: torch.cat(parts[::-1], 1),
                }.get(self.how, lambda: torch.cat(parts, 1))()
                parts.append(self.get_submodule(f"layer{number}")(before))
            return torch.cat(parts, 1)

    def __init__(self, how: str = "", norm=nn.BatchNorm2d) -> None:
        super().__init__()
        self.how = how
        self.stem = nn.Conv2d(3, 6, 3, 2, 1)
        self.block = self.Block(how, norm)
        self.head = nn.Linear(15 * 16, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.block(self.stem(x))
        if self.how == "shuffled":
            x = x.flip(1)
        if self.how == "mixed":
            x = x - x.mean(1, keepdim=True)
        return self.head(x.flatten(1))


def test_an_own_net_whose_head_reads_every_pixel():
    torch.manual_seed(0)
    model = randomised(OwnDenseNet())
    network = unravel(model, images())
    (stage,) = network.stages
    assert (stage.name, stage.block_names, stage.concatenates) == (
        "block",
        ("block.layer0", "block.layer1", "block.layer2"),
        True,
    )
    network.eval()
    x = images(3, seed=4)
    first = model.stem(x)
    one = model.block.layer0(first)
    norm, conv = model.block.layer2.norm, model.block.layer2.conv
    kept = list(range(9))
    y = nn.functional.batch_norm(
        torch.cat([first, one], 1),
        norm.running_mean[kept],
        norm.running_var[kept],
        norm.weight[kept],
        norm.bias[kept],
        eps=norm.eps,
    ).relu()
    y = torch.cat([first, one, nn.functional.conv2d(y, conv.weight[:, kept], conv.bias, padding=1)], 1)
    pixels = [channel * 16 + pixel for channel in [*kept, 12, 13, 14] for pixel in range(16)]
    expected = y.flatten(1) @ model.head.weight[:, pixels].T + model.head.bias
    close(network(x, "[0.2]").detach(), expected.detach())


@pytest.mark.parametrize(
    ("how", "norm", "reason"),
    [
        ("backwards", nn.BatchNorm2d, r"'block\.layer\d' does not read all that comes before it, in its order"),
        ("parallel", nn.BatchNorm2d, r"'block\.layer\d' does not read all|without some of its layers the model fails"),
        ("shuffled", nn.BatchNorm2d, r"'head' reads other channels than those of the layers before it"),
        ("mixed", nn.BatchNorm2d, r"'head' reads other channels"),
        (
            "",
            lambda width: nn.GroupNorm(3, width),
            r"'block\.layer\d\.norm' \(GroupNorm\) reads the channels of layers",
        ),
    ],
)
def test_other_concatenations_are_not_taken_for_dense_blocks(how, norm, reason):
    torch.manual_seed(0)
    with pytest.raises(
        UsageError, match=rf"no residual blocks found.*not taken for a DenseNet, either: .*(?:{reason})"
    ):
        unravel(randomised(OwnDenseNet(how, norm)), images())


def test_unraveling_leaves_the_model_as_it_was():
    torch.manual_seed(0)
    model = randomised(torchvision_net(SMALL))
    model.train()
    before, random_state = traces(model), torch.get_rng_state()
    state = {key: value.clone() for key, value in model.state_dict().items()}
    unravel(model, images(2, 64))
    assert traces(model) == before and model.training
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random_state)


def test_dense_stages_by_hand():
    torch.manual_seed(0)
    model = randomised(torchvision_net((2, 3, 2)))
    layers = [f"features.denseblock2.denselayer{n}" for n in (1, 2, 3)]
    x = images(2, 32)
    for stages in (["features.denseblock2"], [layers]):
        network = unravel(model, x, stages=stages)
        assert [stage.name for stage in network.stages] == ["features.denseblock2"]
        network.eval()
        with torch.no_grad():
            small = built_small(model, Subnet.parse("2-[0.2]-2"), torchvision_net)
            close(network(x, "[0.2]"), small(x))
    with pytest.raises(UsageError, match=r"'features\.denseblock2\.denselayer1' is a layer of the dense block"):
        unravel(model, x, stages=[[layers[0], layers[2]]])


def test_a_transition_gives_what_one_that_is_built_for_its_inputs_gives():
    for inputs in range(2, 40):
        for divisor in (1, 2, 3):
            for kept in range(divisor, inputs + 1):
                if inputs // divisor and inputs // (inputs // divisor) == divisor:
                    assert share(kept, inputs, inputs // divisor) == kept // divisor
    assert share(32, 64, 48) == 24 and share(1, 64, 2) == 1
