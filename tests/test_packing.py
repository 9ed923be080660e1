"""A family file holds shared weights once, and what is loaded of it switches depth without copying or patching."""

import copy
import csv
import json
import os
import shutil
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import kinds
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from test_extraction import WITHOUT_LIBRARY, call, with_gaps

import stimulative
from stimulative import Subnet
from stimulative.analysis import evaluate
from stimulative.cli import main
from stimulative.deploy import Elastic, pack, save_family
from stimulative.deploy.carving import carve
from stimulative.deploy.deployable import open_finished
from stimulative.errors import UsageError
from stimulative.objectives import logits_of
from stimulative.residual import evaluating
from stimulative.runs import CHECKSUMS, Family
from stimulative.training import load_recipe, train

SETTINGS = {"schedule.epochs": 2, "evaluation.calibration_images": 200, "training.loggers": []}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A digits run of a few seconds, evaluated."""
    out = tmp_path_factory.mktemp("runs") / "digits"
    train(load_recipe("digits", SETTINGS), out, progress=False)
    evaluate(out, latency=False)
    return out


@pytest.fixture(scope="module")
def dense(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "dense"
    train(load_recipe("digits-densenet", {**SETTINGS, "schedule.max_steps": 5}), out, progress=False)
    return out


def test_what_is_loaded_is_each_subnet_as_it_was_measured(run, tmp_path):
    packed = pack(run, out=tmp_path / "family.safetensors")
    family = {str(member.subnet): member for member in list(Family.read(run / "subnets.csv"))}
    finished = open_finished(run)
    net = stimulative.load(tmp_path / "family.safetensors")
    assert [entry["subnet"] for entry in packed["subnets"]] == [str(subnet) for subnet in net.subnets]
    assert len(net.subnets) > 1
    for entry, subnet in zip(packed["subnets"], net.subnets, strict=True):
        assert entry["parameters"] == sum(parameter.numel() for parameter in net.net(subnet).parameters())
        correct = seen = 0
        with net.use(subnet):
            for x, y in finished.run.data.test:
                correct += int((call(net, x).argmax(1) == y).sum())
                seen += len(y)
        assert 100 * correct / seen == pytest.approx(family[str(subnet)].score.quality, abs=1e-3)
        assert entry["top1"] == family[str(subnet)].score.quality


@pytest.mark.parametrize("which", ["run", "dense"])
def test_weights_are_there_once_in_the_file_and_in_memory(which, request, tmp_path):
    directory = request.getfixturevalue(which)
    network = open_finished(directory).network
    subnets = [network.full, network.space.smallest]
    pack(directory, subnets, out=tmp_path / "family.safetensors")
    whole = sum(parameter.numel() for parameter in network.parameters())
    in_file = load_file(tmp_path / "family.safetensors")
    weights = {name: value for name, value in in_file.items() if is_weight(name)}
    assert sum(value.numel() for name, value in weights.items()) == whole
    net = stimulative.load(tmp_path / "family.safetensors")
    assert sum(parameter.numel() for parameter in net.parameters()) == whole  # each counted once
    own = {id(parameter) for parameter in net.net(network.full).parameters()}
    assert all(id(parameter) in own for parameter in net.net(network.space.smallest).parameters())
    statistics = network.recalibrate([torch.randn(4, 1, 8, 8)], subnets)
    assert statistics.nodes  # these nets have norms, and so the file has statistics
    assert len([name for name in in_file if name.startswith("statistics.1.")]) > 0


def test_blocks_that_no_subnet_runs_are_not_in_the_file(run, tmp_path):
    pack(run, ["2-1-1", "1-1-1"], out=tmp_path / "small.safetensors")
    names = set(load_file(tmp_path / "small.safetensors"))
    assert "layer1.1.conv1.weight" in names
    assert not any(name.startswith(("layer1.2", "layer2.1", "layer3.1")) for name in names)
    net = stimulative.load(tmp_path / "small.safetensors")
    assert str(net.subnet) == "2-1-1"
    assert not any(name.startswith("layer2.1") for name, _ in net.net("2-1-1").named_parameters())


def test_the_depth_in_use_is_each_threads_own(run, tmp_path):
    pack(run, ["3-3-3", "1-1-1", "2-2-2"], out=tmp_path / "family.safetensors")
    net = stimulative.load(tmp_path / "family.safetensors")
    x = torch.randn(4, 1, 8, 8)
    expected = {str(subnet): call(net.net(subnet), x) for subnet in net.subnets}
    assert str(net.subnet) == "3-3-3"
    net.use("2-2-2")
    started = threading.Barrier(2)

    def serve(depth):
        started.wait()
        first = str(net.subnet)
        net.use(depth)
        return first, all(torch.equal(call(net, x), expected[depth]) for _ in range(50))

    with ThreadPoolExecutor(2) as pool:
        results = list(pool.map(serve, ["1-1-1", "3-3-3"]))
    assert results == [("3-3-3", True), ("3-3-3", True)]  # new threads start with the largest
    assert str(net.subnet) == "2-2-2" and torch.equal(call(net, x), expected["2-2-2"])


def test_a_context_goes_back_to_the_depth_before_it(run, tmp_path):
    pack(run, ["3-3-3", "1-1-1", "2-2-2"], out=tmp_path / "family.safetensors")
    net = stimulative.load(tmp_path / "family.safetensors")
    other = stimulative.load(tmp_path / "family.safetensors")
    with pytest.raises(ZeroDivisionError), net.use([2, 2, 2]) as inside:
        assert inside is net and str(net.subnet) == "2-2-2" and str(other.subnet) == "3-3-3"
        with net.use(Subnet(((0,), (0,), (0,)))):
            assert str(net.subnet) == "1-1-1"
        assert str(net.subnet) == "2-2-2"
        raise ZeroDivisionError
    assert str(net.subnet) == "3-3-3"
    copied = copy.deepcopy(net)
    copied.use("1-1-1")
    assert str(net.subnet) == "3-3-3" and str(copied.subnet) == "1-1-1"
    with pytest.raises(UsageError, match=r"subnet 3-1-1 is not in this family; allowed: 3-3-3, 1-1-1, 2-2-2"):
        net.use("3-1-1")
    with pytest.raises(UsageError, match=r"a subnet is a Subnet, its text such as '3-3-3', or a depth .*; got None"):
        net.use(None)


def test_compiled_and_in_inference_mode_every_depth_is_itself(run, tmp_path):
    depths = [f"{a}-{b}-{c}" for a in (1, 2, 3) for b in (1, 2, 3) for c in (1, 2)]
    pack(run, depths, out=tmp_path / "family.safetensors")
    net = stimulative.load(tmp_path / "family.safetensors")
    x = torch.randn(4, 1, 8, 8)
    expected = {depth: call(net.net(depth), x) for depth in depths}
    compiled = torch.compile(net, backend="eager")
    ran = []

    def backend(graph, example):
        ran.append(graph)
        return graph.forward

    torch._dynamo.reset()
    each = stimulative.load(tmp_path / "family.safetensors")
    each.compile(backend=backend)
    limit = 8  # PyTorch's own, which Transformers raises
    with torch.inference_mode(), torch._dynamo.config.patch(recompile_limit=limit):
        for depth in depths[:3] + depths[:3]:
            net.use(depth)
            assert torch.allclose(compiled(x), expected[depth], atol=1e-6)
        for depth in depths + depths:
            with each.use(depth):
                assert torch.allclose(each(x), expected[depth], atol=1e-6)
    assert len(ran) == len(depths) > limit  # each once, however many there are


@pytest.mark.parametrize("kind", kinds.KINDS)
def test_subnets_of_every_kind_come_out_of_the_file_as_they_went_in(kind, tmp_path):
    model, x = kinds.make(kind)
    network = stimulative.unravel(model, x)
    subnets = list(dict.fromkeys([network.full, network.space.smallest, with_gaps(network)]))
    statistics = network.recalibrate([x], subnets)
    save_family(
        network, tmp_path / "family.safetensors", subnets, [x], entries=[{"top1": n} for n in range(len(subnets))]
    )
    again, _ = kinds.make(kind)
    for parameter in again.parameters():
        parameter.data.normal_()
    net = stimulative.load(tmp_path / "family.safetensors", model=again, example_input=x)
    for subnet in subnets:
        with evaluating(network), torch.no_grad():
            expected = logits_of(network(x, subnet, statistics=statistics))
        with net.use(subnet):
            assert torch.allclose(call(net, x), expected, rtol=0, atol=1e-5 * float(expected.abs().max()))
    assert net.about["subnets"][1]["top1"] == 1
    stored = sum(value.numel() for name, value in load_file(tmp_path / "family.safetensors").items() if is_weight(name))
    own = sum(p.numel() for p in model.parameters())
    assert own <= stored <= own + sum(b.numel() for name, b in model.named_buffers() if "running" not in name)


def is_weight(name):
    return not name.startswith("statistics.")


def test_a_family_of_a_model_without_a_name(tmp_path):
    model, x = kinds.make("cifar-resnet")
    network = stimulative.unravel(model, x)
    file = tmp_path / "family.safetensors"
    with pytest.raises(UsageError, match="each subnet needs its own: give calibration="):
        save_family(network, file, ["1-1-1"])
    with pytest.raises(UsageError, match="at least one subnet"):
        save_family(network, file, [], [x])
    assert not file.exists()
    save_family(network, file, ["1-1-1", "1-1-1"], [x])
    with pytest.raises(UsageError, match="was written of a model without a name: give the whole model"):
        stimulative.load(file)
    assert len(stimulative.load(file, model=model, example_input=x).subnets) == 1


@pytest.mark.parametrize("kind", ["resnet50", "densenet", "swin", "llama"])
def test_what_is_shared_stays_shared_when_it_is_converted(kind):
    model, x = kinds.make(kind)
    network = stimulative.unravel(model, x)
    subnets = [network.full, network.space.smallest]
    net = Elastic({subnet: carve(network, subnet, shared=True).model.eval() for subnet in subnets}, {})
    shared = sum(parameter.numel() for parameter in net.parameters())
    assert shared == sum(parameter.numel() for parameter in model.parameters())
    net.double()
    assert sum(parameter.numel() for parameter in net.parameters()) == shared
    assert all(parameter.dtype is torch.float64 for parameter in net.parameters())
    buffers = [{id(buffer) for name, buffer in part.named_buffers() if "running" not in name} for part in net.nets]
    assert kind != "swin" or (buffers[0] and buffers[1] <= buffers[0])
    model.double().eval()
    x = x if isinstance(x, dict) else x.double()
    with net.use(subnets[1]), torch.no_grad():
        assert torch.allclose(call(net, x), logits_of(network(x, subnets[1])), atol=1e-9)


def test_a_text_family_takes_tokens(tmp_path):
    out = tmp_path / "text"
    settings = {"schedule.max_steps": 2, "training.loggers": [], "data.length": 32, "data.batch_size": 8}
    train(load_recipe("text-gpt2-tiny", settings), out, progress=False)
    finished = open_finished(out)
    packed = pack(out, ["6", "2"])
    assert packed["subnets"][1]["perplexity"] > 1 and "classes" not in packed
    net = stimulative.load(out / "family.safetensors")
    x = finished.run.data.example()
    for subnet in ("6", "2"):
        with net.use(subnet), torch.no_grad():
            assert torch.allclose(call(net, x), finished.network(x, subnet).logits, atol=1e-6)
    assert net.net("2").config.num_hidden_layers == 2


def test_the_file_can_be_read_where_this_library_is_not(tmp_path):
    """docs/deploy.md describes the file; this is what a program makes of it that knows no more than that."""
    out = tmp_path / "run"
    recipe = load_recipe(
        "digits",
        {**SETTINGS, "schedule.max_steps": 2, "model.name": "cifar/resnet34", "training.label_smoothing": 0.0},
    )
    train(recipe, out, progress=False)
    pack(out, ["3-4-6-3", "2-2-3-1"], out=tmp_path / "family.safetensors")
    net = stimulative.load(tmp_path / "family.safetensors")
    x = torch.randn(4, 1, 8, 8)
    torch.save({"x": x, "expected": call(net.net("2-2-3-1"), x)}, tmp_path / "expected.pt")
    script = f"""{WITHOUT_LIBRARY}
import json, timm, torch
from safetensors import safe_open
from torch import nn

with safe_open("family.safetensors", framework="pt") as file:
    about = json.loads(file.metadata()["stimulative"])
    tensors = {{name: file.get_tensor(name) for name in file.keys()}}
model = timm.create_model("resnet34", num_classes=len(about["classes"]), in_chans=about["channels"])
model.conv1, model.maxpool = nn.Conv2d(1, 64, 3, padding=1, bias=False), nn.Identity()
entry = next(entry for entry in about["subnets"] if entry["subnet"] == "2-2-3-1")
for stage, depth in zip(about["stages"], entry["subnet"].split("-")):
    for block in stage["blocks"][int(depth):]:
        model.set_submodule(block, nn.Identity())
weights = {{name: value for name, value in tensors.items() if not name.startswith("statistics.")}}
for layer, number in entry["statistics"].items():
    for kind in ("running_mean", "running_var"):
        weights[f"{{layer}}.{{kind}}"] = tensors[f"statistics.{{number}}.{{layer}}.{{kind}}"]
missing, unexpected = model.load_state_dict(weights, strict=False)
assert all(name.endswith("num_batches_tracked") for name in missing)
saved = torch.load("expected.pt")
with torch.no_grad():
    assert torch.allclose(model.eval()(saved["x"]), saved["expected"], atol=1e-6)
print("same")
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=tmp_path)
    assert done.stdout == "same\n", done.stderr


def selected_plainly(run):
    """The subnets that no other one beats in operations and validation accuracy, cheapest first, and the main net."""
    with (run / "subnets.csv").open(newline="") as file:
        rows = [(row["subnet"], int(row["flops"]), float(row["validation_top1"])) for row in csv.DictReader(file)]
    best = [
        (flops, subnet)
        for subnet, flops, top1 in rows
        if not any(f <= flops and t >= top1 and (f, t) != (flops, top1) for _, f, t in rows)
    ]
    return list(dict.fromkeys([*(subnet for _, subnet in sorted(best)), "3-3-3"]))


@pytest.fixture
def doctored(run, tmp_path):
    """The run with accuracies that are the other way round on the test split and on the validation part."""
    copy = Path(shutil.copytree(run, tmp_path / "doctored"))
    with (copy / "subnets.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    for at, row in enumerate(rows):
        row |= {"top1": f"{50 + at}", "validation_top1": f"{90 - at}"}
    write_rows(copy, rows, list(rows[0]))
    return copy


def write_rows(run, rows, columns):
    (run / CHECKSUMS).unlink(missing_ok=True)
    with (run / "subnets.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, columns, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def test_subnets_are_selected_on_the_validation_part_and_the_main_net_is_always_there(doctored, tmp_path):
    packed = pack(doctored, out=tmp_path / "family.safetensors")
    # the smallest one is the best on the validation part, and the main net the worst
    assert [entry["subnet"] for entry in packed["subnets"]] == ["1-1-1", "3-3-3"] == selected_plainly(doctored)
    assert [entry["validation_top1"] for entry in packed["subnets"]] == [90, 64]
    net = stimulative.load(tmp_path / "family.safetensors")
    assert str(net.subnet) == "3-3-3"


def test_subnets_that_an_earlier_version_has_measured_are_selected_alike(run, tmp_path):
    older = Path(shutil.copytree(run, tmp_path / "older"))
    with (older / "subnets.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    write_rows(older, rows, [column for column in rows[0] if column != "validation_top1"])
    assert all(member.validation_quality is None for member in Family.read(older / "subnets.csv"))
    steps = []
    packed = pack(older, out=tmp_path / "family.safetensors", progress=lambda *done: steps.append(done))
    assert [entry["subnet"] for entry in packed["subnets"]] == selected_plainly(run)
    measured = {str(member.subnet): member.validation_quality for member in Family.read(run / "subnets.csv")}
    for entry in packed["subnets"]:
        assert entry["validation_top1"] == pytest.approx(measured[entry["subnet"]], abs=1e-3)
    assert steps[-1][0] == steps[-1][1] == len(steps)


def test_the_main_net_is_packed_though_it_was_not_measured(run, tmp_path):
    some = Path(shutil.copytree(run, tmp_path / "some"))
    evaluate(some, latency=False, subnets=["1-1-1", "2-2-2"])
    packed = pack(some, out=tmp_path / "family.safetensors")
    assert packed["subnets"][-1]["subnet"] == "3-3-3" and packed["subnets"][-1]["top1"] > 0


def test_the_command_writes_the_frontier_and_says_so(run, tmp_path, capsys):
    out = tmp_path / "family.safetensors"
    assert main(["pack", str(run), "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    about = json.loads((tmp_path / "family.safetensors.json").read_text())
    assert [entry["subnet"] for entry in about["subnets"]] == selected_plainly(run)
    measured = {str(member.subnet): member.validation_quality for member in Family.read(run / "subnets.csv")}
    assert all(entry["validation_top1"] == measured[entry["subnet"]] for entry in about["subnets"])
    assert f"{out}: {out.stat().st_size / 1e6:,.2f} MB" in printed and "stimulative.load(" in printed
    with safe_open(out, framework="pt") as opened:
        assert json.loads(opened.metadata()["stimulative"]) == about
    assert about["recipe"]["data"]["name"] == "digits" and len(about["classes"]) == 10 and len(about["mean"]) == 1
    assert main(["pack", str(run), "--out", str(out), "--subnets", "3-3-3,2-2-2", "1-1-1", "--force", "--json"]) == 0
    assert [entry["subnet"] for entry in json.loads(capsys.readouterr().out)["subnets"]] == ["3-3-3", "2-2-2", "1-1-1"]


def test_the_command_refuses_what_it_cannot_do(run, dense, tmp_path, capsys):
    def refused(*words):
        assert main(["pack", *map(str, words)]) == 2
        return capsys.readouterr().err

    assert "have not been measured, so there is no frontier: stimulative evaluate" in refused(dense)
    assert "subnet 4-1-1 does not fit stage 'layer1'" in refused(run, "--subnets", "4-1-1")
    assert "cannot read the subnet 'all'" in refused(run, "--subnets", "all")
    assert "is 'frontier', or subnets" in refused(run, "--subnets", "frontier", "1-1-1")
    assert "is not a run directory" in refused(tmp_path)
    there = tmp_path / "there.safetensors"
    there.write_text("mine")
    assert f"{there} exists; replace it with --force" in refused(run, "--out", there)
    assert "is a folder" in refused(run, "--out", tmp_path)
    assert "cannot write to /proc/none" in refused(run, "--out", "/proc/none/family.safetensors")
    assert there.read_text() == "mine"


def test_a_full_disk_leaves_nothing_half_written(run, tmp_path, monkeypatch, capsys):
    import safetensors.torch

    there = tmp_path / "family.safetensors"
    there.write_bytes(b"before")

    def full(tensors, path, metadata):
        path.write_bytes(b"half of it")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(safetensors.torch, "save_file", full)
    assert main(["pack", str(run), "--out", str(there), "--force"]) == 2
    assert f"cannot write {there}: No space left on device. Nothing was left behind" in capsys.readouterr().err
    assert [file.name for file in tmp_path.iterdir()] == ["family.safetensors"] and there.read_bytes() == b"before"

    def refused(tensors, path, metadata):
        raise safetensors.SafetensorError("Error while serializing: I/O error: Read-only file system")

    monkeypatch.setattr(safetensors.torch, "save_file", refused)
    assert main(["pack", str(run), "--out", str(there), "--force"]) == 2
    assert "Read-only file system" in capsys.readouterr().err and there.read_bytes() == b"before"


def test_files_can_be_read_by_whoever_may_read_files_here(run, tmp_path):
    mask = os.umask(0o027)
    try:
        pack(run, ["1-1-1"], out=tmp_path / "family.safetensors")
    finally:
        os.umask(mask)
    modes = {file.stat().st_mode & 0o777 for file in tmp_path.iterdir()}
    assert modes == {0o640}


def test_what_is_no_family_file_is_refused(run, tmp_path):
    with pytest.raises(UsageError, match=r"there is no file .*write one: stimulative pack RUN"):
        stimulative.load(tmp_path / "none.safetensors")
    with pytest.raises(UsageError, match=r"is no family file of this version.*its header says 'nothing'"):
        stimulative.load(run / "model.safetensors")
    (tmp_path / "text.safetensors").write_text("a text")
    with pytest.raises(UsageError, match="cannot be read as a family file"):
        stimulative.load(tmp_path / "text.safetensors")
    pack(run, ["3-3-3", "1-1-1"], out=tmp_path / "family.safetensors")
    other, _ = kinds.make("small-stem-resnet")
    with pytest.raises(UsageError, match=r"does not fit the model ResNet.*Give the model that was trained"):
        stimulative.load(tmp_path / "family.safetensors", model=other)


@pytest.mark.parametrize("key", ["task", "classes", "channels", "image_size"])
def test_a_header_that_lacks_what_the_model_is_built_with_says_which(run, tmp_path, key):
    path = tmp_path / "family.safetensors"
    pack(run, ["3-3-3"], out=path)
    with safe_open(path, framework="pt") as opened:
        about = json.loads(opened.metadata()["stimulative"])
        tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118, it is no mapping
    del about[key]
    save_file(tensors, path, {"stimulative": json.dumps(about)})
    with pytest.raises(UsageError, match=rf"is not as stimulative writes it: '{key}' is missing"):
        stimulative.load(path)


def test_a_model_that_no_name_builds_is_given(run, tmp_path):
    pack(run, ["3-3-3", "1-1-1"], out=tmp_path / "family.safetensors")
    whole = copy.deepcopy(open_finished(run).network.model)
    for parameter in whole.parameters():
        parameter.data.zero_()
    net = stimulative.load(tmp_path / "family.safetensors", model=whole)
    x = torch.randn(2, 1, 8, 8)
    by_name = stimulative.load(tmp_path / "family.safetensors")
    assert torch.equal(call(net, x), call(by_name, x)) and call(net, x).abs().max() > 0


def test_the_room_is_imported_without_the_compiler():
    code = "import sys, stimulative.deploy as room; print('torch._dynamo' in sys.modules, room.Elastic, room.load)"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said.startswith("False <class 'stimulative.deploy.elastic.Elastic'> <function load")
