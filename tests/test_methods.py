"""What training methods compute, whichever the method; and what is particular to each."""

import copy
import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import stimulative
from stimulative.config import load_recipe
from stimulative.errors import UsageError
from stimulative.methods import METHODS, CommonTraining, StimulativeTraining, method_named


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1)
        self.norm = nn.BatchNorm2d(width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + F.relu(self.norm(self.conv(x)))


class Net(nn.Module):
    def __init__(self, width: int = 6, depths: tuple[int, ...] = (3, 3)) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, width, 3, padding=1)
        self.stages = nn.ModuleList(nn.Sequential(*(Block(width) for _ in range(depth))) for depth in depths)
        self.head = nn.Linear(width, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        for stage in self.stages:
            x = stage(x)
        return self.head(x.mean((2, 3)))


@pytest.fixture
def batch() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(8, 1, 6, 6, generator=generator, dtype=torch.float64)
    return x, torch.randint(4, (8,), generator=generator)


@pytest.fixture
def network() -> stimulative.ResidualNetwork:
    torch.manual_seed(0)
    net = Net().double()
    return stimulative.unravel(net, torch.randn(2, 1, 6, 6, dtype=torch.float64))


def gradients(network: stimulative.ResidualNetwork) -> dict[str, torch.Tensor]:
    return {name: p.grad.clone() for name, p in network.named_parameters() if p.grad is not None}


def assert_close(actual: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], tolerance: float = 1e-10) -> None:
    assert actual.keys() == expected.keys()
    for name, value in expected.items():
        assert (actual[name] - value).norm() <= tolerance * max(1.0, float(value.norm())), name


@pytest.mark.parametrize("name", METHODS)
def test_steps_of_every_method_lower_its_loss(name, network, batch):
    method = METHODS[name](network, seed=3)
    optimizer = torch.optim.SGD(method.parameters(), lr=0.05)
    losses = []
    for _ in range(30):
        losses.append(float(method.backward(*batch).loss))
        optimizer.step()
        optimizer.zero_grad()
    assert losses[-1] < 0.7 * losses[0]


@pytest.mark.parametrize("name", METHODS)
def test_the_state_of_every_method_restores_its_draws_and_steps(name, network, batch):
    method = METHODS[name](network, seed=3)
    for _ in range(5):
        method(*batch)
    saved = copy.deepcopy(method.state_dict())
    expected = [method(*batch).subnets for _ in range(8)]
    other = METHODS[name](network, seed=99)
    other.load_state_dict(saved)
    assert other.step == 5
    assert [other(*batch).subnets for _ in range(8)] == expected


@pytest.mark.parametrize("name", METHODS)
def test_evaluation_mode_counts_no_steps(name, network, batch):
    method = METHODS[name](network).eval()
    method(*batch)
    assert method.step == 0


def test_common_training_is_cross_entropy_of_the_main_net(network, batch):
    x, y = batch
    terms = CommonTraining(network, label_smoothing=0.1)(x, y)
    expected = F.cross_entropy(copy.deepcopy(network.model)(x), y, label_smoothing=0.1)
    assert torch.allclose(terms.loss, expected, rtol=1e-12)
    assert terms.subnets == () and terms.subnet_kl == 0


def test_common_training_refuses_subnets(network, batch):
    with pytest.raises(UsageError, match="common training trains no subnets, got 1"):
        CommonTraining(network)(*batch, ["1-1"])


def test_the_loss_is_cross_entropy_plus_weighted_divergence(network, batch):
    x, y = batch
    reference = copy.deepcopy(network.model)
    shallow = copy.deepcopy(network.model)
    shallow.stages[0] = shallow.stages[0][:2]
    shallow.stages[1] = shallow.stages[1][:1]
    main = reference(x)
    p = main.softmax(-1).detach()
    divergence = (p * (p.log() - shallow(x).log_softmax(-1))).sum(-1).mean()
    method = StimulativeTraining(network, balance=2.5)
    terms = method(x, y, ["2-1"])
    assert torch.allclose(terms.main_ce, F.cross_entropy(main, y), rtol=1e-12)
    assert torch.allclose(terms.subnet_kl, divergence, rtol=1e-10)
    assert torch.allclose(terms.loss, F.cross_entropy(main, y) + 2.5 * divergence, rtol=1e-10)
    assert [str(subnet) for subnet in terms.subnets] == ["2-1"]
    assert not terms.logits.requires_grad and not terms.main_ce.requires_grad


@pytest.mark.parametrize("subnets", [["2-1"], ["1-1", "3-2", "2-3", "3-3", "1-1"]])
def test_lean_gradients_and_statistics_equal_joint_ones(network, batch, subnets):
    results = []
    for schedule in ("joint", "lean"):
        twin = copy.deepcopy(network)
        method = StimulativeTraining(twin, balance=1.7, schedule=schedule, freeze_subnet_statistics=False)
        terms = method.backward(*batch, subnets, scale=0.5)
        results.append((terms, gradients(twin), {name: b.double() for name, b in twin.named_buffers()}))
    (joint, joint_gradients, joint_buffers), (lean, lean_gradients, lean_buffers) = results
    assert torch.allclose(joint.loss, lean.loss, rtol=1e-12)
    assert torch.allclose(joint.subnet_kl, lean.subnet_kl, rtol=1e-12)
    assert_close(lean_gradients, joint_gradients)
    assert_close(lean_buffers, joint_buffers)
    assert len(joint_gradients) == len(list(network.parameters()))


def test_zero_balance_is_common_training_at_its_cost(network, batch):
    twin = copy.deepcopy(network)
    CommonTraining(twin).backward(*batch)
    calls = []
    network.model.register_forward_hook(lambda *_: calls.append(1))
    terms = StimulativeTraining(network, balance=0.0).backward(*batch)
    assert len(calls) == 1 and terms.subnets == ()
    for (name, expected), (_, actual) in zip(gradients(twin).items(), gradients(network).items(), strict=True):
        assert torch.equal(expected, actual), name


def test_every_trains_subnets_each_kth_step_with_k_times_the_weight(network, batch):
    method = StimulativeTraining(network, balance=2.0, every=3)
    for step in range(7):
        terms = method(*batch)
        assert len(terms.subnets) == (1 if step % 3 == 0 else 0)
        assert torch.allclose(terms.loss.detach(), terms.main_ce + 6.0 * terms.subnet_kl)


def test_the_balance_rises_over_its_share_of_training(network, batch):
    method = StimulativeTraining(network, balance=4.0, balance_ramp=0.5, total_steps=8)
    balances = []
    for _ in range(8):
        balances.append(method.current_balance)
        method(*batch)
    assert balances == [1.0, 2.0, 3.0, 4.0, 4.0, 4.0, 4.0, 4.0]
    assert StimulativeTraining(network, balance=4.0, balance_ramp=0.0, total_steps=8).current_balance == 4.0
    assert StimulativeTraining(network, balance=4.0).current_balance == 4.0


@pytest.mark.parametrize("name", ["stimulative", "group_knowledge"])
@pytest.mark.parametrize("accumulate", [1, 2, 3])
def test_the_balance_is_full_at_the_same_share_of_training_however_many_batches_are_accumulated(
    name, accumulate, network, batch
):
    method = METHODS[name](network, balance=4.0, balance_ramp=0.5, total_steps=2 * 6)  # two epochs of six batches
    optimizer = torch.optim.SGD(method.parameters(), lr=0.01)
    used = []
    for number in range(1, 13):
        used.append(method.current_balance)
        method.backward(*batch, scale=1 / accumulate)
        if number % accumulate == 0:
            optimizer.step()
            optimizer.zero_grad()
    assert used == pytest.approx([min(4.0, 4.0 * (at + 1) / 6) for at in range(12)])


@pytest.mark.parametrize("name", ["stimulative", "group_knowledge"])
@pytest.mark.parametrize("settings", [{}, {"balance_ramp": 0}, {"balance": 0.0}])
def test_more_batches_than_were_said_are_noticed_once(name, settings, network, batch):
    method = METHODS[name](network, total_steps=2, **settings)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(2):
            method(*batch)
        method.eval()(*batch)
        assert not caught
        for _ in range(3):
            method.train()(*batch)
    assert len(caught) == (0 if settings else 1)
    assert all("goes on after the 2 batches that total_steps says it takes" in str(one.message) for one in caught)


def test_several_subnets_enter_by_their_mean(network, batch):
    method = StimulativeTraining(network)
    single = [float(method(*batch, [subnet]).subnet_kl) for subnet in ("1-1", "2-3")]
    both = float(method(*batch, ["1-1", "2-3"]).subnet_kl)
    assert both == pytest.approx(sum(single) / 2, rel=1e-10)
    assert len(StimulativeTraining(network, subnets_per_step=4)(*batch).subnets) == 4


def test_frozen_statistics_are_those_of_common_training(network, batch):
    common, frozen, mixed = (copy.deepcopy(network) for _ in range(3))
    CommonTraining(common)(*batch)
    StimulativeTraining(frozen)(*batch, ["1-1"])
    StimulativeTraining(mixed, freeze_subnet_statistics=False)(*batch, ["1-1"])
    for (name, expected), (_, actual), (_, other) in zip(
        common.named_buffers(), frozen.named_buffers(), mixed.named_buffers(), strict=True
    ):
        assert torch.equal(expected, actual), name
        # of subnet 1-1, the first block is shared, this one sees other activations, and the rest is skipped
        assert torch.equal(expected, other) == ("stages.1.0" not in name), name


def test_the_temperature_softens_both_and_scales_back(network, batch):
    x, y = batch
    main, shallow = network.run(x, ["3-3", "1-1"])
    expected = F.kl_div((shallow / 3).log_softmax(-1), (main / 3).softmax(-1), reduction="batchmean") * 9
    assert torch.allclose(StimulativeTraining(network, temperature=3.0)(x, y, ["1-1"]).subnet_kl, expected, rtol=1e-8)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"balance": -1.0}, "balance: got -1.0, but it is 0 or more"),
        ({"balance_ramp": 1.5}, "balance_ramp: got 1.5, but it is a share of training, 0 to 1"),
        ({"temperature": 0.0}, "temperature: got 0.0, but it is above 0"),
        ({"subnets_per_step": 0}, "subnets_per_step: got 0, but it is 1 or more"),
        ({"every": 0}, "every: got 0, but it is 1 or more"),
        ({"schedule": "eager"}, "schedule: got 'eager', but it is joint or lean"),
        ({"sampler": "orderd"}, "there is no sampler 'orderd', known: ordered, unordered, interstage, late"),
        ({"sampler": {"name": "unordered", "keep": 2}}, "'keep' is a probability above 0 and below 1, got 2"),
        ({"sampler": {"name": "interstage", "ranges": [[1, 9], [1, 2]]}}, "range 1..9 of stage 0 does not fit"),
    ],
)
def test_impossible_settings_are_refused(network, settings, message):
    with pytest.raises(UsageError) as caught:
        StimulativeTraining(network, **settings)
    assert message in str(caught.value)


def test_a_plain_model_is_refused(network):
    with pytest.raises(
        UsageError, match=r"trains a ResidualNetwork, got Net: stimulative\.unravel\(model, example_input"
    ):
        StimulativeTraining(network.model)


def test_all_impossible_settings_are_named_at_once(network):
    with pytest.raises(UsageError, match=r"balance: .*every: .*schedule: "):
        StimulativeTraining(network, balance=-1.0, every=0, schedule="eager")


@pytest.mark.parametrize("name", METHODS)
def test_what_the_loop_asks_is_common_training_s_unless_a_method_says_otherwise(name, network):
    method = METHODS[name](network)
    of_subnets = name in ("stimulative", "group_knowledge")
    assert method.current_balance == (1.0 if of_subnets else 0.0)
    assert ("method.balance" in method.advice) == of_subnets and bool(method.advice) == of_subnets
    assert not method.calls_backward and not method.pollutes_statistics and not method.calibrates
    assert METHODS[name].problem_on_devices({}) is None and METHODS[name].problems({}) == []
    before = {key: value.clone() for key, value in network.model.state_dict().items()}
    with method.as_deployed():
        pass
    assert all(torch.equal(value, before[key]) for key, value in network.model.state_dict().items())


def test_a_method_with_several_backward_passes_says_so(network, batch):
    lean = StimulativeTraining(network, schedule="lean")
    assert lean.calls_backward
    losses = []
    lean.backward(*batch, ["1-1"], backward=losses.append)
    assert len(losses) == 2
    losses.clear()
    StimulativeTraining(network).backward(*batch, ["1-1"], backward=losses.append)
    assert len(losses) == 1


def test_a_method_says_when_statistics_and_logits_are_not_the_main_net_s(network):
    assert StimulativeTraining(network, freeze_subnet_statistics=False).pollutes_statistics
    assert METHODS["group_knowledge"](network, freeze_subnet_statistics=False).pollutes_statistics
    assert StimulativeTraining(network, normalise_main=True).calibrates


def test_a_method_is_found_by_its_name_also_one_that_was_added(monkeypatch):
    class Mine(CommonTraining):
        pass

    assert all(method_named(name) is method for name, method in METHODS.items())
    monkeypatch.setitem(METHODS, "mine", Mine)
    assert method_named("mine") is Mine
    assert load_recipe("digits", {"method.name": "mine"}).method.settings == {}
    assert method_named("stimulative.methods:StimulativeTraining") is StimulativeTraining
    with pytest.raises(UsageError, match=r"unknown method 'comon', known: common, .*, mine, package.module:Class; "):
        method_named("comon")


def test_a_sampler_of_ones_own(network, batch):
    def middle(space, generator):
        return stimulative.Subnet.parse("2-2")

    assert StimulativeTraining(network, sampler=middle)(*batch).subnets == (stimulative.Subnet.parse("2-2"),)
