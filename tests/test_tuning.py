"""How a device computes, as a recipe says: number formats, kernels, compilation."""

import copy
import subprocess
import sys

import pytest
import torch
from nets import SequentialNet, images
from torch import nn

from stimulative.analysis import evaluate
from stimulative.errors import UsageError
from stimulative.residual import unravel
from stimulative.runs import RunDirectory
from stimulative.training import load_recipe, optimizer_of, train, tuned
from stimulative.training.compiling import compile_blocks
from stimulative.training.optimization import restore_optimizer
from stimulative.training.resuming import check_unchanged


def flags() -> tuple[str, bool, bool]:
    return torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32, torch.backends.cudnn.benchmark


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, ("high", True, True)),
        ({"training.tf32": False, "training.cudnn_benchmark": False}, ("highest", False, False)),
    ],
)
def test_a_gpu_computes_as_the_recipe_says_and_as_before_behind_it(settings, expected):
    before, recipe = flags(), load_recipe("digits", settings)
    with tuned(recipe, torch.device("cuda")):
        assert flags() == expected
    with pytest.raises(ValueError, match="broken"), tuned(recipe, torch.device("cuda")):
        raise ValueError("broken")
    with tuned(recipe, torch.device("cpu")):
        assert flags() == before
    assert flags() == before


@pytest.mark.parametrize("wanted", [True, False])
def test_the_newer_switches_of_a_script_are_left_as_they_were(wanted):
    recipe = load_recipe("digits", {"training.tf32": wanted})
    script = (
        "import torch; from stimulative.training import load_recipe, tuned; b = torch.backends\n"
        "b.cuda.matmul.fp32_precision, b.cudnn.conv.fp32_precision = 'tf32', 'ieee'\n"
        "seen = lambda: [one.fp32_precision for one in (b.cuda.matmul, b.cudnn.conv, b.cudnn.rnn)]\n"
        f"before, recipe = seen(), load_recipe('digits', {{'training.tf32': {wanted}}})\n"
        "with tuned(recipe, torch.device('cuda')): print(*seen())\n"
        "print(seen() == before)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    inside, put_back = done.stdout.split("\n")[:2]
    assert inside == " ".join(["tf32" if recipe.training.tf32 else "ieee"] * 3) and put_back == "True"


def test_blocks_are_compiled_in_the_mode_that_the_recipe_says(monkeypatch):
    network, modes = unravel(SequentialNet().double(), images()), []
    monkeypatch.setattr(nn.Module, "compile", lambda module, *, mode, **_: modes.append((type(module).__name__, mode)))
    compile_blocks(network, mode="max-autotune")
    assert modes == [("BasicBlock", "max-autotune")] * 7


def test_a_mode_without_compilation_is_refused():
    with pytest.raises(UsageError, match="compile_mode: 'reduce-overhead' says how to compile, but compile is false"):
        load_recipe("digits", {"training.compile_mode": "reduce-overhead"})
    recipe = load_recipe("digits", {"training.compile_mode": "reduce-overhead", "training.compile": True})
    assert recipe.training.compile_mode == "reduce-overhead"


# Measuring in autocast


@pytest.mark.parametrize(("autocast", "dtype"), [(False, torch.float32), (True, torch.bfloat16)])
def test_nets_are_measured_in_16_bits_only_by_choice(tmp_path, autocast, dtype):
    formats = {True: set(), False: set()}

    def look(module: nn.Module, args: object, output: object) -> None:
        if isinstance(module, nn.Conv2d) and torch.is_tensor(output):
            formats[torch.is_grad_enabled()].add(output.dtype)

    recipe = load_recipe(
        "digits",
        {
            "model.arguments": {"width": 4},
            "schedule.epochs": 1,
            "schedule.max_steps": 2,
            "training.loggers": [],
            "training.precision": "bf16-mixed",
            "evaluation.autocast": autocast,
            "evaluation.subnets": 2,
            "evaluation.calibration_images": 64,
        },
    )
    handle = nn.modules.module.register_module_forward_hook(look)
    try:
        train(recipe, tmp_path, progress=False)
        assert torch.bfloat16 in formats[True] and dtype in formats[False]
        for kind in formats.values():
            kind.clear()
        evaluate(tmp_path, latency=False)
    finally:
        handle.remove()
    assert dtype in formats[False] and (autocast or torch.bfloat16 not in formats[False])


# The optimiser's kernels


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))


def trained(optimizer: torch.optim.Optimizer, module: nn.Module, steps: int) -> None:
    for _ in range(steps):
        optimizer.zero_grad()
        module(torch.ones(3, 4)).square().sum().backward()
        optimizer.step()


@pytest.mark.parametrize("name", ["sgd", "adamw"])
@pytest.mark.parametrize("order", [(True, None), (None, True), (True, True)])
def test_one_kernel_trains_as_several_and_a_run_goes_on_with_the_other(name, order):
    plain = load_recipe("digits", {"optimizer.name": name, "optimizer.lr": 0.01}).optimizer
    expected = net()
    trained(optimizer_of(expected, plain), expected, 6)
    found = net()
    first, second = (
        load_recipe("digits", {"optimizer.name": name, "optimizer.lr": 0.01, "optimizer.fused": fused}).optimizer
        for fused in order
    )
    before = optimizer_of(found, first)
    trained(before, found, 3)
    after = optimizer_of(found, second)
    restore_optimizer(after, copy.deepcopy(before.state_dict()))
    assert [group["fused"] for group in after.param_groups] == [order[1]] * len(after.param_groups)
    trained(after, found, 3)
    for one, other in zip(found.parameters(), expected.parameters(), strict=True):
        assert torch.allclose(one, other, rtol=1e-5, atol=1e-7)


def test_on_a_cpu_the_optimiser_is_as_before():
    for fused in (None, False):
        optimizer = optimizer_of(net(), load_recipe("digits", {"optimizer.fused": fused}).optimizer)
        assert optimizer.defaults["fused"] is None and optimizer.defaults["foreach"] is None


# Runs of older versions


def test_settings_that_a_run_does_not_know_yet_are_no_change_of_its_recipe(tmp_path):
    recipe = load_recipe("digits")
    before = recipe.to_mapping()
    for section, name in (("training", "tf32"), ("training", "cudnn_benchmark"), ("evaluation", "autocast")):
        del before[section][name]
    check_unchanged(RunDirectory(tmp_path), recipe, {"recipe": before})
    before["model"]["arguments"] = {"width": 4}
    with pytest.raises(UsageError, match=r"model\.arguments"):
        check_unchanged(RunDirectory(tmp_path), recipe, {"recipe": before})
