"""Files that are damaged, cut or gone, and commands that read them."""

import json
import random
import re
import shutil
from pathlib import Path

from faults.command import Command, Faulty, done, placed
from faults.kept import METHODS, Kept
from faults.results import same_measured, same_page, same_tensors, same_training
from stimulative.runs import MODEL, RECIPE, SUMMARY

COMMANDS = (
    "evaluate RUN --no-latency",
    "export RUN --subnet 2-1-3 --format safetensors --out OUT.safetensors",
    "pack RUN --subnets 3-3-3 1-1-1 --out OUT.safetensors",
    "report RUN --out OUT",
    "train RUN/recipe.yaml --out RUN --resume",
    "verify RUN",
    "choose RUN --max-params 5k --out OUT --json",
)


class Damaged:
    """One file of a run is damaged. A command refuses it by name, or comes to the same as with the whole one.

    Args:
        kept: The runs that are copied, and what results are compared with.
        finished: Whether the run has finished; else it was stopped in its second epoch.
        gone: Whether files are taken away, or cut short; else a bit of them is another.
    """

    def __init__(self, kept: Kept, *, finished: bool, gone: bool) -> None:
        self.kept, self.finished, self.gone = kept, finished, gone
        self.right: dict[str, tuple[Path, str]] = {}

    def once(self, draw: random.Random, place: Path) -> tuple[str, str]:
        base = self.kept.measured if self.finished else self._stopped()
        run = shutil.copytree(base, place / "run")
        words = draw.choice(COMMANDS) if self.finished else COMMANDS[4]
        files = [path for path in sorted(run.iterdir()) if path.is_file() and not path.name.startswith(".lock")]
        file = draw.choice(files)
        what = self._spoil(file, draw)
        text = f"{file.name} {what}: {words}"
        ended = Command(placed(words, run, place)).wait()
        if words.startswith("verify"):
            seen = ended.status == 1 and re.search(rf"^{re.escape(file.name)} +(damaged|missing)", ended.out, re.M)
            spoiled = not self.gone or file.name in (MODEL, RECIPE, SUMMARY)
            if not seen and spoiled and file.name not in ("checksums.json", "authorship.json"):
                raise Faulty("wrong", f"{text}: it was not seen\n{ended.out}{ended.err}")
            return text, "refused" if ended.status else "as without"
        # of a damaged list of checksums nobody can tell whether it is wrong, or the file that it speaks of
        told = ("checksum" if file.name == "checksums.json" else file.name) in ended.err
        if ended.status and not (ended.refused and told):
            raise Faulty("lost", f"{text}: status {ended.status}: {ended.err}")
        if not ended.status and not (told and file.name == RECIPE):  # which is told to be read as it is now
            self._compare(words, place, ended.out, text)
        return text, "refused" if told else "as without"

    def _spoil(self, file: Path, draw: random.Random) -> str:
        data = bytearray(file.read_bytes())
        if self.gone and draw.random() < 0.5:
            file.unlink()
            return "is gone"
        if self.gone:
            end = draw.randrange(len(data))
            file.write_bytes(data[:end])
            return f"ends after {end} of {len(data)} bytes"
        at, bit = draw.randrange(len(data)), draw.randrange(8)
        data[at] ^= 1 << bit
        file.write_bytes(data)
        return f"has another bit {bit} in byte {at}"

    def _stopped(self) -> Path:
        """A run whose model and summary are not there yet, and that has all its checkpoints."""
        stopped = self.kept.place / "kept-stopped"
        if not stopped.exists():
            shutil.copytree(self.kept.trained(METHODS[1])[0], stopped)
            sums = json.loads((stopped / "checksums.json").read_text())
            for name in (MODEL, SUMMARY):
                (stopped / name).unlink()
                sums.pop(name)
            (stopped / "checksums.json").write_text(json.dumps(sums))
        return stopped

    def _compare(self, words: str, place: Path, printed: str, text: str) -> None:
        if words not in self.right:
            right = self.kept.place / f"right-{words.split()[0]}-{self.finished}-{self.gone}"
            run = shutil.copytree(self.kept.measured if self.finished else self._stopped(), right / "run")
            self.right[words] = right, done(placed(words, run, right)).out
        right, said = self.right[words]
        try:
            if words.startswith("train"):
                same_training(place / "run", right / "run")
            if words.startswith("evaluate"):
                same_measured(place / "run", right / "run")
            for file in right.glob("out*.safetensors"):
                same_tensors(place / file.name, file)
            if (right / "out").exists():
                same_page(place / "out", right / "out")
        except Faulty as error:
            raise Faulty(error.end, f"{text}: {error}") from error
        if words.startswith("choose") and json.loads(printed)["subnet"] != json.loads(said)["subnet"]:
            raise Faulty("wrong", f"{text}: another subnet is chosen")
