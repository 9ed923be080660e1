"""A recipe: everything that decides a run, in one frozen value, read from YAML and the command line.

Reading reports every problem at once, before any work: unknown settings, wrong types and impossible values,
in the recipe and in what is set over it.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from stimulative.config import yamlfile
from stimulative.config.annotations import REQUIRED, Setting, convert, describe, plain
from stimulative.config.foreign import guard
from stimulative.config.method_lookup import Methods, usable_method
from stimulative.config.schema import SECTIONS, alternative, schema, section_settings, setting_named
from stimulative.config.settings import (
    EvaluationSettings,
    MethodSettings,
    OptimizerSettings,
    ScheduleSettings,
    TrainingSettings,
)
from stimulative.config.sources import Given, Overrides, read_file, read_mapping, read_overrides
from stimulative.data import DataSettings
from stimulative.errors import UsageError
from stimulative.extension import is_own
from stimulative.methods import METHODS, Method
from stimulative.models import ModelSettings
from stimulative.naming import did_you_mean
from stimulative.tasks import TaskName

_Values = dict[str, Any]
"""Values of settings by dotted key, each of its setting's type."""


@dataclass(frozen=True)
class Recipe:
    """Everything that decides a run; made by `load_recipe`.

    Attributes:
        model: The network.
        data: The images, or the texts.
        method: How the network is trained.
        optimizer: How weights follow gradients.
        schedule: How long, and how the learning rate moves.
        training: How the loop runs, and on what.
        evaluation: What is measured once training is over.
        seed: Where all randomness starts.
    """

    model: ModelSettings
    data: DataSettings
    method: MethodSettings
    optimizer: OptimizerSettings
    schedule: ScheduleSettings
    training: TrainingSettings
    evaluation: EvaluationSettings
    seed: int = 0

    def to_mapping(self) -> dict[str, Any]:
        """The recipe as plain mappings, lists, texts and numbers, every setting filled in."""
        mapping = dataclasses.asdict(self)
        if not self.data.arguments:
            del mapping["data"]["arguments"]  # which only data sets of the user's own have
        mapping["method"] = {"name": self.method.name, **self.method.settings}
        return plain(mapping)

    def to_yaml(self) -> str:
        """The recipe as YAML, every setting filled in; reading it again gives an equal recipe."""
        return yamlfile.dump(self.to_mapping())

    def override(self, overrides: Overrides, *, methods: Methods = METHODS) -> Recipe:
        """The same recipe with some settings changed, as `load_recipe` changes them.

        Raises:
            UsageError: A setting is unknown or its value cannot be.
        """
        return load_recipe(self, overrides, methods=methods)


def load_recipe(
    recipe: str | Path | Mapping[str, Any] | Recipe,
    overrides: Overrides | None = None,
    *,
    methods: Methods = METHODS,
    of_a_run: bool = False,
) -> Recipe:
    """Reads a recipe, sets the overrides over it, and checks all of it.

    When the overrides name another method, what the recipe says about its own method is dropped, also where both have
    a setting of that name: it is another one. What the overrides say themselves must fit the method they name.

    Args:
        recipe: Name of a shipped recipe, path of a YAML file (``./digits`` where a shipped one has the same
            name), its content as a mapping, or a recipe.
        overrides: Values by dotted key, ``{"method.balance": 5}``, or words of a command line,
            ``["--method.balance=5", "--optimizer.lr", "0.1"]``, whose values are read as YAML. Of two for the
            same setting the last one counts. A part of a setting that is a mapping has a longer key:
            ``--method.sampler.name``.
        methods: The training methods by name; those of `stimulative.methods` when left out. Beside them a recipe may
            name one's own, ``package.module:Class``.
        of_a_run: Whether a path is that of the recipe in a run directory. What such a recipe names of one's own is
            imported only where this user wrote it here, or within ``stimulative.trusting()``.

    Raises:
        UsageError: The recipe cannot be used; the message names every problem and where each comes from.
    """
    title = f"recipe {str(recipe)!r}" if isinstance(recipe, str | Path) else "the recipe"
    reading = _Reading(methods)
    if isinstance(recipe, Recipe):
        recipe = recipe.to_mapping()
    if isinstance(recipe, Mapping):
        base = read_mapping(recipe, reading.problems)
    else:
        base = read_file(recipe, reading.problems)
    over = list(read_overrides(overrides, reading.problems))
    with guard(recipe, over, of_a_run=of_a_run):
        resolved = reading.resolve(base, over)
    if resolved is None or reading.problems:
        _fail(title, reading.problems)
    return resolved


def _fail(title: str, problems: Sequence[str]) -> NoReturn:
    if len(problems) == 1:
        raise UsageError(f"{title}: {problems[0]}")
    raise UsageError(f"{title} has {len(problems)} problems:" + "".join(f"\n  {problem}" for problem in problems))


class _Reading:
    """One reading of a recipe: goes on after a problem, so that all of them are found."""

    def __init__(self, methods: Methods) -> None:
        self.methods = methods
        self.problems: list[str] = []

    def resolve(self, base: dict[str, Given] | None, overrides: list[tuple[str, Given]]) -> Recipe | None:
        """The recipe, or None; where there are problems, it is not to be used.

        Args:
            base: What the recipe says; None could not be read, so nothing is missing in it.
            overrides: What is set over it, in its order.
        """
        method = self._method(base or {}, [given for key, given in overrides if key == "method.name"])
        known = schema(method)
        given: dict[str, Given] = {}
        for key, value in [*(base or {}).items(), *overrides]:
            if method is not None or not key.startswith("method.") or key == "method.name":
                self._give(given, known, key, value)
        values = self._convert(given, known)
        if base is None:
            return None
        self._complete(given, known, values)
        return self._build(given, values, method)

    def _method(self, base: dict[str, Given], overrides: list[Given]) -> type[Method] | None:
        """The method when it can be used; takes from the base what it says about another one."""
        said = base.get("method.name")
        chosen = overrides[-1] if overrides else said
        if chosen is None:
            return None
        try:
            method = usable_method(chosen.value, self.methods)
        except UsageError as error:
            self.problems.append(f"method.name: {error} ({chosen.origin})")
            return None
        if method is None:
            self.problems.append(
                f"method.name: unknown method; got {chosen.shown} ({chosen.origin}), "
                f"allowed: {self._allowed()}{did_you_mean(str(chosen.value), self.methods)}"
            )
        elif said is not None and said.value != chosen.value:
            self._drop(base, said.value)
        return method

    def _drop(self, base: dict[str, Given], name: object) -> None:
        """Take away what a recipe says about another method than the one that it is resolved with."""
        method = self.methods.get(name) if isinstance(name, str) else None
        if method is not None:
            drops = [f"method.{key}" for key in section_settings("method", method)]
        else:  # which settings one's own has need not be known, and is not worth an import
            drops = [key for key in base if key.startswith("method.")] if is_own(name) else []
        for key in drops:
            base.pop(key, None)

    def _allowed(self) -> str:
        return ", ".join([*self.methods, "package.module:Class"])

    def _give(self, given: dict[str, Given], known: Mapping[str, Setting], key: str, value: Given) -> None:
        setting = setting_named(key, known)
        if setting is None:
            instead = alternative(key, known, self.methods)
            self.problems.append(f"{key}: unknown setting; got {value.shown} ({value.origin}){instead}")
        elif setting == key:
            given[key] = value
        else:
            whole = given[setting].value if setting in given else known[setting].default
            path = key.removeprefix(f"{setting}.").split(".")
            given[setting] = Given(_with(whole, path, value.value), value.origin)

    def _convert(self, given: Mapping[str, Given], known: Mapping[str, Setting]) -> _Values:
        values: _Values = {}
        for key, value in given.items():
            try:
                values[key] = _fitting(known[key].annotation, value)
            except TypeError as error:
                if key != "method.name":  # judged before
                    self.problems.append(f"{key}: got {value.shown} ({value.origin}), allowed: {error}")
        return values

    def _complete(self, given: Mapping[str, Given], known: Mapping[str, Setting], values: _Values) -> None:
        for key, setting in known.items():
            if key in given:
                continue
            if setting.default is not REQUIRED:
                values[key] = copy.deepcopy(setting.default)
            elif key == "method.name":
                self.problems.append(f"{key}: missing, allowed: {self._allowed()}")
            else:
                self.problems.append(f"{key}: missing, allowed: {describe(setting.annotation)}")

    def _build(self, given: Mapping[str, Given], values: _Values, method: type[Method] | None) -> Recipe | None:
        parts: _Values = {}
        impossible: list[tuple[str, str]] = []
        for section, owner in SECTIONS.items():
            settings = section_settings(section, method)
            # A setting with a problem has its default for now: there may be more problems beside it.
            arguments = {name: values.get(f"{section}.{name}", setting.default) for name, setting in settings.items()}
            if REQUIRED in arguments.values():
                continue
            if owner is MethodSettings:
                if method is None:
                    continue
                parts[section] = MethodSettings(arguments.pop("name"), arguments)
                found = method.problems(arguments)
                sentences = [found] if isinstance(found, str) else found  # one's own may have it wrong
            else:
                parts[section] = owner(**arguments)
                of = (_task(values),) if section == "model" else ()
                sentences = parts[section].problems(*of)
            impossible += [(section, sentence.removeprefix(f"{section}.")) for sentence in sentences]
        for section, sentence in impossible:
            key = f"{section}.{sentence.partition(':')[0]}"
            if key not in given:
                self.problems.append(f"{section}.{sentence}" + (" (default)" if key in values else ""))
            elif key in values:
                self.problems.append(f"{section}.{sentence} ({given[key].origin})")
        seed = values.get("seed", 0)
        if not 0 <= seed < 2**32:
            self.problems.append(f"seed: must be at least 0 and below 2**32, got {seed} ({given['seed'].origin})")
        return Recipe(**parts, seed=seed) if parts.keys() == SECTIONS.keys() else None


def _task(values: _Values) -> TaskName | None:
    """What the model is for, as the name of the data says; None where only the opened data will tell."""
    name = values.get("data.name")
    return DataSettings(name=name).task if isinstance(name, str) else "images"


def _fitting(annotation: Any, given: Given) -> Any:
    try:
        return convert(annotation, given.value)
    except TypeError as error:
        if given.text is not None:
            try:
                return convert(annotation, given.text)  # a folder may be called 2024
            except TypeError:
                pass
        raise error


def _with(mapping: object, path: Sequence[str], value: object) -> dict[str, object]:
    """The mapping with one value inside set, without changing the given one."""
    mapping = mapping if isinstance(mapping, Mapping) else {}
    first, rest = path[0], path[1:]
    return {**mapping, first: _with(mapping.get(first), rest, value) if rest else value}
