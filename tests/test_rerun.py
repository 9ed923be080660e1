"""A run is made again from its record, and compared with the first."""

import json
import shutil
import signal

import pytest
import torch
from interrupting import Interrupt
from safetensors.torch import load_file

from stimulative.analysis import adopt, evaluate, recipe_for
from stimulative.cli import main
from stimulative.errors import UsageError
from stimulative.files import metadata_of
from stimulative.models import build
from stimulative.runs import ENVIRONMENT, MODEL, RunDirectory
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
    assert "weights   equal  " in capsys.readouterr().out


def test_what_is_other_is_told(run, capsys):
    stored = RunDirectory(run)
    model = build("cifar/resnet20", classes=10, channels=1, arguments={"width": 2})
    model.load_state_dict(load_file(run / MODEL))
    with torch.no_grad():
        next(model.parameters())[0, 0, 0, 0] += 0.5
    stored.write_model(
        model, {k: v for k, v in metadata_of(run / MODEL).items() if "sealed" not in k and "sha" not in k}
    )
    environment = json.loads((run / ENVIRONMENT).read_text())
    stored.file("checksums.json").unlink()
    environment["versions"]["torch"] = "1.0"
    (run / ENVIRONMENT).write_text(json.dumps(environment))
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
    with pytest.raises(UsageError, match=r"cannot be made again: model.safetensors: its checksum"):
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
