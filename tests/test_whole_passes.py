"""Whole steps that are compiled: how many pieces there are, when they run, and that they compute what steps compute."""

import copy
import gc
import random
import warnings
import weakref

import pytest
import torch
from nets import DropoutNet, SequentialNet, images, randomised
from test_compiled import CountingCompiler
from torch import nn

import stimulative
from stimulative import models
from stimulative.errors import UsageError
from stimulative.methods import METHODS
from stimulative.training import load_recipe, train
from stimulative.training.compiling import compile_blocks, compiling
from stimulative.training.whole_passes import WholePasses

WHOLE = {"training.compile": True, "training.compile_steps": 2}


def trained(model, x, y, choices, *, compiler=None, recipe=None, blocks=False, **settings):
    """A model after a step on each choice of subnets, by whole passes if a compiler is given."""
    network = stimulative.unravel(model, x)
    if blocks:
        compile_blocks(network, backend="eager")
    method = METHODS["stimulative"](network, **settings).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    whole = None
    if compiler is not None:
        whole = WholePasses(load_recipe("digits", {**WHOLE, **(recipe or {})}), network, counted=2, backend=compiler)
    losses = []
    with compiling():
        for subnets in choices:
            if whole is None:
                terms = method.backward(x, y, subnets)
            else:
                with whole.step():
                    terms = method.backward(x, y, subnets)
            losses.append(terms.loss)
            optimizer.step()
            optimizer.zero_grad()
    return model.state_dict(), losses, whole


CHOICES = [["2-2-2"], ["1-3-2"], ["2-2-2"], ["3-1-1"], ["1-3-2"], ["2-2-2"], ["3-3-3"]]


@pytest.mark.parametrize("settings", [{}, {"subnet_share": 0.5}, {"freeze_subnet_statistics": False}], ids=str)
@pytest.mark.parametrize("blocks", [False, True], ids=["plain blocks", "compiled blocks"])
def test_whole_passes_compute_what_passes_do_and_run_for_what_comes_up_most(settings, blocks):
    torch.manual_seed(0)
    model, x, y = models.build("cifar/resnet20", classes=10).double(), torch.randn(4, 3, 8, 8).double(), torch.arange(4)
    plain, losses, _ = trained(copy.deepcopy(model), x, y, CHOICES, **settings)
    compiler = CountingCompiler()
    found, others, whole = trained(copy.deepcopy(model), x, y, CHOICES, compiler=compiler, blocks=blocks, **settings)
    assert {choice.partition(",")[0] for choice in whole.chosen} == {"3-3-3 2-2-2", "3-3-3 1-3-2"}
    assert sorted(compiler.runs) == [1 + 1, 2 + 1]  # with the run that compiles it
    torch.testing.assert_close(others, losses)
    for key, value in plain.items():
        torch.testing.assert_close(found[key], value, rtol=1e-9, atol=1e-11, msg=lambda text, key=key: f"{key}: {text}")


def test_whole_passes_draw_what_passes_draw_and_compute_in_the_same_format():
    x, y, choices = images(), torch.arange(len(images())) % 3, [["1"], ["3"], ["1"], ["1"], ["3"]]
    model, found = randomised(DropoutNet()), []
    for compiler in (None, CountingCompiler()):
        torch.manual_seed(0)
        with torch.autocast("cpu", torch.bfloat16):
            found.append(trained(copy.deepcopy(model), x, y, choices, compiler=compiler))
    assert sum(compiler.runs) == 5
    torch.testing.assert_close(found[1][1], found[0][1], rtol=0, atol=0)
    torch.testing.assert_close(found[1][0], found[0][0], rtol=0, atol=0)


class Moody(nn.Module):
    """A net in which Python decides something each time anew."""

    def __init__(self):
        super().__init__()
        self.net = SequentialNet()

    def forward(self, x):
        return self.net(x * random.random())


class Looking(nn.Module):
    """A net in which Python decides by numbers."""

    def __init__(self):
        super().__init__()
        self.net = SequentialNet()

    def forward(self, x):
        return self.net(x if x.sum().item() > 0 else -x)


@pytest.mark.parametrize(("net", "reason"), [(Moody, "two recordings of it differ"), (Looking, "")])
def test_what_cannot_be_recorded_runs_as_it_was_written_and_is_told(net, reason):
    torch.manual_seed(0)
    model, x, y = randomised(net()), images(), torch.arange(len(images())) % 3
    choices = [["1-1"]] * 5
    random.seed(0)
    plain, losses, _ = trained(copy.deepcopy(model), x, y, choices)
    random.seed(0)
    with pytest.warns(UserWarning, match=f"compile_steps: the step of 3-4 and 1-1 runs as it was written.*{reason}"):
        _, others, whole = trained(copy.deepcopy(model), x, y, choices, compiler=CountingCompiler())
    assert [*whole.pieces.values()] == [None]
    assert len(others) == len(losses)
    if net is Looking:
        torch.testing.assert_close(others, losses)
    assert plain


def test_a_model_that_is_another_than_it_was_runs_as_it_was_written():
    x, y = images(), torch.arange(len(images())) % 3
    network = stimulative.unravel(randomised(SequentialNet()), x)
    method, compiler = METHODS["stimulative"](network).train(), CountingCompiler()
    whole = WholePasses(load_recipe("digits", WHOLE), network, counted=0, backend=compiler)

    def runs():
        before = compiler.calls
        with whole.step():
            method.backward(x, y, ["1-1"])
        return compiler.calls - before

    assert runs() == 2  # one compiles it
    assert runs() == 1
    seen = []
    handle = network.model.stage1[0].register_forward_hook(lambda *_: seen.append(1))
    assert runs() == 0
    assert seen
    handle.remove()
    assert runs() == 1
    network.model.bn.eval()
    assert runs() == 0
    network.model.bn.train()
    with network.after_blocks(lambda place, output, skipped: output * 2):
        assert runs() == 0
    network.model.bn.momentum = 0.5
    assert runs() == 0
    network.model.bn.momentum = 0.1
    network.model.head.weight.requires_grad_(False)
    assert runs() == 0
    network.model.head.weight.requires_grad_()
    assert runs() == 1
    network.model.head.weight = nn.Parameter(network.model.head.weight.detach().clone())
    assert runs() == 0
    with torch.no_grad():
        network.run(x, ["1-1"])
    assert compiler.pieces == 1


def test_a_run_that_goes_on_compiles_what_it_had_chosen(tmp_path):
    x, y = images(), torch.arange(len(images())) % 3
    recipe, wholes = load_recipe("digits", {**WHOLE, "training.compile_steps": 1}), []
    for subnets in (["1-1", "1-1", "2-2"], ["2-2", "2-2", "2-2", "1-1"]):
        method = METHODS["stimulative"](stimulative.unravel(randomised(SequentialNet()), x)).train()
        wholes.append(WholePasses(recipe, method.network, counted=2, backend="eager"))
        if len(wholes) == 2:
            torch.save(wholes[0].state(), tmp_path / "state.pt")
            wholes[1].restore(torch.load(tmp_path / "state.pt", weights_only=True))
        for subnet in subnets:
            with wholes[-1].step():
                method.backward(x, y, [subnet])
    assert wholes[0].chosen == wholes[1].chosen
    assert not wholes[0].pieces and len(wholes[1].pieces) == 1
    WholePasses(recipe, method.network).restore({})  # a checkpoint from before


def test_what_is_compiled_is_said(capsys):
    x, y = images(), torch.arange(len(images())) % 3
    method = METHODS["stimulative"](stimulative.unravel(randomised(SequentialNet()), x)).train()
    whole = WholePasses(load_recipe("digits", WHOLE), method.network, tells=True, counted=0, backend="eager")
    for _ in range(2):
        with whole.step():
            method.backward(x, y, ["1-1"])
    first, compiling_it, compiled = capsys.readouterr().err.splitlines()
    assert first == "training.compile: the first steps compile blocks, which takes a minute or several"
    assert compiling_it == "training.compile: compiles the step of 3-4 and 1-1 as a whole, 1 of 1"
    assert compiled.startswith("training.compile: compiled it in ")


def test_a_training_that_ends_before_anything_is_chosen_is_told_so(tmp_path, monkeypatch):
    monkeypatch.setattr("stimulative.training.trainer.compile_blocks", lambda *_, **__: None)
    recipe = load_recipe("digits", {**WHOLE, "schedule.epochs": 1, "schedule.max_steps": 2, "evaluation.subnets": 2})
    with pytest.warns(UserWarning, match="no whole step was compiled.* in the first 100, and this training has 2"):
        train(recipe, tmp_path / "run", progress=False)


def test_a_piece_keeps_no_batch():
    x, y = images(), torch.arange(len(images())) % 3
    method = METHODS["stimulative"](stimulative.unravel(randomised(SequentialNet()), x)).train()
    whole = WholePasses(load_recipe("digits", WHOLE), method.network, counted=0, backend="eager")
    batch = x.clone()
    kept = weakref.ref(batch)
    with whole.step():
        method.backward(batch, y, ["1-1"])
    del batch
    torch.compiler.reset()  # which keeps what it was called with first
    gc.collect()
    assert [*whole.pieces.values()] != [None]
    assert kept() is None


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"training.compile_steps": 2}, "compile_steps: the number of choices of subnets.*compile false"),
        ({**WHOLE, "training.compile_steps": -1}, "compile_steps: .*got -1"),
        ({**WHOLE, "method.schedule": "lean"}, "compile_steps: .*the recipe has method.schedule lean"),
        ({**WHOLE, "method": {"name": "common"}}, "compile_steps: .*the recipe has method 'common'"),
    ],
)
def test_what_makes_no_sense_is_refused(settings, message, tmp_path):
    with pytest.raises(UsageError, match=message):
        train(load_recipe("digits", settings), tmp_path / "run", progress=False)


def test_several_processes_are_refused():
    network = stimulative.unravel(randomised(SequentialNet()), images())
    with pytest.raises(UsageError, match=r"compile_steps: .*several processes, and 2 train together"):
        WholePasses(load_recipe("digits", WHOLE), network, 2)


def test_a_run_compiles_whole_steps_and_measures_as_ever(tmp_path, monkeypatch):
    compiler = CountingCompiler()
    monkeypatch.setattr(torch, "compile", lambda module, **_: compiler(module, ()))
    monkeypatch.setattr("stimulative.training.trainer.compile_blocks", lambda *_, **__: None)
    small = {"schedule.epochs": 1, "data.batch_size": 4, "evaluation.subnets": 2}
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*compile_steps")
        summary = train(load_recipe("digits", {**WHOLE, **small}), tmp_path / "run", progress=False)
    assert compiler.pieces == 2
    assert all(run > 2 for run in compiler.runs)
    assert summary is not None
