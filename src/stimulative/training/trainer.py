"""The training loop, on Lightning Fabric: from a recipe to a run directory.

The last checkpoint is written after every epoch and holds all state but the batches, which depend on seed and epoch
alone: a run that was stopped at any moment goes on and ends with the same weights as one that never stopped.
"""

from __future__ import annotations

import importlib
import math
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from stimulative.claiming import claimed
from stimulative.config import CalibrationSetting, Recipe
from stimulative.data import Data, TextData, View
from stimulative.errors import UsageError
from stimulative.methods import Terms
from stimulative.ranks import divided
from stimulative.residual import batch_size, keep_frozen, sent
from stimulative.runs import BEST, LAST, Environment, Epoch, Origin, RunDirectory, Summary, rows_of_log
from stimulative.tasks import hits
from stimulative.training.accumulation import CannotRead, StepPart, parts, reading
from stimulative.training.calibration import check_view
from stimulative.training.capturing import Capturing
from stimulative.training.compiling import TellsOfFallbacks, compile_blocks, compiling, sizes_vary
from stimulative.training.devices import assembled, check_method, launched, planned
from stimulative.training.display import TrainingProgress
from stimulative.training.divergence import check_losses, check_parameters
from stimulative.training.events import Callback, Step
from stimulative.training.finishing import finish
from stimulative.training.measuring import in_format, samples_in
from stimulative.training.memory import PeakMemory
from stimulative.training.optimization import optimizer_of, restore_optimizer, schedule_of
from stimulative.training.preparing import prepare
from stimulative.training.randomness import seed_rank
from stimulative.training.resuming import (
    check_same_data,
    check_start,
    check_unchanged,
    newest_checkpoint,
    save_checkpoint,
    what_decides,
)
from stimulative.training.stopping import Stopping, TrainingStopped
from stimulative.training.synchronising import synchronise
from stimulative.training.together import one_voice, running_statistics
from stimulative.training.tuning import tuned
from stimulative.training.under_way import UnderWay, restore_states, states_of_all
from stimulative.training.updating import Update
from stimulative.training.validating import EpochScores, measure_epoch
from stimulative.training.watching import ChanceWarning, Log, Watch
from stimulative.training.whole_passes import WholePasses

_OF_CLASSES = "images", "text"


class Trainer:
    """One run: trains by a recipe into a directory, from where the directory's last checkpoint is.

    Args:
        recipe: The recipe.
        out: The run directory; an unfinished run of this recipe that is there goes on.
        data: Data of your own instead of the recipe's.
        model: A model of your own instead of the recipe's.
        progress: Whether to show progress.
        callbacks: Called while the net trains, after those of every training.
        calibration: Which view of the training images statistics come from in the end, where the recipe leaves it open.

    Attributes:
        recipe: The recipe.
        run_directory: Where the run is written.
        prepared: What the recipe resolves to; ``data``, ``network`` and ``method`` are its.
        fabric: Lightning Fabric, which knows of devices, precision and other processes.
        optimizer: The optimiser.
        epoch: Epochs that are done.
        seconds: How long training has taken so far, without validation.

    Raises:
        UsageError: If something cannot be used.
    """

    def __init__(
        self,
        recipe: Recipe,
        out: str | Path,
        *,
        data: Data | None = None,
        model: nn.Module | None = None,
        progress: bool = True,
        callbacks: Sequence[Callback] = (),
        calibration: View | None = None,
    ) -> None:
        strange = [callback for callback in callbacks if not isinstance(callback, Callback)]
        if strange:
            raise UsageError(f"callbacks= are instances of stimulative.training.Callback, got {strange[0]!r}")
        if check_start(recipe, RunDirectory(Path(out)), resume=True) is not None:
            raise UsageError(f"the run in {out} has finished; choose another directory with out= to train again")
        self.recipe = recipe
        self.run_directory = RunDirectory(Path(out))
        saved = newest_checkpoint(self.run_directory) if self.run_directory.started else None
        if saved is not None:
            check_unchanged(self.run_directory, recipe, saved)
        self.goes_on = saved is not None
        world = planned(recipe)
        own = {"data": data, "model": model, "callbacks": callbacks, "calibration": calibration}
        self.processes = assembled(world, {"recipe": recipe, "out": out, **own})
        self.chief = self.processes.first
        self.visible = progress and self.chief
        self.callbacks = [*callbacks]
        self.epoch, self.best, self.seconds = 0, -1.0, 0.0
        self.under_way: UnderWay | None = None
        self.log_before: str | None = None
        self.stopping = Stopping(tells=self.chief)
        with self.processes.whole(to_the_end=False), one_voice(self.processes):
            self.processes.check_alike(what_decides(recipe, self.run_directory.path, saved))
            self.fabric = launched(recipe, world, self.run_directory.path, saved["step"] if saved else 0)
            with self.processes.agreed():
                self._prepare(data, model, calibration, saved)
            self._set_up()
            self._restore(saved)

    def _prepare(
        self, data: Data | None, model: nn.Module | None, calibration: View | None, saved: Mapping[str, Any] | None
    ) -> None:
        """Open the data, and build the network and the method."""
        recipe = self.recipe
        if recipe.training.threads is not None:
            torch.set_num_threads(recipe.training.threads)
        importlib.import_module("torch._dynamo")  # the first optimiser step would do it, with the clock running
        self.memory = PeakMemory(self.fabric.device)
        self.prepared = prepare(
            recipe,
            device=self.fabric.device,
            data=data,
            model=model,
            rank=self.processes.rank,
            world_size=self.processes.size,
            weights=saved is None,
            origin=Origin.from_mapping(saved["weights"]) if saved and "weights" in saved else None,
            reference=self.run_directory.reference if saved else None,
        )
        self.data, self.network, self.method = self.prepared.data, self.prepared.network, self.prepared.method
        check_method(recipe.training, self.method, self.data.train, self.processes.size)
        if saved is not None:
            check_same_data(self.run_directory, self.data, saved)
        asked = recipe.evaluation.calibration
        self.calibration: CalibrationSetting = calibration if asked == "auto" and calibration is not None else asked
        check_view(self.prepared, self.calibration)

    def _set_up(self) -> None:
        """Lay out and compile the network, and make the optimiser."""
        settings = self.recipe.training
        synchronise(self.network.model, on=True)
        self.layout = torch.channels_last if settings.channels_last else torch.preserve_format
        self.network.to(memory_format=self.layout)
        if settings.compile:
            compile_blocks(self.network, mode=settings.compile_mode, varied=sizes_vary(self.recipe, self.data))
        self.whole_passes = WholePasses(self.recipe, self.network, self.processes.size, tells=self.visible)
        self.capturing = Capturing(self.recipe, self.network, self.fabric.device, self.processes.size)
        self.optimizer = optimizer_of(self.method, self.recipe.optimizer, self.prepared.trunk())
        self.updates = math.ceil(len(self.data.train) / settings.accumulate)
        self.scheduler = schedule_of(self.optimizer, self.recipe.schedule, self.updates)
        self.wrapped, optimizer = self.fabric.setup(self.method, self.optimizer)
        self.update = Update(
            self.fabric, self.wrapped, self.optimizer, optimizer, self.scheduler, self.recipe.optimizer.clip_norm
        )
        self.update.keeps_gradients = self.capturing.wanted
        self.wrapped_in_ddp = bool(getattr(self.fabric.strategy, "wraps", False))
        if self.visible and self.prepared.loaded:
            print(f"{self.run_directory.path.name}: {self.prepared.loaded}", file=sys.stderr, flush=True)

    def run(self) -> Summary:
        """Train the epochs that are left, and finish.

        Raises:
            UsageError: If another process trains in the directory.
            TrainingStopped: If a signal has asked for the end.
        """
        with (
            claimed(self.run_directory.path, "training"),
            self.processes.whole(),
            one_voice(self.processes),
            tuned(self.recipe, self.fabric.device),
            compiling(several=self.method.calls_backward),
        ):
            return self._run()

    def _run(self) -> Summary:
        display = TrainingProgress(
            self.run_directory.path.name,  # of a comparison's runs, all that tells a method from its variants
            self.epochs,
            len(self.data.train),
            start=self.epoch,
            visible=self.visible,
            unit="seq" if isinstance(self.data, TextData) else "img",
        )
        own: list[Callback] = [ChanceWarning(), *([TellsOfFallbacks()] if self.recipe.training.compile else [])]
        if self.chief:
            self.log = Log(self)
            if self.prepared.teacher is not None and not self.goes_on:
                self.run_directory.write_reference(self.prepared.teacher.model)
        if not self.goes_on:
            self._save(LAST)  # before the recipe, so that whatever has a recipe can go on
        if self.chief:
            self.run_directory.write_recipe(self.recipe)
            self.run_directory.write_environment(Environment.of(self.fabric.device, self.recipe.seed))
            own.append(self.log)
        self.callbacks = [*own, Watch(display, self.recipe.training.log_every), *self.callbacks]
        with self.stopping.heard():
            with display:
                while self.epoch < self.epochs:
                    with self.stopping.waiting():
                        self._train_epoch()
                        self._is_to_stop(self.recipe.training.log_every)
                    self.stopping.end()
            with divided(self.processes.division):
                return finish(self)

    @property
    def epochs(self) -> int:
        """Epochs to train; the last one is broken off where ``schedule.max_steps`` says so."""
        schedule = self.recipe.schedule
        if schedule.max_steps is None:
            return schedule.epochs
        return min(schedule.epochs, math.ceil(schedule.max_steps / self.updates))

    @property
    def steps(self) -> int:
        """Optimiser steps that have been taken by the end of the present epoch, or so far."""
        steps = self.epoch * self.updates
        if self.under_way is not None:
            return steps + math.ceil(self.under_way.batches / self.recipe.training.accumulate)
        return steps if self.recipe.schedule.max_steps is None else min(steps, self.recipe.schedule.max_steps)

    def _train_epoch(self) -> None:
        """Train for one epoch, or the rest of it, validate, tell, and save."""
        self.data.train.set_epoch(self.epoch)
        under_way, self.under_way = self.under_way or UnderWay(), None
        under_way.begin_again()
        means = self._train_batches(under_way)
        self.processes.average_buffers(self.method, running_statistics(self.method))
        scores = self._measure_or_stop(under_way)
        score = scores.validation
        self.seconds += under_way.seconds
        self.epoch += 1
        epoch = Epoch(
            epoch=self.epoch,
            step=self.steps,
            lr=self.optimizer.param_groups[0]["lr"],
            balance=self.method.current_balance,
            **means,
            validation_quality=score.quality,
            measure=score.measure,
            validation_loss=score.loss,
            images_per_second=under_way.images * self.processes.size / under_way.seconds,
            train_seconds=self.seconds,
            test_quality=None if scores.test is None else scores.test.quality,
        )
        check_parameters(self.method.parameters(), self.epoch, self.run_directory.file(LAST))
        is_best, self.best = score.quality >= self.best, max(self.best, score.quality)
        for callback in self.callbacks:
            callback.on_epoch(self, epoch)
        for name in (BEST, LAST) if is_best else (LAST,):
            self._save(name)
        self.processes.wait()

    def _train_batches(self, under_way: UnderWay) -> dict[str, float | None]:
        """One pass over the training images, or the rest of it: the means of what was trained on.

        Sums stay on the device and are looked at now and then only.
        """
        settings = self.recipe.training
        self.method.train()
        keep_frozen(self.method)
        total = sent(under_way.sums, self.fabric.device)
        batches, done = len(self.data.train), under_way.batches
        if self.recipe.schedule.max_steps is not None:
            left = self.recipe.schedule.max_steps - self.epoch * self.updates
            batches = min(batches, left * settings.accumulate)
        divided = parts(self.data.train, batches, settings.accumulate, by_tokens=self.data.is_text, done=done)
        under_way.go_on()
        began, number, whole = time.perf_counter(), done, True
        try:
            for number, part in enumerate(reading(divided), start=done + 1):
                terms = self._step(part)
                with torch.no_grad():
                    accuracy = self._accuracy(terms.logits, part.y)
                    sums = (terms.loss, terms.main_ce, terms.subnet_kl, terms.auxiliary, accuracy)
                    total += torch.stack([value.float() for value in sums])
                under_way.images += batch_size(part.x)
                if number % settings.log_every == 0 and number < batches:
                    check_losses(self.processes.mean(total), self.epoch, number, self.run_directory.file(LAST))
                for callback in self.callbacks:
                    callback.on_step(self, Step(self.epoch + 1, number, batches, part, terms))
                whole = part.last
                if whole and number < batches and self._is_to_stop(number):
                    began = under_way.note(number, total, began)
                    self._stop(under_way)
        except CannotRead as error:
            if whole and self.processes.size == 1 and self.stopping.asked_meanwhile():
                under_way.note(number, total, began)
                self._stop(under_way)
            assert error.__cause__ is not None
            raise error.__cause__  # noqa: B904, it has a cause of its own
        under_way.note(number, total, began)  # the one wait for the epoch's end
        means = self.processes.mean(under_way.sums if self.processes.size == 1 else total).cpu()
        check_losses(means, self.epoch, number, self.run_directory.file(LAST))
        names = ("loss", "main_ce", "subnet_kl", "auxiliary")
        *means, accuracy = (means / batches).tolist()
        told = 100 * accuracy if self.data.task in _OF_CLASSES else None
        return {**dict(zip(names, means, strict=True)), "train_quality": told}

    def _is_to_stop(self, number: int) -> bool:
        """Whether training is to end behind a step; several processes agree on that now and then."""
        if self.processes.size == 1:
            return self.stopping.asked is not None
        if number % self.recipe.training.log_every >= self.recipe.training.accumulate:
            return False  # no multiple lies among the batches of the step
        self.stopping.asked = self.processes.greatest(self.stopping.asked or 0) or None
        return self.stopping.asked is not None

    def _stop(self, under_way: UnderWay) -> None:
        """Save what has been done of an epoch, and end the training, unless whoever was asked to goes on."""
        check_parameters(self.method.parameters(), self.epoch + 1, self.run_directory.file(LAST))
        self.processes.average_buffers(self.method, running_statistics(self.method))
        self.under_way = under_way
        self._save(LAST)
        self.under_way = None
        self.processes.wait()
        self.stopping.end()

    def _measure_or_stop(self, under_way: UnderWay) -> EpochScores:
        """The scores of the epoch; what was trained is saved first if measuring is broken off."""
        while True:
            try:
                return measure_epoch(self)
            except TrainingStopped:
                self._stop(under_way)

    def _accuracy(self, outputs: Any, y: Any) -> Tensor:
        """The share of samples that the main net gets right, where it tells classes apart."""
        if self.data.task not in _OF_CLASSES:
            return torch.zeros((), device=self.fabric.device)
        return hits(outputs, y) / samples_in(y)

    def _step(self, part: StepPart) -> Terms:
        """Forward and backward on one batch, and the optimiser's step where the batch ends one."""
        x = in_format(part.x, next(self.method.parameters()).dtype)
        if self.layout is torch.channels_last and isinstance(x, Tensor):
            x = x.contiguous(memory_format=self.layout)
        self.method.numbered = part.numbered if self.processes.size == 1 else None
        with self.capturing.step(x), self.whole_passes.step():
            terms = self._gone_back(x, part)
        if part.last:
            if not self.wrapped_in_ddp:
                self.processes.average_gradients(self.method.parameters())
            self.update.take()
        return terms

    def _gone_back(self, x: Any, part: StepPart) -> Terms:
        """The terms of a batch, with gradients added."""
        if self.method.calls_backward:
            with self.fabric.autocast():
                backward = self.update.backward
                return self._checked(self.method.backward(x, part.y, scale=part.share, backward=backward))
        # Fabric's wrapper sees to precision, and on several devices to synchronising gradients
        with self.fabric.no_backward_sync(self.wrapped, enabled=not part.last and self.wrapped_in_ddp):
            terms = self._checked(self.wrapped(x, part.y))
            self.fabric.backward(terms.loss * part.share)
        terms.loss = terms.loss.detach()
        return terms

    def _checked(self, terms: Any) -> Terms:
        if not isinstance(terms, Terms):
            raise UsageError(
                f"method {self.recipe.method.name!r} gave {type(terms).__name__} for a batch, and has to give "
                "stimulative.methods.Terms"
            )
        return terms

    def _save(self, name: str) -> None:
        """Write a checkpoint, which all processes have a part in."""
        saved = states_of_all(self.processes, self.under_way)
        if not self.chief:
            return
        state = {
            **saved,
            "method": self.method.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "epoch": self.epoch,
            "step": self.steps,
            "best": self.best,
            "seconds": self.seconds,
            "recipe": self.recipe.to_mapping(),
            "data": dict(self.data.fingerprint),
            "log": self.log.file.text,
            **(self.update.state() | self.whole_passes.state()),
        }
        if self.prepared.origin is not None:
            state["weights"] = self.prepared.origin.to_mapping()
        save_checkpoint(self.run_directory, name, state)
        for callback in self.callbacks:
            callback.on_checkpoint(self, self.run_directory.file(name))

    def _restore(self, state: Mapping[str, Any] | None) -> None:
        """Go on from a checkpoint; each process with random states of its own."""
        if state is None:
            seed_rank(self.recipe.seed, self.processes.rank, 0)
            return
        try:
            self.method.load_state_dict(state["method"])
            restore_optimizer(self.optimizer, state["optimizer"])
            self.scheduler.load_state_dict(state["scheduler"])
            self.update.restore(state)
            self.whole_passes.restore(state)
            self.under_way = restore_states(self.processes, state, self.recipe.seed)
            self.epoch, self.best, self.seconds = int(state["epoch"]), float(state["best"]), float(state["seconds"])
            if (log := state.get("log")) is not None:
                rows_of_log(log)
                self.log_before = log
        except (RuntimeError, ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
            raise UsageError(
                f"the checkpoint in {self.run_directory.path} does not fit the recipe of its run: {error}"
            ) from error
