"""A run that version 0.1.0 wrote (three epochs on digits, a net of 4,000 parameters) opens, and goes on.

Its ``checkpoint-last.ckpt`` is that of the second epoch, so that without its summary it is a run that was interrupted.
"""

import csv
import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from stimulative.analysis import evaluate
from stimulative.cli import main
from stimulative.residual import Subnet
from stimulative.runs import RunDirectory
from stimulative.training import train

OLD = Path(__file__).parent / "data/version-0.1.0"


@pytest.fixture
def run(tmp_path) -> Path:
    return Path(shutil.copytree(OLD, tmp_path / "run"))


def test_all_of_it_is_read():
    run = RunDirectory.open(OLD)
    summary, family = run.summary, run.family
    stored = json.loads((OLD / "summary.json").read_text())
    assert "format" not in stored and "task" not in stored
    assert (summary.format, summary.task) == (1, "images")
    assert {key: value for key, value in summary.to_mapping().items() if key not in ("format", "task")} == stored
    assert run.recipe.model.name == "cifar/resnet20" and run.recipe.seed == summary.seed == 8
    assert [epoch.validation_quality for epoch in run.metrics] == [10, 18.8889, 51.1111]
    assert run.environment.versions["stimulative"] == "0.1.0" and run.environment.threads == 1
    assert len(family) == 27 and family.to_csv() == (OLD / "subnets.csv").read_text()
    assert family.by_subnet[Subnet.parse("1-1-1")].score.quality == 36.9299
    for cost in ("flops", "parameters", "latency_ms"):
        assert tuple(str(member.subnet) for member in family.frontier(cost)) == summary.frontier[cost]


def test_its_subnets_are_measured_again_and_are_as_good(run):
    before = {member.subnet: member.score.quality for member in RunDirectory(run).family}
    summary = evaluate(run, latency=False)
    after = {member.subnet: member.score.quality for member in RunDirectory(run).family}
    assert summary["main"]["top1"] == json.loads((OLD / "summary.json").read_text())["main"]["top1"]
    assert before.keys() == after.keys() and all(abs(before[net] - after[net]) < 0.5 for net in before)
    assert (summary["task"], summary["format"], summary["latency"]) == ("images", 1, None)


def test_an_interrupted_run_goes_on(run, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)  # where it began; a GPU would compute otherwise
    (run / "summary.json").unlink()
    (run / "model.safetensors").unlink()
    summary = train(run / "recipe.yaml", run, resume=True, progress=False)
    assert summary["epochs"] == 3 and summary["steps"] == 36
    rows, expected = (list(csv.DictReader((of / "metrics.csv").open())) for of in (run, OLD))
    assert rows[:2] == expected[:2] and len(rows) == 3
    assert float(rows[2]["loss"]) == pytest.approx(float(expected[2]["loss"]), rel=1e-3)
    new, old = load_file(run / "model.safetensors"), load_file(OLD / "model.safetensors")
    assert new.keys() == old.keys()
    assert all(torch.allclose(new[name], old[name], rtol=1e-2, atol=1e-3) for name in new if "running" not in name)


def test_it_is_reported_packed_and_exported(run, capsys):
    assert main(["report", str(run)]) == 0
    page = (run / "report.html").read_text()
    assert "cifar/resnet20 on digits" in page
    assert main(["pack", str(run)]) == 0
    assert main(["export", str(run), "--subnet", "1-2-3", "--format", "safetensors"]) == 0
    assert "subnet 1-2-3" in capsys.readouterr().out
