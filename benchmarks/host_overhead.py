"""What the library asks of the host in a step: time, calls and operations beside a step written by hand.

`cifar/resnet20` on two images of 8x8 pixels: tensors so small that nearly all of a step is Python and launching, as
it is with small nets on a GPU. On a machine that others use, the counts are the evidence; they are exact.

    python benchmarks/host_overhead.py --json
"""

from __future__ import annotations

import statistics
from functools import partial

import torch
from common import arguments, counts, in_turns, interval, ratios, report, rounded, seconds, surroundings
from steps import balanced_subnets, steps_of

import stimulative
from stimulative import models

_AGAINST = {
    "common": ("common", "bare"),
    "joint": ("joint", "hand"),
    "lean": ("lean", "hand"),
    "lean_to_lean": ("lean", "hand_lean"),
    "efficient": ("efficient", "hand_half"),
}
"""By its name in the result a step, and the one by hand beside it: lean beside the joint one, and beside its like."""


def main() -> None:
    options = arguments(__doc__ or "", rounds=99, warmup=1, batch=2, size=8, model="cifar/resnet20")
    device = torch.device(options.device)
    torch.manual_seed(0)
    model = models.build(options.model, classes=10).to(device)
    x = torch.randn(options.batch, 3, options.size, options.size, device=device)
    y = torch.randint(10, (options.batch,), device=device)
    network = stimulative.unravel(model, x)
    network.train()
    steps = {name: step for name, step in steps_of(network, x, y).items() if name not in ("twice", "free")}
    subnets = balanced_subnets(network, options.rounds, options.size)
    for subnet in [*dict.fromkeys(subnets)] * options.warmup:  # some things are found out once of each subnet
        for step in steps.values():
            step(subnet)
    times: dict[str, list[float]] = {name: [] for name in steps}
    for number, subnet in enumerate(subnets):
        for name in in_turns(list(steps), number):
            times[name].append(seconds(partial(steps[name], subnet), device))
    counted = {}
    for name, step in steps.items():
        each = [counts(partial(step, subnet)) for subnet in subnets[:9]]
        counted[name] = {key: round(statistics.fmean(one[key] for one in each), 1) for key in each[0]}
    result = {
        "over_hand": {key: ratios(times[name], times[hand]) for key, (name, hand) in _AGAINST.items()},
        "more_than_hand": {
            key: {what: round(counted[name][what] - counted[hand][what], 1) for what in counted[name]}
            for key, (name, hand) in _AGAINST.items()
        },
        "counts": counted,
        "milliseconds": {name: rounded(interval([1e3 * one for one in of])) for name, of in times.items()},
        **{"model": options.model, "image_size": options.size, "batch": options.batch},
        **surroundings(device),
    }
    lines = []
    for key, (name, hand) in _AGAINST.items():
        ratio, more = result["over_hand"][key], result["more_than_hand"][key]
        lines.append(
            f"{name:<9} over {hand:<9} {ratio['median']:.3f} ({ratio['low']:.3f} to {ratio['high']:.3f}, n = "
            f"{ratio['n']}); {more['python_calls']:+.0f} calls, {more['aten_operations']:+.0f} ATen, "
            f"{more['kernels']:+.0f} kernels, {more['flops']:+.0f} FLOP"
        )
    report(options, result, lines)


if __name__ == "__main__":
    main()
