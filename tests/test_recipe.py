"""Recipes: the shipped ones, overrides, and every way in which one can be wrong."""

import ast
import dataclasses
import importlib.resources
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stimulative.config import Recipe, load_recipe, settings_help, shipped, yamlfile
from stimulative.config.annotations import convert, describe, settings_of
from stimulative.errors import UsageError
from stimulative.methods import METHODS


class Plain:
    """A method without settings of its own."""

    def __init__(self, network: Any, *, label_smoothing: float = 0.0, seed: int = 0) -> None: ...

    @classmethod
    def problems(cls, settings: Mapping[str, Any]) -> list[str]:
        return []


class Loud:
    """A method with settings of every kind.

    Args:
        network: Not a setting.
        volume: How loud,
            in one line.
        tone: High or low.
        mixer: A name or a mapping.
        steps: How many.
        mute: Whether to be quiet after all.
        label_smoothing: Not a setting.
        total_steps: Not a setting.
        seed: Not a setting.
    """

    def __init__(
        self,
        network: Any,
        *,
        volume: float = 1.0,
        tone: Literal["high", "low"] = "low",
        mixer: str | dict[str, Any] = "even",
        steps: int = 1,
        mute: bool = False,
        label_smoothing: float = 0.0,
        total_steps: int | None = None,
        seed: int = 0,
    ) -> None: ...

    @classmethod
    def problems(cls, settings: Mapping[str, Any]) -> list[str]:
        assert set(settings) == {"volume", "tone", "mixer", "steps", "mute"}
        found = [] if settings["volume"] >= 0 else [f"volume: must be at least 0, got {settings['volume']}"]
        return found + ([] if settings["steps"] > 0 else [f"steps: must be above 0, got {settings['steps']}"])


class Echo(Loud):
    """A method that shares a setting with `Loud` and has one of its own."""

    def __init__(self, network: Any, *, volume: float = 3.0, delay: float = 0.5) -> None: ...

    @classmethod
    def problems(cls, settings: Mapping[str, Any]) -> list[str]:
        return []


STUBS: Mapping[str, type] = {"plain": Plain, "loud": Loud, "echo": Echo}
LOUD = {"method": {"name": "loud"}}

FILE = """\
# A recipe of one's own.
model: {name: cifar/resnet20}
data:
  name: digits
  batch_size: 32
method:
  name: loud
  volume: 2
optimizer:
  lr: 1e-2
seed: 7
"""


def load(recipe: Any = LOUD, overrides: Any = None) -> Recipe:
    return load_recipe(recipe, overrides, methods=STUBS)


def error(recipe: Any = LOUD, overrides: Any = None) -> str:
    with pytest.raises(UsageError) as caught:
        load(recipe, overrides)
    return str(caught.value)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "mine.yaml"
    path.write_text(FILE)
    return path


# Shipped recipes


def test_the_shipped_recipes_are_these() -> None:
    assert shipped() == [
        "cifar10-mobilenetv3",
        "cifar10-resnet20",
        "cifar100-10k",
        "cifar100-densenet121",
        "cifar100-mobilenetv3",
        "cifar100-resnet101",
        "cifar100-resnet20",
        "cifar100-resnet50",
        "cifar100-vit-tiny",
        "digits",
        "digits-densenet",
        "digits-vit",
        "imagenet-resnet50",
        "imagenet-resnet50-plus",
        "imagenet-resnet50-plus-400",
        "imagenet-vit-small",
        "text-gpt2-tiny",
    ]


@pytest.mark.parametrize("name", shipped())
def test_a_shipped_recipe_loads_says_how_to_launch_and_comments_every_section(name: str) -> None:
    recipe = load_recipe(name)
    assert recipe.method.name == "stimulative"
    assert recipe.evaluation.calibration_images == (2048 if name.startswith("imagenet-resnet50") else 2000)
    text = (importlib.resources.files("stimulative.recipes") / f"{name}.yaml").read_text()
    assert f"stimulative train {name} " in text
    assert "2210.04153" in text and "Ours" in text
    for section in ("model:", "data:", "method:", "optimizer:", "schedule:", "evaluation:", "seed:"):
        body = text.partition(f"\n{section}")[2].partition("\n\n")[0]
        assert body and ("#" in body or section == "seed:"), section


@pytest.mark.parametrize("name", shipped())
@pytest.mark.parametrize("method", ["common", "stimulative"])
def test_a_shipped_recipe_can_be_trained_by_each_method(name: str, method: str) -> None:
    recipe = load_recipe(name, {"method.name": method})
    assert recipe.method.name == method
    assert recipe.optimizer == load_recipe(name).optimizer


def test_the_balance_of_the_paper_is_that_of_its_network() -> None:
    assert load_recipe("cifar100-resnet50").method.settings["balance"] == 10.0
    assert load_recipe("cifar100-resnet50").model.name == "cifar/resnet50"


# Reading


def test_a_file_is_resolved_with_every_default_filled_in(file: Path) -> None:
    recipe = load(file)
    assert (recipe.data.batch_size, recipe.optimizer.lr, recipe.seed) == (32, 0.01, 7)
    assert recipe.method.settings == {
        "volume": 2.0,
        "tone": "low",
        "mixer": "even",
        "steps": 1,
        "mute": False,
    }
    assert recipe.schedule.epochs == 20 and recipe.optimizer.betas == (0.9, 0.999)
    assert recipe.training.loggers == ("tensorboard",)
    assert load(str(file)) == recipe


def test_settings_the_loop_gives_to_a_method_are_no_settings_of_a_recipe() -> None:
    assert set(load({"method": {"name": "plain"}}).method.settings) == set()
    assert (
        "method.label_smoothing: unknown setting; got 0.1 (recipe); did you mean 'training.label_smoothing'?"
        in error({"method": {"name": "loud", "label_smoothing": 0.1}})
    )


def test_a_recipe_is_frozen_and_shares_nothing_with_the_next() -> None:
    first, second = load(), load()
    with pytest.raises(dataclasses.FrozenInstanceError):
        first.seed = 3  # pyright: ignore[reportAttributeAccessIssue]
    assert first.model.arguments == {} and first.model.arguments is not second.model.arguments


def test_numbers_are_numbers_and_dates_are_text(file: Path) -> None:
    file.write_text(FILE.replace("volume: 2", "mixer: {low: 1e-3, high: 1E+3, point: .5e1, day: 2024-01-01}"))
    assert load(file).method.settings["mixer"] == {
        "low": 0.001,
        "high": 1000.0,
        "point": 5.0,
        "day": "2024-01-01",
    }


def test_a_section_left_empty_has_its_defaults() -> None:
    assert load({**LOUD, "optimizer": None}).optimizer == load().optimizer


# Writing


@pytest.mark.parametrize("name", shipped())
def test_a_shipped_recipe_comes_back_equal_from_its_own_yaml(name: str, tmp_path: Path) -> None:
    recipe = load_recipe(name, {"seed": 3, "optimizer.lr": 1e-7, "training.loggers": ["csv", "wandb"]})
    path = tmp_path / "recipe.yaml"
    path.write_text(recipe.to_yaml())
    assert load_recipe(path) == recipe
    assert load_recipe(recipe) == recipe
    assert load_recipe(recipe.to_mapping()) == recipe


awkward = st.sampled_from(["1e3", "1E5", ".5", "null", "~", "on", "2024-01-01", "0x1F", "a: b", "#", "", " x ", "é\n"])


@settings(deadline=None, derandomize=True, max_examples=60)
@given(awkward | st.text(st.characters(exclude_categories=["Cc", "Cs"]), max_size=8), st.floats(1e-300, 1e300), awkward)
def test_any_text_and_number_comes_back_equal(text: str, number: float, key: str) -> None:
    mixer = {"name": text, "inner": [text, {"deep": number}], key: number}
    recipe = load({"method": {"name": "loud", "mixer": mixer, "volume": number}})
    assert recipe.method.settings["mixer"] == mixer
    assert load(yamlfile.parse_yaml(recipe.to_yaml())[0]) == recipe
    flat = load({"method": {"name": "loud", "mixer": text}})
    assert flat.method.settings["mixer"] == text
    assert load(yamlfile.parse_yaml(flat.to_yaml())[0]) == flat


# Overrides


@pytest.mark.parametrize(
    "overrides",
    [
        {"method.volume": 5, "optimizer.lr": 0.5, "data.flip": False},
        {"method": {"volume": 5}, "optimizer": {"lr": 0.5}, "data.flip": False},
        ["--method.volume=5", "--optimizer.lr", "0.5", "--data.flip", "false"],
        ["--method.volume=1", "--optimizer.lr", "5e-1", "--data.flip", "no", "--method.volume", "5.0"],
        ["--method", "{volume: 5}", "--optimizer.lr=0.5", "--data.flip=False"],
    ],
)
def test_overrides_stand_over_the_file(file: Path, overrides: Any) -> None:
    recipe = load(file, overrides)
    assert recipe.method.settings["volume"] == 5.0
    assert recipe.optimizer.lr == 0.5 and recipe.data.flip is False
    assert recipe.data.batch_size == 32  # what is not overridden stays the file's


def test_command_line_values_have_the_type_of_their_setting(tmp_path: Path) -> None:
    words = "--data.batch-size 16 --data.name cifar10 --data.path 2024 --optimizer.clip_norm 1"
    more = "--training.threads null --evaluation.subnets=12 --training.loggers [csv]"
    recipe = load(LOUD, [*words.split(), *more.split()])
    assert recipe.data.batch_size == 16
    assert recipe.data.path == "2024"
    assert recipe.optimizer.clip_norm == 1.0 and isinstance(recipe.optimizer.clip_norm, float)
    assert recipe.training.threads is None
    assert recipe.evaluation.subnets == 12
    assert recipe.training.loggers == ("csv",)
    assert load(LOUD, {"data.name": "cifar10", "data.path": tmp_path}).data.path == str(tmp_path)


def test_a_part_of_a_mapping_can_be_set() -> None:
    base = {"method": {"name": "loud", "mixer": {"name": "odd", "inner": {"left": 1, "right": 2}}}}
    recipe = load(base, ["--method.mixer.inner.left=5e-1", "--method.mixer.name", "even"])
    assert recipe.method.settings["mixer"] == {"name": "even", "inner": {"left": 0.5, "right": 2}}
    assert load(LOUD, {"method.mixer.name": "odd"}).method.settings["mixer"] == {"name": "odd"}
    assert base["method"]["mixer"]["inner"]["left"] == 1  # pyright: ignore[reportIndexIssue]


def test_a_recipe_can_be_overridden_again(file: Path) -> None:
    recipe = load(file).override({"seed": 9, "schedule.epochs": 3}, methods=STUBS)
    assert (recipe.seed, recipe.schedule.epochs, recipe.data.batch_size) == (9, 3, 32)


# Another method


def test_another_method_drops_what_the_file_says_about_its_own() -> None:
    base = {"method": {"name": "loud", "volume": 2.0, "tone": "high", "mixer": {"name": "odd"}}, "seed": 4}
    assert load(base, {"method.name": "plain"}).method.settings == {}
    echo = load(base, ["--method.name=echo", "--method.delay=2"])
    default = load({"method": {"name": "echo"}}).method.settings["volume"]
    assert echo.method.settings == {"volume": default, "delay": 2.0} and default != 2.0  # both have a volume
    assert echo.seed == 4
    assert load(base, {"method.name": "loud"}).method.settings["tone"] == "high"
    assert load(load(base), {"method.name": "echo"}) == load(base, {"method.name": "echo"})


def test_what_is_set_together_with_another_method_must_fit_it() -> None:
    assert error(LOUD, ["--method.name=plain", "--method.tone", "low"]) == (
        "the recipe: method.tone: unknown setting; got 'low' (command line), a setting of the method loud only"
    )


def test_a_slip_in_the_files_method_is_reported_even_when_another_one_is_asked_for() -> None:
    base = {"method": {"name": "loud", "volum": 2.0, "tone": "high"}}
    message = error(base, {"method.name": "echo"})
    assert message == "the recipe: method.volum: unknown setting; got 2.0 (recipe); did you mean 'method.volume'?"


# A method of one's own

OWN = """\
from typing import Literal

from stimulative.methods import Method, StimulativeTraining


class Sharp(Method):
    \"\"\"A method.

    Args:
        net: The network.
        sharpness: How sharp.
        tone: High or low.
    \"\"\"

    def __init__(self, net, *, sharpness: float = 2.0, tone: Literal["high", "low"] = "low", depth: int, **given):
        super().__init__(net, **given)

    @classmethod
    def problems(cls, settings):
        return [] if settings["sharpness"] > 0 else [f"sharpness: must be above 0, got {settings['sharpness']}"]


class Renamed(StimulativeTraining):
    pass


class Stubborn(Method):
    def __init__(self, network, *, seed=0):
        super().__init__(network)


class Unreadable(Method):
    def __init__(self, network, *, sampler: "Sampler" = None, **given):
        super().__init__(network, **given)


class Untrue(Method):
    def __init__(self, network, *, scale: float = None, **given):
        super().__init__(network, **given)


class Named(Method):
    def __init__(self, network, *, name: str, **given):
        super().__init__(network, **given)


class Unwritable(Method):
    def __init__(self, network, *, sampler=len, **given):
        super().__init__(network, **given)


no_method = 3
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    (tmp_path / "mine.py").write_text(OWN)
    (tmp_path / "broken.py").write_text("import json\n\nsize = {}['size']\n")
    (tmp_path / "leaving.py").write_text("import sys\n\nsys.exit(3)\n")
    monkeypatch.chdir(tmp_path)
    sys.modules.pop("mine", None)
    yield
    sys.modules.pop("mine", None)


def test_a_method_of_ones_own_has_the_settings_of_its_class(own: None) -> None:
    recipe = load({"method": {"name": "mine:Sharp", "depth": 3}, "seed": 2}, ["--method.tone=high"])
    assert (recipe.method.name, recipe.seed) == ("mine:Sharp", 2)
    assert recipe.method.settings == {"sharpness": 2.0, "tone": "high", "depth": 3}
    assert load(yamlfile.parse_yaml(recipe.to_yaml())[0]) == recipe == load(recipe)
    inherited = load_recipe({"method": {"name": "mine:Renamed", "balance": 3}})
    plain = load_recipe({"method": {"name": "stimulative", "balance": 3}})
    assert inherited.method.settings == plain.method.settings


def test_a_method_of_ones_own_is_another_method(own: None) -> None:
    base = {"method": {"name": "mine:Sharp", "depth": 3, "tone": "high"}, "seed": 4}
    assert load(base, {"method.name": "loud"}) == load({"method": {"name": "loud"}, "seed": 4})
    loud = {"method": {"name": "loud", "tone": "high", "volume": 2.0}}
    sharp = load(loud, {"method.name": "mine:Sharp", "method.depth": 1})
    assert sharp.method.settings == {"sharpness": 2.0, "tone": "low", "depth": 1}
    renamed = load({"method": {"name": "mine:Renamed", "every": 2}}, {"method.name": "mine:Renamed"})
    assert renamed.method.settings["every"] == 2


def test_a_method_of_ones_own_that_another_takes_the_place_of_is_not_imported(own: None) -> None:
    for name in ("gone:Method", "mine:Sharp"):
        replaced = {"method": {"name": name, "size": 2}, "seed": 3}
        assert load(replaced, {"method.name": "plain"}) == load({"method": {"name": "plain"}, "seed": 3})
    assert "mine" not in sys.modules


@pytest.mark.parametrize("default", ['"off"', '"null"', '"1e3"', '"{a: 1}"', '"2024-01-01"', "(1, 2)", "None", "1e-3"])
@pytest.mark.parametrize("annotation", ["", ": Any", ": Sequence[int] | str | None | float"])
def test_a_default_of_a_method_of_ones_own_comes_back_from_the_recipe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, default: str, annotation: str
) -> None:
    (tmp_path / "modes.py").write_text(f"""
from collections.abc import Sequence
from typing import Any

from stimulative.methods import CommonTraining


class Mode(CommonTraining):
    def __init__(self, network, *, mode{annotation} = {default}, **given):
        super().__init__(network, **given)
""")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "modes", raising=False)
    recipe = load_recipe("digits", {"method.name": "modes:Mode"})
    expected = ast.literal_eval(default)
    assert recipe.method.settings["mode"] == (list(expected) if isinstance(expected, tuple) else expected)
    assert recipe.override({"seed": 1}).method == recipe.method
    assert load_recipe(yamlfile.parse_yaml(recipe.to_yaml())[0]) == recipe


@pytest.mark.parametrize(
    ("method", "message"),
    [
        ({"name": "mine:Sharp"}, "method.depth: missing, allowed: a whole number"),
        (
            {"name": "mine:Sharp", "depth": 1, "sharpnes": 2},
            "method.sharpnes: unknown setting; got 2 (recipe); did you mean 'method.sharpness'?",
        ),
        (
            {"name": "mine:Sharp", "depth": 1, "volume": 2},
            "method.volume: unknown setting; got 2 (recipe), a setting of the method loud and echo only",
        ),
        ({"name": "mine:Sharp", "depth": "x"}, "method.depth: got 'x' (recipe), allowed: a whole number"),
        (
            {"name": "mine:Sharp", "depth": 1, "sharpness": 0},
            "method.sharpness: must be above 0, got 0.0 (recipe)",
        ),
        ({"name": "gone:Sharp"}, "method.name: cannot import 'gone' for method 'gone:Sharp': ModuleNotFoundError: "),
        (
            {"name": "mine:Shap"},
            "method.name: module 'mine' has no 'Shap' for method 'mine:Shap'; did you mean 'Sharp'?",
        ),
        (
            {"name": "mine:no_method"},
            "method.name: 'mine:no_method' is no Class: it must be a subclass of stimulative.methods.Method; got int 3",
        ),
        (
            {"name": "yaml:SafeLoader"},
            "method.name: 'yaml:SafeLoader' is no method: it must be a subclass of stimulative.methods.Method; got ",
        ),
        (
            {"name": "broken:Method"},
            "method.name: cannot import 'broken' for method 'broken:Method': KeyError: 'size' (",
        ),
        (
            {"name": "leaving:Method"},
            "method.name: cannot import 'leaving' for method 'leaving:Method': SystemExit: 3 (",
        ),
        (
            {"name": "mine:Stubborn"},
            "method.name: method 'mine:Stubborn' has to take the network first, and label_smoothing, total_steps and "
            "seed by name (or as **settings that it hands on to Method); its constructor says: got an unexpected "
            "keyword argument 'label_smoothing' (recipe)",
        ),
        (
            {"name": "mine:Unreadable"},
            "method.name: the settings of 'mine:Unreadable' cannot be read from its signature: NameError: name "
            "'Sampler' is not defined (recipe)",
        ),
        (
            {"name": "mine:Unwritable"},
            "method.name: 'mine:Unwritable': the default of 'sampler' cannot be written in a recipe: got <built-in "
            "function len>, allowed: numbers, texts, true or false, None, and lists and mappings of these (recipe)",
        ),
        (
            {"name": "mine:Untrue"},
            "method.name: 'mine:Untrue': the default of 'scale' is not of its type: got None, allowed: a number; "
            "change one of them (recipe)",
        ),
        (
            {"name": "mine:Named"},
            "method.name: 'mine:Named': a parameter 'name' is in the way of method.name; call it something else "
            "(recipe)",
        ),
        ({"name": "mine.py:Sharp"}, "method.name: cannot import 'mine.py' for method 'mine.py:Sharp': "),
        ({"name": "my-own:Sharp"}, "method.name: unknown method; got 'my-own:Sharp' (recipe), allowed: plain, loud"),
    ],
)
def test_a_problem_of_a_method_of_ones_own_hides_no_other(own: None, method: dict[str, Any], message: str) -> None:
    said = error({"method": method, "schedule": {"epochs": 0}}).splitlines()
    assert said[0] == "the recipe has 2 problems:" and said[-1].endswith("epochs: must be at least 1, got 0 (recipe)")
    assert said[1].startswith(f"  {message}") or said[2].startswith(f"  {message}")


# One problem at a time


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        (
            "lr: 1e-2",
            "lrr: 1e-2",
            "optimizer.lrr: unknown setting; got 0.01 (@10); did you mean 'optimizer.lr'?",
        ),
        ("seed: 7", "sede: 7", "sede: unknown setting; got 7 (@11); did you mean 'seed'?"),
        (
            "seed: 7",
            "optimiser: {lr: 1}",
            "optimiser: unknown setting; got {lr: 1} (@11); did you mean 'optimizer'?",
        ),
        ("seed: 7", "volume: 7", "volume: unknown setting; got 7 (@11); did you mean 'method.volume'?"),
        (
            "lr: 1e-2",
            "epochs: 3",
            "optimizer.epochs: unknown setting; got 3 (@10); did you mean 'schedule.epochs'?",
        ),
        (
            "lr: 1e-2",
            "zzz: 3",
            "optimizer.zzz: unknown setting; got 3 (@10), allowed in optimizer: name, lr, momentum",
        ),
        ("seed: 7", "zzz: 7", "zzz: unknown setting; got 7 (@11), allowed: model, data, method"),
        (
            "  volume: 2",
            "  delay: 2",
            "method.delay: unknown setting; got 2 (@8), a setting of the method echo only",
        ),
        ("lr: 1e-2", "lr: fast", "optimizer.lr: got 'fast' (@10), allowed: a number"),
        ("lr: 1e-2", "lr: true", "optimizer.lr: got true (@10), allowed: a number"),
        ("lr: 1e-2", "lr: null", "optimizer.lr: got null (@10), allowed: a number"),
        ("lr: 1e-2", "lr: .inf", "optimizer.lr: got .inf (@10), allowed: a number, and finite"),
        ("lr: 1e-2", "lr: .nan", "optimizer.lr: got .nan (@10), allowed: a number, and finite"),
        ("lr: 1e-2", "lr: 1e999", "optimizer.lr: got .inf (@10), allowed: a number, and finite"),
        ("lr: 1e-2", "lr: [1]", "optimizer.lr: got [1] (@10), allowed: a number"),
        ("lr: 1e-2", "name: adam", "optimizer.name: got 'adam' (@10), allowed: one of sgd, adamw"),
        (
            "lr: 1e-2",
            "betas: [0.9]",
            "optimizer.betas: got [0.9] (@10), allowed: a list of 2 numbers, in brackets",
        ),
        ("lr: 1e-2", "nesterov: 1", "optimizer.nesterov: got 1 (@10), allowed: true or false"),
        ("lr: 1e-2", "clip_norm: x", "optimizer.clip_norm: got 'x' (@10), allowed: a number or null"),
        ("batch_size: 32", "batch_size: 3.5", "data.batch_size: got 3.5 (@5), allowed: a whole number"),
        ("batch_size: 32", "batch_size: true", "data.batch_size: got true (@5), allowed: a whole number"),
        ("batch_size: 32", "path: [a]", "data.path: got [a] (@5), allowed: text or null"),
        ("volume: 2", "tone: medium", "method.tone: got 'medium' (@8), allowed: one of high, low"),
        ("volume: 2", "mixer: 2", "method.mixer: got 2 (@8), allowed: text or a mapping"),
        (
            "volume: 2",
            "mixer: {1: 2}",
            "method.mixer: got {1: 2} (@8), allowed: text or a mapping, with texts as keys",
        ),
        (
            "volume: 2",
            "mixer: {a: [.inf]}",
            "method.mixer: got {a: [.inf]} (@8), allowed: text or a mapping, and finite",
        ),
        (
            "seed: 7",
            "evaluation: {subnets: some}",
            "evaluation.subnets: got 'some' (@11), allowed: a whole number or one of auto, all",
        ),
        (
            "seed: 7",
            "training: {loggers: csv}",
            "training.loggers: got 'csv' (@11), allowed: a list of texts, in brackets",
        ),
        ("seed: 7", "training: [1]", "training: got [1] (@11), allowed: a mapping of its settings"),
        (
            "model: {name: cifar/resnet20}",
            "model: cifar/resnet20",
            "model: got 'cifar/resnet20' (@2), allowed: a mapping of its settings, such as model: "
            "{name: cifar/resnet20}",
        ),
        ("volume: 2", "volume: -2", "method.volume: must be at least 0, got -2.0 (@8)"),
        (
            "batch_size: 32",
            "batch_size: 0",
            "data.batch_size: expected a whole number of at least 1, got 0 (@5)",
        ),
        ("seed: 7", "seed: -7", "seed: must be at least 0 and below 2**32, got -7 (@11)"),
        (
            "lr: 1e-2",
            "momentum: 0",
            "optimizer.nesterov: needs a momentum above 0, got momentum 0; set nesterov to false (default)",
        ),
        ("  name: loud\n", "", "method.name: missing, allowed: plain, loud, echo, package.module:Class"),
        (
            "name: loud",
            "name: laud",
            "method.name: unknown method; got 'laud' (@7), allowed: plain, loud, echo, package.module:Class; "
            "did you mean 'loud'?",
        ),
        (
            "name: loud",
            "name: [loud]",
            "method.name: unknown method; got [loud] (@7), allowed: plain, loud, echo, package.module:Class",
        ),
        ("seed: 7", "a.b: 7", "got the dotted name 'a.b' (@11), write it as mappings inside each other"),
        ("seed: 7", "seed: 7\nseed: 8", "not valid YAML; line 12: 'seed' is there twice, first on line 11"),
        ("lr: 1e-2", "lr: 1e-2\n  lr: 1", "not valid YAML; line 11: 'lr' is there twice, first on line 10"),
        ("seed: 7", "seed: [7", "not valid YAML; line 12: "),
    ],
)
def test_a_problem_says_key_value_line_and_what_to_write(file: Path, before: str, after: str, message: str) -> None:
    assert FILE.count(before) == 1
    file.write_text(FILE.replace(before, after))
    said = error(file)
    # "@9" stands for line 9 of the file
    assert said.startswith(f"recipe {str(file)!r}: {message.replace('@', 'mine.yaml, line ')}")
    assert "\n" not in said


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["--method.volum=5"],
            "method.volum: unknown setting; got '5' (command line); did you mean 'method.volume'?",
        ),
        (["--volume", "5"], "volume: unknown setting; got '5' (command line); did you mean 'method.volume'?"),
        (["--optimizer.lr=fast"], "optimizer.lr: got 'fast' (command line), allowed: a number"),
        (["--optimizer.lr=.inf"], "optimizer.lr: got '.inf' (command line), allowed: a number, and finite"),
        (["--data.batch_size=1e1"], "data.batch_size: got '1e1' (command line), allowed: a whole number"),
        (["--seed=true"], "seed: got 'true' (command line), allowed: a whole number"),
        (["--seed", "-1"], "seed: must be at least 0 and below 2**32, got -1 (command line)"),
        (["--optimizer.lr", "-1"], "optimizer.lr: must be above 0, got -1.0 (command line)"),
        (["--data.flip"], "data.flip: got no value (command line), write --data.flip VALUE"),
        (["--data.flip", "--seed=1"], "data.flip: got no value (command line), write --data.flip VALUE"),
        (["--data.flip="], "data.flip: got '' (command line), allowed: true or false"),
        (["quick"], "got 'quick' (command line), allowed: --section.setting VALUE"),
        (["-s", "--seed=1"], "got '-s' (command line), allowed: --section.setting VALUE"),
        (["--optimizer=3"], "optimizer: got 3 (command line), allowed: a mapping of its settings"),
        (["--model.name.x=3"], "model.name.x: unknown setting; got '3' (command line)"),
        (["--model.arguments=[1"], "model.arguments: got '[1' (command line), allowed: a mapping"),
        ("--seed=x", "seed: got 'x' (command line), allowed: a whole number"),
        ({"seed": "x"}, "seed: got 'x' (override), allowed: a whole number"),
        (
            {"method.mixer": len},
            "method.mixer: got <built-in function len> (override), allowed: text or a mapping",
        ),
    ],
)
def test_a_problem_of_the_command_line_says_so(words: Any, message: str) -> None:
    assert error(LOUD, words).startswith(f"the recipe: {message}")


@pytest.mark.parametrize(
    ("section", "values", "message"),
    [
        ("optimizer", {"lr": 0}, "lr: must be above 0, got 0.0"),
        ("optimizer", {"momentum": 1}, "momentum: must be at least 0 and below 1, got 1.0"),
        ("optimizer", {"betas": [0.9, 1.0]}, r"betas: both must be at least 0 and below 1, got [0.9, 1.0]"),
        ("optimizer", {"weight_decay": -0.1}, "weight_decay: must be at least 0, got -0.1"),
        (
            "optimizer",
            {"clip_norm": 0},
            "clip_norm: must be above 0, or null to leave gradients alone, got 0.0",
        ),
        ("schedule", {"epochs": 0}, "epochs: must be at least 1, got 0"),
        (
            "schedule",
            {"warmup_epochs": -1},
            "warmup_epochs: must be at least 0 and at most the 20 epochs of the run",
        ),
        (
            "schedule",
            {"warmup_epochs": 3, "epochs": 2},
            "warmup_epochs: must be at least 0 and at most the 2 epochs",
        ),
        ("schedule", {"final_lr": 1.5}, "final_lr: is a share of lr, from 0 to 1, got 1.5"),
        ("schedule", {"max_steps": 0}, "max_steps: must be at least 1, or null for the whole run, got 0"),
        ("training", {"label_smoothing": 1}, "label_smoothing: must be at least 0 and below 1, got 1.0"),
        ("training", {"accumulate": 0}, "accumulate: must be at least 1, got 0"),
        ("training", {"devices": 0}, "devices: must be at least 1, got 0"),
        ("training", {"log_every": 0}, "log_every: must be at least 1, got 0"),
        ("training", {"threads": 0}, "threads: must be at least 1, or null for PyTorch's choice, got 0"),
        ("training", {"loggers": ["paper"]}, "loggers: unknown logger 'paper', known: csv, tensorboard"),
        ("training", {"loggers": ["csv", "csv"]}, "loggers: each may stand there once, got ['csv', 'csv']"),
        ("evaluation", {"subnets": 0}, "subnets: must be at least 1, or auto, or all, got 0"),
        ("evaluation", {"calibration_images": 0}, "calibration_images: must be at least 1, got 0"),
    ],
)
def test_impossible_values_are_named(section: str, values: dict[str, Any], message: str) -> None:
    said = error({**LOUD, section: values})
    assert said.startswith(f"the recipe: {section}.{message}") and said.endswith("(recipe)")


def test_values_at_the_edge_are_possible() -> None:
    recipe = load(
        {
            **LOUD,
            "optimizer": {"momentum": 0, "nesterov": False, "weight_decay": 0, "betas": [0, 0]},
            "schedule": {"epochs": 1, "warmup_epochs": 1, "final_lr": 1},
            "training": {"loggers": [], "threads": 1},
            "evaluation": {"subnets": 1, "calibration_images": 1},
            "seed": 2**32 - 1,
        }
    )
    assert recipe.training.loggers == () and recipe.schedule.epochs == 1
    own = "lightning.fabric.loggers:CSVLogger"
    assert load(LOUD, {"training.loggers": [own]}).training.loggers == (own,)


# Several at once


def test_all_problems_are_reported_together(file: Path) -> None:
    text = FILE.replace("lr: 1e-2", "lr: fast\n  momentum: 2").replace("name: digits", "name: digitz")
    file.write_text(text.replace("volume: 2", "volume: -2\n  pitch: 4"))
    said = error(file, ["--schedule.epochs=0", "--method.steps", "x", "--trainin.devices=2", "stray"])
    assert said.splitlines() == [
        f"recipe {str(file)!r} has 9 problems:",
        "  got 'stray' (command line), allowed: --section.setting VALUE",
        "  method.pitch: unknown setting; got 4 (mine.yaml, line 9), "
        "allowed in method: name, volume, tone, mixer, steps, mute",
        "  trainin.devices: unknown setting; got '2' (command line); did you mean 'training.devices'?",
        "  optimizer.lr: got 'fast' (mine.yaml, line 11), allowed: a number",
        "  method.steps: got 'x' (command line), allowed: a whole number",
        "  data.name: unknown data set 'digitz'; known: digits, cifar10, cifar100, folder:PATH, fake, multilabel:PATH, "
        "segmentation:PATH, wds:PATTERN, pydoc, "
        "text:PATH, sentences:PATH; did you mean 'digits'? (mine.yaml, line 4)",
        "  method.volume: must be at least 0, got -2.0 (mine.yaml, line 8)",
        "  optimizer.momentum: must be at least 0 and below 1, got 2.0 (mine.yaml, line 12)",
        "  schedule.epochs: must be at least 1, got 0 (command line)",
    ]


def test_a_wrong_type_hides_no_impossible_value_and_is_reported_once() -> None:
    said = error({**LOUD, "schedule": {"epochs": "many", "final_lr": 3}})
    assert said.splitlines()[1:] == [
        "  schedule.epochs: got 'many' (recipe), allowed: a whole number",
        "  schedule.final_lr: is a share of lr, from 0 to 1, got 3.0 (recipe)",
    ]


def test_a_wrong_type_is_not_judged_by_its_default_too() -> None:
    # With the default, nesterov true, this momentum would be a second problem of the same setting.
    assert error({**LOUD, "optimizer": {"momentum": 0, "nesterov": "x"}}) == (
        "the recipe: optimizer.nesterov: got 'x' (recipe), allowed: true or false"
    )


def test_an_unknown_method_hides_no_other_problem() -> None:
    said = error({"method": {"name": "quiet", "volume": 3}, "optimizer": {"lr": -1.0}})
    assert said.splitlines()[1:] == [
        "  method.name: unknown method; got 'quiet' (recipe), allowed: plain, loud, echo, package.module:Class",
        "  optimizer.lr: must be above 0, got -1.0 (recipe)",
    ]


def test_a_file_that_cannot_be_read_hides_no_problem_of_the_command_line() -> None:
    said = error("digitz", ["--optimizer.lr=fast", "--foo.bar=1"])
    assert said.splitlines() == [
        "recipe 'digitz' has 3 problems:",
        f"  no such file, nor a shipped recipe; shipped: {', '.join(shipped())}; did you mean 'digits'?",
        "  foo.bar: unknown setting; got '1' (command line), allowed: model, data, method, optimizer, "
        "schedule, training, evaluation, seed",
        "  optimizer.lr: got 'fast' (command line), allowed: a number",
    ]


# Files that are none


def test_an_unknown_name_suggests_a_near_recipe() -> None:
    assert error("cifar100-resnet5").endswith("; did you mean 'cifar100-resnet50'?")
    assert error("digits.yaml").endswith("; did you mean 'digits'?")
    assert error("zebra").endswith("imagenet-vit-small, text-gpt2-tiny, or the path of a YAML file")


def test_a_folder_is_no_recipe(tmp_path: Path) -> None:
    assert "this is a folder; give a YAML file, or a shipped recipe: cifar10-mobilenetv3, cifar10-" in error(tmp_path)
    (tmp_path / "recipe.yaml").write_text(FILE)
    assert "give a YAML file or the recipe.yaml in it" in error(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "got None, allowed: a mapping with the sections model, data"),
        (b"- 1", "got [1], allowed: a mapping with the sections model, data"),
        (b"\xff\xfe\xfa", "the file cannot be read: 'utf-8' codec"),
        (b"a: \x00", "not valid YAML; "),
        (b"a: *b", "not valid YAML; line 1: found undefined alias"),
        (b"a: !!python/object:os.system x", "not valid YAML; line 1: could not determine a constructor"),
    ],
)
def test_a_file_that_is_no_mapping_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "broken.yaml"
    path.write_bytes(content)
    assert error(path).startswith(f"recipe {str(path)!r}: {message}")


# Help


def test_help_covers_every_setting_and_says_what_it_does() -> None:
    rows = settings_help()
    keys = [row.key for row in rows]
    assert len(set(keys)) == len(keys)
    for method in METHODS:
        recipe = load_recipe({"method": {"name": method}})
        for section, content in recipe.to_mapping().items():
            names = [section] if section == "seed" else [f"{section}.{name}" for name in content]
            assert set(names) <= set(keys)
    assert [row.key for row in rows if not row.help] == []


def test_help_has_types_and_defaults_in_the_words_of_yaml() -> None:
    rows = {row.key: row for row in settings_help(methods=STUBS)}
    assert (rows["optimizer.name"].type, rows["optimizer.name"].default) == ("one of sgd, adamw", "sgd")
    assert (rows["optimizer.clip_norm"].type, rows["optimizer.clip_norm"].default) == (
        "a number or null",
        "null",
    )
    assert (rows["training.loggers"].type, rows["training.loggers"].default) == (
        "a list of texts, in brackets",
        "[tensorboard]",
    )
    assert (rows["method.name"].type, rows["method.name"].default) == ("one of plain, loud, echo", "required")
    assert rows["method.volume"].help == "(loud, echo) How loud, in one line."
    assert rows["method.delay"].help.startswith("(echo)")
    assert [*rows][0 :: len(rows) - 1] == ["model.name", "seed"]


# Types


@pytest.mark.parametrize(
    ("annotation", "value", "expected"),
    [
        (float, 3, 3.0),
        (float | None, None, None),
        (tuple[int, ...], [1, 2], (1, 2)),
        (list[str], ["a"], ["a"]),
        (dict[str, float], {"a": 1}, {"a": 1.0}),
        (dict[str, Any], {"a": "1"}, {"a": "1"}),
        (str | None, "null", "null"),
        (int | Literal["all"], "all", "all"),
        (Any, None, None),
    ],
)
def test_values_become_the_type_of_their_setting(annotation: Any, value: Any, expected: Any) -> None:
    converted = convert(annotation, value)
    assert converted == expected and type(converted) is type(expected)


@pytest.mark.parametrize(
    ("annotation", "value", "allowed"),
    [
        (dict[str, float], {"a": "x"}, "a mapping"),
        (list[int], ["a"], "a list of whole numbers, in brackets"),
        (tuple[str, int], ["a"], "a list of text and a whole number, in brackets"),
        (list, 3, "a list, in brackets"),
    ],
)
def test_values_of_another_type_are_refused_in_words(annotation: Any, value: Any, allowed: str) -> None:
    with pytest.raises(TypeError) as caught:
        convert(annotation, value)
    assert str(caught.value) == allowed == describe(annotation)


def test_a_setting_that_may_be_a_function_is_written_as_its_other_types() -> None:
    assert describe(settings_of(METHODS["stimulative"])["sampler"].annotation) == "text or a mapping"


def test_reading_settings_loads_no_training_library() -> None:
    code = (
        "import sys, stimulative.config.recipe as r; "
        "heavy = ('lightning', 'datasets', 'jsonargparse', 'altair'); "
        "print([name for name in heavy if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
