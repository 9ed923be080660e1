"""The benchmarks measure what they say, and the suite makes a table of it."""

import json
import sys
from functools import partial
from itertools import chain
from pathlib import Path

import pytest
import torch

import stimulative
from stimulative import models

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))
import all_subnets
import bench
import common
import host_overhead
import step_cost
import step_parts
import steps

SMALL = {"--model": "cifar/resnet20", "--size": "8"}
RUNS = {
    "step-cost": (step_cost, {**SMALL, "--batch": "2", "--rounds": "2"}),
    "step-parts": (step_parts, {**SMALL, "--batch": "2", "--rounds": "2"}),
    "host-overhead": (host_overhead, {"--rounds": "3", "--warmup": "0"}),
    "all-subnets": (all_subnets, {**SMALL, "--images": "2", "--rounds": "1"}),
}


@pytest.mark.parametrize("name", ["cifar/resnet20", "cifar/resnet18"])
def test_the_step_by_hand_is_the_step_of_the_library(name):
    """Gradients and running statistics, of subnets that depart early and late, and of the main net itself."""
    torch.manual_seed(0)
    model = models.build(name, classes=5).double()
    x, y = torch.randn(4, 3, 8, 8).double(), torch.randint(5, (4,))
    network = stimulative.unravel(model, x)
    network.train()
    start = {key: value.clone() for key, value in model.state_dict().items()}
    full = network.full
    late = stimulative.Subnet.from_depths([*full.depths[:-1], 1])
    for subnet, share in ((network.space.smallest, 0.5), (late, 1.0), (full, 0.5))[: 3 if "20" in name else 1]:
        method = stimulative.StimulativeTraining(network, subnet_share=share)
        hand = steps.HandWritten(model, lambda: None, share=share)
        found = []
        for run in (partial(method.backward, x, y, [subnet]), partial(hand.step, x, y, subnet)):
            model.load_state_dict(start)
            network.zero_grad(set_to_none=True)
            run()
            gradients = (parameter.grad for parameter in model.parameters())
            found.append([tensor.clone() for tensor in chain(gradients, model.buffers())])
        assert len(found[0]) > 50
        for by_library, by_hand in zip(*found, strict=True):
            torch.testing.assert_close(by_hand, by_library, rtol=1e-9, atol=1e-12)


def test_an_interval_is_by_the_order_of_the_rounds():
    """Of 24 the 7th and the 18th: that fewer than 7 are below the median has probability 0.011, and than 8 0.032."""
    found = common.interval([float(value) for value in range(24, 0, -1)])
    assert found == {"n": 24, "median": 12.5, "low": 7.0, "high": 18.0}
    assert common.interval([3.0, 1.0, 2.0]) == {"n": 3, "median": 2.0, "low": 1.0, "high": 3.0}
    stalled = common.ratios([1.3, 1.3, 30.0, 1.3, 1.3, 1.3], [1.0] * 6)
    assert stalled["median"] == 1.3


def test_everybody_goes_first_once():
    assert [list(common.in_turns("abc", number)) for number in range(3)] == [list("abc"), list("bca"), list("cab")]


def test_counts_by_hand():
    a, b = torch.ones(2, 3), torch.ones(3, 4)
    found = common.counts(lambda: (a @ b).t())
    assert (found["flops"], found["aten_operations"], found["kernels"]) == (2 * 2 * 3 * 4, 2, 1)
    assert common.python_calls(lambda: [len("abc"), len("de")]) >= 3  # the lambda, and len twice


def test_the_parts_run_and_the_page_has_their_tables(tmp_path, monkeypatch, capsys):
    for part, (benchmark, words) in RUNS.items():
        out = str(tmp_path / f"{part}-cpu.json")
        given = [benchmark.__name__, "--device", "cpu", "--json", out, *chain.from_iterable(words.items())]
        monkeypatch.setattr(sys, "argv", given)
        benchmark.main()
        result = json.loads(Path(out).read_text())
        assert benchmark.__name__ in result["command"] and "torch" in result["versions"]
    found = {part: json.loads((tmp_path / f"{part}-cpu.json").read_text()) for part in RUNS}
    counts = found["step-cost"]["counts"]
    assert counts["joint"]["flops"] == counts["hand"]["flops"] > counts["hand_half"]["flops"] > counts["bare"]["flops"]
    assert counts["common"]["flops"] == counts["bare"]["flops"] and counts["twice"]["flops"] > counts["joint"]["flops"]
    assert found["host-overhead"]["more_than_hand"]["joint"]["flops"] == 0
    assert found["all-subnets"]["max_difference"] < 1e-4 and found["all-subnets"]["by_operations"] > 1
    limits = {part: of["limit_ms"] for part, of in found["step-parts"]["parts"].items()}
    assert limits["backward"] > limits["main net's rest"] > limits["losses"] > 0
    page = tmp_path / "page.md"
    page.write_text(f"before\n{bench.BEGIN}\nold\n{bench.END}\nafter\n")
    monkeypatch.setattr(bench, "RESULTS", tmp_path)
    monkeypatch.setattr(bench, "PAGE", page)
    bench.write_page()
    text = page.read_text()
    assert text.startswith("before\n") and text.endswith("\nafter\n") and "old" not in text
    for part in RUNS:
        assert f"### {bench.TITLES[part]}" in text
    assert "older form" not in text and "| joint |" in text
    bench.write_page()
    assert page.read_text() == text
    assert set(bench.TABLES) == set(bench.TITLES) and set(bench.TABLES) < set(bench.PARTS)


def test_every_part_of_the_suite_is_a_benchmark(capsys):
    for script, *_ in bench.PARTS.values():
        assert (Path(bench.__file__).parent / script).is_file()
    assert "--page" in bench.__doc__
    sys_argv, sys.argv = sys.argv, ["bench.py", "speed"]
    try:
        with pytest.raises(SystemExit):
            bench.main()
    finally:
        sys.argv = sys_argv
    assert "known: step-cost" in capsys.readouterr().err
