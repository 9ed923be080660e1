"""``--from``: trained weights to start from, the short form of ``--model.weights``."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence

from stimulative.errors import UsageError


def add_from(parser: argparse.ArgumentParser) -> None:
    """Add ``--from`` to a command that takes a recipe and has ``TAKES_SETTINGS = True``."""
    parser.add_argument(
        "--from",
        dest="weights",
        metavar="RUN|DIR|FILE[#KEY]|pretrained",
        help="start from trained weights: of a run, of a directory in which Transformers saved a model, of a file "
        "(.pth, .pt, .ckpt, .safetensors; FILE#KEY for one of several sets in it, as best.pth#model_ema), or those "
        "that timm or torchvision publishes; as --model.weights does",
    )


def from_settings(weights: str | None, rest: Sequence[str]) -> list[str]:
    """The settings that ``--from`` stands for.

    Args:
        weights: What was given.
        rest: The settings of the command line.

    Raises:
        UsageError: If they name weights, too.
    """
    if weights is None:
        return []
    if any(word.partition("=")[0] == "--model.weights" for word in rest):
        raise UsageError("got both --from and --model.weights, which say the same; give one of them")
    return ["--model.weights", json.dumps(weights)]
