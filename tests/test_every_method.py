"""One table of methods drives what holds for every one of them; each has tests of its own elsewhere."""

import copy
import re
from pathlib import Path

import pytest
import torch
from interrupting import Interrupt
from nets import CLASSES, ConditionedNet, SequentialNet, images, randomised
from safetensors.torch import load_file

import stimulative
from stimulative import models
from stimulative.analysis import evaluate
from stimulative.config.schema import schema
from stimulative.methods import METHODS, CommonTraining
from stimulative.residual import Subnet, unravel
from stimulative.runs import read_metrics
from stimulative.training import load_recipe, train
from stimulative.weights import load_weights, read_weights

# Settings with which a method is common training.
NEUTRAL = {
    "common": {},
    "layer_supervision": {"weight": 0.0},
    "stage_supervision": {"weight": 0.0},
    "self_distillation": {"weight": 0.0},
    "stochastic_depth": {"survival": 1.0},
    "stimulative": {"balance": 0.0},
    "group_knowledge": {"balance": 0.0},
}
# Variants that take other ways through the code than the defaults.
VARIANTS = {
    **{name: (name, {}) for name in METHODS},
    "stochastic_depth, per sample": ("stochastic_depth", {"per_sample": True}),
    "stimulative, efficient": ("stimulative", {"efficient": True}),
    "stimulative, ++": (
        "stimulative",
        {
            "objective": "directional",
            "normalise_main": True,
            "smaller_inputs": 0.5,
            "subnets_per_step": 3,
            "sampler": "interstage",
        },
    ),
}
TARGETS = torch.tensor([0, 1, 2, 3])


def tiny(method: str, settings: dict, **overrides):
    wanted = {f"method.{key}": value for key, value in settings.items()}
    return load_recipe(
        "digits",
        {
            "model.arguments": {"width": 4},
            "schedule.epochs": 2,
            "training.threads": 1,
            "training.loggers": [],
            "method.name": method,
            **wanted,
            **overrides,
        },
    )


def network():
    torch.manual_seed(0)
    return unravel(randomised(SequentialNet()), images())


def gradients(method) -> dict[str, torch.Tensor]:
    method.train()
    terms = method(images(), TARGETS)
    terms.loss.backward()
    return {name: p.grad for name, p in method.network.model.named_parameters() if p.grad is not None}


def in_place(loss):
    loss *= 8
    loss.backward()


SCALER = torch.amp.GradScaler("cpu", init_scale=8.0)
BACKWARDS = {  # what a loop calls backward by: each takes a loss alone, and scales it by 8
    "a GradScaler": lambda loss: SCALER.scale(loss).backward(),
    "in place": in_place,
    "with another loss": lambda loss: torch.stack([8 * loss, torch.ones((), requires_grad=True)]).sum().backward(),
}
LEAN = {
    "one subnet": {},
    "several": {"subnets_per_step": 4},
    "the same again": {"subnets_per_step": 3, "sampler": {"name": "interstage", "ranges": [[1, 1], [2, 2]]}},
    "all of it": {"subnets_per_step": 3, "smaller_inputs": 0.5, "objective": "directional", "every": 2},
    "part of the batch": {"subnet_share": 0.5},
}


def assert_scaled_alike(make, subnets, backward):
    """Eight times the gradients, by the factor and by the function."""
    expected, found = [], []
    for grads, scale, way in ((expected, 8.0, torch.autograd.backward), (found, 1.0, backward)):
        method = make()
        terms = method.backward(images(), TARGETS, subnets, scale=scale, backward=way)
        assert terms.subnets or not hasattr(method, "subnets_per_step")
        grads += [(name, parameter.grad) for name, parameter in method.named_parameters()]
    assert any(value is not None and value.any() for _, value in expected)
    for (name, value), (_, other) in zip(expected, found, strict=True):
        assert (value is None) == (other is None), name
        assert value is None or torch.allclose(other, value, rtol=1e-9, atol=1e-12), name


@pytest.mark.parametrize("way", BACKWARDS)
@pytest.mark.parametrize("variant", [*VARIANTS, *(f"lean, {settings}" for settings in LEAN)])
def test_any_function_of_a_loss_calls_backward(variant, way):
    name, settings = VARIANTS.get(variant) or ("stimulative", LEAN[variant[6:]] | {"schedule": "lean"})
    assert_scaled_alike(lambda: METHODS[name](network(), seed=1, **settings), None, BACKWARDS[way])


@pytest.mark.parametrize("way", BACKWARDS)
def test_any_function_of_a_loss_calls_backward_where_the_graph_has_to_be_retained(way):
    def make():
        torch.manual_seed(0)
        return METHODS["stimulative"](unravel(randomised(ConditionedNet()), images()), schedule="lean")

    subnets, method = ["2", "2", "1"], make()
    passes = method.passes(images(), len(images()), [Subnet.parse(subnet) for subnet in subnets], cut=True)
    retained = []
    for _, output, retain_graph in passes:
        output.sum().backward(retain_graph=retain_graph)
        retained.append(retain_graph)
    assert any(retained)
    assert_scaled_alike(make, subnets, BACKWARDS[way])


def test_the_tables_here_know_every_method():
    assert NEUTRAL.keys() == METHODS.keys()
    assert {name for name, _ in VARIANTS.values()} == METHODS.keys()
    for name, settings in NEUTRAL.items():
        assert {f"method.{key}" for key in settings} <= schema(METHODS[name]).keys()


@pytest.mark.parametrize("name", METHODS)
def test_a_method_has_a_card_that_says_what_one_needs_to_know(name):
    card = Path(stimulative.__file__).parent / "methods" / f"{name}.md"
    text = card.read_text()
    for word in ("Use", "Cost", *(() if name == "common" else ("Measured gain", "Source"))):
        assert f"**{word}**" in text, f"{card.name} does not speak of {word}"
    documented = set(re.findall(r"^\| `(\w+)`", text, flags=re.MULTILINE))
    settings = {key.removeprefix("method.") for key in schema(METHODS[name]) if key.startswith("method.")} - {"name"}
    assert documented == settings


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_step_lowers_the_loss_of_its_batch(variant):
    name, settings = VARIANTS[variant]
    method = METHODS[name](network(), seed=2, **settings).double().train()
    optimizer = torch.optim.SGD(method.parameters(), lr=1e-3)
    before = copy.deepcopy(method.get_extra_state())
    first = method.backward(images(), TARGETS)
    optimizer.step()
    method.set_extra_state(before)  # the same draws again
    second = method(images(), TARGETS)
    assert first.subnets == second.subnets
    assert second.loss.item() < first.loss.item()
    assert first.logits.shape == (4, CLASSES)


@pytest.mark.parametrize("name", METHODS)
def test_without_its_term_a_method_is_common_training(name):
    expected = gradients(CommonTraining(network(), seed=1))
    found = gradients(METHODS[name](network(), seed=1, **NEUTRAL[name]).double())
    assert expected.keys() == found.keys()
    for parameter, gradient in expected.items():
        assert torch.equal(found[parameter], gradient), parameter


@pytest.mark.parametrize("variant", [v for v in VARIANTS if VARIANTS[v] != ("common", {})])
def test_with_its_term_a_method_is_not_common_training(variant):
    name, settings = VARIANTS[variant]
    expected = gradients(CommonTraining(network(), seed=1))
    found = gradients(METHODS[name](network(), seed=2, **settings).double())
    same = [torch.equal(found[p], g) for p, g in expected.items() if p in found]
    assert not all(same)


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_method_trains_in_mixed_precision_with_soft_targets(variant):
    name, settings = VARIANTS[variant]
    method = METHODS[name](unravel(randomised(SequentialNet()).float(), images().float()), seed=1, **settings).train()
    soft = torch.full((4, CLASSES), 0.1) + 0.6 * torch.eye(CLASSES)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        terms = method(images().float(), soft)
    terms.loss.backward()
    assert torch.isfinite(terms.loss)
    assert all(p.grad is None or bool(torch.isfinite(p.grad).all()) for p in method.parameters())


@pytest.mark.parametrize("variant", VARIANTS)
def test_an_interrupted_run_goes_on_bit_by_bit_and_its_model_is_a_plain_one(variant, tmp_path):
    name, settings = VARIANTS[variant]
    recipe = tiny(name, settings)
    train(recipe, tmp_path / "whole", progress=False)

    with pytest.raises(KeyboardInterrupt):  # of 12 steps an epoch
        train(recipe, tmp_path / "parts", progress=False, callbacks=[Interrupt(step=16)])
    torch.rand(17)  # what happens in between must not matter
    train(recipe, tmp_path / "parts", resume=True, progress=False)

    whole, parts = (load_file(tmp_path / run / "model.safetensors") for run in ("whole", "parts"))
    assert all(torch.equal(value, parts[key]) for key, value in whole.items())
    columns = ("loss", "main_ce", "subnet_kl", "auxiliary", "validation_top1")
    logs = [
        [[row[c] for c in columns] for row in read_metrics(tmp_path / run / "metrics.csv")]
        for run in ("whole", "parts")
    ]
    assert logs[0] == logs[1] and len(logs[0]) == 2

    plain = models.build("cifar/resnet20", classes=10, channels=1, arguments={"width": 4})
    assert whole.keys() == plain.state_dict().keys()
    plain.load_state_dict(whole)
    # so does the checkpoint, heads or not
    checkpoint = tmp_path / "whole" / "checkpoint-last.ckpt"
    load_weights(plain, read_weights(checkpoint), file=checkpoint, name="cifar/resnet20")


OWN = """
from stimulative.methods import StimulativeTraining


class Gentle(StimulativeTraining):
    def __init__(self, network, *, gentleness: float = 0.5, objective: dict | str = "kl", **given):
        super().__init__(network, balance=1 - gentleness, objective=objective, **given)


def squared(subnet_logits, main_logits, targets, *, scale=1.0):
    return scale * (subnet_logits - main_logits).square().mean()
"""


def test_a_method_and_an_objective_of_ones_own_train_and_are_measured(tmp_path, monkeypatch):
    (tmp_path / "gentle.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    settings = {"gentleness": 0.25, "objective": {"name": "gentle:squared", "scale": 0.1}}
    own = train(tiny("gentle:Gentle", settings, **{"schedule.epochs": 1}), tmp_path / "own", progress=False)
    settings = {"balance": 0.75, "balance_ramp": 1.0, "objective": {"name": "gentle:squared", "scale": 0.1}}
    plain = train(tiny("stimulative", settings, **{"schedule.epochs": 1}), tmp_path / "plain", progress=False)
    assert own["method"] == "gentle:Gentle" and own["main"] == plain["main"]
    for run in ("own", "plain"):
        evaluate(tmp_path / run, latency=False)
    subnets = [(tmp_path / run / "subnets.csv").read_text() for run in ("own", "plain")]
    assert subnets[0] == subnets[1] and len(subnets[0].splitlines()) == 28
    kl = train(tiny("stimulative", {"balance": 0.75}, **{"schedule.epochs": 1}), tmp_path / "kl", progress=False)
    assert kl["main"] != plain["main"]
    assert load_recipe(tmp_path / "own" / "recipe.yaml").method.settings["gentleness"] == 0.25


@pytest.mark.parametrize("name", METHODS)
def test_a_run_that_is_measured_again_ends_with_the_same_model(name, tmp_path):
    recipe = tiny(name, VARIANTS[name][1], **{"schedule.epochs": 1})
    first = train(recipe, tmp_path, progress=False)
    before = load_file(tmp_path / "model.safetensors")
    (tmp_path / "summary.json").unlink()
    again = train(recipe, tmp_path, resume=True, progress=False)
    assert again["main"] == first["main"]
    after = load_file(tmp_path / "model.safetensors")
    assert all(torch.equal(value, after[key]) for key, value in before.items())
