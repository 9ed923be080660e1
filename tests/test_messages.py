"""The library speaks Python in its messages, and the command line turns that into its own options."""

import ast
import re
import string
from pathlib import Path

import pytest

from stimulative import cli
from stimulative.cli import COMMANDS, main
from stimulative.cli.messages import CommandFailed, in_options
from stimulative.cli.parser import Parser
from stimulative.errors import UsageError

SOURCES = Path(cli.__file__).parent.parent


def arguments_of(command):
    commands = Parser(prog="stimulative").add_subparsers(parser_class=Parser)
    for module in COMMANDS.values():
        module.add(commands)
    return commands.choices[command].arguments


@pytest.mark.parametrize(
    ("command", "said", "seen"),
    [
        ("choose", "max_latency_ms= is a number; got '3ms'", "--max-latency-ms is a number; got '3ms'"),
        ("choose", "search with another seed=", "search with another --seed"),
        ("choose", "minimise='flops' goes with min_top1=,", "--minimise flops goes with --min-top1,"),
        ("choose", "give batch=16, not batch=1e3.", "give --batch 16, not --batch 1e3."),
        ("export", "replace it with force=True, or", "replace it with --force, or"),
        ("export", "force=False keeps it", "force=False keeps it"),  # no option says that
        ("export", "choose format='torch' or 'safetensors'", "choose --format torch or safetensors"),
        ("export", "named as format='onnx', got format='torch';", "named as --format onnx, got --format torch;"),
        ("export", "out='my net.onnx'", "--out 'my net.onnx'"),
        ("export", "probabilities=True: add temperature=True", "--probabilities: add --temperature"),
        ("export", "normalise= is for images", "--normalise is for images"),  # the first of its two names
        ("pack", "name subnets: subnets=['3-3-3', '1-1-1']", "name subnets: --subnets 3-3-3,1-1-1"),
        ("train", "go on with it (resume=True), or", "go on with it (--resume), or"),
        ("train", "another directory with out=, to start again", "another directory with --out, to start again"),
        ("train", "weights='pretrained' needs a network", "--from pretrained needs a network"),  # dest is no option
        ("evaluate", "latency=False leaves it out", "--no-latency leaves it out"),
        ("evaluate", "latency=True and latency= are the default", "latency=True and latency= are the default"),
        ("evaluate", "latency_batch=0", "--latency-batch 0"),
    ],
)
def test_arguments_become_options(command, said, seen):
    assert in_options(said, arguments_of(command)) == seen


@pytest.mark.parametrize(
    "message",
    [
        "load(FILE, model=..., out=None) makes one, timm.create_model('a', out=3, kwargs=dict(batch=2)) another",
        "got 'out=3' and \"batch=4\", and the net's own 'force=True'",
        "lr=0.1, optimizer.seed=3, data.batch=2, --out=3, my_out=4, timeout=5, x/out=6, out==7",
        "images/out=3 and ../batch=1/seed=2 are paths, and outset, force and seed are words",
        "out of memory; a batch of 3; seed: 5; format onnx; it's what the run's out and the users' seed are",
        "device=None, threads=None",
    ],
)
def test_all_else_stays_as_it_is(message):
    for command in ("choose", "export", "evaluate"):
        assert in_options(message, arguments_of(command)) == message


def test_what_another_command_takes_is_no_option_of_this_one():
    assert in_options("out=, batch=3, resume=True", arguments_of("train")) == "--out, batch=3, --resume"
    assert in_options("out=, batch=3, resume=True", arguments_of("choose")) == "--out, --batch 3, resume=True"
    assert in_options("model='cifar/resnet20'", arguments_of("unravel")) == "model='cifar/resnet20'"  # is no option


def test_names_of_the_users_directories_stay_as_they_are():
    said = "seed=0 is of digits, seed=1 is of cifar10; give each another out="
    given = ["sweep/seed=0", "/runs/sweep/seed=1/"]
    assert in_options(said, arguments_of("choose"), given) == said.replace("out=", "--out")


def test_words_of_the_user_stay_as_they_are():
    arguments = arguments_of("export")
    said = "out=3/force=True exists; choose another file with out="
    seen = "out=3/force=True exists; choose another file with --out"
    for given in (["out=3/force=True"], ["--out=out=3/force=True"], ["--out", "./out=3//force=True"]):
        assert in_options(said, arguments, given) == seen


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_of_every_command_is_found_by_its_name_in_the_library(command):
    options = {action.dest: action for action in arguments_of(command) if action.option_strings}
    options = {name: action for name, action in options.items() if name not in ("help", "json")}
    for name, action in options.items():
        option = action.option_strings[0]
        if action.nargs == 0:
            assert in_options(f"({name}={action.const})", options.values()) == f"({option})"
        else:
            assert (
                in_options(f"{name}=, {name}=3; {name}='a'.", options.values()) == f"{option}, {option} 3; {option} a."
            )
    plain = string.printable.replace("=", "")
    assert in_options(plain, options.values()) == plain
    once = in_options(" ".join(f"{name}=" for name in options), options.values())
    assert in_options(once, options.values()) == once


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (UsageError("seed= is small; choose another directory with out="), 2, "error: --seed is small; choose another"),
        (CommandFailed("stopped: batch=3 is too small"), 1, "stopped: --batch 3 is too small"),
    ],
)
def test_the_command_line_translates_whatever_a_command_raises(monkeypatch, capsys, error, status, line):
    def fail(options, rest):
        raise error

    monkeypatch.setattr(COMMANDS["choose"], "run", fail)
    assert main(["choose", "runs/out=3"]) == status
    assert capsys.readouterr().err.startswith(f"stimulative: {line}")


WHOLE_COMMAND = re.compile(r"(?:stimulative [a-z]+|torchrun|pip install)(?= |$)")
WORD = re.compile(r" ([^\sa-z(]\S*)")
OPTION = re.compile(
    r"(?<![\w-])--[a-z][\w-]*+(?!\.\w)"
)  # and no setting of a recipe, --section.key, which load_recipe takes


def without_commands(text):
    """A text without whole commands: these end with a word of prose, or where a sentence does."""
    while command := WHOLE_COMMAND.search(text):
        end = command.end()
        while word := WORD.match(text, end):
            end = word.end()
            if word[1] != "..." and word[1][-1] in ".,;:)":
                break
        text = text[: command.start()] + text[end:]
    return text


def texts_in(tree):
    """The texts of a file with their lines, docstrings left out, and in them ``X`` for what is put in."""
    left_out = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef | ast.Expr):
            body = node.body if not isinstance(node, ast.Expr) else [node]
            if body and isinstance(body[0], ast.Expr) and isinstance(body[0].value, ast.Constant):
                left_out.add(body[0].value)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "add_argument":
            left_out.update(node.args)
        if isinstance(node, ast.JoinedStr):
            left_out.update(part for part in node.values if isinstance(part, ast.Constant))
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            yield node.lineno, "".join(str(p.value) if isinstance(p, ast.Constant) else "X" for p in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in left_out:
            yield node.lineno, node.value


def options_named_in(text):
    return OPTION.findall(without_commands(text))


def test_an_option_is_found_but_in_whole_commands():
    assert options_named_in("choose another directory with --out") and options_named_in("--batch: too large")
    assert not options_named_in("train one: stimulative train X --out X --resume), or start again")
    assert not options_named_in("continue it with stimulative train ... --resume (it has no summary)")
    assert options_named_in("stimulative evaluate X. Or name subnets: --subnets X") == ["--subnets"]
    assert options_named_in("stimulative evaluate X measures them; with --subnets all of them") == ["--subnets"]


PATHS = [path for path in sorted(SOURCES.rglob("*.py")) if "cli" not in path.relative_to(SOURCES).parts]


def test_messages_of_the_library_name_no_option_of_the_command_line():
    named = [
        f"{path.relative_to(SOURCES)}:{line}: {text}"
        for path in PATHS
        for line, text in texts_in(ast.parse(path.read_text(encoding="utf-8")))
        if options_named_in(text)
    ]
    assert not named, "\n".join(named)
