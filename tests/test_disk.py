"""A disk that is full or read-only, loggers that break, and links that lead elsewhere."""

import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from made import run as made_run

from stimulative import files
from stimulative.analysis import ResultsLost, evaluate
from stimulative.cli import main
from stimulative.errors import UsageError
from stimulative.runs import LAST, METRICS, SUBNETS, SUMMARY, RunDirectory
from stimulative.training import Callback, load_recipe, train

TINY = {
    "model.arguments": {"width": 2},
    "data.batch_size": 128,
    "schedule.epochs": 2,
    "evaluation.calibration_images": 64,
}


@pytest.fixture
def small_files():
    """Files of this process may have 20 kB at most, as on a disk that is full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

    def limit(size: int = 20_000) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))

    yield limit
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, ignored)


def test_a_full_disk_ends_a_training_with_a_message_and_it_goes_on_later(tmp_path, small_files, capfd):
    recipe = load_recipe("digits", TINY)
    train(recipe, tmp_path / "whole", progress=False)

    class Fill(Callback):
        def on_epoch(self, trainer, epoch):
            small_files()

    with pytest.raises(files.CannotWrite, match=r"cannot write .*checkpoint-.*Nothing was left behind"):
        train(recipe, tmp_path / "run", progress=False, callbacks=[Fill()])
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    assert not list((tmp_path / "run").glob(".*.tmp"))
    train(recipe, tmp_path / "run", resume=True, progress=False)
    assert RunDirectory(tmp_path / "run").summary.main == RunDirectory(tmp_path / "whole").summary.main


def test_what_was_measured_is_printed_where_it_cannot_be_written(tmp_path, small_files, capsys, monkeypatch):
    recipe = load_recipe("digits", TINY)
    train(recipe, tmp_path / "run", progress=False)
    original = RunDirectory.write_family

    def full(self, family):
        small_files(100)
        original(self, family)

    monkeypatch.setattr(RunDirectory, "write_family", full)
    with pytest.raises(ResultsLost) as lost:
        evaluate(tmp_path / "run", latency=False)
    assert lost.value.summary["subnets"]["evaluated"] == 27 and len(lost.value.subnets.splitlines()) == 28
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    assert not RunDirectory(tmp_path / "run").evaluated


READ_ONLY = """
mount --bind {run} {run} && mount -o remount,ro,bind {run} && {python} -m stimulative {command}
"""


def read_only(run: Path, command: str) -> subprocess.CompletedProcess[str]:
    """A command where a run directory cannot be written to."""
    script = READ_ONLY.format(run=run, python=sys.executable, command=command)
    return subprocess.run(["unshare", "-m", "bash", "-c", script], capture_output=True, text=True)


def test_a_run_is_measured_in_a_copy_from_python_too(tmp_path):
    train(load_recipe("digits", TINY), tmp_path / "run", progress=False)
    found = evaluate(tmp_path / "run", out=tmp_path / "copy", subnets=3, latency=False)
    assert found["subnets"]["evaluated"] == 3 and not RunDirectory(tmp_path / "run").evaluated
    assert RunDirectory(tmp_path / "copy").evaluated


@pytest.mark.skipif(os.geteuid() != 0 or sys.platform != "linux", reason="mounting takes root")
def test_a_run_that_cannot_be_written_to_is_measured_in_a_copy(tmp_path):
    run = tmp_path / "run"
    train(load_recipe("digits", TINY), run, progress=False)
    if subprocess.run(["unshare", "-m", "true"], capture_output=True).returncode:
        pytest.skip("this machine allows no mounts")
    refused = read_only(run, f"evaluate {run} --no-latency")
    assert (refused.returncode, "Traceback" in refused.stderr) == (2, False)
    assert f"cannot write to {run}: Read-only file system; choose another directory with --out" in refused.stderr
    copied = read_only(run, f"evaluate {run} --no-latency --out {tmp_path / 'copy'}")
    assert copied.returncode == 0, copied.stderr
    assert RunDirectory(tmp_path / "copy").summary.subnets.evaluated == 27
    assert not (run / SUBNETS).exists()


def test_a_logger_that_breaks_is_a_warning(tmp_path, monkeypatch):
    from lightning.fabric.loggers.tensorboard import TensorBoardLogger

    def broken(self, metrics, step=None):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(TensorBoardLogger, "log_metrics", broken)
    with pytest.warns(UserWarning, match="TensorBoardLogger cannot log any more .*No space left.*training goes on"):
        train(load_recipe("digits", TINY | {"training.loggers": ["tensorboard"]}), tmp_path / "run", progress=False)
    assert len((tmp_path / "run" / METRICS).read_text().splitlines()) == 3


@pytest.mark.parametrize(
    ("link", "command"),
    [
        ("run/tensorboard", "train digits --out run --training.loggers [tensorboard]"),
        ("run/common-seed0", "compare digits --seeds 1 --out run"),
        ("run/cluster", "compare digits --seeds 1 --out run --cluster local"),
        ("run/.lock", "train digits --out run"),
    ],
)
def test_links_that_lead_out_of_a_directory_are_refused(link, command, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("elsewhere").mkdir()
    Path(link).parent.mkdir()
    Path(link).symlink_to(tmp_path / "elsewhere" / "file" if link.endswith("lock") else tmp_path / "elsewhere")
    assert main(command.split()) == 2
    assert f"{Path(link).name} is a link, and what is written there would land in" in capsys.readouterr().err
    assert not os.listdir("elsewhere")


def test_figures_of_a_report_stay_where_they_belong(tmp_path, capsys):
    run = made_run(tmp_path / "run")
    (tmp_path / "elsewhere").mkdir()
    (run / "figures").symlink_to(tmp_path / "elsewhere")
    assert main(["report", str(run)]) == 2
    assert "is a link" in capsys.readouterr().err
    assert not os.listdir(tmp_path / "elsewhere")


@pytest.mark.parametrize("name", [SUMMARY, METRICS, LAST])
def test_a_link_in_the_place_of_a_file_is_replaced(name, tmp_path):
    (tmp_path / "precious").write_text("precious")
    (tmp_path / name).symlink_to(tmp_path / "precious")
    files.write_text(tmp_path / name, "new")
    assert (tmp_path / "precious").read_text() == "precious"
    assert not (tmp_path / name).is_symlink() and (tmp_path / name).read_text() == "new"


def test_temporary_files_of_killed_processes_are_removed(tmp_path):
    process = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True)
    with files.replacing(tmp_path / "summary.json") as own:
        host = own.name.rsplit(".", 4)[1]
        number = int(process.stdout)
        dead = tmp_path / f".summary.json.{host}.{number}.0123456789abcdef.tmp"
        of_another_machine = tmp_path / f".summary.json.00000000.{number}.0123456789abcdef.tmp"
        other = tmp_path / ".mine.tmp"
        for path in (dead, of_another_machine, other):
            path.touch()
        files.remove_left_behind(tmp_path)
        assert sorted(os.listdir(tmp_path)) == sorted([own.name, of_another_machine.name, other.name])


def test_names_as_long_as_a_file_system_allows_are_written(tmp_path):
    for name in ("a" * 250, "字" * 80):
        files.write_text(tmp_path / name, "text")
        assert (tmp_path / name).read_text() == "text"
    with pytest.raises(UsageError, match="File name too long"):
        files.write_text(tmp_path / ("a" * 300), "text")
