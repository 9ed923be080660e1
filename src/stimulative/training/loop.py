"""The training loop, on Lightning Fabric: from a recipe to a run directory.

A run directory holds the resolved recipe, the environment, metrics, the last and the best checkpoint, the trained
model and a summary. The last checkpoint is written after every epoch and holds all state, so that a run that was
stopped at any moment goes on from there and ends with the same weights as one that never stopped: the batches of an
epoch depend on the seed and the epoch alone, and everything else random is in the checkpoint.
"""

from __future__ import annotations

import importlib
import math
import sys
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from stimulative import data as data_room
from stimulative import models
from stimulative.data import Data
from stimulative.data.dataset import noise_images, noise_sequences
from stimulative.errors import UsageError
from stimulative.methods import METHODS, Method, Terms
from stimulative.models.settings import PRETRAINED
from stimulative.objectives import logits_of
from stimulative.training import files
from stimulative.training.accumulation import parts
from stimulative.training.checkpoint import load_checkpoint, save_checkpoint
from stimulative.training.environment import PeakMemory, describe, device_name, versions
from stimulative.training.measure import Score, hits, in_format, in_precision_of, measure, samples_in
from stimulative.training.metrics import MetricsFile, loggers_of
from stimulative.training.optimization import optimizer_of, schedule_of
from stimulative.training.progress import TrainingProgress
from stimulative.training.randomness import random_states, restore_random_states, seed_all
from stimulative.training.recipe import Recipe, load_recipe
from stimulative.training.start import Origin, Start, read_start, weights_file
from stimulative.training.temperature import fit_temperatures
from stimulative.unravel import ResidualNetwork, Statistics, evaluating, keep_only, layers_with_statistics, unravel
from stimulative.unravel.stem import freeze, keep_frozen, stem_of


class Diverged(RuntimeError):
    """The loss is no longer a finite number."""


@dataclass
class Run:
    """What a recipe resolves to: the data, and the network and the method that it trains.

    Args:
        recipe: The recipe.
        data: The data.
        network: The network.
        method: The method.
        origin: Where the network's weights came from, where they were loaded.
        loaded: What was loaded, in a sentence.
    """

    recipe: Recipe
    data: Data
    network: ResidualNetwork
    method: Method
    origin: Origin | None = None
    loaded: str = ""

    def trunk(self) -> list[nn.Parameter] | None:
        """The parameters that were loaded, where the recipe has a learning rate of their own for them.

        Raises:
            UsageError: If nothing is new beside them.
        """
        settings = self.recipe.optimizer
        if settings.trunk_lr == 1 or self.origin is None:
            return None
        new = {id(self.network.model.get_parameter(name)) for name in self.origin.new}
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
) -> Run:
    """Open the data, build and unravel the model and set up the method, seeded by the recipe.

    Args:
        recipe: The recipe.
        device: Where the data and the model go.
        data: Data of one's own instead of the recipe's.
        model: A model of one's own instead of the recipe's.
        rank: The number of this process among all that train together.
        world_size: The number of these processes.
        weights: Whether to load the weights that the recipe starts from (``model.weights``), as a run does at its
            beginning; whoever loads others later has no need of them.
        origin: Where those came from that are to be loaded later, of a run that goes on.

    Raises:
        UsageError: If the data, the model, its weights or the method cannot be used.
    """
    if weights:
        _check_start(recipe, own_model=model is not None)
    if data is None:
        data = data_room.load(recipe.data, seed=recipe.seed, device=device, rank=rank, world_size=world_size)
    seed_all(recipe.seed)
    start = read_start(recipe.model, data, own_model=model is not None) if weights and recipe.model.weights else None
    if model is None:
        model = models.build(
            recipe.model.name,
            classes=data.classes,
            channels=max(1, data.channels),  # of text there are none
            arguments=recipe.model.arguments,
            task=data.task,
        )
    model.to(device)
    network = unravel_on(recipe.model.name, model, data)
    filled = None
    if recipe.model.subnet is not None:
        filled = None if start is None else _fill_if_whole(start, network, recipe, data)
        network = keep_only(network, recipe.model.subnet)
    if start is not None and filled is None:
        filled = start.fill(network.model, recipe.model.name, data)
    origin, loaded = filled or (origin, "")
    if recipe.model.freeze_stem:
        freeze(network, stem_of(network), new=() if origin is None else origin.new)
    _check_outputs(recipe.model.name, network, data)
    method = METHODS[recipe.method.name](
        network,
        **recipe.method.settings,
        label_smoothing=recipe.training.label_smoothing,
        total_steps=recipe.schedule.epochs * len(data.train),
        seed=recipe.seed,
    )
    return Run(recipe, data, network, method, origin, loaded)


def _check_start(recipe: Recipe, *, own_model: bool) -> None:
    """Refuse settings that are about trained weights where there are none."""
    if recipe.model.weights is not None:
        return
    if recipe.optimizer.trunk_lr != 1:
        raise UsageError(
            f"optimizer.trunk_lr: {recipe.optimizer.trunk_lr} is for what was loaded from model.weights, and nothing "
            "is; say model.weights (--from), or leave it out"
        )
    if recipe.model.freeze_stem and not own_model:
        raise UsageError(
            "model.freeze_stem: a stem that nobody has trained would stay as it is drawn; say model.weights (--from), "
            "or leave it out"
        )


def _fill_if_whole(start: Start, network: ResidualNetwork, recipe: Recipe, data: Data) -> tuple[Origin, str] | None:
    """Load weights of the whole net before blocks are removed from it; None if they are not, as a smaller net's are."""
    try:
        return start.fill(network.model, recipe.model.name, data)
    except UsageError:
        return None


def unravel_on(name: str, model: nn.Module, data: Data) -> ResidualNetwork:
    """Unravel a model on a fixed batch of noise that is like the training data.

    Raises:
        UsageError: If it has no blocks, or does not run on such a batch.
    """
    return _unravel_on(name, model, data.example(), data.described(), _SIZES[data.task])


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
    "text": "Choose another length (data.length; of unravel --length), or tell the model the longest it is to take "
    "(transformers/gpt2: model.arguments {n_positions: N})",
}
"""What to do about a model that does not run on a size."""


def _unravel_on(name: str, model: nn.Module, example: Any, described: str, advice: str) -> ResidualNetwork:
    try:
        return unravel(model, as_in(model, example))
    except (RuntimeError, AssertionError, IndexError, TypeError, ValueError) as error:
        raise UsageError(f"{name} does not run on {described}: {error}. {advice}") from error


def as_in(module: nn.Module, x: Any) -> Any:
    """What a model takes, on its device and in its number format."""
    parameter = next(module.parameters())
    moved = pytree.tree_map_only(Tensor, lambda part: part.to(parameter.device), x)
    return in_format(moved, parameter.dtype)


def _check_outputs(name: str, network: ResidualNetwork, data: Data) -> None:
    example = as_in(network, data.example(evaluation=True))
    try:
        with evaluating(network), torch.no_grad():
            output = network(example)
    except (RuntimeError, AssertionError, IndexError, TypeError, ValueError) as error:
        size = data.evaluation_image_size
        raise UsageError(
            f"{name} was built for training images of {data.image_size}x{data.image_size} pixels and does not run on "
            f"validation and test images of {size}x{size}: {error}. Leave data.evaluation_image_size out"
        ) from error
    samples = example["input_ids"].shape if data.is_text else example.shape[:1]
    wanted = (*samples, data.classes)
    try:
        logits = logits_of(output)
        got = f"shape {tuple(logits.shape)}"
    except UsageError:
        logits, got = None, type(output).__name__
    if logits is None or logits.shape != wanted:
        what, classes = ("sequences", "tokens") if data.is_text else ("images", "classes")
        raise UsageError(
            f"{name} gives {got} for {samples[0]} {what}, but {data.name} has {data.classes} {classes}: it has to give "
            f"logits of shape {wanted}"
        )


def train(
    recipe: Recipe | str | Path,
    out: str | Path,
    *,
    resume: bool = False,
    data: Data | None = None,
    model: nn.Module | None = None,
    progress: bool = True,
) -> dict[str, Any]:
    """Train as a recipe says and write a run directory.

    Args:
        recipe: A recipe, the name of a shipped one, or the path of a file.
        out: The run directory.
        resume: Go on with the run that is there, if there is one.
        data: Data of one's own instead of the recipe's.
        model: A model of one's own instead of the recipe's; one that the recipe's seed does not initialise.
        progress: Whether to show progress.

    Returns:
        The summary, as in ``summary.json``.

    Raises:
        UsageError: If something cannot be used, before any training.
        Diverged: If the loss is no longer finite; the last checkpoint is from before.
    """
    if not isinstance(recipe, Recipe):
        recipe = load_recipe(recipe)
    if recipe.training.devices > 1 and recipe.method.settings.get("schedule") == "lean":
        raise UsageError(
            "method.schedule: 'lean' calls backward several times a step, which training on several devices does not "
            f"allow; got training.devices {recipe.training.devices}, use schedule joint there"
        )
    out = Path(out)
    if recipe.model.weights not in (None, PRETRAINED) and not (out / files.RECIPE).exists():
        weights_file(recipe.model.weights)
    finished = _check_directory(recipe, out, resume=resume)
    if finished is not None:
        return finished
    return _Loop(recipe, out, data=data, model=model, progress=progress).run()


class _Loop:
    def __init__(
        self, recipe: Recipe, out: Path, *, data: Data | None, model: nn.Module | None, progress: bool
    ) -> None:
        from lightning.fabric import Fabric

        settings = recipe.training
        if settings.threads is not None:
            torch.set_num_threads(settings.threads)
        self.recipe = recipe
        self.out = out
        last = out / files.LAST
        self.saved = load_checkpoint(last) if (out / files.RECIPE).exists() else None
        loggers = loggers_of(settings.loggers, out, self.saved["step"] if self.saved else 0)
        try:
            self.fabric = Fabric(
                accelerator=settings.device, devices=settings.devices, precision=settings.precision, loggers=loggers
            )
        except (RuntimeError, ValueError, TypeError) as error:  # Lightning's own are of these kinds
            raise UsageError(
                f"training.device, devices, precision: got {settings.device}, {settings.devices}, "
                f"{settings.precision}, which this machine cannot do: {error}"
            ) from error
        self.fabric.launch()
        importlib.import_module("torch._dynamo")  # the first optimiser step would do it, with the clock running
        self.chief = self.fabric.is_global_zero
        self.memory = PeakMemory(self.fabric.device)
        self.prepared = prepare(
            recipe,
            device=self.fabric.device,
            data=data,
            model=model,
            rank=self.fabric.global_rank,
            world_size=self.fabric.world_size,
            weights=self.saved is None,
            origin=Origin.from_mapping(self.saved["weights"]) if self.saved and "weights" in self.saved else None,
        )
        self.data, self.network, self.method = self.prepared.data, self.prepared.network, self.prepared.method
        self.layout = torch.channels_last if settings.channels_last else torch.preserve_format
        self.network.to(memory_format=self.layout)
        if settings.compile:
            for stage in self.network.stages:
                for name in stage.block_names:
                    self.network.model.get_submodule(name).compile()
        self.optimizer = optimizer_of(self.method, recipe.optimizer, self.prepared.trunk())
        self.updates = math.ceil(len(self.data.train) / settings.accumulate)
        self.scheduler = schedule_of(self.optimizer, recipe.schedule, self.updates)
        self.wrapped, self.wrapped_optimizer = self.fabric.setup(self.method, self.optimizer)
        self.epoch = 0
        self.best = -1.0
        self.seconds = 0.0
        self.warned = False
        self.visible = progress and self.chief
        if self.visible and self.prepared.loaded:
            print(f"{out.name}: {self.prepared.loaded}", file=sys.stderr, flush=True)
        if self.saved is not None:
            self._restore(self.saved)

    def run(self) -> dict[str, Any]:
        if self.chief:
            if self.saved is None:
                self._save(files.LAST)  # before the recipe, so that whatever has a recipe can go on
            files.write_text(self.out / files.RECIPE, self.recipe.to_yaml())
            files.write_json(self.out / files.ENVIRONMENT, describe(self.fabric.device, self.recipe.seed))
            self.metrics = MetricsFile(self.out / files.METRICS, self.epoch)
        title = self.out.name  # of a comparison's runs, all that tells a method from its variants
        with TrainingProgress(
            title,
            self.epochs,
            len(self.data.train),
            start=self.epoch,
            visible=self.visible,
            unit="seq" if self.data.is_text else "img",
        ) as self.progress:
            while self.epoch < self.epochs:
                self._epoch()
        return self._finish()

    @property
    def epochs(self) -> int:
        """Epochs to train; the last one is broken off where ``schedule.max_steps`` says so."""
        schedule = self.recipe.schedule
        if schedule.max_steps is None:
            return schedule.epochs
        return min(schedule.epochs, math.ceil(schedule.max_steps / self.updates))

    @property
    def steps(self) -> int:
        """Optimiser steps that have been taken by the end of the present epoch."""
        steps = self.epoch * self.updates
        return steps if self.recipe.schedule.max_steps is None else min(steps, self.recipe.schedule.max_steps)

    def _epoch(self) -> None:
        """Train for one epoch, validate, log, and save."""
        self.data.train.set_epoch(self.epoch)
        began = time.perf_counter()
        trained, images = self._train_epoch()
        seconds = time.perf_counter() - began
        self.seconds += seconds
        self.epoch += 1
        score = self._validate()
        row = {
            "epoch": self.epoch,
            "step": self.steps,
            "lr": self.optimizer.param_groups[0]["lr"],
            "balance": getattr(self.method, "current_balance", 0.0),
            **trained,
            "validation_top1": score.top1,
            "validation_loss": score.loss,
            "images_per_second": images / seconds,
            "train_seconds": self.seconds,
        }
        self._check_learning(trained["main_ce"], score.top1)
        self._check_parameters()
        best = score.top1 >= self.best
        self.best = max(self.best, score.top1)
        if self.chief:
            self.metrics.add(row)
            self.fabric.log_dict({key: value for key, value in row.items() if key != "step"}, step=row["step"])
            if best:
                self._save(files.BEST)
            self._save(files.LAST)
        self.fabric.barrier()
        self.progress.epoch_done(self.epoch, trained["loss"], score.top1, row["images_per_second"])

    def _train_epoch(self) -> tuple[dict[str, float], int]:
        """One pass over the training images: the means of what was trained on, and the number of images.

        Sums stay on the device and are looked at now and then only.
        """
        settings = self.recipe.training
        self.method.train()
        keep_frozen(self.network.model)
        total = torch.zeros(5, device=self.fabric.device, dtype=torch.float32)
        images = 0
        steps = len(self.data.train)
        if self.recipe.schedule.max_steps is not None:
            left = self.recipe.schedule.max_steps - self.epoch * self.updates
            steps = min(steps, left * settings.accumulate)
        batches = parts(self.data.train, steps, settings.accumulate, by_tokens=self.data.is_text)
        for number, (x, y, share, last_of_update) in enumerate(batches, start=1):
            terms = self._step(x, y, scale=share, sync=last_of_update)
            if last_of_update:
                if self.recipe.optimizer.clip_norm is not None:
                    self.fabric.clip_gradients(
                        self.wrapped, self.wrapped_optimizer, max_norm=self.recipe.optimizer.clip_norm
                    )
                self.wrapped_optimizer.step()
                self.wrapped_optimizer.zero_grad(set_to_none=True)
                self.scheduler.step()
            with torch.no_grad():
                total += torch.stack(
                    [
                        terms.loss.float(),
                        terms.main_ce.float(),
                        terms.subnet_kl.float(),
                        terms.auxiliary.float(),
                        hits(terms.logits, y) / samples_in(y),
                    ]
                )
            images += len(y)
            if number % settings.log_every == 0 or number == steps:
                self._check_finite(total, number)
                self.progress.steps_done(number % settings.log_every or settings.log_every)
        reduced: Any = self.fabric.all_reduce(total / steps, reduce_op="mean")
        loss, main_ce, subnet_kl, auxiliary, top1 = reduced.tolist()
        means = {
            "loss": loss,
            "main_ce": main_ce,
            "subnet_kl": subnet_kl,
            "auxiliary": auxiliary,
            "train_top1": 100 * top1,
        }
        return means, images * self.fabric.world_size

    def _step(self, x: Any, y: Tensor, *, scale: float, sync: bool) -> Terms:
        if self.layout is torch.channels_last and isinstance(x, Tensor):
            x = x.contiguous(memory_format=self.layout)
        if self.recipe.method.settings.get("schedule") == "lean":
            x = in_format(x, next(self.method.parameters()).dtype)
            with self.fabric.autocast():
                return self.method.backward(x, y, scale=scale, backward=self.fabric.backward)
        # Fabric's wrapper sees to precision, and on several devices to synchronising gradients
        with self.fabric.no_backward_sync(self.wrapped, enabled=not sync and self.fabric.world_size > 1):
            terms = self.wrapped(x, y)
            self.fabric.backward(terms.loss * scale)
        terms.loss = terms.loss.detach()
        return terms

    def _validate(self) -> Score:
        with self.method.as_deployed():
            statistics = self._main_statistics() if self.method.pollutes_statistics else None
            temperatures = self._temperatures(statistics)
            return measure(self.network, self.data.validation, statistics=statistics, temperatures=temperatures)[0]

    def _temperatures(self, statistics: Statistics | None = None) -> list[float] | None:
        """The main net's temperature on the validation part, for a method whose logits have no scale."""
        if not self.method.calibrates:
            return None
        return fit_temperatures(self.network, self.data.validation, statistics=statistics)

    def _main_statistics(self) -> Statistics:
        images = self.recipe.evaluation.calibration_images
        return self.network.recalibrate(
            in_precision_of(self.network, self.data.calibration), [self.network.full], images=images
        )

    def _finish(self) -> dict[str, Any]:
        """Write the trained model and the summary: the one time that the test split is read."""
        peak = self.memory.mib()
        self.method.deploy()
        if layers_with_statistics(self.network.model):
            self.network.load_statistics(self._main_statistics())
        temperatures = self._temperatures()
        score = measure(self.network, self.data.test, temperatures=temperatures)[0]
        calibration = {} if temperatures is None else {"temperature": temperatures[0]}
        weights = {} if self.prepared.origin is None else {"weights": self.prepared.origin.to_mapping()}
        summary = {
            "method": self.recipe.method.name,
            "model": self.recipe.model.name,
            "data": self.data.name,
            "seed": self.recipe.seed,
            "epochs": self.epochs,
            "steps": self.steps,
            "train_seconds": round(self.seconds, 3),
            "peak_memory_mib": round(peak, 1),
            "parameters": sum(parameter.numel() for parameter in self.network.model.parameters()),
            "main": {**score.to_mapping(), **calibration},
            "subnets": {
                "count": self.network.space.count,
                "evaluated": 0,
                "mean": None,
                "std": None,
                "min": None,
                "max": None,
            },
            "device": device_name(self.fabric.device),
            "versions": versions(),
            **weights,
        }
        if self.chief:
            files.save_model(self.network.model, self.out / files.MODEL)
            files.write_json(self.out / files.SUMMARY, summary)
        self.fabric.barrier()
        return summary

    def _save(self, name: str) -> None:
        state = {
            "method": self.method.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "random": random_states(),
            "epoch": self.epoch,
            "step": self.steps,
            "best": self.best,
            "seconds": self.seconds,
        }
        if self.prepared.origin is not None:
            state["weights"] = self.prepared.origin.to_mapping()
        save_checkpoint(self.out / name, state)

    def _restore(self, state: dict[str, Any]) -> None:
        try:
            self.method.load_state_dict(state["method"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.scheduler.load_state_dict(state["scheduler"])
        except (RuntimeError, ValueError, KeyError) as error:
            raise UsageError(f"{self.out / files.LAST} does not fit the recipe of its run: {error}") from error
        restore_random_states(state["random"])
        self.epoch, self.best, self.seconds = state["epoch"], state["best"], state["seconds"]

    def _check_finite(self, total: Tensor, step: int) -> None:
        if not bool(torch.isfinite(total).all()):
            raise Diverged(
                f"the loss is no longer a finite number, in epoch {self.epoch + 1} at step {step} or shortly before; "
                f"{self.out / files.LAST} is from before, after epoch {self.epoch}. Try a lower optimizer.lr, a longer "
                "schedule.warmup_epochs, optimizer.clip_norm 1.0, or a lower method.balance"
            )

    def _check_parameters(self) -> None:
        finite = [torch.isfinite(parameter).all() for parameter in self.method.parameters()]
        if not bool(torch.stack(finite).all()):
            raise Diverged(
                f"a parameter is no longer a finite number after epoch {self.epoch}; {self.out / files.LAST} is from "
                "before. Try a lower optimizer.lr, optimizer.clip_norm 1.0, or a lower method.balance"
            )

    def _check_learning(self, main_ce: float, top1: float) -> None:
        chance = self.data.chance
        late = self.epoch > max(1.0, self.recipe.schedule.warmup_epochs)
        if late and not self.warned and main_ce >= 0.98 * chance.loss and top1 < 1.5 * chance.top1:
            self.warned = True
            text, count = self.data.is_text, self.data.classes
            what = "not below that of guessing by frequency alone," if text else f"about ln({count}) ="
            balanced = "balance" in self.recipe.method.settings
            warnings.warn(
                f"after epoch {self.epoch} the training loss is still {main_ce:.3f}, {what} "
                f"{chance.loss:.3f}, and the validation accuracy {top1:.1f} %: the net does no better than chance. Try "
                "another optimizer.lr (ten times lower, or higher if it is tiny)"
                + (
                    ", a lower method.balance or a longer method.balance_ramp: a large balance early on makes main net "
                    "and subnets agree on nothing"
                    if balanced
                    else ""
                ),
                stacklevel=2,
            )


def _check_directory(recipe: Recipe, out: Path, *, resume: bool) -> dict[str, Any] | None:
    """Make sure that a run may be written to a directory; the summary, if a run there has finished."""
    stored = out / files.RECIPE
    if not stored.exists():
        files.make_directory(out)
        return None
    if not resume:
        raise UsageError(
            f"{out} holds a run already: go on with it (--resume), remove it, or choose another directory with --out"
        )
    if not (out / files.LAST).exists():
        raise UsageError(
            f"the run in {out} has lost its {files.LAST} and cannot go on: remove the directory, or choose another one "
            "with --out, to start again"
        )
    before = load_recipe(stored)
    if before != recipe:
        old, new = _flat(before.to_mapping()), _flat(recipe.to_mapping())
        changed = [
            f"{key}: {old.get(key)!r} then, {new.get(key)!r} now"
            for key in sorted(old.keys() | new.keys())
            if old.get(key) != new.get(key)
        ]
        raise UsageError(
            f"the run in {out} was started with another recipe and cannot go on with this one ({'; '.join(changed)}). "
            f"Resume it with its own: stimulative train {stored} --out {out} --resume"
        )
    files.make_directory(out)
    done = out / files.SUMMARY
    return files.read_json(done) if done.exists() else None


def _flat(mapping: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in mapping.items():
        if isinstance(value, dict) and value:
            flat.update(_flat(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat
