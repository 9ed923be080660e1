"""``stimulative unravel``: what a model is made of."""

from __future__ import annotations

import argparse
import json
from typing import Any

_EXAMPLES = """examples:
  stimulative unravel timm/resnet50
  stimulative unravel cifar/resnet20 --classes 100
  stimulative unravel torchvision/mobilenet_v2 --image-size 96 --json
  stimulative unravel mypackage.nets:make_net --image-size 64"""


def add(commands: Any) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "unravel",
        help="show the stages, blocks and subnets of a model",
        description="Find the residual blocks of a model and show its stages, its cost and how many subnets it has.",
        examples=_EXAMPLES,
    )
    parser.add_argument("model", help="cifar/NAME, timm/NAME, torchvision/NAME, or package.module:factory")
    parser.add_argument(
        "--image-size", type=int, metavar="N", help="side of the images in pixels (default: the model's)"
    )
    parser.add_argument("--channels", type=int, default=3, metavar="N", help="channels of the images (default: 3)")
    parser.add_argument(
        "--classes", type=int, metavar="N", help="number of classes (default: 10 for cifar/, else 1000)"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(options: argparse.Namespace, rest: list[str]) -> int:
    """Unravel the model and print its plan."""
    from stimulative import models
    from stimulative.analysis import CostModel
    from stimulative.errors import UsageError
    from stimulative.training.loop import example_batch, unravel_on_images

    for name in ("image_size", "channels", "classes"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise UsageError(f"--{name.replace('_', '-')} is 1 or more, got {value}")
    cifar = options.model.startswith("cifar/")
    classes = options.classes or (10 if cifar else 1000)
    model = models.build(options.model, classes=classes, channels=options.channels)
    size = options.image_size or (32 if cifar else _native_size(model))
    network = unravel_on_images(options.model, model, options.channels, size)
    costs = CostModel(network, example_batch(options.channels, size, images=1))
    smallest = network.space.smallest
    least = costs.of(smallest)
    if options.json:
        plan = {
            "model": options.model,
            "stages": [
                {
                    "name": stage.name,
                    "blocks": stage.blocks,
                    "min_depth": stage.min_depth,
                    "fixed_entry": stage.fixed_entry,
                }
                for stage in network.stages
            ],
            "subnets": network.space.count,
            "parameters": costs.main.parameters,
            "flops": costs.main.flops,
            "smallest": {"subnet": str(smallest), "parameters": least.parameters, "flops": least.flops},
            "image_size": size,
        }
        print(json.dumps(plan, indent=2))
    else:
        _show(options.model, network, costs, size)
    return 0


def _native_size(model: Any) -> int:
    """The side of the images that a model was made for, where it says so (timm's do, and torchvision's ViTs)."""
    configured = getattr(model, "default_cfg", None) or {}
    return configured.get("input_size", (3, None, None))[-1] or getattr(model, "image_size", None) or 224


def _show(name: str, network: Any, costs: Any, size: int) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console()
    table = Table(title=f"{name} on {size}×{size} images", title_justify="left")
    table.add_column("stage")
    for column in ("blocks", "skippable", "depths", "parameters"):
        table.add_column(column, justify="right")
    for stage, blocks, (low, high) in zip(network.stages, costs.blocks, network.space.ranges, strict=True):
        table.add_row(
            stage.name,
            str(stage.blocks),
            str(stage.blocks - stage.fixed_entry),
            f"{low}..{high}",
            f"{sum(block.parameters for block in blocks) / 1e6:.2f} M",
        )
    console.print(table)
    smallest = network.space.smallest
    for title, subnet in (("main net", network.full), ("smallest", smallest)):
        cost = costs.of(subnet)
        console.print(
            f"{title:<9} {subnet!s:<14} {cost.parameters / 1e6:8.2f} M parameters {cost.flops / 1e9:8.3f} GFLOPs",
            highlight=False,
        )
    console.print(f"{network.space.count:,} ordered subnets", highlight=False)
