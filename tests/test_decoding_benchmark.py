"""The benchmark of reading images runs, and counts what it says."""

import json
import runpy
import sys
from pathlib import Path

import pytest
import torch

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


def test_the_benchmark_reads_both_ways_in_turn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    out = tmp_path / "decoding.json"
    words = ["--images", "8", "--batch", "3", "--rounds", "2", "--device", "cpu", "--json", str(out)]
    monkeypatch.setattr(sys, "argv", ["decoding.py", *words])
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    threads = torch.get_num_threads()
    try:
        runpy.run_path(str(BENCHMARKS / "decoding.py"), run_name="__main__")
    finally:
        torch.set_num_threads(threads)
    result = json.loads(out.read_text())
    for part in ("training", "evaluation"):
        figures = result["parts"][part]
        assert figures["ratio"]["n"] == figures["cpu_ratio"]["n"] == 2
        assert result[part] == round(figures["ratio"]["median"], 4) > 0
        ours, theirs = figures["ours"], figures["torchvision"]
        assert ours["bytes_per_image"] == 3 * 224 * 224 == theirs["bytes_per_image"] / 4
        assert 0 < ours["operators"] < theirs["operators"]
    assert result["threads"] == 1 and {"torch", "torchvision"} <= set(result["versions"])
