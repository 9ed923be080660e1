"""The room behind ``unravel``: its sub-rooms import only those before them, as its docstring states them."""

import ast
import re
from pathlib import Path

import pytest

import stimulative.residual

ROOM = Path(stimulative.residual.__file__).parent
PREFIX = "stimulative.residual."


def order() -> dict[str, int]:
    """How high each sub-room, or file beside them, stands, as the room's docstring says."""
    lines = [
        re.findall(r"``(\w+)``", line.partition(":")[0]) for line in (stimulative.residual.__doc__ or "").splitlines()
    ]
    return {name: height for height, names in enumerate(filter(None, lines)) for name in names}


def files() -> list[Path]:
    return sorted(file for file in ROOM.rglob("*.py") if file != ROOM / "__init__.py")


def test_the_docstring_names_what_is_in_the_room():
    there = {path.stem for path in ROOM.iterdir() if path.is_dir() or path.suffix == ".py"}
    assert set(order()) == there - {"__init__", "__pycache__"}


@pytest.mark.parametrize("file", files(), ids=lambda file: str(file.relative_to(ROOM)))
def test_sub_rooms_import_only_those_before_them(file):
    heights, tree = order(), ast.parse(file.read_text(encoding="utf-8"))
    own = file.relative_to(ROOM).with_suffix("").parts[0]
    imported = [node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    imported += [alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
    assert "stimulative.residual" not in imported, "the face is for other rooms"
    others = {name.removeprefix(PREFIX).split(".")[0] for name in imported if name.startswith(PREFIX)} - {own}
    assert not [other for other in others if heights[other] > heights[own]]


def test_sub_packages_have_a_docstring_and_no_names():
    for file in ROOM.glob("*/__init__.py"):
        (only,) = ast.parse(file.read_text(encoding="utf-8")).body
        assert isinstance(only, ast.Expr) and isinstance(only.value, ast.Constant), file
