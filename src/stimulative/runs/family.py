"""The measured subnets of a run, and ``subnets.csv``, the file that they are kept in."""

from __future__ import annotations

import csv
import io
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from stimulative.errors import UsageError
from stimulative.files import regular
from stimulative.residual import Subnet
from stimulative.runs.member import Cost, CostName, Latency, Member
from stimulative.runs.score import Score
from stimulative.runs.spread import DepthSpread, FamilySpread, SizeSpread, Spread
from stimulative.tasks import KEYS

COLUMNS = (
    *("subnet", "blocks", "top1", "loss", "parameters", "flops"),
    *("latency_ms", "latency_iqr_ms", "temperature", "perplexity", "validation_top1"),
)

T = TypeVar("T")


@dataclass(frozen=True)
class Family:
    """The measured subnets of a run.

    Args:
        members: The subnets, in the order of the file.
    """

    members: tuple[Member, ...] = ()

    def __iter__(self) -> Iterator[Member]:
        return iter(self.members)

    def __len__(self) -> int:
        return len(self.members)

    @property
    def by_subnet(self) -> dict[Subnet, Member]:
        """The members by their subnets."""
        return {member.subnet: member for member in self.members}

    @property
    def of_text(self) -> bool:
        """Whether it is of a language model, whose members have perplexities."""
        return any(member.score.perplexity is not None for member in self.members)

    def frontier(self, cost: CostName = "flops") -> list[Member]:
        """The members that no other one beats in accuracy on the test split; it describes the family.

        Those whose cost is not known are left out; see ``frontier``.
        """
        known = [member for member in self.members if member.cost_in(cost) is not None]
        return frontier(known, lambda member: member.cost_in(cost) or 0.0, lambda member: member.score.quality)

    @property
    def measure(self) -> str:
        """What the quality of the members is, as files call it."""
        return self.members[0].score.measure if self.members else "top1"

    def _more(self) -> list[str]:
        """The further scores that all members have."""
        names = dict.fromkeys(key for member in self.members for key in member.score.more)
        return [key for key in names if all(key in member.score.more for member in self.members)]

    def selection(self) -> list[Member]:
        """The members that no other one beats in FLOPs and accuracy on the validation part, to be deployed.

        Those that were not measured there are left out.
        """
        known = [member for member in self.members if member.validation_quality is not None]
        return frontier(known, lambda member: member.cost.flops, lambda member: member.validation_quality or 0.0)

    def spread(self) -> FamilySpread:
        """Mean, standard deviation (the population's), least and greatest of the top-1 accuracies, in percent."""
        return _spread_of(self.members)

    def by_blocks(self) -> tuple[SizeSpread, ...]:
        """The spread among subnets of as many blocks, the fewest first."""
        groups: dict[int, list[Member]] = defaultdict(list)
        for member in self.members:
            groups[member.subnet.blocks].append(member)
        return tuple(
            SizeSpread(blocks, len(group), **vars(_spread_of(group))) for blocks, group in sorted(groups.items())
        )

    def by_stage(self, names: Sequence[str]) -> tuple[DepthSpread, ...]:
        """For each stage, the spread among subnets that are as deep in it, whatever the others are.

        Args:
            names: The names of the stages.
        """
        groups: dict[tuple[int, int], list[Member]] = defaultdict(list)
        for member in self.members:
            for stage, depth in enumerate(member.subnet.depths):
                groups[stage, depth].append(member)
        return tuple(
            DepthSpread(stage, names[stage], depth, len(group), **vars(_spread_of(group)))
            for (stage, depth), group in sorted(groups.items())
        )

    def to_csv(self) -> str:
        """The text of ``subnets.csv``; without the last column where nothing was measured on the validation part."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        measure, more = self.measure, self._more()
        validated = any(member.validation_quality is not None for member in self.members)
        columns = [column.replace("top1", measure) for column in (COLUMNS if validated else COLUMNS[:-1])]
        writer.writerow([*columns, *more])
        for member in self.members:
            score, cost, latency = member.score, member.cost, member.latency
            times = ("", "") if latency is None else (f"{latency.median_ms:.4f}", f"{latency.iqr_ms:.4f}")
            accuracy = (f"{score.quality:.4f}", f"{score.loss:.6f}")
            temperature = "" if member.temperature is None else f"{member.temperature:.6g}"
            perplexity = "" if score.perplexity is None else f"{score.perplexity:.6g}"
            row = [member.subnet, member.subnet.blocks, *accuracy, cost.parameters, cost.flops, *times]
            validation = "" if member.validation_quality is None else f"{member.validation_quality:.4f}"
            further = (f"{score.more[key]:.6g}" for key in more)
            writer.writerow([*row, temperature, perplexity, *([validation] if validated else []), *further])
        return text.getvalue()

    @classmethod
    def read(cls, path: Path) -> Family:
        """Read a ``subnets.csv``; older ones have no latencies, temperatures, perplexities or validation accuracies.

        Raises:
            UsageError: If it cannot be read as one.
        """
        try:
            with regular(path).open(encoding="utf-8", newline="") as file:
                return cls(tuple(_member(row) for row in csv.DictReader(file)))
        except OSError as error:
            raise UsageError(f"cannot read {path}: {error.strerror}; evaluate the run first") from error
        except (KeyError, TypeError, ValueError, csv.Error) as error:
            what = f"it has no column {error}" if isinstance(error, KeyError) else str(error)
            raise UsageError(f"{path} is not the list of subnets of a run: {what}; evaluate the run again") from error


def frontier(items: Iterable[T], cost: Callable[[T], float], quality: Callable[[T], float]) -> list[T]:
    """The items that are not dominated: no other costs no more and is no worse, and is better in one of them.

    Args:
        items: The items.
        cost: What is to be small.
        quality: What is to be great.

    Returns:
        The frontier, the cheapest first. Items that are alike in both are all in it, or none.
    """
    found: list[T] = []
    for item in sorted(items, key=lambda item: (cost(item), -quality(item))):
        alike = found and (quality(item), cost(item)) == (quality(found[-1]), cost(found[-1]))
        if not found or quality(item) > quality(found[-1]) or alike:
            found.append(item)
    return found


def _spread_of(members: Sequence[Member]) -> FamilySpread:
    perplexities = [member.score.perplexity for member in members if member.score.perplexity is not None]
    of_accuracy = vars(Spread.of([member.score.quality for member in members]))
    return FamilySpread(**of_accuracy, perplexity=Spread.of(perplexities) if perplexities else None)


def _member(row: dict[str, str]) -> Member:
    # asked for in the order of the file, so that the first that is missing is named
    measure = next((key for key in KEYS if key in row), "top1")
    columns = [column.replace("top1", measure) for column in COLUMNS[:6]]
    subnet, _, quality, loss, parameters, flops = (row[column] for column in columns)
    known = {*(column.replace("top1", measure) for column in COLUMNS)}
    more = {key: float(value) for key, value in row.items() if key not in known and value}
    return Member(
        Subnet.parse(subnet),
        Score(float(quality), float(loss), _number(row.get("perplexity")), more, measure),
        Cost(int(parameters), int(flops)),
        Latency(float(row["latency_ms"]), float(row["latency_iqr_ms"])) if row.get("latency_ms") else None,
        _number(row.get("temperature")),
        _number(row.get(f"validation_{measure}")),
    )


def _number(text: str | None) -> float | None:
    return float(text) if text else None
