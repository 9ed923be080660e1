"""Cost and accuracy of every subnet, and methods side by side."""

import csv
import inspect
import io
import json
import math
import statistics
from dataclasses import replace

import nets
import pytest
import timm
import torch
from safetensors.torch import load_model
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

import stimulative
from stimulative import models
from stimulative.analysis import CostModel, choose_subnets, evaluate
from stimulative.errors import UsageError
from stimulative.methods import METHODS
from stimulative.runs import Family, FamilySummary, MainScore, Summary
from stimulative.studies import ComparisonPlan, Outcome, caution, compare, notes, sentences
from stimulative.studies import planning as planning_room
from stimulative.studies.comparison import differences, table
from stimulative.studies.significance import LEVEL, Difference, difference
from stimulative.studies.variants import Variant, variants
from stimulative.tasks import MEASURES
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


def test_a_module_that_is_given_a_parameter_is_counted_as_well():
    class Token(nn.Module):
        def __init__(self):
            super().__init__()
            self.token = nn.Parameter(torch.ones(1, 3))
            self.pick, self.blocks = nn.Identity(), nn.Sequential(*[nets.MLPBlock(3) for _ in range(2)])

        def forward(self, x):
            return self.blocks(x + self.pick(self.token.expand(len(x), -1)))

    x = torch.randn(1, 3)
    network = stimulative.unravel(Token(), x)
    network.model.blocks[0].requires_grad_(False)
    assert CostModel(network, x).main.flops > 0
    learned = [parameter.requires_grad for parameter in network.model.parameters()]
    assert network.model.token.requires_grad and not all(learned) and any(learned)


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
        *("subnet", "blocks", "top1", "loss", "parameters", "flops"),
        *("latency_ms", "latency_iqr_ms", "temperature", "perplexity", "validation_top1", "macro_f1"),
    ]
    assert not any(row["perplexity"] for row in rows)  # of text alone
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
    full = list(Family.read(run / "subnets.csv"))[-1]
    assert str(full.subnet) == "3-3-3"
    assert full.score.quality == pytest.approx(summary["main"]["top1"], abs=1e-3)
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
    by_name = {str(member.subnet): member for member in list(Family.read(run / "subnets.csv"))}
    assert by_name["1-2-1"].score.quality == pytest.approx(100 * float(torch.cat(hits).mean()), abs=1e-3)


def test_a_part_of_the_subnets_is_stated(run):
    part = evaluate(run, subnets=5, seed=3)["subnets"]
    assert (part["evaluated"], part["count"], part["seed"]) == (5, 27, 3)
    assert len(list(Family.read(run / "subnets.csv"))) == 5


@pytest.mark.skipif(torch.cuda.is_available(), reason="shows what happens where there is no GPU")
def test_a_run_from_a_gpu_is_evaluated_on_a_machine_without_one(run, tmp_path):
    for name in ("recipe.yaml", "summary.json", "model.safetensors"):
        (tmp_path / name).write_bytes((run / name).read_bytes())
    recipe = (tmp_path / "recipe.yaml").read_text()
    (tmp_path / "recipe.yaml").write_text(recipe.replace("device: auto", "device: cuda"))
    assert load_recipe(tmp_path / "recipe.yaml").training.device == "cuda"
    assert evaluate(tmp_path, subnets=3)["subnets"]["evaluated"] == 3


def test_evaluation_stores_images_and_weights_as_training_does(run, tmp_path):
    for name in ("recipe.yaml", "summary.json", "model.safetensors"):
        (tmp_path / name).write_bytes((run / name).read_bytes())
    recipe = (tmp_path / "recipe.yaml").read_text()
    (tmp_path / "recipe.yaml").write_text(recipe.replace("channels_last: false", "channels_last: true"))
    last = set()

    def look(module: nn.Module, _: object, output: torch.Tensor) -> None:
        if isinstance(module, nn.Conv2d) and len(output) > 2:  # those of images, not of examples
            last.add(output.is_contiguous(memory_format=torch.channels_last))

    hook = nn.modules.module.register_module_forward_hook(look)
    try:
        summary = evaluate(tmp_path, subnets=3, latency=False)
    finally:
        hook.remove()
    assert last == {True}
    assert summary["subnets"]["mean"] == pytest.approx(
        evaluate(run, subnets=3, latency=False)["subnets"]["mean"], abs=0.3
    )


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


def summary(main, mean, std, seconds, memory, method="common", seed=0):
    return Summary(
        task="images",
        method=method,
        model="cifar/resnet20",
        data="digits",
        seed=seed,
        train_seconds=seconds,
        peak_memory_mib=memory,
        main=MainScore(main, 1.0),
        subnets=FamilySummary(count=27, evaluated=27, mean=mean, std=std, min=mean - 2 * std, max=main),
    )


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
    assert common.method == "common" and common.seeds == 2
    assert (common.main_mean, common.all_mean, common.all_std) == (72.0, 52.0, 11.0)
    assert common.main_std == pytest.approx(8**0.5)
    assert (common.time_ratio, common.memory_ratio) == (1.0, 1.0)
    assert stimulative_row.time_ratio == pytest.approx(15.5 / 11)
    assert stimulative_row.memory_ratio == pytest.approx(1.25)
    assert (stimulative_row.n, stimulative_row.seeds_used) == (2, (0, 1))
    assert (stimulative_row.main_values, stimulative_row.all_values) == ((75.0, 77.0), (73.0, 74.0))
    assert list(common.to_mapping())[:3] == ["method", "seeds", "main_mean"]
    alone = table({("stimulative", 0): summary(75.0, 73.0, 1.0, 15.0, 110.0)})[0]
    assert alone.time_ratio is None and alone.main_std == 0.0


def test_runs_that_shared_a_machine_have_no_ratio_of_times():
    shared = replace(summary(75.0, 73.0, 1.0, 15.0, 110.0), runs_at_once=2)
    rows = table({("common", 0): summary(70.0, 50.0, 10.0, 10.0, 100.0), ("stimulative", 0): shared})
    assert [row.runs_at_once for row in rows] == [1, 2]
    assert (rows[0].time_ratio, rows[1].time_ratio, rows[1].memory_ratio) == (1.0, None, 1.1)


def plan_runs(recipe, methods, seeds):
    """The recipe of each run of a comparison, by method and seed, in the order in which they run."""
    plan = ComparisonPlan(recipe, methods, seeds=seeds)
    return {(str(variant), seed): plan.jobs[name].recipe for name, (variant, seed) in plan.runs.items()}


def test_methods_take_turns_and_keep_the_rest_of_the_recipe():
    recipe = load_recipe("digits", {"method.balance": 3.0, "seed": 7})
    plan = plan_runs(recipe, ["common", "stimulative"], 2)
    assert list(plan) == [("common", 7), ("stimulative", 7), ("common", 8), ("stimulative", 8)]
    assert plan["stimulative", 8].method.settings["balance"] == 3.0 and plan["stimulative", 8].seed == 8
    assert dict(plan["common", 7].method.settings) == {} and plan["common", 7].optimizer == recipe.optimizer


def test_all_is_every_method_in_the_order_of_the_table():
    plan = list(plan_runs(load_recipe("digits"), ["all", "stimulative:every=2"], 2))
    assert plan == [(method, seed) for seed in (0, 1) for method in (*METHODS, "stimulative:every=2")]


def test_settings_of_the_recipes_method_are_not_those_of_others_even_where_they_have_the_same_name():
    recipe = load_recipe("digits", {"method.balance": 7.0, "method.temperature": 9.0})
    plan = plan_runs(recipe, "all", 1)
    shared = 0
    for name, method in METHODS.items():
        settings = plan[name, 0].method.settings
        for key, parameter in inspect.signature(method).parameters.items():
            if name != "stimulative" and key in settings:
                assert settings[key] == parameter.default, (name, key)
                shared += key in ("balance", "temperature")
    assert shared  # there is such a name, or nothing was tested
    assert plan["stimulative", 0].method.settings["balance"] == 7.0


def test_a_variant_is_its_method_with_its_settings_over_the_recipes():
    recipe = load_recipe("digits", {"method.balance": 3.0})
    text = "stimulative:every=2:sampler={name: unordered, keep: 0.8}"
    plan = plan_runs(recipe, f"common,{text}, stimulative:sampler.name=interstage", 1)
    assert list(plan) == [("common", 0), (text, 0), ("stimulative:sampler.name=interstage", 0)]
    settings = plan[text, 0].method.settings
    assert (settings["balance"], settings["every"]) == (3.0, 2)
    assert settings["sampler"] == {"name": "unordered", "keep": 0.8}
    assert plan["stimulative:sampler.name=interstage", 0].method.settings["sampler"] == {"name": "interstage"}
    common = load_recipe("digits", {"method.name": "common"})
    assert plan_runs(common, ["stimulative:every=2"], 1)["stimulative:every=2", 0].method.settings["balance"] == 1.0


@pytest.mark.parametrize(
    ("text", "directory"),
    [
        ("common", "common"),
        ("stimulative:every=2:subnets_per_step=2", "stimulative-every=2-subnets_per_step=2"),
        ("stimulative:balance=1e-3", "stimulative-balance=1e-3"),
    ],
)
def test_plain_variants_have_plain_directories(text, directory):
    (variant,) = variants(text)
    assert (str(variant), variant.directory) == (text, directory)


def test_directories_of_other_variants_are_safe_distinct_and_hang_on_the_variant_alone():
    texts = ["stimulative:sampler={name: late}", "stimulative:sampler={name: lat/e}", "stimulative:x='a b'"]
    found = [variant.directory for variant in variants(texts)]
    assert len(set(found)) == 3 and all(not set(name) & set(" /:{}'\"<>|?*") for name in found)
    assert [variants([text])[0].directory for text in reversed(texts)] == found[::-1]
    assert len(Variant("stimulative", (("key", "v" * 1000),)).directory) < 120


@pytest.mark.parametrize(
    ("methods", "seeds", "message"),
    [
        (["comon"], 1, "unknown method 'comon', known: common, .*did you mean 'common'"),
        (["common", "common"], 1, "each method may be named once, got common, common"),
        ("all,common", 1, "each method may be named once"),
        ([], 1, "no method given"),
        (" , ", 1, "no method given"),
        (["common"], 0, "the number of seeds is from 1 to 1,000, got 0"),
        (["comon:every=2"], 1, "unknown method 'comon'"),
        (
            ["stimulative:evry=2"],
            1,
            "'stimulative:evry=2' of the recipe: method.evry: unknown setting; .*did you mean 'method.every'",
        ),
        (["common:every=2"], 1, "'common:every=2' of the recipe: method.every: .* a setting of the method stimulative"),
        (["stimulative:every=no"], 1, "'stimulative:every=no' of the recipe: method.every: got 'no'"),
        (["stimulative:every=0"], 1, "'stimulative:every=0' of the recipe: method.every: got 0"),
        (["stimulative:every"], 1, r"NAME:key=value\[:key=value\], got 'every' in 'stimulative:every'"),
        (["stimulative:"], 1, "NAME:key=value.*, got '' in 'stimulative:'"),
        (["stimulative:every=2:every=3"], 1, "may be given once, got every twice in 'stimulative:every=2:every=3'"),
        (["stimulative:name=common"], 1, "stands in front of its settings, got 'name=common'"),
        (["stimulative:sampler={name: late"], 1, "a bracket or a quote is not closed in 'stimulative:sampler"),
        (["stimulative", "stimulative:every=1"], 1, "'stimulative:every=1' and 'stimulative' train the same way"),
    ],
)
def test_an_impossible_comparison_is_refused_before_any_run(tmp_path, methods, seeds, message):
    with pytest.raises(UsageError, match=message):
        compare(load_recipe("digits", TINY), tmp_path / "out", methods=methods, seeds=seeds)
    assert not (tmp_path / "out").exists()


def test_a_comparison_does_not_repeat_finished_runs_nor_mix_recipes(tmp_path):
    little = {"schedule.max_steps": 1, "evaluation.subnets": 2, "evaluation.calibration_images": 64}
    recipe = load_recipe("digits", {**TINY, **little})
    done = []
    first = compare(recipe, tmp_path, seeds=1, after_run=lambda name, _: done.append(name))
    assert done == ["common-seed0", "stimulative-seed0"]
    assert json.loads((tmp_path / "comparison.json").read_text()) == first.to_mapping()
    before = (tmp_path / "common-seed0" / "model.safetensors").stat().st_mtime_ns
    assert compare(recipe, tmp_path, seeds=1).rows == first.rows
    more = compare(recipe, tmp_path, methods="common,stimulative,stimulative:every=3", seeds=1)
    assert more.rows[:2] == first.rows and more.rows[2].method == "stimulative:every=3"
    assert [run.run for run in more.runs] == [*done, "stimulative-every=3-seed0"]
    assert load_recipe(tmp_path / "stimulative-every=3-seed0" / "recipe.yaml").method.settings["every"] == 3
    assert (tmp_path / "common-seed0" / "model.safetensors").stat().st_mtime_ns == before
    fewer = compare(recipe, tmp_path, methods="common", seeds=1)
    assert fewer.left_out == ("stimulative-every=3-seed0", "stimulative-seed0") and more.left_out == ()
    told = "not asked for this time: stimulative-every=3-seed0, stimulative-seed0"
    assert told in (tmp_path / "comparison.md").read_text()
    (tmp_path / "common-seed0" / "summary.json").write_text('{"main": {"top1": "x"}, "subnets": {}}')
    damaged = compare(recipe, tmp_path, seeds=1)
    assert [row.method for row in damaged.rows] == ["stimulative"]
    assert "is not the summary of a run" in damaged.failed[0].error
    (tmp_path / "common-seed0" / "summary.json").unlink()
    with pytest.raises(UsageError, match="common-seed0 holds a run of another recipe"):
        compare(recipe.override({"optimizer.lr": 0.2}), tmp_path, seeds=1)


@pytest.fixture
def made_up(monkeypatch):
    """Comparisons whose runs are made up: accuracies by name of the run, None for one that fails."""

    def make(top1: dict[str, float | None]):
        def run_all(jobs, out, *, workers=None, after_run=None):
            out.mkdir(parents=True, exist_ok=True)
            done = {name: value for name, value in ((name, top1[name]) for name in jobs) if value is not None}
            summaries = {
                name: summary(
                    *(value, value - 10, 2.0, 10.0 if name.startswith("common") else 14.0, 200.0),
                    jobs[name].recipe.method.name,
                    jobs[name].recipe.seed,
                )
                for name, value in done.items()
            }
            return Outcome(summaries, {name: "killed" for name in jobs if name not in done})

        monkeypatch.setattr(planning_room, "run_all", run_all)

    return make


def test_the_files_of_a_comparison_say_the_same(tmp_path, made_up):
    made_up(
        {f"common-seed{seed}": 70.0 + seed for seed in range(3)}
        | {"stimulative-every=2-seed0": 71.0, "stimulative-every=2-seed1": None, "stimulative-every=2-seed2": 75.0}
        | {f"group_knowledge-seed{seed}": None for seed in range(3)}
    )
    methods = ["group_knowledge", "common", "stimulative:every=2"]
    result = compare(load_recipe("digits", TINY), tmp_path, methods=methods)
    assert json.loads((tmp_path / "comparison.json").read_text()) == result.to_mapping()
    assert list(result.methods) == methods and result.reference == "common" and result.seeds == (0, 1, 2)
    assert [row.method for row in result.rows] == ["common", "stimulative:every=2"]
    assert [row.n for row in result.rows] == [3, 2] and result.rows[1].seeds_used == (0, 2)
    assert [(run.variant, run.summary.seed) for run in result.runs] == [
        *(("common", 0), ("stimulative:every=2", 0), ("common", 1), ("common", 2), ("stimulative:every=2", 2))
    ]
    assert len(result.failed) == 4
    # +1 and +3 with seeds 0 and 2: mean 2, deviation sqrt(2), and t(97.5 %, 1) = 12.706
    said = (
        "+2.00 ± 1.41 points over 2 seeds, 95 % interval -10.71 to +14.71: not distinguishable from 0 with these seeds "
        "(1 left out, which one of the two lacks: seed 1)"
    )
    markdown = (tmp_path / "comparison.md").read_text()
    for line in (
        "# cifar/resnet20 on digits",
        "2 epochs, seeds 0, 1, 2.",
        "| method | seeds | time | memory | main net | all subnets | worst |",
        "| `common` | 3 | 1.00× | 1.00× | 71.00 ± 1.00 | 61.00 ± 2.00 | 57.00 |",
        "| `stimulative:every=2` | 2 of 3 | 1.40× | 1.00× | 73.00 ± 2.83 | 63.00 ± 2.00 | 59.00 |",
        "Without a row, since none of their runs has finished: group_knowledge.",
        f"- `stimulative:every=2`, main net: {said}.",
        "- `stimulative-every=2-seed1`: killed",
    ):
        assert line in markdown.splitlines(), line
    rows = list(csv.DictReader(io.StringIO((tmp_path / "comparison.csv").read_text())))
    assert [row["method"] for row in rows] == ["common", "stimulative:every=2"]
    assert (rows[1]["n"], rows[1]["seeds"], rows[1]["reference"]) == ("2", "0 2", "common")
    assert float(rows[1]["main_difference_mean"]) == 2.0
    assert float(rows[1]["main_difference_high"]) == pytest.approx(14.706, abs=1e-3)
    assert rows[0]["main_difference_mean"] == rows[0]["reference"] == ""


def test_a_comparison_of_which_nothing_finished_says_so(tmp_path, made_up):
    made_up({"common-seed0": None})
    result = compare(load_recipe("digits", TINY), tmp_path, methods=["common"], seeds=1)
    assert (result.rows, result.reference, result.differences) == ((), None, ())
    assert "none of their runs has finished: common" in (tmp_path / "comparison.md").read_text()
    assert (tmp_path / "comparison.csv").read_text().count("\n") == 1


def test_every_two_methods_are_compared_the_reference_first(tmp_path, made_up):
    made_up({"stimulative-seed0": 72.0, "common-seed0": 70.0, "stimulative-every=2-seed0": 71.5})
    methods = ["stimulative", "common", "stimulative:every=2"]
    result = compare(load_recipe("digits", TINY), tmp_path, methods=methods, seeds=1)
    main = {(d.method, d.reference): d.mean for d in result.differences if d.measure == "main"}
    assert main == {
        ("stimulative", "common"): 2.0,
        ("stimulative:every=2", "common"): 1.5,
        ("stimulative:every=2", "stimulative"): -0.5,
    }
    assert len(result.differences) == 2 * len(main)
    assert [method for method, _, _ in sentences(result)] == ["stimulative"] * 2 + ["stimulative:every=2"] * 2
    assert caution(result) == ""  # one seed has no interval
    assert notes(result)[1].startswith("Time of training and peak memory: times those of common (10.0 s, 200 MiB)")
    without = compare(load_recipe("digits", TINY), tmp_path, methods=methods[::2], seeds=1)
    assert without.reference == "stimulative" and without.rows[0].time_ratio is None
    assert "| `stimulative` | 1 | 14 s | 200 MiB | 72.00 | 62.00 ± 2.00 | 58.00 |" in (
        (tmp_path / "comparison.md").read_text()
    )


def test_a_difference_by_hand():
    # differences 0.3, 0.6, 0.96: mean 0.62; squared deviations 0.1024 + 0.0004 + 0.1156 = 0.2184, so s = sqrt(0.1092)
    found = difference({0: 70.3, 1: 71.6, 2: 72.96}, {0: 70.0, 1: 71.0, 2: 72.0})
    assert found.n == 3 and found.mean == pytest.approx(0.62) and found.std == pytest.approx(0.330454, abs=1e-6)
    half = 4.302653 * 0.330454 / math.sqrt(3)  # t(97.5 %, 2 degrees of freedom) of any table
    assert found.interval == (pytest.approx(0.62 - half, abs=1e-5), pytest.approx(0.62 + half, abs=1e-5))
    assert found.distinguishable is False
    assert found.sentence() == (
        "+0.62 ± 0.33 points over 3 seeds, 95 % interval -0.20 to +1.44: not distinguishable from 0 with these seeds"
    )
    assert list(found.values) == [0, 1, 2] and LEVEL == 0.95


def test_an_interval_is_that_of_scipys_paired_test():
    from scipy.stats import ttest_rel

    generator = torch.Generator().manual_seed(0)
    of, reference = (50 + 10 * torch.rand(2, 6, generator=generator, dtype=torch.float64)).tolist()
    found = difference(dict(enumerate(of)), dict(enumerate(reference)))
    expected = ttest_rel(of, reference).confidence_interval(0.95)
    assert found.interval == (pytest.approx(expected.low), pytest.approx(expected.high))


@pytest.mark.parametrize(
    ("of", "reference", "said"),
    [
        ({0: 71.0}, {0: 70.38}, "+0.62 points with one seed, which says nothing about spread"),
        (
            {0: 71.0, 1: 72.0},
            {0: 70.38, 2: 70.0},
            "+0.62 points with one seed, which says nothing about spread "
            "(2 left out, which one of the two lacks: seeds 1, 2)",
        ),
        (
            {0: 71.0},
            {1: 70.0},
            "no seed that both have finished, so no difference (2 left out, which one of the two lacks: seeds 0, 1)",
        ),
        (
            {0: 70.3, 1: 80.3},
            {0: 70.0, 1: 80.0},
            "+0.30 points with each of 2 seeds, too few to show a spread: no interval",
        ),
        (
            {0: 69.0, 1: 69.2, 2: 69.1},
            {0: 80.0, 1: 80.1, 2: 80.2},
            "-11.00 ± 0.10 points over 3 seeds, 95 % interval -11.25 to -10.75: distinguishable from 0 with these "
            "seeds",
        ),
    ],
)
def test_what_is_said_about_few_seeds(of, reference, said):
    found = difference(of, reference)
    assert found.sentence() == said
    assert (found.interval is None) == ("interval " not in said)
    assert found.distinguishable == (None if found.interval is None else True)


def test_a_difference_of_nothing_has_no_minus():
    assert Difference({0: -0.001}).sentence().startswith("+0.00 points")


def test_differences_have_the_unit_of_their_measure():
    found = Difference({0: 0.5, 1: 0.25})
    assert found.sentence(MEASURES["image_to_image"]).startswith("+0.38 ± 0.18 dB over 2 seeds, 95 % interval -1.21 to")
    assert found.sentence(MEASURES["segmentation"]).startswith("+0.38 ± 0.18 points over 2 seeds")
    assert found.sentence(MEASURES["regression"]).startswith("+0.3750 ± 0.1768 over 2 seeds")


def test_seeds_that_failed_for_both_are_left_out_too():
    rows = table({(method, 0): summary(70.0, 60.0, 1.0, 1.0, 1.0) for method in ("common", "stimulative")})
    assert [one.left_out for one in differences(rows, [0, 1, 2])] == [(1, 2), (1, 2)]
    assert [(one.seeds, one.level) for one in differences(rows)] == [((0,), 0.95)] * 2
