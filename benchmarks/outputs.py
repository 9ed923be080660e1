"""What the commands write, in a form that two versions of the library can be compared by.

Trains small nets through the command line alone, one thread, and prints a hash of the weights of each run, every key of
every JSON file by its path, and the header of every CSV file. Two versions that behave alike print the same on one
machine (times, and whatever else differs between runs of one version, are values and not printed):

    python benchmarks/outputs.py > after.txt
    PYTHONPATH=OLD/src python benchmarks/outputs.py > before.txt
    diff before.txt after.txt
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

RUNS = {
    "common": "train digits --method.name common --schedule.epochs 3",
    "stimulative": "train digits --method.name stimulative --schedule.epochs 3",
    "group_knowledge": "train digits --method.name group_knowledge --schedule.epochs 3",
    "vit": "train digits-vit --schedule.epochs 3 --schedule.warmup_epochs 1",
    "text": "train text-gpt2-tiny --schedule.epochs 2 --schedule.warmup_epochs 0.5",
}
QUICK = "--schedule.epochs 1 --model.arguments {width: 4}"
STUDIES = {
    "comparison": f"compare digits --methods common,stimulative:every=2 --seeds 2 {QUICK}",
    "loafing": f"loafing digits --main 2-2-2 --subnets 2 {QUICK}",
    "matrix": f"matrix digits --nets 1-1-1 2-2-2 {QUICK}",
    "sweep": f"sweep digits --key method.balance --values 0.5,1 --seeds 2 {QUICK}",
}
AFTERWARDS = [
    *(f"evaluate {{out}}/{name} --no-latency" for name in RUNS),
    "evaluate {out}/common --latency-batch 2",
    "destroy {out}/common {out}/stimulative --draws 2 --images 100 --out {out}/destruction",
    "choose {out}/stimulative --max-flops 1G",
    "pack {out}/stimulative --subnets 3-3-3,1-1-1",
    "export {out}/stimulative --subnet 2-1-2 --format safetensors",
    "report {out}/comparison {out}/destruction --out {out}/report",
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="where the runs go (default: a folder that is removed)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        out = options.out or Path(temporary)
        for name, words in (RUNS | STUDIES).items():
            _command([*_words(words), "--out", str(out / name)])
        for words in AFTERWARDS:
            _command([word.format(out=out) for word in words.split()])
        for line in _lines(out):
            print(line)


def _words(text: str) -> list[str]:
    words, _, last = text.partition(" --model.arguments ")
    return [*words.split(), *(["--model.arguments", last] if last else [])]


def _command(words: list[str]) -> None:
    print("stimulative", *words, file=sys.stderr, flush=True)
    environment = os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-m", "stimulative", *words], env=environment, check=True, stdout=sys.stderr)


def _lines(out: Path) -> Iterator[str]:
    for path in sorted(out.rglob("*")):
        name = path.relative_to(out)
        if path.name == "model.safetensors" or path.name == "family.safetensors":
            yield f"{name}: {_hash_of_weights(path)}"
        elif path.suffix == ".json" and name.parts[:2] != ("destruction", "parts"):
            for key in sorted(set(_keys(json.loads(path.read_text(encoding="utf-8"))))):
                yield f"{name}: {key}"
        elif path.suffix == ".csv":
            with path.open(encoding="utf-8", newline="") as file:
                yield f"{name}: {','.join(next(csv.reader(file)))}"


def _hash_of_weights(path: Path) -> str:
    from safetensors.numpy import load_file

    digest = hashlib.sha256()
    for name, value in sorted(load_file(path).items()):
        digest.update(f"{name} {value.dtype} {value.shape}".encode())
        digest.update(value.tobytes())
    return digest.hexdigest()


def _keys(value: Any, path: str = "") -> Iterator[str]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield f"{path}.{key}"
            yield from _keys(inner, f"{path}.{key}")
    elif isinstance(value, list):
        for inner in value:
            yield from _keys(inner, f"{path}[]")


if __name__ == "__main__":
    main()
