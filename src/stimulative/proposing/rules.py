"""The rules by which a recipe is proposed: a value and its reason, from what is found in model and data."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from stimulative.config import Recipe
from stimulative.data import FAKE, FAKE_SIZE, FOLDER_SIZE, NATIVE_SIZE, ImageData, ImageFolders, SentenceData, TextData
from stimulative.models import PRETRAINED
from stimulative.residual import layers_with_statistics
from stimulative.training import Prepared

SMALL = 64
"""Images of at most so many pixels a side are small."""
_LOOKED_AT = 100


@dataclass(frozen=True)
class Proposed:
    """A setting of a recipe.

    Args:
        key: Its dotted key.
        value: Its value.
        why: The reason, in sentences.
    """

    key: str
    value: Any
    why: str


def fit_images(recipe: Recipe, given: Collection[str] = ()) -> Iterator[Proposed]:
    """What makes images and model fit: the size of images of a folder, and the arguments of models of one size.

    Args:
        recipe: Model and data, and what else is given.
        given: The keys of the latter.
    """
    data, model = recipe.data, recipe.model
    if data.takes_tokens or data.is_own:  # what size images of one's own have, only opening tells
        return
    side, why = data.image_size or NATIVE_SIZE.get(data.name, FAKE_SIZE), ""
    if data.folder is not None:
        found = ImageFolders.find(data.folder)
        if "data.validation" not in given:
            yield _validation(len(found.train.paths), len(found.class_names))
        if data.image_size is None:
            side, why = _side_of(found.train.paths)
    published = _published(model.name)
    native = published.get("input_size", (3, FOLDER_SIZE, FOLDER_SIZE))[-1]
    fixed = bool(published.get("fixed_input_size")) and "img_size" not in model.arguments
    if fixed and data.resized and data.image_size is None and (model.weights == PRETRAINED or side > SMALL):
        side = native
        yield Proposed("data.image_size", side, f"The size of images that {model.name} is made for.")
    elif data.folder is not None and data.image_size is None:
        yield Proposed("data.image_size", side, why)
    if fixed and side != native:
        arguments, why = {**model.arguments, "img_size": side}, f"Made for images of {native} pixels, told of these"
        if side <= SMALL and model.weights is None and "patch" in model.name and "patch_size" not in arguments:
            arguments["patch_size"] = max(1, side // 8)
            why += "; with patches so small that there are eight times eight"
        yield Proposed("model.arguments", arguments, f"{why}.")
    if model.weights == PRETRAINED and published and data.resized and data.mean is None:
        yield Proposed(
            "data.mean", tuple(published["mean"]), "Images are normalised as those that the weights were trained on."
        )
        yield Proposed("data.std", tuple(published["std"]), "Likewise.")


def settings_for(run: Prepared, given: Collection[str] = ()) -> Iterator[Proposed]:
    """All other settings that are worth saying.

    Args:
        run: The model and the data, opened; its weights loaded, if it starts from some.
        given: The keys of settings that the recipe has already; what is chosen goes by them.
    """
    batch = run.recipe.data.batch_size if "data.batch_size" in given else batch_size_for(run)
    optimizer = run.recipe.optimizer.name if "optimizer.name" in given else None
    recipe, network = run.recipe, run.network
    yield Proposed("model.name", recipe.model.name, _about_network(run))
    if recipe.model.weights is not None:
        yield Proposed("model.weights", recipe.model.weights, f"Trained weights to start from: {run.loaded}.")
    yield from _about_data(run)
    if recipe.method.name == "stimulative":
        yield from _about_method(run)
    yield from _about_optimizer(run, batch, optimizer)
    yield from _about_schedule(run, batch)
    yield Proposed("evaluation.subnets", "auto", "Measure all subnets up to 1,000, else 1,000 that are drawn.")
    if layers_with_statistics(network.model, network.wiring):
        images = min(2000, run.data.calibration.images)
        yield Proposed(
            "evaluation.calibration_images",
            images,
            "Training images to estimate each subnet's BatchNorm statistics on anew"
            + (": all there are." if images < 2000 else ": the number of the authors' training loop."),
        )
    yield Proposed("seed", recipe.seed, "Where all randomness starts.")


def batch_size_for(run: Prepared) -> int:
    """A power of two with at least twenty batches an epoch, from 8 to what memory is likely to hold."""
    data = run.data
    most = 32 if isinstance(data, TextData) else 128 if data.image_size <= SMALL else 64
    twentieth = max(1, data.calibration.images // 20)
    return max(8, min(most, 2 ** (twentieth.bit_length() - 1)))


def _about_network(run: Prepared) -> str:
    network = run.network
    *before, last = [str(stage.blocks) for stage in network.stages]
    stages = f"{', '.join(before)} and {last}" if before else last
    norm = "BatchNorm" if layers_with_statistics(network.model, network.wiring) else "norms without running statistics"
    plural = "s" if len(network.stages) > 1 else ""
    hint = ""
    if (
        isinstance(run.data, ImageData)
        and run.data.image_size <= SMALL
        and _published(run.recipe.model.name).get("first_conv") == "conv1"
    ):
        hint = (
            " Its stem divides images by four, which leaves little of small ones: cifar/ has ResNets with another stem."
        )
    count = f"{network.space.count:,} ordered subnets"
    return f"{len(network.stages)} stage{plural} of {stages} blocks, {norm}: {count}.{hint}"


def _about_data(run: Prepared) -> Iterator[Proposed]:
    data = run.data
    count = data.calibration.images
    if isinstance(data, SentenceData):
        found = f"{count:,} training texts of up to {data.length} tokens; no labels are needed."
    elif isinstance(data, TextData):
        found = f"{count:,} training sequences of {data.length} tokens, {data.classes:,} different ones."
    else:
        found = (
            f"{count:,} training images in {data.classes} classes, about {round(count / data.classes):,} each; "
            f"{data.channels}x{data.image_size}x{data.image_size} as the model sees them."
        )
    yield Proposed("data.name", data.name, found)
    size = batch_size_for(run)
    what = "Texts" if isinstance(data, SentenceData) else "Sequences" if data.is_text else "Images"
    steps = max(1, count // size)
    why = (
        "few, since there are few; an epoch is to have twenty steps, where that does not make a batch of less than 8"
        if size < 32 or steps < 40
        else "a size that is usual for such data"
    )
    yield Proposed("data.batch_size", size, f"{what} per step: {why}. Fewer where memory is short, with a lower lr.")
    if data.is_text and data.classes > 10_000:
        yield Proposed(
            "data.evaluation_batch_size", 16, "Fewer sequences where nothing is trained: logits of large vocabularies."
        )
    elif isinstance(data, ImageData) and data.image_size > SMALL:
        yield Proposed("data.evaluation_batch_size", 128, "Images per batch where nothing is trained.")
    if isinstance(data, ImageData) and data.name in NATIVE_SIZE:
        padding = max(1, data.image_size // 8)
        yield Proposed(
            "data.crop_padding", padding, "Pixels of border for the random crop: an eighth of the side (He et al.)."
        )
    if run.recipe.data.is_own:  # its function decides on these
        return
    if isinstance(data, ImageData):
        why = (
            "No mirror images: a mirrored digit is none."
            if data.name == "digits"
            else ("Mirror images half of the time; false where left and right matter, such as in text.")
        )
        yield Proposed("data.flip", data.name != "digits", why)
    if run.recipe.data.folder is None and data.name != FAKE:
        yield _validation(count + data.validation.images, 2)


def _validation(images: int, classes: int) -> Proposed:
    """The share to hold out, with every class in it."""
    share, why = 0.1, "."
    if images < 1_000:
        share, why = 0.2, ": more than the usual tenth, which is less than 100 here."
    if images * share < classes:
        share, why = min(0.5, math.ceil(20 * classes / images) / 20), ": so much that every class is in it."
    what = "Share of the training split that is held out to choose the best checkpoint on"
    return Proposed("data.validation", share, f"{what}{why}")


def _about_method(run: Prepared) -> Iterator[Proposed]:
    yield Proposed("method.name", "stimulative", "Each step also trains one sampled subnet to agree with the main net.")
    yield Proposed(
        "method.balance",
        1.0,
        "Weight of that, the paper's lambda: that of the authors' code for ResNet-50 on ImageNet.",
    )
    yield Proposed(
        "method.balance_ramp",
        0.5,
        "Share of the run over which the balance rises to that value. Ours: half a run leaves time at the full value.",
    )


def _about_optimizer(run: Prepared, batch: int, given: str | None) -> Iterator[Proposed]:
    data = run.data
    started, new_head = run.origin is not None, bool(run.origin and run.origin.new)
    plain = bool(layers_with_statistics(run.network.model, run.network.wiring)) and isinstance(data, ImageData)
    sgd = plain if given is None else given == "sgd"
    if sgd:
        yield Proposed(
            "optimizer.name",
            "sgd",
            "SGD with Nesterov momentum, as convolutional nets with BatchNorm are trained (authors' code).",
        )
        of = 256 if isinstance(data, ImageData) and data.image_size > SMALL else 128
        source = "He et al. on CIFAR" if of == 128 else "Goyal et al. 2017 on ImageNet"
        rate, how = 0.1 * batch / of, f"0.1 for a batch of {of} ({source}), scaled with the batch"
        decay, why_decay = (
            (5e-4, "strong, since there are few images") if data.calibration.images < 100_000 else (1e-4, "He et al.")
        )
    else:
        kind = "language models" if data.is_text else "nets without BatchNorm"
        yield Proposed("optimizer.name", "adamw", f"AdamW, as transformers and other {kind} are trained.")
        few = data.is_text and sum(p.numel() for p in run.network.model.parameters()) < 10_000_000
        base, of = (3e-3 if few else 6e-4, 16) if isinstance(data, TextData) else (1e-3, 128)
        rate = base * (batch / of) ** 0.5
        how = f"{base:g} for a batch of {of}, scaled with the root of the batch (Malladi et al. 2022 for Adam)"
        decay, why_decay = (0.1, "GPT-3's") if data.is_text else (0.05, "that of most recipes for transformers")
        if isinstance(data, SentenceData):
            decay, why_decay = 0.01, "BERT's"
    if new_head:
        how += "; for the new head alone, see trunk_lr"
    elif started:
        rate, how = (
            rate / 3,
            how + ", and a third of that, since the weights are trained; less, and subnets learn little",
        )
    yield Proposed(
        "optimizer.lr",
        float(f"{rate:.1e}"),
        f"Peak learning rate: {how}. Not tuned"
        + (": try others." if isinstance(data, SentenceData) else ": stimulative init --lr-range-test finds one."),
    )
    if new_head:
        yield Proposed(
            "optimizer.trunk_lr",
            0.3,
            "Learning rate of all that was loaded, as a share of lr. Ours; less, and subnets learn little.",
        )
    yield Proposed("optimizer.weight_decay", decay, f"Strength of the pull of weights towards 0: {why_decay}.")
    if data.is_text:
        yield Proposed("optimizer.betas", (0.9, 0.95), "Averages of AdamW, as in GPT-3.")
    if not sgd:
        yield Proposed(
            "optimizer.clip_norm", 1.0, "Longer gradients are cut to this length, as in most recipes for transformers."
        )


def _about_schedule(run: Prepared, batch: int) -> Iterator[Proposed]:
    data = run.data
    steps = max(1, data.calibration.images // batch)
    started = run.origin is not None
    wanted = 1_000 if started else 4_000
    low, high = (1, 20) if isinstance(data, TextData) else (30, 200)
    if started:
        low, high = (1, 5) if isinstance(data, TextData) else (5, 30)
    epochs = min(high, max(low, round(wanted / steps)))
    what = "for a start from trained weights" if started else "from new parameters"
    yield Proposed(
        "schedule.epochs",
        epochs,
        f"Passes over the training data: {steps:,} steps each, {epochs * steps:,} in all; about {wanted:,} are wanted "
        f"{what}, in {low} to {high} epochs. Ours; longer is better where there is time.",
    )
    warmup = round((0.05 if layers_with_statistics(run.network.model, run.network.wiring) else 0.1) * epochs, 2)
    yield Proposed(
        "schedule.warmup_epochs", warmup, "Epochs over which the learning rate rises, before it falls along a cosine."
    )


def _side_of(paths: Sequence[str]) -> tuple[int, str]:
    """The side to bring images to, and why."""
    from PIL import Image

    sides = []
    for file in paths[:: max(1, len(paths) // _LOOKED_AT)]:
        try:
            with Image.open(file) as image:
                sides.append(min(image.size))
        except OSError:  # reading it will say so
            continue
    if not sides:
        return FOLDER_SIZE, "Side of the images in pixels."
    middle = int(median(sides))
    side = min(FOLDER_SIZE, max(32, middle // 32 * 32))
    about = f"the files' shorter sides are {min(sides)} to {max(sides)} pixels, {middle} in the middle"
    return side, f"Side of the images in pixels: {about}; a multiple of 32, and {FOLDER_SIZE} at most."


def _published(name: str) -> dict[str, Any]:
    """What timm says of the images that a model of its own is made for; nothing of other models."""
    if not name.startswith("timm/"):
        return {}
    from timm.models import get_pretrained_cfg

    published = get_pretrained_cfg(name.removeprefix("timm/"))
    return {} if published is None else published.to_dict()
