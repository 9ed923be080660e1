"""What the JSON of a family file holds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from stimulative.records import Record, absent
from stimulative.runs import Member, Scored
from stimulative.tasks import TaskName


@dataclass(frozen=True)
class StoredStage(Record):
    """The blocks of a stage of the whole model.

    Args:
        name: The name of the stage.
        blocks: The names of its blocks.
    """

    name: str
    blocks: tuple[str, ...]


@dataclass(frozen=True)
class StoredSubnet(Record):
    """What it takes to make a subnet of a file's tensors.

    Args:
        subnet: Its text.
        statistics: By layer, the number of its statistics in the file.
        deleting: Whether skipped blocks were taken out of their containers.
    """

    subnet: str
    statistics: Mapping[str, int]
    deleting: bool


@dataclass(frozen=True, kw_only=True)
class Quality(Scored):
    """How good a subnet is on the test split, and what it costs.

    Args:
        quality: How good it is, as ``Score`` has it.
        loss: Its mean loss.
        perplexity: Of text, ``exp(loss)``.
        parameters: The number of its parameters.
        flops: Floating-point operations for one sample; a multiply-add counts as two.
        temperature: What its logits are divided by for the loss, where one was fitted.
        validation_quality: How good it is on the validation part, where that was measured.
        measure: What the quality is.
    """

    quality: float
    loss: float
    perplexity: float | None = absent()
    parameters: int
    flops: int
    temperature: float | None = absent()
    validation_quality: float | None = absent()
    measure: str = "top1"

    @classmethod
    def of(cls, member: Member) -> Self:
        """What was measured of a member."""
        score, cost = member.score, member.cost
        return cls(
            **score.main_parts(),
            parameters=cost.parameters,
            flops=cost.flops,
            temperature=member.temperature,
            validation_quality=member.validation_quality,
        )


@dataclass(frozen=True)
class StoredFamily(Record):
    """What it takes to load a family.

    Args:
        stages: The stages of the whole model.
        subnets: The subnets.
    """

    stages: tuple[StoredStage, ...]
    subnets: tuple[StoredSubnet, ...]


@dataclass(frozen=True, kw_only=True)
class PackedSubnet(StoredSubnet, Quality):
    """A subnet of a family that was packed from a run."""


@dataclass(frozen=True)
class Packed(Record):
    """A family that was packed from a run; what ``pack`` returns has more, as ``About`` has it.

    Args:
        task: What it is for.
        subnets: The subnets.
        file: The file.
        bytes: Its size.
        json: The file with all that is known of it.
    """

    task: TaskName
    subnets: tuple[PackedSubnet, ...]
    file: str
    bytes: int
    json: str
