"""``python -m fuzz``: try all inputs, print what came of them."""

import argparse
import json
import platform
import random
import re
import sys
import tempfile
from pathlib import Path

import torch

from fuzz.judging import ENDS, SECONDS, judge
from fuzz.kinds import kinds
from fuzz.lanes import Tried, tried

FINE = "taken", "refused"
SLOW = 1.0


def main() -> int:
    """Run what is asked for; 1 if anything is wrong with what came of it."""
    parser = argparse.ArgumentParser(prog="python -m fuzz", description=__doc__)
    parser.add_argument("--seed", type=int, default=0, help="another seed draws other inputs (default: 0)")
    parser.add_argument("--share", type=float, default=1.0, help="of the inputs of each kind, this share (default: 1)")
    parser.add_argument("--only", action="append", help="a kind; may stand several times (default: all)")
    parser.add_argument("--number", type=int, help="one input of the kind, in this process, shown whole")
    parser.add_argument("--lanes", type=int, default=2, help="processes at once (default: 2)")
    parser.add_argument("--json", type=Path, help="where to write the figures, too")
    options = parser.parse_args()
    chosen = {name: kind for name, kind in kinds().items() if name in (options.only or kinds())}
    if options.number is not None:
        (name,) = chosen
        return _one(name, options.number, options.seed)
    counts = {name: max(1, round(count * options.share)) for name, (_, count) in chosen.items()}
    rows, faulty = [], []
    for name, count in counts.items():
        found = tried(name, count, options.seed, options.lanes)
        rows.append(row(name, found))
        faulty += [one for one in found if one.end not in FINE]
        print(_line(rows[-1]) if len(rows) > 1 else f"{_head()}\n{_line(rows[-1])}", flush=True)
    total = {key: sum(one[key] for one in rows) for key in ("inputs", *ENDS, "slow")}
    print(_line({"kind": "together", **total, "slowest": max(one["slowest"] for one in rows)}))
    alike: dict[str, list[Tried]] = {}
    for one in faulty:
        alike.setdefault(_where(one), []).append(one)
    for group in alike.values():
        one = group[0]
        again = f"python -m fuzz --only {one.kind!r} --number {one.number} --seed {options.seed}"
        print(f"\n{one.end}, {len(group)} times: {again}")
        print(f"{one.text:.300}\n{one.details[-1500:]}")
    if options.json:
        _write(options.json, options.seed, rows)
    return 1 if faulty else 0


def row(name: str, found: list[Tried]) -> dict:
    """The figures of a kind."""
    ends = {end: sum(one.end == end for one in found) for end in ENDS}
    slow = sum(one.seconds > SLOW for one in found if one.end == "refused")
    return {"kind": name, "inputs": len(found), **ends, "slow": slow, "slowest": max(one.seconds for one in found)}


def _one(name: str, number: int, seed: int) -> int:
    with tempfile.TemporaryDirectory() as place:
        text, do = kinds()[name][0](Path(place)).input(random.Random(f"{name} {seed} {number}"))
        print(text)
        outcome = judge(do)
    print(f"{outcome.end}, {outcome.seconds:.2f} s\n{outcome.details}")
    return 0 if outcome.end in FINE else 1


def _where(one: Tried) -> str:
    """What is the same of inputs that fail alike: the end, and the last line of ours in the traceback."""
    ours = re.findall(r'File ".*/stimulative/(.*", line \d+)', one.details)
    return f"{one.kind} {one.end} {ours[-1] if ours else one.details[:80]}"


COLUMNS = {"inputs": 8, "taken": 8, "refused": 9, "traceback": 11, "hang": 6, "wrong": 7, "slow": 6}


def _head() -> str:
    return f"{'':16}{''.join(f'{name:>{width}}' for name, width in COLUMNS.items())}{'slowest':>10}"


def _line(one: dict) -> str:
    numbers = "".join(f"{one[name]:>{width},}" for name, width in COLUMNS.items())
    return f"{one['kind']:16}{numbers}{one['slowest']:>8.2f} s"


def _write(file: Path, seed: int, rows: list[dict]) -> None:
    content = {
        "command": " ".join(["python -m fuzz", *sys.argv[1:]]),
        "seed": seed,
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
        "hang_seconds": SECONDS,
        "slow_seconds": SLOW,
        "kinds": [{**one, "slowest": round(one["slowest"], 2)} for one in rows],
    }
    file.write_text(json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    sys.exit(main())
