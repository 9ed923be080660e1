"""``rank.json``: how much each block of a trained network matters."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from stimulative.data import View
from stimulative.records import Record, RecordError, absent, check_format
from stimulative.residual import Order, as_order
from stimulative.runs.score import Score
from stimulative.tasks import TaskName

FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class RankedBlock(Record):
    """What skipping one block alone changes of the main net, measured on the validation part.

    Args:
        stage: The number of its stage.
        block: Its number in that.
        name: Its name in the model.
        error: How far the outputs move: the mean over images of ``|y - y'| / |y|``, Euclidean norms of what the net
            gives for an image (of classes, its logits) with the block (``y``) and without it (``y'``).
        error_se: The standard error of that mean: the deviation over images by the square root of their number.
        loss: The increase of the loss.
        quality: The change of the quality, negative where the net is worse without the block; in points of percents.
    """

    stage: int
    block: int
    name: str
    error: float
    error_se: float
    loss: float
    quality: float


@dataclass(frozen=True, kw_only=True)
class Ranking(Record):
    """How much each block of a trained network matters.

    Args:
        format: The number of the format.
        task: What the net is for.
        main: How good the main net is on the validation part, recalibrated as the nets without a block are.
        images: Images, or sequences, of the validation part that all was measured on.
        calibration: How the training images were prepared that statistics were estimated on; None without statistics.
        calibration_images: How many of them; 0 without statistics.
        blocks: The blocks that may be skipped, in the order in which they run.
        order: For each stage all of its blocks, from the most to the least important by their errors; a first block
            that always runs stands first.
        space: The subnets that keep the most important blocks, as ``SubnetSpace`` names them.
    """

    format: int = FORMAT
    task: TaskName
    main: Score
    images: int
    calibration: View | None = absent()
    calibration_images: int
    blocks: tuple[RankedBlock, ...]
    order: Order
    space: str

    @classmethod
    def from_mapping(cls, mapping: Any) -> Self:
        """Read a ranking.

        Raises:
            LaterFormat: If it is of a later format.
            RecordError: If it is none.
        """
        if not isinstance(mapping, Mapping):
            raise RecordError(f"it holds {mapping!r:.40}, where a mapping is expected")
        check_format(mapping, FORMAT, "ranking of blocks")
        found = super().from_mapping(mapping)
        as_order(found.order)
        return found
