"""The command line, as a person or a script meets it."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch.optim.swa_utils import AveragedModel

from stimulative import models
from stimulative.cli import main
from stimulative.cli.parser import without_settings
from stimulative.config import load_recipe
from stimulative.runs import read_metrics

ADOPT = ["evaluate", "--model", "cifar/resnet20", "--data", "digits"]
TINY = ["--model.arguments", "{width: 4}", "--schedule.epochs", "2", "--training.threads", "1"]
LITTLE = ["--schedule.max_steps", "1", "--evaluation.subnets", "2", "--evaluation.calibration_images", "64"]


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


def test_unravel_says_what_always_runs_and_why(capsys):
    arguments = "{n_layer: 3, n_embd: 16, n_head: 2, n_positions: 32}"
    assert main(["unravel", "transformers/gpt2", "--arguments", arguments, "--length", "32", "--classes", "50"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "transformers/gpt2 on sequences of 32 tokens" in text
    assert "transformer.h 3 blocks (GPT2Block), depths 1..3" in text
    assert "transformer.ln_f LayerNorm, always runs: it is a single layer" in text
    order = [
        text.index(part) for part in ("transformer.wte", "transformer.h 3", "transformer.ln_f", "3 ordered subnets")
    ]
    assert order == sorted(order)
    assert main(["unravel", "timm/efficientvit_b0", "--image-size", "64", "--json"]) == 0
    always = {part["name"]: part["reason"] for part in json.loads(capsys.readouterr().out)["always"]}
    assert always["stages.2.blocks.0"] == "turns (2, 32, 8, 8) into (2, 64, 4, 4)"


def test_train_evaluate_and_what_they_leave(tmp_path, capsys):
    out = tmp_path / "run"
    assert main(["train", "digits", "--out", str(out), *TINY, "--method.balance=2"]) == 0
    assert "main net" in capsys.readouterr().out
    assert main(["evaluate", str(out), "--subnets", "4", "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["subnets"]["evaluated"] == 4
    assert (out / "subnets.csv").read_text().startswith("subnet,blocks,top1,loss,parameters,flops,latency_ms")


def test_a_dry_run_shows_the_plan_and_writes_nothing(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["train", "digits", "--dry-run", "--method.balance", "4"]) == 0
    text = capsys.readouterr().out
    assert "balance: 4.0" in text and "27 subnets, 1-1-1 to 3-3-3" in text and "768 training" in text
    assert list(tmp_path.iterdir()) == []


def test_train_tries_a_recipe_on_made_up_images_and_stops(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    quick = ["--data.images", "16", "--data.batch_size", "4", "--data.workers", "0", *TINY]
    assert main(["train", "cifar100-resnet20", "--data", "fake", "--max-steps", "2", *quick]) == 0
    out = tmp_path / "runs" / "cifar100-resnet20-fake-stimulative-seed0"  # apart from a run on the recipe's own images
    summary = json.loads((out / "summary.json").read_text())
    assert (summary["data"], summary["steps"]) == ("fake", 2)
    assert str(out.relative_to(tmp_path)) in capsys.readouterr().out
    recipe = (out / "recipe.yaml").read_text()
    assert "  name: fake\n" in recipe and "  classes: 100\n" in recipe and "  max_steps: 2\n" in recipe


def test_a_dry_run_names_the_images_and_the_steps_asked_for(capsys):
    command = ["train", "cifar100-resnet20", "--data", "fake", "--max-steps", "7", "--dry-run"]
    assert main([*command, "--data.image_size", "16", "--data.classes", "12", "--data.workers", "0"]) == 0
    text = capsys.readouterr().out
    assert "1,920 training, 500 validation images of 12 classes" in text
    assert "# 200 epochs of 15 batches, 7 steps at most, would be trained into runs/cifar100-resnet20-fake-" in text


def test_compare_prints_the_table_and_draws_the_picture(tmp_path, capsys):
    out = tmp_path / "comparison"
    assert main(["compare", "digits", "--out", str(out), "--seeds", "1", *TINY, *LITTLE]) == 0
    text = capsys.readouterr().out
    assert "common" in text and "stimulative" in text and "1.00×" in text
    comparison = json.loads((out / "comparison.json").read_text())
    assert [row["method"] for row in comparison["rows"]] == ["common", "stimulative"]
    assert set(comparison["rows"][0]) >= {
        *("method", "seeds", "main_mean", "main_std", "all_mean", "all_std"),
        *("train_seconds", "time_ratio", "memory_ratio"),
    }
    assert (out / "comparison.png").read_bytes().startswith(b"\x89PNG")
    assert "stimulative, main net: " in text and "with one seed, which says nothing about spread" in text


def test_compare_tells_of_variants_and_of_those_that_failed(tmp_path, capsys):
    out = tmp_path / "comparison"
    broken = "stimulative:sampler={name: interstage, ranges: [[1, 2]]}"  # for a net of one stage, which this is not
    words = ["compare", "digits", "--methods", f"common,stimulative:every=2,{broken}", "--out", str(out)]
    assert main([*words, "--seeds", "1", "--jobs", "3", *TINY, *LITTLE]) == 1
    text, errors = capsys.readouterr()
    assert "3 runs of cifar/resnet20 on digits, 2 epochs each, 1 steps at most" in text
    assert "3 runs at once share this machine: their times say little" in text
    (row,) = (line for line in text.splitlines() if line.startswith("│ common "))
    assert len(row) < 100 and row.count("×") == 1  # memory has a ratio, times of runs that shared a machine have none
    assert "Without a ratio of times, since several runs shared the machine" in text
    assert "stimulative:every=2-seed0" not in text and "stimulative-every=2-seed0: main " in text
    assert f"none of their runs has finished: {broken}." in text
    assert "failed: " in errors and "the same command tries again what failed" in errors and "Traceback" not in errors
    table = (out / "comparison.md").read_text()
    assert "| `stimulative:every=2` | 1 | " in table and "## Runs that failed" in table
    assert {path.suffix for path in out.glob("comparison.*")} == {".json", ".md", ".csv", ".png", ".svg"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["frobnicate"], "invalid choice: 'frobnicate'"),
        (["unravel"], "the following arguments are required: model"),
        (["unravel", "timm/resnet5000"], "resnet5000"),
        (["unravel", "timm/vgg11"], "no residual blocks found in VGG"),
        (
            ["unravel", "transformers/vit", "--image-size", "33"],
            "transformers/vit does not run on images of 3 channels",
        ),
        (["unravel", "transformers/gpt2", "--image-size", "32"], "--image-size is not for text"),
        (["unravel", "cifar/resnet20", "--length", "32"], "--length is not for images"),
        (["unravel", "cifar/resnet20", "--arguments", "[1]"], "--arguments is a mapping in YAML"),
        (["unravel", "cifar/resnet20", "--image-size", "0"], "--image-size is from 1 to 8,192, got 0"),
        (["unravel", "cifar/resnet20", "--bogus"], "unknown option '--bogus'"),
        (
            ["unravel", "torchvision/vit_b_32", "--image-size", "50"],
            "does not run on images of 3 channels and 50x50 pixels",
        ),
        (["train", "digts"], "did you mean 'digits'?"),
        (["train", "digits", "--method.blance", "3"], "did you mean 'method.balance'?"),
        (["train", "digits", "--method.balance", "-3"], "balance"),
        (["train", "digits", "--data.name", "cifar9"], "cifar9"),
        (["train", "digits", "--data", "cifar9"], "unknown data set 'cifar9'"),
        (["train", "digits", "--data", "fake", "--data.name", "cifar10"], "got both --data and --data.name"),
        (["train", "digits", "--max-steps", "0"], "max_steps: must be at least 1, or null for the whole run, got 0"),
        (["train", "digits", "--max-steps", "few"], "schedule.max_steps: got 'few' (command line), allowed: a whole"),
        (["train", "digits", "--data.color_jitter", "0.4"], "data.color_jitter: only images of folder:PATH and fake"),
        (["evaluate", "nowhere"], "nowhere is not a run directory"),
        (["evaluate", "nowhere", "--subnets", "x"], "--subnets is 'auto', 'all' or a number of 1 or more, got 'x'"),
        (["evaluate", "nowhere", "--seed", "-1"], "--seed is at least 0 and below 2**32, got -1"),
        (["evaluate", "nowhere", "--latency-batch", "0"], "--latency-batch is 1 or more, got 0"),
        (["evaluate", "nowhere", "--bogus"], "unknown option '--bogus'; see stimulative evaluate --help"),
        (["evaluate"], "give a run directory, or --model, --weights and --data; see stimulative evaluate --help"),
        (["evaluate", "--weights", "w.pth"], "--weights without --model, --data: weights are measured with --model"),
        (["evaluate", "--model", "cifar/resnet20", "--data", "digits"], "--model, --data without --weights"),
        (["evaluate", "--data.path", "x"], "give a run directory, or --model, --weights and --data"),
        (["evaluate", "nowhere", "--weights", "w.pth"], "got both RUN (nowhere) and --weights; give one or the other"),
        (["evaluate", "nowhere", "--data.path", "x"], "--data.path goes with --weights only"),
        (["evaluate", "nowhere", "--model.arguments", "{width: 4}"], "--model.arguments goes with --weights only"),
        (["evaluate", "nowhere", "--out", "x"], "nowhere is not a run directory"),
        ([*ADOPT, "--weights", "missing.pth"], "there is no file missing.pth"),
        ([*ADOPT, "--weights", "w.pth", "--model.depth", "3"], "model.depth: unknown setting"),
        ([*ADOPT, "--weights", "w.pth", "--data", "digts"], "did you mean 'digits'?"),
        (["compare", "digits"], "--out"),
        (["compare", "digits", "--out", "x", "--methods", "magic"], "unknown method 'magic'"),
        (["compare", "digits", "--out", "x", "--seeds", "0"], "the number of seeds is from 1 to 1,000"),
        (["compare", "digits", "--out", "x", "--methods", "stimulative:evry=2"], "did you mean 'method.every'?"),
        (["compare", "digits", "--out", "x", "--methods", "all,common"], "each method may be named once"),
        (["compare", "digits", "--out", "x", "--data", "fake", "--data.name", "digits"], "both --data and --data.name"),
        (["compare", "digits", "--out", "x", "--jobs", "0"], "jobs at once is 1 or more, got 0"),
    ],
)
def test_bad_input_is_one_clear_message_and_status_2(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("stimulative: error: ") and message in captured.err
    assert "Traceback" not in captured.err and captured.out == ""
    assert list(tmp_path.iterdir()) == []


def refused(capsys, *arguments):
    """The message of a command that ends with status 2, and without a traceback."""
    capsys.readouterr()
    assert main([str(argument) for argument in arguments]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("stimulative: error: ") and captured.out == ""
    assert "Traceback" not in captured.err
    return captured.err


class Payload:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (self.folder,)


def test_weights_that_cannot_be_used_are_one_clear_message_and_status_2(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    weights = models.build("cifar/resnet20", classes=10, channels=1).state_dict()
    torch.save(weights, "good.pth")
    adopt = [*ADOPT, "--training.threads", "1", "--weights"]
    message = refused(capsys, *adopt, "good.pth", "--model", "cifar/resnet32")
    assert "the weights in good.pth do not fit the model cifar/resnet32" in message
    assert "missing in the file (60): layer1.3.conv1.weight" in message and "and 52 more" in message
    whole = (tmp_path / "good.pth").read_bytes()
    (tmp_path / "truncated.pth").write_bytes(whole[: len(whole) // 2])
    assert "truncated.pth is truncated or damaged; copy or download it again" in refused(
        capsys, *adopt, "truncated.pth"
    )
    torch.save({"state_dict": weights, "extra": Payload(str(tmp_path / "ran"))}, "malicious.pth")
    message = refused(capsys, *adopt, "malicious.pth")
    assert "malicious.pth holds more than tensors and plain values" in message and ".mkdir" in message
    assert not (tmp_path / "ran").exists()
    torch.load("malicious.pth", weights_only=False)  # it would have done it
    assert (tmp_path / "ran").exists()
    assert not (tmp_path / "runs").exists()


def test_folders_that_cannot_be_used_are_one_clear_message_and_status_2(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save(models.build("cifar/resnet20", classes=10).state_dict(), "ten.pth")
    adopt = ["evaluate", "--model", "cifar/resnet20", "--weights", "ten.pth", "--training.threads", "1"]
    assert "images/train is not a folder; expected images to hold train/ and val/" in refused(
        capsys, *adopt, "--data", "folder:images"
    )
    for split in ("train", "val"):
        (tmp_path / "images" / split).mkdir(parents=True)
    assert "images/train is empty; expected one folder of images per class" in refused(
        capsys, *adopt, "--data", "folder:images"
    )
    for split in ("train", "val"):
        for name in ("cat", "dog", "owl"):
            (tmp_path / "images" / split / name).mkdir()
    assert "images/train: no images in cat, dog, owl" in refused(capsys, *adopt, "--data", "folder:images")
    for split in ("train", "val"):
        for name in ("cat", "dog", "owl"):
            for number in range(4):
                Image.new("RGB", (16, 16)).save(tmp_path / "images" / split / name / f"{number}.png")
    settings = ["--data.image_size", "16", "--data.workers", "0", "--data.validation", "0.5"]
    assert "ten.pth does not fit the data: the weights are of 10 classes, folder:images has 3" in refused(
        capsys, *adopt, "--data", "folder:images", *settings
    )
    assert not (tmp_path / "runs").exists()


def test_a_file_in_place_of_a_run_is_told_how_to_be_given(tmp_path, capsys):
    (tmp_path / "best.pth").write_bytes(b"PK")
    message = refused(capsys, "evaluate", tmp_path / "best.pth")
    assert (
        f"is a file, not a run directory; weights are given as --model NAME --weights {tmp_path / 'best.pth'}"
        in message
    )


def test_the_family_is_shown_in_tables_or_as_json(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    weights = models.build("cifar/resnet20", classes=10, channels=1, arguments={"width": 4}).state_dict()
    torch.save(weights, "found.pth")
    adopt = [*ADOPT, "--weights", "found.pth", "--model.arguments", "{width: 4}", "--training.threads", "1"]
    assert main([*adopt, "--no-latency"]) == 0
    text = capsys.readouterr().out
    for part in ("by number of blocks", "by depth of a stage", "frontier", "27 of 27 subnets: ", "main net"):
        assert part in text
    assert "latency" not in text and "runs/found/subnets.csv" in text
    assert main(["evaluate", "runs/found", "--subnets", "9", "--seed", "5", "--latency-batch", "2"]) == 0
    text = capsys.readouterr().out
    assert "9 of 27 subnets, drawn with seed 5: " in text and "latency of a batch of 2 on" in text
    assert main(["evaluate", "runs/found", "--no-latency", "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary == json.loads((tmp_path / "runs" / "found" / "summary.json").read_text())
    assert summary["weights"]["file"] == "found.pth" and summary["latency"] is None


def test_one_of_several_sets_of_weights_in_a_file_is_named_by_its_key(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    raw, mean = (models.build("cifar/resnet20", classes=10, channels=1, arguments={"width": 4}) for _ in range(2))
    torch.save({"model": raw.state_dict(), "model_ema": AveragedModel(mean).state_dict()}, "found.pth")
    settings = ["--model.arguments", "{width: 4}", "--training.threads", "1"]
    asked = "found.pth holds 2 sets of weights for the model cifar/resnet20, which differ. Say which one to take: "
    asked += "found.pth#model or found.pth#model_ema"
    adopt, train = [*ADOPT, *settings], ["train", "digits", *settings, "--dry-run"]
    propose = ["init", "--model", "cifar/resnet20", "--data", "digits", *settings]
    for command in ([*adopt, "--weights"], [*train, "--from"], [*propose, "--from"]):
        assert asked in refused(capsys, *command, "found.pth")
    assert not list(tmp_path.glob("runs/*"))
    for key, net in (("model", raw), ("model_ema", mean)):
        assert main([*adopt, "--weights", f"found.pth#{key}", "--subnets", "2", "--no-latency"]) == 0
        stored = load_file(f"runs/found-{key}/model.safetensors")
        assert torch.equal(stored["conv1.weight"], net.conv1.weight)
        summary = json.loads((tmp_path / f"runs/found-{key}/summary.json").read_text())
        assert summary["weights"]["file"] == f"found.pth#{key}"
    assert "runs/found-model holds the weights found.pth#model; choose" in refused(
        capsys, *adopt, "--weights", "found.pth#model_ema", "--out", "runs/found-model"
    )
    assert main([*train, "--from", "found.pth#model_ema"]) == 0
    assert "# weights: loaded all 97 tensors from found.pth#model_ema.module" in capsys.readouterr().out
    assert main([*propose, "--from", "found.pth#model", "--out", "mine.yaml"]) == 0
    assert load_recipe("mine.yaml").model.weights == "found.pth#model"
    assert "found.pth holds no weights under 'ema'" in refused(capsys, *train, "--from", "found.pth#ema")


def test_settings_are_told_from_other_words():
    words = ["evaluate", "--a.b", "x y", "run", "--c.d=1", "--json", "--e.f", "--g", "3"]
    assert without_settings(words) == (
        ["evaluate", "run", "--json", "--g", "3"],
        ["--a.b", "x y", "--c.d=1", "--e.f"],
    )


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
    process = subprocess.Popen(
        command,
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # also where the tests ignore it
    )
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


def test_a_process_that_read_data_and_died_is_told(tmp_path, capsys, monkeypatch):
    from stimulative import training

    def die(*_, **__):
        raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. ")

    monkeypatch.setattr(training, "train", die)
    assert main(["train", "digits", "--out", str(tmp_path / "run")]) == 1
    said = capsys.readouterr().err
    assert "a process that reads data has died: DataLoader worker (pid 7) is killed by signal: Killed. Where" in said
    assert "goes on with --resume" in said and "Traceback" not in said

    def fail(*_, **__):
        raise RuntimeError("Caught RuntimeError in DataLoader worker process 0.\nOriginal Traceback ...")

    monkeypatch.setattr(training, "train", fail)
    with pytest.raises(RuntimeError, match="Caught RuntimeError in DataLoader worker"):
        main(["train", "digits", "--out", str(tmp_path / "run")])


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="only Linux has a device that is always full")
@pytest.mark.parametrize("words", [["doctor"], ["doctor", "--json"]])
def test_a_full_disk_behind_the_output_is_told(words):
    command = [sys.executable, "-m", "stimulative", *words]
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 1
    assert done.stderr == "stimulative: what it has to say cannot be written: No space left on device\n"
