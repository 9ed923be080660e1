"""``stimulative doctor``: what is installed, what it can do here, and what stands in the way."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stimulative.surroundings import Package, Surroundings

TAKES_SETTINGS = False
_EXAMPLES = """examples:
  stimulative doctor
  stimulative doctor --json"""


def add(commands: Any) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "doctor",
        help="what is installed here, and what stands in the way",
        description="Look at packages and their versions, extras and what each would allow, devices, places to write\n"
        "to, free disk and limits. Works with packages missing. Status 1 if something stands in the way.",
        usage="stimulative doctor [--json]",
        examples=_EXAMPLES,
    )
    parser.add_argument("--json", action="store_true", help="print all of it as JSON, and nothing else")


def run(options: argparse.Namespace, rest: list[str]) -> int:
    """Look."""
    from stimulative.surroundings import examined

    found = examined()
    if options.json:
        print(json.dumps(found.to_mapping(), indent=2))
    else:
        _show(found)
    return 1 if found.problems else 0


def _show(found: Surroundings) -> None:
    print(f"stimulative {found.stimulative}, Python {found.python}, {found.platform}")
    print(f"packages: {', '.join(map(_in_words, found.packages))}")
    for extra, packages in found.extras.items():
        missing = [one.name for one in packages if not one.fits]
        state = f"not installed ({', '.join(missing)}): pip install 'stimulative[{extra}]'" if missing else "installed"
        print(f"extra {extra}: {state}; for {found.allows[extra]}")
    print(f"devices: {'; '.join(found.devices) or 'unknown without PyTorch'}")
    for place in found.places:
        free = "" if place.free_bytes is None else f", {place.free_bytes / 2**30:.1f} GiB free"
        print(f"{place.what}: {place.path}, {'writable' if place.writable else 'cannot be written to'}{free}")
    if found.open_files is not None:
        print(f"open files: {found.open_files} at once")
    for what, sentences in (("problem", found.problems), ("note", found.notes)):
        for sentence in sentences:
            print(f"{what}: {sentence}")
    if not found.problems:
        print("nothing stands in the way")


def _in_words(package: Package) -> str:
    return f"{package.name} {package.installed or 'MISSING'}"
