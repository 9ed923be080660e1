"""Checkpoints whose contents or bytes were changed, and runs that are to go on from them."""

import contextlib
import random
import shutil
from pathlib import Path
from typing import Any

import torch

from fuzz.changing import STRANGE, changed_bytes
from fuzz.judging import Begun
from fuzz.kinds import Input
from fuzz.small_run import TINY, without_work
from stimulative.runs import BEST, LAST, PREVIOUS, SUMMARY
from stimulative.training import Callback, load_recipe, train


class Stop(Callback):
    """Ends a training behind its first epoch."""

    def on_checkpoint(self, trainer: Any, path: Path) -> None:
        if trainer.epoch == 1 and path.name == LAST:
            raise Begun


class Checkpoints:
    """Of a run that was stopped behind its first epoch; without checksums beside it, as of an older version."""

    def __init__(self, place: Path) -> None:
        self.recipe, self.run = load_recipe("digits", TINY), place / "run"
        with contextlib.suppress(Begun):
            train(self.recipe, self.run, progress=False, callbacks=[Stop()])
        assert not (self.run / SUMMARY).exists()
        for name in ("checksums.json", PREVIOUS, BEST):
            (self.run / name).unlink(missing_ok=True)
        self.kept = place / "kept"
        shutil.copytree(self.run, self.kept)
        self.file = self.run / LAST
        self.content = self.file.read_bytes()

    def input(self, draw: random.Random) -> Input:
        if draw.random() < 0.4:
            content = changed_bytes(self.content, draw)
            return "a checkpoint with other bytes", lambda: self._resume(content)
        state = torch.load(self.kept / LAST, weights_only=False)
        self._change(state, draw)
        return "a checkpoint with other contents", lambda: self._resume(state)

    def _change(self, state: Any, draw: random.Random) -> None:
        for _ in range(draw.choice([1, 1, 2])):
            owner = state
            while True:
                key = draw.choice(list(owner) if isinstance(owner, dict) else range(len(owner)))
                if not isinstance(owner[key], dict | list) or not owner[key] or draw.random() < 0.3:
                    break
                owner = owner[key]
            if draw.random() < 0.7 or isinstance(owner, list):
                owner[key] = draw.choice([*STRANGE, torch.zeros(3), torch.zeros(0, dtype=torch.uint8)])
            else:
                del owner[key]

    def _resume(self, content: Any) -> None:
        shutil.rmtree(self.run)
        shutil.copytree(self.kept, self.run)
        if isinstance(content, bytes):
            self.file.write_bytes(content)
        else:
            torch.save(content, self.file)
        with without_work():
            train(self.recipe, self.run, progress=False, resume=True)
