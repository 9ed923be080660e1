"""The benchmark of latency runs, and writes what it says."""

import json
import subprocess
import sys
from pathlib import Path

BENCHMARK = Path(__file__).parents[1] / "benchmarks" / "latency.py"


def test_the_benchmark_times_every_form_of_every_depth(tmp_path):
    out = tmp_path / "latency.json"
    words = ["--model", "cifar/resnet20", "--size", "8", "--depths", "3", "--batches", "1,2", "--seconds", "0"]
    command = [sys.executable, str(BENCHMARK), *words, "--device", "cpu", "--threads", "1", "--json", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    result = json.loads(out.read_text())
    assert [(row["batch"], row["subnet"]) for row in result["rows"]] == [
        (batch, subnet) for batch in (1, 2) for subnet in ("1-1-1", "2-2-2", "3-3-3")
    ]
    for row in result["rows"]:
        assert row["n"] == 5  # rounds without any time for more
        for form in ("in_place", "extracted", "onnx"):
            assert row[form]["median_ms"] > 0 and row[form]["iqr_ms"] >= 0
        for form in ("extracted", "onnx"):
            ratio = row[f"{form}_to_in_place"]
            assert 0 < ratio["confidence_95"][0] <= ratio["median"] <= ratio["confidence_95"][1]
    assert result["rows"][0]["flops"] < result["rows"][2]["flops"]
    assert (result["model"], result["threads"]) == ("cifar/resnet20", 1)
    assert {"torch", "onnxruntime"} <= set(result["versions"]) and "--batches 1,2" in result["command"]
    assert done.stdout.count("extracted") == 6
