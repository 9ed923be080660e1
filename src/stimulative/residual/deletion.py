"""Main nets without some of their blocks."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from stimulative.residual.finding.discovery import Stage
from stimulative.residual.subnet import Subnet


def skippable(stages: Sequence[Stage]) -> list[tuple[int, int]]:
    """The blocks that may be deleted, as stage and number: all but first ones that change the shape."""
    return [
        (number, block) for number, stage in enumerate(stages) for block in range(int(stage.fixed_entry), stage.blocks)
    ]


def without(stages: Sequence[Stage], deleted: Collection[tuple[int, int]]) -> Subnet:
    """The main net without some blocks, given as stage and number."""
    return Subnet(
        tuple(
            tuple(block for block in range(stage.blocks) if (number, block) not in deleted)
            for number, stage in enumerate(stages)
        )
    )
