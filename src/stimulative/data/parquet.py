"""Images in Parquet files, as Hugging Face lays them out: encoded bytes in one column, classes in another."""

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from stimulative.data.pixels import Pixels
from stimulative.errors import UsageError

if TYPE_CHECKING:
    import pyarrow

_IMAGE_COLUMNS = ("img", "image")


def find(root: Path) -> dict[str, list[Path]] | None:
    """The Parquet files of the splits `train` and `test` in a folder or in its one subfolder that has some.

    Returns:
        The files in the order of their names, or None if there is no Parquet file.

    Raises:
        UsageError: If there are Parquet files, but not of both splits, or of several data sets.
    """
    everything = sorted(root.glob("*.parquet")) or sorted(root.glob("*/*.parquet"))
    if not everything:
        return None
    folders = sorted({file.parent for file in everything})
    if len(folders) > 1:
        raise UsageError(
            f"data.path: several folders in {root} hold Parquet files ({_some(f.name for f in folders)}); "
            "give the path of one of them"
        )
    splits = {split: [f for f in everything if f.name.startswith(split)] for split in ("train", "test")}
    for split, files in splits.items():
        if not files:
            raise UsageError(
                f"data.path: {folders[0]} holds no {split}-*.parquet; got {_some(f.name for f in everything)}"
            )
    return splits


def read(
    files: Sequence[Path], *, name: str, classes: int, side: int, label_columns: Sequence[str]
) -> tuple[Pixels, tuple[str, ...]]:
    """Read and decode the images of one split.

    Args:
        files: Its files; rows keep their order.
        name: The data set expected in them, for the error messages.
        classes: How many classes it has.
        side: How many pixels its images are wide and high.
        label_columns: Columns that may hold the class; the first that exists is read.

    Returns:
        The images, and the names of the classes (their numbers, if the files do not hold names).

    Raises:
        UsageError: If a file, an image in it or a label cannot be used; names the file and the row.
    """
    parts = [_read_file(file, name=name, classes=classes, side=side, label_columns=label_columns) for file in files]
    images = np.concatenate([part[0] for part in parts])
    labels = np.concatenate([part[1] for part in parts])
    if not len(images):
        raise UsageError(f"{files[0]} holds no images")
    return Pixels(torch.from_numpy(images), torch.from_numpy(labels)), parts[0][2]


def _read_file(
    file: Path, *, name: str, classes: int, side: int, label_columns: Sequence[str]
) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    import pyarrow
    from pyarrow import parquet

    try:
        schema = parquet.read_schema(file)
        image_column = _column(schema.names, _IMAGE_COLUMNS, file, "images")
        label_column = _column(schema.names, label_columns, file, "classes")
        table = parquet.read_table(file, columns=[image_column, label_column])
    except (pyarrow.ArrowException, OSError) as error:
        raise UsageError(f"{file} cannot be read as a Parquet file ({error}); fetch it again") from error

    names = _class_names(schema, label_column)
    if names is not None and len(names) != classes:
        raise UsageError(f"{file} has {len(names)} classes ({_some(names)}), but {name} has {classes}")
    labels = np.array([-1 if label is None else label for label in table.column(label_column).to_pylist()])
    wrong = np.flatnonzero((labels < 0) | (labels >= classes))
    if len(wrong):
        row = int(wrong[0])
        raise UsageError(
            f"{_place(file, row)}: class {table.column(label_column)[row].as_py()} is not one of the "
            f"{classes} classes of {name}, 0 to {classes - 1}"
        )
    images = _decode(_encoded(table, image_column), file, side=side)
    return images, labels.astype(np.int64), names or tuple(str(number) for number in range(classes))


def _column(present: Sequence[str], wanted: Sequence[str], file: Path, what: str) -> str:
    for column in wanted:
        if column in present:
            return column
    raise UsageError(
        f"{file} has no column of {what}; expected {' or '.join(wanted)}, got {', '.join(present) or 'none'}"
    )


def _class_names(schema: "pyarrow.Schema", column: str) -> tuple[str, ...] | None:
    """The names in the description that the `datasets` library writes into a file, if there is one."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        names = features[column]["names"]
    except (KeyError, TypeError, ValueError):
        return None
    return tuple(names) if isinstance(names, list) else None


def _encoded(table: "pyarrow.Table", column: str) -> list[Any]:
    """The encoded images, rows in order; None where there is none."""
    import pyarrow

    values = table.column(column).combine_chunks()
    if isinstance(values, pyarrow.ChunkedArray):
        return values.to_pylist()
    if pyarrow.types.is_struct(values.type):
        return [cell and cell.get("bytes") for cell in values.to_pylist()]
    return values.to_pylist()


def _decode(encoded: list[Any], file: Path, *, side: int) -> np.ndarray:
    """Decode images into uint8 (images, 3, side, side).

    One after another: Pillow holds the interpreter's lock while it decodes such small images, so threads gain
    nothing (measured: 50,000 in 10.4 s with one thread, 11.2 s with two on two cores).
    """
    from PIL import Image

    images = np.empty((len(encoded), side, side, 3), dtype=np.uint8)
    for row, content in enumerate(encoded):
        if not isinstance(content, bytes):
            raise UsageError(f"{_place(file, row)}: holds no image bytes")
        try:
            with Image.open(io.BytesIO(content)) as image:
                pixels = np.asarray(image if image.mode == "RGB" else image.convert("RGB"))
        # Decoders raise almost anything on damaged bytes: OSError, SyntaxError, ValueError, struct.error.
        except Exception as error:
            raise UsageError(
                f"{_place(file, row)}: the image cannot be read ({error}); fetch the file again"
            ) from error
        if pixels.shape != (side, side, 3):
            height, width, _ = pixels.shape
            raise UsageError(f"{_place(file, row)}: the image is {width}x{height}, expected {side}x{side}")
        images[row] = pixels
    return np.ascontiguousarray(images.transpose(0, 3, 1, 2))


def _place(file: Path, row: int) -> str:
    return f"{file}, row {row} (counting from 0)"


def _some(names: Any) -> str:
    shown = list(names)
    return ", ".join(shown[:5]) + (", …" if len(shown) > 5 else "")
