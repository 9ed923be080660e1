"""The benchmark that says which architectures can be unraveled: a part of it that is quick, and how it judges."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARK = Path(__file__).parents[1] / "benchmarks" / "coverage.py"


@pytest.fixture
def benchmark(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARK.parent))
    spec = importlib.util.spec_from_file_location("coverage_of_architectures", BENCHMARK)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    sys.modules.pop("common", None)


def run(*options):
    done = subprocess.run(
        [sys.executable, str(BENCHMARK), "--json", "--jobs", "1", *options], capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout)


def test_a_quick_part_of_the_table():
    families = ["timm/repghost", "timm/rexnet", "timm/efficientvit_mit", "torchvision/squeezenet"]
    result = run("--only", ",".join(families))
    assert (result["found"], result["not_residual"], result["failed"]) == (3, 1, 0)
    models = result["models"]
    assert sorted(models) == sorted(families)
    assert models["torchvision/squeezenet"]["status"] == "not residual"
    for family in families[:3]:
        found = models[family]
        assert found["status"] == "found" and found["seconds"] > 0
        assert found["subnets"] >= 2 and all(blocks >= 2 for _, blocks in found["stages"])


def test_what_takes_too_long_has_failed():
    result = run("--only", "timm/rexnet", "--seconds", "0")
    assert result["failed"] == 1 and "not done after 0 seconds" in result["models"]["timm/rexnet"]["reason"]


def test_a_family_without_blocks_has_failed_unless_it_is_known_to_have_none(benchmark, monkeypatch):
    monkeypatch.setattr(benchmark, "MOST_TRIED", 1)
    assert benchmark.try_family("torchvision/squeezenet")["status"] == "not residual"
    monkeypatch.setattr(benchmark, "NOT_RESIDUAL", {})
    found = benchmark.try_family("torchvision/squeezenet")
    assert found["status"] == "failed" and "no residual blocks found in SqueezeNet" in found["reason"]


def test_the_page_holds_every_family_and_the_counts(benchmark):
    models = {
        "timm/one": {"status": "found", "model": "a", "stages": [["layer1", 3]], "subnets": 1234, "seconds": 1.0},
        "timm/two": {
            "status": "failed",
            "model": "b",
            "stages": [],
            "subnets": 0,
            "seconds": 1.0,
            "reason": "it burns",
        },
    }
    versions = {"timm": "1", "torchvision": "2", "torch": "3"}
    page = benchmark.page({"found": 1, "not_residual": 0, "failed": 1, "models": models, "versions": versions})
    assert "**1 found, 0 not residual, 1 failed**" in page
    assert "| timm/one | a | found | `layer1` 3 | 1,234 |" in page and "| timm/two | b | failed | it burns |  |" in page
