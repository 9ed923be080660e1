"""Tables of what ``family.py`` has measured: means, spreads, and differences seed by seed with their intervals."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from stimulative.studies.significance import Difference, difference

Run = Mapping[str, Any]

PAPER = {
    "common": ("77.39", "55.26 ± 13.37"),
    "layer_supervision": ("78.77", "59.18 ± 11.12"),
    "stage_supervision": ("78.59", "54.82 ± 13.31"),
    "self_distillation": ("79.59", "50.39 ± 14.22"),
    "stochastic_depth": ("78.43", "70.72 ± 3.76"),
    "stimulative": ("81.07", "80.01 ± 0.59"),
}
"""Main net and all subnets of the paper's Table 1."""


def main_of(scores: Mapping[str, float]) -> float:
    """The quality of the main net: of the subnet with the most blocks."""
    return scores[max(scores, key=lambda subnet: sum(map(int, subnet.split("-"))))]


def mean_of(scores: Mapping[str, float]) -> float:
    """The mean over all subnets."""
    return statistics.fmean(scores.values())


def table(runs: Mapping[str, Run], costs: Mapping[str, Mapping[str, float]], part: str, split: str = "test") -> str:
    """What the methods of a part have come to, the first one being what the others are compared with.

    Args:
        runs: The runs by name.
        costs: What a step of each method takes to a common one.
        part: The part whose runs are shown.
        split: ``test`` or ``validation``.
    """
    groups = grouped({name: run for name, run in runs.items() if run["part"] == part and split in run})
    if not groups:
        return f"No run of the part {part} is done.\n"
    reference, *_ = groups
    less = f"main net, less {reference} | all, less {reference}"
    lines = [
        f"| method | operations | memory | seeds | main net | all subnets | worst | {less} |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, group in groups.items():
        scores = [run[split] for run in group]
        cost = costs.get(group[0]["method"], {})
        cells = [
            f"`{name}`",
            *(f"{cost[what]:.2f}" if what in cost else "–" for what in ("operations", "memory")),
            str(len(group)),
            spread([main_of(one) for one in scores]),
            f"{statistics.fmean(map(mean_of, scores)):.2f} ± "
            f"{statistics.fmean(statistics.pstdev(one.values()) for one in scores):.2f}",
            f"{statistics.fmean(min(one.values()) for one in scores):.2f}",
        ]
        for what in (main_of, mean_of):
            cells.append("" if name == reference else in_words(compared(group, groups[reference], what, split)))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def grouped(runs: Mapping[str, Run]) -> dict[str, list[Run]]:
    """Runs that differ in their seeds alone, by their method and how long they are trained."""
    groups: dict[str, list[Run]] = defaultdict(list)
    for run in runs.values():
        settings = "".join(f" {key.rpartition('.')[2]} {value}" for key, value in run.get("settings", {}).items())
        groups[run["method"] + settings].append(run)
    return dict(groups)


def compared(
    group: Sequence[Run], reference: Sequence[Run], what: Callable[[Mapping[str, float]], float], split: str = "test"
) -> Difference:
    """What some runs have more than others, seed by seed."""
    of, to = ({run["seed"]: what(run[split]) for run in runs} for runs in (group, reference))
    return difference(of, to)


def in_words(found: Difference) -> str:
    """A difference and its interval; bold where that leaves 0 out."""
    if found.mean is None:
        return "no common seed"
    if found.interval is None:
        return f"{found.mean:+.2f} (n = {found.n})"
    low, high = found.interval
    text = f"{found.mean:+.2f} ({low:+.2f} to {high:+.2f})"
    return f"**{text}**" if found.distinguishable else text


def spread(values: Sequence[float]) -> str:
    """Mean and standard deviation over seeds; of one seed the value alone."""
    mean = f"{statistics.fmean(values):.2f}"
    return mean if len(values) < 2 else f"{mean} ± {statistics.stdev(values):.2f}"
