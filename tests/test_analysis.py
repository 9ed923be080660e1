"""Cost and accuracy of every subnet, and methods side by side."""

import csv
import json
import statistics

import pytest
import timm
import torch
from safetensors.torch import load_model
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

import stimulative
from stimulative import models
from stimulative.analysis import CostModel, compare, evaluate
from stimulative.analysis.comparison import plan_runs, table
from stimulative.analysis.family import choose_subnets, read_family
from stimulative.errors import UsageError
from stimulative.training import load_recipe, measure, prepare, train

TINY = {
    "model.arguments": {"width": 4},
    "schedule.epochs": 2,
    "training.threads": 1,
}


def removed(model: nn.Module, network: stimulative.ResidualNetwork, subnet: stimulative.Subnet) -> nn.Module:
    for stage, kept in zip(network.stages, subnet.stages, strict=True):
        parent, _, name = stage.name.rpartition(".")
        blocks = list(model.get_submodule(stage.name).children())
        setattr(model.get_submodule(parent), name, nn.Sequential(*(blocks[block] for block in kept)))
    return model


@pytest.mark.parametrize(
    ("make", "size"),
    [
        (lambda: models.build("cifar/resnet20", classes=10), 32),
        (lambda: timm.create_model("convnext_atto", num_classes=10), 64),
        (lambda: timm.create_model("vit_tiny_patch16_224", img_size=32, num_classes=10), 32),
    ],
    ids=["resnet", "convnext", "vit"],
)
def test_the_cost_of_a_subnet_is_that_of_a_net_without_the_blocks(make, size):
    x = torch.randn(1, 3, size, size)
    network = stimulative.unravel(make(), x)
    costs = CostModel(network, x)
    for subnet in (network.full, network.space.smallest, stimulative.Subnet(((0, 1), *network.full.stages[1:]))):
        plain = removed(make(), network, subnet).eval()
        # older PyTorch cannot count fused attention
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            plain(x)
        cost = costs.of(subnet)
        assert cost.parameters == sum(p.numel() for p in plain.parameters())
        assert cost.flops == counter.get_total_flops() > 0


def test_flops_of_a_convolution_by_hand():
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 3, padding=1, bias=False)

        def forward(self, x):
            return x + self.conv(x)

    network = stimulative.unravel(nn.Sequential(Block(), Block()), torch.randn(1, 3, 5, 5))
    costs = CostModel(network, torch.randn(1, 3, 5, 5))
    one = 2 * 5 * 5 * 3 * (3 * 3 * 3)  # a multiply and an add for each weight of each of 5x5 places of 3 channels
    assert costs.of(stimulative.Subnet.parse("1")).flops == one
    assert costs.main.flops == 2 * one and costs.main.parameters == 2 * 81


def test_a_sample_of_subnets_is_distinct_seeded_and_ordered():
    network = stimulative.unravel(models.build("cifar/resnet20", classes=10), torch.randn(2, 3, 32, 32))
    sample = choose_subnets(network, 9, seed=4)
    assert len(set(sample)) == 9 and all(subnet in network.space for subnet in sample)
    assert sample == choose_subnets(network, 9, seed=4) != choose_subnets(network, 9, seed=5)
    assert choose_subnets(network, "all", 0) == choose_subnets(network, 1000, 0) == list(network.space)
    with pytest.raises(UsageError, match="the number of subnets is 1 or more, or 'all'; got 0"):
        choose_subnets(network, 0, 0)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "run"
    train(load_recipe("digits", TINY), out, progress=False)
    return out


def test_evaluation_writes_every_subnet(run):
    summary = evaluate(run)
    with (run / "subnets.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == [
        *("subnet", "blocks", "top1", "loss", "parameters", "flops", "latency_ms", "latency_iqr_ms")
    ]
    assert [row["subnet"] for row in rows] == [f"{a}-{b}-{c}" for a in (1, 2, 3) for b in (1, 2, 3) for c in (1, 2, 3)]
    assert [int(row["blocks"]) for row in rows] == [sum(map(int, row["subnet"].split("-"))) for row in rows]
    top1 = [float(row["top1"]) for row in rows]
    part = summary["subnets"]
    assert part["evaluated"] == part["count"] == 27
    assert part["mean"] == pytest.approx(statistics.fmean(top1), abs=1e-3)
    assert part["std"] == pytest.approx(statistics.pstdev(top1), abs=1e-3)
    assert (part["min"], part["max"]) == (pytest.approx(min(top1), abs=1e-3), pytest.approx(max(top1), abs=1e-3))
    assert part["calibration_images"] == 808  # all that digits has, after test and validation parts
    assert json.loads((run / "summary.json").read_text()) == summary


def test_the_full_subnet_is_the_main_net(run):
    summary = evaluate(run)
    full = read_family(run / "subnets.csv")[-1]
    assert str(full.subnet) == "3-3-3"
    assert full.score.top1 == pytest.approx(summary["main"]["top1"], abs=1e-3)
    assert full.score.loss == pytest.approx(summary["main"]["loss"], abs=1e-5)
    assert full.cost.parameters == summary["parameters"]


def test_a_subnet_is_as_good_as_measured_by_hand(run):
    evaluate(run)
    prepared = prepare(load_recipe(run / "recipe.yaml"))
    network = prepared.network
    load_model(network.model, run / "model.safetensors")
    subnet = stimulative.Subnet.parse("1-2-1")
    network.load_statistics(network.recalibrate(prepared.data.calibration, [subnet]), subnet)
    plain = removed(network.model, network, subnet).eval()
    with torch.no_grad():
        hits = [(plain(x).argmax(-1) == y).float() for x, y in prepared.data.test]
    by_name = {str(member.subnet): member for member in read_family(run / "subnets.csv")}
    assert by_name["1-2-1"].score.top1 == pytest.approx(100 * float(torch.cat(hits).mean()), abs=1e-3)


def test_a_part_of_the_subnets_is_stated(run):
    part = evaluate(run, subnets=5, seed=3)["subnets"]
    assert (part["evaluated"], part["count"], part["seed"]) == (5, 27, 3)
    assert len(read_family(run / "subnets.csv")) == 5


@pytest.mark.skipif(torch.cuda.is_available(), reason="shows what happens where there is no GPU")
def test_a_run_from_a_gpu_is_evaluated_on_a_machine_without_one(run, tmp_path):
    for name in ("recipe.yaml", "summary.json", "model.safetensors"):
        (tmp_path / name).write_bytes((run / name).read_bytes())
    recipe = (tmp_path / "recipe.yaml").read_text()
    (tmp_path / "recipe.yaml").write_text(recipe.replace("device: auto", "device: cuda"))
    assert load_recipe(tmp_path / "recipe.yaml").training.device == "cuda"
    assert evaluate(tmp_path, subnets=3)["subnets"]["evaluated"] == 3


def test_measuring_leaves_the_mode_as_it_was(run):
    prepared = prepare(load_recipe(run / "recipe.yaml"))
    prepared.network.train()
    prepared.network.model.layer1.eval()
    measure(prepared.network, prepared.data.validation)
    assert prepared.network.training and not prepared.network.model.layer1.training


def test_a_directory_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(UsageError, match=r"is not a run directory: it has no recipe\.yaml"):
        evaluate(tmp_path)
    (tmp_path / "recipe.yaml").write_text(load_recipe("digits", TINY).to_yaml())
    with pytest.raises(UsageError, match="has not finished: continue it with"):
        evaluate(tmp_path)


def summary(main, mean, std, seconds, memory):
    return {
        "main": {"top1": main},
        "subnets": {"mean": mean, "std": std, "min": mean - 2 * std},
        "train_seconds": seconds,
        "peak_memory_mib": memory,
    }


def test_the_table_is_means_over_seeds_and_ratios_to_common_training():
    rows = table(
        {
            ("common", 0): summary(70.0, 50.0, 10.0, 10.0, 100.0),
            ("common", 1): summary(74.0, 54.0, 12.0, 12.0, 100.0),
            ("stimulative", 0): summary(75.0, 73.0, 1.0, 15.0, 110.0),
            ("stimulative", 1): summary(77.0, 74.0, 0.5, 16.0, 140.0),
        }
    )
    common, stimulative_row = rows
    assert common["method"] == "common" and common["seeds"] == 2
    assert (common["main_mean"], common["all_mean"], common["all_std"]) == (72.0, 52.0, 11.0)
    assert common["main_std"] == pytest.approx(8**0.5)
    assert (common["time_ratio"], common["memory_ratio"]) == (1.0, 1.0)
    assert stimulative_row["time_ratio"] == pytest.approx(15.5 / 11)
    assert stimulative_row["memory_ratio"] == pytest.approx(1.25)
    alone = table({("stimulative", 0): summary(75.0, 73.0, 1.0, 15.0, 110.0)})[0]
    assert alone["time_ratio"] is None and alone["main_std"] == 0.0


def test_methods_take_turns_and_keep_the_rest_of_the_recipe():
    recipe = load_recipe("digits", {"method.balance": 3.0, "seed": 7})
    plan = plan_runs(recipe, ["common", "stimulative"], 2)
    assert list(plan) == [("common", 7), ("stimulative", 7), ("common", 8), ("stimulative", 8)]
    assert plan["stimulative", 8].method.settings["balance"] == 3.0 and plan["stimulative", 8].seed == 8
    assert dict(plan["common", 7].method.settings) == {} and plan["common", 7].optimizer == recipe.optimizer


@pytest.mark.parametrize(
    ("methods", "seeds", "message"),
    [
        (["comon"], 1, "unknown method 'comon', known: common, stimulative"),
        (["common", "common"], 1, "each method may be named once, got common, common"),
        ([], 1, "no method given"),
        (["common"], 0, "the number of seeds is 1 or more, got 0"),
    ],
)
def test_an_impossible_comparison_is_refused_before_any_run(tmp_path, methods, seeds, message):
    with pytest.raises(UsageError, match=message):
        compare(load_recipe("digits", TINY), tmp_path / "out", methods=methods, seeds=seeds)
    assert not (tmp_path / "out").exists()


def test_a_comparison_does_not_repeat_finished_runs_nor_mix_recipes(tmp_path):
    recipe = load_recipe("digits", {**TINY, "schedule.epochs": 1})
    done = []
    first = compare(recipe, tmp_path, seeds=1, after_run=lambda name, _: done.append(name))
    assert done == ["common-seed0", "stimulative-seed0"]
    assert json.loads((tmp_path / "comparison.json").read_text()) == first
    before = (tmp_path / "common-seed0" / "model.safetensors").stat().st_mtime_ns
    assert compare(recipe, tmp_path, seeds=1)["rows"] == first["rows"]
    assert (tmp_path / "common-seed0" / "model.safetensors").stat().st_mtime_ns == before
    with pytest.raises(UsageError, match="common-seed0 holds a run of another recipe"):
        compare(recipe.override({"optimizer.lr": 0.2}), tmp_path, seeds=1)
