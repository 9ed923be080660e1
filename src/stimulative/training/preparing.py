"""What a recipe resolves to: the data, the network and the method, before any training."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from stimulative import data as data_room
from stimulative import models
from stimulative.config import Recipe
from stimulative.data import Data, ImageData, TextData, noise_images, noise_sequences
from stimulative.errors import UsageError
from stimulative.methods import Method, method_named
from stimulative.residual import (
    ResidualNetwork,
    as_in,
    check_statistics,
    evaluating,
    freeze,
    keep_only,
    stem_of,
    unravel,
)
from stimulative.runs import Origin
from stimulative.training.randomness import seed_all
from stimulative.training.starting import Start, read_start
from stimulative.training.synchronising import synchronised
from stimulative.training.teaching import Teacher, check_teachable
from stimulative.weights import read_weights

_REFUSALS = (RuntimeError, AssertionError, IndexError, TypeError, ValueError)
"""What models raise on inputs that they do not take."""


@dataclass
class Prepared:
    """What a recipe resolves to: the data, and the network and the method that it trains.

    Args:
        recipe: The recipe.
        data: The data.
        network: The network.
        method: The method.
        origin: Where the network's weights came from, where they were loaded.
        loaded: What was loaded, in a sentence.
        teacher: Where the data have no targets, what gives them.
    """

    recipe: Recipe
    data: Data
    network: ResidualNetwork
    method: Method
    origin: Origin | None = None
    loaded: str = ""
    teacher: Teacher | None = None

    def trunk(self) -> list[nn.Parameter] | None:
        """The parameters that were loaded, where the recipe has a learning rate of their own for them.

        Raises:
            UsageError: If nothing is new beside them.
        """
        settings = self.recipe.optimizer
        if settings.trunk_lr == 1 or self.origin is None:
            return None
        new = {id(self.network.model.get_parameter(name)) for name in self.origin.new or ()}
        trunk = [parameter for parameter in self.network.model.parameters() if id(parameter) not in new]
        if len(trunk) == len(list(self.method.parameters())):
            raise UsageError(
                f"optimizer.trunk_lr: {settings.trunk_lr} is for what was loaded beside a new head, but all of the net "
                f"was loaded from {self.origin.file}; set it to 1, and optimizer.lr to "
                f"{settings.trunk_lr * settings.lr:g} for the same"
            )
        return trunk


def prepare(
    recipe: Recipe,
    *,
    device: torch.device | str = "cpu",
    data: Data | None = None,
    model: nn.Module | None = None,
    rank: int = 0,
    world_size: int = 1,
    weights: bool = False,
    origin: Origin | None = None,
    reference: str | Path | None = None,
) -> Prepared:
    """Open the data, build and unravel the model and set up the method, seeded by the recipe.

    Args:
        recipe: The recipe.
        device: Where the data and the model go.
        data: Data of your own instead of the recipe's.
        model: A model of your own instead of the recipe's.
        rank: The number of this process among all that train together.
        world_size: The number of these processes.
        weights: Whether to load the weights that the recipe starts from (``model.weights``), as a run does at its
            beginning; whoever loads others later has no need of them.
        origin: Where those came from that are to be loaded later, of a run that goes on.
        reference: Where data have no targets, the file of the weights that targets are made with; those that the recipe
            starts from where these are loaded now.

    Raises:
        UsageError: If the data, the model, its weights or the method cannot be used.
    """
    if weights:
        _check_start(recipe, own_model=model is not None)
    if data is None:
        data = data_room.load(recipe.data, seed=recipe.seed, device=device, rank=rank, world_size=world_size)
    seed_all(recipe.seed)
    start = read_start(recipe.model, data, own_model=model is not None) if weights and recipe.model.weights else None
    own_model = model is not None
    model = _built(recipe, data) if model is None else model
    if recipe.training.sync_batchnorm and world_size > 1:
        model = synchronised(model)
    model.to(device)
    if weights and not own_model:
        check_teachable(data, recipe.model.weights)
    data, teacher = _taught(recipe, data, model, start, reference, own_model=own_model and weights)
    network, filled = _filled(unravel_on(recipe.model.name, model, data), start, recipe, data)
    origin, loaded = filled or (origin, "")
    if recipe.model.freeze_stem:
        freeze(network, stem_of(network), new=() if origin is None else origin.new or ())
    check_statistics(network.model, network.wiring)  # now, not when the trained net is finished
    _check_outputs(recipe.model.name, network, data, divided=world_size > 1)
    _check_space(recipe, network)
    method = method_named(recipe.method.name)(
        network,
        **recipe.method.settings,
        **_told_task(recipe.method.name, data),
        label_smoothing=recipe.training.label_smoothing,
        total_steps=recipe.schedule.epochs * len(data.train),
        seed=recipe.seed,
    )
    return Prepared(recipe, data, network, method, origin, loaded, teacher)


def unravel_on(name: str, model: nn.Module, data: Data) -> ResidualNetwork:
    """Unravel a model on a fixed batch of noise that is like the training data.

    Raises:
        UsageError: If it has no blocks, or does not run on such a batch.
    """
    return _unravel_on(name, model, data.example(), data.described(), _advice(data))


def unravel_on_images(name: str, model: nn.Module, channels: int, size: int) -> ResidualNetwork:
    """Unravel a model on a fixed batch of noise.

    Raises:
        UsageError: If it has no blocks, or does not run on images of this size.
    """
    described = f"images of {channels} channels and {size}x{size} pixels"
    return _unravel_on(name, model, noise_images(channels, size), described, _SIZES["images"])


def unravel_on_text(name: str, model: nn.Module, length: int, vocabulary: int) -> ResidualNetwork:
    """Unravel a language model on a fixed batch of random tokens.

    Raises:
        UsageError: If it has no blocks, or does not run on sequences of this length.
    """
    described = f"sequences of {length} tokens"
    return _unravel_on(name, model, noise_sequences(length, vocabulary), described, _SIZES["text"])


_SIZES = {
    "images": "Choose another size of images, or tell the model theirs (timm's transformers: model.arguments "
    "{img_size: N})",
    "text": "Choose another length of sequences (data.length of a recipe, length= without one), or tell the model the "
    "longest it is to take (transformers/gpt2: model.arguments {n_positions: N})",
}
"""What to do about a model that does not run on a size."""


def _advice(data: Data) -> str:
    return _SIZES["text" if isinstance(data, TextData) else "images"]


def _unravel_on(name: str, model: nn.Module, example: Any, described: str, advice: str) -> ResidualNetwork:
    try:
        return unravel(model, as_in(model, example))
    except _REFUSALS as error:
        raise UsageError(f"{name} does not run on {described}: {error}. {advice}") from error


def _check_start(recipe: Recipe, *, own_model: bool) -> None:
    """Refuse settings that are about trained weights where there are none."""
    if recipe.model.weights is not None:
        return
    if recipe.optimizer.trunk_lr != 1:
        raise UsageError(
            f"optimizer.trunk_lr: {recipe.optimizer.trunk_lr} is for what was loaded from model.weights, and nothing "
            "is; say model.weights, or leave it out"
        )
    if recipe.model.freeze_stem and not own_model:
        raise UsageError(
            "model.freeze_stem: a stem that nobody has trained would stay as it is drawn; say model.weights, or leave "
            "it out"
        )


def _built(recipe: Recipe, data: Data) -> nn.Module:
    return models.build(
        recipe.model.name,
        **data.sizes,
        arguments=recipe.model.arguments,
        task=data.task,
    )


def _taught(
    recipe: Recipe,
    data: Data,
    model: nn.Module,
    start: Start | None,
    reference: str | Path | None,
    *,
    own_model: bool,
) -> tuple[Data, Teacher | None]:
    """The data with targets, and what gives them, where they have none and it is known what to make them with."""
    if not data.unlabelled or (start is None and reference is None and not own_model):
        return data, None
    teacher = Teacher(model, data.aim)  # the whole net, also where a subnet of it is trained alone
    if reference is not None:
        teacher.fill(read_weights(reference), reference, recipe.model.name, data)
    elif start is not None:
        teacher.fill(start.weights, start.file, recipe.model.name, data)
    return data.taught_by(teacher), teacher


def _filled(
    network: ResidualNetwork, start: Start | None, recipe: Recipe, data: Data
) -> tuple[ResidualNetwork, tuple[Origin, str] | None]:
    """The network of the recipe's subnet, with the weights to start from, of the whole net or of the subnet."""
    filled = None
    if recipe.model.subnet is not None:
        filled = None if start is None else _fill_if_whole(start, network, recipe, data)
        network = keep_only(network, recipe.model.subnet)
    if start is not None and filled is None:
        filled = start.fill(network.model, recipe.model.name, data)
    return network, filled


def _fill_if_whole(start: Start, network: ResidualNetwork, recipe: Recipe, data: Data) -> tuple[Origin, str] | None:
    """Load weights of the whole net before blocks are removed from it; None if they are not, as a smaller net's are."""
    try:
        return start.fill(network.model, recipe.model.name, data)
    except UsageError:
        return None


def _check_space(recipe: Recipe, network: ResidualNetwork) -> None:
    """Make sure that an order of importance is one of this network, before it is trained."""
    try:
        network.space.keeping(recipe.evaluation.space)
    except UsageError as error:
        raise UsageError(f"evaluation.space: {error}") from error


def _check_outputs(name: str, network: ResidualNetwork, data: Data, *, divided: bool) -> None:
    """Make sure that the outputs of a network can be measured, by several processes where that is divided.

    Raises:
        UsageError: If they cannot.
    """
    if divided:
        data.aim.meter().sums()
    example = as_in(network, data.example(evaluation=True))
    try:
        with evaluating(network), torch.no_grad():
            output = network(example)
    except _REFUSALS as error:
        if not isinstance(data, ImageData):
            raise UsageError(f"{name} does not run on {data.described()}: {error}. {_advice(data)}") from error
        size = data.evaluation_image_size
        raise UsageError(
            f"{name} was built for training images of {data.image_size}x{data.image_size} pixels and does not run on "
            f"validation and test images of {size}x{size}: {error}. Leave data.evaluation_image_size out"
        ) from error
    try:
        outputs = data.aim.outputs_of(output)
        data.aim.check_outputs(outputs)
        got = f"shape {tuple(outputs.shape)}" if isinstance(outputs, Tensor) else type(outputs).__name__
    except UsageError as error:
        raise UsageError(f"model.name: {name} does not fit {data.name}: {error}") from error
    if data.task not in _COUNTED:
        return
    at = 1 if data.task == "segmentation" else -1
    samples = example["input_ids"].shape if data.is_text else example.shape[:1]
    classes = outputs.shape[at] if outputs.shape[: len(samples)] == samples and outputs.dim() > len(samples) else None
    if classes != data.classes:
        what, of = ("sequences", "tokens") if data.is_text else ("images", "classes")
        wanted = (*samples, data.classes) if at == -1 else (*samples, data.classes, "height", "width")
        raise UsageError(
            f"{name} gives {got} for {samples[0]} {what}, but {data.name} has {data.classes} {of}: it has to give "
            f"logits of shape ({', '.join(map(str, wanted))})"
        )


_COUNTED = "images", "text", "multilabel", "segmentation"
"""Tasks whose outputs have as many numbers as there are classes."""


def _told_task(method: str, data: Data) -> dict[str, Any]:
    """What a method is told of the task; one of the user's own that knows of none is for classes.

    Raises:
        UsageError: If it knows of none, and the data are for another.
    """
    parameters = inspect.signature(method_named(method)).parameters
    if "task" in parameters or any(one.kind is one.VAR_KEYWORD for one in parameters.values()):
        return {"task": data.aim}
    if data.task in ("images", "text"):
        return {}
    raise UsageError(
        f"method.name: {method!r} is for classes, since it takes no task, and {data.name} is for {data.task}: let it "
        "take task by name and hand it on to Method"
    )
