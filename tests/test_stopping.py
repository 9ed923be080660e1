"""A training that a signal ends goes on from there as if it had never stopped; processes end with their parents."""

import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch._inductor.exc import CppCompileError
from torch.utils.data import DataLoader, TensorDataset

from stimulative.analysis import ResultsLost
from stimulative.cli import main
from stimulative.data import from_loaders
from stimulative.files import CannotWrite
from stimulative.runs import METRICS, MODEL, RunDirectory
from stimulative.training import Callback, Step, Stopping, Trainer, TrainingStopped, load_recipe, train

TINY = {
    "model.arguments": {"width": 2},
    "data.batch_size": 64,
    "schedule.epochs": 2,
    "training.log_every": 4,
    "evaluation.calibration_images": 64,
}


class Send(Callback):
    """Sends this process signals behind steps, counted over all epochs of this part of the training."""

    def __init__(self, at: Mapping[int, int]) -> None:
        self.at, self.seen = at, 0

    def on_step(self, trainer: Trainer, step: Step) -> None:
        self.seen += 1
        if self.seen in self.at:
            os.kill(os.getpid(), self.at[self.seen])


def log_of(run: Path) -> list[list[str]]:
    """The log without what depends on the clock."""
    rows = [line.split(",") for line in (run / METRICS).read_text().splitlines()]
    kept = [at for at, name in enumerate(rows[0]) if "second" not in name]
    return [[row[at] for at in kept] for row in rows]


def assert_equal(one: Path, other: Path) -> None:
    first, second = load_file(one / MODEL), load_file(other / MODEL)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert log_of(one) == log_of(other)
    assert RunDirectory(one).summary.main == RunDirectory(other).summary.main


@pytest.mark.parametrize(
    "settings",
    [
        {"method.name": "common", "data.batch_size": 48},
        {"method.name": "stimulative", "training.accumulate": 3},
        {"method.name": "stimulative", "method.schedule": "lean", "optimizer.name": "adamw"},
        {"method.name": "stochastic_depth", "data.mixup": 0.5},
        {"method.name": "group_knowledge"},
    ],
)
def test_a_stopped_training_goes_on_in_the_middle_of_an_epoch(settings, tmp_path):
    recipe = load_recipe("digits", TINY | settings)
    train(recipe, tmp_path / "whole", progress=False)
    out = tmp_path / "stopped"
    for at in ({5: signal.SIGTERM}, {3: signal.SIGUSR1}, {1: signal.SIGINT}, {4: signal.SIGUSR2}):
        with pytest.raises(TrainingStopped, match="stopped by SIG"):
            train(recipe, out, resume=True, progress=False, callbacks=[Send(at)])
        assert not (out / MODEL).exists()
    train(recipe, out, resume=True, progress=False)
    assert_equal(tmp_path / "whole", out)


def test_it_goes_on_in_a_loader_that_shuffles_by_the_global_generator(tmp_path):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(96, 1, 8, 8, generator=generator)
    y = (x.mean((1, 2, 3)) > 0).long()

    class Noisy(TensorDataset):
        def __getitem__(self, index):
            x, y = super().__getitem__(index)
            return x + 0.1 * torch.randn(x.shape), y

    def data():
        loader = DataLoader(Noisy(x, y), batch_size=8, shuffle=True)
        fixed = list(DataLoader(TensorDataset(x, y), batch_size=32))
        return from_loaders(loader, fixed, fixed, classes=2, calibration=fixed)

    recipe = load_recipe("digits", TINY | {"method.name": "stimulative"})
    train(recipe, tmp_path / "whole", data=data(), progress=False)
    for at in ({5: signal.SIGTERM}, {9: signal.SIGTERM}):
        with pytest.raises(TrainingStopped):
            train(recipe, tmp_path / "stopped", data=data(), resume=True, progress=False, callbacks=[Send(at)])
    train(recipe, tmp_path / "stopped", data=data(), resume=True, progress=False)
    assert_equal(tmp_path / "whole", tmp_path / "stopped")


def test_it_is_stopped_in_validation_too(tmp_path):
    recipe = load_recipe("digits", TINY | {"method.name": "stimulative"})
    train(recipe, tmp_path / "whole", progress=False)
    batches = len(load_batches(recipe))
    with pytest.raises(TrainingStopped):
        train(recipe, tmp_path / "run", progress=False, callbacks=[Send({batches: signal.SIGTERM})])
    assert log_of(tmp_path / "run") == log_of(tmp_path / "whole")[:1]
    state = torch.load(tmp_path / "run/checkpoint-last.ckpt", weights_only=True)
    assert (state["epoch"], state["under_way"]["batches"]) == (0, batches)
    train(recipe, tmp_path / "run", resume=True, progress=False)
    assert_equal(tmp_path / "whole", tmp_path / "run")


def load_batches(recipe):
    from stimulative.training import prepare

    return prepare(recipe).data.train


def test_handlers_exist_only_while_a_net_trains(tmp_path):
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)]
    with pytest.raises(TrainingStopped):
        train(load_recipe("digits", TINY), tmp_path / "run", progress=False, callbacks=[Send({1: signal.SIGTERM})])
    train(load_recipe("digits", TINY), tmp_path / "run", progress=False, resume=True)
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)] == before


def test_what_is_ignored_stays_ignored_and_threads_hear_nothing():
    before = signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    try:
        with Stopping().heard():
            assert signal.getsignal(signal.SIGUSR1) is signal.SIG_IGN
            os.kill(os.getpid(), signal.SIGUSR1)
    finally:
        signal.signal(signal.SIGUSR1, before)
    found = []

    def hear():
        with Stopping().heard():
            found.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=hear)
    thread.start()
    thread.join()
    assert found == [signal.getsignal(signal.SIGTERM)]


def test_somebody_elses_handler_is_called_once_the_state_is_saved_and_may_go_on(tmp_path):
    recipe = load_recipe("digits", TINY | {"method.name": "stimulative"})
    train(recipe, tmp_path / "whole", progress=False)
    saved = []

    def theirs(number, frame):
        saved.append(torch.load(tmp_path / "run/checkpoint-last.ckpt", weights_only=True)["under_way"]["batches"])

    before = signal.signal(signal.SIGUSR2, theirs)
    try:
        at = {3: signal.SIGUSR2, 7: signal.SIGUSR2}
        train(recipe, tmp_path / "run", progress=False, callbacks=[Send(at)])
    finally:
        signal.signal(signal.SIGUSR2, before)
    assert saved == [3, 7]
    assert_equal(tmp_path / "whole", tmp_path / "run")


@pytest.mark.parametrize("tells", [False, True])
def test_what_is_waited_for_is_said_where_it_takes_long(tells, capsys, monkeypatch):
    monkeypatch.setattr("stimulative.training.stopping._PATIENCE", 0.05)
    stopping = Stopping(tells=tells)
    with stopping.heard(), stopping.waiting():
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.5)
    told = capsys.readouterr().err
    assert told.startswith("SIGTERM: training ends with the step that is under way") == tells
    assert bool(told) == tells


def test_a_compiler_that_was_stopped_as_well_is_no_error_of_its_own():
    stopping = Stopping()
    with stopping.heard():
        with pytest.raises(CppCompileError), stopping.waiting():
            raise CppCompileError(["g++"], "was killed")
        with pytest.raises(TrainingStopped, match="SIGTERM"), stopping.waiting():
            os.kill(os.getpid(), signal.SIGTERM)
            raise CppCompileError(["g++"], "was killed")
        with pytest.raises(ValueError, match="of the model"), stopping.waiting():
            raise ValueError("of the model")


def test_a_second_ctrl_c_does_not_wait():
    stopping = Stopping()
    with stopping.heard(), stopping.waiting():
        os.kill(os.getpid(), signal.SIGINT)
        assert stopping.asked == signal.SIGINT
        with pytest.raises(TrainingStopped):
            os.kill(os.getpid(), signal.SIGINT)


def test_the_command_says_how_to_go_on(tmp_path, capsys):
    def send():
        while not (tmp_path / "a run" / METRICS).exists():
            time.sleep(0.05)
        time.sleep(0.3)
        os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=send)
    thread.start()
    command = ["train", "digits", "--out", str(tmp_path / "a run"), "--schedule.epochs", "200"]
    assert main(command) == 143
    thread.join()
    said = capsys.readouterr().err
    assert "stopped by SIGTERM; go on with: stimulative train '" in said and said.strip().endswith("a run' --resume")


def living(mark: str) -> list[int]:
    """The processes that have a text in their environment."""
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        try:
            if mark.encode() in (place / "environ").read_bytes():  # empty of one that has ended
                found.append(int(place.name))
        except OSError:
            continue
    return found


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGKILL, -9)])
def test_runs_of_a_study_end_with_it(number, status, tmp_path):
    out, several = tmp_path / "study", ["--training.devices", "2", "--training.device", "cpu"]
    command = [sys.executable, "-m", "stimulative", "compare", "digits", "--seeds", "1", "--out", str(out)]
    command += ["--schedule.epochs", "300", *(several if number == signal.SIGKILL else [])]
    mark = f"mark={tmp_path}"
    environment = {**os.environ, "mark": str(tmp_path)}
    process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
    while not (log := next(iter(out.glob("*/metrics.csv")), None)):
        time.sleep(0.1)
    time.sleep(0.5)
    assert len(living(mark)) >= (4 if number == signal.SIGKILL else 3)
    process.send_signal(number)
    process.wait()
    assert process.returncode == status
    until = time.monotonic() + 10
    while living(mark) and time.monotonic() < until:
        time.sleep(0.1)
    assert not living(mark)
    if status > 0:
        assert "stopped by SIGTERM; the same command goes on" in process.communicate()[1]
    state = torch.load(log.parent / "checkpoint-last.ckpt", weights_only=True)
    assert state["epoch"] >= 1 or "under_way" in state


def test_a_job_of_a_cluster_that_is_to_make_room_is_sent_again_and_goes_on(tmp_path):
    submitit = pytest.importorskip("submitit")
    from stimulative.studies.cluster import Sent
    from stimulative.studies.working import Work

    recipe = load_recipe("digits", TINY | {"method.name": "stimulative", "schedule.epochs": 8})
    train(recipe, tmp_path / "whole", progress=False)
    executor = submitit.AutoExecutor(folder=tmp_path / "jobs", cluster="local")
    job = executor.submit(Sent(Work(recipe.to_yaml(), str(tmp_path / "run"), ("1-1-1",))))
    while not (tmp_path / "run" / METRICS).exists():
        time.sleep(0.05)
    time.sleep(0.2)
    (sent,) = (tmp_path / "jobs").glob("*_submitted.pkl")
    before = sent.stat().st_mtime_ns
    controller = job._process.pid
    (task,) = Path(f"/proc/{controller}/task/{controller}/children").read_text().split()
    os.kill(int(task), signal.SIGUSR2)  # as Slurm does
    assert job.result().main == RunDirectory(tmp_path / "whole").summary.main
    assert sent.stat().st_mtime_ns > before  # written again by submitit's handler
    assert_equal(tmp_path / "whole", tmp_path / "run")


def test_what_ends_a_training_can_be_sent_between_processes():
    stopped = pickle.loads(pickle.dumps(TrainingStopped(signal.SIGTERM)))
    assert (stopped.number, str(stopped)) == (signal.SIGTERM, "stopped by SIGTERM")
    full = pickle.loads(pickle.dumps(CannotWrite(Path("x"), "full")))
    assert str(full) == str(CannotWrite(Path("x"), "full"))
    lost = pickle.loads(pickle.dumps(ResultsLost("lost", {"a": 1}, "b")))
    assert (str(lost), lost.summary, lost.subnets) == ("lost", {"a": 1}, "b")
