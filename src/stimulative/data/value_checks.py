"""What values a setting of data may have, whatever the data are: a check for each, in the order that problems are told.

What only some data refuse, such as a crop larger than their images, is checked where these data are.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal, get_args

from stimulative.data.augmentation import auto_augment_problem

Interpolation = Literal["bilinear", "bicubic"]
LightingScale = Literal["unit", "bytes"]

Check = Callable[[str, Any], str | None]
"""From a key and its value to what is wrong with it, as a sentence that starts with the key; None if nothing is."""


def is_number(value: object) -> bool:
    """Whether a value is a number, and not true or false."""
    return isinstance(value, int | float) and not isinstance(value, bool)


_LARGEST = 8_192
"""Pixels of a side."""


def whole_number(*, least: int, most: int = 10**9) -> Check:
    """A check for a whole number of at least so much, and at most so much, beyond which memory ends."""

    def check(key: str, value: object) -> str | None:
        if isinstance(value, int) and not isinstance(value, bool) and value >= least:
            return (
                None if value <= most else f"data.{key}: expected a whole number of at most {most:,}, got {value!r:.30}"
            )
        return f"data.{key}: expected a whole number of at least {least}, got {value!r}"

    return check


def optional(check: Check) -> Check:
    """A check for what may also be null."""
    return lambda key, value: None if value is None else check(key, value)


def _amount(key: str, value: Any) -> str | None:
    if is_number(value) and 0 <= value < float("inf"):
        return None
    return f"data.{key}: expected a number of at least 0, got {value!r}"


def _flag(key: str, value: object) -> str | None:
    return None if isinstance(value, bool) else f"data.{key}: expected true or false, got {value!r}"


def _crop_ratio(key: str, value: Any) -> str | None:
    if is_number(value) and 0 < value <= 1:
        return None
    return f"data.{key}: expected a share above 0 and up to 1, got {value!r}"


def _crop_scale(key: str, value: tuple[float, ...]) -> str | None:
    if len(value) == 2 and 0 < value[0] <= value[1] <= 1:
        return None
    return f"data.{key}: expected two shares of an image's area, 0 < least <= greatest <= 1, got {list(value)}"


def _crop_aspect(key: str, value: tuple[float, ...]) -> str | None:
    if len(value) == 2 and 0 < value[0] <= value[1] < float("inf"):
        return None
    return f"data.{key}: expected two ratios of width to height, 0 < least <= greatest, got {list(value)}"


def _one_of(words: object) -> Check:
    known = get_args(words)

    def check(key: str, value: object) -> str | None:
        return None if value in known else f"data.{key}: expected one of {', '.join(known)}, got {value!r}"

    return check


def _auto_augment(key: str, value: object) -> str | None:
    problem = auto_augment_problem(value)
    return None if problem is None else f"data.{key}: {problem}"


def _mean(key: str, value: tuple[float, ...]) -> str | None:
    if all(0 <= mean <= 1 for mean in value):
        return None
    return f"data.{key}: pixels are counted from 0 to 1, got {list(value)}"


def _std(key: str, value: tuple[float, ...]) -> str | None:
    if all(0 < std <= 1 for std in value):
        return None
    return f"data.{key}: pixels are counted from 0 to 1 and divided by it, got {list(value)}"


def _validation(key: str, value: Any) -> str | None:
    if is_number(value) and 0 < value < 1:
        return None
    return (
        f"data.{key}: expected a share above 0 and below 1 (the best checkpoint is chosen on this part of the "
        f"training images), got {value!r}"
    )


CHECKS: Mapping[str, Check] = {
    "classes": optional(whole_number(least=2)),
    "images": optional(whole_number(least=1)),
    "image_size": optional(whole_number(least=1, most=_LARGEST)),
    "train_images": optional(whole_number(least=1)),
    "streams": whole_number(least=1, most=10_000),
    "length": optional(whole_number(least=1)),
    "batch_size": whole_number(least=1),
    "evaluation_batch_size": whole_number(least=1),
    "crop_padding": whole_number(least=0, most=_LARGEST),
    "crop_scale": _crop_scale,
    "crop_aspect": _crop_aspect,
    "mean": optional(_mean),
    "std": optional(_std),
    "crop_ratio": _crop_ratio,
    "interpolation": _one_of(Interpolation),
    "evaluation_image_size": optional(whole_number(least=1, most=_LARGEST)),
    "color_jitter": _amount,
    "lighting": _amount,
    "lighting_scale": _one_of(LightingScale),
    "mixup": _amount,
    "cutmix": _amount,
    "auto_augment": optional(_auto_augment),
    "workers": whole_number(least=0, most=1_024),
    "flip": _flag,
    "validation": _validation,
}


def value_problems(settings: object, keys: Iterable[str]) -> dict[str, str]:
    """What is wrong with the values of some settings, by key; settings without a check may be anything.

    Args:
        settings: What has them as attributes.
        keys: Which ones.
    """
    checked = {key: CHECKS[key](key, getattr(settings, key)) for key in keys if key in CHECKS}
    found = {key: problem for key, problem in checked.items() if problem is not None}
    if "mean" in checked and "std" in checked:
        mean, std = getattr(settings, "mean"), getattr(settings, "std")  # noqa: B009, they are there by their keys
        problem = _pair_problem(mean, std)
        if problem is not None:
            return {**found, "mean": problem}
    return found


def _pair_problem(mean: tuple[float, ...] | None, std: tuple[float, ...] | None) -> str | None:
    if mean is None and std is None:
        return None
    if mean is None or std is None:
        return "data.mean: mean and std go together; give both, or neither"
    if len(mean) != len(std):
        return f"data.mean: mean and std have a number for each channel, got {list(mean)} and {list(std)}"
    return None
