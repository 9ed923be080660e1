"""The benchmarks that belong together, one after the other, and the table that docs/benchmarks.md has of them.

Each part is a process of its own and writes its own file, so that one alone can be run again. On a machine that others
use, times mean little: run it when the machine is quiet. All of it takes about half an hour on two cores.

    python benchmarks/bench.py                     all parts, then the table
    python benchmarks/bench.py step-cost latency   these parts, then the table
    python benchmarks/bench.py --page              the table alone
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "docs/results"
PAGE = ROOT / "docs/benchmarks.md"
BEGIN, END = "<!-- written by benchmarks/bench.py -->", "<!-- end of what benchmarks/bench.py writes -->"

PARTS: Mapping[str, tuple[str, ...]] = {
    "step-cost": ("step_cost.py",),
    "step-cost-resnet20": ("step_cost.py", "--model", "cifar/resnet20", "--batch", "64", "--rounds", "36"),
    "step-parts": ("step_parts.py",),
    "host-overhead": ("host_overhead.py",),
    "compiled-steps": ("compiled_steps.py",),
    "all-subnets": ("all_subnets.py",),
    "forecast": ("forecast.py",),
    "latency": ("latency.py", "--threads", "1", "--batches", "1,8", "--rounds", "300", "--seconds", "110"),
}
"""By the name of its file, the words of a part's command."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"parts to run, of {', '.join(PARTS)}; default: all")
    parser.add_argument(
        "--page", action="store_true", help="write the table from the files that there are, run nothing"
    )
    options = parser.parse_args()
    unknown = [part for part in options.parts if part not in PARTS]
    if unknown:
        parser.error(f"there is no part {unknown[0]!r}; known: {', '.join(PARTS)}")
    failed = [] if options.page else [part for part in options.parts or PARTS if not run(part)]
    write_page()
    if failed:
        print(f"failed: {', '.join(failed)}; run again: python benchmarks/bench.py {' '.join(failed)}", file=sys.stderr)
    return int(bool(failed))


def run(part: str) -> bool:
    """Run a part; whether it went well."""
    print(f"== {part}", flush=True)
    script, *words = PARTS[part]
    command = [sys.executable, f"benchmarks/{script}", *words, "--json", str(file_of(part).relative_to(ROOT))]
    began = time.perf_counter()
    done = subprocess.run(command, cwd=ROOT, check=False)
    print(f"   {time.perf_counter() - began:.0f} s", flush=True)
    return done.returncode == 0


def file_of(part: str) -> Path:
    return RESULTS / f"{part}-cpu.json"


def write_page() -> None:
    """Put the tables between their marks in docs/benchmarks.md."""
    text = PAGE.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    PAGE.write_text(f"{before}{BEGIN}\n\n{tables()}\n{END}{after}", encoding="utf-8")


def tables() -> str:
    """What is known by now, in tables."""
    parts = []
    for part, table in TABLES.items():
        file = file_of(part)
        if file.is_file():
            result = json.loads(file.read_text(encoding="utf-8"))
            try:
                parts.append(f"### {TITLES[part]}\n\n{table(result)}\n\n{source(part, result)}\n")
            except KeyError as missing:
                parts.append(
                    f"`{file.name}` is of an older form (no {missing}): `python benchmarks/bench.py {part}`.\n"
                )
    return "\n".join(parts)


def source(part: str, result: Mapping[str, Any]) -> str:
    """Which command gave a table, and where."""
    torch = result["versions"]["torch"]
    return f"`{result['command']}`, [{part}-cpu.json](results/{part}-cpu.json): {result['device']}, torch {torch}."


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def ratio(of: Mapping[str, float]) -> str:
    """A median with its interval."""
    return f"{of['median']:.3f} ({of['low']:.3f} to {of['high']:.3f})"


STEPS: Mapping[str, str] = {
    "bare": "a bare loop",
    "common": "`common`",
    "hand": "by hand",
    "hand_lean": "by hand, lean",
    "hand_half": "by hand, the subnet on half of the batch",
    "joint": "`joint`",
    "lean": "`lean`",
    "efficient": "`efficient`",
    "twice": "without sharing",
    "every2": "`every: 2`",
}
"""The steps that are measured, as the page calls them."""


def step_cost(result: Mapping[str, Any]) -> str:
    over, counts, memory = (result[key] for key in ("over_common", "counts", "memory"))
    beside = {"common": result["bare"], **result["by_hand"]}
    rows = []
    for name, called in STEPS.items():
        of = counts.get(name, {})
        numbers = (
            [f"{of['flops'] / 1e9:,.1f}", f"{of['kernels']:,.0f}", f"{of['python_calls']:,.0f}"] if of else [""] * 3
        )
        to_common = {"bare": "", "common": "1"}.get(name) or (ratio(over[name]) if name in over else "")
        by_hand = ratio(beside[name]) if name in beside else ""
        rows.append([called, to_common, by_hand, f"{memory[name]:.3f}" if name in memory else "", *numbers])
    n = result["bare"]["n"]
    head = ["step", "time, to common", "time, to the same by hand", "memory, to common", "GFLOP", "kernels", "calls"]
    common = result["seconds"]["common"]
    return (
        f"`{result['model']}`, {result['batch']} images of {result['image_size']} pixels: medians of the ratios of "
        f"{n} rounds, with 95 % intervals; a common step takes {1e3 * common['median']:.0f} ms and "
        f"{result['common_mib']:.0f} MiB.\n\n{table(head, rows)}"
    )


def step_parts(result: Mapping[str, Any]) -> str:
    rows = [
        [
            part,
            f"{of['ms']['median']:,.1f}",
            f"{of['share']:.1%}",
            f"{of['limit_ms']:,.1f}" if of["over_limit"] else "",
            f"{of['over_limit']:.1f}" if of["over_limit"] else "",
        ]
        for part, of in result["parts"].items()
    ]
    rates = f"{result['gflops']:.0f} GFLOP a second (a large matrix product here)"
    rates += f" and {result['gigabytes_a_second']:.1f} GB a second (a large sum)"
    return (
        f"Where a joint step of `{result['model']}` goes ({result['batch']} images), and how far each part is from "
        f"what its operations would take one by one at {rates}. The library is what a joint step takes beyond the one "
        "by hand.\n\n" + table(["part", "ms", "share", "limit, ms", "times its limit"], rows)
    )


def host_overhead(result: Mapping[str, Any]) -> str:
    rows = []
    for name, of in result["over_hand"].items():
        step, _, like = name.partition("_to_")
        more, counts = result["more_than_hand"][name], result["counts"][step]
        rows.append(
            [
                f"{step}, to a lean one by hand" if like else step,
                ratio(of),
                *(f"{counts[key]:,.0f} ({more[key]:+,.0f})" for key in ("kernels", "aten_operations", "python_calls")),
            ]
        )
    n = result["over_hand"]["joint"]["n"]
    return (
        f"Host: `{result['model']}` on {result['batch']} images of {result['image_size']} pixels, over the same step "
        f"by hand (common: a bare loop), n = {n} rounds; counts, and how many more they are.\n\n"
        + table(["step", "time", "kernels", "ATen operations", "calls"], rows)
    )


def compiled_steps(result: Mapping[str, Any]) -> str:
    names = {"blocks": "`training.compile: true`", "whole": "`training.compile_steps: 1`"}
    over, milliseconds = result["over_written"], result["milliseconds"]["written"]["median"]
    rows = [[names[name], ratio(of), f"{result['first_step_seconds'][name]} s"] for name, of in over.items()]
    return (
        f"A joint step of `{result['model']}` with the subnet {result['subnet']}, {result['batch']} images of "
        f"{result['image_size']} pixels, over the same step not compiled ({milliseconds:.0f} ms), "
        f"n = {over['whole']['n']} rounds.\n\n" + table(["", "time", "first step"], rows)
    )


def all_subnets(result: Mapping[str, Any]) -> str:
    seconds = result["seconds"]
    return (
        f"All {result['subnets']} subnets, recalibrated and evaluated on {result['images']} images each: replay is "
        f"{ratio(result['speedup'])} times as fast as one by one (n = {result['speedup']['n']}, median and range; "
        f"{seconds['replay']['median']:.1f} s and {seconds['one by one']['median']:.1f} s), by operations "
        f"{result['by_operations']:.2f} times. Largest difference of an output: {result['max_difference']:.1g}."
    )


def forecast(result: Mapping[str, Any]) -> str:
    rows = [
        [
            name,
            of["method"],
            f"{of['batch']}",
            ratio(of["time"]),
            f"{of['memory_least']:.2f} to {of['memory_most']:.2f}",
        ]
        for name, of in result["cases"].items()
    ]
    head = ["recipe", "method", "batch", "time", "memory, least to most"]
    return (
        f"What `stimulative plan` foresees of a step on this processor, over what was measured (n = {result['rounds']} "
        f"rounds, median and 95 % interval): 1 is right, above 1 it expects too much. Of the memory, activations and "
        "gradients were measured; weights, batch and what the optimiser keeps were taken as foreseen.\n\n"
        + table(head, rows)
    )


TABLES: Mapping[str, Callable[[Mapping[str, Any]], str]] = {
    "step-cost": step_cost,
    "step-cost-resnet20": step_cost,
    "step-parts": step_parts,
    "host-overhead": host_overhead,
    "compiled-steps": compiled_steps,
    "all-subnets": all_subnets,
    "forecast": forecast,
}

TITLES: Mapping[str, str] = {
    "step-cost": "What a step costs",
    "step-cost-resnet20": "What a step of a small net costs",
    "step-parts": "Where a step's time goes",
    "host-overhead": "What the host has to do",
    "compiled-steps": "What compiling makes of a step",
    "all-subnets": "All subnets",
    "forecast": "What a plan foresees",
}

if __name__ == "__main__":
    sys.exit(main())
