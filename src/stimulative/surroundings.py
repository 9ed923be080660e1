"""What this library finds where it is installed: packages, devices, places to write to, limits.

Works with anything missing, PyTorch too; so nothing beyond the standard library and packaging is imported before it is
looked for.
"""

from __future__ import annotations

import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

from stimulative.records import Record

_ALLOWS = {
    "cluster": "studies on a SLURM cluster",
    "hf": "models, tokenizers and the trainer of Transformers (transformers/MODEL_TYPE)",
    "onnx": "export to ONNX, and running what was exported",
}
_ENOUGH_FILES = 1024
_ENOUGH_BYTES = 5 * 2**30


@dataclass(frozen=True)
class Package(Record):
    """A package that this library needs, or an extra of it.

    Args:
        name: Its name.
        needs: Which versions, as packages say it; empty for any.
        installed: The version that is installed; None if none is.
        fits: Whether that is one of them.
    """

    name: str
    needs: str
    installed: str | None
    fits: bool


@dataclass(frozen=True)
class Destination(Record):
    """A directory that is written to.

    Args:
        what: What for.
        path: Where it is.
        writable: Whether it can be written to.
        free_bytes: How much room there is.
    """

    what: str
    path: str
    writable: bool
    free_bytes: int | None


@dataclass(frozen=True)
class Surroundings(Record):
    """What was found.

    Args:
        stimulative: The version of this library.
        python: That of Python.
        platform: The operating system.
        packages: What this library needs.
        extras: By the name of an extra, what it needs.
        allows: By the name of an extra, what it would allow.
        devices: What PyTorch can compute on, in words; empty where it cannot be imported.
        places: Directories that are written to.
        open_files: How many files may be open at once; None where nobody says.
        problems: What stands in the way, a sentence each.
        notes: What may, a sentence each.
    """

    stimulative: str
    python: str
    platform: str
    packages: tuple[Package, ...]
    extras: Mapping[str, tuple[Package, ...]]
    allows: Mapping[str, str]
    devices: tuple[str, ...]
    places: tuple[Destination, ...]
    open_files: int | None
    problems: tuple[str, ...]
    notes: tuple[str, ...]


def examined() -> Surroundings:
    """Look at everything."""
    from stimulative import __version__

    packages, extras = _packages()
    problems = [
        f"{one.name} {'is missing' if one.installed is None else f'{one.installed} is installed'}; needed: "
        f"{one.name}{one.needs}"
        for one in packages
        if not one.fits
    ]
    devices, problem = _devices()
    problems += [problem] if problem else []
    places = _places()
    notes = [f"{place.path} cannot be written to ({place.what})" for place in places if not place.writable]
    notes += [
        f"{place.path} has {place.free_bytes / 2**30:.1f} GiB left ({place.what})"
        for place in places
        if place.free_bytes is not None and place.free_bytes < _ENOUGH_BYTES
    ]
    files = _open_files()
    if files is not None and files < _ENOUGH_FILES:
        notes.append(f"{files} files may be open at once, too few for loaders with many workers: ulimit -n 4096")
    return Surroundings(
        stimulative=__version__,
        python=f"{platform.python_version()} ({sys.executable})",
        platform=platform.platform(),
        packages=packages,
        extras=extras,
        allows=_ALLOWS,
        devices=devices,
        places=places,
        open_files=files,
        problems=tuple(problems),
        notes=tuple(notes),
    )


def _packages() -> tuple[tuple[Package, ...], dict[str, tuple[Package, ...]]]:
    """What this library needs, and what its extras need, as its own metadata say."""
    from packaging.requirements import Requirement

    needed: list[Package] = []
    extras: dict[str, list[Package]] = {extra: [] for extra in _ALLOWS}
    try:
        requirements = [Requirement(text) for text in metadata.requires("stimulative") or ()]
    except metadata.PackageNotFoundError:
        requirements = []
    for requirement in requirements:
        own = {"extra": ""}
        if requirement.marker is None or requirement.marker.evaluate(own):
            needed.append(_package(requirement))
        for extra in extras:
            marker = requirement.marker
            if marker is not None and marker.evaluate({"extra": extra}) and not marker.evaluate(own):
                extras[extra].append(_package(requirement))
    return tuple(needed), {extra: tuple(packages) for extra, packages in extras.items()}


def _package(requirement: object) -> Package:
    name, specifier = requirement.name, requirement.specifier  # type: ignore[attr-defined]
    try:
        installed = metadata.version(name)
    except metadata.PackageNotFoundError:
        return Package(name, str(specifier), None, False)
    return Package(name, str(specifier), installed, specifier.contains(installed, prereleases=True))


def _devices() -> tuple[tuple[str, ...], str | None]:
    """What PyTorch can compute on, and why it cannot be asked."""
    try:
        if find_spec("torch") is None:
            return (), None  # it is among the packages that are missing
        import torch
    except Exception as error:  # broken installations raise anything
        return (), f"PyTorch is installed and cannot be imported: {type(error).__name__}: {error}"
    found = [f"cpu, {torch.get_num_threads()} of {os.cpu_count()} cores"]
    for number in range(torch.cuda.device_count()):
        of = torch.cuda.get_device_properties(number)
        found.append(f"cuda:{number}, {of.name}, {of.total_memory / 2**30:.0f} GiB")
    if torch.backends.mps.is_available():
        found.append("mps")
    return tuple(found), None


def _places() -> tuple[Destination, ...]:
    """Directories that are written to."""
    import platformdirs

    places = {
        "runs": Path.cwd(),
        "data sets that are downloaded": Path(os.environ.get("STIMULATIVE_DATA") or "~/.cache/stimulative"),
        "the key that marks your own runs": platformdirs.user_state_path("stimulative", appauthor=False),
        "temporary files": Path(tempfile.gettempdir()),
    }
    return tuple(_place(what, path) for what, path in places.items())


def _place(what: str, path: Path) -> Destination:
    path = Path(os.path.expanduser(path))
    there = path
    while not there.exists() and there != there.parent:
        there = there.parent
    try:
        with tempfile.TemporaryFile(dir=there):
            writable = True
    except OSError:
        writable = False
    try:
        free = shutil.disk_usage(there).free
    except OSError:
        free = None
    return Destination(what, str(path), writable, free)


def _open_files() -> int | None:
    try:
        import resource
    except ImportError:  # Windows
        return None
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]
