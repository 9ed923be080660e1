"""Recipes in run directories, which somebody else may have made."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from stimulative import files
from stimulative.authorship import is_ours, mark
from stimulative.config.sources import Given
from stimulative.errors import UsageError
from stimulative.extension import distrusting

RECIPE = "recipe.yaml"
AUTHORSHIP = "authorship.json"
_OF_RUNS = (
    *(AUTHORSHIP, "environment.json", "summary.json", "metrics.csv", "subnets.csv", "checksums.json", "failure.txt"),
    *("model.safetensors", "reference.safetensors", ".lock", "tensorboard"),
    *("checkpoint-last.ckpt", "checkpoint-previous.ckpt", "checkpoint-best.ckpt"),
)
"""What a run directory has beside its recipe."""


def sign(directory: Path, recipe: str) -> None:
    """Write down in the directory of a run that this user writes the text of its recipe."""
    said = mark(recipe)
    if said is not None:
        files.write_json(directory / AUTHORSHIP, {RECIPE: said})


def guard(recipe: object, overrides: Sequence[tuple[str, Given]], *, of_a_run: bool) -> AbstractContextManager[None]:
    """Refuses what a recipe names of one's own, where it stands in a run directory that this user has not made.

    Args:
        recipe: As `load_recipe` takes it.
        overrides: What is set over it; what the user names there is fine.
        of_a_run: Whether it is known to be that of a run directory; else it is if other files of a run are beside it.
    """
    if not isinstance(recipe, str | Path):
        return nullcontext()
    path = files.user_path(recipe)
    if not of_a_run and not (path.name == RECIPE and any((path.parent / name).exists() for name in _OF_RUNS)):
        return nullcontext()
    return guarding(path, (text for _, given in overrides for text in _texts(given.value)))


def guarding(recipe: Path, said: Iterable[str] = ()) -> AbstractContextManager[None]:
    """Refuses names and arguments that come from the recipe of a run directory, unless this user has written it.

    Args:
        recipe: The recipe.
        said: Names that the user gave besides, which are fine.
    """
    if _written_here(recipe):
        return nullcontext()
    source = f"{recipe}, of a run that was not made by you on this machine, or was changed since,"
    return distrusting(source, but=frozenset(said))


def _written_here(path: Path) -> bool:
    try:
        said = files.read_json(path.parent / AUTHORSHIP)
        text = files.regular(path).read_text(encoding="utf-8")
    except (UsageError, OSError, UnicodeDecodeError):
        return False
    return isinstance(said, Mapping) and is_ours(text, said.get(RECIPE))


def _texts(value: object) -> list[str]:
    if isinstance(value, Mapping):
        return [text for one in value.values() for text in _texts(one)]
    if isinstance(value, list | tuple):
        return [text for one in value for text in _texts(one)]
    return [value] if isinstance(value, str) else []
