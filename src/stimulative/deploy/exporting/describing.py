"""What an exported file says of itself: what goes in, what comes out, and which subnet of which run it is."""

from __future__ import annotations

from collections.abc import Mapping

from stimulative.data import ImageData, TextData
from stimulative.deploy.exporting.deployed import Deployed, DeployedImages
from stimulative.deploy.exporting.exported import ImagesIn, Side, TextIn
from stimulative.training import Prepared


def described_input(run: Prepared, module: Deployed, free: Mapping[int, str]) -> ImagesIn | TextIn:
    """What goes in, exactly."""
    data = run.data
    if isinstance(data, TextData):
        sizes = [data.length]
    else:
        sizes = [data.channels, data.evaluation_image_size, data.evaluation_image_size]
    shape = tuple(free.get(number, size) for number, size in enumerate([1, *sizes]))
    if isinstance(data, TextData):
        return TextIn(
            names=module.inputs,
            type="int64",
            shape=shape,
            values=f"input_ids: tokens from 0 to {data.classes - 1}; attention_mask: 1 for a token, 0 for padding "
            "behind the last one",
            tokenizer=run.recipe.data.tokenizer,
            trained_length=data.length,
            longest=getattr(getattr(run.network.model, "config", None), "max_position_embeddings", None),
        )
    normalises = isinstance(module, DeployedImages) and module.normalises
    return ImagesIn(
        names=module.inputs,
        type="float32",
        shape=shape,
        values=_values(data, normalises=normalises),
        normalised_inside=normalises,
        channels="RGB" if data.channels == 3 else data.channels,
        preparation=str(
            data.preparation
            or f"images of {data.evaluation_image_size}x{data.evaluation_image_size} pixels as they are"
        ),
    )


def described_output(run: Prepared, module: Deployed, free: Mapping[int, str], temperature: float | None) -> Side:
    """What comes out, exactly."""
    classes = run.data.classes
    of = "possible next tokens, at each position" if run.data.is_text else "classes"
    scale = "" if module.temperature is None else f" divided by the temperature {module.temperature:.6g}"
    if module.probabilities:
        values = f"the softmax of the logits{scale}"
    elif module.temperature is None and temperature is not None:
        values = f"softmax(logits / {temperature:.6g}) gives probabilities"
    else:
        values = f"{scale.strip()}{scale and '; '}softmax gives probabilities"
    sizes = {0: 1, 1: run.data.length} if isinstance(run.data, TextData) else {0: 1}
    return Side(
        names=(module.output,),
        type="float32",
        shape=(*(free.get(number, size) for number, size in sizes.items()), classes),
        values=f"one for each of the {classes} {of}; {values}",
    )


def _values(data: ImageData, *, normalises: bool) -> str:
    if normalises:
        return "pixels from 0 to 1 (bytes divided by 255)"
    if not data.mean:
        return "images as the loader of the run gives them"
    mean, std = ([float(f"{number:.6g}") for number in numbers] for numbers in (data.mean, data.std))
    return f"(pixels - mean) / std, pixels from 0 to 1 (bytes divided by 255), mean {mean}, std {std}"
