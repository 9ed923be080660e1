"""The page of documentation that says which architectures can be taken apart."""

from __future__ import annotations

from typing import Any

from reloading import OUTCOMES

STATUSES = "found", "not residual", "not tried", "failed"

_OF_OTHERS = """\
One model of every file of timm, and of every classification family of torchvision: the smallest that has a stage of
two blocks or more. Each was unraveled without being told anything about it, its main net compared with the model
itself, its smallest and a middle subnet run, one step of stimulative training taken, and both subnets taken out as
plain modules and compared with what they were in place."""

_OF_TRANSFORMERS = """\
A small model, with random weights, of every architecture that Transformers builds from a config, where its default
config can be made small without knowing it. Three subnets were taken out of each (the smallest, a middle one, and one
with a gap between its layers), written by `save_pretrained`, read by `from_pretrained`, and run on the same input.
*Restored*: the same outputs. *Said so*: `extract` had warned that the config cannot describe what is left. *Refused*:
`extract` said that the model cannot do without these layers. *Wrong*: other outputs without a word."""


def page(result: dict[str, Any]) -> str:
    """The table as a page of documentation."""
    versions = result["versions"]
    of_transformers = {name: found for name, found in result["models"].items() if name.startswith("transformers/")}
    others = {name: found for name, found in result["models"].items() if name not in of_transformers}
    lines = [
        "# Coverage",
        "",
        "Which architectures can be unraveled, run at any depth, trained, and taken apart. Written by `make coverage`",
        "with "
        + ", ".join(f"{name} {versions[name]}" for name in ("timm", "torchvision", "transformers", "torch"))
        + ".",
        "",
        "## timm and torchvision",
        "",
        _OF_OTHERS,
        "",
        f"**{summary_line(others)}.**",
        "",
        "| family | model | status | stages and their blocks | ordered subnets |",
        "|---|---|---|---|---|",
    ]
    for family, found in others.items():
        subnets = f"{found['subnets']:,}" if found["stages"] else ""
        lines.append(
            f"| {family} | {found['model']} | {found['status']} | {_stages(found) or found['reason']} | {subnets} |"
        )
    smaller = {family: found["passed_over"] for family, found in others.items() if found.get("passed_over")}
    if smaller:
        lines += [
            "",
            "Smaller models were passed over where nothing was found to skip, or that are no classifiers:",
            "",
        ]
        lines += [f"- {family}: {', '.join(names)}" for family, names in smaller.items()]
    return "\n".join([*lines, *_page_of_transformers(of_transformers)]) + "\n"


def _page_of_transformers(models: dict[str, Any]) -> list[str]:
    tried = {family: found for family, found in models.items() if found["status"] != "not tried"}
    ends = [found["outcomes"] for found in models.values()]
    counts = {outcome: sum(each.get(outcome, 0) for each in ends) for outcome in OUTCOMES}
    lines = [
        "",
        "## Transformers, saved and loaded again",
        "",
        _OF_TRANSFORMERS,
        "",
        f"**{summary_line(models)}**; of {sum(counts.values()):,} subnets "
        f"{', '.join(f'{count:,} {outcome}' for outcome, count in counts.items())}.",
        "",
        "| architecture | model | stages and their blocks | its subnets | the first warning, or why not |",
        "|---|---|---|---|---|",
    ]
    for family, found in tried.items():
        outcomes = ", ".join(f"{count} {outcome}" for outcome, count in found["outcomes"].items()) or found["status"]
        reason = " ".join(found["reason"].split()).replace("|", "/")
        lines.append(f"| {family} | {found['model']} | {_stages(found)} | {outcomes} | {reason:.160} |")
    left = [family.partition("/")[2] for family in models if family not in tried]
    if left:
        lines += [
            "",
            "Not tried, since no small model or no input came of their default config, or since the whole small model "
            f"does not come back from `save_pretrained` and `from_pretrained`: {', '.join(left)}.",
        ]
    return lines


def _stages(found: dict[str, Any]) -> str:
    return ", ".join(f"`{name}` {blocks}" for name, blocks in found["stages"])


def table(result: dict[str, Any]) -> list[str]:
    """A line a family."""
    return [
        f"{family:<36} {found['status']:<13} {found['model']:<36} "
        + (f"{[blocks for _, blocks in found['stages']]}" if found["stages"] else found["reason"].splitlines()[0])
        for family, found in result["models"].items()
    ]


def summary_line(models: dict[str, Any]) -> str:
    """How many families ended how, in words."""
    counts = {status: sum(found["status"] == status for found in models.values()) for status in STATUSES}
    return ", ".join(f"{count} {status}" for status, count in counts.items() if count or status == "failed")
