"""Data sets of the user's own, named in a recipe: what their function gets, what it gives, and what cannot be."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from stimulative.cli import main
from stimulative.cli.data_option import data_settings
from stimulative.data import Data, DataSettings, ImageData, TextData, load
from stimulative.errors import UsageError
from stimulative.training import load_recipe, prepare

MODULE = '''
"""Data sets of somebody's own."""

import torch
from torch.utils.data import DataLoader, TensorDataset

from stimulative.data import from_loaders

CALLS = []


def squares(settings, *, seed, device, rank, world_size, noise=0.1, images=60):
    """Grey images with a bright square in one of four corners."""
    CALLS.append((settings, seed, device, rank, world_size, noise))

    def split(number, count, share=False):
        generator = torch.Generator().manual_seed(number)
        y = torch.arange(count) % 4
        x = noise * torch.randn(count, 1, 8, 8, generator=generator)
        for image, corner in zip(x, y.tolist()):
            row, column = 4 * (corner // 2), 4 * (corner % 2)
            image[0, row : row + 4, column : column + 4] += 1
        data = TensorDataset(x[rank::world_size], y[rank::world_size]) if share else TensorDataset(x, y)
        order = torch.Generator().manual_seed(seed)
        return DataLoader(data, settings.batch_size, shuffle=share, generator=order if share else None)

    return from_loaders(split(0, images, share=True), split(1, 20), split(2, 20), classes=4, device=device)


def counting(settings):
    """Texts in which each token is one more than the one before it."""
    length = settings.length or 8

    def batches(count):
        start = torch.arange(count)[:, None]
        tokens = (start + torch.arange(length + 1)) % 11
        x = {"input_ids": tokens[:, :-1], "attention_mask": torch.ones_like(tokens[:, :-1])}
        return [(x, tokens[:, 1:])] * 3

    return from_loaders(batches(8), batches(4), batches(4), classes=11)


def plain(settings, **options):
    """Whatever it is given."""
    CALLS.append(options)
    return counting(settings)


def nothing(settings):
    return {"train": []}


def broken(settings, path):
    raise FileNotFoundError(path)


def refusing(settings):
    from stimulative.errors import UsageError

    raise UsageError("the disk is elsewhere")


def no_settings(*, seed):
    return None


def by_a_model(settings):
    return torch.nn.Linear(1, 1)


number = 7
'''
SQUARES, COUNTING = "mine.sets:squares", "mine.sets:counting"
GPT2 = {"n_layer": 3, "n_embd": 16, "n_head": 2, "n_positions": 8}


@pytest.fixture(autouse=True)
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A package in the current directory, and gone again after the test."""
    import sys

    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "__init__.py").write_text("")
    (tmp_path / "mine" / "sets.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    sys.modules.pop("mine", None)
    yield
    for name in [name for name in sys.modules if name.partition(".")[0] == "mine"]:
        del sys.modules[name]


def calls() -> list[Any]:
    import sys

    return sys.modules["mine.sets"].CALLS


def opened(name: str, **settings: Any) -> Data:
    return load(DataSettings(name, **settings), seed=3)


def problems(name: str, **settings: Any) -> list[str]:
    return DataSettings(name, **settings).problems()


# What it gets and gives


def test_the_function_gets_the_settings_the_run_and_its_arguments():
    data = opened(SQUARES, batch_size=12, arguments={"noise": 0.5})
    ((settings, *of_the_run),) = calls()
    assert (settings.batch_size, settings.arguments) == (12, {"noise": 0.5})
    assert of_the_run == [3, torch.device("cpu"), 0, 1, 0.5]
    assert isinstance(data, ImageData)
    assert (data.name, data.classes, data.channels, data.image_size, data.task) == (SQUARES, 4, 1, 8, "images")
    assert [data.train.images, data.validation.images, data.test.images] == [60, 20, 20]
    assert data.sizes == {"classes": 4, "channels": 1}


def test_texts_are_told_by_what_comes_back():
    assert DataSettings(COUNTING).task is None and not DataSettings(COUNTING).is_text
    data = opened(COUNTING, length=5)
    assert isinstance(data, TextData)
    assert (data.name, data.classes, data.length, data.task, data.sizes) == (COUNTING, 11, 5, "text", {"classes": 11})


def test_a_function_that_takes_anything_gets_the_run_too():
    opened("mine.sets:plain", arguments={"other": [1, 2]})
    (given,) = calls()
    assert given == {"seed": 3, "device": torch.device("cpu"), "rank": 0, "world_size": 1, "other": [1, 2]}


def test_batches_of_a_function_that_knows_no_devices_are_moved():
    data = load(DataSettings(COUNTING), seed=0, device="meta")
    for loader in (data.train, data.validation, data.test, data.calibration):
        x, y = next(iter(loader))
        assert {part.device.type for part in (*x.values(), y)} == {"meta"}
    assert (len(data.train), data.train.images) == (3, 24)


def test_processes_share_by_their_rank():
    parts = [load(DataSettings(SQUARES, batch_size=64), seed=0, rank=rank, world_size=2) for rank in (0, 1)]
    seen = [next(iter(part.train))[0] for part in parts]
    assert [len(x) for x in seen] == [30, 30]
    rows = [{tuple(image.flatten().tolist()) for image in x} for x in seen]
    assert rows[0].isdisjoint(rows[1])


def test_images_of_ones_own_are_mixed_as_others_are():
    data, plain = opened(SQUARES, mixup=0.4), opened(SQUARES)
    assert next(iter(data.train))[1].shape == (60, 4)
    assert next(iter(data.calibration))[1].shape == next(iter(plain.train))[1].shape == (60,)
    with pytest.raises(UsageError, match=r"data\.mixup: a setting of images, got 0.4 for texts of mine.sets:counting"):
        opened(COUNTING, mixup=0.4)


def test_the_number_of_classes_may_be_said():
    assert opened(SQUARES, classes=4).classes == 4
    with pytest.raises(UsageError, match=r"data\.classes: mine\.sets:squares has 4 classes, got 5; leave it out"):
        opened(SQUARES, classes=5)


# What cannot be


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        (SQUARES, {"nois": 1}, "takes no argument 'nois'; known: noise, images; did you mean 'noise'?"),
        (SQUARES, {"seed": 1}, "'seed' cannot be given to mine.sets:squares: it comes from the run; remove it"),
        (COUNTING, {"x": 1}, "data.arguments: mine.sets:counting takes no argument 'x'; it takes none"),
        ("mine.sets:broken", {}, "data.arguments: mine.sets:broken needs path; say data.arguments.path"),
        ("digits", {"noise": 1}, "data.arguments: only a data set of your own (package.module:name) takes arguments"),
        ("mine.sets:square", {}, "data.name: module 'mine.sets' has no 'square' for data set 'mine.sets:square'; did"),
        ("mine.gone:x", {}, "data.name: cannot import 'mine.gone' for data set 'mine.gone:x'"),
        ("mine.sets:number", {}, "data.name: 'mine.sets:number' is no function: it must be a function that takes"),
        ("mine.sets:no_settings", {}, "data.name: 'mine.sets:no_settings' takes no settings; its first parameter"),
        ("my-sets:x", {}, "unknown data set 'my-sets:x'; known: digits"),
        ("my-sets:x", {}, "sentences:PATH; a data set of your own is written 'package.module:name'"),
    ],
)
def test_what_cannot_be_is_found_before_anything_is_opened(name: str, arguments: dict[str, Any], message: str):
    (problem,) = problems(name, arguments=arguments)
    assert message in problem
    assert problem.startswith("data.")


def test_a_folder_that_is_misspelt_is_told_from_a_module():
    (problem,) = problems("folders:photos")
    assert problem.startswith("data.name: cannot import 'folders' for data set 'folders:photos': ModuleNotFoundError")
    assert problem.endswith("; did you mean 'folder:photos'?")
    assert problems("txt:corpus")[0].endswith("; did you mean 'text:corpus'?")
    assert "did you mean" not in problems("nowhere:photos")[0]


def test_other_settings_are_checked_as_ever_and_all_may_be_given():
    found = problems(SQUARES, batch_size=0, mean=(0.5,), validation=2)
    assert [problem.partition(":")[0] for problem in found] == ["data.batch_size", "data.mean", "data.validation"]
    every = {"path": "x", "image_size": 4, "length": 3, "tokenizer": "t", "lighting": 0.1, "crop_padding": 99}
    assert problems(SQUARES, **every) == []


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("nothing", {}, r"mine.sets:nothing has to return a Data, such as .*from_loaders gives; got dict \{'train'"),
        ("by_a_model", {}, r"mine.sets:by_a_model has to return a Data, .* got Linear"),
        ("broken", {"path": "gone"}, r"opening mine.sets:broken failed: FileNotFoundError: gone \(.*sets.py:\d+\)"),
        ("refusing", {}, "^the disk is elsewhere$"),
    ],
)
def test_a_function_that_gives_no_data_is_explained(name: str, arguments: dict[str, Any], message: str):
    with pytest.raises(UsageError, match=message):
        opened(f"mine.sets:{name}", arguments=arguments)


def test_several_processes_need_a_function_that_can_share():
    with pytest.raises(UsageError, match=r"takes no rank and world_size, so each of 2 processes would train on"):
        load(DataSettings(COUNTING), seed=0, rank=0, world_size=2)


# In recipes


def recipe(name: str, **more: Any) -> dict[str, Any]:
    settings: dict[str, Any] = {
        "model": {"name": "cifar/resnet20", "arguments": {"width": 4}},
        "data": {"name": name, "batch_size": 20},
        "method": {"name": "stimulative"},
        "schedule": {"epochs": 2},
        "training": {"threads": 1, "loggers": ["csv"], "device": "cpu"},
        "evaluation": {"calibration_images": 20},
    }
    return {**settings, **more}


def test_arguments_are_set_one_by_one_and_kept_in_the_recipe():
    made = load_recipe(recipe(SQUARES), ["--data.arguments.noise=0.2", "--data.arguments.images", "40"])
    assert made.data.arguments == {"noise": 0.2, "images": 40}
    assert load_recipe(made.to_mapping()) == made
    assert load_recipe(recipe("digits")).data.arguments == {}
    with pytest.raises(UsageError, match=r"data\.arguments: .* no argument 'nose'.*did you mean 'noise'\? \(comm"):
        load_recipe(recipe(SQUARES), ["--data.arguments.nose=0.2"])


def test_the_task_of_the_model_is_judged_when_the_data_are_open():
    gpt2 = {"name": "transformers/gpt2", "arguments": GPT2}
    for name, model in ((SQUARES, recipe("")["model"]), (COUNTING, gpt2)):
        assert prepare(load_recipe(recipe(name, model=model))).data.name == name
    with pytest.raises(UsageError, match="classifies images, and the data are text"):
        prepare(load_recipe(recipe(COUNTING)))
    with pytest.raises(UsageError, match="no image classifier of model type 'gpt2'"):
        prepare(load_recipe(recipe(SQUARES, model=gpt2)))
    with pytest.raises(UsageError, match=r"model\.name: unknown model 'cifar/resnet21'"):
        load_recipe(recipe(SQUARES, model={"name": "cifar/resnet21"}))
    with pytest.raises(UsageError, match=r"model\.arguments: .*n_layers"):
        load_recipe(recipe(COUNTING, model={"name": "transformers/gpt2", "arguments": {"n_layers": 2}}))


def test_data_of_ones_own_take_the_place_of_a_recipes():
    own = load_recipe("cifar100-vit-tiny", data_settings("cifar100-vit-tiny", SQUARES)).data
    assert (own.name, own.classes, own.image_size, own.mixup) == (SQUARES, None, None, 1.0)
    text = load_recipe("text-gpt2-tiny", data_settings("text-gpt2-tiny", COUNTING)).data
    assert (text.name, text.length) == (COUNTING, 64)
    file = Path("mine.yaml")
    file.write_text(json.dumps(recipe(SQUARES, data={"name": SQUARES, "arguments": {"noise": 0.3}})))
    for name in ("digits", "fake", COUNTING, "pydoc"):
        words = [*data_settings(file, name), *(["--model.name=transformers/gpt2", "--model.arguments={}"])]
        made = load_recipe(file, words if name == "pydoc" else words[:-2])
        assert (made.data.name, made.data.arguments, made.data.image_size) == (name, {}, None)


def test_images_of_ones_own_are_trained_compared_evaluated_and_reported_like_others(capsys, tmp_path: Path):
    file = tmp_path / "mine.yaml"
    file.write_text(json.dumps(recipe("digits")))
    study = tmp_path / "study"
    command = ["compare", str(file), "--data", SQUARES, "--methods", "common,stimulative", "--seeds", "1"]
    assert main([*command, "--data.arguments.noise", "0.3", "--out", str(study)]) == 0
    run = next(path.parent for path in sorted(study.rglob("summary.json")))
    assert json.loads((run / "summary.json").read_text())["data"] == SQUARES
    assert main(["evaluate", str(run), "--no-latency"]) == 0
    page = tmp_path / "page"
    assert main(["report", str(study), "--out", str(page)]) == 0
    assert SQUARES in (page / "report.html").read_text()
    assert SQUARES in "".join(path.read_text() for path in study.glob("*.json"))
    capsys.readouterr()


def test_what_looks_like_a_date_is_text_in_the_runs_of_a_study_too(capsys, tmp_path: Path):
    file = tmp_path / "mine.yaml"
    gpt2 = {"name": "transformers/gpt2", "arguments": GPT2}
    file.write_text(
        json.dumps(recipe("mine.sets:plain", model=gpt2, schedule={"epochs": 1}, evaluation={"subnets": 1}))
    )
    words = ["--methods", "common", "--seeds", "1", "--data.arguments", '{day: "2024-01-01"}']
    for _ in range(2):  # the second time, the run is found to be of the same recipe
        assert main(["compare", str(file), *words, "--out", str(tmp_path / "study")]) == 0
    (run,) = (tmp_path / "study").glob("*/recipe.yaml")
    assert load_recipe(run).data.arguments == {"day": "2024-01-01"}
    capsys.readouterr()


def test_a_setting_that_is_said_to_be_empty_needs_no_reason(tmp_path: Path):
    words = ["--model", "cifar/resnet20", "--data", "digits", "--data.arguments", "{}"]
    assert main(["init", *words, "--out", str(tmp_path / "proposed.yaml")]) == 0
    assert load_recipe(tmp_path / "proposed.yaml").data.arguments == {}


def test_texts_of_ones_own_are_trained_by_the_command_line(capsys, tmp_path: Path):
    file, run = tmp_path / "mine.yaml", tmp_path / "run"
    gpt2 = {"name": "transformers/gpt2", "arguments": GPT2}
    file.write_text(json.dumps(recipe("pydoc", model=gpt2)))
    assert main(["train", str(file), "--data", COUNTING, "--out", str(run)]) == 0
    summary = json.loads((run / "summary.json").read_text())
    assert (summary["data"], summary["task"]) == (COUNTING, "text")
    assert summary["main"]["perplexity"] > 1
    assert main(["evaluate", str(run), "--no-latency"]) == 0
    capsys.readouterr()


def test_a_recipe_is_proposed_for_data_of_ones_own(capsys, tmp_path: Path):
    out = tmp_path / "proposed.yaml"
    command = ["init", "--model", "cifar/resnet20", "--data", SQUARES, "--data.arguments", "{images: 80}"]
    assert main([*command, "--out", str(out)]) == 0
    made = load_recipe(out)
    assert (made.data.name, made.data.arguments) == (SQUARES, {"images": 80})
    assert "80 training images in 4 classes" in re.sub(r"\n\s*# ", " ", out.read_text())
    capsys.readouterr()
