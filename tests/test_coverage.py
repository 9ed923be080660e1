"""The benchmark that says which architectures can be unraveled: a part of it that is quick, and how it judges."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import stimulative.deploy.extraction

BENCHMARK = Path(__file__).parents[1] / "benchmarks" / "coverage.py"


@pytest.fixture
def benchmark(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARK.parent))
    spec = importlib.util.spec_from_file_location("coverage_of_architectures", BENCHMARK)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    for name in ("common", "coverage_page", "reloading", "small_models"):
        sys.modules.pop(name, None)


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


def test_models_of_transformers_are_saved_and_loaded_again():
    types = ["gpt2", "funnel", "squeezebert", "timm_backbone"]
    result = run("--only", ",".join(f"transformers/{model_type}" for model_type in types))
    gpt2, funnel, squeezebert, backbone = (result["models"][f"transformers/{model_type}"] for model_type in types)
    assert gpt2["outcomes"] == funnel["outcomes"] == {"restored": 3}
    assert gpt2["stages"] == [["transformer.h", 4]] and [blocks for _, blocks in funnel["stages"]] == [3, 3, 3]
    assert squeezebert["status"] == "found" and squeezebert["outcomes"] == {"said so": 3}
    assert "output.conv1d.bias is of shape None here" in squeezebert["reason"]
    assert backbone["status"] == "not tried" and "backbone is not set in the config" in backbone["reason"]


def test_a_model_that_comes_back_otherwise_without_a_word_has_failed(benchmark, monkeypatch):
    monkeypatch.setattr(stimulative.deploy.extraction, "restored_otherwise", lambda *_: None)
    found = benchmark.try_family("transformers/squeezebert")
    assert found["status"] == "failed" and found["outcomes"] == {"wrong": 3} and found["reason"] == "logits differs"


def test_the_page_holds_every_family_and_the_counts(benchmark):
    others: dict[str, dict[str, Any]] = {
        "timm/one": {"status": "found", "model": "a", "stages": [["layer1", 3]], "subnets": 1234},
        "timm/two": {"status": "failed", "model": "b", "stages": [], "subnets": 0, "reason": "it burns"},
    }
    of_transformers: dict[str, dict[str, Any]] = {
        "transformers/three": {
            "status": "found",
            "model": "c",
            "stages": [["layers", 4]],
            "subnets": 4,
            "outcomes": {"restored": 1, "said so": 2},
            "reason": "x is 1 here and 2 there",
        },
        "transformers/four": {"status": "not tried", "model": "", "stages": [], "outcomes": {}, "reason": "no"},
    }
    versions = {"timm": "1", "torchvision": "2", "torch": "3", "transformers": "4"}
    page = benchmark.page({"models": others | of_transformers, "versions": versions})
    assert "with timm 1, torchvision 2, transformers 4, torch 3." in page
    assert "**1 found, 1 failed.**" in page
    assert "| timm/one | a | found | `layer1` 3 | 1,234 |" in page and "| timm/two | b | failed | it burns |  |" in page
    assert "**1 found, 1 not tried, 0 failed**; of 3 subnets 1 restored, 2 said so, 0 refused, 0 wrong." in page
    assert "| transformers/three | c | `layers` 4 | 1 restored, 2 said so | x is 1 here and 2 there |" in page
    assert page.endswith("`save_pretrained` and `from_pretrained`: four.\n")


def test_a_run_goes_on_where_it_was_ended_and_tries_again_what_failed(tmp_path, benchmark, monkeypatch):
    tried = []

    def in_processes(families, seconds, jobs):
        for family in families:
            tried.append(family)
            status = "failed" if (family, len(tried)) == ("timm/rexnet", 2) else "found"
            yield (
                family,
                {"status": status, "model": "a", "stages": [["b", 2]], "subnets": 2, "seconds": 1.0, "reason": ""},
            )
            if len(tried) == 3:
                raise KeyboardInterrupt

    monkeypatch.setattr(benchmark, "_in_processes", in_processes)
    only = ["timm/repghost", "timm/rexnet", "timm/vgg", "timm/vovnet"]
    with pytest.raises(KeyboardInterrupt):
        benchmark.cover(only=only, keep=tmp_path / "kept.jsonl")
    assert tried == ["timm/repghost", "timm/rexnet", "timm/vgg"]
    result = benchmark.cover(only=only, keep=tmp_path / "kept.jsonl")
    assert tried[3:] == ["timm/rexnet", "timm/vovnet"]
    assert result["found"] == 4 and list(result["models"]) == sorted(only)


def test_subnets_of_what_transformers_itself_does_not_restore_are_not_tried(benchmark, monkeypatch):
    class Lost(type(benchmark.small_models.small_model("bert")[0])):
        """Comes back with another parameter."""

        @classmethod
        def from_pretrained(cls, *args, **kwargs):
            model = super().from_pretrained(*args, **kwargs)
            model.cls.predictions.bias.data += 1
            return model

    model, inputs = benchmark.small_models.small_model("bert")
    model.__class__ = Lost
    monkeypatch.setattr(benchmark.reloading, "small_model", lambda model_type: (model, inputs))
    found = benchmark.reloading.try_type("bert")
    assert found["status"] == "not tried" and found["reason"] == "the whole model is not restored: logits differs"
