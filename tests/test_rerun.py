"""A run is made again from its record, and compared with the first."""

import json
import shutil
import signal
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from interrupting import Interrupt
from PIL import Image
from safetensors.torch import load_file

from stimulative.analysis import adopt, evaluate, recipe_for
from stimulative.cli import main
from stimulative.errors import UsageError
from stimulative.files import metadata_of
from stimulative.models import build
from stimulative.runs import BEST, MODEL, RECIPE, RunDirectory
from stimulative.studies import rerun
from stimulative.training import load_recipe, train

TINY = {
    "model.arguments": {"width": 2},
    "data.batch_size": 64,
    "schedule.epochs": 2,
    "evaluation.calibration_images": 64,
}


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "first"
    train(load_recipe("digits", TINY | {"method.name": "stimulative"}), out, progress=False)
    evaluate(out, subnets=5, seed=3, latency=False)
    return out


@pytest.fixture
def run(measured, tmp_path):
    return shutil.copytree(measured, tmp_path / "first")


def test_it_comes_to_the_same(run, capsys):
    assert main(["rerun", str(run), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [one["what"] for one in found["compared"]] == ["weights", "log", "main net", "subnets"]
    assert found["equal"] and found["surroundings"] == []
    again = RunDirectory(run.with_name("first-rerun"))
    assert again.family.by_subnet.keys() == RunDirectory(run).family.by_subnet.keys()
    one, two = load_file(run / MODEL), load_file(again.file(MODEL))
    assert all(torch.equal(value, two[name]) for name, value in one.items())
    before = again.file(MODEL).stat().st_mtime_ns
    assert main(["rerun", str(run)]) == 0  # it is there already
    assert again.file(MODEL).stat().st_mtime_ns == before
    said = capsys.readouterr().out
    assert "weights   equal  " in said and "(it was there already, and is compared only)" in said


def test_what_is_other_is_told(run, capsys):
    stored = RunDirectory(run)
    model = build("cifar/resnet20", classes=10, channels=1, arguments={"width": 2})
    model.load_state_dict(load_file(run / MODEL))
    with torch.no_grad():
        next(model.parameters())[0, 0, 0, 0] += 0.5
    stored.write_model(
        model, {k: v for k, v in metadata_of(run / MODEL).items() if "sealed" not in k and "sha" not in k}
    )
    environment = stored.environment
    stored.write_environment(replace(environment, versions={**environment.versions, "torch": "1.0"}))
    assert main(["rerun", str(run), "--out", str(run.with_name("again"))]) == 1
    said = capsys.readouterr().out
    assert "weights   other  1 of " in said and "differ, by 5.0e-01 at most" in said
    assert "log       equal  2 epochs" in said and "surroundings differ: torch: 1.0 then, " in said


def test_one_that_was_stopped_goes_on(run, monkeypatch):
    again = run.with_name("first-rerun")
    with pytest.raises(KeyboardInterrupt):
        train(RunDirectory(run).recipe, again, progress=False, callbacks=[Interrupt(step=20)])
    assert rerun(run, progress=False).equal


def test_a_record_that_is_not_whole_is_refused(run, tmp_path, monkeypatch):
    (run / MODEL).write_bytes((run / MODEL).read_bytes()[:-1] + b"\1")
    with pytest.raises(UsageError, match=r"cannot be made again: model.safetensors: its checksum is another one"):
        rerun(run)
    assert not run.with_name("first-rerun").exists()
    torch.save(build("cifar/resnet20", classes=10, channels=1).state_dict(), tmp_path / "w.pth")
    adopt(recipe_for("cifar/resnet20", "digits", []), tmp_path / "w.pth", tmp_path / "adopted")
    with pytest.raises(UsageError, match="trained elsewhere: there is nothing to train again"):
        rerun(tmp_path / "adopted")


def test_ctrl_c_says_how_to_go_on(run, capsys, monkeypatch):
    from stimulative import studies

    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(studies, "rerun", stop)
    assert main(["rerun", str(run)]) == 128 + signal.SIGINT
    assert f"go on with: stimulative rerun {run}" in capsys.readouterr().err


def test_nothing_differs_in_a_process_of_its_own(run):
    command = [sys.executable, "-m", "stimulative", "rerun", str(run), "--json"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["surroundings"] == []


@pytest.mark.parametrize("view", ["training", "evaluation"])
def test_the_view_that_subnets_were_measured_with_is_not_that_of_the_main_net(view, run):
    evaluate(run, subnets=3, calibration=view, latency=False)
    found = rerun(run, progress=False)
    assert found.equal, found
    evaluate(run, subnets=3, calibration={"training": "evaluation"}.get(view, "training"), latency=False)
    assert rerun(run, progress=False).equal


def test_it_has_a_place_of_its_own(run, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(run)
    assert main(["rerun", ".", "--out", "."]) == 2
    assert "is the run itself; choose another directory with --out" in capsys.readouterr().err
    assert main(["rerun", ".", "--out", ""]) == 2
    (tmp_path / "other").mkdir()
    (tmp_path / "other/notes.txt").touch()
    assert main(["rerun", ".", "--out", str(tmp_path / "other")]) == 2
    assert "holds something else than a run" in capsys.readouterr().err
    assert main(["rerun", ".", "--out", str(tmp_path / "other/notes.txt")]) == 2
    assert main(["rerun", ".", "--schedule.epochs", "3"]) == 2
    assert "unknown option '--schedule.epochs'; a run is made again as it was" in capsys.readouterr().err
    (run / BEST).write_bytes(b"")  # it needs none
    assert main(["rerun", "."]) == 0
    assert (run.parent / "first-rerun" / RECIPE).exists()


def test_data_and_weights_may_be_elsewhere_by_now(tmp_path):
    for split, name, shade in ((s, n, v) for s in ("train", "val") for n, v in (("dark", 20), ("light", 220))):
        (folder := tmp_path / "photos" / split / name).mkdir(parents=True)
        for number in range(6):
            level = shade + number + 6 * (split == "val")
            Image.new("RGB", (16, 16), (level, level, level)).save(folder / f"{number}.png")
    start = tmp_path / "w.pth"
    torch.save({"model": build("cifar/resnet20", classes=2, arguments={"width": 2}).state_dict()}, start)
    settings = TINY | {
        "data.name": f"folder:{tmp_path / 'photos'}",
        "data.image_size": 16,
        "data.workers": 0,
        "data.batch_size": 4,
        "model.weights": f"{start}#model",
    }
    train(load_recipe("digits", settings), tmp_path / "run", progress=False)
    (tmp_path / "photos").rename(tmp_path / "moved")
    with pytest.raises(UsageError, match="photos"):
        rerun(tmp_path / "run", progress=False)
    moved = {"data.name": f"folder:{tmp_path / 'moved'}"}
    assert rerun(tmp_path / "run", settings=moved, progress=False).equal
    Image.new("RGB", (16, 16)).save(tmp_path / "moved/train/dark/more.png")
    with pytest.raises(UsageError, match=r"cannot be made again: training images: 12 files, .* then, 13 files"):
        rerun(tmp_path / "run", tmp_path / "third", settings=moved)
    (tmp_path / "moved/train/dark/more.png").unlink()
    start.unlink()
    with pytest.raises(UsageError, match=r"w.pth, from which it started, is not there"):
        rerun(tmp_path / "run", tmp_path / "third", settings=moved)


def test_a_copy_is_no_repetition(run):
    shutil.copytree(run, run.with_name("first-rerun"))
    with pytest.raises(UsageError, match=r"first-rerun is a copy of .*, and was not made again"):
        rerun(run)
