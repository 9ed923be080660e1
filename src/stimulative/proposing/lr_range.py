"""The learning-rate range test: how high the learning rate may be, found by raising it until training breaks.

L. N. Smith: Cyclical Learning Rates for Training Neural Networks, WACV 2017 (arXiv 1506.01186), section 3.3: train with
a learning rate that rises from step to step, and look at where the loss falls and where it no longer does. Smith raises
it linearly over some epochs and looks at the accuracy. Ours, as fastai's ``lr_find``: it rises exponentially, so that
each power of ten gets as many steps; the loss is smoothed; and the test ends when that is more than ``DIVERGED`` times
its lowest value, or no finite number.

The rule: the rate at which the smoothed loss falls fastest, as a regression line over 16 % of the steps tells, among
the rates up to the one at which it is lowest. A loss that has clearly fallen, and risen again by half of that, has
broken: that of BatchNorm nets may come down once more at much higher rates. Clearly is by 2 %, and by four deviations
of the smoothed loss as it scatters in the first 16 % of the steps.

fastai's other rule, a tenth of the rate of the lowest loss, depends on where a flat bottom happens to be lowest: for
ResNet-20 and AdamW on digits it gave 0.002 to 0.03 with four seeds, this one 0.005 to 0.006. Trained for 8 epochs, the
best of six rates was 0.003 there; it was 0.1 with SGD (this rule says 0.03 to 0.04; at 0.03 the main net was 2.3 points
worse) and 0.001 of the recipe digits-vit (0.002 to 0.003; at 0.003 2.4 points).
"""

from __future__ import annotations

import copy
import math
import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from stimulative.config import Recipe
from stimulative.data import Batch, Data
from stimulative.errors import UsageError
from stimulative.residual import keep_frozen
from stimulative.training import (
    Prepared,
    in_format,
    numbered_in,
    optimizer_of,
    prepare,
    random_states,
    restore_random_states,
)

STEPS = 100
LOWEST, HIGHEST = 1e-5, 10.0
DIVERGED = 4.0
SMOOTHING = 0.9
WINDOW = 0.16


@dataclass(frozen=True)
class RangeTest:
    """What a range test saw.

    Args:
        rates: The learning rate of each step.
        losses: The loss of each step's batch, before the step.
        smoothed: The losses, exponentially averaged.
        diverged: Whether the test ended because the loss grew without bound.
        steps: How many it would have been had it not.
    """

    rates: tuple[float, ...]
    losses: tuple[float, ...]
    smoothed: tuple[float, ...]
    diverged: bool

    steps: int

    @property
    def lowest(self) -> float:
        """The rate at which the smoothed loss was lowest, before training broke."""
        return self.rates[self._lowest]

    @property
    def suggestion(self) -> float:
        """The rate at which the smoothed loss fell fastest, to two digits."""
        return float(f"{self.rates[min(range(self._lowest + 1), key=self._slope)]:.1e}")

    @property
    def falls(self) -> bool:
        """Whether the loss falls anywhere."""
        return len(self.rates) > self._half and min(map(self._slope, range(self._lowest + 1))) < 0

    @property
    def _half(self) -> int:
        """Half of the steps that a regression line goes through."""
        return max(1, round(self.steps * WINDOW / 2))

    @property
    def _lowest(self) -> int:
        """The place of the lowest loss before training breaks; not among the first ones, which are hardly smoothed."""
        calm = self.losses[: 2 * self._half + 1]
        start = statistics.fmean(calm)
        scatter = statistics.pstdev(calm) * math.sqrt((1 - SMOOTHING) / (1 + SMOOTHING))
        clear = max(4 * scatter, 0.02 * start)
        lowest = min(self._half, len(self.rates) - 1)
        for at in range(lowest + 1, len(self.rates)):
            fall, rise = start - self.smoothed[lowest], self.smoothed[at] - self.smoothed[lowest]
            if rise < 0:
                lowest = at
            elif fall > clear and rise > max(4 * scatter, fall / 2):
                break
        return lowest

    def _slope(self, at: int) -> float:
        """How fast the smoothed loss rises with the logarithm of the rate, per step."""
        window = range(max(0, at - self._half), min(len(self.rates), at + self._half + 1))
        middle = sum(window) / len(window)
        spread = sum((place - middle) ** 2 for place in window)
        return sum((place - middle) * self.smoothed[place] for place in window) / spread


def raise_rates(
    step: Callable[[], float],
    optimizer: Optimizer,
    *,
    lowest: float = LOWEST,
    highest: float = HIGHEST,
    steps: int = STEPS,
) -> RangeTest:
    """Train with a learning rate that rises exponentially, until the loss does, too.

    Args:
        step: Takes one step of the optimiser and returns the loss of its batch, before the step.
        optimizer: The optimiser. Rates of its groups keep their ratios; that of the first one is counted.
        lowest: The first rate.
        highest: The last one.
        steps: Steps from the first to the last.

    Raises:
        UsageError: If the range or the number of steps cannot be, or the loss never falls.
    """
    if not 0 < lowest < highest < math.inf or steps < 2:
        raise UsageError(
            f"a range test takes at least 2 steps from a rate above 0 to a higher one; got {steps} steps from {lowest} "
            f"to {highest}"
        )
    ratios = [group["lr"] / optimizer.param_groups[0]["lr"] for group in optimizer.param_groups]
    rates: list[float] = []
    losses: list[float] = []
    smoothed: list[float] = []
    average, diverged = 0.0, False
    for number in range(steps):
        rate = lowest * (highest / lowest) ** (number / (steps - 1))
        for group, ratio in zip(optimizer.param_groups, ratios, strict=True):
            group["lr"] = rate * ratio
        loss = step()
        if not math.isfinite(loss):
            diverged = True
            break
        average = SMOOTHING * average + (1 - SMOOTHING) * loss
        rates.append(rate)
        losses.append(loss)
        smoothed.append(average / (1 - SMOOTHING ** (number + 1)))  # as if there had been no zero to start from
        if smoothed[-1] > DIVERGED * min(smoothed):
            diverged = True
            break
    test = RangeTest(tuple(rates), tuple(losses), tuple(smoothed), diverged, steps)
    if not test.falls:
        raise UsageError(
            f"the loss falls at no learning rate from {lowest:g} to {highest:g}: it "
            + (
                f"is {losses[0]:.3g} at the first step, and {losses[-1]:.3g} at step {len(losses)}"
                if rates
                else "is no finite number"
            )
        )
    return test


def lr_range_test(
    recipe: Recipe,
    *,
    data: Data | None = None,
    model: nn.Module | None = None,
    device: torch.device | str = "cpu",
    lowest: float = LOWEST,
    highest: float = HIGHEST,
    steps: int = STEPS,
    progress: Callable[[int, int], Any] | None = None,
) -> RangeTest:
    """Run the test as a recipe trains: on its training data, with its method and optimiser, from its first weights.

    Where the method's balance rises over the run, it has its full value here: the rate is for the whole run. Nothing
    stays: the network is one of its own, and the random states and the data's epoch are as before.

    Args:
        recipe: The recipe; its learning rate is not read.
        data: Data of one's own instead of the recipe's.
        model: A model of one's own instead of the recipe's; a copy of it is trained.
        device: Where to compute.
        lowest: The first rate.
        highest: The last one.
        steps: Steps from the first to the last.
        progress: Called with the steps done and the steps in all.

    Raises:
        UsageError: If the recipe cannot be trained, or the range cannot be.
    """
    before = random_states()
    whole = {"balance_ramp": 0.0, "balance_start": 0.0, "balance_shape": "linear"}
    recipe = recipe.override({f"method.{key}": value for key, value in whole.items() if key in recipe.method.settings})
    try:
        run = prepare(recipe, device=device, data=data, model=copy.deepcopy(model), weights=True)
        if run.teacher is not None:
            raise UsageError(
                "the main net starts where its targets are, so that its loss can only rise, and that of subnets is "
                "another at each depth that is drawn: a range test finds nothing. Try a few values of optimizer.lr"
            )
        try:
            return _test(run, lowest=lowest, highest=highest, steps=steps, progress=progress)
        finally:
            run.data.train.set_epoch(0)
    finally:
        restore_random_states(before)


def _test(
    run: Prepared, *, lowest: float, highest: float, steps: int, progress: Callable[[int, int], Any] | None
) -> RangeTest:
    method, settings = run.method, run.recipe.optimizer
    method.train()
    keep_frozen(run.method)
    optimizer = optimizer_of(method, settings, run.trunk())
    accumulate = run.recipe.training.accumulate
    batches = _endless(run)
    dtype = next(method.parameters()).dtype
    done = 0

    def step() -> float:
        nonlocal done
        optimizer.zero_grad(set_to_none=True)
        loss = torch.zeros((), dtype=dtype)
        for _ in range(accumulate):
            x, y = next(batches)
            loss += method.backward(in_format(x, dtype), y, scale=1 / accumulate).loss.cpu() / accumulate
        if settings.clip_norm is not None:
            nn.utils.clip_grad_norm_(method.parameters(), settings.clip_norm)
        optimizer.step()
        done += 1
        if progress is not None:
            progress(done, steps)
        return float(loss)

    return raise_rates(step, optimizer, lowest=lowest, highest=highest, steps=steps)


def _endless(run: Prepared) -> Iterator[Batch]:
    """The batches of the first epoch, the second one, and so on; the method is told which samples each is of."""
    train = run.data.train
    for epoch in count():
        train.set_epoch(epoch)
        for number, batch in enumerate(train):
            run.method.numbered = numbered_in(train, number)
            yield batch
