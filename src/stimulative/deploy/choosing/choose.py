"""The subnet that fits: chosen under limits of latency, operations, parameters and accuracy.

Accuracy is that on the validation part, never on the test split, since choosing by it would spoil it. Latency is
measured here and now, of subnets that were taken out of the main net, since that is what is deployed.

Up to 1,000 subnets are all measured, as far as their operations and parameters, which need no measuring, are within the
budget; of more, as many as a search may measure. Of up to 64 of them the latency is measured, if it decides: those that
could be chosen by what they cost otherwise.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from stimulative import files
from stimulative.analysis import MAX_ROUNDS, SECONDS, CostModel, Steps, kept_in
from stimulative.deploy.choosing.budget import Budget
from stimulative.deploy.choosing.choice import CHOICE, Choice
from stimulative.deploy.choosing.chooser import Chooser
from stimulative.deploy.choosing.limits import Limits, Minimised, cost_to_minimise, limits_of
from stimulative.deploy.choosing.procedure import Procedure
from stimulative.deploy.choosing.search import POPULATION
from stimulative.deploy.choosing.trials import Accuracy, Stopwatch
from stimulative.deploy.deployable import open_finished
from stimulative.errors import UsageError
from stimulative.runs import CostName
from stimulative.training import as_in

EVALUATIONS = 512
"""So many a search measures."""


def choose(
    run: str | Path,
    *,
    max_latency_ms: float | None = None,
    max_flops: float | str | None = None,
    max_params: float | str | None = None,
    min_top1: float | None = None,
    max_perplexity: float | None = None,
    minimise: Minimised | None = None,
    device: torch.device | str = "cpu",
    batch: int = 1,
    threads: int | None = None,
    space: str | None = None,
    seed: int | None = None,
    images: int | None = None,
    evaluations: int = EVALUATIONS,
    latency_seconds: float = SECONDS,
    out: str | Path | None = None,
    progress: Callable[[int, int], Any] | None = None,
) -> Choice:
    """Choose the subnet of a finished run that fits, and write ``choice.json``.

    All limits have to hold. Within a budget alone the most accurate subnet is chosen, and of equally accurate ones the
    cheapest; if a quality is asked for, the cheapest that has it.

    Args:
        run: The run directory.
        max_latency_ms: The greatest latency of one batch, in milliseconds.
        max_flops: The most floating-point operations (a multiply-add is two) for a sample; a number, or ``"1.5G"``.
        max_params: The most parameters; a number, or a text such as ``"10M"``.
        min_top1: The least accuracy on the validation part, in percent; of texts, of the next token; of other tasks,
            the least of their measure.
        max_perplexity: The greatest perplexity there, for texts.
        minimise: What is as little as possible where a quality is asked for; by default the latency.
        device: Where all is measured.
        batch: Images, or sequences, in the batch that is timed.
        threads: CPU threads to time with; by default those that PyTorch has now.
        space: Which blocks stages keep, as ``SubnetSpace`` names it, or ``ranked`` for the most important ones by what
            ``rank`` has measured; by default what the recipe says.
        seed: Of the search, the draw of images, and the order of timing; by default the recipe's.
        images: How many images of the validation part to measure accuracy on, drawn; by default all.
        evaluations: Of how many subnets a search measures the accuracy.
        latency_seconds: About how long timing may take, rounds beyond the fifth.
        out: Where to write; by default the run directory.
        progress: Called with the steps done and about how many there are in all.

    Returns:
        The choice.

    Raises:
        UsageError: If something cannot be used, or no subnet keeps to the limits; then with those that come closest.
    """
    limits = limits_of(max_latency_ms, max_flops, max_params, min_top1, max_perplexity)
    decided_by = cost_to_minimise(limits, minimise)
    procedure = Procedure(device, batch, threads, space, seed, images, evaluations, latency_seconds)
    directory = Path(run if out is None else out)
    with _threads_kept():
        chosen = _chosen(Path(run), limits, decided_by, procedure, directory, progress)
    files.write_json(directory / CHOICE, chosen.to_mapping())
    return chosen


@contextmanager
def _threads_kept() -> Iterator[None]:
    """Compute with as many threads as before, whatever a recipe asks for meanwhile."""
    before = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _chosen(
    run: Path,
    limits: Limits,
    decided_by: CostName,
    procedure: Procedure,
    out: Path,
    progress: Callable[[int, int], Any] | None,
) -> Choice:
    threads = procedure.threads or torch.get_num_threads()
    finished = open_finished(run, device=procedure.place())
    data, recipe = finished.run.data, finished.run.recipe
    if limits.max_perplexity is not None and not data.is_text:
        raise UsageError(f"max_perplexity= is for texts, and this run has {data.described()}; give min_top1=")
    seed = recipe.seed if procedure.seed is None else procedure.seed
    costs = CostModel(finished.network, as_in(finished.network, data.example(1, evaluation=True)))
    space = finished.network.space.keeping(kept_in(run, procedure.space or recipe.evaluation.space))
    budget = Budget(space, costs, limits)
    files.make_directory(out)
    steps = Steps(progress, 0)
    accuracy = Accuracy(finished, costs, procedure.images, seed, steps.step)
    passes = 1 + math.ceil(procedure.evaluations / POPULATION) if budget.searched else 1
    steps.total = passes * len(accuracy.batches) + MAX_ROUNDS
    stopwatch = Stopwatch(finished, procedure.batch, threads, seed, lambda _: steps.step())
    stopwatch.extracted(space.smallest)  # what cannot be taken out fails now, not when all is measured
    chooser = Chooser(limits, decided_by, budget, accuracy, stopwatch, procedure.seconds)
    return chooser.choose(finished, procedure.evaluations, seed)
