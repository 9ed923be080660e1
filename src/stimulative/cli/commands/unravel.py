"""``stimulative unravel``: what a model is made of."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stimulative.tasks import TaskName

TAKES_SETTINGS = False
_MOST = {"image_size": 8_192, "channels": 1_024, "classes": 1_000_000, "length": 100_000}
"""What an example of noise may have: more would not fit in memory."""
_EXAMPLES = """examples:
  stimulative unravel timm/resnet50
  stimulative unravel cifar/resnet20 --classes 100
  stimulative unravel torchvision/mobilenet_v2 --image-size 96 --json
  stimulative unravel timm/vit_tiny_patch16_224 --image-size 64 --arguments "{img_size: 64, depth: 6}"
  stimulative unravel transformers/gpt2 --arguments "{n_layer: 6, n_embd: 192, n_head: 3}"
  stimulative unravel mypackage.nets:make_net --image-size 64"""

_LENGTH = 64


def add(commands: Any) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "unravel",
        help="show the stages, blocks and subnets of a model",
        description="Find the residual blocks of a model and show its stages, what always runs and why, what it costs, "
        "and how many subnets it has.",
        examples=_EXAMPLES,
    )
    parser.add_argument(
        "model", help="cifar/NAME, timm/NAME, torchvision/NAME, transformers/MODEL_TYPE, or package.module:factory"
    )
    parser.add_argument(
        "--task",
        choices=("images", "text"),
        help="what the model is for (default: images, or text where Transformers has no image classifier of its type)",
    )
    parser.add_argument(
        "--image-size", type=int, metavar="N", help="side of the images in pixels (default: the model's)"
    )
    parser.add_argument("--channels", type=int, default=3, metavar="N", help="channels of the images (default: 3)")
    parser.add_argument("--length", type=int, metavar="N", help=f"tokens of a sequence of text (default: {_LENGTH})")
    parser.add_argument(
        "--classes",
        type=int,
        metavar="N",
        help="number of classes, of text the size of the vocabulary (default: 10 for cifar/, else 1000)",
    )
    parser.add_argument(
        "--arguments", metavar="YAML", help="keyword arguments of the model's factory, as model.arguments in a recipe"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(options: argparse.Namespace, rest: list[str]) -> int:
    """Unravel the model and print its plan."""
    from stimulative import models
    from stimulative.analysis import CostModel
    from stimulative.data import noise_images, noise_sequences
    from stimulative.errors import UsageError
    from stimulative.training import unravel_on_images, unravel_on_text

    for name, most in _MOST.items():
        value = getattr(options, name)
        if value is not None and not 1 <= value <= most:
            raise UsageError(f"--{name.replace('_', '-')} is from 1 to {most:,}, got {value}")
    task = options.task or _task_of(options.model)
    unfit = "image_size" if task == "text" else "length"
    if getattr(options, unfit) is not None:
        raise UsageError(f"--{unfit.replace('_', '-')} is not for {task}; leave it out, or say --task")
    cifar = options.model.startswith("cifar/")
    classes = options.classes or (10 if cifar else 1000)
    model = models.build(
        options.model,
        classes=classes,
        channels=options.channels,
        arguments=_arguments(options.arguments),
        task=task,
    )
    size = options.length or _LENGTH if task == "text" else options.image_size or (32 if cifar else _native_size(model))
    if task == "text":
        network = unravel_on_text(options.model, model, size, classes)
        costs = CostModel(network, noise_sequences(size, classes, samples=1))
    else:
        network = unravel_on_images(options.model, model, options.channels, size)
        costs = CostModel(network, noise_images(options.channels, size, samples=1))
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
                    "block_names": stage.block_names,
                }
                for stage in network.stages
            ],
            "always": [{"name": part.name, "kind": part.kind, "reason": part.reason} for part in network.left_out],
            "subnets": network.space.count,
            "parameters": costs.main.parameters,
            "flops": costs.main.flops,
            "smallest": {"subnet": str(smallest), "parameters": least.parameters, "flops": least.flops},
            ("length" if task == "text" else "image_size"): size,
        }
        print(json.dumps(plan, indent=2))
    else:
        on = f"sequences of {size} tokens" if task == "text" else f"{size}×{size} images"
        _show(f"{options.model} on {on}", network, costs)
    return 0


def _task_of(name: str) -> TaskName:
    """What a model is for, where nobody says it."""
    if not name.startswith("transformers/"):
        return "images"
    from stimulative.errors import UsageError
    from stimulative.models import find

    try:
        find(name, "images")
    except UsageError:
        return "text"
    return "images"


def _arguments(text: str | None) -> Mapping[str, Any]:
    """Keyword arguments as they stand in a recipe."""
    from stimulative.config import parse_yaml
    from stimulative.errors import UsageError

    try:
        arguments, _ = parse_yaml(text or "{}")
    except ValueError:
        arguments = None
    if not isinstance(arguments, dict) or not all(isinstance(key, str) for key in arguments):
        raise UsageError(f"--arguments is a mapping in YAML, such as '{{depth: 6, embed_dim: 96}}'; got {text!r:.80}")
    return arguments


def _native_size(model: Any) -> int:
    """The side of the images that a model was made for, where it says so (timm's, torchvision's ViTs, Transformers)."""
    configured = getattr(model, "default_cfg", None) or {}
    said = (
        configured.get("input_size", (3, None, None))[-1]
        or getattr(model, "image_size", None)
        or getattr(getattr(model, "config", None), "image_size", None)
    )
    return said if isinstance(said, int) else 224


def _show(title: str, network: Any, costs: Any) -> None:
    from rich.console import Console

    console = Console()
    console.print(_tree(title, network, costs), highlight=False)
    smallest = network.space.smallest
    for title, subnet in (("main net", network.full), ("smallest", smallest)):
        cost = costs.of(subnet)
        console.print(
            f"{title:<9} {subnet!s:<14} {_amount(cost.parameters):>10} parameters {_amount(cost.flops):>10} FLOPs",
            highlight=False,
        )
    console.print(f"{network.space.count:,} ordered subnets", highlight=False)


def _tree(title: str, network: Any, costs: Any) -> Any:
    """The stages and what always runs, in the order in which they run."""
    from rich.text import Text
    from rich.tree import Tree

    order = {name: number for number, name in enumerate(network.wiring.units)}
    parts: list[tuple[float, str, str, str]] = []
    for stage, blocks, (low, high) in zip(network.stages, costs.blocks, network.space.ranges, strict=True):
        kinds = {type(network.model.get_submodule(name)).__name__: None for name in stage.block_names}
        parameters = _amount(sum(block.parameters for block in blocks))
        what = f"{stage.blocks} blocks ({', '.join(kinds)}), depths {low}..{high}, {parameters} parameters"
        notes = ["the first always runs"] if stage.fixed_entry else []
        notes += ["skipped layers take their channels away"] if stage.concatenates else []
        notes += ["channels that a skipped block adds are zeros"] if stage.widens else []
        parts.append((order[stage.block_names[0]], stage.name, "; ".join([what, *notes]), "bold"))
    for group in _alike(network.left_out):
        first, last = group[0], group[-1]
        names = first.name if len(group) == 1 else f"{first.name} … {last.name}"
        count = "" if len(group) == 1 else f"{len(group)} × "
        units = [number for name, number in order.items() if f"{name}.".startswith(f"{first.name}.")]
        parts.append((min(units, default=-1), names, f"{count}{first.kind}, always runs: it {first.reason}", "dim"))
    tree = Tree(title)
    for _, name, what, style in sorted(parts, key=lambda part: part[0]):
        tree.add(Text.assemble((name, style), " ", (what, "" if style == "bold" else style)))
    return tree


def _amount(number: int) -> str:
    """A number in thousands, millions or thousands of millions."""
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= size:
            return f"{number / size:.2f} {unit}"
    return str(number)


def _alike(parts: Sequence[Any]) -> list[list[Any]]:
    """Parts that always run, those of a class and for the same reason that follow each other together."""
    groups: list[list[Any]] = []
    for part in parts:
        if groups and (groups[-1][-1].kind, groups[-1][-1].reason) == (part.kind, part.reason):
            groups[-1].append(part)
        else:
            groups.append([part])
    return groups
