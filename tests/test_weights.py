"""Weights from files: what is read, what is refused, and that reading never runs what a file holds."""

import argparse
import fractions
import os
import pickle
import re
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from safetensors.torch import save_file
from torch import nn
from torch.optim.swa_utils import AveragedModel

from stimulative import models
from stimulative.errors import UsageError
from stimulative.files import save_model
from stimulative.weights import load_weights, read_weights, sha256


def net(*, depth=20, classes=10, channels=1, width=4, seed=0):
    torch.manual_seed(seed)
    return models.build(f"cifar/resnet{depth}", classes=classes, channels=channels, arguments={"width": width})


def load(model, weights, **sizes):
    load_weights(model, weights, file="best.pth", name="cifar/resnet20", data="digits", **sizes)


def refusal(model, weights, **sizes):
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(UsageError) as caught:
        load(model, weights, **sizes)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    return str(caught.value)


def assert_same(one, other):
    for key, value in one.state_dict().items():
        assert torch.equal(value, other.state_dict()[key]), key


NESTS = {
    "bare": lambda weights: weights,
    "state_dict": lambda weights: {"state_dict": weights, "epoch": 3, "best_prec1": 91.2},
    "model": lambda weights: {"model": weights, "optimizer": {"state": {0: {"momentum": torch.ones(2)}}}},
    "model_state_dict": lambda weights: {"model_state_dict": weights},
    "net": lambda weights: {"net": weights, "acc": 93.0},
    "twice": lambda weights: {"model": {"state_dict": weights}},
    "a name beside": lambda weights: {"state_dict": weights, "model": "resnet20"},
    "arguments beside": lambda weights: {
        "model": weights,
        "args": argparse.Namespace(lr=1, model="resnet20", output=Path("out")),
    },
    "numbers of NumPy": lambda weights: {
        "state_dict": weights,
        "best": np.float64(93.1),
        "epoch": np.int64(3),
        "better": np.bool_(True),
        "loss": np.float32(0.5),
    },
}


@pytest.mark.parametrize(
    ("nest", "ending"), list(zip(NESTS, ["pth", "pt", "th", "bin", "ckpt", "tar", "pkl", "pth", "pth"], strict=True))
)
def test_a_state_dict_is_found_wherever_a_checkpoint_keeps_it(nest, ending, tmp_path):
    file = tmp_path / f"weights.{ending}"
    torch.save(NESTS[nest](net().state_dict()), file)
    model = net(seed=1)
    load(model, read_weights(file))
    assert_same(model, net())


def test_numbers_of_an_older_numpy_and_paths_of_windows_are_read(tmp_path):
    """As they were pickled there: by other module names, which NumPy 2 and other systems no longer write."""
    file = tmp_path / "weights.pth"
    torch.save({"model": net().state_dict(), "best": np.float64(93.1), "args": argparse.Namespace(out=Path("a"))}, file)
    older = {b"numpy._core.multiarray": b"numpy.core.multiarray", b"PosixPath": b"WindowsPath"}
    with zipfile.ZipFile(file) as read:
        parts = {name: read.read(name) for name in read.namelist()}
    name = next(name for name in parts if name.endswith("data.pkl"))
    for new, old in older.items():
        assert new in parts[name]
        parts[name] = parts[name].replace(new, old)
    with zipfile.ZipFile(file, "w") as write:
        for name, part in parts.items():
            write.writestr(name, part)
    model = net(seed=1)
    load(model, read_weights(file))
    assert_same(model, net())


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "model.", "module._orig_mod.", "network.model."])
@pytest.mark.parametrize("ending", ["pth", "safetensors"])
def test_a_prefix_that_all_names_share_is_taken_off(prefix, ending, tmp_path):
    weights = {prefix + key: value for key, value in net().state_dict().items()}
    file = tmp_path / f"weights.{ending}"
    (save_file if ending == "safetensors" else torch.save)(weights, file)
    assert all(key.startswith(prefix) for key in read_weights(file))
    model = net(seed=1)
    load(model, read_weights(file))
    assert_same(model, net())


def test_names_with_two_beginnings_are_not_put_together():
    weights = {f"module.{key}": value for key, value in net().state_dict().items()}
    weights["fc.bias"] = weights.pop("module.fc.bias")
    message = refusal(net(), weights)
    assert "the weights in best.pth#module do not fit" in message and "missing in the file (1): fc.bias\n" in message


def test_a_prefix_that_the_model_itself_has_stays():
    class Wrapped(nn.Module):
        def __init__(self, seed):
            super().__init__()
            self.model = net(seed=seed)

    model = Wrapped(1)
    load(model, Wrapped(0).state_dict())
    assert_same(model, Wrapped(0))


def named(weights, start):
    return {start + key: value for key, value in weights.items()}


def narrow():
    return net(width=2)


def averaged(model):
    return AveragedModel(model, use_buffers=True).state_dict()


def wrapped_inside(model):
    """Names as in a model of which some modules were compiled, and others checkpointed, by themselves."""
    return {
        key.replace("layer1.", "layer1._orig_mod.").replace("conv2.", "conv2._checkpoint_wrapped_module."): value
        for key, value in model.state_dict().items()
    }


ONE_SET = {
    "AveragedModel": averaged,
    "AveragedModel of DataParallel": lambda net: averaged(nn.DataParallel(net)),
    "average of a compiled, distributed one": lambda net: {
        "n_averaged": torch.tensor(3),
        **named(net.state_dict(), "module.module._orig_mod."),
    },
    "the average alone, a tensor beside": lambda net: {"model_ema": averaged(net), "epoch": torch.tensor(3)},
    "tensors beside": lambda net: {"model": net.state_dict(), "epoch": torch.tensor(3), "rng": torch.zeros(9).byte()},
    "Lightning with weights of the loss": lambda net: {
        "state_dict": {**named(net.state_dict(), "model."), "criterion.weight": torch.ones(10)},
        "optimizer_states": [{"state": {0: {"exp_avg": torch.ones(2)}}, "param_groups": []}],
    },
    "a module of another name": lambda net: {"state_dict": named(net.state_dict(), "backbone.trunk.")},
    "deep": lambda net: {"model": {"state_dict": named(net.state_dict(), "module._orig_mod.")}},
    "an optimiser with names of parameters": lambda net: {
        "model": net.state_dict(),
        "optimizer": {"state": {"momentum": named(net.state_dict(), "")}, "param_groups": [{"lr": 0.1}]},
    },
    "wrappers inside of names": wrapped_inside,
    "twice the same": lambda net: {"model": net.state_dict(), "best": {k: v * 1 for k, v in net.state_dict().items()}},
    "a student of another width": lambda net: {
        "student": narrow().state_dict(),
        "teacher": net.state_dict(),
    },
}


@pytest.mark.parametrize("kind", ONE_SET)
def test_the_one_set_of_weights_in_a_file_is_loaded(kind, tmp_path):
    torch.save(ONE_SET[kind](net()), tmp_path / "best.pth")
    model = net(seed=1)
    load(model, read_weights(tmp_path / "best.pth"))
    assert_same(model, net())


TWO_SETS = {
    "timm": (lambda raw, mean: {"state_dict": raw, "state_dict_ema": mean}, "state_dict", "state_dict_ema"),
    "torchvision": (
        lambda raw, mean: {"model": raw, "model_ema": {"n_averaged": torch.tensor(2), **named(mean, "module.")}},
        "model",
        "model_ema",
    ),
    "Lightning's WeightAveraging": (
        lambda raw, mean: {
            "state_dict": named(mean, "model."),
            "current_model_state": named(raw, "model."),
            "averaging_state": {"n_averaged": torch.tensor(2)},
        },
        "current_model_state",
        "state_dict",
    ),
    "a callback's": (
        lambda raw, mean: {"state_dict": named(raw, "net."), "callbacks": {"EMA": {"ema_state_dict": mean}}},
        "state_dict",
        "callbacks",
    ),
    "in one state dict": (
        lambda raw, mean: {
            "state_dict": {
                **named(raw, "model."),
                **named(mean, "model_ema.module."),
                "criterion.weight": raw["fc.bias"],
            },
        },
        "state_dict.model",
        "state_dict.model_ema",
    ),
    "without a dictionary around": (
        lambda raw, mean: {**named(raw, "model."), **named(mean, "ema.module.")},
        "model",
        "ema",
    ),
}


@pytest.mark.parametrize("kind", TWO_SETS)
def test_of_several_sets_of_weights_none_is_chosen_and_each_can_be(kind, tmp_path):
    make, raw, mean = TWO_SETS[kind]
    file = tmp_path / "best.pth"
    torch.save(make(net(seed=2).state_dict(), net(seed=3).state_dict()), file)
    message = refusal(net(), read_weights(file))
    assert "best.pth holds 2 sets of weights for the model cifar/resnet20, which differ. Say " in message
    ways = message.partition(". Say which one to take: ")[2].split(" or ")
    assert sorted(ways) == sorted([f"best.pth#{raw}", f"best.pth#{mean}"])
    for key, seed in ((raw, 2), (mean, 3)):
        model = net()
        load(model, read_weights(f"{file}#{key}"))
        assert_same(model, net(seed=seed))


def test_a_key_that_leads_to_several_sets_is_asked_to_go_on():
    weights = {**named(net(seed=2).state_dict(), "a."), **named(net(seed=3).state_dict(), "b.")}
    with pytest.raises(UsageError, match=r"take: best.pth#state_dict.a or best.pth#state_dict.b$"):
        load_weights(net(), weights, file="best.pth#state_dict", name="cifar/resnet20")


def test_the_names_below_a_key_go_on_from_there(tmp_path):
    torch.save({"model": {"fc.weight": torch.ones(2)}, "epoch": torch.tensor(1)}, tmp_path / "best.pth")
    assert list(read_weights(tmp_path / "best.pth")) == ["model.fc.weight", "epoch"]
    assert list(read_weights(f"{tmp_path / 'best.pth'}#model")) == ["fc.weight"]
    assert sha256(f"{tmp_path / 'best.pth'}#model") == sha256(tmp_path / "best.pth")


def test_a_key_that_is_not_there_is_told_with_those_that_are(tmp_path):
    torch.save({"model": net().state_dict(), "model_ema": averaged(net())}, tmp_path / "best.pth")
    message = r"holds no weights under 'mode_ema'; did you mean 'model_ema'\?; it holds some under model, model_ema$"
    with pytest.raises(UsageError, match=message):
        read_weights(f"{tmp_path / 'best.pth'}#mode_ema")


def test_a_file_may_have_the_sign_in_its_name(tmp_path):
    torch.save({"model": {"fc.weight": torch.ones(2)}}, tmp_path / "run#2.pth")
    assert list(read_weights(tmp_path / "run#2.pth")) == ["model.fc.weight"]
    assert list(read_weights(f"{tmp_path / 'run#2.pth'}#model")) == ["fc.weight"]
    with pytest.raises(UsageError, match=r"there is no file .*/none.pth; give"):
        read_weights(f"{tmp_path / 'none.pth'}#model")


def test_a_misfit_says_where_in_the_file_it_is():
    message = refusal(net(), named(net(depth=32).state_dict(), "model_ema.module."))
    assert message.startswith("the weights in best.pth#model_ema.module do not fit the model cifar/resnet20:\n")
    assert "  unexpected in the file (60): layer1.3.conv1.weight, " in message


def test_what_is_in_a_file_counts_not_its_name(tmp_path):
    torch.save(net().state_dict(), tmp_path / "torch.safetensors")
    save_file(net().state_dict(), tmp_path / "tensors.pth")
    torch.save(net().state_dict(), tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    for file in tmp_path.iterdir():
        model = net(seed=1)
        load(model, read_weights(file))
        assert_same(model, net())


def test_a_checkpoint_of_a_run_is_read_too(tmp_path):
    from stimulative.training import load_recipe, train

    settings = {"model.arguments": {"width": 4}, "schedule.epochs": 1, "training.threads": 1}
    train(load_recipe("digits", settings), tmp_path / "run", progress=False)
    model, other = net(), net()
    load(model, read_weights(tmp_path / "run" / "checkpoint-last.ckpt"))
    load(other, read_weights(tmp_path / "run" / "model.safetensors"))
    assert torch.equal(model.conv1.weight, other.conv1.weight) and not torch.equal(
        model.conv1.weight, net().conv1.weight
    )


def test_a_checkpoint_with_auxiliary_classifiers_is_read_without_them(tmp_path):
    from stimulative import unravel
    from stimulative.methods import StageSupervision

    method = StageSupervision(unravel(net(), torch.zeros(2, 1, 8, 8)))
    state = method.state_dict()
    assert any(key.startswith("heads.") for key in state)
    torch.save({"method": state, "optimizer": {"state": {}}, "epoch": 1}, tmp_path / "checkpoint-last.ckpt")
    weights = read_weights(tmp_path / "checkpoint-last.ckpt")
    assert any(key.startswith("method.heads.") for key in weights)
    model = net(seed=1)
    load(model, weights)
    assert_same(model, net())


def test_another_programs_method_is_read_as_it_is(tmp_path):
    weights = {f"module.{key}": value for key, value in net().state_dict().items()}
    torch.save({"method": weights}, tmp_path / "other.pth")
    model = net(seed=1)
    load(model, read_weights(tmp_path / "other.pth"))
    assert_same(model, net())


def test_counts_of_batches_may_be_missing_and_halves_become_floats():
    weights = {key: value.half() for key, value in net().state_dict().items() if "num_batches" not in key}
    model = net(seed=1)
    load(model, weights)
    assert model.conv1.weight.dtype == torch.float32
    assert torch.equal(model.conv1.weight, net().conv1.weight.half().float())


def test_shared_parameters_may_be_stored_once(tmp_path):
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = nn.Linear(3, 3)
            self.second = nn.Linear(3, 3)
            self.second.weight = self.first.weight

    stored, model = Tied(), Tied()
    save_model(stored, tmp_path / "tied.safetensors")
    assert len(read_weights(tmp_path / "tied.safetensors")) == 3
    load(model, read_weights(tmp_path / "tied.safetensors"))
    assert_same(model, stored)


def test_the_older_names_of_densenets_are_known():
    stored = torchvision.models.DenseNet(4, (2, 2), 8, num_classes=3)
    older = {
        re.sub(r"(denselayer\d\.\w+?)([12]\.)", r"\1.\2", key): value for key, value in stored.state_dict().items()
    }
    assert "features.denseblock1.denselayer1.norm.1.weight" in older
    model = torchvision.models.DenseNet(4, (2, 2), 8, num_classes=3)
    load(model, older)
    assert_same(model, stored)


def test_every_misfit_is_listed():
    weights = net().state_dict()
    weights["layer9.weight"] = weights.pop("bn1.weight")
    weights["conv1.weight"] = torch.zeros(8, 1, 3, 3)
    message = refusal(net(), weights)
    assert message == (
        "the weights in best.pth do not fit the model cifar/resnet20:\n"
        "  missing in the file (1): bn1.weight\n"
        "  unexpected in the file (1): layer9.weight\n"
        "  of another shape in the file (1): conv1.weight 8×1×3×3, the model has 4×1×3×3\n"
        "Give the architecture that they were trained with: its name, and its arguments if it has any"
    )


def test_long_lists_of_misfits_are_shortened():
    message = refusal(net(depth=32), net().state_dict())
    assert "missing in the file (60): layer1.3.conv1.weight, " in message and " and 52 more" in message
    assert len(message) < 1500


@pytest.mark.parametrize(
    ("classes", "channels", "parts"),
    [
        (3, 1, ["the weights are of 10 classes, digits has 3"]),
        (10, 3, ["the weights are for images with 1 channel, digits has 3"]),
        (
            3,
            2,
            ["the weights are of 10 classes, digits has 3", "the weights are for images with 1 channel, digits has 2"],
        ),
    ],
)
def test_when_only_the_data_differ_the_message_says_so(classes, channels, parts):
    message = refusal(net(classes=classes, channels=channels), net().state_dict(), classes=classes, channels=channels)
    assert message == f"best.pth does not fit the data: {'; '.join(parts)}. Give the data that they were trained for"


def test_another_width_is_no_matter_of_classes():
    message = refusal(net(classes=8, width=8), net().state_dict(), classes=8, channels=1)
    assert "do not fit the model" in message and "classes" not in message


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_no_numbers_are_refused(value):
    weights = net().state_dict()
    weights["layer2.0.conv1.weight"][0, 0, 0, 0] = value
    message = refusal(net(seed=1), weights)
    assert message.startswith("the weights in best.pth are not all finite numbers: layer2.0.conv1.weight. ")


def test_a_mask_may_be_infinite_but_no_statistics_may_be_nan():
    model = nn.BatchNorm1d(2)
    model.register_buffer("mask", torch.zeros(2))
    weights = {**model.state_dict(), "mask": torch.tensor([0.0, float("-inf")])}
    load(model, weights)
    assert model.mask.isinf().any()
    message = refusal(model, {**weights, "running_var": torch.tensor([1.0, float("nan")])})
    assert "not all finite numbers: running_var" in message


class Payload:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (self.folder,)


@pytest.mark.parametrize("kind", ["zip", "old", "bare", "text", "new"])
@pytest.mark.parametrize("forced", [False, True])
def test_a_malicious_pickle_is_refused_and_never_run(kind, forced, tmp_path, monkeypatch):
    if forced:
        monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    ran, file = tmp_path / "ran", tmp_path / "weights.pth"
    payload = Payload(str(ran))
    if kind in ("zip", "old"):
        content = {"state_dict": net().state_dict(), "more": payload}
        torch.save(content, file, _use_new_zipfile_serialization=kind == "zip")
    else:
        file.write_bytes(pickle.dumps(payload, protocol={"bare": 2, "text": 0, "new": 4}[kind]))
    message = "is not a file of weights" if kind == "new" else r"holds more than tensors and plain values: \w+\.mkdir\."
    with pytest.raises(UsageError, match=message):
        read_weights(file)
    assert not ran.exists()
    if kind in ("zip", "old"):  # it is malicious indeed
        torch.load(file, weights_only=False)
    else:
        pickle.loads(file.read_bytes())
    assert ran.exists()


class Whole(nn.Module):
    """A model whose class is this module's own."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(2, 2)


def written(content):
    return lambda path: path.write_bytes(content)


def saved(content, **arguments):
    return lambda path: torch.save(content, path, **arguments)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: None, "there is no file .*weights.pth; give the path"),
        (lambda path: path.mkdir(), "is a folder, not a file of weights"),
        (written(b""), "weights.pth is empty; copy or download it again"),
        (written(b"hello\n"), "is a text, not a file of weights"),
        (written("<html>gefunden wird nichts, außer Käse</html>".encode()), "is a text, not a file of weights"),
        (written(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n"), "is a pointer of Git LFS"),
        (written(bytes(range(256)) * 4), "is not a file of weights that torch.save or safetensors wrote"),
        (saved(Whole()), "is a whole pickled model.*save its weights alone: torch.save.model.state_dict"),
        (saved({"model": nn.Linear(2, 2)}), "is a whole pickled model"),
        (saved({"args": argparse.Namespace(lr=1)}), "holds no state dict.*got a dict with args. Save one"),
        (
            saved({"args": argparse.Namespace(seen={fractions.Fraction(1)})}),
            r"holds more than tensors and plain values: fractions\.Fraction\. Reading",
        ),
        (saved({"epoch": 3, "lr": 0.1}), "holds no state dict.*got a dict with epoch, lr. Save one"),
        (saved({}), "holds no state dict.*got a dict without anything in it"),
        (saved([torch.ones(2)]), "holds no state dict.*got a list"),
        (saved(torch.ones(2)), "holds no state dict.*got a Tensor"),
        (saved({"a\x1b[2Jb": 1}), r"got a dict with a\\x1b\[2Jb\. Save one"),
    ],
    ids=[
        *("missing", "folder", "empty", "text", "page", "pointer", "bytes", "module", "nested module"),
        *("namespace", "foreign in a namespace", "no tensors", "nothing", "list", "tensor", "control sequence"),
    ],
)
def test_what_holds_no_state_dict_is_refused(make, message, tmp_path):
    path = tmp_path / "weights.pth"
    make(path)
    with pytest.raises(UsageError, match=message):
        read_weights(path)


def test_a_run_directory_is_not_a_file_of_weights(tmp_path):
    (tmp_path / "recipe.yaml").write_text("")
    with pytest.raises(UsageError, match="is a run directory, not a file of weights; give it as RUN, without weights="):
        read_weights(tmp_path)


def test_a_dictionary_that_holds_itself_is_refused(tmp_path):
    content = {}
    content["model"] = content
    torch.save(content, tmp_path / "weights.pth")
    with pytest.raises(UsageError, match="holds no state dict"):
        read_weights(tmp_path / "weights.pth")


@pytest.mark.parametrize("share", [0.02, 0.3, 0.9, 0.999])
@pytest.mark.parametrize("kind", ["zip", "old", "safetensors"])
def test_a_truncated_file_is_refused(kind, share, tmp_path):
    path = tmp_path / f"weights.{'safetensors' if kind == 'safetensors' else 'pth'}"
    if kind == "safetensors":
        save_file(net().state_dict(), path)
    else:
        torch.save(net().state_dict(), path, _use_new_zipfile_serialization=kind == "zip")
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(UsageError, match=r"is truncated or damaged|or is damaged"):
        read_weights(path)


def test_the_fingerprint_is_that_of_the_bytes(tmp_path):
    (tmp_path / "file").write_bytes(b"abc")
    assert sha256(tmp_path / "file") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
