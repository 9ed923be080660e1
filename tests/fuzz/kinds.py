"""The kinds of inputs. Each draws an input, says what it is, and what is done with it."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from trials import Outcome, Try

from fuzz.judging import judge, limit_memory

Input = tuple[str, Callable[[], Any]]
"""An input in words, and what is done with it."""


class Kind(Protocol):
    """A kind of inputs.

    Args:
        place: A directory of its own.
    """

    def __init__(self, place: Path) -> None: ...

    def input(self, draw: random.Random) -> Input:
        """Draw an input."""
        ...


def kinds() -> dict[str, tuple[Callable[[Path], Kind], int]]:
    """The kinds by name, each with how many inputs of it are tried."""
    from fuzz.checkpoints import Checkpoints
    from fuzz.family_headers import FamilyHeaders
    from fuzz.recipe_files import RecipeFiles
    from fuzz.report_files import ReportFiles
    from fuzz.subnet_texts import SubnetTexts
    from fuzz.weight_files import WeightFiles
    from fuzz.words import Words

    return {
        "subnets": (SubnetTexts, 9_000),
        "family headers": (FamilyHeaders, 3_000),
        "command line": (Words, 3_000),
        "recipes": (RecipeFiles, 3_000),
        "report files": (ReportFiles, 1_500),
        "weights": (WeightFiles, 2_000),
        "checkpoints": (Checkpoints, 500),
    }


def prepare(kind: str, place: Path) -> Try:
    """Prepare the inputs of a kind, in this process, which may take little memory from here on."""
    made = kinds()[kind][0](place)
    limit_memory()

    def make(draw: random.Random) -> tuple[str, Outcome]:
        text, do = made.input(draw)
        return text, judge(do)

    return make
