"""The picture of a comparison: every subnet of every method, by its number of blocks and as a distribution."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

from stimulative.analysis.family import Member, read_family
from stimulative.training import files

# Okabe and Ito's colours, which people with any colour vision can tell apart
_COLOURS = ("#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")


def draw_comparison(directory: str | Path) -> Path:
    """Draw ``comparison.png`` from the ``comparison.json`` and the runs of a comparison's directory.

    Returns:
        The path of the picture.
    """
    from matplotlib.figure import Figure

    directory = Path(directory)
    comparison = files.read_json(directory / "comparison.json")
    families = {
        row["method"]: [
            read_family(directory / f"{run['method']}-seed{run['seed']}" / files.SUBNETS)
            for run in comparison["runs"]
            if run["method"] == row["method"]
        ]
        for row in comparison["rows"]
    }
    figure = Figure(figsize=(10, 4.6), dpi=150, layout="constrained")
    by_depth, spread = figure.subplots(1, 2, width_ratios=(3, 2), sharey=True)
    methods = list(families)
    for number, (row, (method, runs)) in enumerate(zip(comparison["rows"], families.items(), strict=True)):
        style = {"color": _COLOURS[number % len(_COLOURS)], "marker": _MARKERS[number % len(_MARKERS)]}
        label = f"{method}: all {row['all_mean']:.1f} ± {row['all_std']:.1f}, main {row['main_mean']:.1f}"
        _draw_by_depth(by_depth, runs, style, label, shift=(number - (len(methods) - 1) / 2) * 0.16)
        _draw_spread(spread, runs, style, number)
    run = comparison["runs"][0]
    figure.suptitle(
        f"Every subnet of {run['model']} on {run['data']} "
        f"({comparison['rows'][0]['seeds']} seeds, {run['epochs']} epochs)",
        x=0.01,
        ha="left",
    )
    by_depth.set(xlabel="blocks that run", ylabel="top-1 accuracy (%)")
    by_depth.xaxis.get_major_locator().set_params(integer=True)
    by_depth.legend(loc="lower right", frameon=False)
    spread.set_xticks(range(len(methods)), methods)
    spread.set_xlabel("all subnets, all seeds")
    for axes in (by_depth, spread):
        axes.grid(axis="y", alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    path = directory / "comparison.png"
    with files.replacing(path) as temporary:
        figure.savefig(temporary, format="png")
    return path


def _draw_by_depth(axes: Any, runs: list[list[Member]], style: dict[str, Any], label: str, *, shift: float) -> None:
    """A point for each subnet (mean over seeds), a line through the means, a ring around the main net."""
    means = {
        member.subnet: statistics.fmean(
            other.score.top1 for run in runs for other in run if other.subnet == member.subnet
        )
        for member in runs[0]
    }
    by_blocks: dict[int, list[float]] = {}
    for subnet, top1 in means.items():
        by_blocks.setdefault(subnet.blocks, []).append(top1)
    blocks = sorted(by_blocks)
    axes.plot(blocks, [statistics.fmean(by_blocks[b]) for b in blocks], color=style["color"], linewidth=1.5)
    axes.scatter([s.blocks + shift for s in means], list(means.values()), s=18, alpha=0.55, linewidths=0, **style)
    axes.plot([], [], label=label, linestyle="", **style)


def _draw_spread(axes: Any, runs: list[list[Member]], style: dict[str, Any], number: int) -> None:
    values = [member.score.top1 for run in runs for member in run]
    parts = axes.violinplot([values], positions=[number], widths=0.7, showextrema=False)
    for body in parts["bodies"]:
        body.set(facecolor=style["color"], alpha=0.35)
    axes.boxplot(
        [values],
        positions=[number],
        widths=0.14,
        showfliers=False,
        medianprops={"color": style["color"]},
        boxprops={"color": style["color"]},
        whiskerprops={"color": style["color"]},
        capprops={"color": style["color"]},
    )
