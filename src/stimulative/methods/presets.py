"""What settings of stimulative training can be, alone and together, and the sets of them that have a name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Protocol

from stimulative.methods.balance import BALANCE_RULES, shape_problem
from stimulative.methods.base import impossible
from stimulative.methods.inputs import normalisation_problem
from stimulative.methods.options import Rule, name_in
from stimulative.methods.subnet_objectives import objective_problem
from stimulative.methods.teachers import STEADY, teacher_problem
from stimulative.residual import sampler_problem
from stimulative.tasks import Task

Preset = Literal["plain", "efficient"]

PRESETS: Mapping[Preset, Mapping[str, Any]] = {
    "plain": {},
    "efficient": {"subnet_share": 0.5, "sampler": "ordered", "every": 1},
}
"""What each preset sets; measured in docs/methods.md."""

_DEFAULTS: Mapping[str, Any] = {"subnet_share": 1.0, "sampler": "ordered", "every": 1}
"""What these settings are where nobody says anything."""

_RULES: Mapping[str, Rule] = {
    **BALANCE_RULES,
    "main_weight": (lambda v: v > 0, "above 0"),
    "main_taught": (lambda v: 0 <= v <= 1, "a share of the main net's loss, 0 to 1"),
    "temperature": (lambda v: v > 0, "above 0"),
    "amplitude": (lambda v: v > 0, "above 0"),
    "subnets_per_step": (lambda v: v >= 1, "1 or more"),
    "reduction": (lambda v: v in ("mean", "sum"), "mean or sum"),
    "every": (lambda v: v >= 1, "1 or more"),
    "smaller_inputs": (lambda v: v is None or 0 < v <= 1, "a share of the images' side, above 0 to 1, or null"),
    "resizing": (lambda v: v in ("original", "published"), "original or published"),
    "subnet_share": (lambda v: 0 < v <= 1, "a share of the batch, above 0 to 1"),
    "tail_shrink": (lambda v: v >= 1, "a whole number, 1 or more"),
    "preset": (lambda v: v in PRESETS, " or ".join(PRESETS)),
    "schedule": (lambda v: v in ("joint", "lean"), "joint or lean"),
}


def preset_of(settings: Mapping[str, Any]) -> Preset:
    """The preset of settings; ``efficient: true`` is one, too."""
    return "efficient" if settings.get("efficient") else settings.get("preset", "plain")


def problems_of(settings: Mapping[str, Any]) -> list[str]:
    """What is impossible about settings of stimulative training, a sentence each.

    Args:
        settings: Values by name, of the right types; those that are missing have their defaults.
    """
    found = [*impossible(settings, _RULES), *shape_problem(settings)]
    for problem in (
        objective_problem(settings.get("objective", "kl")),
        sampler_problem(settings.get("sampler", "ordered")),
        teacher_problem(settings.get("teacher", "main")),
        normalisation_problem(settings.get("normalise_again")),
    ):
        found += [problem] if problem else []
    return found or _problems_together(settings)


class Asks(Protocol):
    """What settings ask of the task, as ``StimulativeTraining`` has them."""

    objective: Any
    teacher: Any
    normalise_main: bool
    temperature: float


def problems_for(task: Task, asked: Asks, *, of_classes: bool) -> list[str]:
    """What settings make no sense for what a network is for, a sentence each.

    Args:
        task: What it is for.
        asked: The settings.
        of_classes: Whether the objective is of logits of classes that exclude each other alone.
    """
    wanted = {
        "normalise_main": asked.normalise_main,
        "objective": of_classes,
        "teacher": name_in(asked.teacher) in ("subnets", "images"),
    }
    found = [
        f"{key}: got {getattr(asked, key)!r}, but that is for logits of classes that exclude each other, and the task "
        f"is {task.name}; leave it out"
        for key, is_wanted in wanted.items()
        if is_wanted and not task.has_direction
    ]
    if not task.has_temperature and asked.temperature != 1:
        found.append(
            f"temperature: got {asked.temperature}, but outputs of {task.name} are no logits to be softened; leave it "
            "out"
        )
    return found


def _problems_together(settings: Mapping[str, Any]) -> list[str]:
    """What does not go together of settings that are possible each."""
    found = []
    if settings.get("efficient") and settings.get("preset", "plain") not in ("plain", "efficient"):
        found.append(f"efficient: it is a preset, and preset is {settings['preset']!r}; leave one of them out")
    preset = preset_of(settings)
    sets = PRESETS[preset]
    own = [key for key, value in sets.items() if settings.get(key, _DEFAULTS[key]) not in (_DEFAULTS[key], value)]
    if own:
        found.append(
            f"{preset}: it sets {', '.join(f'{key} {value}' for key, value in sets.items())}, but "
            f"{' and '.join(f'{key} {settings[key]!r}' for key in own)} is asked for; leave one of them out"
        )
    teacher = name_in(settings.get("teacher", "main"))
    if settings.get("main_taught") and not settings.get("balance", 1.0):
        found.append("main_taught: it moves with the balance, which is 0; give a balance above 0, or leave it out")
    if settings.get("main_taught") and teacher not in STEADY:
        found.append(
            f"main_taught: got {settings['main_taught']}, but the main net can learn from averages alone, and teacher "
            f"is {teacher!r}: {' or '.join(STEADY)}"
        )
    if teacher == "subnets" and settings.get("schedule", "joint") == "lean":
        found.append("teacher: 'subnets' goes by the order in which subnets are drawn, and lean by another; use joint")
    if settings.get("resizing") == "published" and settings.get("smaller_inputs") is None:
        found.append("resizing: 'published' says how images are made smaller, and smaller_inputs is null; give a share")
    if settings.get("normalise_again") is not None and settings.get("resizing", "original") != "published":
        found.append("normalise_again: it belongs to resizing 'published'; leave it out")
    return found
