"""Latency of subnets against depth: in place, extracted, and extracted in ONNX Runtime.

In place, the whole model is in memory and skipped blocks return their input (``network.only``). Extracted, the subnet
is a module of its own. Subnets grow evenly from the smallest to the main net. All of them take turns in all forms, in
an order shuffled anew in every round, so ratios are measured side by side. Each has weights of its own in memory, and
each timed run follows an untimed one of the same, so that none pays for what others left in the processor's caches.

A ratio is the median of the rounds' own, with its 95 % confidence interval (between two of the ratios in their order,
so it holds for any distribution). The weights are random: latency does not depend on them.

    python benchmarks/latency.py --json docs/results/latency.json
"""

from __future__ import annotations

import copy
import logging
import shlex
import statistics
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from common import arguments, report, surroundings
from scipy.stats import binom
from torch import nn

import stimulative
from stimulative import models
from stimulative.analysis import CostModel
from stimulative.analysis.latency import Contender, in_place, plain, steady, summarised, time_in_turns
from stimulative.deploy import extract

FORMS = "in place", "extracted", "onnx"


def main() -> None:
    options = arguments(
        __doc__ or "", model="cifar/resnet50", size=32, batches="1,16", depths=6, seconds=120, rounds=50, threads=0
    )
    device = torch.device(options.device)
    if options.threads:
        torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    model = models.build(options.model, classes=100).to(device).eval()
    example = torch.randn(1, 3, options.size, options.size, device=device)
    network = stimulative.unravel(model, example)
    network.eval()
    costs = CostModel(network, example)
    subnets = growing(network, options.depths)
    rows = []
    for batch in map(int, options.batches.split(",")):
        x = torch.randn(batch, 3, options.size, options.size, device=device)
        contenders = {
            (subnet, form): steady(made) for subnet in subnets for form, made in forms(network, subnet, x).items()
        }
        runs = list(contenders.values())
        measured = time_in_turns(runs, device, warm_up=runs, seconds=options.seconds, rounds=options.rounds)
        times = dict(zip(contenders, measured, strict=True))
        for subnet in subnets:
            of = {form: times[subnet, form] for form in FORMS if (subnet, form) in times}
            rows.append(row(subnet, batch, costs, of))
    result = {
        "rows": rows,
        "model": options.model,
        "image_size": options.size,
        "seconds": options.seconds,
        "command": shlex.join(["python", *sys.argv]),
        **surroundings(device),
    }
    if device.type == "cpu":
        import onnxruntime

        result["versions"] |= {"onnxruntime": onnxruntime.__version__}
    report(options, result, [line(each) for each in rows])


def growing(network: stimulative.ResidualNetwork, count: int) -> list[stimulative.Subnet]:
    """So many subnets from the smallest to the main net, every stage growing evenly."""
    shares = [step / max(1, count - 1) for step in range(count)]
    depths = [tuple(round(low + share * (high - low)) for low, high in network.space.ranges) for share in shares]
    return [network.space.at(each) for each in dict.fromkeys(depths)]


def forms(network: stimulative.ResidualNetwork, subnet: stimulative.Subnet, x: torch.Tensor) -> dict[str, Contender]:
    module = extract(network, subnet, "keep")
    with network.only(subnet) as model, torch.no_grad():
        expected = model(x)
    own = copy.deepcopy(
        network
    )  # one that all depths share would be in the caches more often than what they are beside
    found = {"in place": in_place(own, subnet, x), "extracted": plain(module, x)}
    works: list[Callable[[torch.Tensor], Any]] = [module]
    if x.device.type == "cpu":
        run = in_onnx(module, x)
        works.append(run)
        found["onnx"] = plain(run, x)
    with torch.no_grad():
        for work in works:
            torch.testing.assert_close(work(x), expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max()))
    return found


def in_onnx(module: nn.Module, x: torch.Tensor) -> Callable[[torch.Tensor], torch.Tensor]:
    """The module in ONNX Runtime, with as many threads as PyTorch has."""
    import onnxruntime

    logging.disable(logging.WARNING)
    with warnings.catch_warnings(action="ignore"):
        program = torch.onnx.export(module, (x,), dynamo=True, verbose=False)
    logging.disable(logging.NOTSET)
    assert program is not None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        program.model_proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    (name,) = (entry.name for entry in session.get_inputs())
    return lambda images: torch.from_numpy(session.run(None, {name: images.numpy()})[0])


def row(
    subnet: stimulative.Subnet, batch: int, costs: CostModel, times: Mapping[str, Sequence[float]]
) -> dict[str, Any]:
    """Medians and spreads in milliseconds, and of each round's ratio to the time in place."""
    found: dict[str, Any] = {"subnet": str(subnet), "blocks": subnet.blocks, "flops": costs.of(subnet).flops}
    found |= {"batch": batch, "n": len(times["in place"])}
    for form, of in times.items():
        latency = summarised(of)
        name = form.replace(" ", "_")
        found[name] = {"median_ms": latency.median_ms, "iqr_ms": latency.iqr_ms}
        if form != "in place":
            found[f"{name}_to_in_place"] = ratio([own / base for own, base in zip(of, times["in place"], strict=True)])
    return found


def ratio(ratios: Sequence[float]) -> dict[str, Any]:
    """The median of ratios and its confidence interval: as many of them are below it as heads among as many coins."""
    low, high = binom.interval(0.95, len(ratios), 0.5)
    ordered = sorted(ratios)
    within = ordered[int(low)], ordered[min(int(high), len(ordered) - 1)]
    return {"median": statistics.median(ratios), "confidence_95": within}


def line(each: dict[str, Any]) -> str:
    shown = [f"batch {each['batch']:<3} {each['subnet']:<10} {each['blocks']:>3} blocks"]
    for form in FORMS:
        name = form.replace(" ", "_")
        if name in each:
            to = each.get(f"{name}_to_in_place")
            beside = "" if to is None else " ({:.3f}, {:.3f} to {:.3f})".format(to["median"], *to["confidence_95"])
            shown.append(f"{form} {each[name]['median_ms']:.2f} ± {each[name]['iqr_ms'] / 2:.2f} ms{beside}")
    return "  ".join([*shown, f"n = {each['n']}"])


if __name__ == "__main__":
    main()
