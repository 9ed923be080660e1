"""Disks that are full or read-only."""

import ctypes
import os
import random
import re
import shutil
import signal
import tempfile
from pathlib import Path

from faults.command import Command, Faulty, done, placed
from faults.kept import METHODS, TINY, Kept
from faults.results import check_whole, same_measured, same_training
from stimulative.runs import RECIPE, RunDirectory

_NEW_MOUNTS, _READ_ONLY, _REMOUNT, _BIND, _RECURSIVE, _PRIVATE = 0x20000, 1, 32, 4096, 16384, 1 << 18
COMMANDS = (
    "evaluate RUN --no-latency",
    "export RUN --subnet 2-1-3 --format safetensors",
    "export RUN --subnet 1-1-1 --format torch",
    "pack RUN --subnets 3-3-3 1-1-1",
    "report RUN",
    "choose RUN --max-params 5k",
)


class FullDisk:
    """A command runs on a disk that is full somewhere within; with more room it does what it had to.

    Where this process may mount, the disk is a small tmpfs, elsewhere files have a greatest size.

    Args:
        kept: The runs that are copied, and what results are compared with.
    """

    def __init__(self, kept: Kept) -> None:
        self.kept = kept
        self.mounts = may_mount()

    def once(self, draw: random.Random, place: Path) -> tuple[str, str]:
        trains = draw.random() < 0.4
        settings = draw.choice(METHODS)
        words = f"train digits --out RUN {TINY} {settings}" if trains else draw.choice(COMMANDS)
        disk = place / "disk"
        disk.mkdir()
        if self.mounts:
            _mount("tmpfs", disk, "tmpfs", 0, "size=64m")
        try:
            run = disk / "run"
            if trains:
                self.kept.trained(settings)
            else:
                shutil.copytree(self.kept.measured, run)
            ended, room = self._without_room(disk, words.replace("RUN", str(run)), draw)
            text = f"{words}: {room}"
            self._check(ended, text)
            if self.mounts:
                _mount("tmpfs", disk, "tmpfs", _REMOUNT, "size=64m")
            if ended.status and trains:
                again = f"train {run / RECIPE} --out {run} --resume" if RunDirectory(run).started else words
                done(again.replace("RUN", str(run)))
            elif ended.status:
                done(f"{words}{' --force' * (' --subnet' in words)}".replace("RUN", str(run)))
            same_training(run, self.kept.trained(settings)[0] if trains else self.kept.measured)
            if not trains:
                same_measured(run, self.kept.measured)
            check_whole(run)
        finally:
            if self.mounts:
                _libc().umount2(os.fsencode(disk), 2)
        return text, "refused" if ended.status else "as without"

    def _without_room(self, disk: Path, words: str, draw: random.Random):
        if self.mounts:
            now = os.statvfs(disk)
            room = (now.f_blocks - now.f_bfree) * now.f_frsize + draw.choice([1, 4, 16, 64, 128, 256]) * 4096
            _mount("tmpfs", disk, "tmpfs", _REMOUNT, f"size={room}")
            return Command(words).wait(), f"a disk of {room} bytes"
        size = draw.choice([100, 1_000, 10_000, 30_000, 100_000])
        return Command(words, lambda: _limit_files(size)).wait(), f"files of {size} bytes at most"

    @staticmethod
    def _check(ended, text: str) -> None:
        if ended.status and not (ended.refused and re.search("cannot write|No space|room|File too large", ended.err)):
            raise Faulty("lost", f"{text}: status {ended.status}: {ended.err}")


class ReadOnly:
    """A command on a run that cannot be written to is refused, or works with what it may read; nothing changes.

    Args:
        kept: The run that is copied.
    """

    def __init__(self, kept: Kept) -> None:
        self.kept = kept
        self.mounts = may_mount()

    def once(self, draw: random.Random, place: Path) -> tuple[str, str]:
        more = "train RUN/recipe.yaml --out RUN --resume", "verify RUN", "report RUN --out OUT"
        words = draw.choice([*COMMANDS, *more])
        run = shutil.copytree(self.kept.measured, place / "run")
        if self.mounts:
            _mount(str(run), run, "", _BIND, "")
            _mount(str(run), run, "", _BIND | _REMOUNT | _READ_ONLY, "")
        else:
            run.chmod(0o500)
        try:
            ended = Command(placed(words, run, place)).wait()
        finally:
            if self.mounts:
                _libc().umount2(os.fsencode(run), 2)
            else:
                run.chmod(0o700)
        if ended.status and not (ended.refused and "cannot write" in ended.err):
            raise Faulty("lost", f"{words}: status {ended.status}: {ended.err}")
        same_training(run, self.kept.measured)
        same_measured(run, self.kept.measured)
        return words, "refused" if ended.status else "as without"


def may_mount() -> bool:
    """Let this process have mounts of its own; whether it may."""
    if os.geteuid() != 0 or _libc().unshare(_NEW_MOUNTS) != 0:
        return False
    with tempfile.TemporaryDirectory() as place:
        try:
            _mount("none", Path("/"), "", _RECURSIVE | _PRIVATE, "")
            _mount("tmpfs", Path(place), "tmpfs", 0, "size=64k")
        except OSError:
            return False
        _libc().umount2(os.fsencode(place), 2)
    return True


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _mount(source: str, target: Path, kind: str, flags: int, data: str) -> None:
    words = [os.fsencode(source), os.fsencode(target), kind.encode() or None, flags, data.encode() or None]
    if _libc().mount(*words) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), str(target))


def _limit_files(size: int) -> None:
    import resource

    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
