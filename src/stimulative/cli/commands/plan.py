"""``stimulative plan``: what a run will take, before it is run."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING, Any

from stimulative.cli.data_option import add_data, data_settings
from stimulative.errors import UsageError

if TYPE_CHECKING:
    from stimulative.proposing import Estimate, Forecast

TAKES_SETTINGS = True
_EXAMPLES = """examples:
  stimulative plan digits
  stimulative plan cifar100-resnet50 --gpu h200 --training.precision bf16-mixed
  stimulative plan imagenet-resnet50 --gpu h100 --gpus 8 --images 1281167,50000
  stimulative plan my-recipe.yaml --gpu a100 --price-per-hour 2.5 --json"""

_UNITS = (86400.0, "days"), (3600.0, "h"), (60.0, "min"), (1.0, "s"), (1e-3, "ms")


def add(commands: Any) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "plan",
        help="what a run will take: time, memory, money",
        description="Count what a run and its evaluation compute, keep in memory and send, and estimate by the rates\n"
        "of a machine how long that takes. Counts are exact or said not to be; times are estimates, with a best\n"
        "and a worst. A few steps on four samples are run for this, here; nothing is trained.",
        usage="stimulative plan RECIPE [--gpu NAME] [--gpus N] [--price-per-hour X] [--images TRAINING[,TEST]] "
        "[--data NAME] [--json] [--section.key VALUE ...]",
        examples=_EXAMPLES,
        settings=True,
    )
    parser.add_argument("recipe", metavar="RECIPE", help="shipped recipe, or path of a YAML file")
    parser.add_argument(
        "--gpu",
        metavar="NAME",
        default="cpu",
        help="what it is to run on: h200, h100, a100, l40s, l4, rtx4090, v100, t4, by their datasheets; or cpu: this "
        "machine's processor, whose rates are measured in a few seconds (default: cpu)",
    )
    parser.add_argument("--gpus", type=int, metavar="N", help="how many, in one machine (default: training.devices)")
    parser.add_argument(
        "--price-per-hour", type=float, metavar="X", help="what one costs an hour, in whatever currency: also tell cost"
    )
    parser.add_argument(
        "--images",
        metavar="TRAINING[,TEST]",
        help="how many images folder:PATH will have, where it is not here yet, such as 1281167,50000 for ImageNet",
    )
    add_data(parser)
    parser.add_argument("--json", action="store_true", help="print the forecast as JSON, and nothing else")


def run(options: argparse.Namespace, rest: list[str]) -> int:
    """Plan."""
    import torch

    from stimulative.config import load_recipe
    from stimulative.proposing import forecast_of

    recipe = load_recipe(options.recipe, [*data_settings(options.recipe, options.data, rest), *rest])
    if recipe.training.threads is not None:
        torch.set_num_threads(recipe.training.threads)
    found = forecast_of(
        recipe,
        gpu=options.gpu,
        gpus=options.gpus,
        images=_numbers(options.images),
        price_per_hour=options.price_per_hour,
    )
    if options.json:
        print(json.dumps(found.to_mapping(), indent=2))
    else:
        _show(found)
    return 0


def _numbers(text: str | None) -> list[int] | None:
    if text is None:
        return None
    parts = text.split(",")
    if not 1 <= len(parts) <= 2 or not all(part.strip().isascii() and part.strip().isdigit() for part in parts):
        raise UsageError(f"--images: training images, then test images behind a comma, as in 1281167,50000; got {text}")
    return [int(part) for part in parts]


def _show(found: Forecast) -> None:
    step, memory = found.step, found.memory
    common = f"{step.flops_common / 1e9:,.1f} GFLOP"
    share = step.flops_beside / step.flops_common
    besides = f"{share:.1%} of that besides" if share >= 0 else f"{-share:.1%} less"
    # an update of several batches is no step of the batch that the numbers are of
    one, updates = ("batch", f"updates of {found.accumulate} batches") if found.accumulate > 1 else ("step", "steps")
    print(f"{found.model}, {found.method}, {found.precision}, on {found.devices} x {found.machine} ({found.source})")
    print(
        f"data: {found.training:,} training, {found.validation:,} validation, {found.test:,} test samples; "
        f"{found.epochs:,} epochs of {found.steps_per_epoch:,} {updates}, {found.batch:,} samples a {one} and device"
    )
    exactness = f"estimated {step.estimate}" if step.estimate else "exact"
    print(
        f"{one}: {common} for the main net, forward and backward, and {besides}, on average "
        f"({exactness}); {step.operations:,.0f} operations, "
        f"{(step.traffic_common + step.traffic_beside) / 1e9:,.2f} GB of traffic with memory"
    )
    print(
        f"time, an estimate (typical; best to worst): {_in_time(step.seconds)} a {one}, {_ratio(found)} a common one; "
        f"{found.images_per_second.typical:,.0f} samples a second"
    )
    bound = sorted(step.bound.items(), key=lambda item: -item[1])
    print(f"  short of: {', '.join(f'{name} {part:.0%}' for name, part in bound if part >= 0.005)}")
    print(f"  training: {_in_time(found.train_seconds)}, {_in_time(found.validation_seconds)} of it validation")
    print(
        f"  evaluate: {_in_time(found.evaluate_seconds)} for {found.subnets:,} subnets "
        f"({found.evaluate_flops / 1e12:,.3g} TFLOP)"
        + (
            f", {_in_time(found.recalibrate_seconds)} of it their statistics"
            if found.recalibrate_seconds.typical
            else ""
        )
    )
    if found.devices > 1:
        print(f"  communication: {found.communicated / 1e6:,.0f} MB sent by each device at every update")
    if found.money is not None:
        money = found.money
        print(f"cost: {money.typical:,.2f} ({money.best:,.2f} to {money.worst:,.2f})")
    parts = ("weights", "gradients", "optimizer", "activations", "batch", "images")
    counted = ", ".join(f"{name} {_in_bytes(getattr(memory, name))}" for name in parts if getattr(memory, name))
    print(f"memory of each: {_in_bytes(memory.least)} to {_in_bytes(memory.most)} ({counted})")
    if memory.device is not None:
        print(
            f"  fits into {_in_bytes(memory.device)}: {memory.fits}; the largest batch would be "
            f"{memory.largest_batch:,}"
        )
    for what in memory.instead:
        print(f"  what would fit: {what}")
    for warning in found.warnings:
        print(f"note: {warning}")


def _ratio(found: Forecast) -> str:
    return f"{found.step.seconds.typical / found.step.seconds_common.typical:.2f} times"


def _in_time(estimate: Estimate) -> str:
    return f"{_duration(estimate.typical)} ({_duration(estimate.best)} to {_duration(estimate.worst)})"


def _duration(seconds: float) -> str:
    size, unit = next((step for step in _UNITS if seconds >= 2 * step[0]), _UNITS[-1])
    value = seconds / size
    return f"{value:,.{0 if value >= 100 else 1 if value >= 10 else 2}f} {unit}"


def _in_bytes(count: float) -> str:
    return f"{count / 2**30:,.2f} GiB" if count >= 2**29 else f"{count / 2**20:,.1f} MiB"
