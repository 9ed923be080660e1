"""The family of a network: which subnets, how accurate, at what cost; for runs and for weights from anywhere."""

import csv
import json
import textwrap
import warnings
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn

import stimulative
from stimulative.analysis import adopt, choose_subnets, evaluate, open_run, recipe_for
from stimulative.analysis.cost import Cost
from stimulative.analysis.latency import Latency, measure_latency
from stimulative.cli import main
from stimulative.errors import UsageError
from stimulative.residual import KEPT, Subnet
from stimulative.runs import Family, Member, RunDirectory
from stimulative.training import Score, load_recipe, train

TINY = {"model.arguments": {"width": 4}, "schedule.epochs": 2, "training.threads": 1}
SETTINGS = ["--model.arguments", "{width: 4}", "--training.threads", "1"]


class Block(nn.Module):
    """A residual block on vectors that tells when it runs."""

    def __init__(self, width=4, tell=lambda block: None):
        super().__init__()
        self.linear = nn.Linear(width, width)
        self.tell = tell

    def forward(self, x):
        self.tell(self)
        return x + self.linear(x)


class Vectors(nn.Module):
    """Stages of such blocks."""

    def __init__(self, *depths, tell=lambda block: None):
        super().__init__()
        self.stages = nn.Sequential(*(nn.Sequential(*(Block(tell=tell) for _ in range(depth))) for depth in depths))

    def forward(self, x):
        return self.stages(x)


def vectors(*depths, tell=lambda block: None):
    return stimulative.unravel(Vectors(*depths, tell=tell), torch.randn(2, 4))


def member(subnet, top1, flops, parameters=1, latency=None):
    time = None if latency is None else Latency(latency, 0.1)
    return Member(Subnet.parse(subnet), Score(top1, 1.0), Cost(parameters, flops), time)


def names(family):
    return [str(one.subnet) for one in family]


# Which subnets


def test_auto_is_all_where_they_are_few():
    network = vectors(3, 3)
    assert choose_subnets(network, "auto", 0) == list(network.space)


def test_auto_draws_a_thousand_with_the_main_net_and_the_smallest():
    network = vectors(6, 6, 6, 6)
    assert network.space.count == 1296
    drawn = choose_subnets(network, "auto", 0)
    assert len(set(drawn)) == 1000 and {network.full, network.space.smallest} <= set(drawn)
    assert all(subnet in network.space for subnet in drawn) and drawn == sorted(drawn)
    assert drawn == choose_subnets(network, "auto", 0) != choose_subnets(network, "auto", 1)


def test_all_is_refused_where_they_are_too_many():
    network = vectors(8, 8, 8)
    assert len(choose_subnets(network, "all", 0)) == 512
    with pytest.raises(UsageError, match="there are 16,581,375 subnets; evaluate some of them: subnets=N"):
        choose_subnets(network, "all", 0, "unordered")


@pytest.mark.parametrize("kept", KEPT)
def test_subnets_are_those_of_the_space_that_is_asked_for(kept):
    network = vectors(3, 2)
    space = network.space.keeping(kept)
    assert choose_subnets(network, "auto", 0, kept) == choose_subnets(network, "all", 0, kept) == list(space)
    assert space.count == (7 * 3 if kept == "unordered" else 3 * 2)
    drawn = choose_subnets(network, 4, 3, kept)
    assert len(set(drawn)) == 4 and {network.full, space.smallest} <= set(drawn) <= set(space)
    assert drawn == choose_subnets(network, 4, 3, kept)
    assert choose_subnets(network, ["[0.2]-1"], 0, kept) == [Subnet.parse("[0.2]-1")], "named ones need not be in it"


def test_what_is_drawn_of_an_unordered_space_has_blocks_of_every_kind():
    network = vectors(4, 4, 4)
    drawn = choose_subnets(network, "auto", 0, "unordered")
    assert len(set(drawn)) == 1000 < network.space.unordered().count == 15**3
    assert {network.full, network.space.smallest} <= set(drawn)
    for stage in range(3):  # of 15 sets of blocks, 8 hold a given one
        for block in range(4):
            share = sum(block in subnet.stages[stage] for subnet in drawn) / 1000
            assert abs(share - 8 / 15) < 0.07, (stage, block)


def test_one_subnet_is_drawn_like_any_other():
    network = vectors(4, 4)
    assert len({choose_subnets(network, 1, seed)[0] for seed in range(20)}) > 5


def test_subnets_may_be_named():
    network = vectors(3, 3)
    assert names(SimpleNamespace(subnet=s) for s in choose_subnets(network, ["3-1", "1-[0.2]", "3-1"], 0)) == [
        "1-[0.2]",
        "3-1",
    ]
    for subnets, message in (
        (["4-1"], "subnet 4-1 does not fit"),
        ([], "there is no subnet to measure"),
        ("some", "got 'some'"),
    ):
        with pytest.raises(UsageError, match=message):
            choose_subnets(network, subnets, 0)


# Frontier and spread, worked out by hand


FAMILY = [
    member("1-1", 50.0, 10),
    member("1-2", 60.0, 20),
    member("2-1", 60.0, 25),  # as good as 1-2 and dearer
    member("2-2", 55.0, 30),  # worse than 1-2 and dearer
    member("3-1", 70.0, 40),
    member("1-3", 70.0, 40),  # just like 3-1
    member("3-2", 65.0, 40),  # as dear as 3-1 and worse
    member("3-3", 69.0, 90),
]


def test_the_frontier_is_what_nobody_beats():
    assert names(Family(tuple(FAMILY)).frontier("flops")) == ["1-1", "1-2", "3-1", "1-3"]
    assert names(Family(tuple(FAMILY[::-1])).frontier("flops")) == ["1-1", "1-2", "1-3", "3-1"]
    assert names(Family(tuple(FAMILY)).frontier("parameters")) == ["3-1", "1-3"]
    assert Family(tuple([])).frontier("flops") == []


def test_the_frontier_equals_its_definition():
    torch.manual_seed(0)
    flops = torch.randint(0, 40, (80,))
    top1 = flops + torch.randint(0, 12, (80,))  # with many ties
    family = [member(f"{number + 1}", float(top1[number]), int(flops[number])) for number in range(80)]

    def beats(one, other):
        a, b = (one.cost.flops, -one.score.quality), (other.cost.flops, -other.score.quality)
        return a != b and a[0] <= b[0] and a[1] <= b[1]

    expected = {str(one.subnet) for one in family if not any(beats(other, one) for other in family)}
    assert set(names(Family(tuple(family)).frontier("flops"))) == expected and 1 < len(expected) < 80


def test_members_without_a_latency_are_not_on_its_frontier():
    family = [member("1", 50.0, 1, latency=2.0), member("2", 90.0, 1), member("3", 60.0, 1, latency=1.0)]
    assert names(Family(tuple(family)).frontier("latency_ms")) == ["3"]


def test_accuracy_by_blocks_by_hand():
    family = member("1-1", 40.0, 1), member("1-2", 50.0, 1), member("2-1", 60.0, 1), member("2-2", 80.0, 1)
    assert [row.to_mapping() for row in Family(family).by_blocks()] == [
        {"blocks": 2, "subnets": 1, "mean": 40.0, "std": 0.0, "min": 40.0, "max": 40.0},
        {"blocks": 3, "subnets": 2, "mean": 55.0, "std": 5.0, "min": 50.0, "max": 60.0},
        {"blocks": 4, "subnets": 1, "mean": 80.0, "std": 0.0, "min": 80.0, "max": 80.0},
    ]


def test_spread_by_stage_by_hand():
    family = member("1-1", 40.0, 1), member("1-2", 50.0, 1), member("2-1", 60.0, 1), member("2-2", 80.0, 1)
    rows = Family(family).by_stage(["first", "second"])
    assert [(row.stage, row.name, row.depth, row.subnets) for row in rows] == [
        *((0, "first", 1, 2), (0, "first", 2, 2), (1, "second", 1, 2), (1, "second", 2, 2))
    ]
    assert [(row.mean, row.std, row.min, row.max) for row in rows] == [
        *((45.0, 5.0, 40.0, 50.0), (70.0, 10.0, 60.0, 80.0), (50.0, 10.0, 40.0, 60.0), (65.0, 15.0, 50.0, 80.0))
    ]


# Latency, by a clock that only blocks move


class Clock:
    def __init__(self, per_block=0.02):
        self.now = 0.0
        self.per_block = per_block
        self.runs = []

    def tell(self, block):
        self.now += self.per_block
        self.runs.append(block)

    def __call__(self):
        return self.now


def test_latency_is_that_of_the_blocks_that_run():
    clock = Clock()
    network = vectors(3, 2, tell=clock.tell)
    subnets = list(network.space)
    times = measure_latency(network, torch.randn(3, 4), subnets, clock=clock)
    assert len(times.of) == 6
    for subnet, latency in zip(subnets, times.of, strict=True):
        assert latency.median_ms == pytest.approx(20 * subnet.blocks)
        assert latency.iqr_ms == pytest.approx(0, abs=1e-6)
    assert times.conditions().to_mapping() == {
        "batch": 3,
        "device": times.device,
        "threads": torch.get_num_threads(),
        "rounds": times.rounds,
    }


def test_median_and_spread_of_a_machine_that_slows_down():
    clock = Clock()
    network = vectors(2, tell=clock.tell)

    def slower(rounds):
        clock.per_block = 0.02 * (rounds + 1)

    one = [network.space.smallest]
    latency = measure_latency(network, torch.randn(1, 4), one, seconds=0, clock=clock, after_round=slower)
    assert latency.rounds == 5  # of 20, 40, 60, 80 and 100 ms
    assert latency.of[0].median_ms == pytest.approx(60) and latency.of[0].iqr_ms == pytest.approx(40)


@pytest.mark.parametrize(("seconds", "rounds"), [(0.0, 5), (0.61, 10), (1000.0, 50)])
def test_rounds_are_bounded_by_time_and_number(seconds, rounds):
    clock = Clock()
    network = vectors(2, tell=clock.tell)  # a round is 20 + 40 ms
    done = []
    times = measure_latency(
        network, torch.randn(1, 4), list(network.space), seconds=seconds, clock=clock, after_round=done.append
    )
    assert times.rounds == rounds and done == list(range(1, rounds + 1))


def order_of_rounds(seed):
    clock = Clock()
    network = vectors(1, 4, tell=clock.tell)
    rounds = [len(clock.runs)]
    measure_latency(
        network,
        torch.randn(1, 4),
        list(network.space),
        seconds=0,
        seed=seed,
        clock=clock,
        after_round=lambda _: rounds.append(len(clock.runs)),
    )
    entry = network.model.stages[0][0]  # every subnet begins with it
    runs = clock.runs[rounds[1] - 4 - 10 :]  # what comes after the warm-up: 4 subnets of 2 to 5 blocks a round
    lengths = []
    for block in runs:
        if block is entry:
            lengths.append(0)
        lengths[-1] += 1
    return [lengths[start : start + 4] for start in range(0, len(lengths), 4)]


def test_subnets_take_turns_in_a_seeded_order_new_in_each_round():
    rounds = order_of_rounds(0)
    assert len(rounds) == 5 and all(sorted(lengths) == [2, 3, 4, 5] for lengths in rounds)
    assert len({tuple(lengths) for lengths in rounds}) > 1
    assert rounds == order_of_rounds(0) != order_of_rounds(1)


def test_measuring_latency_leaves_the_network_as_it_was():
    network = vectors(2).train()
    network.model.stages[0][1].eval()
    x = torch.randn(1, 4)
    before = network(x)
    measure_latency(network, x, list(network.space), seconds=0)
    assert torch.equal(network(x), before)
    assert network.training and not network.model.stages[0][1].training


# The family of a run


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp("family") / "run"
    train(load_recipe("digits", TINY), out, progress=False)
    evaluate(out, latency_seconds=0)
    return out


def rows_of(directory):
    """The rows of subnets.csv without what depends on the time of day."""
    with (directory / "subnets.csv").open() as file:
        return [{k: v for k, v in row.items() if not k.startswith("latency")} for row in csv.DictReader(file)]


def summary_of(directory):
    return json.loads((directory / "summary.json").read_text())


def test_the_summary_says_everything_of_the_family(run):
    summary = summary_of(run)
    family = list(Family.read(run / "subnets.csv"))
    assert len(family) == 27 and all(one.latency.median_ms > 0 and one.latency.iqr_ms >= 0 for one in family)
    latency = summary["latency"]
    assert (latency["batch"], latency["threads"], latency["rounds"]) == (1, 1, 5) and latency["device"]
    assert set(summary["frontier"]) == {"flops", "parameters", "latency_ms"}
    for cost, subnets in summary["frontier"].items():
        assert subnets == names(Family(tuple(family)).frontier(cost)) and subnets
    assert summary["frontier"]["flops"][0] == "1-1-1"
    assert [row["blocks"] for row in summary["by_blocks"]] == [3, 4, 5, 6, 7, 8, 9]
    assert [row["subnets"] for row in summary["by_blocks"]] == [1, 3, 6, 7, 6, 3, 1]
    assert [(row["name"], row["depth"]) for row in summary["by_stage"]] == [
        (f"layer{stage}", depth) for stage in (1, 2, 3) for depth in (1, 2, 3)
    ]
    assert all(row["subnets"] == 9 for row in summary["by_stage"])
    smallest = next(one for one in family if str(one.subnet) == "1-1-1")
    assert summary["by_blocks"][0]["mean"] == pytest.approx(smallest.score.quality, abs=1e-3)


@pytest.mark.parametrize("directional", [False, True])
def test_subnets_are_measured_on_the_validation_part_too(run, directional, tmp_path):
    """Also where a temperature is fitted there, in one walk with it."""
    if directional:
        run = tmp_path / "run"
        train(load_recipe("digits", {**TINY, "method.objective": "directional"}), run, progress=False)
        steps: list[tuple[int, int]] = []
        evaluate(run, latency=False, subnets=4, progress=lambda *done: steps.append(done))
    opened = open_run(run)
    data = opened.data
    if directional:
        assert steps[-1] == (len(data.validation) + len(data.test),) * 2
    family = RunDirectory(run).family
    statistics = opened.network.recalibrate(
        data.calibration, list(family.by_subnet), images=opened.recipe.evaluation.calibration_images
    )
    opened.network.eval()
    for one in list(family)[::9]:
        with torch.no_grad():
            right = [(opened.network(x, one.subnet, statistics=statistics).argmax(1) == y) for x, y in data.validation]
        assert one.validation_quality == pytest.approx(100 * float(torch.cat(right).double().mean()), abs=1e-3)
        assert (one.temperature is not None) is directional


def test_the_selection_is_the_frontier_on_the_validation_part():
    family = [replace(one, validation_quality=100 - one.score.quality) for one in FAMILY]
    assert names(Family(tuple(family)).selection()) == ["1-1"]
    assert names(Family((*family, member("9-9", 99.0, 1))).selection()) == ["1-1"]  # not measured there


def test_evaluating_twice_gives_the_same(run):
    rows, before = rows_of(run), summary_of(run)
    again = evaluate(run, latency=False)
    assert rows_of(run) == rows
    differing = {key for key in before if before[key] != again[key]}
    assert differing == {"latency", "frontier"} and again["latency"] is None and again["frontier"]["latency_ms"] == []
    assert {**again["frontier"], "latency_ms": []} == {**before["frontier"], "latency_ms": []}
    evaluate(run, latency_seconds=0)
    assert rows_of(run) == rows


def test_a_recipe_says_which_space_is_measured(tmp_path, capsys):
    settings = {"schedule.max_steps": 2, "method.sampler": "suffix", "evaluation.space": "suffix"}
    train(load_recipe("digits", TINY | settings), tmp_path, progress=False)
    summary = evaluate(tmp_path, latency=False)
    rows = {row["subnet"]: row for row in rows_of(tmp_path)}
    # layer1 begins with a block that can be skipped, layer2 and layer3 do not
    assert set(rows) == {
        f"{a}-{b}-{c}" for a in ("[2]", "[1.2]", "3") for b in ("1", "[0.2]", "3") for c in ("1", "[0.2]", "3")
    }
    part = summary["subnets"]
    assert (part["space"], part["count"], part["evaluated"], part["seed"]) == ("suffix", 27, 27, None)
    assert [row["subnets"] for row in summary["by_blocks"]] == [1, 3, 6, 7, 6, 3, 1]
    assert [(row["stage"], row["depth"], row["subnets"]) for row in summary["by_stage"]] == [
        (stage, depth, 9) for stage in range(3) for depth in (1, 2, 3)
    ]
    evaluate(tmp_path, subnets=["[2]-[0.2]-1"], latency=False)
    assert rows_of(tmp_path) == [rows["[2]-[0.2]-1"]]
    assert main(["evaluate", str(tmp_path), "--space", "unordered", "--subnets", "30", "--no-latency"]) == 0
    assert "30 of 112 unordered subnets, drawn with seed 0" in capsys.readouterr().out
    drawn = {row["subnet"]: row for row in rows_of(tmp_path)}
    assert len(drawn) == 30 and drawn["3-3-3"] == rows["3-3-3"] and "1-1-1" in drawn
    assert (summary_of(tmp_path)["subnets"]["space"], summary_of(tmp_path)["subnets"]["seed"]) == ("unordered", 0)
    assert main(["report", str(tmp_path), "--out", str(tmp_path / "report")]) == 0
    assert (tmp_path / "report" / "report.html").exists()


def test_a_space_that_does_not_exist_is_refused(run, capsys):
    before = summary_of(run)
    with pytest.raises(UsageError, match=r"space= is one of ordered, .*, unordered, ranked .* got 'last'"):
        evaluate(run, space="last")
    assert main(["evaluate", str(run), "--space", "last"]) == 2
    said = capsys.readouterr().err
    assert "--space is one of ordered, suffix, every_other, unordered, ranked (by what" in said and "got 'last'" in said
    with pytest.raises(UsageError, match=r"evaluation\.space: .* ordered, suffix, every_other, unordered; got 'last'"):
        load_recipe("digits", {"evaluation.space": "last"})
    assert summary_of(run) == before and before["subnets"]["space"] == "ordered"


def test_a_family_without_latencies_is_read_and_so_is_an_older_file(tmp_path):
    family = [member("1-1", 50.0, 10), member("1-2", 60.0, 20, latency=3.25)]
    (tmp_path / "new.csv").write_text(Family(tuple(family)).to_csv())
    assert list(Family.read(tmp_path / "new.csv")) == family
    (tmp_path / "old.csv").write_text("subnet,blocks,top1,loss,parameters,flops\n1-1,2,50.0,1.0,1,10\n")
    assert list(Family.read(tmp_path / "old.csv")) == family[:1]
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    with pytest.raises(UsageError, match=r"other.csv is not the list of subnets of a run"):
        list(Family.read(tmp_path / "other.csv"))
    with pytest.raises(UsageError, match=r"cannot read .*none.csv"):
        list(Family.read(tmp_path / "none.csv"))


def test_progress_is_told_step_by_step(run):
    steps = []
    evaluate(run, subnets=["3-3-3"], latency_seconds=0, progress=lambda done, total: steps.append((done, total)))
    assert [done for done, _ in steps] == list(range(1, 1 + 2 + 5 + 1)) and all(done <= total for done, total in steps)
    evaluate(run, latency_seconds=0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"seed": -1}, "the seed is at least 0 and below"),
        ({"latency_batch": 0}, "the batch whose latency is measured holds 1 image or more, got 0"),
    ],
)
def test_impossible_arguments_are_refused(run, arguments, message):
    before = summary_of(run)
    with pytest.raises(UsageError, match=message):
        evaluate(run, **arguments)
    assert summary_of(run) == before


# Weights from anywhere


@pytest.mark.parametrize(
    ("nest", "ending"), [("bare", "safetensors"), ("bare", "pth"), ("state_dict", "pt"), ("model", "th")]
)
@pytest.mark.parametrize("prefix", ["", "module."])
def test_adopted_weights_have_the_family_of_their_run(run, tmp_path, nest, prefix, ending):
    weights = {prefix + key: value for key, value in load_file(run / "model.safetensors").items()}
    file = tmp_path / f"found.{ending}"
    if ending == "safetensors":
        save_file(weights, file)
    else:
        torch.save(weights if nest == "bare" else {nest: weights, "epoch": 2}, file)
    trained_with = {"data.crop_padding": 1, "data.flip": False}
    recipe = recipe_for("cifar/resnet20", "digits", RECIPE | trained_with)
    out = adopt(recipe, file, tmp_path / "adopted")
    adopted, original = summary_of(out), summary_of(run)
    assert adopted["main"] == original["main"] and adopted["subnets"]["evaluated"] == 0
    assert (adopted["method"], adopted["train_seconds"], adopted["peak_memory_mib"]) == (None, None, None)
    assert adopted["weights"]["file"] == str(file) and len(adopted["weights"]["sha256"]) == 64
    assert {path.name for path in out.iterdir()} == {
        *("recipe.yaml", "environment.json", "model.safetensors", "summary.json", "authorship.json", "checksums.json")
    }
    evaluate(out, latency=False)
    assert rows_of(out) == rows_of(run)


@pytest.fixture
def found(run, tmp_path):
    torch.save({"state_dict": load_file(run / "model.safetensors")}, tmp_path / "found.pth")
    return tmp_path / "found.pth"


RECIPE = {"model.arguments": {"width": 4}, "training.threads": 1}


def test_adopting_again_keeps_what_was_measured(found, tmp_path):
    recipe = recipe_for("cifar/resnet20", "digits", RECIPE)
    out = adopt(recipe, found, tmp_path / "adopted")
    summary = evaluate(out, subnets=3, latency=False)
    assert adopt(recipe, found, out) == out and summary_of(out) == summary
    (tmp_path / "renamed.pth").write_bytes(found.read_bytes())
    assert adopt(recipe, tmp_path / "renamed.pth", out) == out and summary_of(out) == summary


def test_adopting_overwrites_nothing(found, run, tmp_path):
    recipe = recipe_for("cifar/resnet20", "digits", RECIPE)
    out = adopt(recipe, found, tmp_path / "adopted")
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    with pytest.raises(UsageError, match=r"holds these weights with other settings \(evaluation\); choose another"):
        adopt(recipe.override({"evaluation.subnets": 5}), found, out)
    other = tmp_path / "other.pth"
    torch.save({key: value + 1 for key, value in load_file(run / "model.safetensors").items()}, other)
    with pytest.raises(UsageError, match=r"holds the weights .*found.pth; choose another"):
        adopt(recipe, other, out)
    assert before == {path.name: path.read_bytes() for path in out.iterdir()}
    with pytest.raises(UsageError, match="holds a trained run; choose"):
        adopt(recipe, found, run)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine")
    for name in ("full", "other.pth"):
        with pytest.raises(UsageError, match=f"{name} exists and is not a run of these weights; choose another"):
            adopt(recipe, found, tmp_path / name)
    (tmp_path / "empty").mkdir()
    assert adopt(recipe, found, tmp_path / "empty") == tmp_path / "empty"
    assert {path.name for path in tmp_path.iterdir()} == {"adopted", "found.pth", "other.pth", "full", "empty"}


def test_weights_that_do_not_fit_leave_nothing_behind(found, tmp_path):
    with pytest.raises(UsageError, match=r"do not fit the model cifar/resnet32"):
        adopt(recipe_for("cifar/resnet32", "digits", RECIPE), found, tmp_path / "new" / "adopted")
    assert [path.name for path in tmp_path.iterdir()] == ["found.pth"]


CODE = """
    import torch
    from torch import nn


    class Shortcut(nn.Module):
        def __init__(self, inside, channels, stride):
            super().__init__()
            self.body = nn.Sequential(
                nn.Conv2d(inside, channels, 3, stride, 1, bias=False),
                nn.BatchNorm2d(channels),
                nn.ReLU(),
                nn.Conv2d(channels, channels, 3, 1, 1, bias=False),
                nn.BatchNorm2d(channels),
            )
            same = stride == 1 and inside == channels
            self.side = nn.Identity() if same else nn.Conv2d(inside, channels, 1, stride, bias=False)

        def forward(self, x):
            return torch.relu(self.side(x) + self.body(x))


    class Net(nn.Module):
        def __init__(self, classes):
            super().__init__()
            self.stem = nn.Conv2d(1, 4, 3, 1, 1, bias=False)
            self.layer1 = nn.Sequential(Shortcut(4, 4, 1), Shortcut(4, 4, 1))
            self.layer2 = nn.Sequential(Shortcut(4, 8, 2), Shortcut(8, 8, 1), Shortcut(8, 8, 1))
            self.head = nn.Linear(8, classes)

        def forward(self, x):
            return self.head(self.layer2(self.layer1(self.stem(x))).mean((2, 3)))


    def make(classes=10):
        return Net(classes)
"""


def test_weights_of_somebody_elses_code(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "theirnets.py").write_text(textwrap.dedent(CODE))
    monkeypatch.syspath_prepend(tmp_path)
    import theirnets

    torch.manual_seed(3)
    theirs = theirnets.make()
    for parameter in theirs.parameters():
        nn.init.normal_(parameter, std=0.3)
    theirs.stem(torch.ones(1, 1, 8, 8))
    torch.save({"model": {f"module.{key}": value for key, value in theirs.state_dict().items()}}, "best.th")
    arguments = ["--model", "theirnets:make", "--weights", "best.th", "--data", "digits", "--training.threads", "1"]
    assert main(["evaluate", *arguments, "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    data = open_run("runs/best").data
    theirs.eval()
    with torch.no_grad():
        hits = torch.cat([(theirs(x).argmax(1) == y).float() for x, y in data.test])
    assert summary["main"]["top1"] == pytest.approx(100 * hits.mean().item())
    assert summary["subnets"]["count"] == 6 and [row["subnet"] for row in rows_of(tmp_path / "runs" / "best")] == [
        *("1-1", "1-2", "1-3", "2-1", "2-2", "2-3")
    ]
    assert summary["model"] == "theirnets:make"
    assert main(["evaluate", *arguments, "--model.arguments", "{classes: 7}", "--out", "x"]) == 2
    assert "theirnets:make gives shape (2, 7) for 2 images, but digits has 10 classes" in capsys.readouterr().err


def folder_of(root, classes, images=2):
    for split in ("train", "val"):
        for name in classes:
            (root / split / name).mkdir(parents=True)
            for number in range(images):
                Image.new("RGB", (20, 20), (40 * number, 90, 10)).save(root / split / name / f"{number}.png")
    return root


FOLDER = ["--data.image_size", "16", "--data.workers", "0", "--data.validation", "0.5", *SETTINGS]


def test_weights_are_measured_on_a_folder_of_images(tmp_path, capsys):
    root = folder_of(tmp_path / "images", ["a", "b"], images=4)
    torch.manual_seed(0)
    model = stimulative.models.build("cifar/resnet20", classes=2, arguments={"width": 4})
    torch.save(model.state_dict(), tmp_path / "two.pth")
    arguments = ["--model", "cifar/resnet20", "--weights", str(tmp_path / "two.pth"), "--data", f"folder:{root}"]
    out = tmp_path / "adopted"
    assert main(["evaluate", *arguments, "--out", str(out), *FOLDER, "--subnets", "2", "--latency-batch", "3"]) == 0
    assert "2 of 27 subnets, drawn with seed 0" in capsys.readouterr().out
    assert summary_of(out)["latency"]["batch"] == 3


def test_a_model_that_says_what_images_it_wants_is_warned_about(tmp_path):
    root = folder_of(tmp_path / "images", ["a", "b"], images=4)
    settings = ["--data.image_size", "32", "--data.workers", "0", "--data.validation", "0.5", "--training.threads", "1"]
    for name, other in (("timm/resnet18", False), ("timm/vit_tiny_patch16_224", True)):
        recipe = recipe_for(name, f"folder:{root}", [*settings, *(["--model.arguments", "{img_size: 32}"] * other)])
        weights = stimulative.models.build(name, classes=2, arguments=recipe.model.arguments).state_dict()
        torch.save(weights, tmp_path / "w.pth")
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            adopt(recipe, tmp_path / "w.pth", tmp_path / name.partition("/")[2])
        said = [str(one.message) for one in caught if "timm's weights of this architecture" in str(one.message)]
        assert len(said) == int(other)
        if other:
            assert "mean (0.5, 0.5, 0.5) and deviation (0.5, 0.5, 0.5)" in said[0]


def test_a_temperature_is_kept_beside_each_subnet_where_one_was_fitted(run, tmp_path):
    plain = member("1-1", 50.0, 10)
    fitted = Member(plain.subnet, plain.score, plain.cost, None, 0.0123456)
    (tmp_path / "both.csv").write_text(Family((plain, fitted)).to_csv())
    assert list(Family.read(tmp_path / "both.csv")) == [plain, fitted]
    assert [row["temperature"] for row in rows_of(run)] == [""] * 27  # stimulative training with kl: none to fit
    before = "subnet,blocks,top1,loss,parameters,flops,latency_ms,latency_iqr_ms\n1-1,2,50.0,1.0,1,10,,\n"
    (tmp_path / "before.csv").write_text(before)
    assert list(Family.read(tmp_path / "before.csv")) == [plain]
