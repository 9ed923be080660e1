"""What stands in the way is found, with anything missing; what costs time is not imported for it."""

import json
import subprocess
import sys
from importlib import metadata

import pytest

from stimulative import __version__, surroundings
from stimulative.cli import main

WITHOUT_TORCH = """
import sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "numpy"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Missing())
from stimulative.cli import main
sys.exit(main(sys.argv[1:]))
"""


def without_torch(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", WITHOUT_TORCH, *words], capture_output=True, text=True)


def test_all_is_well_here(capsys):
    assert main(["doctor"]) == 0
    said = capsys.readouterr().out
    assert f"stimulative {__version__}" in said and "nothing stands in the way" in said
    assert "extra onnx: installed; for export to ONNX" in said


def test_it_is_told_as_json_too(capsys):
    assert main(["doctor", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    by_name = {package["name"]: package for package in found["packages"]}
    assert by_name["torch"]["installed"] == metadata.version("torch") and by_name["torch"]["fits"]
    assert found["extras"].keys() == {"cluster", "hf", "onnx"} and found["problems"] == []
    assert all(place["writable"] for place in found["places"])


def test_missing_and_old_packages_are_problems(monkeypatch, capsys):
    original = metadata.version

    def version(name: str) -> str:
        if name == "timm":
            raise metadata.PackageNotFoundError(name)
        return "2.0" if name == "torch" else original(name)

    monkeypatch.setattr(surroundings.metadata, "version", version)
    assert main(["doctor"]) == 1
    said = capsys.readouterr().out
    assert "problem: timm is missing; needed: timm>=1.0.20" in said
    assert "problem: torch 2.0 is installed; needed: torch>=2.11" in said
    assert "nothing stands in the way" not in said


@pytest.mark.parametrize("words", [("--version",), ("--help",), ("train", "--help-me"), ()])
def test_the_command_line_speaks_without_pytorch(words):
    said = without_torch(*words)
    assert "Traceback" not in said.stderr and said.returncode in (0, 1)


def test_it_works_without_pytorch():
    said = without_torch("doctor")
    assert "Traceback" not in said.stderr
    assert said.returncode == 0 or "PyTorch is installed and cannot be imported" in said.stdout


def test_the_version_and_the_help_import_nothing_slow():
    code = (
        "import sys\nfrom stimulative.cli import main\nmain(['--version'])\nmain([])\n"
        "print([name for name in ('torch', 'numpy', 'timm', 'lightning', 'rich') if name in sys.modules])"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout.splitlines()[0] == f"stimulative {__version__}"
    assert said.stdout.splitlines()[-1] == "[]"


def test_what_the_package_offers_is_there_when_it_is_asked_for():
    code = (
        "import sys, stimulative\nassert 'torch' not in sys.modules\n"
        "assert {'unravel', 'load', 'trusting'} <= set(dir(stimulative))\n"
        "stimulative.Subnet, stimulative.methods.METHODS, stimulative.load, stimulative.UsageError\n"
        "try:\n    stimulative.nothing\nexcept AttributeError as error:\n    print(error)"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "has no attribute 'nothing'" in said.stdout
