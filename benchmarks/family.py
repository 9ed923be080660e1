"""A family where a net overfits: every method on 10,000 images of CIFAR-100, by the recipe cifar100-10k.

    python benchmarks/family.py --data FOLDER --out runs/family --jobs 2 [PART ...]

trains and measures the runs of the parts that are named, all by default, in processes of one thread each, as many at
a time as ``--jobs`` says, and writes what came of them to docs/results/family.json, a run as soon as it is done. Runs
that stand there are not repeated, and runs that were stopped go on, so that it can be ended and called again.
``--list`` says which runs there are, and which are done.

The parts:

- ``table``: all methods with three seeds, as in Table 1 of the paper.
- ``longer``: common training for as many more epochs as steps of stimulative training are dearer, by floating-point
  operations.
- ``alone``: five of the 27 nets of the family, each trained alone.
- ``search``: candidates for presets, the finalists of them with three seeds; of these the validation part alone is
  written down.
- ``confirm``: what was chosen there, beside common and plain stimulative training, and common training for as much
  longer as the best setting is dearer, with five seeds that nothing was chosen by.
- ``wide``: twice the width.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from stimulative.config import Recipe, load_recipe
from stimulative.files import write_text
from stimulative.proposing.training_work import TrainingWork
from stimulative.runs import RunDirectory, Summary
from stimulative.studies import Workers
from stimulative.studies.jobs import Job
from stimulative.studies.launching import run_all
from stimulative.studies.variants import ALL, Variant, variants
from stimulative.training import prepare

RESULTS = Path("docs/results/family.json")
RECIPE = "cifar100-10k"
SETTINGS = {"training.precision": "bf16-mixed", "training.loggers": [], "evaluation.calibration": "training"}

BEST = "stimulative:subnet_share=0.5:teacher={name: images, momentum: 0.0}:main_taught=0.5"
EFFICIENT = "stimulative:preset=efficient"
FIVE = ("1-1-1", "2-1-2", "2-2-2", "3-2-3", "3-3-3")
"""Nets of the family from the smallest to the largest, their costs evenly spread."""
CANDIDATES = (
    "stimulative:balance=3.0",
    "stimulative:balance_start=0.5",
    "stimulative:subnet_share=0.5:balance_start=0.3",
    "stimulative:subnet_share=0.25",
    "stimulative:subnets_per_step=2:subnet_share=0.5",
    "stimulative:subnet_share=0.5:sampler=late:corrected=true",
    "stimulative:objective={name: kl, direction: both}",
    "stimulative:temperature=3.0",
    "stimulative:teacher={name: images, momentum: 0.5}",
    "stimulative:subnet_share=0.5:teacher={name: images, momentum: 0.0}:main_taught=0.8",
    "stimulative:subnet_share=0.5:teacher={name: images, momentum: 0.5}:main_taught=0.8",
    "stimulative:subnet_share=0.5:teacher={name: weights, momentum: 0.99}:main_taught=0.5",
    "stimulative:sampler=halves:main_weight=0.5:balance=0.5",
)
"""Tried with one seed; those of them that are finalists have three."""
FINALISTS = ("stimulative", EFFICIENT, BEST)
COMMON = "common"


@dataclass(frozen=True)
class Planned:
    """A run.

    Args:
        variant: Its method, with settings.
        seed: Its seed.
        part: The part that it was planned for first.
        overrides: What else it has beside the recipe.
        label: What tells it from others of its method and seed.
    """

    variant: Variant
    seed: int
    part: str
    overrides: Mapping[str, Any] = field(default_factory=dict)
    label: str = ""

    @property
    def name(self) -> str:
        """The name of its directory."""
        return f"{self.variant.directory}{self.label}-seed{self.seed}"

    def recipe(self, base: Recipe) -> Recipe:
        """Its recipe."""
        return replace(self.variant.recipe(base).override(dict(self.overrides)), seed=self.seed)


def planned(base: Recipe) -> Iterator[Planned]:
    """All runs, in the order in which they are trained."""
    epochs = base.schedule.epochs
    for seed in range(3):
        yield from (Planned(variant, seed, "table") for variant in variants([COMMON, "stimulative"]))
    for seed in range(3):
        yield from (Planned(variant, seed, "table") for variant in variants(ALL))
    yield from (Planned(variant, 0, "search") for variant in variants([*FINALISTS, *CANDIDATES]))
    for seed in range(1, 3):
        yield from (Planned(variant, seed, "search") for variant in variants(list(FINALISTS)))
    chosen = variants(["stimulative", EFFICIENT, BEST])
    costs = {str(variant): cost_of(variant.recipe(base))["operations"] for variant in chosen}
    common = variants(COMMON)[0]
    more = round(epochs * costs["stimulative"])
    for seed in range(3):
        yield Planned(common, seed, "longer", {"schedule.epochs": more}, f"-{more}-epochs")
    for net in FIVE[:-1]:
        yield Planned(common, 0, "alone", {"model.subnet": net}, f"-alone-{net}")
    for seed in range(3, 8):
        yield from (Planned(variant, seed, "confirm") for variant in [common, *chosen])
        more = round(epochs * costs[BEST])
        yield Planned(common, seed, "confirm", {"schedule.epochs": more}, f"-{more}-epochs")
    for seed in range(3):
        for variant in (common, chosen[-1]):
            yield Planned(variant, seed, "wide", {"model.arguments": {"width": 32}}, "-width32")


def cost_of(recipe: Recipe) -> dict[str, float]:
    """What a step of a recipe takes to a common one, counted: operations on average over a training, and memory.

    Returns:
        ``operations``: floating-point operations; ``memory``: the most bytes that are kept for a backward pass.
    """
    recipe = recipe.override({"data.name": "fake", "data.path": None, "data.train_images": None, "data.classes": 100})
    recipe = recipe.override({"data.images": 400, "data.image_size": 32, "data.workers": 0})
    work = TrainingWork(prepare(recipe))
    step = work.step(recipe.data.batch_size)
    operations = float(step.main.flops.sum())
    extra = step.extra(lambda counted: float(counted.flops.sum()))
    found = {"operations": (operations + extra) / operations, "memory": step.most_saved / step.main.saved}
    return {what: round(ratio, 4) for what, ratio in found.items()}


def record(run: Planned, directory: Path, summary: Summary) -> dict[str, Any]:
    """What is written down of a run that is done; of a candidate, no more than the validation part says."""
    family = {str(member.subnet): member for member in RunDirectory(directory).family}
    found: dict[str, Any] = {
        "part": run.part,
        "method": str(run.variant),
        "seed": run.seed,
        **({"settings": dict(run.overrides)} if run.overrides else {}),
        "epochs": summary.epochs,
        "train_seconds": summary.train_seconds,
        "runs_at_once": summary.runs_at_once,
        "peak_memory_mib": summary.peak_memory_mib,
        "device": summary.device,
        "versions": dict(summary.versions),
        "validation": {subnet: member.validation_quality for subnet, member in family.items()},
    }
    if run.part != "search":
        found["test"] = {subnet: member.score.quality for subnet, member in family.items()}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help="parts to train, all by default")
    parser.add_argument("--data", help="a folder with CIFAR-100; torchvision's usual one by default")
    parser.add_argument("--out", type=Path, default=Path("runs/family"), help="where runs go (default: runs/family)")
    parser.add_argument("--jobs", type=int, default=2, help="runs at once (default: 2)")
    parser.add_argument("--list", action="store_true", help="say which runs there are, and train none")
    options = parser.parse_args()
    base = load_recipe(RECIPE, SETTINGS | {"data.path": options.data})
    runs: dict[str, Planned] = {}
    for run in planned(base):
        runs.setdefault(run.name, run)
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {"recipe": RECIPE, "settings": SETTINGS}
    done = results.setdefault("runs", {})
    wanted = [run for run in runs.values() if not options.parts or run.part in options.parts]
    if options.list:
        for run in wanted:
            print(f"{'done' if run.name in done else '    '}  {run.part:8} {run.name}")
        return

    costs = results.setdefault("costs", {})

    def note(name: str, summary: Summary) -> None:
        run = runs[name]
        done[name] = record(run, options.out / name, summary)
        if str(run.variant) not in costs:
            costs[str(run.variant)] = cost_of(run.variant.recipe(base))
        results["runs"] = {key: done[key] for key in runs if key in done}
        results["command"] = " ".join(["python", *sys.argv])
        write_text(RESULTS, json.dumps(results, indent=1) + "\n")

    jobs = {run.name: Job(run.recipe(base)) for run in wanted if run.name not in done}
    outcome = run_all(jobs, options.out, workers=Workers(options.jobs), after_run=note)
    for name, error in outcome.failed.items():
        print(f"{name} failed: {error}")


if __name__ == "__main__":
    main()
