"""How much blocks matter: skipping each alone against plain models without it, and the subnets that keep the others."""

import json
import math
import shutil
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from reference import Removed, norms
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from stimulative.analysis import adopt, evaluate, open_run, rank, recipe_for
from stimulative.analysis import importance as importance_room
from stimulative.cli import main
from stimulative.deploy import choose
from stimulative.errors import UsageError
from stimulative.residual import Subnet
from stimulative.runs import RunDirectory
from stimulative.training import calibration as calibration_room
from stimulative.training import load_recipe, train

TINY = {"model.arguments": {"width": 4}, "schedule.epochs": 6, "training.threads": 1, "method.name": "common"}
VIT = {
    "model.name": "timm/vit_tiny_patch16_224",
    "model.arguments": {"img_size": 8, "patch_size": 4, "embed_dim": 16, "depth": 3, "num_heads": 2},
    "schedule.epochs": 1,
}
SPOILT = "layer2.2"  # its branch is 0 in `spoilt`, so that it returns its input


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp("ranking") / "run"
    train(load_recipe("digits", TINY), out, progress=False)
    return out


@pytest.fixture
def trained(run, tmp_path):
    """A copy of the run, in which nothing has been ranked."""
    return shutil.copytree(run, tmp_path / "trained", ignore=shutil.ignore_patterns("rank.json"))


def recalibrated(model: nn.Module, batches: list[Tensor]) -> nn.Module:
    """The model with the mean statistics of batches, each layer normalising by its own batch; a plain loop."""
    sums = {name: torch.zeros(2, layer.num_features) for name, layer in norms(model).items()}

    def add(name, x):
        sums[name][0] += len(x) * x.mean((0, 2, 3))
        sums[name][1] += len(x) * x.var((0, 2, 3), correction=0)

    for name, layer in norms(model).items():
        layer.register_forward_pre_hook(lambda _, args, name=name: add(name, args[0]))
    model.train()
    for x in batches:
        model(x)
    images = sum(map(len, batches))
    for name, layer in norms(model).items():
        layer.running_mean, layer.running_var = (total / images for total in sums[name])
        layer._forward_pre_hooks.clear()
    return model.eval()


@torch.no_grad()
def test_a_block_is_scored_by_a_plain_model_without_it(run):
    ranking = rank(run)
    opened = open_run(run)
    network, stages = opened.network, [stage.block_names for stage in opened.network.stages]
    calibration = [x for x, _ in opened.data.calibration_as(ranking.calibration)]
    x, y = (torch.cat(parts) for parts in zip(*opened.data.validation, strict=True))
    assert (ranking.images, ranking.calibration_images) == (len(x), sum(map(len, calibration))) == (90, 808)

    def outputs(subnet: Subnet) -> Tensor:
        return recalibrated(Removed(network.model, stages, subnet, replace=True).model, calibration)(x)

    def top1(logits: Tensor) -> float:
        return 100 * (logits.argmax(1) == y).double().mean().item()

    whole = outputs(network.full)
    assert ranking.main.quality == pytest.approx(top1(whole))
    assert ranking.main.loss == pytest.approx(F.cross_entropy(whole, y).item(), rel=1e-4)
    assert "".join(f"{block.stage}{block.block} " for block in ranking.blocks) == "00 01 02 11 12 21 22 "
    for block in ranking.blocks:
        left = [tuple(b for b in range(3) if (stage, b) != (block.stage, block.block)) for stage in range(3)]
        changed = outputs(Subnet(tuple(left)))
        errors = torch.linalg.vector_norm(whole - changed, dim=1) / torch.linalg.vector_norm(whole, dim=1)
        assert block.error == pytest.approx(errors.mean().item(), rel=1e-3) and block.error > 0.01
        assert block.error_se == pytest.approx(errors.std(correction=0).item() / math.sqrt(90), rel=1e-3)
        change = F.cross_entropy(changed, y) - F.cross_entropy(whole, y)
        assert block.loss == pytest.approx(change.item(), abs=1e-4)
        assert block.quality == pytest.approx(top1(changed) - top1(whole), abs=0.01)
        assert block.name == stages[block.stage][block.block]


def test_the_order_is_that_of_the_errors_behind_a_fixed_first_block(run):
    ranking = rank(run)
    errors = {(block.stage, block.block): block.error for block in ranking.blocks}
    for stage, order in enumerate(ranking.order):
        assert sorted(order) == [0, 1, 2] and (stage == 0 or order[0] == 0)
        free = [errors[stage, block] for block in order[int(stage > 0) :]]
        assert free == sorted(free, reverse=True)
    written = json.loads((run / "rank.json").read_text())
    assert written == ranking.to_mapping() and RunDirectory.open(run).ranking == ranking
    assert written["order"] == [list(stage) for stage in ranking.order]
    assert {"stage", "block", "name", "error", "error_se", "loss", "quality"} == set(written["blocks"][0])
    assert ranking.space == f"ranked:{Subnet(ranking.order)}"


class Unread:
    """A split that nobody may read."""

    def __iter__(self):
        raise AssertionError("the test split was read")


def test_the_test_split_is_not_read(trained, monkeypatch):
    opened = open_run(trained)
    unread = replace(opened, data=replace(opened.data, test=Unread()))
    monkeypatch.setattr(importance_room, "open_run", lambda *_, **__: unread)
    assert rank(trained).images == 90


def test_nets_that_are_recalibrated_in_groups_have_the_same_scores(run, trained, monkeypatch):
    whole, steps = rank(run), []
    monkeypatch.setattr(calibration_room, "STATISTICS_BYTES", 10_000)  # 2 nets
    parts = rank(trained, progress=lambda *step: steps.append(step))
    assert len(steps) > 1 and steps[-1] == (len(steps), len(steps))
    assert parts.order == whole.order
    for a, b in zip(parts.blocks, whole.blocks, strict=True):
        assert (a.error, a.loss) == (pytest.approx(b.error, rel=1e-4), pytest.approx(b.loss, abs=1e-5))


def test_a_net_without_statistics_is_ranked_as_it_is(tmp_path):
    train(load_recipe("digits", TINY | VIT), tmp_path / "vit", progress=False)
    ranking = rank(tmp_path / "vit")
    assert (ranking.calibration, ranking.calibration_images, len(ranking.blocks)) == (None, 0, 3)
    assert "calibration" not in ranking.to_mapping() and sorted(ranking.order[0]) == [0, 1, 2]
    opened = open_run(tmp_path / "vit")
    (x, _), *_ = opened.data.validation
    with torch.no_grad():
        whole, without = (opened.network.eval()(x, subnet) for subnet in ("3", "[0.2]"))
    errors = (whole - without).norm(dim=1) / whole.norm(dim=1)
    assert len(x) == ranking.images and ranking.blocks[1].error == pytest.approx(errors.mean().item(), rel=1e-4)


def test_positions_of_sequences_that_do_not_count_have_no_error():
    whole = torch.tensor([[[3.0, 4.0], [9.0, 9.0]], [[0.0, 2.0], [0.0, 0.0]]])  # two sequences of two positions
    changed = torch.tensor([[[3.0, 2.0], [0.0, 7.0]], [[0.0, 1.0], [2.0, 0.0]]])
    for targets, expected in (
        (torch.tensor([[1, -100], [1, 0]]), (2 / 5, 5**0.5 / 2)),  # |(0, 2)| / |(3, 4)|, |(0, 1, -2, 0)| / |(0, 2)|
        (torch.tensor([[1, -100], [0, -100]]), (2 / 5, 1 / 2)),
    ):
        errors = importance_room._Errors(2)
        errors.add(0, whole, targets)
        errors.add(1, changed, targets)
        mean, error = sum(expected) / 2, abs(expected[0] - expected[1]) / 2 / 2**0.5
        assert errors.of(1) == (pytest.approx(mean), pytest.approx(error)) and errors.of(0) == (0.0, 0.0)


@pytest.fixture
def spoilt(run, tmp_path):
    """Weights in which one block does nothing, as found somewhere."""
    weights = load_file(run / "model.safetensors")
    for key in [key for key in weights if key.startswith(f"{SPOILT}.") and key.endswith(("weight", "bias"))]:
        weights[key] = torch.zeros_like(weights[key])
    save_file(weights, tmp_path / "spoilt.safetensors")
    settings = {"model.arguments": {"width": 4}, "training.threads": 1, "data.crop_padding": 1, "data.flip": False}
    return adopt(
        recipe_for("cifar/resnet20", "digits", settings), tmp_path / "spoilt.safetensors", tmp_path / "adopted"
    )


def test_a_block_that_does_nothing_is_the_least_important_and_the_first_to_go(spoilt):
    ranking = rank(spoilt)
    (idle,) = (block for block in ranking.blocks if block.name == SPOILT)
    assert (idle.stage, idle.block, idle.loss, idle.quality) == (1, 2, 0.0, 0.0) and idle.error < 1e-6
    assert all(block.error > 0.01 for block in ranking.blocks if block is not idle)
    assert ranking.order[1] == (0, 1, 2), "block 2 goes first in an ordered space as well"
    weights = load_file(spoilt / "model.safetensors")
    exchanged = {"layer2.1": "layer2.2", "layer2.2": "layer2.1"}
    weights = {exchanged.get(key[:8], key[:8]) + key[8:]: value for key, value in weights.items()}
    save_file(weights, spoilt.parent / "swapped.safetensors")
    swapped = adopt(RunDirectory.open(spoilt).recipe, spoilt.parent / "swapped.safetensors", spoilt.parent / "swapped")
    assert rank(swapped).order[1] == (0, 2, 1)
    assert rank(swapped).space.split("-")[1] == "[0.2.1]"
    means = {}
    for space in ("ordered", "ranked"):
        summary = evaluate(swapped, space=space, latency=False)
        means[space] = summary["subnets"]["mean"]
        quality = {str(member.subnet): member.score.quality for member in RunDirectory.open(swapped).family}
        without = "3-[0.2]-3" if space == "ranked" else "3-2-3"
        assert (quality[without] == quality["3-3-3"]) is (space == "ranked"), "nothing is lost without the idle block"
    assert means["ranked"] > means["ordered"] + 1, means


def test_a_ranked_space_is_measured_chosen_from_and_written_down(trained, capsys):
    with pytest.raises(UsageError, match=r"nobody has measured how much the blocks .*; do: stimulative rank"):
        evaluate(trained, space="ranked")
    assert main(["rank", str(trained)]) == 0
    said = capsys.readouterr().out
    order = RunDirectory.open(trained).ranking.space
    assert f"order: {order}" in said and "on 90 validation images" in said and "are noise and mean nothing" in said
    assert "layer3.2" in said and said.count("±") == 7 + 1
    assert main(["evaluate", str(trained), "--space", "ranked", "--no-latency"]) == 0
    assert "27 of 27 ranked subnets: " in capsys.readouterr().out
    assert json.loads((trained / "summary.json").read_text())["subnets"]["space"] == order
    expected = set(open_run(trained).network.space.keeping(order))
    assert {member.subnet for member in RunDirectory.open(trained).family} == expected
    choice = choose(trained, max_params="20k", space="ranked", latency_seconds=0)
    assert choice.tried.space == order and choice.subnet in expected
    assert main(["rank", str(trained), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads((trained / "rank.json").read_text())
    assert main(["verify", str(trained)]) == 0
    assert "rank.json" in capsys.readouterr().out


def test_an_order_in_a_recipe_trains_and_measures_by_it(tmp_path):
    order = [[2, 0, 1], [0, 2, 1], [0, 1, 2]]
    changed = {"evaluation.space": "ranked:[2.0.1]-[0.2.1]-3", "method.name": "stimulative", "schedule.epochs": 1}
    recipe = load_recipe("digits", TINY | changed | {"method.sampler": {"name": "ranked", "order": order}})
    train(recipe, tmp_path / "run", progress=False)
    evaluate(tmp_path / "run", latency=False)
    found = RunDirectory.open(tmp_path / "run")
    assert found.recipe == recipe and found.summary.subnets.space == changed["evaluation.space"]
    assert {str(member.subnet).split("-")[0] for member in found.family} == {"[2]", "[0.2]", "3"}


def test_an_order_that_is_none_is_refused_before_any_work(run, tmp_path, capsys):
    with pytest.raises(UsageError, match=r"evaluation\.space: which blocks a stage keeps is one of .*; got 'ranked'"):
        load_recipe("digits", {"evaluation.space": "ranked"})
    recipe = load_recipe("digits", TINY | {"evaluation.space": "ranked:3-3"})
    with pytest.raises(UsageError, match=r"evaluation\.space: the order of importance 3-3 is one of stages of"):
        train(recipe, tmp_path / "run", progress=False)
    assert not (tmp_path / "run" / "summary.json").exists()
    before = (run / "summary.json").read_bytes()
    assert main(["evaluate", str(run), "--space", "ranked:[1.0.2]-3-[1.0.2]"]) == 2
    assert "order of importance of stage 2 begins with block 1" in capsys.readouterr().err
    assert main(["rank", str(tmp_path / "nothing")]) == 2
    assert main(["rank"]) == 2
    assert "give a run directory, or --model, --weights and --data" in capsys.readouterr().err
    assert (run / "summary.json").read_bytes() == before


def test_a_changed_ranking_is_told(trained):
    rank(trained)
    path = trained / "rank.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | {"order": [[0, 1]]}))
    with pytest.raises(UsageError, match=r"rank\.json .*measure again: stimulative rank"):
        evaluate(trained, space="ranked")
    path.write_text(json.dumps(content | {"format": 99}))
    with pytest.raises(UsageError, match=r"rank\.json: this ranking of blocks is of format 99"):
        evaluate(trained, space="ranked")
    path.write_text("[]")
    with pytest.raises(UsageError, match=r"rank\.json is not as stimulative writes it"):
        evaluate(trained, space="ranked")
