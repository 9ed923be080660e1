"""Samplers: what they draw, how often, and that the same state draws the same."""

import math
import sys
from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from stimulative.errors import UsageError
from stimulative.residual import (
    KEPT,
    SAMPLERS,
    Subnet,
    SubnetSpace,
    by_importance,
    nested_inside,
    resolve_sampler,
    sampler_problem,
    uniform,
)
from stimulative.residual.sampling import every_other, halves, interstage, nested, ordered, suffix, unordered

SPACE = SubnetSpace((3, 4, 6, 3), (True, True, False, True))
PLAIN = sorted(set(SAMPLERS) - {"ranked"})  # which has no draw without an order
ORDER = [[0, 2, 1], [0, 3, 1, 2], [5, 0, 3, 1, 4, 2], [0, 1, 2]]
# each statistic below is drawn once with a fixed seed; the bound is its 99.9th percentile
CHI_SQUARE_999 = {2: 13.8, 3: 16.3, 5: 20.5}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def chi_square(counts: Counter, expected: dict) -> float:
    assert set(counts) <= set(expected)
    return sum((counts[key] - mean) ** 2 / mean for key, mean in expected.items())


def test_ordered_depths_are_uniform_and_independent():
    rng, draws = generator(), 3000
    subnets = [ordered(SPACE, rng) for _ in range(draws)]
    assert all(subnet in SPACE for subnet in subnets)
    for stage, length in enumerate(SPACE.lengths):
        counts = Counter(subnet.depths[stage] for subnet in subnets)
        expected = {depth: draws / length for depth in range(1, length + 1)}
        assert chi_square(counts, expected) < CHI_SQUARE_999[length - 1]
    pairs = Counter((subnet.depths[0], subnet.depths[3]) for subnet in subnets)
    uniform = {(a, b): draws / 9 for a in range(1, 4) for b in range(1, 4)}
    assert chi_square(pairs, uniform) < 26.1  # 8 degrees of freedom


@pytest.mark.parametrize("keep", [0.2, 0.5, 0.9])
def test_unordered_keeps_each_skippable_block_with_its_probability(keep):
    # ranges that exclude nothing, so that no condition changes the probability
    space = SubnetSpace((4, 5), (True, False), ranges=((1, 4), (0, 5)), kept="unordered")
    rng, draws = generator(1), 2000
    subnets = [unordered(space, rng, keep=keep) for _ in range(draws)]
    assert all(subnet in space for subnet in subnets)
    assert all(subnet.stages[0][0] == 0 for subnet in subnets)
    spread = math.sqrt(keep * (1 - keep) / draws)
    for stage, block in [(0, 1), (0, 2), (0, 3), *((1, block) for block in range(5))]:
        share = sum(block in subnet.stages[stage] for subnet in subnets) / draws
        assert abs(share - keep) < 4 * spread, (stage, block)


def test_unordered_within_a_range_is_the_conditional_distribution():
    space = SubnetSpace((3,), (False,), ranges=((1, 2),), kept="unordered")
    rng, draws, keep = generator(2), 6000, 0.7
    counts = Counter(unordered(space, rng, keep=keep) for _ in range(draws))
    weights = {subnet: keep**subnet.blocks * (1 - keep) ** (3 - subnet.blocks) for subnet in space}
    total = sum(weights.values())
    assert len(counts) == 6
    assert chi_square(counts, {s: draws * w / total for s, w in weights.items()}) < CHI_SQUARE_999[5]


@pytest.mark.parametrize("keep", [1e-6, 1 - 1e-6])
def test_an_extreme_probability_still_draws(keep):
    space = SubnetSpace((2500,), (False,), ranges=((1200, 1200),), kept="unordered")
    assert unordered(space, generator(), keep=keep).blocks == 1200


@given(st.integers(0, 2**31), st.sampled_from(PLAIN))
def test_what_is_drawn_is_in_the_space(seed, name):
    space = SubnetSpace((4, 6, 5, 2), (True, False, True, False), ranges=((2, 3), (1, 4), (5, 5), (0, 2)))
    subnet = SAMPLERS[name](space, generator(seed))
    assert subnet in (space.keeping(name) if name in KEPT else space)


def test_samplers_ignore_what_the_space_keeps():
    for name in PLAIN:
        expected = [SAMPLERS[name](SPACE, generator(seed)) for seed in range(20)]
        assert all(subnet.ordered for subnet in expected) is (name not in ("suffix", "every_other", "unordered"))
        for kept in KEPT:
            assert [SAMPLERS[name](SPACE.keeping(kept), generator(seed)) for seed in range(20)] == expected


@pytest.mark.parametrize("name", ["suffix", "every_other"])
def test_depths_are_uniform_whichever_blocks_are_kept(name):
    rng, draws = generator(6), 3000
    subnets = [SAMPLERS[name](SPACE, rng) for _ in range(draws)]
    for stage, length in enumerate(SPACE.lengths):
        counts = Counter(subnet.depths[stage] for subnet in subnets)
        expected = {depth: draws / length for depth in range(1, length + 1)}
        assert chi_square(counts, expected) < CHI_SQUARE_999[length - 1]
    pairs = Counter((subnet.depths[0], subnet.depths[3]) for subnet in subnets)
    assert chi_square(pairs, {(a, b): draws / 9 for a in range(1, 4) for b in range(1, 4)}) < 26.1


def test_the_blocks_of_suffix_and_every_other_by_hand():
    one = SubnetSpace((5,), (True,), ranges=((2, 3),))
    rng = generator(7)
    assert {str(suffix(one, rng)) for _ in range(50)} == {"[0.4]", "[0.3.4]"}
    assert {str(every_other(one, rng)) for _ in range(50)} == {"[0.2]", "[0.1.3]"}
    free = SubnetSpace((4,), (False,))
    assert {str(suffix(free, rng)) for _ in range(100)} == {"[3]", "[2.3]", "[1.2.3]", "4"}
    assert {str(every_other(free, rng)) for _ in range(100)} == {"1", "[0.2]", "3", "4"}


@pytest.mark.parametrize("name", KEPT)
def test_ranges_are_the_depths_that_are_drawn(name):
    space, ranges = SubnetSpace((4, 3), (True, False)), [[2, 3], [0, 1]]
    draw = resolve_sampler({"name": name, "ranges": ranges}, space)
    rng = generator(8)
    drawn = {draw(space, rng) for _ in range(400)}
    assert drawn == set(space.keeping(name).restrict(ranges))
    plain = resolve_sampler(name, space)
    assert [plain(space, generator(seed)) for seed in range(5)] == [
        SAMPLERS[name](space, generator(seed), ranges=None) for seed in range(5)
    ]


@pytest.mark.parametrize("name", KEPT)
def test_all_subnets_of_a_space_are_equally_likely(name):
    space = SubnetSpace((3, 3), (True, False), ranges=((1, 3), (1, 2)), kept=name)
    rng, draws = generator(9), 4800
    counts = Counter(uniform(space, rng) for _ in range(draws))
    assert chi_square(counts, dict.fromkeys(space, draws / len(space))) < (49.7 if name == "unordered" else 20.5)


@given(st.data(), st.integers(0, 2**31))
def test_what_is_drawn_is_the_exact_set_at_its_depth(data, seed):
    space = data.draw(spaces())
    for name in KEPT:
        subnet = SAMPLERS[name](space, generator(seed))
        assert subnet in space.keeping(name)
        if name != "unordered":
            assert subnet == space.keeping(name).at(subnet.depths)
            assert subnet.depths == ordered(space, generator(seed)).depths, "all three draw the same depths"
        assert all(not fixed or 0 in kept for fixed, kept in zip(space.fixed, subnet.stages, strict=True))
        assert uniform(space.keeping(name), generator(seed)) == subnet


def test_interstage_draws_within_its_ranges():
    rng = generator()
    ranges = [[3, 3], [3, 4], [3, 6], [3, 3]]
    depths = {interstage(SPACE, rng, ranges=ranges).depths for _ in range(200)}
    assert depths == {(3, b, c, 3) for b in (3, 4) for c in (3, 4, 5, 6)}


def test_interstage_leaves_the_first_and_the_last_stage_whole():
    rng = generator()
    depths = {interstage(SPACE, rng).depths for _ in range(200)}
    assert depths == {(3, b, c, 3) for b in (2, 3, 4) for c in (3, 4, 5, 6)}
    two = SubnetSpace((4, 4), (True, True))
    assert len({interstage(two, rng).depths for _ in range(200)}) == 9, "of two stages none is in the middle"


def test_interstage_with_a_least_depth_is_that_of_the_paper_for_resnet50():
    draw, rng = resolve_sampler({"name": "interstage", "least": 3}, SPACE), generator()
    assert {draw(SPACE, rng).depths for _ in range(200)} == {(3, b, c, 3) for b in (3, 4) for c in (3, 4, 5, 6)}
    other = SubnetSpace((9, 2, 5, 3), (True, True, False, True))
    assert {interstage(other, rng, least=3).depths for _ in range(200)} == {(9, 2, c, 3) for c in (3, 4, 5)}
    one = SubnetSpace((4,), (False,))
    assert {interstage(one, rng, least=2).depths for _ in range(100)} == {(2,), (3,), (4,)}
    with pytest.raises(UsageError, match=r"'least' of 6 leaves no stage that varies: the deepest .* has 6 blocks"):
        resolve_sampler({"name": "interstage", "least": 6}, SPACE)


def test_halves_is_the_base_net_of_the_paper():
    draw, rng = resolve_sampler("halves", SPACE), generator()
    state = rng.get_state()
    assert {str(draw(SPACE, rng)) for _ in range(20)} == {"2-2-3-2"}
    assert torch.equal(rng.get_state(), state), "nothing is left to chance"
    bounded = SubnetSpace((1, 5, 8, 2), (True, False, True, False), ranges=((1, 1), (4, 5), (2, 6), (0, 2)))
    assert str(halves(bounded, rng)) == "1-4-3-1"


def test_halves_stage_by_stage_draws_each_with_a_probability_of_a_half():
    draw, rng, draws = resolve_sampler({"name": "halves", "together": False}, SPACE), generator(11), 3200
    counts = Counter(draw(SPACE, rng).depths for _ in range(draws))
    expected = {(a, b, c, d): draws / 16 for a in (2, 3) for b in (2, 4) for c in (3, 6) for d in (2, 3)}
    assert set(counts) == set(expected) and chi_square(counts, expected) < 37.7  # 15 degrees of freedom


def test_ranked_keeps_the_most_important_blocks_of_each_stage():
    draw, rng = resolve_sampler({"name": "ranked", "order": ORDER}, SPACE), generator(12)
    drawn = {draw(SPACE, rng) for _ in range(3000)}
    assert drawn == set(SPACE.keeping(by_importance(ORDER))) and len(drawn) == 216
    assert {str(Subnet((subnet.stages[2],))) for subnet in drawn} == {
        *("[5]", "[0.5]", "[0.3.5]", "[0.1.3.5]", "[0.1.3.4.5]", "6"),
    }
    assert [draw(SPACE, generator(seed)).depths for seed in range(9)] == [
        ordered(SPACE, generator(seed)).depths for seed in range(9)
    ]
    narrow = resolve_sampler({"name": "ranked", "order": "[0.2.1]-[0.3.1.2]-6-3", "ranges": [[2, 2]] * 4}, SPACE)
    assert str(narrow(SPACE, rng)) == "[0.2]-[0.3]-2-2"
    assert str(uniform(SPACE.restrict([[2, 2]] * 4).keeping(by_importance(ORDER)), rng)) == "[0.2]-[0.3]-[0.5]-2"
    with pytest.raises(UsageError, match=r"one of stages of \[3, 4\] blocks, and the network has stages of \[3, 4, 6"):
        resolve_sampler({"name": "ranked", "order": ORDER[:2]}, SPACE)
    with pytest.raises(UsageError, match=r"importance of stage 0 begins with block 1: block 0 changes stride"):
        resolve_sampler({"name": "ranked", "order": [[1, 0, 2], *ORDER[1:]]}, SPACE)


@pytest.mark.parametrize("name", PLAIN)
def test_a_saved_state_draws_the_same_again(name):
    draw = resolve_sampler(name, SPACE)
    rng = generator(5)
    for _ in range(7):
        draw(SPACE, rng)
    state = rng.get_state()
    expected = [draw(SPACE, rng) for _ in range(20)]
    other = torch.Generator()
    other.set_state(state)
    assert [draw(SPACE, other) for _ in range(20)] == expected
    assert len(set(expected)) > 1 or name == "halves"


@pytest.mark.parametrize("name", PLAIN)
def test_a_sampler_leaves_the_global_random_state_alone(name):
    before = torch.get_rng_state()
    resolve_sampler(name, SPACE)(SPACE, generator())
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("name", PLAIN)
def test_the_default_dtype_does_not_change_what_is_drawn(name):
    expected = [SAMPLERS[name](SPACE, generator(seed)) for seed in range(10)]
    torch.set_default_dtype(torch.float64)
    try:
        assert [SAMPLERS[name](SPACE, generator(seed)) for seed in range(10)] == expected
    finally:
        torch.set_default_dtype(torch.float32)


def test_settings_reach_the_sampler():
    draw = resolve_sampler({"name": "interstage", "ranges": [[1, 1], [2, 2], [3, 3], [1, 1]]}, SPACE)
    assert draw(SPACE, generator()) == Subnet.parse("1-2-3-1")
    draw = resolve_sampler({"name": "unordered", "keep": 0.999999}, SPACE)
    assert draw(SPACE, generator()) == Subnet.parse("3-4-6-3")


def test_a_settings_mapping_is_not_used_up():
    settings = {"name": "unordered", "keep": 0.8}
    resolve_sampler(settings, SPACE)
    assert settings == {"name": "unordered", "keep": 0.8}


def test_a_callable_is_its_own_sampler():
    def mine(space: SubnetSpace, rng: torch.Generator) -> Subnet:
        return space.smallest

    assert resolve_sampler(mine, SPACE) is mine
    assert sampler_problem(mine) is None


@pytest.mark.parametrize("sampler", [*PLAIN, {"name": "unordered", "keep": 0.8}, {"name": "ranked", "order": ORDER}])
def test_there_is_no_problem_with_a_good_sampler(sampler):
    assert sampler_problem(sampler) is None


@pytest.mark.parametrize(
    ("sampler", "message"),
    [
        (
            "orderd",
            r"no sampler 'orderd', known: ordered, unordered, interstage, .*every_other.*; did you mean 'ordered'\?",
        ),
        ("zzz", r"no sampler 'zzz', known: ordered, unordered, interstage, late"),
        ({"name": "ordered", "keep": 0.5}, r"'ordered' has no setting 'keep', it has: ranges"),
        ({"name": "unordered", "kep": 0.5}, r"'unordered' has no setting 'kep', it has: keep, ranges"),
        ({"keep": 0.5}, r"got \{'keep': 0.5\}, but it is a name or a mapping with 'name'"),
        (3, r"got 3, but it is a name or a mapping"),
        ({"name": ["ordered"]}, r"no sampler \['ordered'\], known: ordered"),
        ({"name": "unordered", "keep": 1.0}, r"'keep' is a probability above 0 and below 1, got 1\.0"),
        ({"name": "unordered", "keep": "half"}, r"'keep' is a probability above 0 and below 1, got 'half'"),
        ({"name": "unordered", "keep": True}, r"'keep' is a probability .* got True"),
        ({"name": "nested", "decay": 0.0}, r"'decay' is a factor above 0 and at most 1, got 0\.0"),
        ({"name": "nested", "decay": 1.5}, r"'decay' is a factor above 0 and at most 1, got 1\.5"),
        ({"name": "nested", "outer": "1-1"}, r"'nested' has no setting 'outer', it has: decay"),
        ({"name": "interstage", "ranges": 3}, r"'ranges'.*got 3"),
        ({"name": "interstage", "ranges": [[3], [3, 4]]}, r"'ranges'.*got \[\[3\], \[3, 4\]\]"),
        ({"name": "interstage", "ranges": [["a", "b"]]}, r"'ranges'.*got \[\['a', 'b'\]\]"),
        ({"name": "suffix", "ranges": "1-3"}, r"'ranges' holds the least and the greatest depth .*got '1-3'"),
        ({"name": "every_other", "ranges": [[3, 1]]}, r"'ranges' holds depths from 0 on, .*got \[3, 1\]"),
        ({"name": "unordered", "ranges": [[-1, 1]]}, r"'ranges' holds depths from 0 on, .*got \[-1, 1\]"),
        ({"name": "ordered", "ranges": [[1, 2.5]]}, r"'ranges' holds the least .*got \[\[1, 2\.5\]\]"),
        ({"name": "suffix", "keep": 0.5}, r"'suffix' has no setting 'keep', it has: ranges"),
        ("ranked", r"'ranked' needs the setting 'order', it has: order, ranges"),
        ({"name": "ranked", "order": 3}, r"an order of importance has for each stage all of its blocks.*got 3"),
        ({"name": "ranked", "order": [[0, 2]]}, r"stage 0 of \[\[0, 2\]\] has 2, and these are not 0\.\.1"),
        ({"name": "ranked", "order": "2-[0.0]"}, r"an order of importance has .* got '2-\[0\.0\]'"),
        ({"name": "halves", "together": 1}, r"'together' is true or false, got 1"),
        ({"name": "interstage", "least": 0}, r"'least' is a whole number of blocks from 1 on, got 0"),
        ({"name": "interstage", "least": 2.0}, r"'least' is a whole number of blocks from 1 on, got 2\.0"),
        (
            {"name": "interstage", "least": 3, "ranges": [[3, 3]]},
            r"'least' stands in place of 'ranges'; got both, 3 and \[\[3, 3\]\]",
        ),
    ],
)
def test_a_bad_sampler_is_refused_by_message(sampler, message):
    problem = sampler_problem(sampler)
    assert problem is not None and problem.startswith("sampler: ")
    with pytest.raises(UsageError, match=message):
        resolve_sampler(sampler, SPACE)


def test_ranges_that_do_not_fit_the_network_fail_before_the_first_step():
    with pytest.raises(UsageError, match=r"4 stages need as many depth ranges, got 1"):
        resolve_sampler({"name": "interstage", "ranges": [[1, 2]]}, SPACE)
    with pytest.raises(UsageError, match=r"depth range 1\.\.9 of stage 3 does not fit.*within 1\.\.3"):
        resolve_sampler({"name": "interstage", "ranges": [[1, 2], [1, 2], [1, 2], [1, 9]]}, SPACE)
    with pytest.raises(UsageError, match=r"depth range 0\.\.3 of stage 0 does not fit.*within 1\.\.3"):
        resolve_sampler({"name": "suffix", "ranges": [[0, 3], [1, 2], [1, 2], [1, 2]]}, SPACE)


@st.composite
def spaces(draw) -> SubnetSpace:
    """Spaces of any lengths, fixed first blocks and depth ranges."""
    lengths, fixed, ranges = [], [], []
    for _ in range(draw(st.integers(1, 4))):
        lengths.append(draw(st.integers(1, 7)))
        fixed.append(draw(st.booleans()))
        low = draw(st.integers(int(fixed[-1]), lengths[-1]))
        ranges.append((low, draw(st.integers(low, lengths[-1]))))
    return SubnetSpace(tuple(lengths), tuple(fixed), tuple(ranges))


@given(spaces(), st.integers(0, 2**31), st.floats(1e-6, 1.0))
def test_every_nested_draw_is_inside_the_one_before(space, seed, decay):
    rng, outer = generator(seed), space.full
    for _ in range(6):
        inner = nested_inside(space, outer, rng, decay=decay)
        assert inner in space
        assert all(set(kept) <= set(around) for kept, around in zip(inner.stages, outer.stages, strict=True))
        outer = inner


@pytest.mark.parametrize("decay", [0.3, 0.5, 1.0])
def test_nested_depths_decay_exponentially_from_the_outer_ones(decay):
    space = SubnetSpace((6, 5), (True, False), ranges=((2, 6), (0, 4)))
    rng, draws = generator(3), 3000
    outer = Subnet.parse("5-2")
    counts = Counter(nested_inside(space, outer, rng, decay=decay).depths for _ in range(draws))
    weights = {(a, b): decay ** (5 - a) * decay ** (2 - b) for a in (2, 3, 4, 5) for b in (0, 1, 2)}
    total = sum(weights.values())
    expected = {depths: draws * weight / total for depths, weight in weights.items()}
    assert min(expected.values()) > 2
    assert chi_square(counts, expected) < 31.3  # 11 degrees of freedom


def test_nested_starts_from_the_largest_subnet_and_prefers_large_ones():
    rng = generator(4)
    blocks = Counter(nested(SPACE, rng).depths for _ in range(400))
    assert blocks.most_common(1)[0][0] == (3, 4, 6, 3)
    assert [nested(SPACE, rng, decay=1e-9) for _ in range(5)] == [Subnet.parse("3-4-6-3")] * 5
    restricted = SPACE.restrict([(1, 2), (2, 2), (1, 4), (1, 3)])
    assert all(nested(restricted, rng) in restricted for _ in range(20))


def test_nested_stays_inside_of_subnets_of_the_space_only():
    with pytest.raises(UsageError, match="subnet 9-1-1-1 is not one of this network's"):
        nested_inside(SPACE, Subnet.parse("9-1-1-1"), generator())


OWN = """
import torch
from stimulative import Subnet

def smallest(space, generator, *, more=0):
    depths = [min(low + more, high) for low, high in space.ranges]
    return Subnet.from_depths(depths)

def drawn(space, generator, most):
    depths = [1 + int(torch.randint(min(most, high), (), generator=generator)) for _, high in space.ranges]
    return Subnet.from_depths(depths)

def any_settings(space, generator, **settings):
    return space.smallest if settings else space.full

def text(space, generator):
    return "1-1-1-1"

def other(space, generator, *, subnet):
    return Subnet.parse(subnet)

def alone(space):
    return space.full

def named_only(*, space, generator):
    return space.full

number = 3
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A module of samplers in the current directory."""
    (tmp_path / "my_samplers.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    yield
    sys.modules.pop("my_samplers", None)


def test_an_own_sampler_by_name(own):
    assert sampler_problem("my_samplers:smallest") is None
    draw = resolve_sampler("my_samplers:smallest", SPACE)
    assert draw(SPACE, generator()) == Subnet.parse("1-1-1-1")
    draw = resolve_sampler({"name": "my_samplers:smallest", "more": 1}, SPACE)
    assert draw(SPACE, generator()) == Subnet.parse("2-2-2-2")
    draw = resolve_sampler({"name": "my_samplers:any_settings", "whatever": 1}, SPACE)
    assert draw(SPACE, generator()) == SPACE.smallest


def test_an_own_sampler_draws_by_the_generator(own):
    draw = resolve_sampler({"name": "my_samplers:drawn", "most": 3}, SPACE)
    first, second = ([draw(SPACE, rng) for _ in range(20)] for rng in (generator(3), generator(3)))
    assert first == second and len(set(first)) > 1


@pytest.mark.parametrize(
    ("sampler", "message"),
    [
        ("my_sampler:smallest", r"cannot import 'my_sampler' for sampler 'my_sampler:smallest'.*looked in"),
        ("my_samplers:smalest", r"has no 'smalest' for sampler 'my_samplers:smalest'; did you mean 'smallest'\?"),
        ("my_samplers", r"no sampler 'my_samplers'.* A sampler of your own is written 'package.module:sampler'"),
        ("my samplers:smallest", r"unknown sampler 'my samplers:smallest'; .* is written 'package.module:sampler'"),
        ("my_samplers:number", r"is no sampler: it must be a function that draws a Subnet.*got int 3"),
        ("my_samplers:alone", r"'my_samplers:alone' is no sampler: it must take a space and a generator.*\(space\)"),
        ("my_samplers:named_only", r"is no sampler: it must take a space and a generator first"),
        ({"name": "my_samplers:smallest", "mor": 1}, r"'my_samplers:smallest' has no setting 'mor', it has: more"),
        ({"name": "my_samplers:text", "more": 1}, r"'my_samplers:text' has no setting 'more', it has: none"),
        ("my_samplers:drawn", r"'my_samplers:drawn' needs the setting 'most', it has: most"),
    ],
)
def test_a_bad_own_sampler_is_refused_by_message(own, sampler, message):
    problem = sampler_problem(sampler)
    assert problem is not None and problem.startswith("sampler: ")
    with pytest.raises(UsageError, match=message):
        resolve_sampler(sampler, SPACE)


@pytest.mark.parametrize(
    ("sampler", "message"),
    [
        ("my_samplers:text", r"sampler 'my_samplers:text' has to return a Subnet, got str '1-1-1-1'"),
        ({"name": "my_samplers:other", "subnet": "1-1-1"}, r"has drawn 1-1-1, which is no subnet of this network"),
        (
            {"name": "my_samplers:other", "subnet": "1-1-7-1"},
            r"has drawn 1-1-7-1, .*depths 1..3, 1..4, 0..6, 1..3",
        ),
        (
            {"name": "my_samplers:other", "subnet": "[1]-1-1-1"},
            r"of at least 1 always runs, first",
        ),
        ({"name": "my_samplers:other", "subnet": "0-1-1-1"}, r"has drawn 0-1-1-1, which is no subnet"),
    ],
)
def test_what_an_own_sampler_draws_has_to_be_a_subnet_of_the_network(own, sampler, message):
    assert sampler_problem(sampler) is None, "that shows only when it draws"
    with pytest.raises(UsageError, match=message):
        resolve_sampler(sampler, SPACE)


def test_an_own_sampler_may_draw_what_is_not_in_the_space(own):
    narrow = SPACE.restrict([(1, 1), (1, 1), (1, 1), (1, 1)])
    for subnet in ("2-[0.3]-0-3", "3-4-6-3"):
        draw = resolve_sampler({"name": "my_samplers:other", "subnet": subnet}, narrow)
        assert draw(narrow, generator()) == Subnet.parse(subnet)
