"""Words of the command line."""

import os
import random
import shlex
from pathlib import Path

from fuzz.changing import PIECES, STRANGE, changed_text
from fuzz.judging import Wrong, told
from fuzz.kinds import Input
from fuzz.small_run import small_run, without_work
from stimulative.cli import main
from stimulative.errors import UsageError
from stimulative.naming import printable

COMMANDS = """
unravel cifar/resnet20 --classes 10 --image-size 8 --json
init --model cifar/resnet20 --data digits --out r.yaml --force --model.arguments '{width: 1}'
train digits --out new --model.arguments '{width: 1}' --data.batch_size 256 --schedule.epochs 2 --dry-run
train digits --out new --method.name stimulative --method.balance 2 --max-steps 3
train --from run --schedule.epochs 1 --out tuned
train run/recipe.yaml --out run --resume
evaluate run --subnets 3 --space ordered --no-latency --seed 1 --calibration auto --latency-batch 2
evaluate --model cifar/resnet20 --weights run/model.safetensors --data digits --model.arguments '{width: 1}' --out of
compare digits --out study --methods common,stimulative --seeds 2 --jobs 2 --model.arguments '{width: 1}'
compare digits --out study --methods common --cluster local --cluster-option timeout_min=60
loafing digits --main 2-2-2 3-3-3 --subnets 2 --out loafing --methods common --seeds 1
sweep digits --out sweep --key method.balance --values 1,2 --method.name stimulative
matrix digits-densenet --out matrix --method common --nets 2-4-4 2-8-8
destroy run --out destroyed --draws 2 --images 10
report run --out page --title A
choose run --max-flops 90k --threads 1 --out chosen
pack run --subnets 3-3-3,1-1-1 --out f.safetensors --force --json
export run --subnet 2-1-3 --format torch --out e.pt2 --normalise --force
verify run --no-data --json
rerun run --out again --json
doctor --json
""".strip().splitlines()
OPTIONS = sorted({word for line in COMMANDS for word in line.split() if word.startswith("--")})
VALUES = [
    *(str(value) for value in STRANGE if str(value) != "\0"),
    *(
        "run",
        "run/model.safetensors",
        "run/recipe.yaml",
        "digits",
        "folder:run",
        "text:run",
        "folder:missing",
        "all",
        "frontier",
    ),
    *(
        "cifar/resnet20",
        "timm/nothing",
        "torchvision/resnet18:x",
        "transformers/x",
        "mine:net",
        "json:loads",
        "imagenet",
    ),
    *("99999999999-1-1", "{a: 1}", "{a: [", "[common]", "null", "run#x", "run/", ".", "..", "/", "/proc/self/mem"),
]


class Words:
    """Of the commands, most of them with a value, an option or a word changed."""

    def __init__(self, place: Path) -> None:
        self.run = small_run(place)
        os.chdir(place)

    def input(self, draw: random.Random) -> Input:
        words = shlex.split(draw.choice(COMMANDS))
        for _ in range(draw.choice([1, 1, 1, 2, 3])):
            at = 0 if draw.random() < 0.03 else draw.randrange(1, max(2, len(words)))  # seldom the command itself
            values = [place for place in range(1, len(words)) if not words[place].startswith("--")]
            how = draw.random()
            if how < 0.5 and values:
                at = draw.choice(values)
                words[at] = self._value(draw, words[at])
            elif how < 0.6:
                del words[at : at + 1]
            elif how < 0.65:
                words.insert(at, draw.choice(words or ["x"]))
            elif how < 0.85:
                words[at:at] = [draw.choice(OPTIONS), self._value(draw, "1")]
            else:
                words.insert(at, draw.choice([draw.choice(OPTIONS), self._value(draw, "x"), "--", "-", "--x.y", "-h"]))
        words = [word.encode("utf-8", "replace").decode() for word in words]
        return f"stimulative {shlex.join(words)!r:.400}", lambda: self._command(words)

    @staticmethod
    def _value(draw: random.Random, word: str) -> str:
        how = draw.random()
        if how < 0.6:
            return draw.choice(VALUES)
        return changed_text(word, draw) if how < 0.85 else draw.choice(PIECES)

    def _command(self, words: list[str]) -> None:
        with told() as said, without_work():
            try:
                status = main(words)
            except SystemExit as end:
                status = end.code
            except BaseException:
                _check(said())
                raise
        _check(said())
        if status not in (0, 1, 2):
            raise Wrong(f"exit status {status}")
        if status:
            raise UsageError(said())


def _check(said: str) -> None:
    """Nothing that is printed gives a terminal orders, or is a traceback."""
    raw = said.replace("\r", "").replace("\x1b[?25l", "").replace("\x1b[?25h", "")
    if printable(raw) != raw:
        raise Wrong(f"raw control characters are printed: {raw!r:.500}")
    if "Traceback" in raw:
        raise Wrong(f"a traceback is printed: {raw}")
