"""Files are data: what a file of somebody else names is not imported, and opens nothing, unless the user says so."""

import json
import os
import stat
import sys
import threading
from pathlib import Path

import pytest
import torch
from made import run as made_run
from safetensors import safe_open
from safetensors.torch import save_file

import stimulative
from stimulative import authorship
from stimulative.cli import main
from stimulative.config import RECIPE, load_recipe
from stimulative.errors import UsageError
from stimulative.extension import distrusting, imported
from stimulative.models import build
from stimulative.models.foreign_arguments import foreign_problem
from stimulative.runs import RunDirectory

EVIL = """
from pathlib import Path
Path("imported").write_text("")
import stimulative
from stimulative.methods import CommonTraining
from lightning.fabric.loggers.logger import Logger
def factory(**arguments): ...
def data(settings): ...
def sampler(space, generator): ...
def objective(subnet, main, targets): ...
class Method(CommonTraining): ...
"""
DOORS = {
    "model": ("model: {name: evil_module:factory}", "method: {name: common}"),
    "data": ("data: {name: evil_module:data}", "method: {name: common}"),
    "method": ("", "method: {name: evil_module:Method}"),
    "sampler": ("", "method: {name: stimulative, sampler: evil_module:sampler}"),
    "sampler with settings": ("", "method: {name: stimulative, sampler: {name: evil_module:sampler}}"),
    "objective": ("", "method: {name: stimulative, objective: evil_module:objective}"),
    "logger": ("training: {loggers: [evil_module:Logger]}", "method: {name: common}"),
}


@pytest.fixture
def evil(tmp_path, monkeypatch):
    """A current directory with a module that tells when it is imported; the module is forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "evil_module.py").write_text(EVIL)
    yield tmp_path / "imported"
    sys.modules.pop("evil_module", None)


def recipe_of(door: str) -> str:
    given, method = DOORS[door]
    data = "" if door == "data" else "data: {name: digits}\n"
    return f"{given}\n{data}{method}\n"


def received(tmp_path: Path, recipe: str) -> Path:
    """A run directory as it comes from somebody else: with everything but this user's mark."""
    run = made_run(tmp_path / "received")
    (run / RECIPE).write_text(recipe)
    return run


@pytest.mark.parametrize("door", DOORS)
def test_a_received_run_imports_nothing(door, evil, tmp_path, capsys):
    run = received(tmp_path, recipe_of(door))
    with pytest.raises(UsageError, match=r"evil_module.*would run its code.*within stimulative.trusting\(\)"):
        _ = RunDirectory(run).recipe
    for command in (
        ["evaluate", str(run)],
        ["export", str(run), "--subnet", "1-1-1", "--format", "torch"],
        ["pack", str(run), "--out", "family.safetensors"],
        ["choose", str(run), "--max-flops", "1M"],
        ["destroy", str(run), "--out", "destroyed"],
        ["train", str(run / RECIPE), "--out", str(run), "--resume"],
        ["train", str(run / RECIPE), "--dry-run"],
        ["train", "--from", str(run), "--out", "tuned"],
    ):
        assert main(command) == 2, command
        assert "--trust" in capsys.readouterr().err, command
    assert not evil.exists()


@pytest.mark.parametrize("door", ["model", "method"])
@pytest.mark.parametrize("others", [(), ("checkpoint-best.ckpt", "checkpoint-previous.ckpt", "subnets.csv")])
def test_nor_does_one_that_lacks_most_of_its_files(door, others, evil, tmp_path, capsys):
    run = tmp_path / "received"
    run.mkdir()
    (run / RECIPE).write_text(recipe_of(door))
    for name in others:
        (run / name).write_text("")
    commands = [
        ["train", str(run / RECIPE), "--out", str(run), "--resume"],
        ["train", "--from", str(run), "--out", "tuned"],
        *([["train", str(run / RECIPE), "--dry-run"]] if others else []),
        *([["init", "--from", str(run), "--data", "digits", "--out", "new.yaml"]] if door == "model" else []),
    ]
    for command in commands:
        assert main(command) == 2, command
        assert "--trust" in capsys.readouterr().err, command
    with pytest.raises(UsageError, match="would run its code"):
        stimulative.training.train(str(run / RECIPE), run, resume=True)
    assert not evil.exists()


def test_a_received_run_that_is_a_saved_model_too_imports_nothing(evil, tmp_path, capsys):
    run = received(tmp_path, recipe_of("model"))
    (run / "config.json").write_text('{"model_type": "bert"}')
    assert main(["train", "--from", str(run), "--data", "digits", "--out", "tuned"]) == 2
    assert "--trust" in capsys.readouterr().err
    assert not evil.exists()


@pytest.mark.parametrize("door", DOORS)
def test_it_is_imported_once_the_user_says_so(door, evil, tmp_path, capsys):
    run = received(tmp_path, recipe_of(door))
    with stimulative.trusting():
        _ = RunDirectory(run).recipe
    assert evil.exists()


def test_what_the_command_line_names_is_the_users(evil, tmp_path):
    run = received(tmp_path, recipe_of("model"))
    with pytest.raises(UsageError, match="evil_module"):
        load_recipe(run / RECIPE, {"model.name": "cifar/resnet20", "method.name": "evil_module:Missing"})
    evil.unlink()
    recipe = load_recipe(run / RECIPE, ["--model.name", "cifar/resnet20"])
    assert recipe.model.name == "cifar/resnet20"


@pytest.mark.parametrize("door", DOORS)
def test_a_run_of_ones_own_needs_no_word(door, evil, tmp_path):
    mine = tmp_path / "mine.yaml"
    mine.write_text(recipe_of(door))
    run = RunDirectory(tmp_path / "run")
    run.path.mkdir()
    run.write_recipe(load_recipe(mine))
    assert run.recipe == load_recipe(mine)
    assert load_recipe(run.file(RECIPE)) == load_recipe(mine)
    moved = run.path.rename(tmp_path / "moved")
    assert RunDirectory(moved).recipe == load_recipe(mine)


def test_a_change_of_the_recipe_ends_that(evil, tmp_path):
    run = received(tmp_path, "")
    RunDirectory(run).write_recipe(load_recipe({"data": {"name": "digits"}, "method": {"name": "common"}}))
    text = (run / RECIPE).read_text()
    (run / RECIPE).write_text(text.replace("cifar/resnet20", "evil_module:factory"))
    with pytest.raises(UsageError, match="changed since"):
        _ = RunDirectory(run).recipe
    assert not evil.exists()


def test_a_key_of_others_makes_nothing_ours(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    said = authorship.mark("a text")
    assert authorship.is_ours("a text", said) and not authorship.is_ours("another", said)
    assert not authorship.is_ours("a text", None) and not authorship.is_ours("a text", "é")
    key = tmp_path / "state/stimulative/key"
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    key.chmod(0o644)
    assert not authorship.is_ours("a text", said)
    key.chmod(0o600)
    elsewhere = key.rename(tmp_path / "key")
    key.symlink_to(elsewhere)
    assert not authorship.is_ours("a text", said)


def test_without_a_home_nothing_is_marked(monkeypatch):
    def nowhere(*name, **options):
        raise RuntimeError("no home")

    monkeypatch.setattr(authorship.platformdirs, "user_state_path", nowhere)
    assert authorship.mark("a text") is None and not authorship.is_ours("a text", "\ud800")
    monkeypatch.setattr(authorship.platformdirs, "user_state_path", lambda *name, **options: Path("relative"))
    assert authorship.mark("a text") is None


def test_a_key_is_kept_where_there_are_no_links(tmp_path, monkeypatch):
    def refuse(*names):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setattr(authorship.os, "link", refuse)
    said = authorship.mark("a text")
    assert said is not None and authorship.is_ours("a text", said)


def test_without_a_place_for_the_key_nothing_is_marked(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    assert authorship.mark("a text") is None
    run = RunDirectory(tmp_path)
    recipe = load_recipe({"data": {"name": "digits"}, "method": {"name": "common"}})
    run.write_recipe(recipe)
    assert run.recipe == recipe  # it names nothing of one's own


def family_of(model: dict, tmp_path: Path) -> Path:
    """A family file whose header names this model."""
    torch.manual_seed(0)
    network = stimulative.unravel(build("cifar/resnet20", classes=10, channels=1).eval(), torch.randn(2, 1, 8, 8))
    from stimulative.deploy import save_family

    file = tmp_path / "family.safetensors"
    about = {
        "model": {"name": "cifar/resnet20", "arguments": {}},
        **{"task": "images", "classes": list(range(10)), "channels": 1, "image_size": 8},
    }
    save_family(network, file, ["1-1-1"], [torch.randn(8, 1, 8, 8)], about=about)
    with safe_open(file, framework="pt") as opened:
        header = {key: value for key, value in opened.metadata().items() if "stimulative." not in key}
        tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    said = json.loads(header["stimulative"])
    said["model"] |= model
    save_file(tensors, file, metadata=header | {"stimulative": json.dumps(said)})
    return file


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"name": "evil_module:factory"}, "names model 'evil_module:factory'.*load.FILE, trust=True.*model="),
        ({"name": "os:system", "arguments": {"command": "touch imported"}}, "a module of Python itself"),
        (
            {"name": "cifar/resnet20", "arguments": {"width": 100_000}},
            "would have .* parameters: that is not the model",
        ),
        ({"name": "timm/resnet18", "arguments": {"checkpoint_path": "x"}}, "'checkpoint_path' is not taken"),
        ({"name": "timm/resnet18", "arguments": {"pretrained_cfg": {"url": "http://x"}}}, "'pretrained_cfg' is not"),
        ({"name": "transformers/vit", "arguments": {"attn_implementation": "a/kernel"}}, "'attn_implementation' is"),
    ],
)
def test_a_family_file_runs_nothing(model, message, evil, tmp_path):
    file = family_of(model, tmp_path)
    with pytest.raises(UsageError, match=message):
        stimulative.load(file)
    assert not evil.exists()


def test_a_family_file_of_the_catalogue_is_loaded(tmp_path):
    x = torch.randn(2, 1, 8, 8)
    assert stimulative.load(family_of({}, tmp_path))(x).shape == (2, 10)


def test_a_trusted_family_file_is_built_by_its_factory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_factory.py").write_text(
        "from stimulative.models import build\n"
        "def net(num_classes, in_chans): return build('cifar/resnet20', classes=num_classes, channels=in_chans)\n"
    )
    file = family_of({"name": "my_factory:net"}, tmp_path)
    assert stimulative.load(file, trust=True)(torch.randn(2, 1, 8, 8)).shape == (2, 10)


@pytest.mark.parametrize(
    "arguments",
    [
        {"width": 8, "drop_path_rate": 0.1, "layers": [2, 2], "zero_init_last": False, "norm_eps": None},
        {"hidden_act": "gelu", "act_layer": "silu", "global_pool": "avg", "layer_types": ["full_attention"] * 4},
        {"attn_implementation": "sdpa", "rope_parameters": {"rope_type": "default", "rope_theta": 1e4}},
    ],
)
def test_plain_arguments_are_taken(arguments):
    assert foreign_problem(arguments) is None


@pytest.mark.parametrize(
    "arguments",
    [
        {"checkpoint_path": "weights"},
        {"hidden_act": "../x"},
        {"hidden_act": "kernels-community/act"},
        {"attn_implementation": "flash_attention_2"},
        {"text_config": {"attn_implementation": "a/b"}},
        {"backbone": "resnet50"},
        {"use_pretrained_backbone": True},
        {"layer_types": ["https://x"]},
        {"act_layer": print},
    ],
)
def test_arguments_that_might_open_something_are_not(arguments):
    assert foreign_problem(arguments) is not None


def test_the_current_directory_comes_last(tmp_path, monkeypatch):
    here, installed = tmp_path / "here", tmp_path / "installed"
    here.mkdir()
    installed.mkdir()
    monkeypatch.chdir(here)
    monkeypatch.syspath_prepend(str(installed))
    (installed / "module_of_two.py").write_text("def which(): return 'installed'")
    (here / "module_of_two.py").write_text("def which(): return 'here'")
    before = list(sys.path)
    assert imported("module_of_two:which", "model", "factory", "a function")() == "installed"
    assert sys.path == before
    with pytest.raises(UsageError, match=r"module 'module_of_two' \(.*has no 'other'"):
        imported("module_of_two:other", "model", "factory", "a function")


def test_another_thread_trusts_nothing(evil):
    found = []

    def ask():
        with distrusting("a file"):
            try:
                imported("evil_module:factory", "model", "factory", "a function")
            except UsageError as error:
                found.append(str(error))

    with stimulative.trusting():
        thread = threading.Thread(target=ask)
        thread.start()
        thread.join()
    assert found and not evil.exists()


def test_results_of_jobs_in_a_received_study_are_not_read(tmp_path, capsys):
    (tmp_path / "study/cluster").mkdir(parents=True)
    command = ["compare", "digits", "--seeds", "1", "--out", str(tmp_path / "study"), "--cluster", "local"]
    assert main(command) == 2
    assert "would run code when they are read" in capsys.readouterr().err
    assert not os.listdir(tmp_path / "study/cluster")


def test_a_recipe_gives_the_terminal_no_orders(tmp_path, capsys):
    file = tmp_path / "recipe-of-others.yaml"
    file.write_text('model: {name: "\\e[2J\\e]0;pwned\\a"}\ndata: {name: digits}\nmethod: {name: common}\n')
    assert main(["train", str(file), "--dry-run"]) == 2
    said = capsys.readouterr().err
    assert "pwned" in said and "\x1b" not in said and "\x07" not in said
