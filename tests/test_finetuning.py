"""Training from trained weights: what is loaded, what starts anew, what stays frozen, and how it is refused."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torchvision
from interrupting import Interrupt
from safetensors.torch import load_file, save_file
from torch import nn

import stimulative
from stimulative import data as data_room
from stimulative import models
from stimulative.analysis import adopt, evaluate, open_run, recipe_for
from stimulative.cli import main
from stimulative.errors import UsageError
from stimulative.methods import METHODS
from stimulative.residual import freeze, keep_frozen, layers_with_statistics, stem_of, tensors_in
from stimulative.runs import read_metrics
from stimulative.training import load_recipe, optimizer_of, prepare, train
from stimulative.weights import sha256

TINY = {
    "model.arguments": {"width": 8},
    "training.threads": 1,
    "training.loggers": ["csv"],
}
HEAD = ("fc.weight", "fc.bias")
STEM = ("conv1.weight", "bn1.weight", "bn1.bias", "bn1.running_mean", "bn1.running_var", "bn1.num_batches_tracked")
VIT: dict[str, Any] = {"img_size": 8, "patch_size": 2, "embed_dim": 16, "depth": 3, "num_heads": 2}


def tiny(**overrides: Any):
    return load_recipe("digits", {**TINY, **overrides})


def weights(directory: Path) -> dict[str, torch.Tensor]:
    return load_file(directory / "model.safetensors")


def five_classes() -> data_room.Data:
    """The digits 0 to 4, in loaders of one's own."""
    from stimulative.data.digits import read

    def batches(split: str, part: slice) -> list[tuple[torch.Tensor, torch.Tensor]]:
        images, labels = read(split)[:2]
        chosen = (labels < 5).nonzero().flatten()[part]
        x = images[chosen].float() / 128 - 1
        return list(zip(x.split(32), labels[chosen].split(32), strict=True))

    held_out, rest = slice(0, 64), slice(64, None)
    return data_room.from_loaders(batches("train", rest), batches("train", held_out), batches("test", rest), classes=5)


@pytest.fixture(scope="module")
def common(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "common"
    train(tiny(**{"method.name": "common", "schedule.epochs": 12}), out, progress=False)
    return out


def from_common(common: Path, **overrides: Any):
    return tiny(**{"model.weights": str(common), "schedule.epochs": 2, "optimizer.lr": 0.03, **overrides})


def test_a_common_net_becomes_elastic_in_a_third_of_the_epochs(common, tmp_path):
    tuned = tmp_path / "tuned"
    train(from_common(common, **{"schedule.epochs": 4, "method.balance_ramp": 0.25}), tuned, progress=False)
    before, after = (evaluate(run, latency=False) for run in (common, tuned))
    assert after["subnets"]["mean"] > before["subnets"]["mean"] + 5
    assert after["subnets"]["min"] > before["subnets"]["min"] + 15
    assert after["main"]["top1"] > before["main"]["top1"] - 1


@pytest.mark.parametrize("source", ["run", "safetensors", "pth", "checkpoint"])
def test_weights_come_from_runs_and_files(common, tmp_path, source):
    checkpoint = common / "checkpoint-last.ckpt"
    torch.save(weights(common), tmp_path / "net.pth")
    file = {"run": common, "safetensors": common / "model.safetensors", "pth": tmp_path / "net.pth"}.get(
        source, checkpoint
    )
    run = prepare(tiny(**{"model.weights": str(file)}), weights=True)
    state = run.network.model.state_dict()
    trained = weights(common)
    for name, parameter in run.network.model.named_parameters():
        assert torch.equal(parameter, trained[name]), name
    assert state.keys() == trained.keys()
    assert run.origin is not None and run.origin.new == ()
    assert run.loaded.startswith(f"loaded all {len(state) - 19} tensors from ")


def test_other_classes_get_a_new_head(common):
    recipe = from_common(common)
    run, untrained = prepare(recipe, data=five_classes(), weights=True), prepare(recipe, data=five_classes())
    assert run.origin is not None and run.origin.new == HEAD
    assert run.loaded.endswith("model.safetensors; new: fc.weight, fc.bias (5 classes instead of 10)")
    trained, fresh = weights(common), untrained.network.model.state_dict()
    for name, value in run.network.model.state_dict().items():
        assert torch.equal(value, fresh[name] if name in HEAD else trained[name]), name


def test_fine_tuning_to_other_classes_learns_them_and_is_recorded(common, tmp_path, capsys):
    recipe = from_common(common, **{"optimizer.trunk_lr": 0.5, "schedule.epochs": 3})
    summary = train(recipe, tmp_path / "tuned", data=five_classes())
    assert "tuned: loaded 95 of 97 tensors from " in capsys.readouterr().err
    assert summary["main"]["top1"] > 90
    assert json.loads((tmp_path / "tuned/summary.json").read_text())["weights"] == {
        "file": str(common / "model.safetensors"),
        "sha256": sha256(common / "model.safetensors"),
        "new": list(HEAD),
    }
    assert load_recipe(tmp_path / "tuned/recipe.yaml").model.weights == str(common)


def test_a_smaller_net_starts_from_the_whole_one_and_from_its_own(common, tmp_path):
    run = prepare(from_common(common, **{"model.subnet": "1-2-1"}), weights=True)
    trained = weights(common)
    assert run.network.full.depths == (1, 2, 1)
    assert all(torch.equal(value, trained[name]) for name, value in run.network.model.state_dict().items())
    train(from_common(common, **{"model.subnet": "1-2-1", "schedule.max_steps": 1}), tmp_path / "small", progress=False)
    again = prepare(tiny(**{"model.subnet": "1-2-1", "model.weights": str(tmp_path / "small")}), weights=True)
    assert torch.equal(again.network.model.get_parameter("fc.weight"), weights(tmp_path / "small")["fc.weight"])


def test_the_trunk_has_its_share_of_the_rate_at_every_step(common):
    recipe = from_common(common, **{"optimizer.trunk_lr": 0.1})
    run = prepare(recipe, data=five_classes(), weights=True)
    optimizer = optimizer_of(run.method, recipe.optimizer, run.trunk())
    names = {id(parameter): name for name, parameter in run.network.model.named_parameters()}
    groups = [
        ({names[id(p)] for p in group["params"]}, group["lr"], group["weight_decay"])
        for group in optimizer.param_groups
    ]
    assert groups[0] == ({"fc.bias"}, 0.03, 0.0) and groups[1] == ({"fc.weight"}, 0.03, 5e-4)
    assert [group[1:] for group in groups[2:]] == [(pytest.approx(0.003), 0.0), (pytest.approx(0.003), 5e-4)]
    assert sum(len(group[0]) for group in groups) == len(names)


def test_auxiliary_classifiers_are_new_beside_a_head_that_is_not(common):
    run = prepare(from_common(common, **{"method.name": "layer_supervision", "optimizer.trunk_lr": 0.1}), weights=True)
    optimizer = optimizer_of(run.method, run.recipe.optimizer, run.trunk())
    own = {id(parameter) for parameter in run.network.model.parameters()}
    fast = {id(p) for group in optimizer.param_groups if group["lr"] == 0.03 for p in group["params"]}
    assert fast and not fast & own
    assert fast | own == {id(parameter) for parameter in run.method.parameters()}


@pytest.mark.parametrize("method", METHODS)
def test_a_frozen_stem_stays_as_it_is_bit_by_bit(common, tmp_path, method):
    frozen = {"model.freeze_stem": True, "method.name": method, "schedule.max_steps": 4, "optimizer.weight_decay": 0.1}
    train(from_common(common, **frozen), tmp_path / "run", progress=False)
    before, after = weights(common), weights(tmp_path / "run")
    for name in before:
        same = torch.equal(before[name], after[name])
        assert same == (name in STEM) or name.endswith("num_batches_tracked"), name
    assert all(torch.equal(before[name], after[name]) for name in STEM)


def test_a_lean_step_leaves_a_frozen_stem_alone_and_does_what_a_joint_one_does(common, tmp_path):
    for schedule in ("joint", "lean"):
        settings = {"model.freeze_stem": True, "schedule.max_steps": 3, "method.schedule": schedule}
        settings |= {"training.precision": "64-true", "method.balance_ramp": 0.0}
        train(from_common(common, **settings), tmp_path / schedule, progress=False)
    joint, lean = weights(tmp_path / "joint"), weights(tmp_path / "lean")
    assert all(torch.allclose(joint[name], lean[name], rtol=1e-9, atol=1e-9) for name in joint)
    assert all(torch.equal(lean[name].float(), weights(common)[name].float()) for name in STEM)


def test_the_statistics_of_a_frozen_stem_are_those_of_all_subnets(common, tmp_path):
    out = tmp_path / "run"
    train(from_common(common, **{"model.freeze_stem": True, "schedule.max_steps": 2}), out, progress=False)
    run = open_run(out)
    assert "bn1" not in layers_with_statistics(run.network.model, run.network.wiring)
    assert "layer1.0.bn1" in layers_with_statistics(run.network.model, run.network.wiring)
    statistics = run.network.recalibrate(run.data.calibration, ["1-1-1"])
    assert {node.unit for node in statistics.nodes} >= {"layer1.0"}
    assert not any(node.unit == "bn1" and layers for node, layers in statistics.nodes.items())
    evaluate(out, subnets=2, latency=False)
    assert all(torch.equal(weights(common)[name], weights(out)[name]) for name in STEM)


def test_a_frozen_layer_normalises_by_its_statistics_in_training_too(common):
    run = prepare(from_common(common, **{"model.freeze_stem": True}), weights=True)
    run.method.train()
    keep_frozen(run.network.model)
    training = {name for name, module in run.network.model.named_modules() if name and not module.training}
    assert training == {"bn1"}


@pytest.mark.parametrize(
    ("name", "arguments", "size", "parameters", "layers"),
    [
        ("cifar/resnet20", {"width": 4}, 8, {"conv1.weight", "bn1.weight", "bn1.bias"}, {"bn1"}),
        (
            "timm/vit_tiny_patch16_224",
            {**VIT, "img_size": 32},
            32,
            {"cls_token", "pos_embed", "patch_embed.proj.weight", "patch_embed.proj.bias"},
            set(),
        ),
        (
            "cifar/densenet121",
            {"block_config": [2, 2], "growth_rate": 4},
            32,
            {"features.conv0.weight", "features.norm0.weight", "features.norm0.bias"},
            {"features.norm0"},
        ),
    ],
)
def test_the_stem_is_what_runs_before_the_first_block(name, arguments, size, parameters, layers):
    model = models.build(name, classes=5, channels=3, arguments=arguments)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    network = stimulative.unravel(model, torch.randn(2, 3, size, size))
    stem = stem_of(network)
    assert set(stem.parameters) == parameters and set(stem.layers) == layers
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    # a change to the stem, and to nothing else, changes what the first block gets
    first = network.wiring.places[0].name
    seen: list[torch.Tensor] = []
    model.get_submodule(first).register_forward_pre_hook(lambda module, args: seen.append(tensors_in(args)[0].clone()))
    for changed in dict(model.named_parameters()):
        with torch.no_grad():
            parameter = model.get_parameter(changed)
            kept = parameter.clone()
            model.eval()(network.example_input)
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)))
            model(network.example_input)
            parameter.copy_(kept)
        assert torch.equal(seen[-2], seen[-1]) == (changed not in parameters), changed


def test_what_is_new_in_the_stem_is_not_frozen():
    text = {"n_layer": 2, "n_embd": 8, "n_head": 2}
    model = models.build("transformers/gpt2", classes=20, arguments=text, task="text")
    network = stimulative.unravel(model, {"input_ids": torch.randint(20, (2, 6))})
    freeze(network, stem_of(network), new=("transformer.wte.weight",))
    frozen = [name for name, parameter in model.named_parameters() if not parameter.requires_grad]
    assert frozen == ["transformer.wpe.weight"]


def test_a_run_from_weights_goes_on_to_the_same_weights_without_their_file(common, tmp_path, monkeypatch):
    source = tmp_path / "source"
    shutil.copytree(common, source)
    settings = {"optimizer.trunk_lr": 0.1, "model.freeze_stem": True}
    recipe = from_common(source, **settings)
    train(recipe, tmp_path / "whole", data=five_classes(), progress=False)
    interrupt = Interrupt(step=15)  # in the second epoch of 12 steps each
    with pytest.raises(KeyboardInterrupt):
        train(recipe, tmp_path / "parts", data=five_classes(), progress=False, callbacks=[interrupt])
    shutil.rmtree(source)
    summary = train(recipe, tmp_path / "parts", data=five_classes(), resume=True, progress=False)
    whole, parts = weights(tmp_path / "whole"), weights(tmp_path / "parts")
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    assert summary["weights"]["new"] == list(HEAD)
    assert train(recipe, tmp_path / "parts", resume=True)["weights"] == summary["weights"]


def test_several_processes_start_from_the_same_weights(common, tmp_path):
    settings = {"training.devices": 2, "training.device": "cpu", "model.freeze_stem": True, "schedule.max_steps": 2}
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(from_common(common, **settings).to_yaml())
    command = [sys.executable, "-m", "stimulative", "train", str(recipe), "--out", str(tmp_path / "two")]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert done.stderr.count("loaded all 97 tensors") == 1
    before, after = weights(common), weights(tmp_path / "two")
    assert all(torch.equal(before[name], after[name]) for name in STEM)
    assert not torch.equal(before["fc.weight"], after["fc.weight"])


def test_a_run_goes_on_as_another_one_by_its_own_recipe(common, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = ["--method.name", "stimulative", "--schedule.max_steps", "1"]
    assert main(["train", "--from", str(common), *words]) == 0
    assert "runs/common-tuned-stimulative-seed0: main net" in capsys.readouterr().out
    made = load_recipe(tmp_path / "runs/common-tuned-stimulative-seed0/recipe.yaml")
    assert made.model.arguments == {"width": 8} and made.model.weights == str(common)
    assert main(["train", "--from", str(common), *words, "--dry-run"]) == 0
    assert f"# weights: loaded all 97 tensors from {common}/model.safetensors" in capsys.readouterr().out


def test_a_method_of_ones_own_is_not_needed_to_start_from_its_weights(common, tmp_path, capsys):
    shutil.copytree(common, tmp_path / "run")
    recipe = tmp_path / "run" / "recipe.yaml"
    text = recipe.read_text()
    assert "name: common" in text
    recipe.write_text(text.replace("name: common", "name: gone:Method"))
    out = tmp_path / "recipe.yaml"
    assert main(["init", "--data", "digits", "--from", str(tmp_path / "run"), "--out", str(out)]) == 0
    assert load_recipe(out).model.name == "cifar/resnet20"
    run = prepare(tiny(**{"model.weights": str(tmp_path / "run")}), weights=True)
    assert "loaded all" in run.loaded
    with pytest.raises(UsageError, match=r"that run is of model\.name cifar/resnet20"):
        prepare(tiny(**{"model.weights": str(tmp_path / "run"), "model.arguments": {"width": 4}}), weights=True)


def test_recipes_without_the_new_settings_read_as_before():
    old = tiny().to_mapping()
    for section, key in (("model", "weights"), ("model", "freeze_stem"), ("optimizer", "trunk_lr")):
        del old[section][key]
    assert load_recipe(old) == tiny()


def test_weights_that_were_adopted_and_a_run_from_them_are_told_apart(common, tmp_path):
    file = tmp_path / "net.safetensors"
    shutil.copy(common / "model.safetensors", file)
    recipe = from_common(common, **{"model.weights": str(file), "schedule.max_steps": 1})
    train(recipe, tmp_path / "net", progress=False)
    with pytest.raises(UsageError, match="with other settings"):
        adopt(recipe_for("cifar/resnet20", "digits", {"model.arguments.width": 8}), file, tmp_path / "net")


# Published weights. None can be downloaded here, so they are put where timm and torchvision look for them.


@pytest.fixture
def published(tmp_path) -> Path:
    """A small ViT of 1,000 classes for colour images, as timm would download it."""
    torch.manual_seed(1)
    net = timm.create_model("vit_tiny_patch16_224", **VIT)
    torch.save(net.state_dict(), tmp_path / "vit.pth")
    return tmp_path / "vit.pth"


def vit(file: Path, **overlay: Any):
    arguments = {**VIT, "pretrained_cfg_overlay": {"file": str(file), "custom_load": False, **overlay}}
    return load_recipe(
        "digits-vit", {"model.arguments": arguments, "model.weights": "pretrained", "training.threads": 1}
    )


def test_timm_publishes_weights_that_fit_other_channels_and_classes(published):
    run = prepare(vit(published), weights=True)
    theirs, ours = torch.load(published), run.network.model.state_dict()
    assert run.origin is not None and run.origin.new == ("head.weight", "head.bias") and run.origin.sha256 is None
    assert run.loaded.endswith(f"({published}); new: head.weight, head.bias (10 classes instead of 1000)")
    assert torch.equal(ours["blocks.2.mlp.fc2.weight"], theirs["blocks.2.mlp.fc2.weight"])
    grey = theirs["patch_embed.proj.weight"].sum(1, keepdim=True)
    assert torch.allclose(ours["patch_embed.proj.weight"], grey)


def test_published_weights_without_a_head_get_one(published):
    theirs = torch.load(published)
    torch.save({name: value for name, value in theirs.items() if not name.startswith("head.")}, published)
    run = prepare(vit(published, num_classes=0), weights=True)
    assert run.origin is not None and run.origin.new == ("head.weight", "head.bias")
    assert run.loaded.endswith("new: head.weight, head.bias (10 classes)")


def test_published_weights_draw_no_random_numbers(published):
    trained, untrained = prepare(vit(published), weights=True), prepare(vit(published))
    head = "head.weight"
    assert torch.equal(trained.network.model.get_parameter(head), untrained.network.model.get_parameter(head))


def test_torchvision_publishes_weights(monkeypatch, tmp_path):
    torch.manual_seed(1)
    theirs = torchvision.models.resnet18().state_dict()
    monkeypatch.setattr(torchvision.models.ResNet18_Weights, "get_state_dict", lambda *_, **__: theirs)
    settings = {"model.name": "torchvision/resnet18", "model.weights": "pretrained", "data.name": "fake"}
    run = prepare(
        load_recipe("digits", {**settings, "data.images": 20, "data.workers": 0, "data.crop_padding": 4}), weights=True
    )
    assert run.origin is not None and run.origin.new == HEAD
    assert torch.equal(run.network.model.state_dict()["layer4.1.conv2.weight"], theirs["layer4.1.conv2.weight"])


def test_published_weights_that_cannot_be_downloaded_are_a_message(monkeypatch):
    def no_network(*_: Any, **__: Any) -> None:
        raise OSError("no route\nto host")

    monkeypatch.setattr(timm.models._builder, "load_state_dict_from_hf", no_network)
    monkeypatch.setattr(timm.models._builder, "load_state_dict_from_url", no_network)
    settings = {"model.name": "timm/resnet18", "model.weights": "pretrained"}
    with pytest.raises(
        UsageError, match=r"of model 'timm/resnet18' cannot be had: OSError: no route to host\. Without"
    ):
        prepare(load_recipe("digits", settings), weights=True)


# What is refused, by message and with the exit status of bad input.


def refused(capsys, *words: str | Path) -> str:
    assert main(["train", *map(str, words)]) == 2
    return capsys.readouterr().err


def test_a_misfit_is_listed_in_full_and_nothing_is_trained(common, tmp_path, capsys):
    out = tmp_path / "out"
    message = refused(capsys, "digits", "--from", common, "--out", out)
    assert "do not fit the model cifar/resnet20" in message and "of another shape in the file (96)" in message
    assert "that run is of model.name cifar/resnet20, model.arguments {width: 8}" in message
    message = refused(capsys, "digits", "--from", common, "--out", out, "--model.name", "cifar/resnet32")
    assert "missing in the file" in message
    assert not (out / "recipe.yaml").exists()


def test_images_of_other_channels_are_refused_with_what_to_do(common, capsys):
    words = ["--model.arguments", "{width: 8}", "--data", "fake", "--data.classes", "7", "--data.workers", "0"]
    message = refused(capsys, "digits", "--from", common, *words)
    assert "the weights are for images with 1 channel, fake has 3. Train on such images" in message
    assert "model.weights: pretrained" in message and "classes" not in message


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["digits", "--from", "missing.pth"], "there is no file and no run directory missing.pth to start from"),
        (
            ["digits", "--from", "folder"],
            "folder is a folder, but neither that of a run nor one in which Transformers saved a model",
        ),
        (["digits", "--from", "unfinished"], "the run in unfinished has not finished: continue it first"),
        (["--from", "unfinished"], "the run in unfinished has not finished"),
        (["--from", "missing.pth"], "and missing.pth is neithe"),
        ([], "give a RECIPE, or a run to start from: --from RUN"),
        (["digits", "--from", "text.pth"], "is a text, not a file of weights"),
        (["digits", "--from", "nan.safetensors", "--model.arguments", "{width: 8}"], "not all finite numbers: fc.bias"),
        (["digits", "--from", "pretrained"], "model 'cifar/resnet20' has no pretrained weights"),
        (["digits", "--from", "pretrained", "--model.name", "cifar/resnet18"], "timm's weights are of another stem"),
        (["digits", "--from", "pretrained", "--model.name", "timm/darknet17"], "has no pretrained weights"),
        (["digits", "--from", "pretrained", "--model.name", "transformers/vit"], "it is built from a config"),
        (["digits", "--from", "a.pth", "--model.weights", "b.pth"], "got both --from and --model.weights"),
        (["digits", "--from", ""], "model.weights: expected a file"),
        (["digits", "--model.freeze_stem", "true"], "model.freeze_stem: a stem that nobody has trained"),
        (["digits", "--optimizer.trunk_lr", "0.1"], "optimizer.trunk_lr: 0.1 is for what was loaded"),
        (["digits", "--optimizer.trunk_lr", "-0.1"], "trunk_lr: is a share of lr, above 0 and up to 1, got -0.1"),
        (["digits", "--optimizer.trunk_lr", "2"], "trunk_lr: is a share of lr, above 0 and up to 1, got 2"),
        (["--from", "finished", "--optimizer.trunk_lr", "0.1"], "all of the net was loaded"),
        (["--from", "finished", "--out", "finished"], "finished is the run that training starts from"),
        (["--from", "finished", "--out", "finished", "--resume"], "finished is the run that training starts from"),
        (["digits", "--from", "finished", "--out", "other", "--resume"], "model.weights: None then, 'finished' now"),
    ],
)
def test_bad_input_is_refused(common, tmp_path, monkeypatch, capsys, words, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "text.pth").write_text("<html>not found</html>")
    save_file({**weights(common), "fc.bias": torch.full((10,), torch.nan)}, tmp_path / "nan.safetensors")
    for name in ("finished", "unfinished", "other"):
        shutil.copytree(common, tmp_path / name)
    (tmp_path / "unfinished/summary.json").unlink()
    assert message in refused(capsys, *words)
    assert {path.name for path in tmp_path.iterdir()} - {"runs"} == {
        *("folder", "text.pth", "nan.safetensors", "finished", "unfinished", "other")
    }


def test_a_model_of_ones_own_has_no_published_weights(published):
    with pytest.raises(UsageError, match="pretrained is not for a model of your own"):
        prepare(vit(published), model=nn.Identity(), weights=True)


def test_what_runs_log_is_the_rate_of_the_new_head(common, tmp_path):
    recipe = from_common(common, **{"optimizer.trunk_lr": 0.1, "schedule.epochs": 1, "schedule.warmup_epochs": 1})
    train(recipe, tmp_path / "run", data=five_classes(), progress=False)
    (row,) = read_metrics(tmp_path / "run/metrics.csv")
    assert float(row["lr"]) == pytest.approx(0.03, rel=0.1)
