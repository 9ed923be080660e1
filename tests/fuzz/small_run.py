"""A small finished run, and where commands are kept from working for long."""

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

from fuzz.judging import Begun
from stimulative.analysis import adopt, evaluate
from stimulative.deploy import choose, export, pack
from stimulative.proposing import lr_range_test
from stimulative.report.figure import save_all
from stimulative.residual import ResidualNetwork
from stimulative.studies import compare, destroy
from stimulative.studies.launching import _compute
from stimulative.training import Trainer, estimate_statistics, load_recipe, measure, measure_main, train

TINY = {
    "model.arguments": {"width": 1},
    "data.batch_size": 256,
    "schedule.epochs": 2,
    "evaluation.calibration_images": 16,
    "evaluation.subnets": 4,
}
WORK = measure, measure_main, estimate_statistics, lr_range_test, _compute, save_all
USERS = adopt, choose, export, pack, compare, destroy
"""What calls these, imported so that every name that they have is known."""


def small_run(place: Path, *, measured: bool = True) -> Path:
    """Train a net for two epochs, and measure some subnets if asked."""
    run = place / "run"
    train(load_recipe("digits", TINY), run, progress=False)
    if measured:
        evaluate(run, latency=False)
    return run


@contextlib.contextmanager
def without_work() -> Iterator[None]:
    """What would begin to train, to measure or to send runs away ends there: the input is taken."""

    def begin(*_: Any, **__: Any) -> Any:
        raise Begun

    with contextlib.ExitStack() as stack:
        stack.enter_context(mock.patch.object(Trainer, "_run", begin))
        stack.enter_context(mock.patch.object(ResidualNetwork, "recalibrate", begin))
        for name, module in list(sys.modules.items()):
            if name.partition(".")[0] == "stimulative":
                for key, value in list(vars(module).items()):
                    if any(value is work for work in WORK):
                        stack.enter_context(mock.patch.object(module, key, begin))
        yield
