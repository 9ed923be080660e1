"""``stimulative choose``: the subnet that fits a budget."""

from __future__ import annotations

import argparse
import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stimulative.cli.progress import progress_bar

if TYPE_CHECKING:
    from stimulative.deploy import Choice
    from stimulative.runs import Member
    from stimulative.tasks import Measure

TAKES_SETTINGS = False
_EXAMPLES = """examples:
  stimulative choose runs/c100 --max-latency-ms 3 --batch 1 --threads 1   # the most accurate that is fast enough
  stimulative choose runs/c100 --max-flops 50M --max-params 500k
  stimulative choose runs/c100 --min-top1 75                              # the fastest that is accurate enough
  stimulative choose runs/c100 --min-top1 75 --max-latency-ms 3 --minimise params
  stimulative choose runs/text --max-perplexity 12 --minimise flops"""


def add(commands: Any) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "choose",
        help="the subnet that fits a budget of latency, operations or parameters",
        description="Choose a subnet of a finished run. All limits have to hold. Within a budget alone the most\n"
        "accurate subnet is chosen, and of equally accurate ones the cheapest; with --min-top1 or\n"
        "--max-perplexity the cheapest that is good enough. Accuracy is that on the validation part, never\n"
        "on the test split, with recalibrated statistics. Latency is measured here and now, of subnets\n"
        "taken out of the main net, in turns. Of up to 1,000 subnets all within the limits of FLOPs and\n"
        "parameters are measured; more are searched. Writes choice.json and a picture of it.",
        usage="stimulative choose RUN [--max-latency-ms MS] [--max-flops N] [--max-params N] [--min-top1 PERCENT]\n"
        "                         [--max-perplexity P] [--minimise latency|flops|params] [--device NAME] [--batch N]\n"
        "                         [--threads N] [--images N] [--seed S] [--out DIR] [--json]",
        examples=_EXAMPLES,
    )
    parser.add_argument("run", metavar="RUN", help="run directory")
    limits = parser.add_argument_group("limits", "One or more. N is a number such as 1G, 10M, 2.5k or 1e9.")
    limits.add_argument("--max-latency-ms", metavar="MS", help="the greatest latency of one batch, in milliseconds")
    limits.add_argument(
        "--max-flops", metavar="N", help="the most FLOPs for one image or sequence; a multiply-add counts as two"
    )
    limits.add_argument("--max-params", metavar="N", help="the most parameters")
    limits.add_argument(
        "--min-top1",
        metavar="PERCENT",
        help="the least validation accuracy in percent (of text: of the next token); of other tasks their measure, "
        "such as mIoU in percent, PSNR in dB or a cosine",
    )
    limits.add_argument("--max-perplexity", metavar="P", help="the greatest validation perplexity, of text")
    parser.add_argument(
        "--minimise",
        "--minimize",
        metavar="COST",
        help="with --min-top1 or --max-perplexity, what is as little as possible: latency, flops or params "
        "(default: latency)",
    )
    timing = parser.add_argument_group("measuring")
    timing.add_argument("--device", default="cpu", metavar="NAME", help="cpu, cuda or mps (default: cpu)")
    timing.add_argument(
        "--batch", type=int, default=1, metavar="N", help="images or sequences in the batch that is timed (default: 1)"
    )
    timing.add_argument("--threads", type=int, metavar="N", help="CPU threads to time with (default: PyTorch's choice)")
    timing.add_argument(
        "--images", type=int, metavar="N", help="validation images or sequences to use, drawn (default: all)"
    )
    timing.add_argument(
        "--space",
        metavar="NAME",
        help="ordered, suffix, every_other, unordered or ranked subnets (default: the recipe's)",
    )
    timing.add_argument(
        "--evaluations", type=int, default=512, metavar="N", help="subnets that a search measures (default: 512)"
    )
    timing.add_argument("--seed", type=int, metavar="S", help="seed of search, draw and turns (default: the recipe's)")
    parser.add_argument("--out", metavar="DIR", help="where to write (default: RUN)")
    parser.add_argument("--json", action="store_true", help="print the choice as JSON, and nothing else")


def run(options: argparse.Namespace, rest: list[str]) -> int:
    """Choose."""
    from stimulative.deploy import choose
    from stimulative.report import draw_choice

    with progress_bar("measuring subnets") as show:
        choice = choose(
            options.run,
            max_latency_ms=options.max_latency_ms,
            max_flops=options.max_flops,
            max_params=options.max_params,
            min_top1=options.min_top1,
            max_perplexity=options.max_perplexity,
            minimise=options.minimise,
            device=options.device,
            batch=options.batch,
            threads=options.threads,
            space=options.space,
            seed=options.seed,
            images=options.images,
            evaluations=options.evaluations,
            out=options.out,
            progress=show,
        )
    out = Path(options.out or options.run)
    pictures = draw_choice(out)
    if options.json:
        print(json.dumps(choice.to_mapping(), indent=2))
    else:
        _show(choice, out, pictures)
        words = shlex.join(["stimulative", "export", options.run, "--subnet", str(choice.subnet), "--format", "onnx"])
        print(f"next: {words}")
    return 0


def _show(choice: Choice, out: Path, pictures: list[Path]) -> None:
    from rich.table import Table

    from stimulative.cli.tables import measure_of, print_table
    from stimulative.deploy import CHOICE

    text = choice.member.score.perplexity is not None
    table = Table(title=f"chosen: {choice.subnet}", title_justify="left")
    for column in ("", "subnet"):
        table.add_column(column, no_wrap=True)
    measure = measure_of(choice.about.task)
    accuracy = ["next token %", "perplexity"] if text else [measure.axis]
    for column in (*accuracy, "M parameters", "MFLOPs", "ms"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_row("chosen", *_row(choice.member, measure), style="bold")
    for number, member in enumerate(choice.runners_up):
        last = number + 1 == len(choice.runners_up)
        table.add_row("runners-up" if number == 0 else "", *_row(member, measure), end_section=last)
    table.add_row("main net", *_row(choice.main, measure))
    print_table(table)
    samples = "sequences" if text else "samples" if choice.about.task == "embedding" else "images"
    print("\n".join(_conditions(choice, samples)))
    drawn = ", ".join(str(path) for path in pictures)
    print(f"written: {out / CHOICE}, {drawn}")


def _conditions(choice: Choice, samples: str) -> list[str]:
    """What the numbers of the table belong to."""
    from stimulative.cli.tables import kind_of

    tried, latencies = choice.tried, choice.latencies
    of = "" if choice.images == choice.validation_images else f" of {choice.validation_images:,}"
    step = f" (one is {100 / choice.images:.2g} points)" if samples == "images" else ""
    statistics = (
        f", each subnet with statistics from {choice.calibration_images:,} training images"
        + (f" prepared as for {choice.calibration}" if choice.calibration else "")
        if choice.calibration_images
        else ""
    )
    how = (
        f"an evolutionary search with seed {tried.seed}; others may be better"
        if tried.searched
        else "all within the limits of FLOPs and parameters"
        if choice.limits.max_flops or choice.limits.max_params
        else "all"
    )
    lines = [
        f"accuracy: on {choice.images:,}{of} {samples} of the validation part{step}{statistics}; the test split was "
        "not read",
        f"measured: {tried.measured:,} of {tried.count:,} {kind_of(tried.space)}subnets ({how}); {tried.timed:,} of "
        "these timed",
        f"latency: a batch of {latencies.batch} on {latencies.device}, extracted: "
        f"median of {latencies.rounds} rounds ± half the interquartile range",
        "FLOPs: of one " + samples.removesuffix("s") + ", a multiply-add counted as two",
    ]
    if choice.about.method is None:
        lines.append(f"note: these weights were trained elsewhere, perhaps on the {samples} of this validation part")
    latency, limit = choice.member.latency, choice.limits.max_latency_ms
    if limit is not None and latency is not None and latency.median_ms + latency.iqr_ms / 2 > limit:
        lines.append(f"note: the median is within {limit:g} ms, but its spread reaches over it")
    return lines


def _row(member: Member, measure: Measure) -> list[str]:
    score, latency = member.score, member.latency
    return [
        str(member.subnet),
        f"{score.quality:{measure.form}}",
        *([] if score.perplexity is None else [f"{score.perplexity:.2f}"]),
        f"{member.cost.parameters / 1e6:.3f}",
        f"{member.cost.flops / 1e6:,.2f}",
        "" if latency is None else f"{latency.median_ms:.3f} ± {latency.iqr_ms / 2:.3f}",
    ]
