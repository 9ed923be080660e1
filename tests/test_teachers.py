"""What subnets learn from, over a step and over steps: averages by hand, and nets run one by one."""

import copy
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from interrupting import Interrupt
from nets import PreActivationNet, SequentialNet, images, randomised
from torch import Tensor

import stimulative
from stimulative.data import DataSettings, load, numbers_of
from stimulative.data.split import taken
from stimulative.errors import UsageError
from stimulative.methods import GroupKnowledge, Numbered, StimulativeTraining
from stimulative.methods.balance import BalanceSchedule
from stimulative.methods.logit_memory import LogitMemory, averaged
from stimulative.objectives import kl_divergence
from stimulative.residual import odds_of
from stimulative.runs import LAST, MODEL
from stimulative.training import load_recipe, train
from stimulative.weights import read_weights

TINY = {
    "model.arguments": {"width": 2},
    "data.batch_size": 128,
    "schedule.epochs": 4,
    "evaluation.calibration_images": 64,
}
Y = torch.tensor([0, 1, 2, 3, 0, 1])


def numbered(*numbers: int, size: int = 8) -> Numbered:
    return Numbered(torch.tensor(numbers), size)


@pytest.fixture
def network():
    torch.manual_seed(0)
    return stimulative.unravel(randomised(SequentialNet()), images())


def gradients(network) -> dict[str, Tensor]:
    return {name: p.grad.clone() for name, p in network.model.named_parameters() if p.grad is not None}


# The balance


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        (BalanceSchedule(4.0, 1.0), [1.0, 2.0, 3.0, 4.0]),
        (BalanceSchedule(4.0, 0.5), [2.0, 4.0, 4.0, 4.0]),
        (BalanceSchedule(4.0, 0.0, start=0.5), [0.0, 0.0, 4.0, 4.0]),
        (BalanceSchedule(4.0, 1.0, start=0.5), [0.0, 0.0, 2.0, 4.0]),
        (BalanceSchedule(4.0, 1.0, shape="cosine"), [0.585786, 2.0, 3.414214, 4.0]),  # 2 - 2 cos(pi k / 4)
        (BalanceSchedule(4.0, 1.0, shape="cosine_down"), [4.0, 3.414214, 2.0, 0.585786]),
        (BalanceSchedule(4.0, 0.5, shape="cosine_down"), [4.0, 2.0, 0.0, 0.0]),
        (BalanceSchedule(4.0, 1.0, start=0.5, shape="cosine_down"), [0.0, 0.0, 4.0, 2.0]),
    ],
)
def test_balances_of_four_steps_by_hand(schedule, expected):
    assert [schedule.at(step, 4) for step in range(4)] == pytest.approx(expected, abs=1e-6)


def test_before_its_start_no_subnet_runs(network):
    method = StimulativeTraining(network, balance_start=0.5, balance_ramp=0.0, total_steps=4)
    assert [len(method(images(6), Y).subnets) for _ in range(4)] == [0, 0, 1, 1]


def test_a_start_of_a_training_of_unknown_length_is_refused(network):
    with pytest.raises(
        UsageError, match=r"balance_start: 0\.5 of a training whose length is not known: give total_steps"
    ):
        StimulativeTraining(network, balance_start=0.5)(images(6), Y)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"balance_start": 1.0}, "balance_start: got 1.0, but it is a share of training, from 0 to below 1"),
        ({"balance_shape": "sine"}, "balance_shape: got 'sine', but it is linear, cosine or cosine_down"),
        ({"balance_shape": "cosine_down", "balance_ramp": 0.0}, "'cosine_down' falls over balance_ramp, which is 0"),
        ({"main_weight": 0.0}, "main_weight: got 0.0, but it is above 0"),
        (
            {"main_taught": 0.5},
            "main_taught: got 0.5, but the main net can learn from averages alone, and teacher is 'm",
        ),
        ({"main_taught": 1.5, "teacher": "weights"}, "main_taught: got 1.5, but it is a share of the main net's loss"),
        (
            {"teacher": "weight"},
            "teacher: got 'weight', but it is main, subnets, weights or images, or a mapping with ",
        ),
        ({"teacher": {"name": "main", "momentum": 0.5}}, "teacher: 'main' has no setting 'momentum', it has: none"),
        ({"teacher": {"name": "images", "momentum": 1}}, "'momentum' of 'images' is what an average keeps of itself"),
        ({"teacher": "subnets", "schedule": "lean"}, "teacher: 'subnets' goes by the order in which subnets are drawn"),
        ({"objective": {"name": "kl", "top": 1}}, "'top' of 'kl' is a number of classes, 2 or more, or null; got 1"),
        ({"objective": {"name": "kl", "direction": "back"}}, "'direction' of 'kl' is forward, reverse or both; got 'b"),
        ({"objective": {"name": "directional", "by": "size"}}, "'by' of 'directional' is deviation, teacher or length"),
        ({"objective": {"name": "mse", "scale": 2}}, "objective: 'mse' has no setting 'scale', it has: none"),
        ({"preset": "eficient"}, "preset: got 'eficient', but it is plain or efficient"),
        (
            {"preset": "efficient", "subnet_share": 0.25},
            "efficient: it sets subnet_share 0.5, sampler ordered, every 1, but",
        ),
    ],
)
def test_impossible_settings_are_refused(network, settings, message):
    with pytest.raises(UsageError) as caught:
        StimulativeTraining(network, **settings)
    assert message in str(caught.value)


def test_an_image_level_teacher_needs_numbers(network):
    method = StimulativeTraining(network, teacher="images")
    with pytest.raises(UsageError, match=r"teacher: images remembers each training image, and nobody says which ones"):
        method(images(6), Y)


@pytest.mark.parametrize("teacher", ["subnets", "images"])
def test_averages_of_logits_are_for_classes(teacher):
    network = stimulative.unravel(randomised(SequentialNet()), images())
    with pytest.raises(UsageError, match=f"teacher: got '{teacher}', but that is for logits of classes"):
        StimulativeTraining(network, teacher=teacher, task="regression")


# Over a step


def test_each_further_subnet_learns_from_the_average_so_far(network):
    x, subnets = images(6, seed=1), ["1-2", "3-1", "2-2"]
    terms = StimulativeTraining(network, teacher="subnets", subnets_per_step=3)(x, Y, subnets)
    main, first, second, third = network.run(x, ["3-4", *subnets])
    taught = [main, 0.5 * main + 0.5 * first]
    taught.append(0.5 * taught[1] + 0.5 * second)
    each = [kl_divergence(z, target) for z, target in zip((first, second, third), taught, strict=True)]
    torch.testing.assert_close(terms.subnet_kl, torch.stack(each).mean().detach(), rtol=1e-9, atol=0)


def test_an_average_of_subnets_on_part_of_the_batch_is_of_that_part(network):
    x, subnets = images(6, seed=1), ["1-2", "3-1"]
    network.eval()
    method = StimulativeTraining(network, teacher={"name": "subnets", "momentum": 0.2}, subnet_share=0.5)
    terms = method(x, Y, subnets)
    main, first, second = (z[:3] for z in network.run(x, ["3-4", *subnets]))
    each = [kl_divergence(first, main), kl_divergence(second, 0.2 * main + 0.8 * first)]
    torch.testing.assert_close(terms.subnet_kl, torch.stack(each).mean().detach(), rtol=1e-9, atol=0)


def test_the_weights_of_both_terms(network):
    x, twin = images(6, seed=1), copy.deepcopy(network)
    StimulativeTraining(network, main_weight=0.5, balance=0.5).backward(x, Y, ["1-2"])
    StimulativeTraining(twin).backward(x, Y, ["1-2"])
    for name, gradient in gradients(twin).items():
        torch.testing.assert_close(gradients(network)[name], gradient / 2, rtol=1e-9, atol=1e-12, msg=name)


@pytest.mark.parametrize("sampler", [{"name": "late", "whole": 0.7}, {"name": "nested", "decay": 0.5}])
def test_corrected_terms_are_expected_to_be_those_of_ordered_sampling(network, sampler):
    method = StimulativeTraining(network.eval(), sampler=sampler, corrected=True)
    odds = odds_of(method.sampler, network.space).of
    x, subnets = images(6, seed=1), list(network.space)
    each = {subnet: method(x, Y, [subnet]).subnet_kl for subnet in subnets}
    main, *others = network.run(x, [network.full, *subnets])
    plain = torch.stack([kl_divergence(z, main) for z in others]).mean()
    torch.testing.assert_close(sum(odds[subnet] * kl for subnet, kl in each.items()), plain.detach())
    assert method.corrections[network.full] < 1 < method.corrections[network.space.smallest]


def test_what_cannot_be_corrected_is_refused(network):
    for sampler, message in (
        ("halves", "corrected: this sampler never draws the ordered subnet 1-1"),
        (lambda space, generator: space.full, "corrected: how likely this sampler draws each subnet is not known"),
    ):
        with pytest.raises(UsageError, match=message):
            StimulativeTraining(network, sampler=sampler, corrected=True)


# Over steps


def test_averages_of_two_images_over_three_steps_by_hand():
    memory = LogitMemory(momentum=0.75)
    zeros = torch.zeros(1, 2)
    memory.learn(numbered(3), torch.tensor([[8.0, 0.0]]))
    memory.learn(numbered(5), torch.tensor([[1.0, 1.0]]))
    memory.learn(numbered(3), torch.tensor([[4.0, 4.0]]))  # 0.75 * 8 + 0.25 * 4, 0.25 * 4
    found = memory.recalled(numbered(3, 5, 4), otherwise=torch.full((3, 2), -1.0))
    assert found.tolist() == [[7.0, 1.0], [1.0, 1.0], [-1.0, -1.0]]
    again = LogitMemory(momentum=0.75)
    again.load_state_dict(memory.state_dict())
    assert torch.equal(again.recalled(numbered(3), otherwise=zeros), found[:1])


def test_an_average_of_a_class_is_of_the_means_of_its_samples():
    memory = LogitMemory(momentum=0.5)
    logits = torch.tensor([[2.0, 0.0], [4.0, 0.0], [0.0, 6.0]])
    memory.learn(numbered(1, 1, 0, size=2), logits, shared=True)
    memory.learn(numbered(1, size=2), torch.tensor([[7.0, 2.0]]), shared=True)
    assert memory.recalled(numbered(0, 1, size=2), otherwise=torch.zeros(2, 2)).tolist() == [[0.0, 6.0], [5.0, 1.0]]


def test_subnets_and_main_net_learn_from_what_was_said_of_an_image(network):
    x, of = images(6, seed=1), numbered(0, 1, 2, 3, 4, 5)
    settings = {"teacher": {"name": "images", "momentum": 0.25}, "main_taught": 0.5, "balance_ramp": 0.0}
    method = StimulativeTraining(network, **settings)
    method.numbered = of
    before = method(images(6, seed=2), Y, ["1-2"]).logits.half().double()
    twin = copy.deepcopy(network)
    method.zero_grad()
    method.numbered = of
    terms = method.backward(x, Y, ["1-2"])
    main, other = twin.run(x, ["3-4", "1-2"])
    label = F.cross_entropy(main, Y)
    kl = kl_divergence(other, (0.25 * before + 0.75 * main).detach())
    (0.5 * label + 0.5 * kl_divergence(main, before) + kl).backward()
    torch.testing.assert_close(terms.main_ce, label.detach(), rtol=1e-9, atol=0)
    torch.testing.assert_close(terms.subnet_kl, kl.detach(), rtol=1e-5, atol=0)
    for name, gradient in gradients(twin).items():
        torch.testing.assert_close(gradients(network)[name], gradient, rtol=1e-4, atol=1e-7, msg=name)


def test_average_weights_follow_the_main_net_and_are_not_trained(network):
    method = StimulativeTraining(network, teacher={"name": "weights", "momentum": 0.5})
    average = method.teaching.average.module
    first = network.model.conv.weight.detach().clone()
    method(images(6), Y)  # the first step's weights are the average
    with torch.no_grad():
        network.model.conv.weight += 1
    method(images(6), Y)
    torch.testing.assert_close(average.conv.weight, first + 0.5)
    assert not any(parameter.requires_grad for parameter in average.parameters())
    assert {id(p) for p in method.parameters() if p.requires_grad} == {id(p) for p in network.model.parameters()}
    _, one = network.run(images(6), ["3-4", "1-1"])
    expected = kl_divergence(one, average(images(6)))
    torch.testing.assert_close(method(images(6), Y, ["1-1"]).subnet_kl, expected.detach(), rtol=1e-6, atol=1e-9)


# Group knowledge over steps


def test_groups_of_two_images_over_five_steps_by_hand(network):
    """Two levels: the main net teaches level 1, and what level 1 has said of an image teaches level 2."""
    method = GroupKnowledge(network, levels=2, momentum=0.5, decay=1.0, balance_ramp=0.0).eval()
    network.train()
    method.training = True
    both, one, other = images(2, seed=3), numbered(0, 1), numbered(1, 0)

    def step(x, of, subnet):
        method.numbered = of
        terms = method(x, Y[: len(x)], [subnet])
        main, z = network.run(x, ["3-4", subnet])
        return terms.subnet_kl, main, z

    kl, main, first = step(both, one, "2-3")
    torch.testing.assert_close(kl, kl_divergence(first, main).detach(), rtol=1e-6, atol=1e-9)
    kl, _, second = step(both.flip(0), other, "1-3")  # the next level, the images the other way round
    torch.testing.assert_close(kl, kl_divergence(second, first.flip(0)).detach(), rtol=1e-2, atol=1e-6)
    kl, main, third = step(both, one, "3-2")  # a new loop begins from the main net
    torch.testing.assert_close(kl, kl_divergence(third, main).detach(), rtol=1e-6, atol=1e-9)
    kl, _, fourth = step(both, one, "3-1")
    known = 0.5 * first + 0.5 * third
    torch.testing.assert_close(kl, kl_divergence(fourth, known).detach(), rtol=1e-2, atol=1e-6)


def test_a_loop_over_steps_goes_inwards_and_goes_on_where_it_was_saved(network):
    method = GroupKnowledge(network, levels=3, seed=1)
    depths = []
    for step in range(9):
        method.numbered = numbered(*range(6))
        if step == 5:
            saved = copy.deepcopy(method.state_dict())
        (subnet,) = method(images(6), Y).subnets
        depths.append(subnet.depths)
    for start in range(0, 9, 3):
        loop = [(3, 4), *depths[start : start + 3]]
        assert all(a >= b for outer, inner in pairwise(loop) for a, b in zip(outer, inner, strict=True))
    again = GroupKnowledge(network, levels=3, seed=8)
    again.load_state_dict(saved)
    for expected in depths[5:]:
        again.numbered = numbered(*range(6))
        assert again(images(6), Y).subnets[0].depths == expected


def test_averages_of_classes_need_no_numbers(network):
    method = GroupKnowledge(network, memory="classes", levels=2, momentum=0.0)
    x = images(6)
    method(x, Y, ["2-2"])
    _, first, second = network.run(x, ["3-4", "2-2", "1-1"])
    kl = method(x, Y, ["1-1"]).subnet_kl
    means = torch.stack([first[label == Y].mean(0) for label in range(4)])
    torch.testing.assert_close(kl, kl_divergence(second, means[Y]).detach(), rtol=1e-2, atol=1e-6)


def test_one_subnet_a_step_inside_the_one_before(network):
    method = GroupKnowledge(network, memory="classes", levels=2)
    with pytest.raises(UsageError, match=r"averages are over steps takes one subnet a step; got 2 subnets"):
        method(images(6), Y, ["2-2", "1-1"])
    method(images(6), Y, ["2-2"])
    with pytest.raises(UsageError, match=r"each subnet is inside the one before; got 1-3 after 2-2"):
        method(images(6), Y, ["1-3"])


# Real runs


@pytest.mark.parametrize(
    "settings",
    [
        {"method.teacher": {"name": "images", "momentum": 0.0}, "method.main_taught": 0.5},
        {"method.teacher": "weights", "method.balance_start": 0.3},
        {"method.name": "group_knowledge"},
    ],
)
def test_a_run_that_was_stopped_goes_on_with_the_same_averages(settings, tmp_path):
    recipe = load_recipe("digits", settings | TINY)
    train(recipe, tmp_path / "whole", progress=False)
    with pytest.raises(KeyboardInterrupt):
        train(recipe, tmp_path / "stopped", progress=False, callbacks=[Interrupt(checkpoint=(LAST, 2))])
    train(recipe, tmp_path / "stopped", resume=True, progress=False)
    whole, stopped = (read_weights(tmp_path / name / MODEL) for name in ("whole", "stopped"))
    assert all(torch.equal(value, stopped[name]) for name, value in whole.items())


@pytest.mark.parametrize(("data", "known"), [("digits", True), ("fake", True), ("mixed", False)])
def test_training_images_have_numbers_that_stay(data, known):
    words = {"digits": {}, "fake": {"name": "fake", "images": 20}, "mixed": {"mixup": 1.0}}[data]
    loader = load(DataSettings(**{"name": "digits", "batch_size": 8, "workers": 0, **words}), seed=0).train
    images_of: dict[int, Tensor] = {}
    for epoch in range(2):
        loader.set_epoch(epoch)
        for number, (_, y) in enumerate(loader):
            found = numbers_of(loader, number)
            assert (found is not None) == known
            if found is not None:
                numbers, size = found
                assert len(numbers) == len(y) and int(numbers.max()) < size
                assert all(
                    int(images_of.setdefault(int(n), one)) == int(one) for n, one in zip(numbers, y, strict=True)
                )
    assert loader.images <= len(images_of) if known else not images_of


@pytest.mark.parametrize(
    "settings", [{"method.teacher": "images"}, {"method.name": "group_knowledge", "method.memory": "images"}]
)
def test_a_method_that_remembers_mixed_images_is_refused_before_any_work(settings, tmp_path):
    recipe = load_recipe("digits", settings | TINY | {"data.mixup": 1.0})
    with pytest.raises(UsageError, match=r"the method remembers each training image, and nobody says which ones"):
        train(recipe, tmp_path / "run", progress=False)
    assert not (tmp_path / "run" / "metrics.csv").exists()


# Tails on smaller feature maps


@pytest.mark.parametrize("samples", [None, 2])
def test_what_a_subnet_does_not_share_runs_on_smaller_feature_maps(network, samples):
    """In evaluation mode, against nets written out; subnets that share a part of a tail among each other, too."""
    model, x, subnets = network.model.eval(), images(4, seed=1), ["3-4", "2-3", "2-1", "3-4", "3-2"]
    found = {position: z for position, z, _ in network.passes(x, subnets, samples=samples, shrink=2)}
    torch.testing.assert_close(found[0], model(x))
    shared = model.act(model.bn(model.conv(x[:samples])))
    two = F.avg_pool2d(model.stage1[:2](shared), 2, ceil_mode=True)
    three = model.stage2[:2](model.stage1(shared))

    def logits(hidden, blocks):
        return model.head(blocks(hidden).mean((2, 3)))

    expected = {
        1: logits(two, model.stage2[:3]),
        2: logits(two, model.stage2[:1]),
        4: model.head(F.avg_pool2d(three, 2, ceil_mode=True).mean((2, 3))),
    }
    for position, z in expected.items():
        torch.testing.assert_close(found[position], z, rtol=1e-9, atol=1e-12, msg=subnets[position])


def test_maps_cannot_be_smaller_where_the_main_net_does_not_run_first(network):
    with pytest.raises(UsageError, match="with shrink=, the first subnet has to be the main net"):
        list(network.passes(images(4), ["2-1", "3-4"], shrink=2))


def test_a_net_without_feature_maps_has_no_tails_to_shrink():
    torch.manual_seed(0)
    vit = timm.create_model(
        "vit_tiny_patch16_224", num_classes=4, img_size=16, patch_size=8, depth=3, embed_dim=12, num_heads=1
    )
    network = stimulative.unravel(vit, torch.randn(2, 3, 16, 16))
    with pytest.raises(UsageError, match=r"tail_shrink: .* 2 times smaller: nothing changes, since it has no feature"):
        StimulativeTraining(network, tail_shrink=2)
    with pytest.raises(UsageError, match=r"tail_shrink: got 0, but it is a whole number, 1 or more"):
        StimulativeTraining(network, tail_shrink=0)


# What went wrong before


def test_subnets_beside_a_loss_learn_in_the_order_in_which_they_were_drawn(network):
    x, settings = images(6, seed=1), {"teacher": "subnets", "subnets_per_step": 3, "seed": 4}
    method, twin = StimulativeTraining(network, **settings), StimulativeTraining(copy.deepcopy(network), **settings)
    for _ in range(3):
        with method.beside() as subnets:
            network.model(x)
        torch.testing.assert_close(subnets.subnet_kl, twin(x, Y).subnet_kl)


def test_average_weights_are_asked_for_each_batch(network):
    method = StimulativeTraining(network, teacher="weights").eval()
    one, other = images(6, seed=1), images(4, seed=2)
    first = [method(x, Y[: len(x)], ["1-1"]).subnet_kl for x in (one, other)]
    assert [method(x, Y[: len(x)], ["1-1"]).subnet_kl for x in (one, other)] == first


def test_average_weights_leave_the_batch_alone():
    model = randomised(PreActivationNet(stem=False))
    x = torch.randn(4, model.head.in_features, 6, 6, dtype=torch.float64)
    network = stimulative.unravel(model, x)
    before = x.clone()
    StimulativeTraining(network, teacher="weights", main_taught=0.5)(x, Y[:4])
    assert torch.equal(x, before)


def test_sixteen_bits_are_too_coarse_for_average_weights(network):
    method = StimulativeTraining(network, teacher="weights").to(torch.bfloat16)
    with pytest.raises(UsageError, match=r"averages weights in steps that torch.bfloat16 is too coarse for"):
        method(images(6).bfloat16(), Y)


def test_masked_classes_stay_so_in_averages():
    masked = torch.tensor([[1.0, -torch.inf]])
    assert averaged(masked, masked, 0.5).tolist() == [[1.0, -torch.inf]]
    memory = LogitMemory(momentum=0.5)
    for _ in range(2):
        memory.learn(numbered(0), torch.tensor([[1e6, -torch.inf]]))
    found = memory.recalled(numbered(0), otherwise=masked)
    assert found.isfinite().all() and found[0, 0] > 6e4


def test_a_slow_average_moves():
    memory = LogitMemory(momentum=0.99)
    for value in (8.0, *[8.3] * 500):
        memory.learn(numbered(0), torch.tensor([[value, 0.0]]))
    assert memory.recalled(numbered(0), otherwise=torch.zeros(1, 2))[0, 0] == pytest.approx(8.3, abs=0.01)


def test_a_restored_average_is_its_own(network):
    one = LogitMemory(momentum=0.0)
    one.learn(numbered(0), torch.ones(1, 2))
    other = LogitMemory(momentum=0.0)
    other.load_state_dict(one.state_dict())
    other.learn(numbered(0), torch.zeros(1, 2))
    assert one.recalled(numbered(0), otherwise=torch.zeros(1, 2)).tolist() == [[1.0, 1.0]]


@pytest.mark.parametrize(
    ("of", "message"),
    [(numbered(0), r"got logits \(2, 3\) and 1 numbers"), (numbered(0, 8), "from 0 to 7; got 0 to 8")],
)
def test_numbers_that_are_none_are_refused(of, message):
    with pytest.raises(UsageError, match=message):
        LogitMemory(momentum=0.0).recalled(of, otherwise=torch.zeros(2, 3))


def test_numbers_are_for_one_step(network):
    method = StimulativeTraining(network, teacher="images")
    method.numbered = numbered(*range(6))
    method(images(6), Y)
    with pytest.raises(UsageError, match="nobody says which ones"):
        method(images(6), Y)


def test_averages_over_steps_are_of_logits_of_samples():
    network = stimulative.unravel(randomised(SequentialNet()), images())
    method = GroupKnowledge(network, task="regression")
    method.numbered = numbered(*range(6))
    assert method.within_steps and len(method.draw()) == 6
    with pytest.raises(UsageError, match=r"memory: got 'classes', but averages over steps are of logits of classes"):
        GroupKnowledge(network, task="regression", memory="classes")


def test_bytes_are_classes_too(network):
    y = Y.to(torch.uint8)
    GroupKnowledge(network, memory="classes")(images(6), y)
    assert StimulativeTraining(network, objective="decoupled")(images(6), y).loss.isfinite()


def test_no_class_is_lost_by_taking_some_images():
    labels = np.repeat([0, 1], [1000, 2])
    with pytest.raises(
        UsageError, match=r"train_images: 10 of 1,002 images leave fewer than 2 of class 'b'; take more"
    ):
        taken(labels, 10, class_names=("a", "b"))
    labels = np.repeat([0, 1], 500)
    assert Counter(labels[taken(labels, 10, class_names=("a", "b"))].tolist()) == {0: 5, 1: 5}
