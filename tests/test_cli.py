"""The command line, as a person or a script meets it."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from stimulative.cli import main
from stimulative.training.metrics import read_metrics

TINY = ["--model.arguments", "{width: 4}", "--schedule.epochs", "2", "--training.threads", "1"]


def test_help_has_examples_everywhere(capsys):
    for command in ([], ["unravel"], ["train"], ["evaluate"], ["compare"]):
        with pytest.raises(SystemExit) as caught:
            main([*command, "--help"])
        assert caught.value.code == 0
        assert "examples:" in capsys.readouterr().out


def test_the_help_of_train_lists_every_setting(capsys):
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    text = capsys.readouterr().out
    for key in ("--method.balance", "--optimizer.lr", "--data.batch_size", "--schedule.epochs", "--seed"):
        assert key in text


def test_unravel_prints_the_plan_as_json(capsys):
    assert main(["unravel", "cifar/resnet20", "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["model"] == "cifar/resnet20" and plan["subnets"] == 27
    assert [(s["name"], s["blocks"], s["min_depth"]) for s in plan["stages"]] == [
        ("layer1", 3, 1),
        ("layer2", 3, 1),
        ("layer3", 3, 1),
    ]
    assert plan["parameters"] == 269_722 and plan["flops"] > plan["smallest"]["flops"] > 0


def test_unravel_prints_the_plan_as_a_table(capsys):
    assert main(["unravel", "torchvision/mobilenet_v3_small", "--image-size", "64"]) == 0
    text = capsys.readouterr().out
    assert "features.2-3" in text and "36 ordered subnets" in text and "1-1-1-1" in text


def test_train_evaluate_and_what_they_leave(tmp_path, capsys):
    out = tmp_path / "run"
    assert main(["train", "digits", "--out", str(out), *TINY, "--method.balance=2"]) == 0
    assert "main net" in capsys.readouterr().out
    assert main(["evaluate", str(out), "--subnets", "4", "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["subnets"]["evaluated"] == 4
    assert (out / "subnets.csv").read_text().startswith("subnet,blocks,top1,loss,parameters,flops\n")


def test_a_dry_run_shows_the_plan_and_writes_nothing(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["train", "digits", "--dry-run", "--method.balance", "4"]) == 0
    text = capsys.readouterr().out
    assert "balance: 4.0" in text and "27 subnets, 1-1-1 to 3-3-3" in text and "768 training" in text
    assert list(tmp_path.iterdir()) == []


def test_compare_prints_the_table_and_draws_the_picture(tmp_path, capsys):
    out = tmp_path / "comparison"
    assert main(["compare", "digits", "--out", str(out), "--seeds", "1", *TINY]) == 0
    text = capsys.readouterr().out
    assert "common" in text and "stimulative" in text and "1.00×" in text
    comparison = json.loads((out / "comparison.json").read_text())
    assert [row["method"] for row in comparison["rows"]] == ["common", "stimulative"]
    assert set(comparison["rows"][0]) >= {
        *("method", "seeds", "main_mean", "main_std", "all_mean", "all_std"),
        *("train_seconds", "time_ratio", "memory_ratio"),
    }
    assert (out / "comparison.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["frobnicate"], "invalid choice: 'frobnicate'"),
        (["unravel"], "the following arguments are required: model"),
        (["unravel", "timm/resnet5000"], "resnet5000"),
        (["unravel", "timm/vgg11"], "no residual blocks found in VGG"),
        (["unravel", "cifar/resnet20", "--image-size", "0"], "--image-size is 1 or more, got 0"),
        (["unravel", "cifar/resnet20", "--bogus"], "unknown option '--bogus'"),
        (
            ["unravel", "torchvision/vit_b_32", "--image-size", "50"],
            "does not run on images of 3 channels and 50x50 pixels",
        ),
        (["train", "digts"], "did you mean 'digits'?"),
        (["train", "digits", "--method.blance", "3"], "did you mean 'method.balance'?"),
        (["train", "digits", "--method.balance", "-3"], "balance"),
        (["train", "digits", "--data.name", "cifar9"], "cifar9"),
        (["evaluate", "nowhere"], "nowhere is not a run directory"),
        (["evaluate", "nowhere", "--subnets", "x"], "--subnets is 'all' or a number of 1 or more, got 'x'"),
        (["compare", "digits"], "--out"),
        (["compare", "digits", "--out", "x", "--methods", "magic"], "unknown method 'magic'"),
        (["compare", "digits", "--out", "x", "--seeds", "0"], "the number of seeds is 1 or more"),
    ],
)
def test_bad_input_is_one_clear_message_and_status_2(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("stimulative: error: ") and message in captured.err
    assert "Traceback" not in captured.err and captured.out == ""
    assert list(tmp_path.iterdir()) == []


def test_all_problems_of_a_recipe_are_reported_together(capsys):
    assert main(["train", "digits", "--schedule.epochs", "x", "--optimizer.lr=-1", "--data.colour", "blue"]) == 2
    text = capsys.readouterr().err
    assert "schedule.epochs" in text and "optimizer.lr" in text and "data.colour" in text


def test_an_unwritable_directory_is_named(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert main(["train", "digits", "--out", str(tmp_path / "file" / "run")]) == 2
    assert "cannot write to" in capsys.readouterr().err


def test_an_interrupt_leaves_a_run_that_goes_on_and_says_how(tmp_path):
    out = tmp_path / "run"
    command = [sys.executable, "-m", "stimulative", "train", "digits", "--out", str(out), "--model.arguments.width=4"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        if (out / "metrics.csv").exists() and len(read_metrics(out / "metrics.csv")) >= 1:
            break
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert f"go on with: stimulative train {out / 'recipe.yaml'} --out {out} --resume" in err
    assert "Traceback" not in err
    assert (out / "checkpoint-last.ckpt").exists() and not (out / "summary.json").exists()
