"""Several processes train together as one does, and go on as any number of them."""

import socket
from pathlib import Path
from typing import Any

import pytest
import torch
from pair import RUNS, SMALL, STEPS, WRAPS, Stop, batch, model, stimulated, work
from safetensors.torch import load_file
from torch import Tensor

from stimulative.runs import MODEL, RunDirectory
from stimulative.training import load_recipe, train


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


@pytest.fixture(scope="module")
def out(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("pair")


@pytest.fixture(scope="module")
def pair(out) -> list[dict[str, Any]]:
    """What each of two processes has found, and their runs, in ``out``."""
    train(load_recipe("digits", SMALL | {"schedule.max_steps": 4}), out / "one", progress=False)
    with pytest.raises(KeyboardInterrupt):
        train(load_recipe("digits", SMALL), out / "begun-by-one", progress=False, callbacks=[Stop(0, 6)])
    torch.multiprocessing.spawn(work, args=(free_port(), out), nprocs=2)
    found = [torch.load(out / f"rank{rank}.pt", weights_only=False) for rank in (0, 1)]
    for part in found:
        assert not [value for value in part.values() if isinstance(value, str)], part
    return found


def weights(run: Path) -> dict[str, Tensor]:
    return load_file(run / MODEL)


def apart(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    assert one.keys() == other.keys()
    return max(float((value - other[name]).abs().max()) for name, value in one.items())


def checkpoint(run: Path) -> dict[str, Any]:
    return torch.load(run / "checkpoint-last.ckpt", weights_only=True)


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> Path:
    """The same runs by one process."""
    place = tmp_path_factory.mktemp("alone")
    for name in ("joint", "lean"):
        train(load_recipe("digits", RUNS[name]), place / name, progress=False)
    train(load_recipe("digits", SMALL), place / "whole", progress=False)
    return place


def in_one_process(schedule: str) -> dict[str, Tensor]:
    """A loop of one's own on the batches of both processes."""
    net = model()
    method = stimulated(net, schedule=schedule).train()
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    generator = method.generator.get_state()
    for step in range(STEPS):
        for rank in (0, 1):  # which draw the same subnets
            method.generator.set_state(generator)
            method.backward(*batch(step, rank), scale=0.5)
        generator = method.generator.get_state()
        optimizer.step()
        optimizer.zero_grad()
    return {name: value.detach().clone() for name, value in net.named_parameters()}


@pytest.mark.parametrize("wrap", [*WRAPS, "sharded"])
def test_a_loop_of_ones_own_trains_like_one_process_on_both_batches(pair, wrap):
    expected = in_one_process("lean" if wrap == "lean" else "joint")
    start = dict(model().named_parameters())
    assert apart({name: value.detach() for name, value in start.items()}, expected) > 1e-2
    for part in pair:
        found = part["sharded"]["joint"] if wrap == "sharded" else part["loops"][wrap]
        assert apart(found, expected) < 2e-5


def test_lean_on_divided_parameters_is_refused(pair):
    for part in pair:
        assert "would lose gradients of parameters that are divided among processes" in part["sharded"]["lean"]


def test_what_processes_do_together(pair):
    for part in pair:
        found = part["exchanges"]
        gradients = found["gradients"]
        assert [name for name, one in gradients.items() if one is not None] == ["0.weight", "2.weight", "3.bias"]
        assert gradients["0.weight"].unique().tolist() == [0.5]
        assert gradients["2.weight"].unique().tolist() == [0.5]  # of one process only, so zero in the other
        assert gradients["3.bias"].tolist() == [4.0]
        assert found["buffers"]["1.running_mean"].tolist() == [0.5, 0.5]
        assert int(found["buffers"]["1.num_batches_tracked"]) == 7
        assert all((value == 0).all() for value in found["parameters"].values())
        assert (found["greatest"], found["mean"].tolist()) == (4, [1.5, 3.0])
        assert found["gathered"] == [{"rank": 0}, {"rank": 1}]


def test_what_one_process_cannot_use_none_goes_on_with(pair):
    first, second = (part["refusals"] for part in pair)
    assert first == {"second": "UsageError: rank 1 finds no file", "both": "UsageError: rank 0 finds no file"}
    assert second == {name: text.replace("UsageError", "Elsewhere") for name, text in first.items()}


@pytest.mark.parametrize(("name", "of"), [("joint", "joint"), ("flat", "joint"), ("lean", "lean")])
def test_two_processes_train_like_one(pair, out, alone, name, of):
    assert apart(weights(out / name), weights(alone / of)) < 2e-5
    one, two = RunDirectory(alone / of), RunDirectory(out / name)
    assert two.summary.main.quality == one.summary.main.quality
    assert [row.validation_quality for row in two.metrics] == [row.validation_quality for row in one.metrics]
    assert [row.loss for row in two.metrics] == pytest.approx([row.loss for row in one.metrics], abs=1e-4)


def test_random_streams_are_each_processs_own_and_saved(pair, out):
    one, two = (part["trained"]["draws"] for part in pair)
    assert not torch.equal(one, two)
    state = checkpoint(out / "noisy")
    (other,) = state["ranks"]
    assert not torch.equal(state["random"]["torch"], other["random"]["torch"])
    assert "ranks" not in checkpoint(out / "one")


def test_a_run_of_two_stopped_in_mid_epoch_goes_on_as_two(pair, out):
    assert [part["trained"]["noisy-stopped"] for part in pair] == ["stopped by SIGTERM"] * 2
    assert pair[0]["trained"]["resumed"] == pair[1]["trained"]["resumed"] == [9]  # behind step 8, where they agreed
    assert apart(weights(out / "noisy-stopped"), weights(out / "noisy")) == 0.0


def test_a_run_of_two_goes_on_as_one_and_the_other_way_round(pair, out, alone):
    state = checkpoint(out / "seen")
    assert state["under_way"]["batches"] == 8 and state["under_way"]["images"] == 8 * 64
    train(load_recipe("digits", SMALL), out / "seen", resume=True, progress=False)
    for name in ("seen", "begun-by-one"):
        assert apart(weights(out / name), weights(alone / "whole")) < 2e-5
        (row,), (expected,) = (RunDirectory(run).metrics for run in (out / name, alone / "whole"))
        assert row.loss == pytest.approx(expected.loss, abs=1e-4)


def test_only_the_first_process_warns(pair):
    assert not pair[1]["trained"]["warnings"]
