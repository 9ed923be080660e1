"""What an exported file says of itself: what goes in, what comes out, and which subnet of which run it is."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from stimulative.data import ImageData, SentenceData, TextData
from stimulative.deploy.exporting.deployed import Deployed, DeployedImages
from stimulative.deploy.exporting.exported import ImagesIn, Side, TextIn
from stimulative.residual import configs_of, evaluating
from stimulative.training import Prepared, as_in

_LONGEST = "max_position_embeddings"


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
            longest=next(
                (getattr(one, _LONGEST) for one in configs_of(run.network.model) if hasattr(one, _LONGEST)), None
            ),
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
    network, data = run.network, run.data
    with torch.no_grad(), evaluating(network):
        outputs = data.aim.outputs_of(network(as_in(network, data.example(1, evaluation=True))))
    sizes = {0: 1, 1: data.length} if isinstance(data, TextData) and data.is_text else {0: 1}
    shape = tuple(free.get(number, size) if number in sizes else size for number, size in enumerate(outputs.shape))
    return Side(names=(module.output,), type="float32", shape=shape, values=_meaning(run, module, temperature))


_SETS = {
    "text": "possible next tokens, at each position",
    "multilabel": "labels",
    "segmentation": "classes, at each pixel",
}


def _meaning(run: Prepared, module: Deployed, temperature: float | None) -> str:
    """What the numbers are that come out."""
    data = run.data
    if isinstance(data, SentenceData):
        return "a vector for each text, to be compared by the cosine"
    if not data.aim.has_temperature:
        return f"numbers as the net gives them ({data.task})"
    squashed = "sigmoid" if data.task == "multilabel" else "softmax"
    scale = "" if module.temperature is None else f" divided by the temperature {module.temperature:.6g}"
    if module.probabilities:
        values = f"the {squashed} of the logits{scale}"
    elif module.temperature is None and temperature is not None:
        values = f"{squashed}(logits / {temperature:.6g}) gives probabilities"
    else:
        values = f"{scale.strip()}{scale and '; '}{squashed} gives probabilities"
    return f"one for each of the {data.classes} {_SETS.get(data.task, 'classes')}; {values}"


def _values(data: ImageData, *, normalises: bool) -> str:
    if normalises:
        return "pixels from 0 to 1 (bytes divided by 255)"
    if not data.mean:
        return "images as the loader of the run gives them"
    mean, std = ([float(f"{number:.6g}") for number in numbers] for numbers in (data.mean, data.std))
    return f"(pixels - mean) / std, pixels from 0 to 1 (bytes divided by 255), mean {mean}, std {std}"
