"""What compiling makes of a stimulative step: blocks one by one, or the passes of the whole step as one piece.

Three copies of a net take turns, with the same subnet, in one process: as written, with `training.compile`, and with
`training.compile_steps`. Compiling takes a minute or two before.

    python benchmarks/compiled_steps.py --json
"""

from __future__ import annotations

import time
from functools import partial

import torch
from common import arguments, in_turns, interval, ratios, report, rounded, seconds, surroundings
from steps import Step, steps_of

import stimulative
from stimulative import models
from stimulative.training import load_recipe
from stimulative.training.compiling import compile_blocks, compiling
from stimulative.training.whole_passes import WholePasses


def main() -> None:
    options = arguments(__doc__ or "", rounds=40, batch=64, size=32, model="cifar/resnet20", subnet="2-2-2")
    device = torch.device(options.device)
    torch.manual_seed(0)
    x = torch.randn(options.batch, 3, options.size, options.size, device=device)
    y = torch.randint(100, (options.batch,), device=device)

    def network_of() -> stimulative.ResidualNetwork:
        torch.manual_seed(0)
        return stimulative.unravel(models.build(options.model, classes=100).to(device), x[:2]).train()

    written, blocks, whole = network_of(), network_of(), network_of()
    compile_blocks(blocks)
    recipe = load_recipe("digits", {"training.compile": True, "training.compile_steps": 1})
    passes = WholePasses(recipe, whole, counted=0)
    joint = steps_of(whole, x, y)["joint"]

    def as_whole(subnet: stimulative.Subnet) -> None:
        with passes.step():
            joint(subnet)

    steps: dict[str, Step] = {
        "written": steps_of(written, x, y)["joint"],
        "blocks": steps_of(blocks, x, y)["joint"],
        "whole": as_whole,
    }
    subnet = written.resolve(options.subnet)
    times: dict[str, list[float]] = {name: [] for name in steps}
    first = {}
    with compiling():
        for name, step in steps.items():
            began = time.perf_counter()
            step(subnet)
            first[name] = round(time.perf_counter() - began, 1)
            step(subnet)
        for number in range(options.rounds):
            for name in in_turns(list(steps), number):
                times[name].append(seconds(partial(steps[name], subnet), device))
    compiled = [choice for choice, piece in passes.pieces.items() if piece is not None]
    if len(compiled) != 1:
        raise SystemExit("the whole step was not compiled")
    result = {
        "over_written": {name: ratios(times[name], times["written"]) for name in ("blocks", "whole")},
        "first_step_seconds": first,
        "milliseconds": {name: rounded(interval([1e3 * one for one in of]), 1) for name, of in times.items()},
        **{"model": options.model, "image_size": options.size, "batch": options.batch, "subnet": str(subnet)},
        **surroundings(device),
    }
    lines = [
        f"{name:<8} over written {of['median']:.3f} ({of['low']:.3f} to {of['high']:.3f}, n = {of['n']}); first step "
        f"{first[name]} s"
        for name, of in result["over_written"].items()
    ]
    report(options, result, lines)


if __name__ == "__main__":
    main()
