"""The house keeps its rules: imports point one way and go through faces, and every module can be found by its name."""

import ast
import importlib
import pkgutil
import pydoc
import re
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

import stimulative

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "src/stimulative"
FILES = sorted(SOURCE.rglob("*.py"))
MODULES = sorted(module.name for module in pkgutil.walk_packages(stimulative.__path__, "stimulative."))
SAME_MEANING = {  # a study is computed, drawn and offered as a command; a loss belongs to its method
    *("comparison.py", "destruction.py", "loafing.py", "matrix.py", "sweep.py"),
    *("choice.py", "choose.py", "export.py", "self_distillation.py"),
}


def rooms() -> list[str]:
    """The rooms in their order, as CONTRIBUTING states it."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    stated = re.search(r"\*\*Imports point one way\*\*.*?:(.*?)\.\s", text, re.DOTALL)
    assert stated is not None
    return re.findall(r"`(\w+)`", stated[1])


def room_of(path: Path) -> str:
    """The room that a file belongs to; of the package's own file none."""
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def imports_of(path: Path) -> Iterator[tuple[int, str, str]]:
    """The line, the module and the name of everything of this package that a file imports."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "stimulative":
            yield from ((node.lineno, node.module or "", alias.name) for alias in node.names)
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] == "stimulative":
                    yield node.lineno, alias.name, ""


def across_rooms() -> Iterator[tuple[str, str, str, str]]:
    """Each import of another room: where it stands, the room that imports, the room and what is imported of it."""
    for path in FILES:
        own = room_of(path)
        for line, module, name in imports_of(path):
            parts = [*module.split(".")[1:], name]
            if own not in ("__init__", "__main__") and parts[0] not in (own, "__version__", ""):
                yield f"{path.relative_to(ROOT)}:{line}", own, parts[0], ".".join(parts[1:])


def test_contributing_names_every_room():
    present = {path.name.removesuffix(".py") for path in SOURCE.iterdir() if path.suffix == ".py" or path.is_dir()}
    assert set(rooms()) == present - {"__init__", "__main__", "__pycache__", "recipes"}
    assert len(rooms()) == len(set(rooms()))


def test_a_room_imports_only_rooms_below_it():
    order = {room: number for number, room in enumerate(rooms())}
    found = list(across_rooms())
    assert len(found) > 200
    upward = [f"{where}: {own} imports {other}" for where, own, other, _ in found if order[other] >= order[own]]
    assert not upward, upward


def test_nothing_imports_the_integrations():
    assert not [where for where, _, other, _ in across_rooms() if other == "integrations"]


def test_a_room_is_imported_by_its_face():
    """What is not in a room's ``__init__`` is private to it."""
    past = [f"{where}: {other}.{name}" for where, _, other, name in across_rooms() if "." in name]
    assert not past, past
    modules = set(MODULES)
    inside = [
        f"{where}: {other}.{name}"
        for where, _, other, name in across_rooms()
        if f"stimulative.{other}.{name}" in modules
    ]
    assert not inside, inside


@pytest.mark.parametrize("name", MODULES)
def test_every_module_is_found_by_its_name(name):
    module = importlib.import_module(name)
    parent, _, leaf = name.rpartition(".")
    assert getattr(sys.modules[parent], leaf) is module, f"{parent} has something else that is called {leaf}"
    assert pydoc.locate(name) is module
    assert module.__doc__


def test_the_function_unravel_is_where_the_documentation_says():
    from stimulative.residual import unravel

    assert stimulative.unravel is unravel
    import stimulative.residual.surgery as room

    assert pydoc.render_doc("stimulative.residual.surgery").startswith("Python Library Documentation: package")
    assert room.__name__ == "stimulative.residual.surgery"


def test_a_file_name_stands_for_one_thing():
    places: dict[str, set[str]] = defaultdict(set)
    for path in FILES:
        places[path.name].add(str(path.relative_to(SOURCE)))
    repeated = {name for name, where in places.items() if len(where) > 1}
    assert repeated <= SAME_MEANING | {"__init__.py", *(f"{name}.py" for name in commands())}, repeated


def commands() -> set[str]:
    return {path.stem for path in (SOURCE / "cli/commands").glob("*.py")}


def test_a_public_class_has_a_name_of_its_own():
    places: dict[str, list[str]] = defaultdict(list)
    for path in FILES:
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                places[node.name].append(str(path.relative_to(SOURCE)))
    assert not {name: where for name, where in places.items() if len(where) > 1}


def test_files_and_functions_can_be_read_in_one_sitting():
    long = [
        f"{path.relative_to(SOURCE)}: {lines}" for path in FILES if (lines := len(path.read_text().split("\n"))) > 450
    ]
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef) and (lines := (node.end_lineno or 0) - node.lineno + 1) > 60:
                long.append(f"{path.relative_to(SOURCE)}: {node.name}: {lines}")
    assert not long, long


@pytest.mark.parametrize("room", ["cli", "report", "training", "deploy", "data"])
def test_faces_load_what_is_slow_when_it_is_used(room):
    code = (
        f"import sys, stimulative.{room}; "
        "heavy = ('altair', 'lightning', 'transformers', 'onnx', 'sklearn', 'pyarrow', 'jsonargparse'); "
        "print([name for name in heavy if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
