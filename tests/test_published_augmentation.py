"""The augmentation of the published code of stimulative training, beside plain second implementations."""

import math
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import InterpolationMode, v2
from torchvision.transforms.v2 import functional

from stimulative.data import DataSettings, load
from stimulative.data.augmentation import lighting_noise, lit_bytes, policy, training_transform
from stimulative.data.images import IMAGENET_MEAN, IMAGENET_STD
from stimulative.data.uniform_levels import OPERATIONS, TWO_WAY, UniformLevels, Warp

SIDE = 24
FILL = [124, 116, 104]  # the mean colour of ImageNet
LEVELS_TRIED = (0, 1, 7, 15, 22, 29, 30)


@pytest.fixture
def picture() -> Any:
    """Smooth shades with noise on them, darkest and brightest values included."""
    generator = np.random.default_rng(0)
    shades = np.linspace(0, 255, SIDE)[:, None, None] * [1.0, 0.7, 0.4] + np.linspace(0, 90, SIDE)[None, :, None]
    pixels = (shades + generator.normal(0, 12, (SIDE, SIDE, 3))).clip(0, 255).astype(np.uint8)
    pixels[0, :2] = [[0, 0, 0], [255, 255, 255]]
    return Image.fromarray(pixels)


def same_pixels(first: Any, second: Any) -> bool:
    return np.array_equal(np.asarray(first), np.asarray(second))


# Lighting of bytes


def plainly_lit(image: Any, noise: np.ndarray) -> Any:
    """Pixels as numbers (height, width, 3), plus noise, as bytes again."""
    pixels = np.asarray(image).astype(np.float64) + noise
    return Image.fromarray(np.trunc(pixels.clip(0, 255)).astype(np.uint8))


@pytest.mark.parametrize("deviation", [0.1, 30.0, 3000.0])
def test_lit_bytes_are_pixels_plus_noise_without_what_is_behind_the_point(picture: Any, deviation: float):
    for seed in range(8):
        torch.manual_seed(seed)
        noise = lighting_noise(deviation)
        assert same_pixels(lit_bytes(picture, noise), plainly_lit(picture, noise.double().numpy()))


def test_noise_of_bytes_darkens_a_channel_by_one_level_where_it_is_negative():
    image = Image.fromarray(np.array([[[0, 0, 0], [1, 1, 1], [100, 100, 100], [255, 255, 255]]], dtype=np.uint8))
    lit = np.asarray(lit_bytes(image, torch.tensor([-0.013, 0.013, -1e-7])))
    assert lit[0].T.tolist() == [[0, 0, 99, 254], [0, 1, 100, 255], [0, 0, 99, 254]]
    # half of the channels of many draws: none is changed in any other way, so an image loses half a level on average
    torch.manual_seed(0)
    pixels = np.asarray(Image.new("RGB", (1, 1), (50, 50, 50))).astype(int)
    drawn = [lit_bytes(Image.new("RGB", (1, 1), (50, 50, 50)), lighting_noise(0.1)) for _ in range(2000)]
    change = np.stack([np.asarray(one) for one in drawn]) - pixels
    assert set(np.unique(change)) == {-1, 0}
    assert change.mean((0, 1, 2)) == pytest.approx([-0.5] * 3, abs=0.04)
    noise = torch.stack([lighting_noise(0.1) for _ in range(2000)])
    assert noise.std(0).tolist() == pytest.approx([0.0125, 0.0126, 0.0128], abs=0.001)


@pytest.mark.parametrize("scale", ["unit", "bytes"])
def test_the_scale_says_which_pixels_lighting_is_for(scale: str):
    def shown(lighting: float) -> torch.Tensor:
        settings: dict[str, Any] = {"image_size": 8, "images": 40, "batch_size": 40, "workers": 0}
        data = load(DataSettings("fake", lighting=lighting, lighting_scale=scale, **settings), seed=0)  # pyright: ignore[reportArgumentType]
        ((x, _),) = list(data.train)
        mean, std = (torch.tensor(values).view(3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
        return 255 * (x * std + mean)

    change = (shown(0.1) - shown(0.0)).abs().max()
    assert change == pytest.approx(1, abs=1e-3) if scale == "bytes" else 5 < change < 25


# UniformAugment at 31 levels


def plainly(image: Any, name: str, level: int, interpolation: InterpolationMode) -> Any:
    """The operation as torchvision's RandAugment has it, with translations of at most 10 pixels."""
    share = level / 30
    moved: dict[str, Any] = {"interpolation": interpolation, "fill": FILL}
    still = {"angle": 0.0, "translate": [0, 0], "scale": 1.0, "shear": [0.0, 0.0]}
    slant = math.degrees(math.atan(0.3 * share))
    if name == "shear_x":
        return functional.affine(image, **{**still, "shear": [slant, 0.0]}, center=[0, 0], **moved)
    if name == "shear_y":
        return functional.affine(image, **{**still, "shear": [0.0, slant]}, center=[0, 0], **moved)
    if name == "translate_x":
        return functional.affine(image, **{**still, "translate": [-int(10 * share), 0]}, **moved)
    if name == "translate_y":
        return functional.affine(image, **{**still, "translate": [0, -int(10 * share)]}, **moved)
    if name == "rotate":
        return functional.rotate(image, 30 * share, **moved)
    enhanced = {
        "brightness": functional.adjust_brightness,
        "color": functional.adjust_saturation,
        "contrast": functional.adjust_contrast,
        "sharpness": functional.adjust_sharpness,
    }
    if name in enhanced:
        return enhanced[name](image, 1 + 0.9 * share)
    return {
        "identity": lambda: image,
        "posterize": lambda: functional.posterize(image, 8 - round(4 * share)),
        "solarize": lambda: functional.solarize(image, 255 * (1 - share)),
        "auto_contrast": lambda: functional.autocontrast(image),
        "equalize": lambda: functional.equalize(image),
    }[name]()


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation_does_at_each_level_what_torchvisions_does(name: str, interpolation: str, picture: Any):
    chosen = policy("uniform-levels", size=SIDE, mean=IMAGENET_MEAN, interpolation=interpolation)
    assert isinstance(chosen, UniformLevels)
    both_ways = [level * way for level in LEVELS_TRIED for way in ((1, -1) if name in TWO_WAY else (1,))]
    for level in both_ways:
        wanted = plainly(picture, name, level, InterpolationMode(interpolation))
        difference = np.subtract(chosen.apply(picture, name, level), wanted, dtype=int)
        # torchvision goes from the slope to degrees and back, which may round
        assert np.abs(difference).max() <= name.startswith("shear") and (difference != 0).mean() < 0.01, level
    results = {chosen.apply(picture, name, level).tobytes() for level in both_ways}
    # posterising keeps 8, 8, 7, 6, 5, 4 and 4 bits here
    assert len(results) == {"identity": 1, "auto_contrast": 1, "equalize": 1, "posterize": 5, "solarize": 7}.get(
        name, 11 if name.startswith("translate") else 13
    )


def test_translations_are_of_whole_pixels_and_posterising_keeps_4_to_8_bits(picture: Any):
    chosen = UniformLevels(Warp(Image.Resampling.BILINEAR, tuple(FILL)))
    pixels = np.asarray(picture)
    moved = np.asarray(chosen.apply(picture, "translate_x", 30))
    assert np.array_equal(moved[:, :-10], pixels[:, 10:]) and (moved[:, -10:] == FILL).all()
    moved = np.asarray(chosen.apply(picture, "translate_y", -29))
    assert np.array_equal(moved[9:], pixels[:-9]) and (moved[:9] == FILL).all()
    bits = [int(np.asarray(chosen.apply(picture, "posterize", level)).reshape(-1).max()) for level in range(31)]
    kept = {255: 8, 254: 7, 252: 6, 248: 5, 240: 4}
    assert Counter(kept[most] for most in bits) == {8: 4, 7: 8, 6: 7, 5: 8, 4: 4}


def test_half_of_two_uniform_draws_are_applied_at_uniform_levels(monkeypatch, picture: Any):
    chosen = UniformLevels(Warp(Image.Resampling.BILINEAR, tuple(FILL)))
    applied: list[tuple[str, int]] = []

    def noted(_: UniformLevels, image: Any, name: str, level: int) -> Any:
        applied.append((name, level))
        return image

    monkeypatch.setattr(UniformLevels, "apply", noted)
    torch.manual_seed(0)
    per_image = []
    for _ in range(6000):
        before = len(applied)
        chosen(picture)
        per_image.append(len(applied) - before)
    assert np.abs(np.bincount(per_image, minlength=3) / 6000 - [0.25, 0.5, 0.25]).max() < 0.02
    counts = Counter(name for name, _ in applied)
    assert len(counts) == 14 and "invert" not in counts
    assert all(abs(count / len(applied) - 1 / 14) < 0.015 for count in counts.values())
    levels = Counter(abs(level) for _, level in applied)
    assert set(levels) == set(range(31))
    assert all(abs(count / len(applied) - 1 / 31) < 0.01 for count in levels.values())
    ways = [level > 0 for name, level in applied if name in TWO_WAY and level]
    assert abs(np.mean(ways) - 0.5) < 0.03
    assert min(level for name, level in applied if name not in TWO_WAY) == 0


def test_the_published_order_is_crop_flip_jitter_lighting_policy(picture: Any):
    transform = training_transform(
        16,
        flip=True,
        interpolation="bilinear",
        color_jitter=0.4,
        byte_lighting=0.1,
        auto_augment="uniform-levels",
        mean=IMAGENET_MEAN,
    )
    changed = policy("uniform-levels", size=16, mean=IMAGENET_MEAN, interpolation="bilinear")
    steps = [
        v2.RandomResizedCrop(16, interpolation=InterpolationMode.BILINEAR),
        v2.RandomHorizontalFlip(),
        v2.ColorJitter(0.4, 0.4, 0.4),
        lambda image: plainly_lit(image, lighting_noise(0.1).double().numpy()),
        changed,
    ]
    others = [[*steps[:2], steps[4], *steps[2:4]], [*steps[:2], steps[3], steps[2], steps[4]]]
    differ = [0, 0]
    for seed in range(20):
        results = []
        for order in (steps, *others):
            torch.manual_seed(seed)
            image = picture
            for step in order:
                image = step(image)
            results.append(np.asarray(image))
        torch.manual_seed(seed)
        assert np.array_equal(transform(picture).permute(1, 2, 0).numpy(), results[0])
        differ = [
            count + (not np.array_equal(results[0], other)) for count, other in zip(differ, results[1:], strict=True)
        ]
    assert min(differ) > 10
