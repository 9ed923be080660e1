"""Several processes train together as one does, and go on as any number of them."""

import copy
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import timm
import torch
import yaml
from nets import SequentialNet
from pair import RUNS, SMALL, STEPS, WRAPS, Stop, batch, model, stimulated, work
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.distributed import DistNetworkError, GroupMember
from torch.nn.modules.batchnorm import _BatchNorm

import stimulative
from stimulative.data import load
from stimulative.errors import UsageError
from stimulative.methods import SelfDistillation
from stimulative.ranks import World, first_node, gpu_of, gpus_of_job, is_first_of_node, world_of_process
from stimulative.runs import METRICS, MODEL, RunDirectory
from stimulative.studies import compare
from stimulative.training import Processes, ProcessLost, changes_of_recipe, copies, load_recipe, train
from stimulative.training.copies import Copies
from stimulative.training.devices import planned
from stimulative.training.resuming import check_unchanged
from stimulative.training.synchronising import each_by_itself, synchronise, synchronised
from stimulative.training.together import running_statistics


@pytest.mark.parametrize(
    ("environment", "world"),
    [
        ({}, World()),
        (
            {
                **{"RANK": "9", "WORLD_SIZE": "16", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "8"},
                **{"MASTER_ADDR": "gpu1", "MASTER_PORT": "29400", "SLURM_STEP_NUM_TASKS": "2", "SLURM_PROCID": "1"},
            },
            World(9, 16, 1, 8, "torchrun", "gpu1", 29400),  # torchrun within srun, a task for each node
        ),
        (
            {
                **{"SLURM_STEP_NUM_TASKS": "16", "SLURM_STEP_NUM_NODES": "2", "SLURM_STEP_TASKS_PER_NODE": "8(x2)"},
                **{"SLURM_PROCID": "9", "SLURM_LOCALID": "1", "SLURM_STEP_NODELIST": "gpu[07-08]"},
                **{"SLURM_JOB_ID": "1234567", "SLURM_STEP_ID": "3"},
            },
            World(9, 16, 1, 8, "srun", "gpu07", 20_000 + 12345673 % 20_000),
        ),
        ({"SLURM_NTASKS": "8", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"}, World()),  # a batch script without srun
        ({"SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0"}, World()),
    ],
)
def test_a_process_finds_its_place(environment, world):
    found = world_of_process(environment)
    assert found == world
    assert (found.nodes, found.node) == (2, 1) if world.size > 1 else (found.nodes, found.node) == (1, 0)
    assert is_first_of_node(environment) == (world.local_rank == 0)


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"RANK": "0", "WORLD_SIZE": "2"}, "but not LOCAL_RANK, MASTER_ADDR, MASTER_PORT"),
        (World(0, 3, 0, 2).variables(), "as many on each node, got WORLD_SIZE 3 and LOCAL_WORLD_SIZE 2"),
        (
            {"SLURM_STEP_NUM_TASKS": "3", "SLURM_STEP_NUM_NODES": "2", "SLURM_STEP_TASKS_PER_NODE": "2,1"},
            r"3 tasks on 2 nodes \(2,1\): they have to be as many on each",
        ),
        (World(0, 2, 0, 0).variables(), "as many on each node, got WORLD_SIZE 2 and LOCAL_WORLD_SIZE 0"),
        (World(0, 2, 0, 2).variables() | {"WORLD_SIZE": ""}, "WORLD_SIZE has to be a whole number, .*got ''; start"),
        ({"SLURM_STEP_NUM_TASKS": "2"}, r"SLURM_PROCID has to be .* got None; .* take the variable away \(unset"),
        ({"PMI_SIZE": "many"}, "PMI_SIZE has to be a whole number"),
        ({"OMPI_COMM_WORLD_SIZE": "2"}, "mpirun has started 2 processes, which do not find each other"),
    ],
)
def test_places_that_cannot_be_are_refused(environment, message):
    with pytest.raises(UsageError, match=message):
        world_of_process(environment)


def test_nodes_of_slurm():
    lists = {"gpu[07-09,12],cpu1": "gpu07", "a,b": "a", "a[3]": "a3", "a[1-2]-ib": "a1-ib", "node": "node"}
    lists |= {"rack[1-2]node[3-4],b[1-2]": "rack1node3", "": "127.0.0.1"}
    assert {text: first_node(text) for text in lists} == lists


def test_each_process_and_each_job_has_gpus_of_its_own():
    eight = [World(rank, 16, rank % 8, 8, "torchrun") for rank in range(16)]
    assert [gpu_of(world, 8) for world in eight] == [*range(8)] * 2
    assert gpu_of(World(3, 4, 3, 4, "srun"), 1) == 0  # each task is shown one
    with pytest.raises(UsageError, match="4 processes on a node that shows 2 GPUs"):
        gpu_of(World(2, 4, 2, 4, "torchrun"), 2)
    gpus = [f"GPU-{letter}" for letter in "abcde"]
    assert [gpus_of_job(slot, 2, gpus) for slot in range(3)] == [
        (gpus[0], gpus[1]),
        (gpus[2], gpus[3]),
        (gpus[0], gpus[1]),
    ]
    assert [gpus_of_job(slot, 1, gpus[:2]) for slot in range(3)] == [(gpus[0],), (gpus[1],), (gpus[0],)]
    assert gpus_of_job(0, 2, gpus[:1]) == gpus_of_job(0, 1, []) == ()


@pytest.mark.parametrize(
    ("world", "settings", "message"),
    [
        (
            World(1, 2, 1, 2),
            {"devices": 4},
            r"says 4, and torchrun has started 2 processes on each node\. Start 4",
        ),
        (World(1, 2, 1, 2), {"devices": 1}, r"recipe says 1, and torchrun .* or set training\.devices to 2"),
        (
            World(1, 2, 0, 1),
            {"num_nodes": 1},
            r"training\.num_nodes: the recipe says 1, .* started 2 nodes",
        ),
        (None, {"num_nodes": 2}, "training.num_nodes: got 2, but this process was started alone"),
        (World(0, 2, 0, 2), {"sync_batchnorm": True}, "PyTorch synchronises batch norms on GPUs only"),
        (World(0, 3, 0, 3), {}, "data.batch_size: 64 is the batch of all 3 processes together"),
        (World(0, 2, 0, 2), {"devices": "auto", "strategy": "ddp"}, None),
        (World(0, 2, 0, 1), {"devices": 1, "num_nodes": 2}, None),
    ],
)
def test_what_was_started_is_compared_with_the_recipe_before_any_work(world, settings, message, tmp_path, monkeypatch):
    monkeypatch.setattr("os.cpu_count", lambda: 8)
    for name, value in (world.variables() if world else {}).items():
        monkeypatch.setenv(name, value)
    recipe = load_recipe("digits", SMALL | {f"training.{key}": value for key, value in settings.items()})
    if message is None:
        assert planned(recipe).size == 2
        return
    with pytest.raises(UsageError, match=message):
        train(recipe, tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()


def test_batch_norms_that_synchronise_are_the_same_for_one_process():
    torch.manual_seed(0)
    net = timm.create_model("regnety_002", num_classes=5)  # timm's norms, with an activation inside
    other = synchronised(copy.deepcopy(net))
    kinds = {type(layer).__name__ for layer in other.modules() if isinstance(layer, _BatchNorm)}
    assert kinds == {"SyncBatchNormAct"}
    x, batches = torch.randn(4, 3, 32, 32), [torch.randn(4, 3, 32, 32) for _ in range(2)]
    networks = [stimulative.unravel(one, x) for one in (net, other)]
    subnets = [networks[0].full, networks[0].space.smallest]
    scale = []
    for network in networks:
        network.model.train()
        losses = [output.square().mean() for _, output, _ in network.passes(x, subnets)]
        torch.stack(losses).sum().backward()
        with each_by_itself(network.model):
            statistics = network.recalibrate(batches, subnets)
        network.load_statistics(statistics, subnets[1])
        scale.append([*(one.grad for one in network.model.parameters()), *network.model.buffers(), torch.stack(losses)])
    assert all(torch.equal(one, two) for one, two in zip(*scale, strict=True) if one is not None)


class Norm(nn.Module):
    """A norm of one's own, without a mean."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("seen", torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        power = self.seen
        if self.training:
            power = x.square().mean((0, 2, 3))
            self.seen.lerp_(power.detach(), 0.1)
        return x / (power + 1e-5).sqrt()[:, None, None]


def test_batch_norms_are_switched_and_strange_ones_are_refused():
    net = synchronised(nn.Sequential(nn.BatchNorm2d(2), nn.Linear(2, 2)))
    assert net[0].process_group == GroupMember.NON_GROUP_MEMBER
    synchronise(net, on=True)
    with each_by_itself(net):
        assert net[0].process_group == GroupMember.NON_GROUP_MEMBER
    assert net[0].process_group is None

    class Own(nn.BatchNorm2d):
        pass

    with pytest.raises(UsageError, match=r"training\.sync_batchnorm: 0 \(Own\) computes in a way of its own"):
        synchronised(nn.Sequential(Own(2)))


def test_running_statistics_are_those_of_norms_and_no_other_buffers():
    net = SequentialNet()
    net.register_buffer("mask", torch.full((2,), torch.finfo(torch.float32).min))
    net.stage1[0].bn1 = Norm(6)
    method = SelfDistillation(stimulative.unravel(net, torch.randn(2, 3, 8, 8)))
    names = {id(value): name for name, value in method.named_buffers()}
    found = {names[id(value)] for value in running_statistics(method)}
    assert found == {name for name in names.values() if name.endswith(("running_mean", "running_var", "seen"))}
    assert any("seen" in name for name in found) and any("network" not in name for name in found)


def test_where_a_run_is_trained_is_no_part_of_what_it_is(out, pair):
    recipe = load_recipe("digits", RUNS["joint"])
    elsewhere = recipe.override({"training.devices": 2, "training.num_nodes": 1, "training.strategy": "flat"})
    assert changes_of_recipe(recipe.to_mapping(), elsewhere) == []
    old = recipe.to_mapping()
    old["training"]["devices"] = 1
    for key in ("num_nodes", "strategy"):
        del old["training"][key]
    del old["optimizer"]["trunk_lr"]
    assert changes_of_recipe(old, recipe) == []
    assert changes_of_recipe(old, recipe.override({"optimizer.trunk_lr": 0.5})) == [
        "optimizer.trunk_lr: 1.0 then, 0.5 now"
    ]


@pytest.mark.parametrize("noted", [True, False])
def test_a_run_of_an_older_version_goes_on_as_it_meant_its_recipe(noted, tmp_path, monkeypatch):
    recipe = load_recipe("digits", {"data.batch_size": 8, "training.devices": 4})
    old = recipe.to_mapping()
    del old["training"]["strategy"], old["training"]["tf32"], old["training"]["cudnn_benchmark"]
    del old["optimizer"]["fused"]
    run = RunDirectory(tmp_path)
    saved = {"recipe": old} if noted else {}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(old))
    batch = r"set in .*recipe\.yaml data\.batch_size: 32, training\.strategy: auto; or"
    with pytest.raises(UsageError, match=f"older version, in which each device had .*{batch}"):
        check_unchanged(run, recipe, saved)
    once_put = {"data.batch_size": 32, "training.strategy": "auto"}
    for on_gpu, settings in (
        (False, once_put),
        (True, once_put | {"training.tf32": False, "training.cudnn_benchmark": False, "optimizer.fused": False}),
    ):
        monkeypatch.setattr(torch.cuda, "is_available", lambda on_gpu=on_gpu: on_gpu)
        if on_gpu:
            said = r"yaml training\.tf32: false, training\.cudnn_benchmark: false, optimizer\.fused: false; or"
            with pytest.raises(UsageError, match=said):
                check_unchanged(run, recipe.override(once_put), saved)
        for key, value in settings.items():
            section, name = key.split(".")
            edited = yaml.safe_load((tmp_path / "recipe.yaml").read_text())
            edited[section][name] = value
            (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(edited))
        check_unchanged(run, recipe.override(settings), saved)


def test_data_of_ones_own_are_not_sent_to_processes(tmp_path, monkeypatch):
    monkeypatch.setattr("os.cpu_count", lambda: 8)
    recipe = load_recipe("digits", SMALL | {"training.devices": 2})
    with pytest.raises(UsageError, match=r"data= is of this process alone.*start the script by torchrun"):
        train(recipe, tmp_path / "run", data=load(recipe.data, seed=0), progress=False)
    callback = Stop(0, 1)
    callback.step = lambda: 0
    with pytest.raises(UsageError, match="callbacks= cannot be sent to other processes"):
        train(recipe, tmp_path / "run", callbacks=[callback], progress=False)


def test_a_study_is_not_started_several_times(tmp_path, monkeypatch):
    for name, value in World(1, 2, 1, 2).variables().items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UsageError, match="torchrun has started 2 processes, and a study starts those of its runs"):
        compare("digits", out=tmp_path / "study")


def test_a_killed_process_ends_the_others_in_one_sentence(tmp_path):
    words = ["train", "digits", "--out", str(tmp_path / "run"), "--training.devices", "2", "--training.device", "cpu"]
    words += ["--schedule.epochs", "500", "--model.arguments.width", "2"]
    command = [sys.executable, "-m", "stimulative", *words]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        while not (tmp_path / "run" / METRICS).exists():
            assert process.poll() is None
            time.sleep(0.1)
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        (copy,) = (one for one in map(int, children) if b"train_as_copy" in Path(f"/proc/{one}/cmdline").read_bytes())
        os.kill(copy, signal.SIGKILL)
        _, said = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == 1
    (line,) = (line for line in said.splitlines() if line.strip() and " epoch " not in line)
    assert line == (
        "stimulative: stopped: process 1 of the 2 that train together was killed by SIGKILL; the run goes on from its "
        "last checkpoint with --resume"
    )
    assert checkpoint(tmp_path / "run")["epoch"] >= 0


@pytest.fixture
def quick_copies(monkeypatch) -> Iterator[Callable[[int], Copies]]:
    """Starts copies that only say that they are there, and waits for no group."""
    says = (
        "import os, sys; from multiprocessing.connection import Connection as C; c = C(os.dup(0)); c.recv_bytes(); "
        "c.send(None); c.poll(None)"
    )
    monkeypatch.setattr(copies, "_BEGIN", says)
    monkeypatch.setattr(copies, "_PATIENCE", 0.1)
    threads = torch.get_num_threads()
    yield lambda size: Copies(World(0, size, 0, size, "train"), {})
    assert torch.get_num_threads() == threads


def test_copies_end_with_whoever_knows_of_them(quick_copies, monkeypatch):
    started, start = [], subprocess.Popen

    def starting(*words: Any, **options: Any) -> Any:
        if len(started) == 3:
            raise OSError("no more")
        started.append(start(*words, **options))
        return started[-1]

    monkeypatch.setattr(subprocess, "Popen", starting)
    quick_copies(2)  # of a Trainer that is made and not run
    assert started[0].poll() == -signal.SIGKILL
    with pytest.raises(OSError, match="no more"):
        quick_copies(4)
    assert [process.poll() for process in started] == [-signal.SIGKILL] * 3


def test_a_lost_copy_breaks_off_exchanges_and_ends_nobody(quick_copies, monkeypatch):
    aborted = threading.Event()
    group = SimpleNamespace(WORLD=SimpleNamespace(abort=aborted.set))
    monkeypatch.setattr(copies.distributed, "group", group)
    some = quick_copies(3)
    some._processes[1].kill()
    assert aborted.wait(30)
    assert some.lost() == "process 2 of the 3 that train together was killed by SIGKILL"
    some.close(well=False)


def test_a_copy_that_cannot_begin_is_told_of_at_once(quick_copies, monkeypatch):
    monkeypatch.setattr(copies, "_BEGIN", "raise SystemExit(3)")
    with pytest.raises(ProcessLost, match="process 1 of the 2 that train together ended with status 3"):
        quick_copies(2)


def test_copies_meet_on_this_machine_alone(quick_copies, monkeypatch):
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "ib0")
    some = quick_copies(2)
    listening = {line.split()[1] for line in Path("/proc/self/net/tcp6").read_text().splitlines()[1:]}
    assert not [place for place in listening if int(place.split(":")[1], 16) == some.store.port]
    with copies.on_this_machine():
        assert os.environ["GLOO_SOCKET_IFNAME"].startswith("lo")
    assert os.environ["GLOO_SOCKET_IFNAME"] == "ib0"
    some.close(well=False)


def test_what_others_have_to_do_with_an_error_is_not_guessed_from_single_words():
    processes = Processes(World(0, 2, 0, 2))
    for text in ("cannot restore the stored checkpoint", "NCCL is not built in", "a process group of cgroups"):
        with pytest.raises(RuntimeError, match=text) as raised, processes.whole():
            raise RuntimeError(text)
        assert type(raised.value) is RuntimeError
    with pytest.raises(ProcessLost, match="another of the 2 processes"), processes.whole():
        raise RuntimeError("[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:561] Connection closed by peer")
    with pytest.raises(ProcessLost, match="another of the 2 processes"), processes.whole():
        raise DistNetworkError("the store is gone")


def test_a_process_that_trains_with_others_starts_no_more(monkeypatch):
    monkeypatch.setattr("os.cpu_count", lambda: 8)
    monkeypatch.setattr("torch.distributed.is_initialized", lambda: True)
    with pytest.raises(UsageError, match="got 2, but this process trains with others already"):
        planned(load_recipe("digits", SMALL | {"training.devices": 2}))


SCRIPT = """
print("begins", flush=True)
from pair import SMALL, Leave
from stimulative.training import ProcessLost, load_recipe, train

class Own(Leave):
    pass

recipe = load_recipe("digits", SMALL | {"training.devices": 2})
try:
    raise ValueError
except ValueError:
    for leave in (Own, Leave):
        try:
            train(recipe, "run", progress=False, callbacks=[leave()])
        except (ProcessLost, ValueError) as error:
            print(error)
print("goes on")
"""


def test_a_script_without_a_guard_trains_by_several_and_outlives_them(tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT)
    (tmp_path / "pickle.py").write_text("raise SystemExit('not the one of Python')")
    command = [sys.executable, "-P", "script.py"]  # it finds pair.py, and no module in its own directory
    beside = os.environ | {"PYTHONPATH": str(Path(__file__).parent)}
    done = subprocess.run(command, cwd=tmp_path, env=beside, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    first, refused, lost, last = done.stdout.splitlines()
    assert (first, last) == ("begins", "goes on")
    assert refused.startswith(
        "callbacks= cannot be sent to other processes (Own is of the script itself, which is not run again; import it)"
    )
    assert lost.startswith("process 1 of the 2 that train together was killed by SIGKILL; the run goes on from")
    assert checkpoint(tmp_path / "run")["epoch"] == 0  # it had trained when the other one left


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
    world = tmp_path_factory.mktemp("alone")
    for name in ("joint", "lean"):
        train(load_recipe("digits", RUNS[name]), world / name, progress=False)
    train(load_recipe("digits", SMALL), world / "whole", progress=False)
    return world


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
        assert found["buffers"]["mask"].tolist() == [torch.finfo(torch.float32).min] * 2
        assert torch.equal(found["buffers"]["constant"], torch.tensor([0.1, 2e38]))
        assert all((value == 0).all() for value in found["parameters"].values())
        assert (found["greatest"], found["mean"].tolist()) == (4, [1.5, 3.0])
        assert found["gathered"] == [{"rank": 0}, {"rank": 1}]


def test_what_one_process_cannot_use_none_goes_on_with(pair, out):
    first, second = (part["refusals"] for part in pair)
    assert first.pop("recipes").startswith(
        "UsageError: the 2 processes were started together, which is for one piece of work, and were told to do "
        "different ones: optimizer.lr is 0.01 for the first and 0.02 for process 1; seed is 0 for the first and 1 for "
        "process 1; "
        f"the run directory is '{out / 'apart-0'}' for the first and '{out / 'apart-1'}' for process 1. Tell all"
    )
    assert f"the run is '{out / 'apart-0'}' for the first" in first.pop("runs")
    assert second.pop("recipes").startswith("Elsewhere: the 2 processes were started together")
    assert second.pop("runs").startswith("Elsewhere: ")
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
    # behind the first step that ends at or behind batch 4, where they agreed
    assert pair[0]["trained"]["resumed"] == pair[1]["trained"]["resumed"] == [7, 8, 9]
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
