"""All settings of a recipe by dotted key, read from the classes that take them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from stimulative.config import yamlfile
from stimulative.config.annotations import REQUIRED, Setting, describe, plain, settings_of
from stimulative.config.method_lookup import Methods, method_settings
from stimulative.config.settings import (
    EvaluationSettings,
    MethodSettings,
    OptimizerSettings,
    ScheduleSettings,
    TrainingSettings,
)
from stimulative.data import DataSettings
from stimulative.methods import METHODS, Method
from stimulative.models import ModelSettings
from stimulative.naming import nearest

SECTIONS: Mapping[str, type] = {
    "model": ModelSettings,
    "data": DataSettings,
    "method": MethodSettings,
    "optimizer": OptimizerSettings,
    "schedule": ScheduleSettings,
    "training": TrainingSettings,
    "evaluation": EvaluationSettings,
}
"""The sections of a recipe, in its order, and the classes that take their settings."""
SEED = Setting(int, 0, "Where all randomness starts: first weights, order and augmentation of images, subnets.")


class SettingHelp(NamedTuple):
    """One setting in words: its dotted key, its type, its default and what it does."""

    key: str
    type: str
    default: str
    help: str


def section_settings(section: str, method: type[Method] | None) -> dict[str, Setting]:
    """The settings of one section by bare name; of an unknown method (None) only its name."""
    settings = dict(settings_of(SECTIONS[section]))
    if section == "method":
        settings = {"name": settings["name"]}
        if method is not None:
            settings.update(method_settings(method))
    return settings


def schema(method: type[Method] | None) -> dict[str, Setting]:
    """All settings by dotted key, in the order of a recipe, with those of one method."""
    found = {
        f"{section}.{name}": setting
        for section in SECTIONS
        for name, setting in section_settings(section, method).items()
    }
    return {**found, "seed": SEED}


def setting_named(key: str, known: Mapping[str, Setting]) -> str | None:
    """The setting that a key names or, for a setting that is a mapping, names a part of."""
    if key in known:
        return key
    parts = key.split(".")
    starts = (".".join(parts[:count]) for count in range(len(parts) - 1, 1, -1))
    return next((start for start in starts if start in known and known[start].is_mapping), None)


def alternative(key: str, known: Mapping[str, Setting], methods: Methods) -> str:
    """What to write instead of an unknown key, as the end of a sentence."""
    owners = [name for name, method in methods.items() if key in schema(method)]
    if owners:
        return f", a setting of the method {' and '.join(owners)} only"
    section, _, name = key.rpartition(".")
    siblings = [other.partition(".")[2] for other in known if section and other.startswith(f"{section}.")]
    near = nearest(name, siblings)
    same = [other for other in known if other.rpartition(".")[2] == name]
    anywhere = None if siblings else nearest(key, [*SECTIONS, *known])
    for suggestion in (near and f"{section}.{near}", *same, anywhere):
        if suggestion is not None:
            return f"; did you mean {suggestion!r}?"
    return f", allowed{f' in {section}' if siblings else ''}: {', '.join(siblings or [*SECTIONS, 'seed'])}"


def settings_help(*, methods: Methods = METHODS) -> list[SettingHelp]:
    """All settings of a recipe in words, in its order; those of methods name the methods that have them.

    Args:
        methods: The training methods by name; those of `stimulative.methods` when left out.
    """
    rows: dict[str, Setting] = {}
    owners: dict[str, list[str]] = {}
    for name, method in methods.items():
        for key, setting in schema(method).items():
            rows.setdefault(key, setting)
            owners.setdefault(key, []).append(name)

    def row(key: str, setting: Setting) -> SettingHelp:
        default = "required" if setting.default is REQUIRED else yamlfile.dump_line(plain(setting.default))
        specific = key.startswith("method.") and key != "method.name"
        text = f"({', '.join(owners[key])}) {setting.help}" if specific else setting.help
        kind = f"one of {', '.join(methods)}" if key == "method.name" else describe(setting.annotation)
        return SettingHelp(key, kind, default, text.replace("`", ""))

    order = [*SECTIONS, "seed"]
    return [row(key, rows[key]) for key in sorted(rows, key=lambda key: order.index(key.partition(".")[0]))]
