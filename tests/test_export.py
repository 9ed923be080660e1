"""What is exported computes what the subnet does in place, says what it is, and needs nothing of this library."""

import errno
import json
import os
import resource
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import onnx
import onnxruntime
import pytest
import torch
from safetensors.torch import load_file, save_file

import stimulative
from stimulative import models
from stimulative.cli import main
from stimulative.deploy import export
from stimulative.deploy.deployable import open_finished
from stimulative.deploy.exporting import checking, deployed, program
from stimulative.deploy.exporting import onnx as onnx_files
from stimulative.errors import UsageError
from stimulative.objectives import logits_of
from stimulative.residual import evaluating
from stimulative.runs import MODEL, RECIPE, FamilySummary, MainScore, RunDirectory, Summary
from stimulative.training import load_recipe, train

FORMATS = ("onnx", "torch", "safetensors")
TRAIN = {"model.arguments": {"width": 4}, "schedule.max_steps": 20, "evaluation.subnets": 2}

_SWIN = {"img_size": 56, "depths": [2, 2, 4, 2], "embed_dim": 24, "num_heads": [1, 2, 3, 4]}
_LLAMA = {
    **{"num_hidden_layers": 4, "hidden_size": 16, "intermediate_size": 32},
    **{"num_attention_heads": 2, "num_key_value_heads": 1},
}
KINDS = {
    "cifar": ("cifar/resnet20", {"width": 4}, 32, "2-1-3"),
    "resnet50": ("timm/resnet50", {"channels": [8, 16, 32, 64]}, 32, "2-3-1-2"),
    "mobilenet": ("timm/mobilenetv3_small_100", {}, 64, "1-2-2-3"),
    "convnext": ("timm/convnext_atto", {}, 32, "2-1-3-1"),
    "vit": ("timm/vit_tiny_patch16_224", {"img_size": 32, "embed_dim": 48}, 32, "[0.2.3.7]"),
    "swin": ("timm/swin_tiny_patch4_window7_224", _SWIN, 56, "[1]-2-3-2"),
    "densenet": ("timm/densenet121", {"growth_rate": 8, "block_config": [3, 4, 4, 3]}, 32, "2-3-4-1"),
    "gpt2": ("transformers/gpt2", {"n_layer": 4, "n_embd": 16, "n_head": 2, "n_positions": 24}, None, "2"),
    "llama": ("transformers/llama", _LLAMA, None, "[1.3]"),
}

DIRECTLY = {
    "resnet50": "timm.create_model('resnet50', num_classes=10, in_chans=3, channels=[8, 16, 32, 64], "
    "layers=[2, 3, 1, 2])",
    "convnext": "timm.create_model('convnext_atto', num_classes=10, in_chans=3, depths=[2, 1, 3, 1])",
    "vit": "timm.create_model('vit_tiny_patch16_224', num_classes=10, in_chans=3, img_size=32, embed_dim=48, depth=4)",
    "densenet": "timm.create_model('densenet121', num_classes=10, in_chans=3, growth_rate=8, "
    "block_config=[2, 3, 4, 1])",
    "gpt2": "transformers.GPT2LMHeadModel(transformers.GPT2Config.from_dict(CONFIG))",
    "llama": "transformers.LlamaForCausalLM(transformers.LlamaConfig.from_dict(CONFIG))",
}
"""The kinds whose own constructors build the subnet. MobileNet's does not; Swin's builds one of the same names and
shapes, whose first window is not shifted."""

WITHOUT_LIBRARY = """
import importlib, json, sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "stimulative":
            raise ImportError(f"{name} is not to be used")

sys.meta_path.insert(0, Blocked())

import onnxruntime, torch
from safetensors.torch import load_file, load_model
from torch import nn

def build(call):
    module, _, name = call["function"].rpartition(".")
    library = importlib.import_module(module)
    if "config" in call:
        return getattr(library, name)(getattr(library, call["config_class"]).from_dict(call["config"]))
    return getattr(library, name)(*call["args"], **call["kwargs"])

def directly(file, call):
    model = build(call)
    load_model(model, file)
    return model

def from_main_net(file, call):
    model = build(call)
    for name in call["identities"]:
        model.set_submodule(name, nn.Identity())
    modules = dict(model.named_modules())
    for name, left in call["children"].items():
        modules[name]._modules = {key: modules[old] for key, old in left.items()}
    tensors = model.state_dict(keep_vars=True)
    for name, value in load_file(file).items():
        tensors[name].data = value
    return model

def onnx_file(file):
    session = onnxruntime.InferenceSession(file)
    names = [entry.name for entry in session.get_inputs()]
    return lambda *inputs: torch.tensor(session.run(None, dict(zip(names, (part.numpy() for part in inputs))))[0])

def called(model):
    model.eval()
    def call(*inputs):
        if len(inputs) == 1:
            return model(*inputs)
        return model(input_ids=inputs[0], attention_mask=inputs[1], use_cache=False).logits
    return call

found = {}
for folder, kind in json.loads(sys.argv[1]):
    data = load_file(f"{folder}/data.safetensors")
    expected = data.pop("expected")
    inputs = [data[name] for name in sorted(data)]
    rebuild = json.load(open(f"{folder}/safetensors.json"))["rebuild"]
    runs = {"onnx": onnx_file(f"{folder}/onnx"), "torch": torch.export.load(f"{folder}/torch").module()}
    for way, make in (("directly", directly), ("from_main_net", from_main_net)):
        if rebuild[way] is not None and not rebuild[way]["function"].startswith("stimulative."):
            runs[way] = called(make(f"{folder}/safetensors", rebuild[way]))
    with torch.no_grad():
        for name, run in runs.items():
            for count in (1, len(expected)):
                got, wanted = run(*(part[:count] for part in inputs)), expected[:count]
                assert got.shape == wanted.shape, (kind, name, got.shape)
                found[f"{kind} {name} {count}"] = float((got - wanted).abs().max() / wanted.abs().max())
print(json.dumps(found))
"""


def finished(directory: Path, name: str, arguments: dict, size: int | None, **more) -> Path:
    """A run directory as training leaves it, of a model whose parameters are all away from where they start."""
    text = directory / "text"
    for part in ("train", "val") if size is None else ():
        (text / part).mkdir(parents=True)
        for number in range(3):
            (text / part / f"{number}.txt").write_text("a few words, more or less " * (number + 2))
    data = {"name": "fake", "images": 24, "image_size": size} if size else {"name": f"text:{text}", "length": 12}
    settings = {"model.name": name, "model.arguments": arguments, "evaluation.calibration_images": 16, **more}
    recipe = load_recipe(
        {
            "data": {**data, "batch_size": 8, "evaluation_batch_size": 8, "workers": 0},
            "method": {"name": "common"},
            "training": {"threads": 1},
        },
        settings,
    )
    task = "images" if size else "text"
    torch.manual_seed(0)
    model = models.build(name, classes=10 if size else 257, arguments=arguments, task=task)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape))
    directory.mkdir(exist_ok=True)
    made = RunDirectory(directory)
    made.write_recipe(recipe)
    made.write_model(model)
    about = {"method": "common", "model": name, "data": recipe.data.name, "seed": recipe.seed}
    made.write_summary(Summary(task=task, main=MainScore(10.0, 2.3), subnets=FamilySummary(), **about))
    return directory


def in_place(run: Path, subnet: str) -> dict[str, torch.Tensor]:
    """Inputs, another number of them than what was exported with, and what the subnet gives for them in place."""
    opened = open_finished(run)
    statistics = opened.statistics([opened.network.resolve(subnet)])
    x, _ = next(iter(opened.run.data.test))
    text = isinstance(x, dict)
    x = {name: part[:5, :9].contiguous() for name, part in x.items()} if text else x[:5]
    with evaluating(opened.network), torch.no_grad():
        expected = logits_of(opened.network(x, subnet, statistics=statistics))
    inputs = {"0": x["input_ids"], "1": x["attention_mask"]} if text else {"0": x}
    return {**inputs, "expected": expected}


@pytest.mark.filterwarnings("ignore")
def test_every_kind_runs_where_this_library_cannot_be_imported(tmp_path):
    folders, direct = [], {}
    for kind, (name, arguments, size, subnet) in KINDS.items():
        run = finished(tmp_path / kind, name, arguments, size)
        for format in FORMATS:
            written = export(run, subnet, format=format, out=run / format)
            assert written["fixed"] is None and written["input"]["shape"][0] == "batch"
        assert written["parameters"] < written["main_net"]["parameters"]
        assert written["rebuild"]["from_main_net"] is not None
        if written["rebuild"]["directly"] is not None:
            direct[kind] = written["rebuild"]["directly"]["python"]
        save_file(in_place(run, subnet), run / "data.safetensors")
        folders.append((str(run), kind))
    assert direct == DIRECTLY
    command = [sys.executable, "-c", WITHOUT_LIBRARY, json.dumps(folders)]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert {key: value for key, value in found.items() if value > 1e-5} == {}
    rebuilt = {key.rpartition(" ")[0] for key in found}
    assert rebuilt == {
        *(f"{kind} {format}" for kind in KINDS for format in ("onnx", "torch")),
        *(f"{kind} directly" for kind in DIRECTLY),
        *(f"{kind} from_main_net" for kind in KINDS if kind != "cifar"),
    }


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "digits"
    train(load_recipe("digits", TRAIN), out, progress=False)
    return out


def test_pixels_go_in_and_probabilities_come_out(run, tmp_path):
    written = export(run, "1-2-1", normalise=True, temperature=True, probabilities=True, out=tmp_path / "net.onnx")
    opened = open_finished(run)
    statistics = opened.statistics([opened.network.resolve("1-2-1")])
    x, _ = next(iter(opened.run.data.test))
    mean, std = (torch.tensor(numbers)[:, None, None] for numbers in (opened.run.data.mean, opened.run.data.std))
    pixels = x * std + mean
    assert pixels.min() > -1e-6 and pixels.max() < 1 + 1e-6
    with evaluating(opened.network), torch.no_grad():
        logits = opened.network(x, "1-2-1", statistics=statistics)
    session = onnxruntime.InferenceSession(tmp_path / "net.onnx")
    assert [(value.name, value.shape) for value in session.get_inputs()] == [("images", ["batch", 1, 8, 8])]
    assert [(value.name, value.shape) for value in session.get_outputs()] == [("probabilities", ["batch", 10])]
    (got,) = session.run(None, {"images": pixels.numpy()})
    assert written["temperature"] != pytest.approx(1, abs=0.01)
    torch.testing.assert_close(torch.tensor(got), (logits / written["temperature"]).softmax(1), rtol=1e-4, atol=1e-5)
    assert "pixels from 0 to 1" in written["input"]["values"] and written["input"]["normalised_inside"]
    assert f"temperature {written['temperature']:.6g}" in written["output"]["values"]


def test_every_format_says_what_it_is(run, tmp_path):
    said = []
    for format in FORMATS:
        written = export(run, "2-2-1", format=format, out=tmp_path / format)
        said.append({key: written[key] for key in ("subnet", "test", "classes", "mean", "input", "recipe", "versions")})
    proto = onnx.load(tmp_path / "onnx")
    assert proto.opset_import[0].version == onnx_files.OPSET
    properties = {entry.key: entry.value for entry in proto.metadata_props}
    assert properties["subnet"] == "2-2-1"
    said.append({key: properties[key] if key == "subnet" else json.loads(properties[key]) for key in said[0]})
    extra = {program.ABOUT: ""}
    torch.export.load(tmp_path / "torch", extra_files=extra)
    said.append({key: json.loads(extra[program.ABOUT])[key] for key in said[0]})
    beside = json.loads((tmp_path / "safetensors.json").read_text())
    said.append({key: beside[key] for key in said[0]})
    assert all(entry == said[0] for entry in said)
    opened = open_finished(run)
    subnet = opened.network.resolve("2-2-1")
    (member,) = opened.members([subnet], opened.statistics([subnet]))
    assert said[0]["test"] == member.score.to_mapping() and said[0]["classes"] == [str(digit) for digit in range(10)]
    assert said[0]["input"]["preparation"] == "images of 8x8 pixels as they are" and "preparation" not in beside
    here = str(Path(stimulative.__file__).parent).encode()
    assert not any(here in (tmp_path / format).read_bytes() for format in FORMATS)


def test_the_weights_are_those_of_the_run_and_statistics_the_subnets_own(run, tmp_path):
    export(run, "1-1-1", format="safetensors", out=tmp_path / "net.safetensors")
    whole, own = load_file(run / MODEL), load_file(tmp_path / "net.safetensors")
    assert own.keys() < whole.keys() and "layer3.0.conv1.weight" in own and "layer3.1.conv1.weight" not in own
    same = {name for name in own if torch.equal(own[name], whole[name])}
    assert {name for name in own if name.endswith("weight")} <= same
    assert "layer2.0.bn1.running_mean" in own.keys() - same


def test_the_command_prints_a_table_and_the_check(run, capfd):
    assert main(["export", str(run), "--subnet", "2-1-1"]) == 0
    text, errors = capfd.readouterr()
    assert errors == ""
    file = run / "export" / "2-1-1.onnx"
    assert f"{file}: {file.stat().st_size / 1e6:.3f} MB" in text
    assert "takes images: float32 (batch, 1, 8, 8), (pixels - mean) / std" in text
    assert "checked in ONNX Runtime" in text and "256 test images in batches of 1, 2, 3, 58, 64" in text
    assert "the same most likely class for 256 of 256 images" in text
    assert main(["export", str(run), "--subnet", "2-1-1", "--json", "--force"]) == 0
    text, errors = capfd.readouterr()
    written = json.loads(text)
    assert errors == "" and written["file"] == str(file) and written["check"]["same"] == 256
    assert list(file.parent.iterdir()) == [file]


def refused(capsys, *words: str) -> str:
    assert main(["export", *words]) == 2
    out, errors = capsys.readouterr()
    assert out == "" and "Traceback" not in errors
    return errors


def test_what_cannot_be_used_is_refused_before_any_work(run, tmp_path, capsys, monkeypatch):
    def never(*_):
        raise AssertionError("work was begun")

    monkeypatch.setattr("stimulative.deploy.deployable.Finished.statistics", never)
    name, out = str(run), tmp_path / "new" / "net"
    assert "9-1-1 does not fit" in refused(capsys, name, "--subnet", "9-1-1", "--out", str(out))
    assert "onnx, torch, safetensors, got 'tflite'" in refused(capsys, name, "--subnet", "1-1-1", "--format", "tflite")
    assert "is not a run directory" in refused(capsys, str(tmp_path), "--subnet", "1-1-1")
    (tmp_path / RECIPE).write_text((run / RECIPE).read_text())
    assert "has not finished" in refused(capsys, str(tmp_path), "--subnet", "1-1-1")
    weights = ["--subnet", "1-1-1", "--format", "safetensors"]
    text = refused(capsys, name, *weights, "--normalise", "--temperature")
    assert "--normalise and --temperature cannot be part of plain weights" in text
    assert "the following arguments are required: --subnet" in refused(capsys, name)
    there = tmp_path / "there"
    there.write_text("mine")
    assert "exists; replace it with --force" in refused(capsys, name, "--subnet", "1-1-1", "--out", str(there))
    beside = tmp_path / "net.safetensors.json"
    beside.write_text("mine")
    text = refused(capsys, name, *weights, "--out", str(tmp_path / "net.safetensors"))
    assert f"{beside} exists" in text
    assert there.read_text() == beside.read_text() == "mine" and not out.parent.exists()
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    text = refused(capsys, name, "--subnet", "1-1-1", "--out", str(pipe), "--force")
    assert f"{pipe} is a device or a pipe" in text and pipe.is_fifo()
    assert "is a folder; give a file" in refused(capsys, name, "--subnet", "1-1-1", "--out", "")
    text = refused(capsys, name, "--subnet", "1-1-1", "--out", str(tmp_path / "net.pt2"))
    assert "net.pt2 is named as a file of --format torch, got --format onnx" in text


@pytest.mark.parametrize("package", ["onnx", "onnxscript", "onnxruntime"])
def test_a_missing_package_is_named_before_any_work(tmp_path, capsys, monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    text = refused(capsys, str(tmp_path), "--subnet", "1-1-1")  # not even a run
    assert package in text and "pip install 'stimulative[onnx]'" in text


def test_an_open_scale_of_logits_needs_its_temperature_for_probabilities(run, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("stimulative.deploy.deployable.Finished.calibrates", property(lambda self: True))
    words = [str(run), "--subnet", "1-1-2", "--format", "torch", "--out", str(tmp_path / "net.pt2")]
    assert "leaves the scale of logits open" in refused(capsys, *words, "--probabilities")
    assert main(["export", *words]) == 0
    text = capsys.readouterr().out
    assert "softmax(logits / " in text and "gives probabilities" in text


def test_texts_have_no_mean(tmp_path, capsys):
    directory = finished(tmp_path / "text", *KINDS["gpt2"][:3])
    assert "this run has sequences of 12 tokens" in refused(capsys, str(directory), "--subnet", "1", "--normalise")


@contextmanager
def full_disk(size: int):
    """No file can grow beyond so many bytes for a while."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("format", FORMATS)
def test_a_disk_that_fills_up_leaves_what_was_there(run, tmp_path, capsys, format):
    there = tmp_path / "net"
    there.write_text("mine")
    words = [str(run), "--subnet", "1-1-1", "--format", format, "--out", str(there), "--force"]
    with full_disk(10_000):
        text = refused(capsys, *words)
    assert f"cannot write {there}: " in text and "File too large" in text and "Nothing was left behind" in text
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("net", "mine")]


@pytest.mark.parametrize(
    ("format", "writer"),
    [
        ("onnx", "torch.onnx.ONNXProgram.save"),
        ("torch", "pathlib.Path.write_bytes"),
        ("safetensors", "safetensors.torch.save_model"),
    ],
)
def test_a_disk_that_refuses_leaves_what_was_there(run, tmp_path, capsys, monkeypatch, format, writer):
    def fail(*arguments, **_):
        raise PermissionError(errno.EACCES, "Permission denied")

    there = tmp_path / "net"
    there.write_text("mine")
    monkeypatch.setattr(writer, fail)
    text = refused(capsys, str(run), "--subnet", "1-1-1", "--format", format, "--out", str(there), "--force")
    assert f"cannot write {there}: Permission denied" in text
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("net", "mine")]


@pytest.mark.parametrize("format", FORMATS)
def test_what_computes_something_else_is_not_left(run, tmp_path, capsys, monkeypatch, format):
    def others(*arguments, **keywords):
        cases = checking.cases_of(*arguments, **keywords)
        return [checking.Case(case.inputs, case.expected + 0.01, case.counts) for case in cases]

    monkeypatch.setattr("stimulative.deploy.exporting.export.cases_of", others)
    assert main(["export", str(run), "--subnet", "1-1-1", "--format", format, "--out", str(tmp_path / "net")]) == 1
    text, errors = capsys.readouterr()
    assert text == "" and "no file was left: its outputs differ by up to 0.01" in errors
    assert list(tmp_path.iterdir()) == []


def test_a_subnet_too_large_for_one_onnx_file_is_refused(run, capsys, monkeypatch):
    monkeypatch.setattr(onnx_files, "MOST_BYTES", 1000)
    assert "--format torch or safetensors" in refused(capsys, str(run), "--subnet", "3-1-1")
    assert not (run / "export" / "3-1-1.onnx").exists()


class Batched(torch.nn.Module):
    """Its code counts the images, so that a graph is of one number of them."""

    def forward(self, x):
        return torch.cat([image[None].flatten(1) for image in x])


class Undecided(torch.nn.Module):
    """What it does depends on values, which no graph can say."""

    def forward(self, x):
        return x.flatten(1) if x.sum() > 0 else -x.flatten(1)


def test_a_model_that_counts_its_batch_is_exported_for_one_image_and_says_so():
    module = deployed.DeployedImages(Batched()).eval()
    traced = program.trace(module, (torch.randn(2, 1, 2, 2),))
    assert traced.free == {} and traced.fixed is not None
    x = torch.randn(1, 1, 2, 2)
    torch.testing.assert_close(traced.program.module()(x), x.flatten(1))
    with pytest.raises(UsageError, match=r"Undecided cannot be exported: torch.export fails with .*safetensors"):
        program.trace(deployed.DeployedImages(Undecided()).eval(), (torch.randn(2, 1, 2, 2),))


class Eigenvalues(torch.nn.Module):
    """ONNX has no operator for them."""

    def forward(self, x):
        return torch.linalg.eigvalsh(x[:, 0])


def test_what_onnx_has_no_words_for_is_said(tmp_path):
    module = deployed.DeployedImages(Eigenvalues()).eval()
    traced = program.trace(module, (torch.randn(2, 1, 2, 2),))
    with pytest.raises(UsageError, match=r"cannot translate Eigenvalues to ONNX: .*eigh.* Choose format='torch'"):
        onnx_files.write_onnx(traced, module, tmp_path / "net", {})
    assert list(tmp_path.iterdir()) == []


def test_blocks_removed_before_training_stay_away(tmp_path):
    directory = tmp_path / "run"
    settings = {**TRAIN, "model.subnet": "3-2-1", "schedule.max_steps": 1, "evaluation.subnets": 1}
    train(load_recipe("digits", settings), directory, progress=False)
    written = export(directory, "2-2-1", format="safetensors")
    ways = written["rebuild"]["from_main_net"]
    assert "layer2.2" in ways["identities"] and ways["children"] == {"layer1": {"0": "layer1.0", "1": "layer1.1"}}
    assert written["check"]["same"] == 256
