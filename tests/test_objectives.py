"""The losses against second implementations, numbers worked out by hand, and bad input."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from stimulative.errors import UsageError
from stimulative.objectives import (
    counted,
    cross_entropy,
    decoupled_divergence,
    directional_divergence,
    divergence_of_top,
    kl_divergence,
    normalised,
    soft_cross_entropy,
    squared_logits,
)


def random_logits(*shape: int, seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return (3 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)).to(dtype)


def probabilities_by_hand(logits: list[float], temperature: float) -> list[float]:
    weights = [math.exp(z / temperature) for z in logits]
    return [weight / sum(weights) for weight in weights]


def kl_by_hand(student: Tensor, teacher: Tensor, temperature: float) -> float:
    classes = student.shape[-1]
    values = []
    for s, t in zip(student.reshape(-1, classes).tolist(), teacher.reshape(-1, classes).tolist(), strict=True):
        p, q = probabilities_by_hand(t, temperature), probabilities_by_hand(s, temperature)
        values.append(sum(pi * math.log(pi / qi) for pi, qi in zip(p, q, strict=True)))
    return temperature**2 * sum(values) / len(values)


@pytest.mark.parametrize("shape", [(7,), (5, 7), (2, 3, 7)])
@pytest.mark.parametrize("temperature", [1.0, 0.5, 4.0])
def test_kl_equals_a_second_implementation(shape: tuple[int, ...], temperature: float) -> None:
    student, teacher = random_logits(*shape, seed=1), random_logits(*shape, seed=2)
    ours = kl_divergence(student, teacher, temperature=temperature)
    assert ours.shape == ()
    assert ours.item() == pytest.approx(kl_by_hand(student, teacher, temperature), rel=1e-12)


def test_kl_of_a_case_worked_out_by_hand() -> None:
    # Teacher logits (ln 3, 0) are the probabilities (3/4, 1/4), student logits (0, 0) are (1/2, 1/2):
    # KL = 3/4 ln(3/4 : 1/2) + 1/4 ln(1/4 : 1/2) = 3/4 ln 3 - 3/4 ln 2 - 1/4 ln 2
    #    = 0.8239592 - 0.6931472 = 0.1308120.
    # The other way round, 1/2 ln(2/3) + 1/2 ln 2 = 1/2 ln(4/3) = 0.1438410: the order matters.
    peaked = torch.tensor([[math.log(3.0), 0.0]], dtype=torch.float64)
    flat = torch.zeros(1, 2, dtype=torch.float64)
    assert kl_divergence(flat, peaked).item() == pytest.approx(0.1308120, abs=1e-7)
    assert kl_divergence(peaked, flat).item() == pytest.approx(0.1438410, abs=1e-7)


def test_temperature_worked_out_by_hand() -> None:
    # Teacher logits (2 ln 3, 0) at T = 2 are the probabilities of the case above: its value times T^2 = 4 is
    # 0.5232481.
    teacher = torch.tensor([[2 * math.log(3.0), 0.0]], dtype=torch.float64)
    student = torch.zeros(1, 2, dtype=torch.float64)
    assert kl_divergence(student, teacher, temperature=2.0).item() == pytest.approx(0.5232481, abs=1e-7)


def test_the_mean_is_over_all_leading_dimensions() -> None:
    student, teacher = random_logits(6, 4, seed=3), random_logits(6, 4, seed=4)
    flat = kl_divergence(student, teacher)
    assert kl_divergence(student.reshape(2, 3, 4), teacher.reshape(2, 3, 4)).item() == pytest.approx(flat.item())
    assert kl_divergence(student.repeat(5, 1), teacher.repeat(5, 1)).item() == pytest.approx(flat.item())


def test_the_gradient_reaches_the_student_only() -> None:
    student = random_logits(4, 5, seed=5).requires_grad_()
    teacher = random_logits(4, 5, seed=6).requires_grad_()
    kl_divergence(student, teacher).backward()
    assert teacher.grad is None
    assert student.grad is not None
    # d KL / d z_s = (softmax(z_s) - softmax(z_m)) / batch
    expected = (student.softmax(-1) - teacher.softmax(-1)).detach() / 4
    torch.testing.assert_close(student.grad, expected, rtol=1e-12, atol=1e-15)


def test_the_gradient_passes_gradcheck() -> None:
    student, teacher = random_logits(3, 4, seed=7).requires_grad_(), random_logits(3, 4, seed=8)
    assert torch.autograd.gradcheck(lambda z: kl_divergence(z, teacher, temperature=2.0), (student,))


def test_the_squared_temperature_keeps_the_gradient_from_shrinking() -> None:
    def gradient(temperature: float) -> Tensor:
        student = (0.01 * random_logits(4, 5, seed=9)).requires_grad_()
        teacher = 0.01 * random_logits(4, 5, seed=10)
        kl_divergence(student, teacher, temperature=temperature).backward()
        assert student.grad is not None
        return student.grad

    # A distribution linear in its logits has a gradient ~ 1/T^2 before the factor. Small logits are nearly
    # linear, so with the factor the gradients agree; without it they would differ 16-fold.
    torch.testing.assert_close(gradient(8.0), gradient(2.0), rtol=0.05, atol=1e-5)
    assert gradient(2.0).abs().max() > 1e-3


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_equal_logits_give_zero_and_no_gradient(temperature: float) -> None:
    student = random_logits(4, 5, seed=11).requires_grad_()
    value = kl_divergence(student, student, temperature=temperature)
    value.backward()
    assert value.item() == pytest.approx(0.0, abs=1e-14)
    assert student.grad is not None and student.grad.abs().max() < 1e-14


def test_a_shift_of_all_logits_changes_nothing() -> None:
    student, teacher = random_logits(4, 5, seed=12), random_logits(4, 5, seed=13)
    assert kl_divergence(student + 100, teacher - 50).item() == pytest.approx(kl_divergence(student, teacher).item())


def test_logits_far_apart_stay_finite() -> None:
    student, teacher = torch.tensor([[0.0, 500.0]]), torch.tensor([[500.0, 0.0]])
    assert kl_divergence(student, teacher).item() == pytest.approx(500.0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_raised_to_float32(dtype: torch.dtype) -> None:
    student, teacher = (
        random_logits(8, 100, seed=14, dtype=dtype),
        random_logits(8, 100, seed=15, dtype=dtype),
    )
    value = kl_divergence(student, teacher)
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(kl_divergence(student.double(), teacher.double()).item(), rel=1e-5)
    targets = torch.arange(8)
    loss = cross_entropy(student, targets)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(F.cross_entropy(student.double(), targets).item(), rel=1e-5)


def test_the_gradient_comes_back_in_the_dtype_of_the_logits() -> None:
    student = random_logits(4, 5, seed=16, dtype=torch.bfloat16).requires_grad_()
    kl_divergence(student, random_logits(4, 5, seed=17, dtype=torch.float32)).backward()
    assert student.grad is not None and student.grad.dtype == torch.bfloat16


def test_float64_stays_float64() -> None:
    student, teacher = random_logits(4, 5, seed=18), random_logits(4, 5, seed=19)
    assert kl_divergence(student, teacher).dtype == torch.float64
    assert kl_divergence(student, teacher.float()).dtype == torch.float64
    assert cross_entropy(student, torch.arange(4)).dtype == torch.float64


logit_rows = st.lists(st.tuples(st.floats(-80, 80), st.floats(-80, 80)), min_size=2, max_size=12)


@settings(deadline=None, derandomize=True)
@given(logit_rows, st.floats(0.25, 8.0))
def test_kl_is_never_negative(pairs: list[tuple[float, float]], temperature: float) -> None:
    student = torch.tensor([[s for s, _ in pairs]], dtype=torch.float64)
    teacher = torch.tensor([[t for _, t in pairs]], dtype=torch.float64)
    value = kl_divergence(student, teacher, temperature=temperature).item()
    assert math.isfinite(value)
    assert value >= -1e-11


@pytest.mark.parametrize(
    ("student", "teacher", "message"),
    [
        (torch.zeros(4, 10), torch.zeros(4, 9), r"same shape; got \(4, 10\) and \(4, 9\)"),
        (torch.zeros(4, 10), torch.zeros(1, 10), r"same shape; got \(4, 10\) and \(1, 10\)"),
        (torch.zeros(()), torch.zeros(()), r"student logits must have a class dimension .* got shape \(\)"),
        (torch.zeros(0, 10), torch.zeros(0, 10), r"at least one sample; got shape \(0, 10\)"),
        (
            torch.zeros(4, 10),
            torch.zeros(4, 10, dtype=torch.long),
            "teacher logits must be floating point; got torch.int64",
        ),
    ],
)
def test_kl_refuses_logits_that_do_not_fit(student: Tensor, teacher: Tensor, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        kl_divergence(student, teacher)


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.inf, math.nan])
def test_kl_refuses_an_impossible_temperature(temperature: float) -> None:
    with pytest.raises(UsageError, match="temperature must be a positive number; got"):
        kl_divergence(torch.zeros(2, 3), torch.zeros(2, 3), temperature=temperature)


def test_cross_entropy_of_a_case_worked_out_by_hand() -> None:
    # Logits (ln 3, 0) are the probabilities (3/4, 1/4); class 0 costs ln(4/3) = 0.2876821.
    # Smoothing by 0.2 makes the target (0.9, 0.1), and the cost
    # 0.9 ln(4/3) + 0.1 ln 4 = 0.2589139 + 0.1386294 = 0.3975433.
    logits = torch.tensor([[math.log(3.0), 0.0]])
    assert cross_entropy(logits, torch.tensor([0])).item() == pytest.approx(0.2876821, abs=1e-6)
    assert cross_entropy(logits, torch.tensor([0]), label_smoothing=0.2).item() == pytest.approx(0.3975433, abs=1e-6)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_indices_and_their_one_hot_probabilities_agree(smoothing: float) -> None:
    logits = random_logits(6, 5, seed=20, dtype=torch.float32)
    targets = torch.tensor([0, 4, 2, 2, 1, 3])
    by_index = cross_entropy(logits, targets, label_smoothing=smoothing)
    for dtype in (torch.uint8, torch.int32):
        assert cross_entropy(logits, targets.to(dtype), label_smoothing=smoothing).item() == by_index.item()
    one_hot = F.one_hot(targets, 5)
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        by_probability = cross_entropy(logits, one_hot.to(dtype), label_smoothing=smoothing)
        assert by_probability.item() == pytest.approx(by_index.item(), rel=1e-6)


def test_mixed_targets_cost_the_mix_of_the_two() -> None:
    logits = random_logits(3, 4, seed=21)
    first, second = torch.tensor([0, 1, 2]), torch.tensor([3, 3, 0])
    mixed = 0.3 * F.one_hot(first, 4) + 0.7 * F.one_hot(second, 4)
    expected = 0.3 * cross_entropy(logits, first) + 0.7 * cross_entropy(logits, second)
    assert cross_entropy(logits, mixed).item() == pytest.approx(expected.item(), rel=1e-6)


@pytest.mark.parametrize(
    ("logits", "targets", "got"),
    [
        (torch.zeros(4, 10), torch.zeros(3, dtype=torch.long), r"\(4, 10\) and torch.int64 targets \(3,\)"),
        (torch.zeros(4, 10), torch.zeros(4), r"\(4, 10\) and torch.float32 targets \(4,\)"),
        (torch.zeros(4, 10), torch.zeros(4, 10, dtype=torch.long), r"torch.int64 targets \(4, 10\)"),
        (torch.zeros(4, 10), torch.zeros(4, 9), r"torch.float32 targets \(4, 9\)"),
        (torch.zeros(10), torch.zeros((), dtype=torch.long), r"got logits \(10,\)"),
    ],
)
def test_cross_entropy_refuses_targets_that_do_not_fit(logits: Tensor, targets: Tensor, got: str) -> None:
    with pytest.raises(UsageError, match=got):
        cross_entropy(logits, targets)


# KL−


@pytest.mark.parametrize("shape", [(7,), (5, 7), (2, 3, 7)])
@pytest.mark.parametrize("amplitude", [1.0, 2.5])
def test_normalised_logits_are_a_layer_norm_without_parameters(shape, amplitude):
    z = random_logits(*shape, seed=3) + 2
    expected = amplitude * F.layer_norm(z, z.shape[-1:], eps=1e-7)
    assert torch.allclose(normalised(z, amplitude=amplitude), expected, rtol=1e-12, atol=1e-14)
    assert torch.allclose(expected.std(-1, correction=0), torch.full(shape[:-1], amplitude).double(), rtol=1e-7)


@pytest.mark.parametrize(("temperature", "amplitude"), [(1.0, 1.0), (4.0, 1.0), (0.5, 3.0)])
def test_the_directional_divergence_equals_a_second_implementation(temperature, amplitude):
    student, teacher = random_logits(5, 7, seed=1), random_logits(5, 7, seed=2)
    ours = directional_divergence(student, teacher, temperature=temperature, amplitude=amplitude)
    by_hand = [amplitude * F.layer_norm(z, (7,), eps=1e-7) for z in (student, teacher)]
    assert ours.item() == pytest.approx(kl_by_hand(*by_hand, temperature), rel=1e-10)


def test_a_directional_divergence_worked_out_by_hand():
    # Logits (3, 1) have mean 2 and deviation 1: they become (1, -1). Logits (-2, 4) become (-1, 1). With
    # p = e / (e + 1/e) the divergence is p ln(p : 1-p) + (1-p) ln(1-p : p) = (2p - 1) 2 = 2 tanh(1) = 1.5231883.
    # At amplitude 2 it is 4 tanh(2) = 3.8561103; at temperature 2 as well it is that of amplitude 1, times 4.
    teacher = torch.tensor([[3.0, 1.0]], dtype=torch.float64)
    student = torch.tensor([[-2.0, 4.0]], dtype=torch.float64)
    assert directional_divergence(student, teacher).item() == pytest.approx(1.5231883, abs=1e-6)
    assert directional_divergence(student, teacher, amplitude=2.0).item() == pytest.approx(3.8561103, abs=1e-6)
    both = directional_divergence(student, teacher, amplitude=2.0, temperature=2.0).item()
    assert both == pytest.approx(6.0927532, abs=1e-6)


def test_the_length_of_logits_has_no_part_in_the_directional_divergence():
    student, teacher = random_logits(6, 9, seed=4), random_logits(6, 9, seed=5)
    plain = directional_divergence(student, teacher).item()
    for longer in ((3 * student, teacher), (student, 3 * teacher), (student - 7, 0.1 * teacher + 2)):
        assert directional_divergence(*longer).item() == pytest.approx(plain, rel=1e-5)
        assert kl_divergence(*longer).item() != pytest.approx(kl_divergence(student, teacher).item(), rel=0.1)
    student.requires_grad_()
    directional_divergence(student, teacher).backward()
    centred = student.detach() - student.detach().mean(-1, keepdim=True)
    assert student.grad is not None and student.grad.norm() > 0.01
    assert (student.grad * centred).sum(-1).abs().max() < 1e-6  # no gradient towards more or less sure
    assert student.grad.sum(-1).abs().max() < 1e-12


def test_the_directional_teacher_is_a_fixed_target():
    student, teacher = (random_logits(3, 5, seed=seed).requires_grad_() for seed in (1, 2))
    directional_divergence(student, teacher).backward()
    assert student.grad is not None and teacher.grad is None


def test_logits_that_are_all_equal_have_no_direction_and_a_finite_gradient():
    flat = torch.zeros(2, 5, requires_grad=True)
    assert torch.equal(normalised(flat), torch.zeros(2, 5))
    directional_divergence(flat, random_logits(2, 5, seed=1).float()).backward()
    assert flat.grad is not None and flat.grad.isfinite().all()


def test_half_precision_is_raised_before_normalising():
    z = random_logits(4, 1000, seed=1).to(torch.bfloat16)
    assert normalised(z).dtype == torch.float32
    assert torch.equal(normalised(z), normalised(z.float()))


@pytest.mark.parametrize(
    ("logits", "amplitude", "message"),
    [
        (torch.zeros(2, 3, dtype=torch.int64), 1.0, "logits must be floating point; got torch.int64"),
        (torch.zeros(4, 1), 1.0, r"of two classes or more; got shape \(4, 1\)"),
        (torch.tensor(1.0), 1.0, r"got shape \(\)"),
        (torch.zeros(2, 3), 0.0, "the amplitude must be a positive number; got 0.0"),
        (torch.zeros(2, 3), math.inf, "the amplitude must be a positive number; got inf"),
    ],
)
def test_what_has_no_direction_is_refused(logits, amplitude, message):
    with pytest.raises(UsageError, match=message):
        normalised(logits, amplitude=amplitude)


def test_positions_that_do_not_count_are_in_neither_term():
    generator = torch.Generator().manual_seed(0)
    main, student = torch.randn(2, 2, 3, 5, generator=generator, dtype=torch.float64)
    y = torch.tensor([[1, -100, 4], [-100, 0, 2]])
    mask = counted(y)
    assert mask is not None and mask.tolist() == [[True, False, True], [False, True, True]]
    kept = [(0, 0), (0, 2), (1, 1), (1, 2)]
    expected = torch.stack([-main[at].log_softmax(-1)[y[at]] for at in kept]).mean()
    torch.testing.assert_close(cross_entropy(main, y), expected)
    p, q = main.log_softmax(-1), student.log_softmax(-1)
    divergence = torch.stack([(p[at].exp() * (p[at] - q[at])).sum() for at in kept]).mean()
    torch.testing.assert_close(kl_divergence(student, main, counted=mask), divergence)
    assert counted(torch.tensor([1, 2])) is None and counted(torch.rand(2, 3)) is None


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_sequences_equal_their_positions_as_samples(smoothing):
    z = torch.randn(2, 3, 5, dtype=torch.float64)
    y = torch.randint(5, (2, 3))
    one = cross_entropy(z, y, label_smoothing=smoothing)
    torch.testing.assert_close(one, cross_entropy(z.flatten(0, 1), y.flatten(), label_smoothing=smoothing))
    p = torch.rand(2, 3, 5, dtype=torch.float64).softmax(-1)
    one = cross_entropy(z, p, label_smoothing=smoothing)
    torch.testing.assert_close(one, cross_entropy(z.flatten(0, 1), p.flatten(0, 1), label_smoothing=smoothing))


def test_a_batch_of_padding_alone_has_no_loss_and_no_gradient():
    z = torch.randn(2, 3, 5, requires_grad=True)
    y = torch.full((2, 3), -100)
    loss = cross_entropy(z, y) + kl_divergence(z, torch.randn(2, 3, 5), counted=counted(y))
    loss.backward()
    assert loss.item() == 0 and not z.grad.any()


# Variants


def two(*shape: int) -> tuple[Tensor, Tensor]:
    return random_logits(*shape, seed=1), random_logits(*shape, seed=2)


@pytest.mark.parametrize("temperature", [1.0, 3.0])
@pytest.mark.parametrize("mask", [None, torch.tensor([[True, False], [True, True], [False, False]])])
def test_of_all_classes_the_divergence_of_the_top_is_the_divergence(temperature, mask) -> None:
    student, teacher = two(3, 2, 6)
    plain = kl_divergence(student, teacher, temperature=temperature, counted=mask)
    for top in (None, 6, 9):
        torch.testing.assert_close(
            divergence_of_top(student, teacher, top=top, temperature=temperature, counted=mask), plain
        )
    reverse = divergence_of_top(student, teacher, direction="reverse", temperature=temperature, counted=mask)
    torch.testing.assert_close(reverse, kl_divergence(teacher, student, temperature=temperature, counted=mask))
    both = divergence_of_top(student, teacher, direction="both", temperature=temperature, counted=mask)
    torch.testing.assert_close(both, (plain + reverse) / 2)


def test_the_top_of_three_classes_by_hand() -> None:
    # The likeliest two are the first and the third: 3/4 and 1/4 among each other; the student has 1/2 and 1/2.
    teacher = torch.tensor([[math.log(3.0), -5.0, 0.0]], dtype=torch.float64)
    student = torch.tensor([[1.0, 9.0, 1.0]], dtype=torch.float64)
    assert divergence_of_top(student, teacher, top=2).item() == pytest.approx(0.1308120, abs=1e-7)


def test_where_the_teacher_is_sure_it_is_softened() -> None:
    teacher = torch.tensor([[0.0, 0.0], [60.0, 0.0]], dtype=torch.float64)  # largest probabilities 1/2 and 1
    student = torch.tensor([[1.0, 0.0], [3.0, 0.0]], dtype=torch.float64)
    each = [
        kl_divergence(student[:1], teacher[:1], temperature=2.0),  # 1 + (3 - 1) / 2
        kl_divergence(student[1:], teacher[1:], temperature=3.0),
    ]
    torch.testing.assert_close(divergence_of_top(student, teacher, sure=3.0), (each[0] + each[1]) / 2)


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_cross_entropy_to_a_teacher_and_its_gradient(temperature) -> None:
    student, teacher = two(5, 6)
    student.requires_grad_()
    ours = soft_cross_entropy(student, teacher, temperature=temperature)
    plain = F.cross_entropy(student / temperature, (teacher / temperature).softmax(-1)) * temperature**2
    torch.testing.assert_close(ours, plain)
    (gradient,) = torch.autograd.grad(ours, student)
    (wanted,) = torch.autograd.grad(kl_divergence(student, teacher, temperature=temperature), student)
    torch.testing.assert_close(gradient, wanted)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_decoupled_distillation_against_its_formulas(temperature) -> None:
    student, teacher = two(5, 6)
    y = torch.tensor([0, 5, 2, 2, 1])
    each = []
    for s, t, at in zip(student / temperature, teacher / temperature, y.tolist(), strict=True):
        p, q = t.softmax(-1), s.softmax(-1)
        first = p[at] * (p[at] / q[at]).log() + (1 - p[at]) * ((1 - p[at]) / (1 - q[at])).log()
        rest = [i for i in range(6) if i != at]
        p, q = p[rest] / p[rest].sum(), q[rest] / q[rest].sum()
        each.append(0.5 * first + 3 * (p * (p / q).log()).sum())
    ours = decoupled_divergence(student, teacher, y, target=0.5, others=3.0, temperature=temperature)
    torch.testing.assert_close(ours, torch.stack(each).mean() * temperature**2)


def test_decoupled_parts_of_one_sample_add_up_to_the_divergence() -> None:
    student, teacher = two(1, 6)
    y = torch.tensor([3])
    unsure = 1 - float(teacher.softmax(-1)[0, 3])
    parts = decoupled_divergence(student, teacher, y, target=1.0, others=unsure)
    torch.testing.assert_close(parts, kl_divergence(student, teacher))
    student.requires_grad_()
    (gradient,) = torch.autograd.grad(decoupled_divergence(student, teacher, y, others=unsure), student)
    (wanted,) = torch.autograd.grad(kl_divergence(student, teacher), student)
    torch.testing.assert_close(gradient, wanted)


def test_a_masked_class_counts_in_no_variant() -> None:
    student, teacher = two(4, 6)
    masked = [torch.cat([z, torch.full((4, 1), -torch.inf, dtype=z.dtype)], -1) for z in (student, teacher)]
    y = torch.tensor([0, 1, 2, 3])
    for direction in ("forward", "both"):
        torch.testing.assert_close(
            divergence_of_top(*masked, direction=direction), divergence_of_top(student, teacher, direction=direction)
        )
    torch.testing.assert_close(decoupled_divergence(*masked, y), decoupled_divergence(student, teacher, y))
    torch.testing.assert_close(soft_cross_entropy(*masked), soft_cross_entropy(student, teacher))


def test_squared_differences_of_logits() -> None:
    student, teacher = two(4, 6)
    torch.testing.assert_close(squared_logits(student, teacher), F.mse_loss(student, teacher))
    mask = torch.tensor([True, False, False, True])
    torch.testing.assert_close(squared_logits(student, teacher, counted=mask), F.mse_loss(student[mask], teacher[mask]))


def test_what_normalised_logits_are_divided_by() -> None:
    student, teacher = two(4, 6)
    torch.testing.assert_close(normalised(student, by="length", amplitude=2.0), 2 * F.normalize(student, dim=-1))
    centred = student - student.mean(-1, keepdim=True)
    expected = centred / teacher.std(-1, unbiased=False, keepdim=True)
    torch.testing.assert_close(normalised(student, by="teacher", teacher=teacher), expected)
    ours = directional_divergence(student, teacher, by="teacher")
    torch.testing.assert_close(ours, kl_divergence(expected, normalised(teacher)))


def test_decoupling_two_classes_is_refused() -> None:
    with pytest.raises(UsageError, match=r"needs three classes or more; got logits \(4, 2\)"):
        decoupled_divergence(*two(4, 2), torch.tensor([0, 1, 0, 1]))
