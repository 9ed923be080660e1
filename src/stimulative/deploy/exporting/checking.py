"""Whether what was exported computes what the subnet does, on images or texts of the test split."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from stimulative.data import SentenceData, TextData
from stimulative.deploy.exporting.deployed import Deployed
from stimulative.records import Record
from stimulative.residual import ResidualNetwork, Statistics, Subnet, evaluating
from stimulative.tasks import Task
from stimulative.training import Prepared, in_precision_of

TOLERANCE = 1e-4
"""How much outputs may differ, where 1 is the largest of them: other libraries add numbers up in other orders."""

_FIRST = 1, 2, 3
_IMAGES, _SEQUENCES, _BATCH = 256, 32, 64


class ExportFailed(RuntimeError):
    """What was exported computes something else than the subnet."""


@dataclass(frozen=True)
class Case:
    """A batch, and what has to come out.

    Args:
        inputs: What the exported module takes.
        expected: What the subnet gives in place.
        counts: Of text, which positions are no padding, bool (B, T); all of them if None.
    """

    inputs: tuple[Tensor, ...]
    expected: Tensor
    counts: Tensor | None


@dataclass(frozen=True)
class Agreement(Record):
    """How near outputs are.

    Args:
        samples: Images or sequences compared.
        batches: How many of them each batch had.
        difference: The largest difference of two outputs.
        largest: The largest output.
        same: Whose most likely class is the same, of ``of`` images, positions or pixels, or labels that are there.
        of: How many there were; 0 where outputs are numbers.
    """

    samples: int
    batches: tuple[int, ...]
    difference: float
    largest: float
    same: int
    of: int


def cases_of(
    run: Prepared, module: Deployed, subnet: Subnet, statistics: Statistics, *, free: Mapping[int, str]
) -> list[Case]:
    """Batches of the test split, of several sizes where the batch is free, and what the subnet in place gives.

    Args:
        run: The data, and the network.
        module: What is exported; only what it does in front of and behind the model is taken from it.
        subnet: The subnet.
        statistics: Its statistics.
        free: The names of free dimensions, by their number.
    """
    most = _SEQUENCES if isinstance(run.data, TextData) else _IMAGES
    samples = _first_samples(run, most)
    count = len(samples[0])
    batch = min(_BATCH, run.recipe.data.evaluation_batch_size)
    sizes = [*_FIRST, *[batch] * most] if 0 in free else [1] * count
    parts = list(zip(*(_split(part, sizes) for part in samples), strict=True))
    if 1 in free and samples[0].shape[1] > 1:
        parts.append(tuple(part[:2, : part.shape[1] // 2] for part in samples))
    of_tokens = run.data.is_text
    return [_case(run.network, module, subnet, statistics, inputs, of_tokens=of_tokens) for inputs in parts]


def compare(runner: Callable[..., Tensor], cases: Sequence[Case], aim: Task) -> Agreement:
    """Run what was exported and compare.

    Args:
        runner: Runs it.
        cases: Batches, and what has to come out.
        aim: What the net is for.

    Raises:
        ExportFailed: If outputs differ by more than rounding.
    """
    difference = largest = 0.0
    same = of = 0
    for case in cases:
        try:
            got = runner(*case.inputs)
        except Exception as error:  # ONNX Runtime and PyTorch have many
            raise ExportFailed(f"it does not run on a batch of {len(case.expected)}: {error}") from error
        expected = case.expected
        if got.shape != expected.shape:
            raise ExportFailed(f"it returns shape {tuple(got.shape)} instead of {tuple(expected.shape)}")
        if case.counts is not None:
            got, expected = got[case.counts], expected[case.counts]
        if not expected.numel():
            continue
        if not got.isfinite().all():
            raise ExportFailed("it returns what is not a finite number")
        difference = max(difference, float((got - expected).abs().amax()))
        largest = max(largest, float(expected.abs().amax()))
        decided, wanted = aim.decided(got), aim.decided(expected)
        if decided is not None and wanted is not None:
            same += int((decided == wanted).sum())
            of += wanted.numel()
    if not difference <= TOLERANCE * largest:
        raise ExportFailed(
            f"its outputs differ by up to {difference:.3g} from those of the subnet, where the largest is {largest:.3g}"
            + (f"; {same:,} of {of:,} decide the same" if of else "")
        )
    batches = tuple(len(case.expected) for case in cases)
    return Agreement(sum(batches), batches, difference, largest, same, of)


def _first_samples(run: Prepared, most: int) -> tuple[Tensor, ...]:
    """The first samples of the test split, as the module takes them, before normalisation is undone."""
    found: list[tuple[Tensor, ...]] = []
    for x, _ in in_precision_of(run.network, run.data.test):
        found.append((x["input_ids"], x["attention_mask"]) if isinstance(run.data, TextData) else (x,))
        if sum(len(inputs[0]) for inputs in found) >= most:
            break
    if isinstance(run.data, SentenceData):
        found = [tuple(_as_long(part, run.data.length) for part in inputs) for inputs in found]
    return tuple(torch.cat(parts)[:most].cpu() for parts in zip(*found, strict=True))


def _as_long(tokens: Tensor, length: int) -> Tensor:
    """Tokens or their mask, (B, length), zeros behind their end; batches are as long as their longest text."""
    return F.pad(tokens, (0, length - tokens.shape[1]))


def _split(samples: Tensor, sizes: Sequence[int]) -> list[Tensor]:
    parts = []
    for size in sizes:
        if not len(samples):
            break
        parts.append(samples[:size])
        samples = samples[size:]
    return parts


def _case(
    network: ResidualNetwork,
    module: Deployed,
    subnet: Subnet,
    statistics: Statistics,
    inputs: tuple[Tensor, ...],
    *,
    of_tokens: bool,
) -> Case:
    x: Any = inputs[0] if len(inputs) == 1 else dict(zip(module.inputs, inputs, strict=True))
    with evaluating(network), torch.no_grad():
        expected = module.finish(module.aim.outputs_of(network(x, subnet, statistics=statistics)))
    return Case(module.before(inputs), expected, inputs[-1].bool() if of_tokens else None)
