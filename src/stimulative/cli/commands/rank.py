"""``stimulative rank``: how much each block of a trained network matters."""

from __future__ import annotations

import argparse
import json
import math
import shlex
from typing import TYPE_CHECKING, Any

from stimulative.cli.progress import progress_bar
from stimulative.cli.source_options import SOURCE_USAGE, add_source, runs_from
from stimulative.cli.tables import in_words, measure_of, print_table

if TYPE_CHECKING:
    from stimulative.runs import Ranking, RunDirectory

TAKES_SETTINGS = True
_EXAMPLES = """examples:
  stimulative rank runs/c100
  stimulative evaluate runs/c100 --space ranked        the subnets that keep the most important blocks
  stimulative rank --model timm/vit_small_patch16_224 --weights vit.safetensors --data folder:imagenet"""


def add(commands: Any) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "rank",
        help="how much each block of a trained network matters",
        description="Skip each block of a finished run, or of any weights, alone, and measure on the validation part\n"
        "what that changes: the error |y - y'| / |y| of the outputs (of classes, the logits; mean over\n"
        "images), the loss and the accuracy, each net with recalibrated statistics. A first block that\n"
        "changes stride or width cannot be skipped. Writes rank.json with the order of the blocks of each\n"
        "stage, the most important first: evaluate --space ranked and choose --space ranked read it, and\n"
        "recipes take it (evaluation.space, and the sampler ranked).",
        usage=f"stimulative rank {SOURCE_USAGE} [--out DIR] [--json]",
        examples=_EXAMPLES,
    )
    add_source(parser, out=True)
    parser.add_argument("--json", action="store_true", help="print rank.json, and nothing else")


def run(options: argparse.Namespace, rest: list[str]) -> int:
    """Rank."""
    from stimulative.analysis import rank
    from stimulative.runs import RunDirectory

    (directory,) = runs_from(options, rest)
    with progress_bar("ranking blocks") as show:
        ranking = rank(directory, progress=show)
    if options.json:
        print(json.dumps(ranking.to_mapping(), indent=2))
    else:
        _show(ranking, RunDirectory(directory))
    return 0


def _show(ranking: Ranking, run: RunDirectory) -> None:
    from rich.table import Table

    from stimulative.runs import RANKING

    measure, kind = measure_of(ranking.task), "sequences" if ranking.task == "text" else "images"
    table = Table(title="without one block: changes against the main net", title_justify="left")
    for column in ("stage", "block", "name", "error", "loss", measure.axis, "rank in its stage"):
        table.add_column(column, justify="left" if column == "name" else "right", no_wrap=True)
    for stage in dict.fromkeys(block.stage for block in ranking.blocks):
        for block in ranking.blocks:
            if block.stage == stage:
                table.add_row(
                    str(stage),
                    str(block.block),
                    block.name,
                    f"{block.error:.4f} ± {block.error_se:.4f}",
                    f"{block.loss:+.4f}",
                    f"{block.quality:+{measure.form}}",
                    str(ranking.order[stage].index(block.block) + 1),
                )
        table.add_section()
    print_table(table)
    main, images = ranking.main, f"{ranking.images:,} validation {kind}"
    print(f"main net: {measure.shown(main.quality)}{in_words(main.perplexity)}, loss {main.loss:.4f}, on {images}")
    noise = ""
    if ranking.task == "images":
        share = main.quality / 100
        error = 100 * math.sqrt(share * (1 - share) / ranking.images)
        noise = f", and changes of accuracy below about {2 * error:.1f} points"
    print(
        f"error: mean of |y - y'| / |y| over {images} ± its standard error. Ranks of blocks whose errors\n"
        f"differ by less than about three of these{noise}, are noise and mean nothing."
    )
    print(f"order: {ranking.space}   numbers: {run.file(RANKING)}")
    print(f"next: {shlex.join(['stimulative', 'evaluate', str(run.path), '--space', 'ranked'])}")
