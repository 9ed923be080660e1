"""What was chosen under a budget, and from what."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from stimulative.analysis import Latencies
from stimulative.deploy.choosing.limits import Limits
from stimulative.residual import Kept, Subnet
from stimulative.runs import Cost, CostName, Latency, Member, Score

_ABOUT = "run", "model", "data", "method", "versions"


@dataclass(frozen=True)
class Tried:
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
        about: The model, data set and method.
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
    about: dict[str, Any]

    @property
    def subnet(self) -> Subnet:
        """The chosen subnet."""
        return self.member.subnet

    def to_mapping(self) -> dict[str, Any]:
        """The choice as it stands in ``choice.json``."""
        return {
            "subnet": str(self.subnet),
            "choice": _row(self.member),
            "runners_up": _rows(self.runners_up),
            "main_net": _row(self.main),
            "limits": asdict(self.limits),
            "decided_by": self.decided_by,
            "tried": asdict(self.tried),
            "latency": self.latencies.conditions().to_mapping(),
            "validation": {"images": self.images, "of": self.validation_images},
            "calibration_images": self.calibration_images,
            **self.about,
            "measured": _rows(self.measured),
        }

    @classmethod
    def from_mapping(cls, mapping: Mapping[str, Any]) -> Choice:
        """Read what ``to_mapping`` gives.

        Raises:
            KeyError: If something is missing.
            TypeError: If something is of another kind, or unknown.
            ValueError: If something has no such value.
        """
        measured = _members(mapping["measured"])
        timed = [member.latency for member in measured if member.latency is not None]
        return cls(
            member=_member(mapping["choice"]),
            runners_up=_members(mapping["runners_up"]),
            main=_member(mapping["main_net"]),
            measured=measured,
            limits=Limits(**mapping["limits"]),
            decided_by=mapping["decided_by"],
            tried=Tried(**mapping["tried"]),
            latencies=Latencies(timed, **mapping["latency"]),
            images=mapping["validation"]["images"],
            validation_images=mapping["validation"]["of"],
            calibration_images=mapping["calibration_images"],
            about={key: mapping[key] for key in _ABOUT if key in mapping},
        )


def _rows(members: Sequence[Member]) -> list[dict[str, Any]]:
    return [_row(member) for member in members]


def _row(member: Member) -> dict[str, Any]:
    latency = member.latency
    return {
        "subnet": str(member.subnet),
        "blocks": member.subnet.blocks,
        **member.score.to_mapping(),
        **asdict(member.cost),
        "latency_ms": None if latency is None else latency.median_ms,
        "latency_iqr_ms": None if latency is None else latency.iqr_ms,
    }


def _members(rows: Sequence[Mapping[str, Any]]) -> tuple[Member, ...]:
    return tuple(map(_member, rows))


def _member(row: Mapping[str, Any]) -> Member:
    latency = None if row["latency_ms"] is None else Latency(row["latency_ms"], row["latency_iqr_ms"])
    cost = Cost(row["parameters"], row["flops"])
    return Member(Subnet.parse(row["subnet"]), Score.from_mapping(row), cost, latency)
