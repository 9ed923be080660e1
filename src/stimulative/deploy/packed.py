"""What the JSON of a family file holds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from stimulative.records import Record, absent
from stimulative.runs import Member
from stimulative.tasks import Task


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
class Quality(Record):
    """How good a subnet is on the test split, and what it costs.

    Args:
        top1: Its accuracy in percent.
        loss: Its mean cross-entropy, in nats.
        perplexity: Of text, ``exp(loss)``.
        parameters: The number of its parameters.
        flops: Floating-point operations for one sample; a multiply-add counts as two.
        temperature: What its logits are divided by for the loss, where one was fitted.
        validation_top1: Its accuracy on the validation part in percent, where that was measured.
    """

    top1: float
    loss: float
    perplexity: float | None = absent()
    parameters: int
    flops: int
    temperature: float | None = absent()
    validation_top1: float | None = absent()

    @classmethod
    def of(cls, member: Member) -> Self:
        """What was measured of a member."""
        score, cost = member.score, member.cost
        return cls(
            **vars(score),
            parameters=cost.parameters,
            flops=cost.flops,
            temperature=member.temperature,
            validation_top1=member.validation_top1,
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

    task: Task
    subnets: tuple[PackedSubnet, ...]
    file: str
    bytes: int
    json: str
