"""One subnet of a family, and the file that a family is kept in."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from stimulative.analysis.cost import Cost
from stimulative.analysis.latency import Latency
from stimulative.errors import UsageError
from stimulative.training import Score
from stimulative.unravel import Subnet

COLUMNS = (
    *("subnet", "blocks", "top1", "loss", "parameters", "flops"),
    *("latency_ms", "latency_iqr_ms", "temperature", "perplexity"),
)


@dataclass(frozen=True)
class Member:
    """One subnet of a family: how good it is and what it costs.

    Args:
        subnet: The subnet.
        score: Its accuracy and loss.
        cost: Its parameters and operations.
        latency: How long it takes on the machine that measured it; None where that was not measured.
        temperature: What its logits are divided by for probabilities, and for its loss; None where none was fitted.
    """

    subnet: Subnet
    score: Score
    cost: Cost
    latency: Latency | None = None
    temperature: float | None = None


def family_csv(family: Sequence[Member]) -> str:
    """A family as the text of a CSV file."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for member in family:
        score, cost, latency = member.score, member.cost, member.latency
        times = ("", "") if latency is None else (f"{latency.median_ms:.4f}", f"{latency.iqr_ms:.4f}")
        accuracy = (f"{score.top1:.4f}", f"{score.loss:.6f}")
        temperature = "" if member.temperature is None else f"{member.temperature:.6g}"
        perplexity = "" if score.perplexity is None else f"{score.perplexity:.6g}"
        row = [member.subnet, member.subnet.blocks, *accuracy, cost.parameters, cost.flops, *times]
        writer.writerow([*row, temperature, perplexity])
    return text.getvalue()


def read_family(path: Path) -> list[Member]:
    """Read a ``subnets.csv``; older ones have no latencies, temperatures or perplexities.

    Raises:
        UsageError: If it cannot be read as one.
    """
    try:
        with path.open(encoding="utf-8", newline="") as file:
            return [
                Member(
                    Subnet.parse(row["subnet"]),
                    Score(float(row["top1"]), float(row["loss"]), _number(row.get("perplexity"))),
                    Cost(int(row["parameters"]), int(row["flops"])),
                    Latency(float(row["latency_ms"]), float(row["latency_iqr_ms"])) if row.get("latency_ms") else None,
                    _number(row.get("temperature")),
                )
                for row in csv.DictReader(file)
            ]
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}; evaluate the run first") from error
    except (KeyError, TypeError, ValueError) as error:
        what = f"it has no column {error}" if isinstance(error, KeyError) else str(error)
        raise UsageError(f"{path} is not the list of subnets of a run: {what}; evaluate the run again") from error


def _number(text: str | None) -> float | None:
    return float(text) if text else None
