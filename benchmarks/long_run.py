"""Memory and open files of a long training: they have to stay as they are.

    python benchmarks/long_run.py --json docs/results/long-run.json

trains a small ResNet-20 on digits for 20,000 steps (about ten minutes on one core), through the whole loop with its
epochs, validation and checkpoints, and prints both every 1,000 steps. Linux only, since it reads /proc.
"""

import argparse
import json
import os
import resource
import sys
import tempfile
from pathlib import Path

from stimulative.runs import versions
from stimulative.training import Callback, Step, Trainer, load_recipe, train


class Watch(Callback):
    """Notes memory and open files every so many steps."""

    def __init__(self, every: int) -> None:
        self.every, self.seen, self.rows = every, 0, []

    def on_step(self, trainer: Trainer, step: Step) -> None:
        self.seen += 1
        if self.seen % self.every == 0:
            pages = int(Path("/proc/self/statm").read_text().split()[1])
            mib = pages * resource.getpagesize() / 2**20
            self.rows.append({"step": self.seen, "mib": round(mib, 1), "files": len(os.listdir("/proc/self/fd"))})
            print(f"{self.seen:>7,} steps  {mib:8.1f} MiB  {self.rows[-1]['files']:>3} open files", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=20_000, help="optimiser steps (default: 20,000)")
    parser.add_argument("--method", default="stimulative", help="training method (default: stimulative)")
    parser.add_argument("--json", type=Path, help="where to write the figures, too")
    options = parser.parse_args()
    settings = {
        "method.name": options.method,
        "model.arguments": {"width": 4},
        "data.batch_size": 16,
        "schedule.epochs": 10_000,
        "schedule.max_steps": options.steps,
        "training.log_every": 50,
        "training.threads": 1,
        "evaluation.calibration_images": 64,
    }
    watch = Watch(options.steps // 20)
    with tempfile.TemporaryDirectory() as place:
        train(load_recipe("digits", settings), Path(place) / "run", progress=False, callbacks=[watch])
    tenth, last = watch.rows[1], watch.rows[-1]  # by then everything has been allocated once
    print(
        f"from step {tenth['step']:,} to {last['step']:,}: {last['mib'] - tenth['mib']:+.1f} MiB, "
        f"{last['files'] - tenth['files']:+d} open files"
    )
    if options.json:
        command = " ".join(["python benchmarks/long_run.py", *sys.argv[1:]])
        content = {"command": command, "versions": versions(), "rows": watch.rows}
        options.json.write_text(json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    main()
