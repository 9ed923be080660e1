"""What is measured of the main net after each epoch: the validation part, and the test split only where asked.

The validation part decides which checkpoint is the best. The test split decides nothing: where
``evaluation.test_every_epoch`` asks for it, its score goes into the log, and training draws the same random numbers as
without it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from stimulative.data import Batch
from stimulative.ranks import divided
from stimulative.runs import Score
from stimulative.training.calibration import estimate_statistics
from stimulative.training.finishing import main_temperatures
from stimulative.training.measuring import measure
from stimulative.training.randomness import random_states, restore_random_states
from stimulative.training.tuning import measuring_as

if TYPE_CHECKING:
    from stimulative.training.trainer import Trainer


@dataclass(frozen=True)
class EpochScores:
    """How good the main net is after an epoch.

    Args:
        validation: On the validation part.
        test: On the test split; None where that is not asked for.
    """

    validation: Score
    test: Score | None


def measure_epoch(trainer: Trainer) -> EpochScores:
    """Measure the main net as it would be deployed now.

    Raises:
        TrainingStopped: If a signal has asked for the end.
    """
    with (
        trainer.method.as_deployed(),
        divided(trainer.processes.division),
        measuring_as(trainer.recipe, trainer.fabric.device),
    ):
        statistics = None
        if trainer.method.pollutes_statistics:
            view = "training" if trainer.calibration == "auto" else trainer.calibration
            statistics = estimate_statistics(trainer.prepared, view)
        temperatures = main_temperatures(trainer.prepared, statistics)

        def score_on(batches: Iterable[Batch]) -> Score:
            return measure(
                trainer.network,
                batches,
                statistics=statistics,
                temperatures=temperatures,
                aim=trainer.data.aim,
                after_batch=trainer.stopping.break_off if trainer.processes.size == 1 else None,
            )[0]

        validation = score_on(trainer.data.validation)
        if not trainer.recipe.evaluation.test_every_epoch:
            return EpochScores(validation, None)
        with _random_numbers_kept():
            return EpochScores(validation, score_on(trainer.data.test))


@contextmanager
def _random_numbers_kept() -> Iterator[None]:
    """Put the global generators back: loaders of one's own may draw from them."""
    before = random_states()
    try:
        yield
    finally:
        restore_random_states(before)
