"""One run, from its recipe to its measured subnets, in a process of its own."""

from __future__ import annotations

import traceback
from dataclasses import dataclass, replace
from pathlib import Path

from stimulative.claiming import claimed, is_first_process
from stimulative.data import View
from stimulative.extension import trusting
from stimulative.runs import RunDirectory, Summary


@dataclass(frozen=True)
class Failure:
    """What became of a run that failed.

    Args:
        error: Its error, in a line.
        details: All that is known of it, with the traceback.
    """

    error: str
    details: str


@dataclass(frozen=True)
class Work:
    """A run to compute, in plain values that any process can be sent.

    Args:
        recipe: Its recipe as YAML.
        directory: Its directory.
        subnets: The subnets to measure, as in ``Job``.
        threads: CPU threads to compute with; None leaves them alone.
        quiet: Whether to show no progress.
        at_once: How many runs share the machine.
        calibration: Which view of the training images statistics come from, where the recipe leaves it open.
    """

    recipe: str
    directory: str
    subnets: tuple[str, ...] | None = None
    threads: int | None = None
    quiet: bool = True
    at_once: int = 1
    calibration: View | None = None

    def do(self) -> Summary | Failure:
        """Train and measure, or go on with that; what the recipe names was the user's to name where it came from."""
        with trusting():
            return self._done()

    def _done(self) -> Summary | Failure:
        import torch

        from stimulative.analysis import evaluate
        from stimulative.config import load_recipe, parse_yaml
        from stimulative.training import train

        try:
            if self.threads is not None:
                torch.set_num_threads(self.threads)
            recipe = load_recipe(parse_yaml(self.recipe)[0])
            train(recipe, self.directory, resume=True, progress=not self.quiet, calibration=self.calibration)
            if self.subnets != ():
                evaluate(self.directory, subnets=self.subnets, latency=False)
            run = RunDirectory(Path(self.directory))
            summary = replace(run.summary, runs_at_once=self.at_once)
            if is_first_process():  # of the tasks that Slurm starts for the processes of a run
                with claimed(run.path, "measuring"):
                    run.write_summary(summary)
            return summary
        except Exception as error:
            return Failure(_described(error), traceback.format_exc())


def _described(error: Exception) -> str:
    """An error in a line; of those that are not ours, with their kind."""
    ours = type(error).__module__.startswith("stimulative")
    return str(error) if ours else f"{type(error).__name__}: {error}"
