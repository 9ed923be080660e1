"""One process at a time writes into a directory; its death ends that; others are told who it is."""

import multiprocessing
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from stimulative.claiming import claimed, in_use, is_first_process
from stimulative.cli import main
from stimulative.errors import UsageError
from stimulative.ranks import World

HOLD = """
import sys, time
from pathlib import Path
from stimulative.claiming import claimed
with claimed(Path(sys.argv[1]), "training"):
    (Path(sys.argv[1]) / "something").touch()
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that holds a directory."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path / "run")], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()


def test_another_is_refused_and_told_who_holds_it(holder, tmp_path):
    said = rf"run is in use: training since 20\d\d-.* by process {holder.pid} on {re.escape(platform.node())} \(-c "
    with pytest.raises(UsageError, match=said), claimed(tmp_path / "run", "training"):
        pass
    assert str(holder.pid) in (in_use(tmp_path / "run") or "")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_death_ends_it(holder, tmp_path, number):
    holder.send_signal(number)
    holder.wait()
    assert in_use(tmp_path / "run") is None
    with claimed(tmp_path / "run", "measuring"):
        assert in_use(tmp_path / "run") is None  # by others


def test_commands_are_refused_before_anything_is_read_or_written(holder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    before = sorted(os.listdir("run"))
    for command in (
        "train digits --out run",
        "train digits --out run --resume",
        "compare digits --out run",
        "loafing digits --main 3-3-3 --out run",
        "matrix digits --nets 1-1-1 3-3-3 --out run",
        "sweep digits --key method.balance --values 1,2 --out run",
    ):
        assert main(command.split()) == 2, command
        assert f"process {holder.pid}" in capsys.readouterr().err, command
        assert sorted(os.listdir("run")) == before


def test_a_thread_holds_it_once(tmp_path):
    found = []

    def other():
        try:
            with claimed(tmp_path, "measuring"):
                pass
        except UsageError as error:
            found.append(str(error))

    with claimed(tmp_path, "training"), claimed(tmp_path / "." / "", "again"):
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
    assert len(found) == 1 and "training since" in found[0]
    other()
    assert len(found) == 1


def test_what_is_empty_in_the_end_vanishes(tmp_path):
    with pytest.raises(ZeroDivisionError), claimed(tmp_path / "new", "training"):
        1 / 0  # noqa: B018
    assert not (tmp_path / "new").exists()
    with claimed(tmp_path / "new", "training"):
        (tmp_path / "new/kept").touch()
    assert sorted(os.listdir(tmp_path / "new")) == [".lock", "kept"]


def test_a_directory_that_was_there_stays(tmp_path):
    with claimed(tmp_path, "training"):
        pass
    assert os.listdir(tmp_path) == [".lock"]


def test_a_directory_that_vanishes_meanwhile_hides_no_error(tmp_path):
    with pytest.raises(ZeroDivisionError), claimed(tmp_path / "run", "training"):
        shutil.rmtree(tmp_path / "run")
        1 / 0  # noqa: B018
    with claimed(tmp_path / "run", "training"):
        pass


@pytest.mark.parametrize(
    ("environment", "first"),
    [
        ({}, True),
        (World(0, 16, 0, 8).variables() | {"SLURM_NTASKS": "2", "SLURM_PROCID": "1"}, True),  # torchrun within srun
        (World(8, 16, 0, 8).variables() | {"SLURM_NTASKS": "2", "SLURM_PROCID": "0"}, False),
        ({"SLURM_STEP_NUM_TASKS": "2", "SLURM_PROCID": "1", "SLURM_LOCALID": "0"}, False),
        ({"SLURM_STEP_NUM_TASKS": "1", "SLURM_NTASKS": "2", "SLURM_PROCID": "0"}, True),
    ],
)
def test_of_processes_that_train_together_the_first_one_holds_it(environment, first, tmp_path, monkeypatch):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert is_first_process() is first
    with claimed(tmp_path / "run", "training"):
        assert (tmp_path / "run").exists() is first


def _takes_turns(directory: str, log: str) -> None:
    until = time.monotonic() + 3
    while time.monotonic() < until:
        try:
            with claimed(Path(directory), "writing"):
                with Path(log).open("a") as file:
                    file.write("in\n")
                time.sleep(0.002)
                with Path(log).open("a") as file:
                    file.write("out\n")
        except UsageError:
            continue


def test_two_are_never_inside_at_once_though_the_directory_vanishes_in_between(tmp_path):
    context = multiprocessing.get_context("spawn")
    directory, log = str(tmp_path / "run"), str(tmp_path / "log")
    processes = [context.Process(target=_takes_turns, args=(directory, log)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    lines = Path(log).read_text().split()
    assert len(lines) > 20
    assert lines[::2] == ["in"] * (len(lines) // 2) and lines[1::2] == ["out"] * (len(lines) // 2)
