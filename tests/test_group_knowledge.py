"""Group knowledge: who learns from whom, with hand-worked numbers, and what is drawn."""

import copy
import itertools
import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from nets import LoopedNet, SequentialNet, images, randomised
from torch import Tensor

from stimulative.errors import UsageError
from stimulative.methods import CommonTraining, GroupKnowledge, group_knowledge
from stimulative.methods.balance import BalanceSchedule
from stimulative.objectives import group_divergence, running_averages
from stimulative.residual import ResidualNetwork, unravel
from stimulative.training import load_recipe

LABELS = torch.tensor([0, 1, 2, 3])


def made(make=SequentialNet) -> ResidualNetwork:
    torch.manual_seed(0)
    return unravel(randomised(make()), images(2))


def gradients(network: ResidualNetwork) -> dict[str, Tensor]:
    return {name: p.grad.clone() for name, p in network.model.named_parameters() if p.grad is not None}


def logits(*rows: float) -> Tensor:
    """Logits of two classes: the first one's is 0, the second one's the logarithm of a number."""
    return torch.tensor([[0.0, math.log(row)] for row in rows], dtype=torch.float64)


def test_averages_after_each_tensor_by_hand():
    values = [torch.tensor([8.0]), torch.tensor([4.0]), torch.tensor([0.0])]
    assert [float(v) for v in running_averages(values, momentum=0.75)] == [8.0, 7.0, 5.25]
    assert [float(v) for v in running_averages(values, momentum=0.0)] == [8.0, 4.0, 0.0]
    assert running_averages([], momentum=0.5) == []


def test_averages_are_precise_and_have_no_gradient():
    value = torch.ones(3, dtype=torch.bfloat16, requires_grad=True)
    first, second = running_averages([value, value], momentum=0.5)
    assert first.dtype == second.dtype == torch.float32
    assert not first.requires_grad and not second.requires_grad


@pytest.mark.parametrize("momentum", [-0.1, 1.0])
def test_an_impossible_momentum_is_refused(momentum):
    with pytest.raises(UsageError, match=f"from 0 to below 1; got {momentum}"):
        running_averages([torch.ones(1)], momentum=momentum)


def test_averages_of_different_shapes_are_refused():
    with pytest.raises(UsageError, match=r"one shape have an average; got \[\(1,\), \(2,\)\]"):
        running_averages([torch.ones(1), torch.ones(2)], momentum=0.5)


def test_the_divergence_by_hand():
    main = logits(3)  # probabilities 1/4, 3/4
    loops = [[logits(1), logits(3)], [logits(9), logits(1)]]
    # groups: level 1 of both loops averages to (0 + ln 9) / 2 = ln 3 when the second loop has come
    by_hand = [
        0.25 * math.log(0.25 / 0.5) + 0.75 * math.log(0.75 / 0.5),  # loop 1: main teaches 1/2, 1/2
        0.5 * math.log(0.5 / 0.25) + 0.5 * math.log(0.5 / 0.75),  # that teaches 1/4, 3/4
        0.25 * math.log(0.25 / 0.1) + 0.75 * math.log(0.75 / 0.9),  # loop 2: main teaches 1/10, 9/10
        0.25 * math.log(0.25 / 0.5) + 0.75 * math.log(0.75 / 0.5),  # the group's 1/4, 3/4 teaches 1/2, 1/2
    ]
    assert by_hand == pytest.approx([0.130812, 0.143841, 0.092332, 0.130812], abs=1e-6)
    found = group_divergence(main, loops, momentum=0.5)
    assert float(found) == pytest.approx(sum(by_hand) / 4, rel=1e-12) == pytest.approx(0.124449, abs=1e-6)


@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_the_divergence_against_a_second_implementation(temperature):
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(3, 2, 6, 5, generator=generator, dtype=torch.float64)  # loops, levels, batch, classes
    main = torch.randn(6, 5, generator=generator, dtype=torch.float64)
    expected = []
    average = [main, None, None]
    for loop in range(3):
        for level in (1, 2):
            own = z[loop, level - 1]
            old = average[level]
            average[level] = own if old is None else 0.8 * old + 0.2 * own
            p, q = ((t / temperature).softmax(-1) for t in (average[level - 1], own))
            expected.append((p * (p / q).log()).sum(-1).mean() * temperature**2)
    found = group_divergence(main, list(z), momentum=0.8, temperature=temperature)
    torch.testing.assert_close(found, torch.stack(expected).mean(), rtol=1e-12, atol=0)


def test_no_teacher_gets_a_gradient():
    main, first, second = (logits(n).requires_grad_() for n in (3, 2, 7))
    # level 2 is the only one that learns: level 1 equals the main net
    group_divergence(main, [[main.detach().clone().requires_grad_(), second]]).backward()
    assert main.grad is None and second.grad is not None
    same = main.detach().clone().requires_grad_()
    group_divergence(main, [[same, second]]).backward()
    torch.testing.assert_close(same.grad, torch.zeros_like(same), rtol=0, atol=1e-12)
    group_divergence(main, [[first]]).backward()
    assert main.grad is None and bool(first.grad.abs().sum() > 0)


@pytest.mark.parametrize("loops", [[], [[]], [[logits(1)], []], [[logits(1)], [logits(1), logits(1)]]])
def test_loops_of_different_levels_are_refused(loops):
    with pytest.raises(UsageError, match=r"same number of subnets, one or more"):
        group_divergence(logits(1), loops)


def test_a_step_is_cross_entropy_and_the_weighted_divergence_of_its_groups():
    network = made()
    reference = copy.deepcopy(network)
    chosen = ["3-3", "2-3", "1-1", "2-4", "2-2", "2-1"]
    method = GroupKnowledge(network, balance=2.5, momentum=0.3, temperature=2.0, label_smoothing=0.1)
    terms = method.backward(images(), LABELS, chosen)
    main, *others = reference.run(images(), ["3-4", *chosen])
    kl = group_divergence(main, [others[:3], others[3:]], momentum=0.3, temperature=2.0)
    ce = F.cross_entropy(main, LABELS, label_smoothing=0.1)
    (ce + 2.5 * kl).backward()
    torch.testing.assert_close(terms.main_ce, ce.detach(), rtol=1e-12, atol=0)
    torch.testing.assert_close(terms.subnet_kl, kl.detach(), rtol=1e-10, atol=0)
    torch.testing.assert_close(terms.loss, (ce + 2.5 * kl).detach(), rtol=1e-10, atol=0)
    assert [str(subnet) for subnet in terms.subnets] == chosen
    expected, found = gradients(reference), gradients(network)
    assert expected.keys() == found.keys() == dict(network.model.named_parameters()).keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-8, atol=1e-12, msg=name)


def test_the_first_level_learns_from_the_main_net_alone():
    network = made()
    terms = GroupKnowledge(network, levels=1, loops=2)(images(), LABELS, ["1-2", "2-1"])
    main, *others = network.run(images(), ["3-4", "1-2", "2-1"])
    p = main.softmax(-1)
    expected = [(p * (p.log() - z.log_softmax(-1))).sum(-1).mean() for z in others]
    torch.testing.assert_close(terms.subnet_kl, (sum(expected) / 2).detach(), rtol=1e-9, atol=0)


def test_the_main_net_is_no_pupil():
    # with one subnet that is the main net itself, teacher and pupil agree and nothing is added
    network, common = made(), made()
    terms = GroupKnowledge(network, levels=2, loops=1, balance=3.0).backward(images(), LABELS, ["3-4", "3-4"])
    CommonTraining(common).backward(images(), LABELS)
    assert float(terms.subnet_kl) == pytest.approx(0, abs=1e-14)
    for name, value in gradients(common).items():
        torch.testing.assert_close(gradients(network)[name], value, rtol=1e-9, atol=1e-12)


def test_every_step_draws_loops_of_nested_subnets_and_shares_what_they_share():
    network = made()
    calls = 0

    def count(*_):
        nonlocal calls
        calls += 1

    network.model.stage1[0].conv1.register_forward_hook(count)
    method = GroupKnowledge(network, loops=3, levels=4, seed=2)
    firsts = set()
    for _ in range(4):
        calls = 0
        subnets = method(images(), LABELS).subnets
        assert len(subnets) == 12 and calls == 1, "the first block is the same for all"
        for start in range(0, 12, 4):
            depths = [(3, 4), *(subnet.depths for subnet in subnets[start : start + 4])]
            assert all(a >= b for outer, inner in itertools.pairwise(depths) for a, b in zip(outer, inner, strict=True))
            firsts.add(depths[1])
    assert len(firsts) > 3, "each loop begins from the main net"


def test_balance_0_is_common_training_at_its_cost():
    ours, common = made(), made()
    calls = []
    method = GroupKnowledge(ours, balance=0.0)
    ours.model.register_forward_hook(lambda *_: calls.append(1))
    terms = method.backward(images(), LABELS)
    CommonTraining(common).backward(images(), LABELS)
    assert len(calls) == 1 and terms.subnets == () and terms.subnet_kl == 0
    found = gradients(ours)
    assert all(torch.equal(found[name], value) for name, value in gradients(common).items())


def test_frozen_statistics_are_those_of_common_training():
    common, frozen, mixed = made(), made(), made()
    CommonTraining(common)(images(), LABELS)
    method = GroupKnowledge(frozen, levels=1)
    method(images(), LABELS, ["1-1", "2-2"])
    assert not method.pollutes_statistics
    method = GroupKnowledge(mixed, levels=1, freeze_subnet_statistics=False)
    method(images(), LABELS, ["1-1", "2-2"])
    assert method.pollutes_statistics
    expected = dict(common.model.named_buffers())
    assert all(torch.equal(expected[name], value) for name, value in frozen.model.named_buffers())
    assert not all(torch.equal(expected[name], value) for name, value in mixed.model.named_buffers())


def test_the_balance_rises_over_its_share_of_training():
    method = GroupKnowledge(made(LoopedNet), balance=4.0, balance_ramp=0.5, total_steps=8, levels=1, loops=1)
    balances = []
    for _ in range(5):
        balances.append(method.current_balance)
        terms = method(images(), LABELS)
        torch.testing.assert_close(terms.loss.detach(), terms.main_ce + balances[-1] * terms.subnet_kl)
    assert balances == [1.0, 2.0, 3.0, 4.0, 4.0]


def test_a_balance_that_does_not_rise():
    assert BalanceSchedule(4.0, 0.0).at(0, 8) == 4.0
    assert BalanceSchedule(4.0, 1.0).at(0, None) == 4.0
    assert BalanceSchedule(4.0, 1.0).at(7, 8) == 4.0


@given(st.integers(0, 2**31), st.integers(1, 4), st.integers(1, 4), st.floats(0.05, 1.0))
def test_whatever_is_drawn_would_be_accepted(seed, loops, levels, decay):
    method = GroupKnowledge(NETWORK, loops=loops, levels=levels, decay=decay, seed=seed)
    drawn = method.draw()
    assert len(drawn) == loops * levels
    assert method.checked(drawn) == drawn


NETWORK = made()


@pytest.mark.parametrize(
    ("subnets", "message"),
    [
        (["3-4", "2-2"], r"3 subnets a loop \(levels\), each inside the one before; got 2 subnets"),
        (["2-2", "1-3", "1-1"], "each subnet is inside the one before; got 1-3 after 2-2"),
        (["2-2", "[1.2]-2", "1-1"], r"each subnet is inside the one before; got \[1\.2\]-2 after 2-2"),
    ],
)
def test_subnets_that_are_not_nested_are_refused(subnets, message):
    with pytest.raises(UsageError, match=message):
        GroupKnowledge(NETWORK)(images(), LABELS, subnets)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"balance": -1.0}, "balance: got -1.0, but it is 0 or more"),
        ({"balance_ramp": 2.0}, "balance_ramp: got 2.0, but it is a share of training, 0 to 1"),
        ({"temperature": 0.0}, "temperature: got 0.0, but it is above 0"),
        ({"loops": 0}, "loops: got 0, but it is 1 or more"),
        ({"levels": 0}, "levels: got 0, but it is 1 or more"),
        ({"momentum": 1.0}, "momentum: got 1.0, but it is a share that the average keeps, from 0 to below 1"),
        ({"decay": 0.0}, "decay: got 0.0, but it is a factor above 0 and at most 1"),
        ({"decay": 1.5, "loops": -1}, "loops: got -1, but it is 1 or more; decay: got 1.5"),
    ],
)
def test_impossible_settings_are_refused(settings, message):
    with pytest.raises(UsageError) as caught:
        GroupKnowledge(NETWORK, **settings)
    assert message in str(caught.value)


def test_a_recipe_names_a_wrong_setting():
    with pytest.raises(UsageError, match=r"method\.momentum: got 1.*below 1"):
        load_recipe("digits", {"method.name": "group_knowledge", "method.momentum": 1})
    with pytest.raises(UsageError, match=r"method\.lops: unknown setting.*did you mean 'method\.loops'"):
        load_recipe("digits", {"method.name": "group_knowledge", "method.lops": 2})


def test_the_card_says_what_is_ours():
    text = (Path(group_knowledge.__file__).parent / "group_knowledge.md").read_text()
    assert text.count("| ours") >= 6 and "| the paper |" in text
