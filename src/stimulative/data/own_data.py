"""A data set of the user's own, by name: ``package.module:name``, a function from settings to data."""

from __future__ import annotations

import inspect
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from stimulative.data.batches import ChangedLoader, Loader, moved
from stimulative.data.dataset import Data, ImageData
from stimulative.data.kind import KindSettings, Opening
from stimulative.data.mixing import with_mixing
from stimulative.data.value_checks import CHECKS, value_problems
from stimulative.errors import UsageError
from stimulative.extension import imported, seeing_here
from stimulative.naming import did_you_mean

if TYPE_CHECKING:
    from typing import Self

    from stimulative.data.data_settings import DataSettings

_OF_THE_RUN = ("seed", "device", "rank", "world_size")


@dataclass(frozen=True)
class OwnSettings(KindSettings):
    """Settings of a data set of the user's own. The function reads what it likes of the others.

    Args:
        classes: Number of classes that it has to have; None for any.
        mixup: Alpha of mixup; 0 for none. Batches of the function's images are mixed here.
        cutmix: Alpha of CutMix; 0 for none.
        arguments: Keyword arguments of the function.
        settings: The settings as it gets them.
    """

    task = None
    accepted = (*CHECKS, "path", "tokenizer")

    classes: int | None
    mixup: float
    cutmix: float
    arguments: Mapping[str, Any]
    settings: DataSettings

    @classmethod
    def of(cls, settings: DataSettings) -> Self:
        """All of them, for the function."""
        own = {key: getattr(settings, key) for key in cls.keys() if key != "settings"}  # noqa: SIM118
        return cls(**own, settings=settings)

    def problems(self) -> dict[str, str]:
        """What cannot be used as given, by key; imports the module."""
        found = value_problems(self.settings, CHECKS)
        try:
            problem = _Function.named(self.name).problem_with(self.arguments)
        except UsageError as error:
            return {**found, "name": f"data.name: {error}"}
        return found if problem is None else {**found, "arguments": f"data.arguments: {problem}"}

    def open(self, opening: Opening) -> Data:
        """Call the function.

        Raises:
            UsageError: If it fails, cannot share images among processes, or gives something else than it has to.
        """
        data = _Function.named(self.name).call(self.settings, opening, self.arguments)
        if self.classes not in (None, data.classes):
            raise UsageError(f"data.classes: {self.name} has {data.classes} classes, got {self.classes}; leave it out")
        data = replace(data, name=self.name)
        if isinstance(data, ImageData):
            return with_mixing(data, mixup=self.mixup, cutmix=self.cutmix, seed=opening.seed)
        for key, alpha in (("mixup", self.mixup), ("cutmix", self.cutmix)):
            if alpha:
                raise UsageError(f"data.{key}: a setting of images, got {alpha} for texts of {self.name}; leave it out")
        return data


@dataclass(frozen=True)
class _Function:
    """The user's function.

    Args:
        name: As the recipe names it.
        make: The function.
        taken: The names of its parameters behind the first one; None if they are not known.
        needed: Those of them that have no default.
        takes_any: Whether it takes other keywords, too.
    """

    name: str
    make: Callable[..., Any]
    taken: tuple[str, ...]
    needed: tuple[str, ...]
    takes_any: bool

    @classmethod
    def named(cls, name: str) -> _Function:
        """Import it.

        Raises:
            UsageError: If it cannot be, or takes no settings.
        """
        make = imported(name, "data set", "function", "a function that takes the settings of data and returns a Data")
        try:
            parameters = list(inspect.signature(make).parameters.values())
        except (TypeError, ValueError):  # compiled ones cannot be asked
            return cls(name, seeing_here(make), (), (), takes_any=True)
        if not parameters or parameters[0].kind in (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.VAR_KEYWORD):
            raise UsageError(f"{name!r} takes no settings; its first parameter has to be the DataSettings")
        keywords = [one for one in parameters[1:] if one.kind in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY)]
        return cls(
            name,
            seeing_here(make),
            tuple(one.name for one in keywords),
            tuple(one.name for one in keywords if one.default is one.empty),
            takes_any=any(one.kind is one.VAR_KEYWORD for one in parameters),
        )

    def problem_with(self, arguments: Mapping[str, Any]) -> str | None:
        """What is wrong with the user's arguments; None if they fit the signature."""
        known = [key for key in self.taken if key not in _OF_THE_RUN]
        for key in arguments:
            if key in _OF_THE_RUN:
                return f"{key!r} cannot be given to {self.name}: it comes from the run; remove it"
            if key not in known and not self.takes_any:
                takes = f"known: {', '.join(known)}" if known else "it takes none"
                return f"{self.name} takes no argument {key!r}; {takes}{did_you_mean(key, known)}"
        missing = [key for key in self.needed if key not in arguments and key not in _OF_THE_RUN]
        if missing:
            return f"{self.name} needs {', '.join(missing)}; say data.arguments.{missing[0]}"
        return None

    def call(self, settings: DataSettings, opening: Opening, arguments: Mapping[str, Any]) -> Data:
        """What it gives, on the device.

        Raises:
            UsageError: If it fails, cannot share images among processes, or gives no `Data`.
        """
        of_the_run = {key: getattr(opening, key) for key in _OF_THE_RUN if self.takes_any or key in self.taken}
        if opening.world_size > 1 and not {"rank", "world_size"} <= of_the_run.keys():
            raise UsageError(
                f"data.name: {self.name} takes no rank and world_size, so each of {opening.world_size} processes would "
                "train on the same images; let it take both and give each process its share, or use one device"
            )
        try:
            data = self.make(settings, **of_the_run, **arguments)
        except UsageError:
            raise
        except Exception as error:
            frame = traceback.extract_tb(error.__traceback__)[-1]
            raise UsageError(
                f"data.name: opening {self.name} failed: {type(error).__name__}: {error} "
                f"({frame.filename}:{frame.lineno})"
            ) from error
        if not isinstance(data, Data):
            raise UsageError(
                f"data.name: {self.name} has to return a Data, such as stimulative.data.from_loaders gives; got "
                f"{type(data).__name__} {data!r:.80}"
            )
        if "device" in of_the_run:
            return data
        named = ("train", "validation", "test", "calibration", "plain_calibration")
        loaders: dict[str, Loader | None] = {key: getattr(data, key) for key in named}
        on_device = partial(moved, device=opening.device)
        return replace(data, **{key: ChangedLoader(of, on_device) for key, of in loaders.items() if of is not None})
