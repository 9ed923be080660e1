"""What a skipped block returns, worked out from one call of it."""

import pytest
import torch
from torch import Tensor

from stimulative.residual import FIRST, Argument, Call, Constant, Input, Nothing, needs_before, widens
from stimulative.residual.finding.passing import Before, could_pass, inputs_of, pass_through, passed, weighs


def ramp(*shape: int, start: float = 1.0) -> Tensor:
    count = torch.Size(shape).numel()
    return torch.arange(start, start + count, dtype=torch.float64).view(shape)


X, Y = ramp(2, 3), ramp(2, 3, start=10)
MAPS = ramp(2, 3, 4, 4)


def call(output, *args, **kwargs) -> Call:
    return Call("block", args, kwargs, output)


def at_zero(output, *args, **kwargs):
    """The template by values, of a call that returned something else of the same shape."""
    return pass_through(call(output, *args, **kwargs), at_zero=output, given=(args, kwargs))


# --- finding a template ------------------------------------------------------------------------------------------


def test_one_tensor_for_another():
    assert pass_through(call(X + 1, X)) == at_zero(X.clone(), X) == FIRST == Input(0)


def test_the_first_input_of_the_right_shape_or_of_the_right_value():
    assert pass_through(call(Y, ramp(2), X, Y)) == Input(1), "shapes cannot tell them apart"
    assert at_zero(Y.clone(), ramp(2), X, Y) == Input(2)
    assert at_zero(Y.clone(), X, hidden={"state": [Y]}) == Input(1)


def test_no_template_where_the_stream_is_no_input():
    assert pass_through(call(ramp(3, 2), X)) is None
    assert pass_through(call(X.long(), X)) is None, "of another type"
    assert pass_through(call(3, X)) is None, "no tensor"
    for output in (X + 1e-3, torch.zeros_like(X), -X, 2 * X, X[:, [1, 0, 2]]):
        assert at_zero(output, X) is None
    assert at_zero(X * (1 + 1e-6), X) == Input(0), "up to rounding"
    assert at_zero(torch.zeros(2, 3), torch.zeros(2, 3)) is None, "zeros show nothing"


def test_several_tensors_each_take_an_input_of_their_own():
    assert pass_through(call((X + 1, Y + 1), X, Y)) == (Input(0), Input(1))
    assert at_zero((Y.clone(), X.clone()), X, Y) == (Input(1), Input(0))
    assert at_zero((X.clone(), {"again": X.clone()}), X) == (Input(0), {"again": Before(1)})


def test_what_no_input_has_comes_from_the_block_before():
    template = at_zero((X.clone(), ramp(2, 5), torch.zeros(2, 3)), X)
    assert template == (Input(0), Before(1), Before(2))
    assert needs_before(template) and not needs_before(FIRST)
    assert not needs_before(None)


def test_a_stream_may_be_weighed_but_nothing_else():
    assert at_zero(0.5 * X, X) == Input(0)
    assert at_zero((X.clone(), 0.5 * Y), X, Y) == (Input(0), Before(1))
    assert at_zero(1e-4 * X, X) is None, "next to nothing"
    assert weighs(Input(0), ((X,), {}), 0.5 * X) and weighs((Input(1), None), ((X, Y), {}), (0.5 * Y, None))
    assert not weighs(Input(0), ((X,), {}), X * (1 + 1e-6))


def test_numbers_and_texts_are_arguments_or_constants():
    size = (4, 8)
    assert at_zero((X.clone(), 4, 8), X, size) == (Input(0), Argument(0), Argument(1))
    assert at_zero((X.clone(), 8, 4), X, size) == (Input(0), Argument(1), Argument(0))
    assert at_zero((X.clone(), 4, 4), X, 4) == (Input(0), Argument(0), Constant(4)), "each once"
    assert at_zero((X.clone(), 4), X, 4.0) == (Input(0), Constant(4)), "of the same type"
    assert at_zero((X.clone(), "nhwc", True), X, layout="nhwc") == (Input(0), Argument(0), Constant(True))
    marker = object()
    assert at_zero([X.clone(), marker, object()], X, marker) == [Input(0), Argument(0), Constant(None)]


def test_an_argument_is_found_at_its_place_whatever_others_there_are():
    template = at_zero((X.clone(), 4), None, X, size=4)
    assert template == (Input(0), Argument(1))
    returned = passed(template, (Y, X), {"size": 5})
    assert returned[0] is X and returned[1] == 5, "a mask that was None on the example"
    assert passed(at_zero(X.clone(), None, X), (Y, X), {}) is X
    assert passed(at_zero(X.clone(), mask=None, x=X), (), {"x": X, "mask": Y}) is X
    assert passed(at_zero(X.clone(), {"rest": None, "x": [X]}), ({"x": [X], "rest": Y},), {}) is X
    assert passed(at_zero(X.clone(), x=X), (X,), {}) is X, "called in another way: the first tensor"


def test_another_number_format_is_that_of_the_output():
    template = pass_through(call((X.float(), Y), X, Y))
    assert template == (Input(0, formats=(torch.float64, torch.float32)), Input(1))
    assert passed(template, (X, Y), {})[0].dtype == torch.float32
    assert passed(template, (X.half(), Y), {})[0].dtype == torch.float16, "only what was changed on the example"
    assert pass_through(call(X, X.float(), Y)) == Input(1), "one of the same format first"


def test_nothing_at_all_stays_nothing():
    found = at_zero((X.clone(), None), X, None)
    assert passed(found, (X, None), {})[1] is None


def test_more_channels_are_zeros_behind_the_input():
    padded = torch.cat([MAPS, torch.zeros(2, 2, 4, 4, dtype=MAPS.dtype)], 1)
    assert at_zero(padded, MAPS) == Input(0, widened=2)
    assert widens(at_zero(padded, MAPS)) and not widens(FIRST) and not widens(None)
    assert pass_through(call(padded, MAPS)) is None, "a shape alone does not say so"
    in_front = at_zero(torch.cat([torch.zeros(2, 2, 4, 4, dtype=MAPS.dtype), MAPS], 1), MAPS)
    assert in_front == Input(0, in_front=2) and widens(in_front)
    assert torch.equal(passed(in_front, (MAPS,), {})[:, 2:], MAPS) and not passed(in_front, (MAPS,), {})[:, :2].any()
    assert at_zero(padded.flip(1), MAPS) is None, "in another order"
    assert at_zero(padded + (padded == 0) * 1e-3, MAPS) is None, "not zero"
    assert at_zero(padded[:, :, 0, 0], MAPS[:, :, 0, 0]) is None, "maps only"
    assert not weighs(Input(0, widened=2), ((MAPS,), {}), padded)


def test_whole_numbers_have_to_be_the_same():
    tokens = torch.tensor([[1, 2, 3]])
    assert at_zero(tokens.clone(), tokens) == Input(0)
    assert at_zero(tokens + 1, tokens) is None


@pytest.mark.parametrize(
    ("output", "given", "expected"),
    [
        (X, (X,), True),
        (ramp(2, 5, 4, 4), (MAPS,), True),
        (ramp(2, 2, 4, 4), (MAPS,), False),
        (ramp(2, 5, 2, 2), (MAPS,), False),
        (ramp(2, 4), (X,), False),
        ((ramp(5), X), (X,), False),
        (None, (X,), False),
    ],
)
def test_shapes_say_what_need_not_be_tried(output, given, expected):
    assert could_pass(call(output, *given)) is expected


# --- following a template ----------------------------------------------------------------------------------------


def test_a_skipped_block_returns_the_very_tensor():
    assert passed(FIRST, (X, Y), {}) is X
    assert passed(FIRST, (), {"x": X}) is X
    assert passed(Input(1), (3, X), {"state": Y}) is Y


def test_all_kinds_of_leaves_in_their_structure():
    template = (Input(1), {"size": [Argument(1), Constant(7)], "kept": Before(2)}, Nothing(0), Input(0, widened=1))
    before = (X, {"a": Y}, 5, ramp(7))
    stream, inside, nothing, padded = passed(template, (MAPS, 3), {"x": X, "side": 9}, before)
    assert stream is X
    assert inside["size"] == [9, 7] and torch.equal(inside["kept"], ramp(7))
    assert torch.equal(nothing, torch.zeros_like(MAPS))
    assert torch.equal(padded[:, :3], MAPS) and padded.shape == (2, 4, 4, 4) and not padded[:, 3:].any()


def test_inputs_of_a_template():
    assert inputs_of((Input(2), Before(0), [Input(0, widened=3), Nothing(1)])) == [2, 0]


@pytest.mark.parametrize("output", [X, (X, 4, ramp(2, 5)), {"x": X, "more": [MAPS, "text", None]}])
def test_what_was_found_gives_the_output_back(output):
    args = (X, 4, MAPS)
    template = pass_through(call(output, *args), at_zero=output, given=(args, {}))
    found = passed(template, args, {}, before=output)
    leaves, expected = (torch.utils._pytree.tree_leaves(tree) for tree in (found, output))
    assert len(leaves) == len(expected)
    assert all(torch.equal(a, b) if isinstance(a, Tensor) else a == b for a, b in zip(leaves, expected, strict=True))
