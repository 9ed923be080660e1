"""A run and a file are whole and what they say they are, or it is told what is not."""

import json
import os
import shutil
from pathlib import Path

import pytest
import torch

import stimulative
from stimulative import files
from stimulative.analysis import evaluate, verify
from stimulative.cli import main
from stimulative.errors import UsageError
from stimulative.models import build
from stimulative.runs import BEST, CHECKSUMS, ENVIRONMENT, LAST, METRICS, MODEL, PREVIOUS, RECIPE, SUBNETS, SUMMARY
from stimulative.training import load_recipe, train

TINY = {
    "model.arguments": {"width": 2},
    "data.batch_size": 128,
    "schedule.epochs": 2,
    "evaluation.calibration_images": 64,
}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "run"
    train(load_recipe("digits", TINY), out, progress=False)
    evaluate(out, latency=False)
    return out


@pytest.fixture
def copy(run, tmp_path):
    return shutil.copytree(run, tmp_path / "copy")


def states(run: Path) -> dict[str, str]:
    return {finding.what: finding.state for finding in verify(run)}


def test_a_run_that_is_whole(run, capsys):
    found = states(run)
    files = {name for name, state in found.items() if state == "as written"}
    assert files == {RECIPE, ENVIRONMENT, METRICS, LAST, PREVIOUS, BEST, MODEL, SUMMARY, SUBNETS}
    assert set(found.values()) == {"as written", "agrees"}
    assert found[f"{RECIPE} and {MODEL}"] == found[f"{SUBNETS} and {SUMMARY}"] == found["data"] == "agrees"
    assert main(["verify", str(run)]) == 0
    said = capsys.readouterr().out
    assert f"{MODEL} " in said and said.endswith(f"{run}: whole\n")


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)


@pytest.mark.parametrize("name", [MODEL, LAST, SUBNETS, SUMMARY])
def test_damage_is_told(name, copy, capsys):
    if name == SUMMARY:
        (copy / name).write_text((copy / name).read_text().replace('"seed": 0', '"seed": 1'))
    else:
        flip(copy / name)
    assert main(["verify", str(copy), "--json", "--no-data"]) == 1
    found = {finding["what"]: finding["state"] for finding in json.loads(capsys.readouterr().out)}
    assert found[name] == "damaged"
    assert "data" not in found


@pytest.mark.parametrize("name", [MODEL, METRICS])
def test_what_is_missing_is_told(name, copy):
    (copy / name).unlink()
    assert states(copy)[name] == "missing"


def test_a_recipe_that_was_edited_is_told(copy):
    text = (copy / RECIPE).read_text()
    (copy / RECIPE).write_text(text.replace("lr: 0.1", "lr: 0.3"))
    assert states(copy)[f"{RECIPE} and {MODEL}"] == "disagrees"


def test_other_data_are_told(copy):
    text = (copy / MODEL).read_bytes()
    assert text.count(b"1,797 samples") == 0
    (copy / MODEL).write_bytes(text.replace(b"samples, sha256", b"samples, sha512"))
    found = states(copy)
    assert found["data"] == "disagrees" and found[MODEL] == "damaged"


def test_a_table_of_other_subnets_is_told(copy):
    lines = (copy / SUBNETS).read_text().splitlines(keepends=True)
    (copy / SUBNETS).write_text("".join(lines[:-3]))
    (copy / CHECKSUMS).unlink()
    found = states(copy)
    assert found[f"{SUBNETS} and {SUMMARY}"] == "disagrees" and found[SUBNETS] == "no checksum"


def test_family_files_are_verified_with_their_json(tmp_path):
    from stimulative.deploy import save_family

    model, x = build("cifar/resnet20", classes=10, channels=1, arguments={"width": 2}).eval(), torch.randn(4, 1, 8, 8)
    file = tmp_path / "family.safetensors"
    save_family(stimulative.unravel(model, x), file, ["1-1-1"], [x])
    assert states(file) == {"family.safetensors": "as written"}
    beside = tmp_path / "family.safetensors.json"
    said = beside.read_text()
    beside.write_text(said.replace('"calibration_images": 4', '"calibration_images": 5'))
    assert states(file) == {"family.safetensors": "disagrees"}
    beside.write_text(said)
    flip(file)
    assert states(file) == {"family.safetensors": "damaged"}


def test_what_is_neither_is_refused(tmp_path, capsys):
    with pytest.raises(UsageError, match="is not a run directory"):
        verify(tmp_path)
    (tmp_path / "text").write_text("hello")
    assert states(tmp_path / "text") == {"text": "no checksum"}
    assert main(["verify", str(tmp_path / "text")]) == 1
    assert "nobody knows; there is nothing to compare it with" in capsys.readouterr().out


def test_one_that_has_not_finished_is_not_wrong(copy, capsys):
    (copy / SUMMARY).unlink()
    (copy / MODEL).unlink()
    assert main(["verify", str(copy)]) == 0
    assert (
        f"not finished, and nothing wrong; go on with: stimulative train {copy / RECIPE} --out"
        in capsys.readouterr().out
    )


def test_a_recipe_that_cannot_be_read_is_told_beside_the_rest(copy, capsys):
    (copy / RECIPE).write_text((copy / RECIPE).read_text().replace("seed: 0", "sead: 0"))
    assert main(["verify", str(copy)]) == 1
    said = capsys.readouterr().out
    assert "damaged: its checksum is another one" in said and "unknown: they cannot be opened here" in said
    assert said.endswith(f" wrong: {RECIPE}, {RECIPE} and {MODEL}\n")


def test_the_seal_inside_counts_where_there_are_no_checksums_beside(copy):
    (copy / CHECKSUMS).unlink()
    assert states(copy)[MODEL] == "as written"
    flip(copy / MODEL)
    assert states(copy)[MODEL] == "damaged"


@pytest.mark.parametrize("name", [MODEL, LAST, ENVIRONMENT, METRICS])
def test_what_cannot_be_read_is_told_beside_the_rest(name, copy):
    (copy / name).unlink()
    os.mkfifo(copy / name)
    found = {finding.what: finding for finding in verify(copy)}
    assert found[name].state == "damaged" and "it is a pipe or a device" in found[name].details
    assert found[RECIPE].fine


def test_headers_of_other_hands_are_no_json(tmp_path):
    file = tmp_path / "family.safetensors"
    with files.replacing(file) as temporary:
        files.save_model(torch.nn.Linear(2, 2), temporary, {"stimulative": "[" * 100_000})
    file.with_name("family.safetensors.json").write_text("{}")
    assert states(file) == {"family.safetensors": "as written"}


@pytest.mark.parametrize("name", [LAST, SUBNETS, METRICS, MODEL])
def test_a_file_of_a_run_alone_is_compared_with_what_is_beside_it(name, copy):
    assert states(copy / name) == {name: "as written"}
    flip(copy / name)
    assert states(copy / name) == {name: "damaged"}


def test_what_there_is_in_place_of_a_run_is_said(copy, tmp_path):
    for place, message in (
        (tmp_path / "nope", "there is no such directory"),
        (tmp_path, f"it holds some; name one of them, such as {copy}"),
    ):
        with pytest.raises(UsageError, match=f"is not a run directory: {message}"):
            verify(place)
    (copy / RECIPE).unlink()
    with pytest.raises(UsageError, match=f"is not a run directory: it has lost its {RECIPE}; put the file back"):
        verify(copy)
