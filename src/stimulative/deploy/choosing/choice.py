"""What was chosen under a budget, and from what."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from stimulative.analysis import Latencies
from stimulative.data import View
from stimulative.deploy.choosing.limits import Limits
from stimulative.records import Record, absent
from stimulative.residual import Kept, Subnet
from stimulative.runs import Conditions, Cost, CostName, Latency, Member, Score, Scored
from stimulative.tasks import TaskName

CHOICE = "choice.json"


@dataclass(frozen=True)
class Tried(Record):
    """Which subnets were measured.

    Args:
        space: Which blocks their stages keep at a given depth.
        count: How many subnets there are.
        measured: Of how many the accuracy was measured; the main net is measured in any case, and not counted here
            where it is over the budget.
        timed: Of how many of these the latency was measured.
        searched: Whether they were found by search; otherwise they are all whose operations and parameters are within
            the budget.
        seed: The seed of the search and of the order of timing.
    """

    space: Kept
    count: int
    measured: int
    timed: int
    searched: bool
    seed: int


@dataclass(frozen=True)
class ChosenFrom(Record):
    """What a choice belongs to.

    Args:
        run: The run directory.
        model: The name of the model.
        data: The name of the data set.
        method: How it was trained; None for weights that somebody else has trained.
        versions: The versions of Python and of the packages that results depend on.
        task: What the net is for; in files of older versions of images, or of text where there are perplexities.
    """

    run: str
    model: str
    data: str
    method: str | None
    versions: Mapping[str, str]
    task: TaskName = "images"


@dataclass(frozen=True, kw_only=True)
class ChoiceRow(Scored):
    """A subnet as it stands in ``choice.json``.

    Args:
        subnet: Its text.
        blocks: How many blocks it runs.
        quality: How good it is on the validation part, as ``Score`` has it.
        loss: Its mean loss there.
        perplexity: Of text, ``exp(loss)``.
        parameters: The number of its parameters.
        flops: Floating-point operations for one sample; a multiply-add counts as two.
        latency_ms: The median of its latency, in milliseconds; None if it was not timed.
        latency_iqr_ms: The interquartile range of that.
        measure: What the quality is.
    """

    subnet: str
    blocks: int
    quality: float
    loss: float
    perplexity: float | None = absent()
    parameters: int
    flops: int
    latency_ms: float | None
    latency_iqr_ms: float | None
    measure: str = "top1"

    @classmethod
    def of(cls, member: Member) -> ChoiceRow:
        """What was measured of a member."""
        times = (None, None) if member.latency is None else (member.latency.median_ms, member.latency.iqr_ms)
        return cls(
            subnet=str(member.subnet),
            blocks=member.subnet.blocks,
            **member.score.main_parts(),
            **vars(member.cost),
            latency_ms=times[0],
            latency_iqr_ms=times[1],
        )

    def member(self) -> Member:
        """What was measured."""
        score, cost = (
            Score(self.quality, self.loss, self.perplexity, measure=self.measure),
            Cost(self.parameters, self.flops),
        )
        median, spread = self.latency_ms, self.latency_iqr_ms
        latency = None if median is None or spread is None else Latency(median, spread)
        return Member(Subnet.parse(self.subnet), score, cost, latency)


@dataclass(frozen=True)
class Choice:
    """A subnet that was chosen under limits.

    Args:
        member: The chosen one: its accuracy on the validation part, its cost, and its latency here.
        runners_up: The next ones that keep to the limits, the best first.
        main: The main net, measured in the same way.
        measured: All that was measured, with latencies where these were.
        limits: The limits.
        decided_by: The cost that decides between those that are good enough, or equally good.
        tried: Which subnets were measured.
        latencies: How latencies were measured.
        images: On how many images, or sequences, of the validation part accuracy was measured.
        validation_images: How many it has.
        calibration_images: Training images that statistics were estimated on; 0 where none are needed.
        calibration: How these images were prepared: as for training or as for evaluation; None where none are needed,
            and in files of older versions.
        about: The run, with its model, data set and method.
    """

    member: Member
    runners_up: tuple[Member, ...]
    main: Member
    measured: tuple[Member, ...]
    limits: Limits
    decided_by: CostName
    tried: Tried
    latencies: Latencies
    images: int
    validation_images: int
    calibration_images: int
    about: ChosenFrom
    calibration: View | None = None

    @property
    def subnet(self) -> Subnet:
        """The chosen subnet."""
        return self.member.subnet

    def to_mapping(self) -> dict[str, Any]:
        """The choice as it stands in ``choice.json``."""
        return {
            "subnet": str(self.subnet),
            "choice": ChoiceRow.of(self.member).to_mapping(),
            "runners_up": [ChoiceRow.of(member).to_mapping() for member in self.runners_up],
            "main_net": ChoiceRow.of(self.main).to_mapping(),
            "limits": self.limits.to_mapping(),
            "decided_by": self.decided_by,
            "tried": self.tried.to_mapping(),
            "latency": self.latencies.conditions().to_mapping(),
            "validation": {"images": self.images, "of": self.validation_images},
            "calibration_images": self.calibration_images,
            "calibration": self.calibration,
            **self.about.to_mapping(),
            "measured": [ChoiceRow.of(member).to_mapping() for member in self.measured],
        }

    @classmethod
    def from_mapping(cls, mapping: Mapping[str, Any]) -> Choice:
        """Read what ``to_mapping`` gives.

        Raises:
            KeyError: If something is missing.
            RecordError: If something is missing further in, or is of another kind.
        """

        def members(rows: Sequence[Any]) -> tuple[Member, ...]:
            return tuple(ChoiceRow.from_mapping(row).member() for row in rows)

        measured = members(mapping["measured"])
        times = [member.latency for member in measured if member.latency is not None]
        return cls(
            member=members([mapping["choice"]])[0],
            runners_up=members(mapping["runners_up"]),
            main=members([mapping["main_net"]])[0],
            measured=measured,
            limits=Limits.from_mapping(mapping["limits"]),
            decided_by=mapping["decided_by"],
            tried=Tried.from_mapping(mapping["tried"]),
            latencies=Latencies(times, **vars(Conditions.from_mapping(mapping["latency"]))),
            images=mapping["validation"]["images"],
            validation_images=mapping["validation"]["of"],
            calibration_images=mapping["calibration_images"],
            about=ChosenFrom.from_mapping(mapping),
            calibration=mapping.get("calibration"),
        )
