"""Stimulative training beyond its paper: KL−, labels, smaller inputs, part of the batch, late subnets, `efficient`."""

import copy
import math
import re
import sys
from collections import Counter
from pathlib import Path

import pytest
import timm
import torch
import torch.nn.functional as F
import torchvision.transforms.v2.functional as TF
import yaml
from nets import CLASSES, LoopedNet, SequentialNet, StatefulNet, images, randomised
from torch import Tensor, nn

import stimulative
from stimulative.errors import UsageError
from stimulative.methods import METHODS, CommonTraining, StimulativeTraining
from stimulative.methods.inputs import resized, samples_of, sides_of
from stimulative.methods.presets import PRESETS
from stimulative.objectives import directional_divergence, kl_divergence, normalised
from stimulative.residual import ResidualNetwork, SubnetSpace, resolve_sampler
from stimulative.residual.sampling import late
from stimulative.training import load_recipe

PLUS = {"objective": "directional", "normalise_main": True, "smaller_inputs": 0.43, "subnets_per_step": 6}
WAYS = {
    "part of the batch": {"subnet_share": 0.5, "subnets_per_step": 3},
    "smaller inputs": {"smaller_inputs": 0.4, "subnets_per_step": 4},
    "all of ST++": PLUS,
    "ST++ on part of the batch": {**PLUS, "subnet_share": 0.5},
    "efficient": {"efficient": True},
    "efficient and directional": {"efficient": True, "objective": "directional"},
    "labels on part of the batch": {"objective": "labels", "subnet_share": 0.5, "subnets_per_step": 3},
    "taught by average weights": {"teacher": "weights", "main_taught": 0.5, "subnets_per_step": 2},
    "as published": {**PLUS, "resizing": "published", "normalise_again": {"mean": [0.4] * 3, "std": [0.3] * 3}},
    "shrunk tails": {"tail_shrink": 2, "subnet_share": 0.5, "subnets_per_step": 4},
    "of the likeliest classes": {"objective": {"name": "kl", "top": 3, "direction": "both", "sure": 2.0}},
}


@pytest.fixture
def network() -> ResidualNetwork:
    torch.manual_seed(0)
    return stimulative.unravel(randomised(SequentialNet()), images())


@pytest.fixture
def batch() -> tuple[Tensor, Tensor]:
    return images(6, seed=1), torch.tensor([0, 1, 2, 3, 0, 1])


def gradients(network: ResidualNetwork) -> dict[str, Tensor]:
    return {name: p.grad.clone() for name, p in network.named_parameters() if p.grad is not None}


def recorded(network: ResidualNetwork, monkeypatch) -> list[tuple[Tensor, list[str], int | None]]:
    """What the network is asked to run from now on: the images, the subnets, on how many samples."""
    runs, passes = [], network.passes

    def spy(x, subnets, **settings):
        runs.append((x, [str(subnet) for subnet in subnets], settings.get("samples")))
        return passes(x, subnets, **settings)

    monkeypatch.setattr(network, "passes", spy)
    return runs


# Several subnets: their mean or their sum

SIX = ["3-4", "2-1", "1-1", "3-2", "2-1", "1-4"]
REDUCED = {
    "plain": {},
    "every other batch": {"every": 2},
    "groups of one size": {"smaller_inputs": 0.5, "objective": "directional"},
    "part of the batch": {"subnet_share": 0.5},
}


def summed_plainly(model: SequentialNet, x: Tensor, y: Tensor, balance: float) -> None:
    """A loop that goes backward from each subnet's own loss, as the published code does."""
    main = model(x)
    F.cross_entropy(main, y).backward()
    target = main.detach().softmax(-1)
    for first, second in (map(int, text.split("-")) for text in SIX):
        hidden = model.stage1[:first](model.act(model.bn(model.conv(x))))
        logits = model.head(model.stage2[:second](hidden).mean((2, 3)))
        divergence = (target * (target.log() - logits.log_softmax(-1))).sum(-1).mean()
        (balance * divergence).backward()


@pytest.mark.parametrize("schedule", ["joint", "lean"])
def test_the_sum_of_six_subnets_is_that_of_a_loop_over_their_losses(network, batch, schedule):
    model = copy.deepcopy(network.model)
    summed_plainly(model, *batch, balance=0.7)
    terms = StimulativeTraining(network, balance=0.7, reduction="sum", schedule=schedule).backward(*batch, SIX)
    for (name, expected), found in zip(model.named_parameters(), network.model.parameters(), strict=True):
        assert torch.allclose(found.grad, expected.grad, rtol=1e-8, atol=1e-11), name
    assert torch.allclose(terms.loss, terms.main_ce + 0.7 * 6 * terms.subnet_kl, rtol=1e-12)


def stepped(network, batch, schedule: str, **settings) -> tuple[dict[str, Tensor], float]:
    """The gradients of a step, and the divergence that it reports."""
    twin, (x, y) = copy.deepcopy(network), batch
    if schedule != "beside":
        kl = StimulativeTraining(twin, schedule=schedule, **settings).backward(x, y).subnet_kl
    else:
        with StimulativeTraining(twin, **settings).beside() as subnets:
            loss = F.cross_entropy(twin.model(x), y)
        (loss + subnets.term).backward()
        kl = subnets.subnet_kl
    return gradients(twin), float(kl)


@pytest.mark.parametrize("way", REDUCED)
@pytest.mark.parametrize("schedule", ["joint", "lean", "beside"])
def test_the_sum_weighs_as_many_times_the_mean_as_there_are_subnets(network, batch, schedule, way):
    settings = {"subnets_per_step": 6, "seed": 3, **REDUCED[way]}
    alone, _ = stepped(network, batch, schedule, **{**settings, "balance": 0.0})
    mean, kl_of_mean = stepped(network, batch, schedule, **settings, balance=0.7)
    total, kl_of_sum = stepped(network, batch, schedule, **settings, balance=0.7, reduction="sum")
    assert kl_of_sum == kl_of_mean > 0
    for name, value in total.items():
        assert torch.allclose(value - alone[name], 6 * (mean[name] - alone[name]), rtol=1e-8, atol=1e-12), name


def test_another_reduction_is_refused(network):
    with pytest.raises(UsageError, match="reduction: got 'max', but it is mean or sum"):
        StimulativeTraining(network, reduction="max")  # pyright: ignore[reportArgumentType]


# KL−


def test_the_directional_objective_is_the_divergence_of_normalised_logits(network, batch):
    x, y = batch
    main, shallow = network.eval().run(x, ["3-4", "2-1"])
    settings = {"objective": "directional", "temperature": 2.0, "amplitude": 1.5}
    terms = StimulativeTraining(network, balance=3.0, **settings)(x, y, ["2-1"])
    expected = directional_divergence(shallow, main, temperature=2.0, amplitude=1.5)
    assert torch.allclose(terms.subnet_kl, expected, rtol=1e-10)
    assert torch.allclose(terms.main_ce, F.cross_entropy(main, y), rtol=1e-10)
    assert torch.allclose(terms.loss, F.cross_entropy(main, y) + 3 * expected, rtol=1e-10)


@pytest.mark.parametrize("objective", ["kl", "directional"])
def test_the_cross_entropy_of_the_main_net_is_normalised_only_if_asked_for(network, batch, objective):
    x, y = batch
    main = network.eval()(x)
    for asked, logits in ((False, main), (True, normalised(main, amplitude=2.0))):
        method = StimulativeTraining(
            network, label_smoothing=0.1, objective=objective, amplitude=2.0, normalise_main=asked
        )
        terms = method(x, y, ["2-1"])
        assert torch.allclose(terms.main_ce, F.cross_entropy(logits, y, label_smoothing=0.1), rtol=1e-10)
        assert torch.allclose(terms.logits, main), "what comes out is always as the model gives it"


def test_how_sure_the_nets_are_has_no_part_in_the_directional_objective(network, batch):
    def divergence(objective: str) -> float:
        return float(StimulativeTraining(network.eval(), objective=objective)(*batch, ["1-2"]).subnet_kl)

    before = {objective: divergence(objective) for objective in ("kl", "directional")}
    with torch.no_grad():
        network.model.head.weight.mul_(3)
        network.model.head.bias.mul_(3)
    assert divergence("directional") == pytest.approx(before["directional"], rel=1e-4)
    assert divergence("kl") > 2 * before["kl"]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, False),
        ({"objective": "directional"}, True),
        ({"objective": "labels"}, False),
        ({"normalise_main": True}, True),
        ({"efficient": True}, False),
    ],
)
def test_a_method_whose_loss_does_not_see_the_scale_of_logits_calibrates(network, settings, expected):
    assert StimulativeTraining(network, **settings).calibrates is expected


# Labels


@pytest.mark.parametrize("schedule", ["joint", "lean"])
@pytest.mark.parametrize("share", [1.0, 0.5])
def test_subnets_that_learn_from_labels_are_cross_entropies_of_nets_run_one_by_one(network, batch, schedule, share):
    x, y = batch
    twin = copy.deepcopy(network.eval())
    method = StimulativeTraining(
        network,
        objective="labels",
        balance=2.0,
        label_smoothing=0.1,
        subnet_share=share,
        schedule=schedule,
        temperature=3.0,  # which labels have no use for
    )
    terms = method.backward(x, y, ["[0.2]-[0.3]", "2-1"])
    part = round(6 * share)
    main = F.cross_entropy(twin(x), y, label_smoothing=0.1)
    subnets = [
        F.cross_entropy(twin(x[:part], subnet), y[:part], label_smoothing=0.1) for subnet in ("[0.2]-[0.3]", "2-1")
    ]
    expected = main + 2 * (subnets[0] + subnets[1]) / 2
    expected.backward()
    assert torch.allclose(terms.loss, expected, rtol=1e-10)
    assert torch.allclose(terms.main_ce, main, rtol=1e-10)
    assert torch.allclose(terms.subnet_kl, (subnets[0] + subnets[1]) / 2, rtol=1e-10), "their loss is reported there"
    for (name, wanted), actual in zip(gradients(twin).items(), gradients(network).values(), strict=True):
        assert (actual - wanted).abs().max() <= 1e-10 * max(1e-3, float(wanted.abs().max())), name


def test_labels_teach_a_subnet_what_the_main_net_does_not_know(network, batch):
    """A main net that gives every image the same logits has nothing to teach; labels still do."""
    x, y = batch
    with torch.no_grad():
        network.model.head.weight.zero_()
        network.model.head.bias.zero_()
    found = {}
    for objective in ("kl", "labels"):
        method = StimulativeTraining(network.eval(), objective=objective)
        found[objective] = method(x, y, ["2-1"]).subnet_kl
    assert found["kl"].item() == pytest.approx(0, abs=1e-12)
    assert found["labels"].item() == pytest.approx(math.log(CLASSES))


class Tokens(nn.Module):
    """A language model of residual blocks: logits for each position."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(CLASSES, 6)
        self.blocks = nn.ModuleList(Residual() for _ in range(3))
        self.head = nn.Linear(6, CLASSES)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens)
        for block in self.blocks:
            x = block(x)
        return self.head(x)


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.tanh(self.linear(x))


@pytest.fixture
def language() -> tuple[ResidualNetwork, Tensor, Tensor]:
    torch.manual_seed(0)
    tokens = torch.randint(CLASSES, (4, 5))
    y = torch.randint(CLASSES, (4, 5))
    return stimulative.unravel(randomised(Tokens()), tokens), tokens, y


@pytest.mark.parametrize("schedule", ["joint", "lean"])
def test_positions_without_a_label_do_not_count(language, schedule):
    network, tokens, y = language
    y[0, 2:], y[1, 0], y[2] = -100, -100, -100
    method = StimulativeTraining(network, objective="labels", subnet_share=0.5, schedule=schedule)
    terms = method.backward(tokens, y, ["2"])
    counts = y[:2] != -100
    expected = F.cross_entropy(network(tokens[:2], "2")[counts], y[:2][counts])
    assert int(counts.sum()) == 6 and torch.allclose(terms.subnet_kl, expected, rtol=1e-12)


@pytest.mark.parametrize("schedule", ["joint", "lean"])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_a_part_of_the_batch_that_is_padding_alone_teaches_nothing(language, schedule, smoothing):
    network, tokens, y = language
    y[:2] = -100
    twin = copy.deepcopy(network)
    settings = {"subnet_share": 0.5, "schedule": schedule, "label_smoothing": smoothing}
    terms = StimulativeTraining(network, objective="labels", **settings).backward(tokens, y, ["2"])
    CommonTraining(twin, label_smoothing=smoothing).backward(tokens, y)
    assert terms.subnet_kl == 0 and terms.loss.isfinite()
    for (name, wanted), actual in zip(gradients(twin).items(), gradients(network).values(), strict=True):
        assert torch.allclose(actual, wanted, rtol=1e-10), name


# Smaller inputs


# Objectives of one's own

OWN = """
def squared(subnet_logits, main_logits, targets, *, scale=1.0, power=2):
    return scale * (subnet_logits - main_logits).abs().pow(power).mean()


def of_labels(subnet_logits, main_logits, targets):
    return (subnet_logits.argmax(-1) != targets).to(subnet_logits).mean() + 0 * subnet_logits.sum()


def each_sample(subnet_logits, main_logits, targets):
    return (subnet_logits - main_logits).square().mean(-1)


def with_needs(subnet_logits, main_logits, targets, *, margin):
    return subnet_logits.mean()


def of_two(subnet_logits, main_logits):
    return subnet_logits.mean()


number = 3
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    (tmp_path / "my_objectives.py").write_text(OWN)
    (tmp_path / "broken_objectives.py").write_text("assert False, 'not today'\n")
    monkeypatch.chdir(tmp_path)
    yield
    sys.modules.pop("my_objectives", None)


def squared(subnet_logits, main_logits, targets, *, scale=1.0):
    return scale * (subnet_logits - main_logits).square().mean()


@pytest.mark.parametrize("schedule", ["joint", "lean"])
def test_an_objective_of_ones_own_takes_the_place_of_the_divergence(own, network, batch, schedule):
    x, y = batch
    main, other = network(x), network(x, "2-1")
    expected = F.cross_entropy(main, y) + 3 * 0.5 * (other - main.detach()).square().mean()
    expected.backward()
    wanted = gradients(network)
    for objective in (
        {"name": "my_objectives:squared", "scale": 0.5},
        lambda subnet, main, y: squared(subnet, main, y, scale=0.5),
    ):
        network.zero_grad(set_to_none=True)
        method = StimulativeTraining(network, objective=objective, balance=3.0, schedule=schedule, temperature=7.0)
        terms = method.backward(x, y, ["2-1"])
        assert torch.allclose(terms.loss, expected, rtol=1e-12) and method.objective is objective
        assert not method.calibrates
        for name, gradient in gradients(network).items():
            assert torch.allclose(gradient, wanted[name], rtol=1e-9, atol=1e-14), name


def test_an_objective_of_ones_own_gets_logits_and_targets_of_the_same_samples(network, batch):
    x, y = batch
    seen = []

    def objective(subnet_logits, main_logits, targets):
        seen.append((subnet_logits, main_logits, targets))
        return subnet_logits.mean()

    main = network.eval()(x)  # so that samples do not see each other
    StimulativeTraining(network, objective=objective, subnet_share=0.5, normalise_main=True)(x, y, ["1-2", "2-3"])
    assert len(seen) == 2
    for (logits, main_logits, targets), subnet in zip(seen, ("1-2", "2-3"), strict=True):
        assert logits.shape == main_logits.shape == (3, CLASSES) and torch.equal(targets, y[:3])
        assert logits.requires_grad and not main_logits.requires_grad
        assert torch.allclose(main_logits, main[:3], rtol=1e-12)
        assert torch.allclose(logits, network(x[:3], subnet), rtol=1e-10)


def test_an_objective_of_ones_own_trains_beside_a_loss_without_targets(network, batch):
    x, _ = batch
    seen = []

    def objective(subnet_logits, main_logits, targets):
        seen.append(targets)
        return squared(subnet_logits, main_logits, targets)

    method = StimulativeTraining(network, objective=objective)
    with method.beside() as subnets:
        network.model(x)
    assert seen == [None] and len(subnets.divergences) == 1
    with pytest.raises(UsageError, match="but it needs the targets of the loss"):
        StimulativeTraining(network, objective={"name": "labels"}).beside().__enter__()


def test_an_objective_of_ones_own_is_copied_with_its_method(own, network, batch):
    method = StimulativeTraining(network, objective={"name": "my_objectives:squared", "power": 1}, seed=3)
    expected = copy.deepcopy(method)(*batch, ["1-1"]).subnet_kl
    assert torch.equal(copy.deepcopy(method)(*batch, ["1-1"]).subnet_kl, expected)


def test_a_subclass_may_say_how_far_a_subnet_is_by_itself(network, batch):
    class Squared(StimulativeTraining):
        def subnet_term(self, logits, main, y):
            return squared(logits, main[: len(logits)], y)

    expected = StimulativeTraining(network, objective=squared)(*batch, ["2-2"]).subnet_kl
    assert torch.equal(Squared(network)(*batch, ["2-2"]).subnet_kl, expected)
    assert not torch.equal(StimulativeTraining(network)(*batch, ["2-2"]).subnet_kl, expected)


def test_a_recipe_names_an_objective_of_ones_own(own):
    words = ["--method.objective.name=my_objectives:squared", "--method.objective.scale", "5e-1"]
    recipe = load_recipe("digits", words)
    assert recipe.method.settings["objective"] == {"name": "my_objectives:squared", "scale": 0.5}
    assert load_recipe(yaml.safe_load(recipe.to_yaml())) == recipe
    assert load_recipe("digits", {"method.objective": "my_objectives:of_labels"}) != load_recipe("digits")
    with pytest.raises(UsageError, match=r"method\.objective: 'my_objectives:squared' has no setting 'scal', it has: "):
        load_recipe("digits", {"method.objective": {"name": "my_objectives:squared", "scal": 1}})
    with pytest.raises(UsageError, match=r"method\.objective: got 'klt', but it is kl.*did you mean 'kl'\? \(command"):
        load_recipe("digits", ["--method.objective=klt"])


FORMS = (
    "but it is kl, directional, labels, cross_entropy, decoupled or mse, or one of your own: package.module:name, or a "
    "mapping with 'name' and its settings"
)


@pytest.mark.parametrize(
    ("objective", "message"),
    [
        ("directionl", f"objective: got 'directionl', {FORMS}; did you mean 'directional'?"),
        (3, f"objective: got 3, {FORMS}"),
        ({"scale": 3}, f"objective: got {{'scale': 3}}, {FORMS}"),
        ({"name": "kl", "temperature": 2}, "objective: 'kl' has no setting 'temperature' of its own; temperature and"),
        ("gone:squared", "objective: cannot import 'gone' for objective 'gone:squared': ModuleNotFoundError"),
        ("broken_objectives:squared", "for objective 'broken_objectives:squared': AssertionError: not today ("),
        (
            "my_objectives:square",
            "module 'my_objectives' has no 'square' for objective 'my_objectives:square'; did you ",
        ),
        (
            "my_objectives:number",
            "'my_objectives:number' is no function: it must be a function of (subnet_logits, main",
        ),
        (
            {"name": "my_objectives:squared", "scal": 2},
            "objective: 'my_objectives:squared' has no setting 'scal', it has: scale, power; did you mean 'scale'?",
        ),
        (
            {"name": "my_objectives:of_labels", "scale": 2},
            "'my_objectives:of_labels' has no setting 'scale', it has: none",
        ),
        (
            "my_objectives:with_needs",
            "objective: 'my_objectives:with_needs' cannot be called as (subnet_logits, main_logits, targets) that "
            "returns a scalar tensor: missing a required",
        ),
        ("my_objectives:of_two", "objective: 'my_objectives:of_two' cannot be called as (subnet_logits, main_logits, "),
        (lambda logits: logits, "objective: '<lambda>' cannot be called as (subnet_logits, main_logits, targets)"),
    ],
)
def test_an_objective_that_is_none_is_refused(own, network, objective, message):
    with pytest.raises(UsageError) as caught:
        StimulativeTraining(network, objective=objective)
    assert message in str(caught.value)


def test_an_objective_has_to_return_a_scalar(own, network, batch):
    method = StimulativeTraining(network, objective="my_objectives:each_sample")
    with pytest.raises(
        UsageError, match=r"'my_objectives:each_sample' has to return a scalar tensor.*; got shape \(6,\)"
    ):
        method(*batch, ["1-1"])
    with pytest.raises(UsageError, match=r"objective 'float_of' has to return a scalar tensor.*; got float"):
        StimulativeTraining(network, objective=float_of)(*batch, ["1-1"])


def float_of(subnet_logits, main_logits, targets):
    return 1.0


# Smaller inputs


def test_images_are_resized_as_torchvision_does_it():
    x = images(2, 16, dtype=torch.float32)
    expected = TF.resize(x, [7, 7], interpolation=TF.InterpolationMode.BILINEAR, antialias=True)
    assert torch.allclose(resized(x, 7), expected, atol=1e-6)
    last = x.contiguous(memory_format=torch.channels_last)
    assert resized(last, 7).is_contiguous(memory_format=torch.channels_last) and torch.equal(
        resized(last, 7).contiguous(), resized(x, 7)
    )
    half = resized(x.bfloat16(), 7)
    assert half.dtype == torch.bfloat16 and torch.allclose(half.float(), expected, atol=0.02)


@pytest.mark.parametrize(("side", "share", "least"), [(224, 0.43, 96), (200, 0.43, 86), (8, 0.43, 3), (8, 0.01, 1)])
def test_sides_go_from_the_least_to_the_full_one(side, share, least):
    assert (sides_of(side, share)[0], sides_of(side, share)[-1]) == (least, side)


def test_every_side_is_equally_likely_and_drawn_from_the_methods_own_generator(network):
    method = StimulativeTraining(network, smaller_inputs=0.43, seed=1)
    torch.manual_seed(0)
    before = torch.get_rng_state()
    drawn = Counter(method.draw_sides(images(2), 6_000))
    assert torch.equal(torch.get_rng_state(), before)
    assert set(drawn) == {3, 4, 5, 6, 7, None}  # None: as they are
    assert all(abs(count - 1_000) < 4.5 * math.sqrt(6_000 * 5 / 36) for count in drawn.values())
    again = StimulativeTraining(network, smaller_inputs=0.43, seed=1)
    assert Counter(again.draw_sides(images(2), 6_000)) == drawn


def test_every_subnet_gets_the_original_images_resized_once(network, batch, monkeypatch):
    x, y = batch
    original = x.clone()
    method = StimulativeTraining(network, smaller_inputs=0.4, subnets_per_step=12)
    runs = recorded(network, monkeypatch)
    terms = method(x, y)
    assert torch.equal(x, original)
    first, *others = runs
    assert first[0] is x and first[1][0] == "3-4" and first[2] is None
    assert len(others) > 2 and [len(run[0][0, 0]) for run in others] == sorted({len(r[0][0, 0]) for r in others})[::-1]
    for small, subnets, samples in others:
        assert torch.equal(small, resized(original, small.shape[-1])) and samples is None and subnets
    assert Counter(s for _, subnets, _ in runs for s in subnets) == Counter(["3-4", *map(str, terms.subnets)])
    assert len(first[1]) > 1, "those on images as they are run with the main net"


def test_the_divergence_is_that_of_each_subnet_on_its_own_images(network, batch, monkeypatch):
    x, y = batch
    method = StimulativeTraining(network.eval(), smaller_inputs=0.4, subnets_per_step=5)
    drawn = [5, None, 3, 5, 7]
    monkeypatch.setattr(method, "draw_sides", lambda x, count: drawn)
    subnets = ["1-2", "2-4", "3-3", "3-1", "1-2"]
    terms = method(x, y, subnets)
    main = network(x)
    each = [
        kl_divergence(network(x if side is None else resized(x, side), subnet), main)
        for side, subnet in zip(drawn, subnets, strict=True)
    ]
    assert torch.allclose(terms.subnet_kl, torch.stack(each).mean(), rtol=1e-10)
    assert [str(subnet) for subnet in terms.subnets] == subnets


@pytest.mark.parametrize(
    ("arguments", "side"),
    [({}, 13), ({"dynamic_img_size": True}, 13), ({"dynamic_img_size": True, "patch_size": 13}, 14)],
)
def test_a_net_that_takes_images_of_one_size_only_cannot_have_smaller_ones(arguments, side):
    settings = {"img_size": 32, "patch_size": 4, "depth": 2, "embed_dim": 24, "num_heads": 2, **arguments}
    size = settings["img_size"] = 26 if settings["patch_size"] == 13 else 32
    vit = timm.create_model("vit_tiny_patch16_224", num_classes=4, **settings)
    network = stimulative.unravel(vit, torch.randn(2, 3, size, size))
    share = 0.5 if size == 26 else 0.43
    with pytest.raises(UsageError, match=rf"does not run on images of {side}x{side} pixels, and subnets would get 13"):
        StimulativeTraining(network, smaller_inputs=share)


def test_a_transformer_of_any_size_can_have_smaller_images():
    settings = {"img_size": 32, "patch_size": 4, "depth": 3, "embed_dim": 24, "num_heads": 2}
    vit = timm.create_model(
        "vit_tiny_patch16_224", num_classes=4, dynamic_img_size=True, dynamic_img_pad=True, **settings
    )
    network = stimulative.unravel(vit, torch.randn(2, 3, 32, 32))
    terms = StimulativeTraining(network, **PLUS).backward(torch.randn(4, 3, 32, 32), torch.arange(4))
    assert terms.subnet_kl > 0 and len(gradients(network)) == len(list(network.parameters()))


@pytest.mark.parametrize("example", [(images(),), {"x": images()}, images()[..., :6], images().flatten(1)])
def test_only_square_images_can_be_made_smaller(example):
    class Net(LoopedNet):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(F.pad(x.flatten(1), (0, 192 - x.flatten(1).shape[1])))

    network = stimulative.unravel(randomised(Net()), example)
    with pytest.raises(UsageError, match=r"batches of square images, .* \(B, C, side, side\), but the network gets"):
        StimulativeTraining(network, smaller_inputs=0.5)


# Part of the batch


@pytest.mark.parametrize(
    ("batch", "share", "samples"), [(10, 0.5, 5), (10, 0.29, 3), (100, 0.29, 29), (3, 0.1, 1), (4, 1, 4)]
)
def test_a_share_of_a_batch_is_one_sample_at_least(batch, share, samples):
    assert samples_of(batch, share) == samples


def test_a_subnet_on_part_of_the_batch_is_compared_with_the_main_net_on_that_part(network, batch):
    x, y = batch
    twin = copy.deepcopy(network.model)
    terms = StimulativeTraining(network, balance=2.0, subnet_share=0.5).backward(x, y, ["3-2", "2-1"])
    stem = twin.act(twin.bn(twin.conv(x)))  # in training mode: the shared prefix is normalised with the whole batch
    two = twin.stage1[1](twin.stage1[0](stem))
    entry = twin.stage2[1](twin.stage2[0](twin.stage1[2](two)))
    main = twin.head(twin.stage2[3](twin.stage2[2](entry)).mean((2, 3)))
    late_one = twin.head(entry[:3].mean((2, 3)))
    early_one = twin.head(twin.stage2[0](two[:3]).mean((2, 3)))
    divergence = (kl_divergence(late_one, main[:3]) + kl_divergence(early_one, main[:3])) / 2
    loss = F.cross_entropy(main, y) + 2 * divergence
    loss.backward()
    assert torch.allclose(terms.subnet_kl, divergence, rtol=1e-10) and torch.allclose(terms.loss, loss, rtol=1e-10)
    assert torch.allclose(terms.logits, main), "the main net learns from the whole batch"
    for (name, parameter), actual in zip(twin.named_parameters(), gradients(network).values(), strict=True):
        assert parameter.grad is not None
        assert (actual - parameter.grad).abs().max() <= 1e-10 * max(1e-3, float(parameter.grad.abs().max())), name


def test_part_of_the_batch_and_smaller_images_go_together(network, batch, monkeypatch):
    x, y = batch
    method = StimulativeTraining(network.eval(), smaller_inputs=0.4, subnet_share=0.5)
    monkeypatch.setattr(method, "draw_sides", lambda x, count: [None, 5])
    runs = recorded(network, monkeypatch)
    terms = method(x, y, ["1-2", "2-4"])
    assert [(tuple(x.shape), subnets, samples) for x, subnets, samples in runs] == [
        ((6, 3, 8, 8), ["3-4", "1-2"], 3),
        ((3, 3, 5, 5), ["2-4"], None),
    ]
    monkeypatch.undo()
    main = network(x)
    expected = [
        kl_divergence(network(x[:3], "1-2"), main[:3]),
        kl_divergence(network(resized(x[:3], 5), "2-4"), main[:3]),
    ]
    assert torch.allclose(terms.subnet_kl, (expected[0] + expected[1]) / 2, rtol=1e-10)


def test_inputs_of_several_tensors_can_be_cut_down(batch):
    network = stimulative.unravel(randomised(StatefulNet()), {"x": images()}).eval()
    x, y = batch
    terms = StimulativeTraining(network, subnet_share=0.5)({"x": x}, y, ["2"])
    assert torch.allclose(terms.subnet_kl, kl_divergence(network({"x": x[:3]}, "2"), network({"x": x})[:3]))


class Centring(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x - x.mean(0)


def mixing(where: str) -> nn.Module:
    """A net in which samples see each other in evaluation mode, too: in its stem, or in its last block but one."""
    model = SequentialNet()
    if where == "stem":
        model.bn = nn.Sequential(model.bn, Centring())
    else:
        model.stage2[2].bn1 = nn.Sequential(model.stage2[2].bn1, Centring())
    return randomised(model)


class Folded(nn.Module):
    """Four crops of each image, stacked along the batch from the start."""

    def __init__(self) -> None:
        super().__init__()
        self.net = SequentialNet()

    def forward(self, x: Tensor) -> Tensor:
        crops = torch.cat([x, x.flip(3), x.flip(2), x.transpose(2, 3)])
        return self.net(crops).unflatten(0, (4, len(x))).mean(0)


@pytest.mark.parametrize("settings", [{"subnet_share": 0.5}, {"efficient": True}])
@pytest.mark.parametrize("where", ["stem", "block"])
def test_a_net_whose_samples_see_each_other_cannot_run_on_part_of_a_batch(where, settings):
    network = stimulative.unravel(mixing(where), images())
    with pytest.raises(UsageError, match=r"do not run on part of a batch, since it computes something else .*share 1"):
        StimulativeTraining(network, **settings)


def test_a_net_that_stacks_crops_along_its_batch_cannot_either():
    network = stimulative.unravel(randomised(Folded()), images(3))
    x, y = images(6, seed=1), torch.tensor([0, 1, 2, 3, 0, 1])
    with pytest.raises(UsageError, match="subnet_share: subnets of this network do not run on part of a batch"):
        StimulativeTraining(network, subnet_share=0.5)
    assert StimulativeTraining(network)(x, y, ["1-1"]).subnet_kl > 0


def test_checking_the_network_leaves_no_trace(network):
    before = {name: value.clone() for name, value in network.state_dict().items()}
    torch.manual_seed(0)
    random = torch.get_rng_state()
    StimulativeTraining(network, smaller_inputs=0.43, subnet_share=0.5)
    assert network.training and torch.equal(torch.get_rng_state(), random)
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name]), name


# Subnets that depart late


SPACES = {
    "ResNet-50": SubnetSpace(lengths=(3, 4, 6, 3), fixed=(True,) * 4),
    "narrow": SubnetSpace(lengths=(3, 4), fixed=(True, False), ranges=((2, 3), (1, 3))),
    "one stage": SubnetSpace(lengths=(5,), fixed=(False,)),
}


def exact(space: SubnetSpace, whole: float) -> dict[tuple[int, ...], float]:
    """The probability of each subnet: the sum over the number of stages that were kept whole by the coin."""
    last = len(space.ranges) - 1
    found = {}
    for subnet in space:
        found[subnet.depths] = 0.0
        for kept in range(last + 1):
            if all(subnet.depths[stage] == space.ranges[stage][1] for stage in range(kept)):
                coin = whole**kept * (1 - whole if kept < last else 1)
                free = math.prod(high - low + 1 for low, high in space.ranges[kept:])
                found[subnet.depths] += coin / free
    return found


@pytest.mark.parametrize("whole", [0.5, 0.8])
@pytest.mark.parametrize("name", SPACES)
def test_late_subnets_have_the_stated_distribution(name, whole):
    space = SPACES[name]
    expected = exact(space, whole)
    assert sum(expected.values()) == pytest.approx(1) and min(expected.values()) > 0
    generator = torch.Generator().manual_seed(0)
    draws = 3_000
    drawn = Counter(late(space, generator, whole=whole).depths for _ in range(draws))
    assert set(drawn) <= set(expected)
    for depths, probability in expected.items():
        deviation = math.sqrt(draws * probability * (1 - probability))
        assert abs(drawn[depths] - draws * probability) < 5 * deviation + 1, depths


def test_late_subnets_share_more_with_the_main_net_than_ordered_ones():
    space, generator = SPACES["ResNet-50"], torch.Generator().manual_seed(0)

    def stages_shared(sampler: str) -> float:
        draw = resolve_sampler(sampler, space)
        drawn = [draw(space, generator).depths for _ in range(500)]
        return sum(next((s for s in range(4) if d[s] < space.lengths[s]), 4) for d in drawn) / 500

    assert stages_shared("late") > stages_shared("ordered") + 0.7


@pytest.mark.parametrize("whole", [0, 1.0, True, "most"])
def test_whole_is_a_probability(whole):
    with pytest.raises(UsageError, match="'whole' is a probability above 0 and below 1, got"):
        resolve_sampler({"name": "late", "whole": whole}, SPACES["narrow"])


# One switch


def test_efficient_is_the_settings_that_it_stands_for(network, batch):
    asked = StimulativeTraining(network, efficient=True, seed=5)
    spelled = StimulativeTraining(network, **PRESETS["efficient"], seed=5)
    for key in PRESETS["efficient"].keys() - {"sampler"}:
        assert getattr(asked, key) == getattr(spelled, key) == PRESETS["efficient"][key]
    for _ in range(6):
        one, other = asked(*batch), spelled(*batch)
        assert one.subnets == other.subnets and torch.equal(one.loss, other.loss)


def test_a_subclass_may_be_efficient_too(network, batch):
    class Own(StimulativeTraining):
        def __init__(self, network, *, extra=1.0, **settings):
            super().__init__(network, efficient=True, **settings)

    assert Own.problems({"efficient": True, **PRESETS["efficient"], "subnet_share": 1.0}) == []
    assert Own(network, seed=5).subnet_share == PRESETS["efficient"]["subnet_share"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"subnet_share": 0.25}, "subnet_share 0.25 is asked for"),
        ({"every": 4, "sampler": "unordered"}, "sampler 'unordered' and every 4 is asked for"),
    ],
)
def test_efficient_and_a_setting_that_it_sets_do_not_go_together(network, settings, message):
    with pytest.raises(
        UsageError, match=rf"efficient: it sets subnet_share .*, but .*{message}; leave one of them out"
    ):
        StimulativeTraining(network, efficient=True, **settings)
    words = {f"method.{key}": value for key, value in settings.items()}
    with pytest.raises(UsageError, match=r"method.efficient: it sets"):
        load_recipe("digits", {"method.efficient": True, **words})


def test_a_recipe_keeps_the_switch_and_not_what_it_sets_now():
    settings = load_recipe("digits", {"method.efficient": True}).method.settings
    assert settings["efficient"] is True and settings["subnet_share"] == 1.0 and settings["sampler"] == "ordered"


# The card


@pytest.mark.parametrize("method", ["stimulative", "stochastic_depth"])
def test_the_settings_of_a_card_are_those_of_recipes(method):
    card = (Path(stimulative.methods.__file__).parent / f"{method}.md").read_text()
    examples = re.findall(r"```yaml\n(.*?)```", card, re.DOTALL)
    assert len(examples) == 2, "LayerDrop-style and LayerSkip-style"
    torch.manual_seed(0)
    vit = timm.create_model(
        "vit_tiny_patch16_224", num_classes=CLASSES, img_size=16, patch_size=8, depth=12, embed_dim=12, num_heads=1
    )
    network = stimulative.unravel(vit, torch.randn(2, 3, 16, 16))
    for example in examples:
        recipe = load_recipe("digits", yaml.safe_load(example))
        assert recipe.method.name == method
        trained = METHODS[method](network, **recipe.method.settings)
        assert trained.backward(torch.randn(2, 3, 16, 16), torch.tensor([0, 1])).loss.isfinite()


# What holds for all of it


@pytest.mark.parametrize("way", WAYS)
def test_lean_gradients_and_statistics_equal_joint_ones(network, batch, way):
    results = []
    for schedule in ("joint", "lean"):
        twin = copy.deepcopy(network)
        method = StimulativeTraining(
            twin, balance=1.7, schedule=schedule, freeze_subnet_statistics=False, seed=3, **WAYS[way]
        )
        terms = method.backward(*batch, scale=0.5)
        results.append((terms, gradients(twin), dict(twin.named_buffers())))
    (joint, joint_gradients, joint_buffers), (lean, lean_gradients, lean_buffers) = results
    assert joint.subnets == lean.subnets and joint.subnet_kl > 0
    assert torch.allclose(joint.loss, lean.loss, rtol=1e-12) and torch.allclose(joint.subnet_kl, lean.subnet_kl)
    for one, other in ((joint_gradients, lean_gradients), (joint_buffers, lean_buffers)):
        assert one.keys() == other.keys()
        for name, value in one.items():
            assert torch.allclose(value.double(), other[name].double(), rtol=1e-9, atol=1e-12), name
    assert len(joint_gradients) == len(list(network.parameters()))


@pytest.mark.parametrize("way", WAYS)
def test_without_balance_it_is_common_training(network, batch, way):
    settings = {key: value for key, value in WAYS[way].items() if key not in ("normalise_main", "main_taught")}
    twin = copy.deepcopy(network)
    CommonTraining(twin).backward(*batch)
    method = StimulativeTraining(network, balance=0.0, **settings)
    state = method.generator.get_state()
    calls = []
    network.model.register_forward_hook(lambda *_: calls.append(1))
    terms = method.backward(*batch)
    assert len(calls) == 1 and terms.subnets == () and torch.equal(method.generator.get_state(), state)
    for (name, expected), actual in zip(gradients(twin).items(), gradients(network).values(), strict=True):
        assert torch.equal(expected, actual), name


@pytest.mark.parametrize("way", WAYS)
def test_subnets_leave_the_main_nets_statistics_alone(network, batch, way):
    common = copy.deepcopy(network)
    CommonTraining(common)(*batch)
    StimulativeTraining(network, **WAYS[way])(*batch)
    for (name, expected), (_, actual) in zip(common.named_buffers(), network.named_buffers(), strict=True):
        assert torch.equal(expected, actual), name


@pytest.mark.parametrize("way", WAYS)
def test_a_restored_method_goes_on_with_the_same_subnets_and_sides(network, batch, way):
    network.eval()
    method = StimulativeTraining(network, seed=3, **WAYS[way])
    for _ in range(3):
        method(*batch)
    saved = copy.deepcopy(method.state_dict())
    expected = [float(method(*batch).loss.detach()) for _ in range(4)]
    other = StimulativeTraining(network, seed=99, **WAYS[way])
    other.load_state_dict(saved)
    assert [float(other(*batch).loss.detach()) for _ in range(4)] == expected
    assert len(set(expected)) > 1


@pytest.mark.parametrize("schedule", ["joint", "lean"])
@pytest.mark.parametrize("way", ["ST++ on part of the batch", "efficient", "labels on part of the batch"])
def test_half_precision_and_soft_targets(network, batch, way, schedule):
    x, y = batch
    network.float()
    method = StimulativeTraining(network, schedule=schedule, **WAYS[way])
    soft = F.one_hot(y, CLASSES).float() * 0.9 + 0.1 / CLASSES
    with torch.autocast("cpu", torch.bfloat16):
        terms = method.backward(x.float().contiguous(memory_format=torch.channels_last), soft)
    assert terms.loss.dtype == torch.float32 and terms.loss.isfinite()
    assert all(gradient.isfinite().all() for gradient in gradients(network).values())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"objective": "cosine"}, "objective: got 'cosine', but it is kl, directional, labels, cross_entropy, "),
        ({"amplitude": 0.0}, "amplitude: got 0.0, but it is above 0"),
        (
            {"smaller_inputs": 0.0},
            "smaller_inputs: got 0.0, but it is a share of the images' side, above 0 to 1, or null",
        ),
        ({"smaller_inputs": 1.5}, "smaller_inputs: got 1.5"),
        ({"subnet_share": 0.0}, "subnet_share: got 0.0, but it is a share of the batch, above 0 to 1"),
        ({"subnet_share": 1.5}, "subnet_share: got 1.5"),
        ({"sampler": {"name": "late", "whole": 2}}, "'whole' is a probability above 0 and below 1, got 2"),
        ({"sampler": {"name": "late", "all": 0.5}}, "'late' has no setting 'all', it has: whole"),
    ],
)
def test_impossible_settings_are_refused(network, settings, message):
    with pytest.raises(UsageError) as caught:
        StimulativeTraining(network, **settings)
    assert message in str(caught.value)
