"""What `stimulative plan` foresees of a step, beside what the step takes on this machine's processor.

For each of some recipes the typical forecast of a step's time over the time measured, and the bounds of its memory
over the peak: activations and gradients as measured; weights, batch, images and what the optimiser keeps as foreseen.
Rates are measured anew in each round, as the machine may be shared; the cases take turns. A step is the method's own
on the recipe's batch, and the optimiser's step.

    python benchmarks/forecast.py --json
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

import torch
from common import arguments, in_turns, interval, peak_bytes, report, rounded, seconds, surroundings

from stimulative.config import load_recipe
from stimulative.proposing import Forecast, Machine, measured_machine
from stimulative.proposing.forecast import Forecasting
from stimulative.proposing.foreseen_data import foresee
from stimulative.proposing.training_work import TrainingWork
from stimulative.training import optimizer_of, prepare

CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "ResNet-20, digits": ("digits", {}),
    "ResNet-20, digits, common": ("digits", {"method.name": "common"}),
    "ResNet-20, 32 pixels": ("digits", {"data.name": "fake", "data.batch_size": 32}),
    "ResNet-50, 32 pixels": ("digits", {"model.name": "cifar/resnet50", "data.name": "fake", "data.batch_size": 8}),
    "ViT, digits": ("digits-vit", {}),
    "DenseNet, digits": ("digits-densenet", {}),
    "GPT-2, small": ("text-gpt2-tiny", {"data.batch_size": 8}),
}
_OF_FAKE = {"data.workers": 0, "data.images": 200, "data.image_size": 32, "data.crop_padding": 4}


def main() -> None:
    options = arguments(__doc__ or "", rounds=12)
    device = torch.device("cpu")
    cases = {name: Measured(recipe, changes) for name, (recipe, changes) in CASES.items()}
    ratios: dict[str, list[float]] = {name: [] for name in cases}
    for number in range(options.rounds):
        machine = measured_machine()
        for name in in_turns(list(cases), number):
            # a step draws its subnets, so the mean of some is what is foreseen
            taken = statistics.fmean(seconds(cases[name].step, device) for _ in range(5))
            ratios[name].append(cases[name].foreseen(machine).step.seconds.typical / taken)
    rows = {}
    for name, case in cases.items():
        foreseen = case.foreseen(measured_machine())
        memory = foreseen.memory
        held = memory.weights + memory.optimizer + memory.batch + memory.images
        peak = held + max(peak_bytes(case.step, device) for _ in range(6))
        rows[name] = {
            "time": rounded(interval(ratios[name])),
            "memory_least": round(foreseen.memory.least / peak, 3),
            "memory_most": round(foreseen.memory.most / peak, 3),
            "flops_beside": round(foreseen.step.flops_beside / foreseen.step.flops_common, 4),
            "batch": foreseen.batch,
            "method": foreseen.method,
        }
    result = {"rounds": options.rounds, "cases": rows, **surroundings(device)}
    lines = [
        f"{name:<27} time {row['time']['median']:.2f} ({row['time']['low']:.2f} to {row['time']['high']:.2f}), memory "
        f"{row['memory_least']:.2f} to {row['memory_most']:.2f}"
        for name, row in rows.items()
    ]
    report(options, result, [f"foreseen over measured, n = {options.rounds} rounds", *lines])


class Measured:
    """A recipe, and its step on one batch.

    Args:
        recipe: The name of the recipe.
        changes: What is changed of it.
    """

    def __init__(self, recipe: str, changes: dict[str, Any]) -> None:
        threads = {"training.threads": torch.get_num_threads()}
        fake = _OF_FAKE if changes.get("data.name") == "fake" else {}
        self.recipe = load_recipe(recipe, {**threads, **changes, **fake})
        counted, self.amounts = foresee(self.recipe, processes=1)
        self.work = TrainingWork(counted)
        prepared = prepare(self.recipe)
        method = prepared.method
        x, y = next(iter(prepared.data.train))
        optimizer = optimizer_of(method, self.recipe.optimizer)
        method.train()

        def step() -> None:
            method.backward(x, y)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

        self.step: Callable[[], None] = step
        for _ in range(2):
            step()

    def foreseen(self, machine: Machine) -> Forecast:
        """What a plan says of it on a machine; operations are counted once."""
        return Forecasting(self.recipe, self.work, self.amounts, machine, 1, None).forecast()


if __name__ == "__main__":
    main()
