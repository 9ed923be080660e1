"""A subnet is chosen under limits: the right one, by what was measured, and never by the test split."""

import json
import random
from types import SimpleNamespace

import pytest
import torch
from torch import nn

import stimulative
from stimulative.analysis import CostModel, Latencies, measure_modules
from stimulative.cli import main
from stimulative.deploy import Choice, choose, extract, written
from stimulative.deploy.choosing import budget as budget_room
from stimulative.deploy.choosing import choose as choosing
from stimulative.deploy.choosing import trials as measuring
from stimulative.deploy.choosing.budget import Budget
from stimulative.deploy.choosing.limits import Limits, cost_to_minimise, limits_of
from stimulative.deploy.choosing.picking import pick, worth_timing
from stimulative.deploy.choosing.prediction import Prediction, probes
from stimulative.deploy.choosing.search import search
from stimulative.deploy.choosing.trials import Stopwatch
from stimulative.deploy.deployable import open_finished
from stimulative.errors import UsageError
from stimulative.report.choice import choice_figure
from stimulative.residual import Subnet, SubnetSpace
from stimulative.runs import Cost, Latency, Member
from stimulative.tasks import MEASURES
from stimulative.training import Score, load_recipe, prepare, train

SETTINGS = {
    "model.arguments": {"width": 4},
    "schedule.epochs": 8,
    "evaluation.calibration_images": 200,
    "training.loggers": [],
}


def member(subnet, top1, flops=1, parameters=1, latency=None, perplexity=None):
    time = None if latency is None else Latency(latency, 0.1)
    return Member(Subnet.parse(subnet), Score(top1, 1.0, perplexity), Cost(parameters, flops), time)


def names(members):
    return [str(each.subnet) for each in members]


@pytest.mark.parametrize(
    ("text", "number"),
    [("1G", 1e9), ("10M", 10e6), ("2.5k", 2500), ("1e9", 1e9), ("1.5b", 1.5e9), (".5t", 5e11), ("42", 42), (7, 7)],
)
def test_numbers_are_read_with_their_units(text, number):
    assert limits_of(max_flops=text) == Limits(max_flops=number)
    assert limits_of(max_params=text) == Limits(max_params=number)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"max_flops": "1 Gig"}, r"max_flops= is a number above 0, such as 1G, 10M, 2.5k or 1e9; got '1 Gig'"),
        ({"max_flops": "-1M"}, r"max_flops= is .* got '-1M'"),
        ({"max_params": 0}, r"max_params= is .* got 0"),
        ({"max_flops": "nan"}, r"max_flops="),
        ({"max_flops": "1e999"}, r"max_flops="),
        ({"max_latency_ms": "3ms"}, r"max_latency_ms= is a number of milliseconds above 0; got '3ms'"),
        ({"max_latency_ms": -3}, r"max_latency_ms= is a number of milliseconds above 0; got -3"),
        ({"min_top1": 101}, r"min_top1= is an accuracy in percent, above 0 and at most 100; got 101"),
        ({"min_top1": True}, r"min_top1="),
        ({"max_perplexity": 0.5}, r"max_perplexity= is a number of 1 or more; got 0.5"),
        ({}, r"no limit was given; give one or more of max_latency_ms="),
    ],
)
def test_a_limit_that_is_none_is_refused(given, message):
    with pytest.raises(UsageError, match=message):
        limits_of(**given)


def test_numbers_are_written_as_they_are_read():
    assert [written("flops", n) for n in (1.5e9, 12_345_678, 999)] == ["1.5G FLOPs", "12.35M FLOPs", "999 FLOPs"]
    assert written("parameters", 2500) == "2.5k parameters" and written("latency_ms", 2.414) == "2.41 ms"


FAMILY = [
    member("1-1", 70.0, flops=10, parameters=50, latency=1.0),
    member("1-2", 80.0, flops=20, parameters=90, latency=1.4),
    member("2-1", 80.0, flops=20, parameters=60, latency=1.6),
    member("2-2", 80.0, flops=30, parameters=99, latency=2.0),
    member("3-2", 85.0, flops=40, parameters=120, latency=3.0),
]


@pytest.mark.parametrize(
    ("limits", "by", "order"),
    [
        (Limits(max_flops=30), "flops", ["2-1", "1-2", "2-2", "1-1"]),  # of equal accuracy and FLOPs fewer parameters
        (Limits(max_latency_ms=2.5), "latency_ms", ["1-2", "2-1", "2-2", "1-1"]),  # and of equal accuracy the faster
        (Limits(max_params=90), "parameters", ["2-1", "1-2", "1-1"]),
        (Limits(max_latency_ms=3.0), "latency_ms", ["3-2", "1-2", "2-1", "2-2", "1-1"]),  # the limit itself is allowed
        (Limits(min_top1=80), "latency_ms", ["1-2", "2-1", "2-2", "3-2"]),
        (Limits(min_top1=80), "parameters", ["2-1", "1-2", "2-2", "3-2"]),
        (Limits(min_top1=80, max_latency_ms=2.0, max_params=95), "flops", ["2-1", "1-2"]),
    ],
)
def test_the_best_within_all_limits_is_picked(limits, by, order):
    assert names(pick(FAMILY, limits, by)) == order
    assert names(pick(FAMILY[::-1], limits, by)) == order


def test_perplexity_is_a_quality_as_accuracy_is():
    family = [member("1", 30.0, 1, perplexity=12.0), member("2", 33.0, 2, perplexity=9.0)]
    assert names(pick(family, Limits(max_perplexity=10), "flops")) == ["2"]
    assert names(pick(family, Limits(max_perplexity=12), "flops")) == ["1", "2"]
    with pytest.raises(
        UsageError, match=r"a perplexity of at most 8: of the 2 measured, subnet 2 is the best with a perpl.* 9"
    ):
        pick(family, Limits(max_perplexity=8), "flops")


def test_what_decides():
    assert cost_to_minimise(Limits(min_top1=70), None) == "latency_ms"
    assert cost_to_minimise(Limits(min_top1=70, max_flops=3), "params") == "parameters"
    assert cost_to_minimise(Limits(max_params=3, max_flops=3), None) == "flops"
    assert cost_to_minimise(Limits(max_params=3, max_latency_ms=3), None) == "latency_ms"
    with pytest.raises(UsageError, match="minimise= is one of latency, flops, params, got 'size'"):
        cost_to_minimise(Limits(min_top1=70), "size")
    with pytest.raises(UsageError, match="within a budget alone the most accurate subnet is chosen"):
        cost_to_minimise(Limits(max_flops=3), "flops")


@pytest.mark.parametrize(
    ("limits", "closest"),
    [
        (Limits(max_latency_ms=0.5), "at most 0.5 ms: of the 5 measured, subnet 1-1 has the least: 1 ms"),
        (
            Limits(min_top1=90),
            "a validation accuracy of at least 90%: of the 5 measured, subnet 3-2 is the best with 85.00%",
        ),
        (
            Limits(min_top1=82, max_latency_ms=2.0),
            "of the 4 measured that are cheap enough, subnet 1-2 is the best with 80.00%; "
            "of the 1 measured that are good enough, subnet 3-2 has the least: 3 ms",
        ),
        (
            Limits(min_top1=99, max_latency_ms=0.1),
            "of the 5 measured, subnet 3-2 is the best with 85.00%; of the 5 measured, subnet 1-1 has the least: 1 ms",
        ),
    ],
)
def test_an_impossible_limit_is_answered_with_what_comes_closest(limits, closest):
    with pytest.raises(UsageError, match="no subnet that was measured has ") as caught:
        pick(FAMILY, limits, "latency_ms")
    assert closest in str(caught.value)


def test_all_are_timed_where_there_are_few():
    assert sorted(names(worth_timing(FAMILY, 5))) == sorted(names(FAMILY))
    assert names(worth_timing(FAMILY, 4)) == ["1-1", "1-2", "2-1", "3-2"]  # 2-2 is beaten by both of 80%
    assert names(worth_timing(FAMILY, 2)) == ["1-1", "3-2"]


def test_those_that_are_timed_have_the_best_one_among_them():
    draw = random.Random(0)
    for _ in range(20):
        family = [
            member("-".join(str(draw.randint(1, 9)) for _ in range(4)), draw.gauss(0, 9), draw.randint(1, 999))
            for _ in range(300)
        ]
        timed = worth_timing(family, 64)
        assert len(timed) == len({id(each) for each in timed}) == 64
        per_flop, per_block = draw.random(), 100 * draw.random()

        def latency(each, per_flop=per_flop, per_block=per_block):
            return per_flop * each.cost.flops + per_block * each.subnet.blocks

        limit = draw.choice(sorted(map(latency, family))[20:])
        best = [max(each.score.quality for each in of if latency(each) <= limit) for of in (family, timed)]
        assert best[0] == best[1]


def problem(seed, space, blocks):
    """Worths of blocks and of pairs of them, and a budget of blocks: what to measure, rank and afford with."""
    draw = random.Random(seed)
    worth = [[draw.random() ** 3 for _ in range(length)] for length in space.lengths]
    pairs = {
        (stage, a, b): draw.gauss(0, 0.1)
        for stage, length in enumerate(space.lengths)
        for a in range(length)
        for b in range(a)
    }
    asked = []

    def value(subnet):
        single = sum(worth[stage][block] for stage, kept in enumerate(subnet.stages) for block in kept)
        return single + sum(v for (s, a, b), v in pairs.items() if a in subnet.stages[s] and b in subnet.stages[s])

    def measure(subnets):
        asked.extend(subnets)
        return [(value(subnet), subnet) for subnet in subnets]

    return SimpleNamespace(
        value=value,
        asked=asked,
        arguments=(space, measure, lambda found: (-found[0], found[1]), lambda subnet: subnet.blocks <= blocks),
    )


def test_a_limit_is_said_in_the_unit_of_its_measure():
    with pytest.raises(
        UsageError, match=r"a validation PSNR of at least 90 dB: .* subnet 3-2 is the best with 85.00 dB"
    ):
        pick(FAMILY, Limits(min_top1=90), "flops", MEASURES["image_to_image"])


@pytest.mark.parametrize("seed", range(5))
def test_the_search_finds_the_optimum_of_a_space_that_can_be_enumerated(seed):
    space = SubnetSpace((6, 6, 6), (True,) * 3)
    given = problem(seed, space, 11)
    found = search(*given.arguments, evaluations=72, seed=seed)  # a third of the space
    assert len(given.asked) == 72
    assert found[0][0] == max(given.value(subnet) for subnet in space if subnet.blocks <= 11)


@pytest.mark.parametrize(
    "space",
    [
        SubnetSpace((8,) * 4, (True,) * 4, kept="unordered"),
        SubnetSpace((24,), (False,), kept="unordered"),
        SubnetSpace((12,) * 5, (True,) * 5),
        SubnetSpace((12,) * 5, (True,) * 5, kept="every_other"),
    ],
    ids=["unordered", "one stage", "ordered", "every other"],
)
def test_the_search_beats_as_many_random_subnets_in_a_large_space(space):
    wins, better = 0, 0.0
    for seed in range(8):
        given = problem(seed, space, sum(space.lengths) // 2)
        found = search(*given.arguments, evaluations=256, seed=seed)
        asked = list(given.asked)
        assert len(asked) == len(set(asked)) == len(found) == 256
        assert all(subnet in space and subnet.blocks <= sum(space.lengths) // 2 for subnet in asked)
        at_random = search(*given.arguments, evaluations=256, seed=seed, population=256)  # nothing to learn from
        wins += found[0][0] >= at_random[0][0]
        better += found[0][0] - at_random[0][0]
    assert wins >= 7 and better > 0


def test_the_same_seed_gives_the_same_search():
    space = SubnetSpace((8,) * 4, (True,) * 4, kept="unordered")
    one, again, other = (search(*problem(0, space, 16).arguments, evaluations=100, seed=seed) for seed in (3, 3, 4))
    assert one == again != other


def test_the_search_ends_where_nothing_is_left_and_begins_with_what_is_known():
    given = problem(0, SubnetSpace((2, 3), (True, False)), 4)
    first = Subnet.parse("1-2")
    found = search(*given.arguments, first=[first], evaluations=99, seed=0)
    assert given.asked[0] == first
    assert {subnet for _, subnet in found} == {s for s in SubnetSpace((2, 3), (True, False)) if s.blocks <= 4}
    nothing = problem(0, SubnetSpace((2, 3), (True, False)), 1)
    assert search(*nothing.arguments, evaluations=9, seed=0) == []


def test_latency_is_predicted_exactly_where_it_is_a_price_a_block():
    space = SubnetSpace((3, 4, 6), (True,) * 3)
    prices = 0.5, 2.0, 1.0

    def latency(subnet):
        return 3 + sum(price * depth for price, depth in zip(prices, subnet.depths, strict=True))

    tried = probes(space)
    assert {space.smallest, space.full} <= set(tried) and len(tried) == 8
    prediction = Prediction(tried, [latency(subnet) for subnet in tried])
    assert all(prediction.of(subnet) == pytest.approx(latency(subnet)) for subnet in space)


def test_modules_are_timed_in_turns_right_after_a_run_that_is_not():
    now, log = [0.0], []

    class Slow(nn.Module):
        def __init__(self, seconds):
            super().__init__()
            self.seconds = seconds

        def forward(self, x):
            log.append(self.seconds)
            now[0] += self.seconds

    modules = [Slow(0.02), Slow(0.03)]
    times = measure_modules(modules, torch.randn(4, 1), seconds=0, clock=lambda: now[0])
    assert [latency.median_ms for latency in times.of] == [pytest.approx(20), pytest.approx(30)]
    assert (times.batch, times.rounds) == (4, 5)
    assert all(a == b for a, b in zip(log[::2], log[1::2], strict=True))  # each timed run follows one of its own
    rounds = [log[at : at + 4 : 2] for at in range(4, len(log), 4)]
    assert all(sorted(each) == [0.02, 0.03] for each in rounds) and len({tuple(each) for each in rounds}) == 2


def network_of(lengths=(2, 3, 2)):
    """A net of stages whose blocks cost more and more."""

    class Block(nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.layers = nn.Sequential(nn.Linear(4, inner), nn.ReLU(), nn.Linear(inner, 4))

        def forward(self, x):
            return x + self.layers(x)

    torch.manual_seed(0)
    stages = [nn.Sequential(*(Block(9 - 2 * at) for at in range(length))) for length in lengths]
    ends = [module for stage in stages for module in (nn.Linear(4, 4), stage)]
    return stimulative.unravel(nn.Sequential(*ends), torch.randn(2, 4))


def test_a_budget_knows_the_cheapest_subnet_also_where_it_lists_none(monkeypatch):
    network = network_of()
    costs = CostModel(network, torch.randn(1, 4))
    space = network.space.unordered().restrict([(1, 2), (2, 3), (1, 2)])
    least = min(space, key=lambda subnet: costs.of(subnet).flops)
    assert least != space.smallest  # first blocks cost most here
    value = costs.of(least).flops
    for searched in (False, True):
        monkeypatch.setattr(budget_room, "WHOLE_MOST", 0 if searched else 1000)
        assert Budget(space, costs, Limits(max_flops=value)).searched == searched
        with pytest.raises(UsageError) as caught:
            Budget(space, costs, Limits(max_flops=value - 1))
        assert str(caught.value).endswith(f"subnet {least} has the least, {value} FLOPs")


def test_what_reads_dense_layers_is_timed_with_parameters_of_its_own():
    prepared = prepare(load_recipe("digits-densenet"))
    finished = SimpleNamespace(network=prepared.network, run=prepared)
    module = Stopwatch(finished, 1, 1, 0).extracted(prepared.network.space.smallest)
    expected = extract(prepared.network, prepared.network.space.smallest, "keep")
    assert [(n, p.shape) for n, p in module.named_parameters()] == [
        (n, p.shape) for n, p in expected.named_parameters()
    ]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A short digits run, 27 subnets."""
    out = tmp_path_factory.mktemp("runs") / "digits"
    train(load_recipe("digits", SETTINGS), out, progress=False)
    return out


@pytest.fixture(scope="module")
def by_hand(run):
    """Accuracy of each subnet on the validation part: taken out, and counted in a loop."""
    finished = open_finished(run)
    statistics = finished.statistics(list(finished.network.space))
    x, y = (torch.cat(parts) for parts in zip(*finished.run.data.validation, strict=True))
    found = {}
    with torch.no_grad():
        for subnet in finished.network.space:
            hits = (extract(finished.network, subnet, statistics)(x).argmax(1) == y).double()
            found[subnet] = 100 * float(hits.mean())
    return found


@pytest.fixture
def clock(monkeypatch):
    """Modules are not timed: a net takes a millisecond for each of its parameters' thousands."""
    seen = []

    def latencies(modules, batch, *, seconds, seed, after_round):
        seen.append((len(batch), torch.get_num_threads()))
        times = [Latency(sum(p.numel() for p in module.parameters()) / 1000, 0.01) for module in modules]
        return Latencies(times, len(batch), "made up", torch.get_num_threads(), 5)

    monkeypatch.setattr(measuring, "measure_modules", latencies)
    return seen


def test_the_most_accurate_within_a_budget_of_operations_is_chosen_by_validation_images(run, by_hand, tmp_path, clock):
    network = open_finished(run).network
    costs = CostModel(network, torch.randn(1, 1, 8, 8))
    limit = sorted(costs.of(subnet).flops for subnet in network.space)[15]
    choice = choose(run, max_flops=limit, out=tmp_path)
    allowed = [subnet for subnet in network.space if costs.of(subnet).flops <= limit]
    best = min(allowed, key=lambda s: (-round(by_hand[s], 6), costs.of(s).flops, costs.of(s).parameters, s))
    assert choice.subnet == best
    assert {each.subnet: pytest.approx(each.score.quality) for each in choice.measured} == {
        s: by_hand[s] for s in allowed
    }
    assert choice.main.subnet == network.full and choice.main.latency is not None
    assert (choice.images, choice.validation_images, choice.tried.measured) == (90, 90, len(allowed))
    assert not choice.tried.searched and 0 < len(choice.runners_up) <= 4
    stored = json.loads((tmp_path / "choice.json").read_text())
    assert stored == choice.to_mapping() == Choice.from_mapping(stored).to_mapping()


def test_the_test_split_is_not_read(run, tmp_path, clock, monkeypatch):
    opened = []
    monkeypatch.setattr(choosing, "open_finished", lambda *a, **k: opened.append(open_finished(*a, **k)) or opened[0])
    choose(run, min_top1=1, max_flops="1G", out=tmp_path)
    assert not opened[0].run.data.test.built
    assert len(opened[0].run.data.test) and opened[0].run.data.test.built  # it says so when it is


def test_nothing_is_measured_that_is_over_the_budget(run, tmp_path, clock, monkeypatch):
    asked = []
    real = measuring.measure
    monkeypatch.setattr(
        measuring, "measure", lambda n, b, subnets, **k: asked.extend(subnets) or real(n, b, subnets, **k)
    )
    choice = choose(run, max_params="8k", out=tmp_path)
    assert set(asked) == {each.subnet for each in choice.measured} | {choice.main.subnet} and len(asked) < 27
    assert all(each.cost.parameters <= 8000 for each in choice.measured) and choice.main.cost.parameters > 8000
    asked.clear()
    with pytest.raises(UsageError, match=r"no subnet has at most 1k FLOPs: subnet 1-1-1 has the least, .*k FLOPs"):
        choose(run, max_flops="1k", out=tmp_path)
    assert asked == []


def test_latency_is_that_of_the_extracted_subnet_and_decides(run, by_hand, tmp_path, clock):
    before = torch.get_num_threads()
    choice = choose(run, max_latency_ms=10, batch=3, threads=2, out=tmp_path)
    assert clock == [(3, 2)] and torch.get_num_threads() == before  # of a recipe that asks for one
    assert all(each.latency.median_ms == each.cost.parameters / 1000 for each in choice.measured)
    allowed = {s: top1 for s, top1 in by_hand.items() if costs_of(run).of(s).parameters <= 10_000}
    assert choice.member.score.quality == pytest.approx(max(allowed.values()))
    with pytest.raises(UsageError, match=r"at most 1 ms: of the 27 measured, subnet 1-1-1 has the least: 4.93 ms"):
        choose(run, max_latency_ms=1, out=tmp_path)
    assert torch.get_num_threads() == before


def costs_of(run):
    return CostModel(open_finished(run).network, torch.randn(1, 1, 8, 8))


def test_the_cheapest_that_is_accurate_enough_is_chosen(run, by_hand, tmp_path, clock):
    wanted = sorted(by_hand.values())[20]
    costs = costs_of(run)
    enough = [subnet for subnet, top1 in by_hand.items() if top1 >= wanted - 1e-9]
    choice = choose(run, min_top1=wanted - 1e-6, out=tmp_path)
    assert costs.of(choice.subnet).parameters == min(costs.of(subnet).parameters for subnet in enough)
    assert choice.decided_by == "latency_ms" and choice.tried.timed == len(enough)
    choice = choose(run, min_top1=wanted - 1e-6, minimise="flops", out=tmp_path)
    assert costs.of(choice.subnet).flops == min(costs.of(subnet).flops for subnet in enough)
    best = max(by_hand.values())
    with pytest.raises(UsageError, match=rf"at least 100%: of the 27 measured, .* is the best with {best:.2f}%"):
        choose(run, min_top1=100, out=tmp_path)


def test_a_large_space_is_searched_and_says_so(run, tmp_path, clock, monkeypatch):
    limit = "500k"
    whole = choose(run, max_flops=limit, out=tmp_path)
    monkeypatch.setattr(budget_room, "WHOLE_MOST", 5)
    found = choose(run, max_flops=limit, out=tmp_path)
    assert found.member == whole.member and found.tried.searched  # so few that a search sees all of them
    assert {each.subnet for each in found.measured} == {each.subnet for each in whole.measured}
    few = [choose(run, max_flops=limit, evaluations=5, seed=seed, out=tmp_path) for seed in (1, 1, 2)]
    assert few[0].to_mapping() == few[1].to_mapping() and few[0].tried.measured == 5
    assert names(few[0].measured) != names(few[2].measured)
    by_latency = choose(run, max_latency_ms=10, out=tmp_path)
    assert by_latency.member.latency.median_ms <= 10 and by_latency.tried.searched
    assert max(each.cost.parameters for each in by_latency.measured) < 15_000  # the rest was predicted to be too slow
    with pytest.raises(UsageError, match=r"at most 1 ms: of the 8 that were timed, .* 1-1-1 has the least: 4.93 ms"):
        choose(run, max_latency_ms=1, out=tmp_path)


def test_a_part_of_the_validation_images_is_drawn(run, tmp_path, clock):
    one, again, other = (choose(run, max_flops="1G", images=30, seed=s, out=tmp_path) for s in (1, 1, 2))
    assert (one.images, one.validation_images) == (30, 90)
    assert [m.score for m in one.measured] == [m.score for m in again.measured] != [m.score for m in other.measured]


def test_the_command_tells_what_it_chose_and_what_to_do_next(run, tmp_path, capsys):
    words = [
        "choose",
        str(run),
        "--max-latency-ms",
        "1000",
        "--max-flops",
        "1G",
        "--threads",
        "1",
        "--out",
        str(tmp_path),
    ]
    assert main(words) == 0
    text = " ".join(capsys.readouterr().out.split())
    chosen = json.loads((tmp_path / "choice.json").read_text())
    assert f"chosen: {chosen['subnet']}" in text
    assert f"stimulative export {run} --subnet {chosen['subnet']} --format onnx" in text
    assert "on 90 images of the validation part (one is 1.1 points)" in text and "the test split was not read" in text
    assert "27 of 27 subnets (all within the limits of FLOPs and parameters); 27 of these timed" in text
    assert "a multiply-add counted as two" in text and "(1 threads), extracted: median of" in text
    assert chosen["latency"]["threads"] == 1 and chosen["limits"]["max_flops"] == 1e9
    assert all(row["latency_ms"] > 0 for row in chosen["measured"])
    assert all((tmp_path / f"choice.{kind}").stat().st_size > 500 for kind in ("png", "svg", "csv"))
    assert main(["choose", str(run), "--max-params", "1M", "--json", "--out", str(tmp_path / "other")]) == 0
    assert json.loads(capsys.readouterr().out)["limits"]["max_params"] == 1e6


def test_the_picture_has_every_subnet_the_budget_and_the_choice(run, tmp_path, clock):
    choice = choose(run, max_latency_ms=10, out=tmp_path).to_mapping()
    figure = choice_figure(Choice.from_mapping(choice))
    assert len(figure.rows) == 27
    kinds = {row["subnet"]: row["kind"] for row in figure.rows}
    assert kinds[choice["subnet"]] == "chosen" and kinds["3-3-3"] == "main net"
    assert {row["kind"] for row in figure.rows if row["latency_ms"] > 10} == {"outside the limits", "main net"}
    svg = figure.svg()
    assert "at most 10 ms" in svg and f">{choice['subnet']}<" in svg and "27 of 27" in svg


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "no limit was given"),
        (["--max-flops", "lots"], "--max-flops is a number above 0"),
        (["--max-params=-3"], "--max-params is a number above 0"),
        (["--min-top1", "50", "--minimise", "size"], "--minimise is one of latency, flops, params"),
        (["--max-flops", "1G", "--device", "toaster"], "--device: there is no device 'toaster'; this machine has: cpu"),
        (["--max-flops", "1G", "--device", "cuda:9"], "--device: this machine has no cuda:9; it has: cpu"),
        (["--max-flops", "1G", "--threads", "0"], "--threads is a whole number of 1 or more, got 0"),
        (["--max-flops", "1G", "--batch", "0"], "--batch is a whole number of 1 or more, got 0"),
        (["--max-flops", "1G", "--threads", "99999999"], "processors, got 99999999"),
        (["--max-flops", "1G", "--batch", "1000000000000"], "samples do not fit into memory"),
        (["--max-flops", "1G", "--images", "0"], "--images is a whole number of 1 or more, got 0"),
        (["--max-flops", "1G", "--seed", "-1"], "--seed is at least 0"),
        (["--max-flops", "1G", "--space", "any"], "--space is one of ordered"),
        (["--max-perplexity", "3"], "--max-perplexity is for texts, and this run has images of 1 channels"),
    ],
)
def test_what_cannot_be_meant_is_refused(run, words, message, capsys):
    assert main(["choose", str(run), *words]) == 2
    assert message in capsys.readouterr().err


def test_a_run_that_is_none_or_has_not_finished_is_refused(run, tmp_path, capsys):
    assert main(["choose", str(tmp_path), "--max-flops", "1G"]) == 2
    assert "is not a run directory" in capsys.readouterr().err
    (tmp_path / "recipe.yaml").write_bytes((run / "recipe.yaml").read_bytes())
    assert main(["choose", str(tmp_path), "--max-flops", "1G"]) == 2
    assert "has not finished" in capsys.readouterr().err


def test_a_language_model_is_chosen_by_its_next_tokens(tmp_path, capsys):
    for split in ("train", "val"):
        (tmp_path / "texts" / split).mkdir(parents=True)
        for number in range(6):
            text = f"{split} {number}: " + "the quick brown fox jumps over the lazy dog. " * (number + 2)
            (tmp_path / "texts" / split / f"{number}.txt").write_text(text)
    settings = {
        "data.name": f"text:{tmp_path / 'texts'}",
        "data.length": 16,
        "model.arguments": {"n_layer": 3, "n_embd": 16, "n_head": 2, "n_positions": 16},
        "schedule.max_steps": 3,
        "evaluation.subnets": "all",
        "training.loggers": [],
        "training.device": "cpu",
    }
    out = tmp_path / "run"
    train(load_recipe("text-gpt2-tiny", settings), out, progress=False)
    words = ["choose", str(out), "--max-perplexity", "1000", "--minimise", "flops", "--threads", "1"]
    assert main(words) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "chosen: 1" in text and "next token %" in text and "sequences of the validation part" in text
    rows = json.loads((out / "choice.json").read_text())["measured"]
    assert [row["subnet"] for row in rows] == ["1", "2", "3"] and all(row["perplexity"] < 1000 for row in rows)
    assert main(["choose", str(out), "--max-perplexity", "2", "--minimise", "flops"]) == 2
    assert "is the best with a perplexity of" in capsys.readouterr().err
