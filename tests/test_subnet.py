"""Subnets as values, and the spaces that they are drawn from."""

import itertools
import json
import math
import pickle
import time
from dataclasses import FrozenInstanceError

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stimulative.errors import UsageError
from stimulative.residual import KEPT, Kept, Subnet, SubnetSpace, by_importance

RESNET50 = SubnetSpace((3, 4, 6, 3), (True,) * 4)
RESNET152 = SubnetSpace((3, 8, 36, 3), (True,) * 4)

a_stage = st.integers(0, 6).flatmap(
    lambda blocks: st.permutations(range(blocks)).flatmap(
        lambda order: st.integers(0, blocks).map(lambda kept: tuple(order[:kept]))
    )
)
any_subnet = st.lists(a_stage, min_size=1, max_size=5).map(lambda stages: Subnet(tuple(stages)))


def any_space(kept: st.SearchStrategy[Kept]) -> st.SearchStrategy[SubnetSpace]:
    def stage(fixed: bool) -> st.SearchStrategy[tuple[bool, int, int, int]]:
        return st.lists(st.integers(int(fixed), 4), min_size=3, max_size=3).map(
            lambda numbers: (fixed, *sorted(numbers))
        )

    return st.builds(
        lambda stages, kept: SubnetSpace(
            lengths=tuple(length for _, _, _, length in stages),
            fixed=tuple(fixed for fixed, *_ in stages),
            ranges=tuple((low, high) for _, low, high, _ in stages),
            kept=kept,
        ),
        st.lists(st.booleans().flatmap(stage), min_size=1, max_size=3),
        kept,
    )


def obeys(kept: Kept, blocks: tuple[int, ...], length: int, fixed: bool) -> bool:
    """Whether a set of blocks is what the rule keeps, said in another way than the space says it."""
    free = [block for block in blocks if block or not fixed]
    left_out = [block for block in range(length) if block not in blocks]
    if kept == "ordered":
        return not blocks or max(blocks) < len(blocks)
    if kept == "suffix":
        return not free or not left_out or min(free) > max(left_out)
    if kept == "every_other":  # of as many parts of equal length, each holds the start of one block more
        return all(block <= place * length / len(blocks) < block + 1 for place, block in enumerate(blocks))
    return True


def by_brute_force(space: SubnetSpace) -> list[Subnet]:
    """Every subset of every stage, kept if it obeys the rules."""
    choices = []
    for length, fixed, (low, high) in zip(space.lengths, space.fixed, space.ranges, strict=True):
        kept = [
            blocks
            for depth in range(low, high + 1)
            for blocks in itertools.combinations(range(length), depth)
            if (not fixed or 0 in blocks) and obeys(space.kept, blocks, length, fixed)
        ]
        choices.append(kept)
    return [Subnet(stages) for stages in itertools.product(*choices)]


def test_from_depths_keeps_the_first_blocks():
    subnet = Subnet.from_depths((2, 0, 3))
    assert subnet.stages == ((0, 1), (), (0, 1, 2))
    assert subnet.depths == (2, 0, 3)
    assert subnet.blocks == 5
    assert subnet.ordered


def test_a_subnet_is_frozen_hashable_and_ordered():
    subnet = Subnet.from_depths((2, 3))
    with pytest.raises(FrozenInstanceError):
        subnet.stages = ()
    assert {subnet: "found"}[Subnet(((0, 1), (0, 1, 2)))] == "found"
    assert Subnet.from_depths((2, 3)) < Subnet.from_depths((3, 1))
    assert sorted([Subnet(((0, 2),)), Subnet(((1,),)), Subnet(((0,),))]) == [
        Subnet(((0,),)),
        Subnet(((0, 2),)),
        Subnet(((1,),)),
    ]
    assert pickle.loads(pickle.dumps(subnet)) == subnet


def test_lists_become_tuples_so_that_a_subnet_stays_hashable():
    subnet = Subnet([[0, 1], [0]])
    assert subnet == Subnet(((0, 1), (0,)))
    assert hash(subnet) == hash(Subnet(((0, 1), (0,))))


@pytest.mark.parametrize(
    ("stages", "text"),
    [
        (((0, 1), (0, 1, 2), (0,)), "2-3-1"),
        (((0, 2), (0, 1, 2)), "[0.2]-3"),
        (((0,), (1, 0)), "1-[1.0]"),
        (((), (0,)), "0-1"),
        ((tuple(range(12)), (0, 11)), "12-[0.11]"),
    ],
)
def test_text_names_depths_or_else_blocks(stages, text):
    assert str(Subnet(stages)) == text
    assert Subnet.parse(f" {text}\n") == Subnet(stages)


@given(any_subnet)
def test_text_and_json_come_back_as_they_were(subnet):
    assert Subnet.parse(str(subnet)) == subnet
    assert Subnet.from_json(subnet.to_json()) == subnet
    assert [tuple(stage) for stage in json.loads(subnet.to_json())] == list(subnet.stages)


@pytest.mark.parametrize(
    "text", ["", "-", "2-", "-2", "2--3", "2,3", "a-b", "2-[0.]", "[0..1]", "[0", "2 - 3", "2-3.5"]
)
def test_unreadable_text_is_refused_with_examples(text):
    with pytest.raises(UsageError, match=r"cannot read the subnet .*'2-3-5-2'.*'2-\[0.2\]-5-2'"):
        Subnet.parse(text)


def test_a_block_named_twice_is_refused():
    with pytest.raises(UsageError, match=r"stage 1 of a subnet names each block at most once.*got \(0, 0\)"):
        Subnet.parse("2-[0.0]")
    with pytest.raises(UsageError, match=r"stage 0 .* by an index from 0 on; got \(-1,\)"):
        Subnet(((-1,),))
    with pytest.raises(UsageError, match="at least one stage, got none"):
        Subnet(())


def test_a_depth_that_is_no_count_is_refused():
    with pytest.raises(UsageError, match=r"depth.*-1"):
        Subnet.from_depths((2, -1))
    with pytest.raises(UsageError, match=r"depth.*2\.5"):
        Subnet.from_depths((2.5, 1))


@pytest.mark.parametrize("text", ["", "3", "[1, 2]", '[["a"]]', "null", "[[0, 1]"])
def test_json_that_is_no_subnet_is_refused(text):
    with pytest.raises(UsageError, match="subnet"):
        Subnet.from_json(text)


def test_the_number_of_subnets_of_known_networks():
    assert len(RESNET50) == 216
    assert len(RESNET152) == 2592
    assert len(list(RESNET152)) == 2592


@settings(deadline=None)
@given(any_space(st.sampled_from(KEPT)))
def test_a_space_is_what_brute_force_finds(space):
    expected = by_brute_force(space)
    assert list(space) == sorted(expected)
    assert len(set(space)) == len(space) == space.count == len(expected)
    assert all(subnet in space for subnet in expected)
    assert space.full in space and space.smallest in space
    assert space.full.blocks == max(subnet.blocks for subnet in expected)
    assert space.smallest.blocks == min(subnet.blocks for subnet in expected)


@settings(deadline=None)
@given(any_space(st.just("ordered")), any_subnet)
def test_membership_agrees_with_enumeration(space, subnet):
    for candidate in map(space.keeping, KEPT):
        assert (subnet in candidate) == (subnet in set(candidate))


@settings(deadline=None)
@given(any_space(st.sampled_from(KEPT)))
def test_whatever_is_kept_has_a_text_and_json_and_one_subnet_a_depth_unless_unordered(space):
    for subnet in space:
        assert Subnet.parse(str(subnet)) == Subnet.from_json(subnet.to_json()) == space.check(subnet)
        assert space.kept == "unordered" or space.at(subnet.depths) == subnet
    depths = math.prod(high - low + 1 for low, high in space.ranges)
    assert len(space) == depths if space.kept != "unordered" else len(space) >= depths
    assert {subnet.depths for subnet in space} == {subnet.depths for subnet in space.keeping("ordered")}


@pytest.mark.parametrize(
    ("kept", "fixed", "expected"),
    [
        # a stage of six blocks, at depths 1 to 6
        ("ordered", False, ["1", "2", "3", "4", "5", "6"]),
        ("suffix", False, ["[5]", "[4.5]", "[3.4.5]", "[2.3.4.5]", "[1.2.3.4.5]", "6"]),
        ("suffix", True, ["1", "[0.5]", "[0.4.5]", "[0.3.4.5]", "[0.2.3.4.5]", "6"]),
        ("every_other", False, ["1", "[0.3]", "[0.2.4]", "[0.1.3.4]", "5", "6"]),
        ("every_other", True, ["1", "[0.3]", "[0.2.4]", "[0.1.3.4]", "5", "6"]),
    ],
)
def test_what_a_stage_keeps_by_hand(kept, fixed, expected):
    space = SubnetSpace((6,), (fixed,), kept=kept)
    assert [str(space.at([depth])) for depth in range(1, 7)] == expected
    assert sorted(map(Subnet.parse, expected)) == list(space) and len(space) == 6
    assert str(space.full) == "6" and str(space.smallest) == expected[0]


def test_half_of_sixteen_layers_is_every_other_one():
    space = SubnetSpace((16,), (False,), kept="every_other")
    assert str(space.at([8])) == "[0.2.4.6.8.10.12.14]"


def test_rules_hold_for_each_stage_by_itself():
    space = SubnetSpace((3, 4), (False, True), kept="suffix")
    assert [str(subnet) for subnet in space] == [
        *("3-1", "3-4", "3-[0.2.3]", "3-[0.3]", "[1.2]-1", "[1.2]-4", "[1.2]-[0.2.3]", "[1.2]-[0.3]"),
        *("[2]-1", "[2]-4", "[2]-[0.2.3]", "[2]-[0.3]"),
    ]
    assert (str(space.smallest), str(space.full)) == ("[2]-1", "3-4")
    narrow = space.restrict([(0, 1), (2, 3)])
    assert [str(subnet) for subnet in narrow] == ["0-[0.2.3]", "0-[0.3]", "[2]-[0.2.3]", "[2]-[0.3]"]
    assert narrow.kept == "suffix"


def test_a_space_says_what_it_keeps():
    space = SubnetSpace((3, 4), (False, True))
    said = {kept: str(space.keeping(kept)).partition("), ")[2] for kept in KEPT}
    assert said == {
        "ordered": "the first blocks of each stage",
        "suffix": "the last blocks of each stage, behind its fixed first one where it has one",
        "every_other": "the evenly spread blocks of each stage",
        "unordered": "any blocks of each stage",
    }
    assert str(SubnetSpace((3,), (False,), kept="suffix")) == "depths (1..3), the last blocks of each stage"
    assert space.ordered and not space.unordered().ordered and space.unordered() == space.keeping("unordered")


def test_a_rule_that_does_not_exist_is_refused():
    with pytest.raises(UsageError, match="one of ordered, suffix, every_other, unordered; got 'last'"):
        RESNET50.keeping("last")


def test_a_ranked_space_keeps_the_most_important_blocks_in_their_own_order():
    space = SubnetSpace((4, 3), (True, False)).keeping(by_importance([[0, 3, 1, 2], [2, 0, 1]]))
    assert space.kept == "ranked:[0.3.1.2]-[2.0.1]" and space.order == ((0, 3, 1, 2), (2, 0, 1))
    assert [str(space.at([depth, 1])) for depth in (1, 2, 3, 4)] == ["1-[2]", "[0.3]-[2]", "[0.1.3]-[2]", "4-[2]"]
    assert [str(space.at([1, depth])) for depth in (1, 2, 3)] == ["1-[2]", "1-[0.2]", "1-3"]
    assert list(space) == sorted(space.at([a, b]) for a in range(1, 5) for b in range(1, 4)) and len(space) == 12
    assert (str(space.smallest), str(space.full)) == ("1-[2]", "4-3")
    assert str(space) == "depths (1..4, 1..3), the most important blocks of each stage"
    assert pickle.loads(pickle.dumps(space)) == space == SubnetSpace(space.lengths, space.fixed, kept=space.kept)
    assert space.restrict([(2, 2), (1, 1)]).full == Subnet.parse("[0.3]-[2]")
    with pytest.raises(UsageError, match=r"stage 0 keeps \[0, 1\], .* most important blocks .* those are \[0, 3\]"):
        space.check(Subnet.parse("2-[2]"))


def test_the_natural_order_of_importance_is_the_ordered_space():
    assert list(RESNET50.keeping("ranked:3-4-6-3")) == list(RESNET50)


def test_an_order_that_is_none_of_the_network_is_refused():
    for kept, message in (
        ("ranked", r"one of ordered, .*; got 'ranked'\. By an order of importance it is ranked: and for each stage"),
        ("ranked:", "an order of importance has for each stage all of its blocks"),
        ("ranked:2-x", "an order of importance has for each stage all of its blocks.* got '2-x'"),
        ("ranked:[0.2]-4-6-3", r"stage 0 of '\[0\.2\]-4-6-3' has 2, and these are not 0\.\.1"),
        ("ranked:3-4-6", r"one of stages of \[3, 4, 6\] blocks, and the network has stages of \[3, 4, 6, 3\]"),
        ("ranked:3-4-6-[1.0.2]", r"order of importance of stage 3 begins with block 1: block 0 changes stride"),
    ):
        with pytest.raises(UsageError, match=message):
            RESNET50.keeping(kept)


def test_depths_outside_of_a_space_are_refused():
    with pytest.raises(UsageError, match=r"the depth of stage 1 is within 1\.\.4, got 5\. Allowed: depths"):
        RESNET50.keeping("suffix").at([1, 5, 1, 1])
    with pytest.raises(UsageError, match=r"4 stages need as many depths, got 2: \(1, 5\)"):
        RESNET50.at([1, 5])


def test_a_space_too_large_to_count_in_a_word_is_walked_lazily():
    space = SubnetSpace((3, 80, 360, 30), (True,) * 4).unordered()
    start = time.perf_counter()
    first = list(itertools.islice(space, 5))
    assert time.perf_counter() - start < 1.0
    assert [str(subnet) for subnet in first] == ["1-1-1-1", "1-1-1-2", "1-1-1-3", "1-1-1-4", "1-1-1-5"]
    assert space.count == 2 ** (2 + 79 + 359 + 29)
    assert bool(space)


def test_narrow_depth_ranges_do_not_slow_the_walk_down():
    space = SubnetSpace((40, 12), (True, False), ranges=((39, 39), (10, 10))).unordered()
    assert sum(1 for _ in space) == space.count == 39 * 66


def test_ordered_subnets_come_in_lexicographic_order():
    subnets = list(RESNET50)
    assert subnets == sorted(subnets)
    assert [str(subnet) for subnet in subnets[:4]] == ["1-1-1-1", "1-1-1-2", "1-1-1-3", "1-1-2-1"]
    assert subnets[-1] == RESNET50.full == Subnet.from_depths((3, 4, 6, 3))
    assert subnets[0] == RESNET50.smallest == Subnet.from_depths((1, 1, 1, 1))


def test_a_space_can_be_walked_twice():
    assert list(RESNET50) == list(RESNET50)


def test_ranges_restrict_the_depths():
    space = RESNET50.restrict([(3, 3), [3, 4], (3, 6), (3, 3)])
    assert len(space) == 1 * 2 * 4 * 1
    assert space.smallest == Subnet.parse("3-3-3-3")
    assert space.full == RESNET50.full
    assert "(3..3, 3..4, 3..6, 3..3)" in str(space)
    assert Subnet.parse("3-2-3-3") not in space
    assert len(RESNET50) == 216, "restricting makes another space"


def test_a_subnet_outside_is_refused_with_the_legal_range():
    with pytest.raises(
        UsageError, match=r"2-3-7-2 .*stage 2 has depth 7, outside 1\.\.6\. Allowed: depths \(1\.\.3, 1"
    ):
        RESNET50.check(Subnet.parse("2-3-7-2"))
    with pytest.raises(UsageError, match=r"it has 3 stages, the network 4.*\(1\.\.3, 1\.\.4, 1\.\.6, 1\.\.3\)"):
        RESNET50.check(Subnet.parse("1-1-1"))
    with pytest.raises(UsageError, match=r"stage 1 keeps \[0, 2\], which are not its first blocks"):
        RESNET50.check(Subnet.parse("1-[0.2]-1-1"))
    with pytest.raises(
        UsageError, match=r"stage 1 keeps \[0, 1\], .* not its last blocks in order: at depth 2 those are \[0, 3\]"
    ):
        RESNET50.keeping("suffix").check(Subnet.parse("1-2-1-1"))
    with pytest.raises(UsageError, match=r"stage 2 keeps \[0, 2\], .* evenly spread .*\[0, 3\]\. Allowed: .* evenly"):
        RESNET50.keeping("every_other").check(Subnet.parse("1-1-[0.2]-1"))
    with pytest.raises(UsageError, match=r"stage 0 lacks its first block, which changes stride or width"):
        RESNET50.unordered().check(Subnet.parse("[1.2]-1-1-1"))
    with pytest.raises(UsageError, match=r"stage 1 has blocks 0\.\.3, not 4"):
        RESNET50.unordered().check(Subnet.parse("1-[0.4]-1-1"))
    with pytest.raises(UsageError, match=r"stage 1 runs its blocks in the order \[0, 2, 1\]"):
        RESNET50.unordered().check(Subnet.parse("1-[0.2.1]-1-1"))
    assert RESNET50.check(Subnet.parse("2-3-5-2")) == Subnet.parse("2-3-5-2")
    assert "2-3-5-2" not in RESNET50, "text is not a subnet"


@pytest.mark.parametrize(
    ("ranges", "message"),
    [
        ([(1, 3), (1, 4), (1, 7), (1, 3)], r"depth range 1\.\.7 of stage 2 does not fit.*within 1\.\.6"),
        ([(0, 3), (1, 4), (1, 6), (1, 3)], r"depth range 0\.\.3 of stage 0 does not fit.*within 1\.\.3"),
        ([(1, 3), (4, 2), (1, 6), (1, 3)], r"depth range 4\.\.2 of stage 1 does not fit"),
        ([(1, 3)], r"4 stages need as many depth ranges, got 1"),
    ],
)
def test_impossible_ranges_are_refused(ranges, message):
    with pytest.raises(UsageError, match=message):
        RESNET50.restrict(ranges)


def test_a_stage_without_a_fixed_entry_may_be_empty_if_its_range_says_so():
    space = SubnetSpace((2, 2), (False, True), ranges=((0, 2), (1, 2)))
    assert len(space) == 6
    assert space.smallest == Subnet.parse("0-1")
    assert len(space.unordered()) == 4 * 2
