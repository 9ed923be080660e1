"""Images of which each has any number of labels: a CSV of files and labels for training, and one for testing."""

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from stimulative.data import fingerprints
from stimulative.data.folder import FOLDER_SIZE, ImageList
from stimulative.data.resized_images import ImageSource, ResizedSettings
from stimulative.data.split import hold_out_any
from stimulative.errors import UsageError
from stimulative.files import regular, user_path
from stimulative.objectives import IGNORED

MULTILABEL = "multilabel:"

_TRAIN, _TEST = "train.csv", "val.csv"
_BETWEEN = "|"
_FORMS = (
    "a header and two columns, the file and its labels with | between them; or a column for each label, with 1 where "
    "it is there, 0 where it is not, and nothing where nobody knows"
)
_KNOWN = {"1": 1.0, "0": 0.0, "": float(IGNORED)}


@dataclass(frozen=True)
class LabelListSettings(ResizedSettings):
    """Settings of images with lists of labels.

    Args:
        validation: Share of the training images held out.
    """

    task = "multilabel"

    validation: float

    def problems(self) -> dict[str, str]:
        """What cannot be used as given, by key."""
        found = super().problems()
        if self.name == MULTILABEL:
            found["name"] = f"data.name: '{MULTILABEL}' needs the path of a folder with {_TRAIN} and {_TEST}"
        return found

    def source(self, seed: int) -> ImageSource:
        """Read the lists."""
        root = user_path(self.name.removeprefix(MULTILABEL))
        names, train = read_list(root / _TRAIN)
        names, test = read_list(root / _TEST, names)
        if self.classes not in (None, len(names)):
            raise UsageError(f"data.classes: {root} has {len(names)} labels, got {self.classes}; leave it out")
        training, validation = hold_out_any(len(train), self.validation, seed=seed)
        fingerprint = fingerprints.of_split(str(root), train, test, train.labels, test.labels)
        return ImageSource(names, self.image_size or FOLDER_SIZE, train, training, validation, test, fingerprint)


def read_list(path: Path, names: tuple[str, ...] | None = None) -> tuple[tuple[str, ...], ImageList]:
    """Read a list of files and labels; the files are named from the folder that the list is in.

    Args:
        path: The CSV file.
        names: The labels that there are; by default all that the list names.

    Returns:
        The labels, sorted where each file lists its own, and the images.

    Raises:
        UsageError: If it cannot be read as one; the first line that is wrong is named.
    """
    try:
        with regular(path).open(encoding="utf-8-sig", newline="") as file:
            header, *rows = [row for row in csv.reader(file) if row] or [[]]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"data.name: {path} cannot be read: {error}; expected {_FORMS}") from error
    if len(header) < 2 or not rows:
        raise UsageError(f"data.name: {path} has {len(header)} columns and {len(rows)} files; expected {_FORMS}")
    for number, row in enumerate(rows, start=2):
        if len(row) != len(header):
            raise UsageError(f"{path}, line {number}: {len(row)} columns, where the header has {len(header)}")
    listed = len(header) == 2 and not {row[1].strip() for row in rows} <= _KNOWN.keys()
    if listed:
        of_files = [[name.strip() for name in row[1].split(_BETWEEN) if name.strip()] for row in rows]
        names = names or tuple(sorted({name for of_file in of_files for name in of_file}))
        labels = _listed(path, of_files, names)
    else:
        own = tuple(name.strip() for name in header[1:])
        if names is not None and names != own:
            raise UsageError(f"{path}: its labels are {', '.join(own)}, but those of training {', '.join(names)}")
        names = own
        labels = _flags(path, rows)
    return names, ImageList(tuple(str(path.parent / row[0].strip()) for row in rows), labels)


def _listed(path: Path, of_files: list[list[str]], names: tuple[str, ...]) -> np.ndarray:
    place = {name: number for number, name in enumerate(names)}
    labels = np.zeros((len(of_files), len(names)), np.float32)
    for number, of_file in enumerate(of_files):
        for name in of_file:
            if name not in place:
                raise UsageError(f"{path}, line {number + 2}: label {name!r} is in no image of training")
            labels[number, place[name]] = 1
    return labels


def _flags(path: Path, rows: list[list[str]]) -> np.ndarray:
    for number, row in enumerate(rows, start=2):
        for flag in row[1:]:
            if flag.strip() not in _KNOWN:
                raise UsageError(f"{path}, line {number}: got {flag!r} for a label; expected 1, 0, or nothing")
    return np.array([[_KNOWN[flag.strip()] for flag in row[1:]] for row in rows], np.float32)
