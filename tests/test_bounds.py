"""What never ends, or would fill the memory, is an error at once."""

import json
import os
import time
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest
from made import run as made_run
from PIL import Image

import stimulative
from stimulative import Subnet, SubnetSpace
from stimulative.analysis.drawing import choose_subnets
from stimulative.cli import main
from stimulative.config import load_recipe
from stimulative.config.yamlfile import MOST_TEXT, YamlError, parse_yaml
from stimulative.data.documents import in_folder
from stimulative.data.image_files import images_below, read_rgb, size_of
from stimulative.errors import UsageError
from stimulative.files import user_path
from stimulative.runs import RunDirectory
from stimulative.weights import read_weights

BOMB = "- &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"- &{now} [{','.join([f'*{before}'] * 9)}]\n" for before, now in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: &a {b: *a}", "line 1: a value holds itself"),
        ("a: &a [1, *a]", "line 1: a value holds itself"),
        (BOMB, "more than 100,000 values, by aliases of aliases"),
        ("model: " + "[" * 5000 + "]" * 5000, "more than 50 levels deep"),
        ("a: " + "x" * MOST_TEXT, "characters, and may have 1,000,000"),
        ("seed: 0x" + "f" * 5000, "a whole number of 5,002 digits"),
        ("seed: !!int x", "not what its tag or its form says"),
        ("seed: " + "9" * 5000, "a whole number of 5,000 digits"),
        ("seed: !!timestamp 2024-13-45", "not what its tag or its form says"),
        ("x: !!bool y", "not what its tag or its form says"),
        ("x: !!python/object/apply:os.system [ls]", "could not determine a constructor"),
    ],
)
def test_yaml_has_bounds(text, message):
    began = time.perf_counter()
    with pytest.raises(YamlError, match=message):
        parse_yaml(text)
    assert time.perf_counter() - began < 5  # seconds for what took minutes


def test_yaml_within_the_bounds_is_read():
    shared = "a: &a [1, 2]\nb: *a\nc: {d: *a}\n"
    assert parse_yaml(shared)[0] == {"a": [1, 2], "b": [1, 2], "c": {"d": [1, 2]}}
    assert list(parse_yaml("x: " + "[" * 40 + "]" * 40)[0]) == ["x"]


@pytest.mark.parametrize(
    "text", ["99999999999-1-1", "1-" * 6000 + "1", "-".join(["9999"] * 9), "[99999999]", "[0.10001]", "9" * 5000]
)
def test_subnets_have_bounds(text):
    with pytest.raises(UsageError, match="more than 10,000"):
        Subnet.parse(text)


def test_subnets_within_the_bounds_are_read():
    assert Subnet.parse("9999-1").depths == (9999, 1)
    assert Subnet.parse("1-[0.2]").stages == ((0,), (0, 2))
    with pytest.raises(UsageError, match="cannot read the subnet"):
        Subnet.parse("٣-1")
    with pytest.raises(UsageError, match="cannot read the subnet"):
        Subnet.from_json("[" * 100_000)


def test_paths_that_no_file_system_can_have_are_refused():
    for text in ("a" * 300, "\0", "a/" * 3000, "~nobody-of-that-name/x", "\ud800"):
        with pytest.raises(UsageError, match="is no path"):
            user_path(text)
    assert user_path("~/x") == Path.home() / "x"
    assert user_path("ä" * 120).name == "ä" * 120


@pytest.mark.parametrize(
    "command",
    [
        "train {long}",
        "evaluate {long}",
        "evaluate --model cifar/resnet20 --weights {long} --data digits",
        "export {long} --subnet 1-1-1 --format torch",
        "pack {long}",
        "choose {long} --max-flops 1M",
        "destroy {long} --out x",
        "rank {long}",
        "report {long}",
        "train --from {long}",
        "train digits --data folder:{long}",
        "train digits --out {long}",
        "init --model cifar/resnet20 --data folder:{long}",
    ],
)
def test_commands_refuse_them(command, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(command.format(long="a" * 300).split()) == 2
    assert "stimulative: error: " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("summary.json", '{"a":' * 100_000),
        ("summary.json", "[" * 100_000),
        ("subnets.csv", 'subnet,blocks\n"' + "x" * 200_000 + '"\n'),
        ("subnets.csv", b"\xff\xfe"),
        ("metrics.csv", b"\xff\xfe"),
        ("metrics.csv", "epoch,step\n\xb2,1\n"),
        ("environment.json", json.dumps({"versions": [[[]]]})),
    ],
)
def test_a_report_of_files_that_are_no_such_files_is_an_error(name, content, tmp_path, capsys):
    run = made_run(tmp_path / "run")
    data = content if isinstance(content, bytes) else content.encode()
    (run / name).write_bytes(data)
    assert main(["report", str(run), "--out", str(tmp_path / "out")]) in (0, 2)
    assert "Traceback" not in capsys.readouterr().err


def pipe(path: Path) -> Path:
    path.unlink(missing_ok=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    os.mkfifo(path)
    return path


@pytest.mark.parametrize("name", ["summary.json", "recipe.yaml", "subnets.csv", "metrics.csv", "environment.json"])
def test_a_pipe_in_a_run_directory_is_not_waited_for(name, tmp_path, capsys):
    run = made_run(tmp_path / "run")
    pipe(run / name)
    assert main(["report", str(run)]) == 2
    assert f"{name}" in (said := capsys.readouterr().err) and "it is a pipe or a device, and no file" in said


def test_a_pipe_among_data_or_weights_is_not_waited_for(tmp_path):
    with pytest.raises(UsageError, match=r"w.pth cannot be read: it is a pipe or a device"):
        read_weights(pipe(tmp_path / "w.pth"))
    pipe(tmp_path / "texts/train/a.txt")
    with pytest.raises(UsageError, match=r"a.txt cannot be read as text .*it is a pipe or a device"):
        in_folder(str(tmp_path / "texts"))
    pipe(tmp_path / "images/a.png")
    Image.new("RGB", (8, 8)).save(tmp_path / "images/b.png")
    left_out = Counter()
    assert [Path(file).name for file in images_below(tmp_path / "images", left_out)] == ["b.png"]
    assert left_out == {"a pipe or a device": 1}


def test_a_large_file_is_not_read_as_a_recipe(tmp_path):
    with (tmp_path / "large.yaml").open("wb") as file:
        file.truncate(10**10)
    began = time.perf_counter()
    with pytest.raises(UsageError, match="it has 10,000,000,000 bytes, and may have 4,000,000"):
        load_recipe(tmp_path / "large.yaml")
    assert time.perf_counter() - began < 1


def test_what_files_say_gives_a_terminal_no_orders(tmp_path, capsys):
    with pytest.raises(UsageError, match=r"data\.path: .*allowed: text or null, without control characters"):
        load_recipe("digits", {"data.path": "\x1b[2Jx"})
    run = made_run(tmp_path / "run")
    text = (run / "summary.json").read_text().replace('"layer1"', '"\\u001b[2Jlayer1"')
    (run / "summary.json").write_text(text)
    assert RunDirectory(run).summary.by_stage[0].name == r"\x1b[2Jlayer1"
    assert main(["verify", str(run), "--no-data"]) == 1
    assert main(["report", "\x1b[2J"]) == 2
    assert "\x1b" not in "".join(capsys.readouterr())


def test_a_pipe_in_place_of_an_image_or_a_mask_is_not_waited_for(tmp_path):
    with pytest.raises(OSError, match="it is a pipe or a device"):
        read_rgb(str(pipe(tmp_path / "a.png")))
    with pytest.raises(OSError, match="it is a pipe or a device"):
        size_of(str(tmp_path / "a.png"))


def test_a_pipe_that_a_shell_makes_is_read(tmp_path):
    recipe = shipped_text("digits")
    for place in ("/dev/fd/{}", "/proc/self/fd/{}"):
        reading, writing = os.pipe()
        with os.fdopen(writing, "w") as file:
            file.write(recipe)
        assert load_recipe(place.format(reading)) == load_recipe("digits")
        os.close(reading)


def shipped_text(name: str) -> str:
    return (Path(stimulative.__file__).parent / f"recipes/{name}.yaml").read_text()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("compare digits --seeds 99999999999999999999", "the number of seeds is from 1 to 1,000, got"),
        (
            "loafing digits --main 3-3-3 --subnets 999999999",
            "the number of subnets of each main net is from 1 to 10,000",
        ),
        ("destroy RUN --draws 999999999", "the number of draws is from 1 to 100,000"),
    ],
)
def test_counts_have_bounds(words, message, tmp_path, capsys):
    run = made_run(tmp_path / "run")
    began = time.perf_counter()
    assert main([*words.replace("RUN", str(run)).split(), "--out", str(tmp_path / "out")]) == 2
    assert message in capsys.readouterr().err and time.perf_counter() - began < 5


def test_no_more_subnets_are_drawn_than_can_be_listed():
    lengths = (40, 40, 40, 40)
    network = SimpleNamespace(space=SubnetSpace(lengths, (True,) * 4), full=Subnet.from_depths(lengths))
    with pytest.raises(UsageError, match="the number of subnets is 100,000 at most, got 1000000000"):
        choose_subnets(network, 10**9, seed=0)
    assert len(choose_subnets(network, 20, seed=0)) == 20


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["unravel", "cifar/resnet20", "--image-size", "9" * 30], "--image-size is from 1 to 8,192, got 999"),
        (["unravel", "cifar/resnet20", "--arguments", "{1: 2}"], "--arguments is a mapping in YAML"),
        (
            ["train", "digits", "--data", "fake", "--data.image_size", "100000", "--dry-run"],
            "at most 8,192, got 100000",
        ),
        (["train", "digits", "--out", "\x1b[2J"], "a word has control characters, which no name needs"),
        (["pack", "RUN", "--subnets", "1-1-1", "--out", "f" * 300], "is no path: a name has 255 bytes at most"),
        (["init", "--model", "cifar/resnet20", "--data", "digits", "--out", "f" * 300], "a name has 255 bytes at most"),
        (["choose", "RUN", "--max-params", "1k", "--out", "a/" * 3_000], "and a path 4,000"),
        (
            ["compare", "digits", "--out", "study", "--cluster", "local", "--cluster-option", "a=["],
            "a: '[' is no value",
        ),
    ],
)
def test_what_is_beyond_all_bounds_is_refused_at_once(words, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    made_run(tmp_path / "RUN")
    assert main(words) == 2
    said = capsys.readouterr().err
    assert message in said and "\x1b" not in said
