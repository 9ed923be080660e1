"""Damage and edits are seen: a flipped bit anywhere, a recipe or data that changed, a file that is gone."""

import json
import random
import re
import shutil
import threading
import warnings
from dataclasses import fields
from pathlib import Path

import made
import pytest
import torch
from interrupting import Interrupt
from PIL import Image
from safetensors.torch import load_file

import stimulative
from stimulative.analysis import evaluate
from stimulative.cli import main
from stimulative.errors import UsageError
from stimulative.files import blank_seal, check_seal, save_model, seal
from stimulative.runs import (
    BEST,
    CHECKSUMS,
    LAST,
    METRICS,
    MODEL,
    PREVIOUS,
    RECIPE,
    SUMMARY,
    Epoch,
    RunDirectory,
    sums_in,
)
from stimulative.runs.checksums import check_sum, note, write_summed
from stimulative.studies import Sweep
from stimulative.training import load_recipe, train
from stimulative.training.resuming import load_checkpoint
from stimulative.weights import read_weights

TINY = {
    "model.arguments": {"width": 2},
    "data.batch_size": 128,
    "schedule.epochs": 4,
    "evaluation.calibration_images": 64,
}


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """A run that was stopped behind its third epoch of four."""
    out = tmp_path_factory.mktemp("runs") / "stopped"
    with pytest.raises(KeyboardInterrupt):
        train(load_recipe("digits", TINY), out, progress=False, callbacks=[Interrupt(checkpoint=(LAST, 3))])
    return out


@pytest.fixture(scope="module")
def finished(stopped, tmp_path_factory):
    """The same, finished."""
    out = tmp_path_factory.mktemp("runs") / "finished"
    shutil.copytree(stopped, out)
    train(load_recipe("digits", TINY), out, resume=True, progress=False)
    return out


def flipped(path: Path, at: int, bit: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1 << bit
    path.write_bytes(data)


def flat(value: object) -> list[object]:
    if isinstance(value, torch.Tensor):
        return [value.numpy().tobytes()]
    if isinstance(value, dict):
        return [part for key, inner in value.items() for part in (key, *flat(inner))]
    return [part for inner in value for part in flat(inner)] if isinstance(value, list | tuple) else [value]


@pytest.mark.parametrize("summed", [True, False])
def test_no_flipped_bit_of_a_checkpoint_is_read_as_another_value(stopped, tmp_path, summed):
    """With a checksum each is refused; without one, those that change a value."""
    run = shutil.copytree(stopped, tmp_path / "run")
    if not summed:
        (run / CHECKSUMS).unlink()
    whole, want = (run / LAST).read_bytes(), flat(load_checkpoint(run / LAST))
    places, refused = random.Random(0), 0
    for _ in range(60):
        (run / LAST).write_bytes(whole)
        flipped(run / LAST, places.randrange(len(whole)), places.randrange(8))
        try:
            assert flat(load_checkpoint(run / LAST)) == want
        except UsageError:
            refused += 1
    assert refused == 60 if summed else refused > 30


def test_no_flipped_bit_of_a_model_is_read(finished, tmp_path):
    file = tmp_path / MODEL
    whole, places = (finished / MODEL).read_bytes(), random.Random(0)
    for _ in range(100):
        file.write_bytes(whole)
        flipped(file, places.randrange(len(whole)), places.randrange(8))
        with pytest.raises(UsageError):
            read_weights(file)
    file.write_bytes(whole)
    assert read_weights(file).keys() == load_file(file).keys()


def test_a_seal_is_found_whatever_else_the_header_says(tmp_path):
    from safetensors.torch import save_file

    inside = json.dumps({"stimulative.sha256": "0" * 64, "more": {"sha256": "1" * 64}})
    for number in range(8):  # the order of the header's keys is drawn
        file = tmp_path / f"{number}.safetensors"
        save_file({"sha256": torch.zeros(3)}, file, metadata={"a": inside, "z": inside} | blank_seal())
        with pytest.raises(UsageError, match="damaged"):
            check_seal(file)
        seal(file)
        assert check_seal(file)
    save_file({"x": torch.zeros(3)}, tmp_path / "without.safetensors", metadata={"a": inside})
    assert not check_seal(tmp_path / "without.safetensors")
    save_model(torch.nn.Linear(2, 2), tmp_path / "model.safetensors", {"made of": "this"})
    assert check_seal(tmp_path / "model.safetensors")


@pytest.mark.parametrize("how", ["flipped", "cut", "gone"])
def test_a_run_goes_on_from_the_checkpoint_before_a_damaged_one_and_ends_the_same(how, stopped, finished, tmp_path):
    run = shutil.copytree(stopped, tmp_path / "run")
    if how == "gone":
        (run / LAST).unlink()
    elif how == "cut":
        (run / LAST).write_bytes((run / LAST).read_bytes()[:-1000])
    else:
        flipped(run / LAST, 5000, 3)
    said = f"{LAST} is (missing|damaged).*goes on from {PREVIOUS}, behind epoch 2"
    with pytest.warns(UserWarning, match=said):
        train(load_recipe("digits", TINY), run, resume=True, progress=False)
    first, second = load_file(run / MODEL), load_file(finished / MODEL)
    assert all(torch.equal(first[name], second[name]) for name in second)


def test_the_best_one_is_the_last_resort(stopped, tmp_path):
    run = shutil.copytree(stopped, tmp_path / "run")
    for name in (LAST, PREVIOUS):
        flipped(run / name, 5000, 3)
    with pytest.warns(UserWarning, match=f"goes on from {BEST}"):
        train(load_recipe("digits", TINY), run, resume=True, progress=False)
    run = shutil.copytree(stopped, tmp_path / "other")
    for name in (LAST, PREVIOUS, BEST):
        flipped(run / name, 5000, 3)
    with pytest.raises(UsageError, match=f"{LAST} is damaged.*{PREVIOUS} is damaged.*{BEST} is damaged"):
        train(load_recipe("digits", TINY), run, resume=True, progress=False)


@pytest.mark.parametrize(("what", "said"), [("flipped", "is damaged"), ("cut", "is damaged"), ("gone", "there is no")])
def test_a_finished_run_without_its_model_is_no_success(what, said, finished, tmp_path, capsys):
    run = shutil.copytree(finished, tmp_path / "run")
    if what == "gone":
        (run / MODEL).unlink()
    elif what == "cut":
        (run / MODEL).write_bytes((run / MODEL).read_bytes()[:-8])
    else:
        flipped(run / MODEL, 3000, 1)
    for command in (
        ["train", str(run / RECIPE), "--out", str(run), "--resume"],
        ["evaluate", str(run), "--no-latency"],
        ["export", str(run), "--subnet", "1-1-1", "--format", "torch", "--out", str(tmp_path / "x.pt2")],
    ):
        assert main(command) == 2, command
        assert re.search(f"{MODEL}.*{said}|{said}.*{MODEL}", capsys.readouterr().err), command


def test_a_recipe_that_was_edited_is_told_exactly(stopped, tmp_path, capsys):
    run = shutil.copytree(stopped, tmp_path / "run")
    text = (run / RECIPE).read_text()
    (run / RECIPE).write_text(text.replace("lr: 0.1", "lr: 0.3").replace("seed: 0", "seed: 1"))
    assert main(["train", str(run / RECIPE), "--out", str(run), "--resume"]) == 2
    said = capsys.readouterr().err
    assert "was changed since the run was started: optimizer.lr: 0.1 then, 0.3 now; seed: 0 then, 1 now" in said


def pictures(folder: Path, count: int) -> None:
    for split in ("train", "val"):
        for number, name in enumerate(("a", "b")):
            (folder / split / name).mkdir(parents=True, exist_ok=True)
            for at in range(count):
                Image.new("RGB", (8, 8), (40 * number, 9 * at, 0)).save(folder / split / name / f"{at}.png")


@pytest.mark.parametrize("what", ["added", "renamed", "resized"])
def test_data_that_changed_are_told(what, tmp_path):
    pictures(tmp_path / "data", 12)
    settings = {"data.name": f"folder:{tmp_path / 'data'}", "data.image_size": 8, "data.workers": 0}
    recipe = load_recipe("digits", TINY | settings | {"data.batch_size": 4})
    with pytest.raises(KeyboardInterrupt):
        train(recipe, tmp_path / "run", progress=False, callbacks=[Interrupt(checkpoint=(LAST, 1))])
    image = tmp_path / "data/train/a/3.png"
    if what == "added":
        shutil.copy(image, image.with_name("100.png"))
    elif what == "renamed":
        image.rename(tmp_path / "data/train/b/100.png")
    else:
        Image.effect_noise((40, 40), 90).save(image)
    with pytest.raises(UsageError, match=r"the data have changed since.*training images: 24 files, sha256 \w+ then, 2"):
        train(recipe, tmp_path / "run", resume=True, progress=False)


def test_a_family_file_that_is_damaged_is_refused(tmp_path):
    from stimulative.deploy import save_family
    from stimulative.models import build

    model = build("cifar/resnet20", classes=10, channels=1, arguments={"width": 2}).eval()
    x = torch.randn(4, 1, 8, 8)
    network = stimulative.unravel(model, x)
    file = tmp_path / "family.safetensors"
    save_family(network, file, ["1-1-1", "3-3-3"], [x])
    whole, places = file.read_bytes(), random.Random(1)
    for _ in range(60):
        file.write_bytes(whole)
        flipped(file, places.randrange(len(whole)), places.randrange(8))
        with pytest.raises(UsageError):
            stimulative.load(file, model=model, example_input=x)


def test_every_file_that_is_written_whole_has_its_checksum(finished):
    names = {LAST, PREVIOUS, BEST, MODEL, SUMMARY}
    assert names <= sums_in(finished).keys()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert RunDirectory(finished).weights == finished / MODEL


def test_a_run_of_an_older_version_has_no_checksums(finished, tmp_path):
    run = shutil.copytree(finished, tmp_path / "run")
    (run / CHECKSUMS).unlink()
    assert RunDirectory(run).weights == run / MODEL


@pytest.mark.parametrize("name", ["summary.json", "subnets.csv", "metrics.csv", "environment.json"])
def test_a_number_that_was_changed_in_a_table_is_not_read(name, finished, tmp_path):
    run = shutil.copytree(finished, tmp_path / "run")
    evaluate(run, subnets=3, latency=False)
    stored, read = RunDirectory(run), {"subnets.csv": "family", "metrics.csv": "metrics"}.get(name, name[:-5])
    assert getattr(stored, read)
    text = stored.file(name).read_text()
    at = max(place for place, letter in enumerate(text) if letter in "123456789")
    stored.file(name).write_text(text[:at] + chr(ord(text[at]) - 1) + text[at + 1 :])
    with pytest.raises(UsageError, match=rf"{name} is damaged, or was changed .*Copy it again, or .*{CHECKSUMS}"):
        getattr(stored, read)
    sums = json.loads(stored.file(CHECKSUMS).read_text())
    del sums[name]
    stored.file(CHECKSUMS).write_text(json.dumps(sums))
    assert getattr(stored, read)


def test_a_recipe_that_was_changed_is_told_of_and_read(finished, tmp_path):
    run = shutil.copytree(finished, tmp_path / "run")
    (run / RECIPE).write_text((run / RECIPE).read_text().replace("log_every: 50", "log_every: 51"))
    with pytest.warns(UserWarning, match=r"recipe.yaml is damaged, or was changed since the run was started"):
        assert RunDirectory(run).recipe.training.log_every == 51


def test_a_study_whose_numbers_were_changed_is_not_read(tmp_path):
    study = Sweep.read(made.sweep(tmp_path / "made", [1, 2]))
    study.write(tmp_path)
    assert Sweep.read(tmp_path) == study
    path = Sweep.file(tmp_path)
    path.write_text(path.read_text().replace('"main_mean": 90.0', '"main_mean": 91.0'))
    with pytest.raises(UsageError, match=r"sweep.json is damaged, or was changed .*or make it anew"):
        Sweep.read(tmp_path)


def test_a_seal_cannot_be_lost_by_damage_to_its_name(tmp_path):
    file = tmp_path / "model.safetensors"
    file.touch()
    save_model(torch.nn.Linear(2, 2), file)
    content = file.read_bytes().replace(b"stimulative.sha256", b"stimulatiwe.sha256")
    file.write_bytes(content[:-1] + b"\1")
    with pytest.raises(UsageError, match="its checksum is gone"):
        check_seal(file)


@pytest.mark.parametrize("how", ["gone", "changed", "cut"])
def test_the_log_of_a_stopped_run_is_that_of_its_checkpoint(how, stopped, finished, tmp_path):
    run = shutil.copytree(stopped, tmp_path / "run")
    log = run / METRICS
    if how == "gone":
        log.unlink()
    elif how == "cut":
        log.write_text(log.read_text()[:200])
    else:
        log.write_text(log.read_text().replace("2.3", "1.3"))
    train(load_recipe("digits", TINY), run, resume=True, progress=False)
    names = [field.name for field in fields(Epoch) if field.name not in ("images_per_second", "train_seconds")]
    one, two = (RunDirectory(path).metrics for path in (run, finished))
    assert [[getattr(epoch, name) for name in names] for epoch in one] == [
        [getattr(epoch, name) for name in names] for epoch in two
    ]
    assert len(one) == 4


def test_weights_are_not_taken_from_a_damaged_checkpoint(finished, tmp_path):
    run = shutil.copytree(finished, tmp_path / "run")
    weight = next(tensor for name, tensor in read_weights(run / BEST).items() if name.endswith("weight"))
    # a byte of a value: between an archive's members are bytes that mean nothing
    flipped(run / BEST, (run / BEST).read_bytes().index(weight.numpy().tobytes()), 3)
    with pytest.raises(UsageError, match=rf"{BEST} is damaged"):
        read_weights(run / BEST)
    (run / CHECKSUMS).unlink()  # then the archive's own
    with pytest.raises(UsageError, match=rf"{BEST}"):
        read_weights(run / BEST)


def test_a_file_that_is_replaced_while_it_is_looked_at_is_whole(tmp_path):
    path, end = tmp_path / "a.json", threading.Event()
    write_summed(path, "0")

    def write():
        number = 0
        while not end.is_set():
            number += 1
            write_summed(path, str(number))

    thread = threading.Thread(target=write)
    thread.start()
    try:
        assert all(check_sum(path) for _ in range(500))
    finally:
        end.set()
        thread.join()


def test_writing_the_same_again_keeps_the_sum_of_what_is_there(tmp_path):
    path, new = tmp_path / "a.json", tmp_path / "new"
    write_summed(path, "old")
    new.write_text("new")
    for _ in range(6):  # each time the disk refuses to put it in its place
        note(tmp_path, "a.json", new)
    assert check_sum(path)


@pytest.mark.parametrize("log", [1, ["a"], "epoch,step\n" + "9" * 200_000, 'epoch\n"' + "x" * 200_000])
def test_a_checkpoint_with_another_log_is_refused_or_taken_without_it(log, stopped, tmp_path):
    run = shutil.copytree(stopped, tmp_path / "run")
    (run / CHECKSUMS).unlink()
    state = torch.load(run / LAST, weights_only=True)
    torch.save(state | {"log": log}, run / LAST)
    for name in (PREVIOUS, BEST):
        (run / name).unlink()
    with pytest.raises(UsageError, match="does not fit the recipe of its run"):
        train(load_recipe("digits", TINY), run, resume=True, progress=False)


@pytest.mark.parametrize("resume", [False, True])
def test_a_run_without_its_recipe_is_not_written_over(resume, stopped, finished, tmp_path):
    for kept in (stopped, finished):
        run = shutil.copytree(kept, tmp_path / kept.name)
        (run / RECIPE).unlink()
        before = (run / LAST).read_bytes()
        with pytest.raises(UsageError, match=f"holds a run that has lost its {RECIPE}, and would be written over"):
            train(load_recipe("digits", TINY), run, resume=resume, progress=False)
        assert (run / LAST).read_bytes() == before


def test_a_finished_run_is_not_one_of_another_recipe(finished, tmp_path, capsys):
    run = shutil.copytree(finished, tmp_path / "run")
    assert main(["train", str(run / RECIPE), "--out", str(run), "--resume"]) == 0
    assert "the run had finished before; nothing was trained" in capsys.readouterr().out
    (run / RECIPE).write_text((run / RECIPE).read_text().replace("lr: 0.1", "lr: 0.5"))
    assert main(["train", str(run / RECIPE), "--out", str(run), "--resume"]) == 2
    assert "was changed since the run in" in capsys.readouterr().err
