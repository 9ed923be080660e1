"""A run directory: what training leaves behind, and what everything else reads.

It holds the recipe, the environment, the metrics of each epoch, two checkpoints, the weights of the trained model (and
of the one that training started from, where its outputs are the targets), the summary, and, once the subnets have been
measured, a table of them. A directory with a recipe is a run; one that has a summary, too, has finished.
"""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from stimulative import files
from stimulative.claiming import in_use
from stimulative.config import AUTHORSHIP, RECIPE, Recipe, load_recipe, parse_yaml, sign
from stimulative.errors import UsageError
from stimulative.records import RecordError, understanding
from stimulative.runs import checksums
from stimulative.runs.environment import Environment
from stimulative.runs.family import Family
from stimulative.runs.metrics import Epoch, read_metrics
from stimulative.runs.ranking import Ranking
from stimulative.runs.summary import Summary

ENVIRONMENT = "environment.json"
METRICS = "metrics.csv"
LAST = "checkpoint-last.ckpt"
PREVIOUS = "checkpoint-previous.ckpt"
BEST = "checkpoint-best.ckpt"
MODEL = "model.safetensors"
REFERENCE = "reference.safetensors"
SUMMARY = "summary.json"
SUBNETS = "subnets.csv"
RANKING = "rank.json"


@dataclass(frozen=True)
class RunDirectory:
    """The directory of a run; nothing is read before it is asked for, and then anew each time.

    Args:
        path: Where it is. It need not exist yet.
    """

    path: Path

    def __post_init__(self) -> None:
        files.check_path(self.path)

    @classmethod
    def open(cls, path: str | Path) -> RunDirectory:
        """The directory of a run that was started.

        Raises:
            UsageError: If it is not one.
        """
        run = cls(Path(path))
        if not run.started:
            raise UsageError(f"{run.path} is not a run directory: {run._what_it_is()}")
        return run

    def _what_it_is(self) -> str:
        """What there is in place of a run, and what to do about it."""
        if not self.path.is_dir():
            return "it is a file" if self.path.exists() else "there is no such directory"
        if self.bereft:
            return f"it has lost its {RECIPE}; put the file back"
        inside = [path.name for path in sorted(self.path.iterdir()) if (path / RECIPE).exists()]
        if inside:
            return f"it holds some; name one of them, such as {self.path / inside[0]}"
        return f"it has no {RECIPE}. Train one: stimulative train RECIPE --out DIR"

    def file(self, name: str) -> Path:
        """The path of one of its files."""
        return self.path / name

    @property
    def started(self) -> bool:
        """Whether there is a run."""
        return self.file(RECIPE).exists()

    @property
    def bereft(self) -> bool:
        """Whether there is what was trained, but no recipe of it."""
        return not self.started and any(self.file(name).exists() for name in (PREVIOUS, BEST, MODEL, SUMMARY))

    @property
    def finished(self) -> bool:
        """Whether its training has ended."""
        return self.file(SUMMARY).exists()

    @property
    def evaluated(self) -> bool:
        """Whether its subnets have been measured."""
        return self.file(SUBNETS).exists()

    @property
    def recipe(self) -> Recipe:
        """Its recipe; modules of the user's own that it names (``package.module:name``) are imported.

        Raises:
            UsageError: If it has none, or one that cannot be used, or it names modules and this user has not written it
                (see ``authorship``) and does not trust it (``stimulative.trusting``).

        Warns:
            UserWarning: If it was changed since the run was started.
        """
        RunDirectory.open(self.path)
        recipe = load_recipe(self.file(RECIPE), of_a_run=True)
        self._warn_of_changes()
        return recipe

    @property
    def recipe_text(self) -> str:
        """Its recipe as the text of a YAML file.

        Raises:
            UsageError: If it cannot be read.
        """
        path = self.file(RECIPE)
        try:
            return files.regular(path).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"{path} cannot be read as a recipe: {error}") from error

    @property
    def recipe_mapping(self) -> Mapping[str, Any]:
        """What stands in its recipe, unchecked; nothing that it names is imported.

        Raises:
            UsageError: If it is no mapping.
        """
        path = self.file(RECIPE)
        try:
            content, _ = parse_yaml(self.recipe_text)
        except ValueError as error:
            raise UsageError(f"{path}: not valid YAML: {error}") from error
        if not isinstance(content, Mapping):
            raise UsageError(f"{path} is not the recipe of a run: it holds no settings")
        self._warn_of_changes()
        return content

    def _warn_of_changes(self) -> None:
        """Warn if the recipe was changed since the run was started; once, wherever it is read."""
        try:
            checksums.check_sum(self.file(RECIPE))
        except files.Damaged:
            warnings.warn(
                f"{self.file(RECIPE)} is damaged, or was changed since the run was started; it is read as it is now",
                stacklevel=1,
            )

    @property
    def summary(self) -> Summary:
        """What it has come to.

        Raises:
            UsageError: If it has not finished, or the file is damaged.
        """
        if not self.finished:
            busy = in_use(self.path)
            if busy is not None:
                raise UsageError(f"the run in {self.path} has not finished: {busy}. Wait for it")
            raise UsageError(
                f"the run in {self.path} has not finished: continue it with stimulative train ... --resume (it has no "
                f"{SUMMARY} yet)"
            )
        path = self.file(SUMMARY)
        content = files.read_json(path)
        with understanding(path):
            try:
                summary = Summary.from_mapping(content)
            except RecordError as error:
                raise UsageError(
                    f"{path} is not the summary of a run: {error}; remove it and resume the run"
                ) from error
        checksums.check_read(path, "remove it and resume the run")
        return summary

    @property
    def family(self) -> Family:
        """Its measured subnets; none before they are measured.

        Raises:
            UsageError: If the file is damaged.
        """
        if not self.evaluated:
            return Family()
        family = Family.read(self.file(SUBNETS))
        checksums.check_read(self.file(SUBNETS), f"measure again: stimulative evaluate {self.path}")
        return family

    @property
    def ranking(self) -> Ranking:
        """How much each of its blocks matters.

        Raises:
            UsageError: If that was not measured, or the file is damaged.
        """
        path = self.file(RANKING)
        if not path.exists():
            raise UsageError(
                f"nobody has measured how much the blocks of {self.path} matter; do: stimulative rank {self.path}"
            )
        content = files.read_json(path)
        with understanding(path):
            ranking = Ranking.from_mapping(content)
        checksums.check_read(path, f"measure again: stimulative rank {self.path}")
        return ranking

    @property
    def environment(self) -> Environment:
        """What it ran on; nothing where that is not known.

        Raises:
            UsageError: If the file is damaged.
        """
        path = self.file(ENVIRONMENT)
        if not path.exists():
            return Environment()
        content = files.read_json(path)
        with understanding(path):
            environment = Environment.from_mapping(content)
        checksums.check_read(path, "remove it")
        return environment

    @property
    def metrics(self) -> list[Epoch]:
        """Its log, an entry an epoch; none of weights that somebody else has trained.

        Raises:
            UsageError: If the file is damaged.
        """
        path = self.file(METRICS)
        if not path.exists():
            return []
        with understanding(path):
            epochs = [Epoch.from_row(row) for row in read_metrics(path)]
        if self.finished:  # before that, epochs are added
            checksums.check_read(path, "remove it")
        return epochs

    @property
    def weights(self) -> Path:
        """The file of its trained weights, compared with its checksum.

        Raises:
            UsageError: If it is missing or damaged.
        """
        stored = self.file(MODEL)
        if not stored.exists():
            raise UsageError(
                f"there is no {stored}, though the run has finished: put the file back, or remove {SUMMARY} and "
                "resume the run"
            )
        try:
            checksums.check_sum(stored)
        except files.Damaged as error:
            again = (
                f", or remove it and {SUMMARY}, and resume the run, which finishes anew" if self._can_resume() else ""
            )
            raise UsageError(f"{error}. Copy it again{again}") from error
        return stored

    @property
    def reference(self) -> Path | None:
        """The file of the weights that targets are made with, where its data have none.

        Of a run they are those that it started from. Weights that were adopted are compared with themselves. None where
        neither is there.
        """
        if self.file(REFERENCE).exists():
            return self.file(REFERENCE)
        adopted = self.finished and self.summary.method is None
        return self.file(MODEL) if adopted and self.file(MODEL).exists() else None

    def _can_resume(self) -> bool:
        return any(self.file(name).exists() for name in (LAST, PREVIOUS, BEST))

    def copied(self, out: Path) -> RunDirectory:
        """A copy of it as far as measuring and deploying it takes: all but checkpoints and loggers' files.

        Raises:
            UsageError: If there is something else already, or it cannot be written.
        """
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise UsageError(f"{out} exists; choose another directory with out=")
        measured = SUMMARY, SUBNETS, RANKING, checksums.CHECKSUMS
        names = RECIPE, AUTHORSHIP, ENVIRONMENT, METRICS, MODEL, REFERENCE, *measured
        files.make_directory(out)
        for name in names:
            if not self.file(name).exists():
                continue
            try:
                source = files.regular(self.file(name)).open("rb")
            except OSError as error:
                raise UsageError(f"cannot read {self.file(name)}: {error.strerror}") from error
            with source, files.replacing(out / name) as temporary, temporary.open("wb") as copy:
                shutil.copyfileobj(source, copy)
        return RunDirectory(out)

    @contextmanager
    def writing(self, name: str, *, keep_as: str | None = None) -> Iterator[Path]:
        """A temporary path that becomes one of its files when the block ends well, with its checksum.

        Args:
            name: The name of the file.
            keep_as: A name under which the file that is there now is kept.
        """
        with checksums.written(self.file(name), keep_as=keep_as) as temporary:
            yield temporary

    def write_recipe(self, recipe: Recipe) -> None:
        """Write its recipe, every setting filled in."""
        text = recipe.to_yaml()
        sign(self.path, text)
        checksums.write_summed(self.file(RECIPE), text)

    def write_environment(self, environment: Environment) -> None:
        """Write what it runs on."""
        checksums.write_summed(self.file(ENVIRONMENT), files.json_text(environment.to_mapping()))

    def write_model(self, model: nn.Module, metadata: Mapping[str, str] | None = None) -> None:
        """Write the weights of the trained model, and what they were made of."""
        with self.writing(MODEL) as temporary:
            files.save_model(model, temporary, metadata)

    def write_reference(self, model: nn.Module) -> None:
        """Write the weights that targets are made with."""
        with self.writing(REFERENCE) as temporary:
            files.save_model(model, temporary)

    def close_log(self, text: str) -> None:
        """Write its whole log, which is compared from here on."""
        checksums.write_summed(self.file(METRICS), text)

    def write_summary(self, summary: Summary) -> None:
        """Write what it has come to; with this the run has finished."""
        checksums.write_summed(self.file(SUMMARY), files.json_text(summary.to_mapping()))

    def write_family(self, family: Family) -> None:
        """Write its measured subnets."""
        checksums.write_summed(self.file(SUBNETS), family.to_csv())

    def write_ranking(self, ranking: Ranking) -> None:
        """Write how much each of its blocks matters."""
        checksums.write_summed(self.file(RANKING), files.json_text(ranking.to_mapping()))
