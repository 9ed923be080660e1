"""A suite of trials as a command: which ones, a table of what came of them, the same as JSON."""

import argparse
import json
import platform
import re
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from trials import Prepare, Tried, repeated, tried


@dataclass(frozen=True)
class Suite:
    """A suite of trials.

    Args:
        name: Its package, which is run as ``python -m NAME``.
        about: What it does.
        counts: How many trials of each kind.
        prepare: Prepares those of a kind.
        fine: How a trial may end.
        faulty: How it may not.
        patience: Seconds after which a trial that says nothing is taken for hanging.
    """

    name: str
    about: str
    counts: Mapping[str, int]
    prepare: Prepare
    fine: tuple[str, ...]
    faulty: tuple[str, ...]
    patience: float

    def main(self) -> int:
        """Do what the command line asks for; 1 if a trial has ended as none may."""
        parser = argparse.ArgumentParser(prog=f"python -m {self.name}", description=self.about)
        parser.add_argument("--seed", type=int, default=0, help="another seed draws other trials (default: 0)")
        parser.add_argument("--share", type=float, default=1.0, help="this part of each kind (default: 1)")
        parser.add_argument("--only", action="append", help="a kind; may stand several times (default: all)")
        parser.add_argument("--number", type=int, help="one trial of the kind, in this process, shown whole")
        parser.add_argument("--lanes", type=int, default=2, help="processes at once (default: 2)")
        parser.add_argument("--json", type=Path, help="where to write the figures, too")
        options = parser.parse_args()
        chosen = {kind: count for kind, count in self.counts.items() if kind in (options.only or self.counts)}
        if not chosen or {*(options.only or ())} - {*self.counts}:
            parser.error(f"kinds are {', '.join(self.counts)}")
        if options.number is not None:
            found = repeated(self.prepare, next(iter(chosen)), options.number, seed=options.seed)
            print(f"{found.text}\n{found.end}, {found.seconds:.2f} s\n{found.details}")
            return int(found.end in self.faulty)
        rows, faulty, start = [], [], time.perf_counter()
        keys = ("trials", *self.fine, *self.faulty)
        print(self._line({"kind": "", **{key: key for key in keys}}, "slowest"))
        for kind, count in chosen.items():
            count = max(1, round(count * options.share))
            found = tried(self.prepare, kind, count, seed=options.seed, lanes=options.lanes, patience=self.patience)
            rows.append(self._row(kind, found))
            faulty += [one for one in found if one.end in self.faulty]
            print(self._line(rows[-1], f"{rows[-1]['slowest_seconds']} s"), flush=True)
        together = {"kind": "together", **{key: sum(row[key] for row in rows) for key in keys}}
        seconds = time.perf_counter() - start
        print(self._line(together, f"{max(row['slowest_seconds'] for row in rows)} s"), f"  {seconds:.0f} s in all")
        self._tell(faulty, options.seed)
        if options.json:
            self._write(options.json, rows, together, seconds)
        return int(bool(faulty))

    def _row(self, kind: str, found: list[Tried]) -> dict[str, Any]:
        ends = {end: sum(one.end == end for one in found) for end in (*self.fine, *self.faulty)}
        slowest = round(max(one.seconds for one in found), 1)
        return {"kind": kind, "trials": len(found), **ends, "slowest_seconds": slowest}

    def _line(self, row: Mapping[str, Any], slowest: str) -> str:
        numbers = "".join(f"{row[key]:>{len(key) + 3},}" if isinstance(row[key], int) else f"{row[key]:>{len(key) + 3}}"
                          for key in ("trials", *self.fine, *self.faulty))  # fmt: skip
        return f"{row['kind']:<22}{numbers}{slowest:>10}"

    def _tell(self, faulty: list[Tried], seed: int) -> None:
        """Show one of those that ended alike."""
        alike: dict[str, list[Tried]] = {}
        for one in faulty:
            alike.setdefault(_where(one), []).append(one)
        for group in alike.values():
            one = group[0]
            again = f"python -m {self.name} --only {one.kind!r} --number {one.number} --seed {seed}"
            print(f"\n{one.end}, {len(group)} times: {again}\n{one.text:.300}\n{one.details[-1500:]}")

    def _write(self, file: Path, rows: list[dict[str, Any]], together: Mapping[str, Any], seconds: float) -> None:
        content = {
            "command": " ".join([f"python -m {self.name}", *sys.argv[1:]]),
            "versions": {"python": platform.python_version(), "torch": torch.__version__},
            "machine": platform.platform(),
            "seconds": round(seconds),
            "kinds": rows,
            "together": together,
        }
        file.write_text(json.dumps(content, indent=2) + "\n")


def _where(one: Tried) -> str:
    """What is the same of trials that fail alike: the end, and the last line of ours in the traceback."""
    ours = re.findall(r'File ".*/stimulative/(.*", line \d+)', one.details)
    return f"{one.kind} {one.end} {ours[-1] if ours else one.details[:80]}"
