"""Whatever stands in the header of a family file, it is loaded or refused, in a moment and with a message."""

import copy
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

import stimulative
from stimulative.deploy import save_family
from stimulative.errors import UsageError
from stimulative.models import build

STRANGE = [None, 0, -1, 1.5, "x", "", [], {}, [[]], True, 10**30, "../x", "9-9-9", "\0", {"a": 1}, 10**7, ["layer1"]]


@pytest.fixture(scope="module")
def family(tmp_path_factory) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """The tensors of a family file, and what its header says."""
    torch.manual_seed(0)
    model = build("cifar/resnet20", classes=10, channels=1, arguments={"width": 2}).eval()
    file = tmp_path_factory.mktemp("family") / "family.safetensors"
    about = {
        "model": {"name": "cifar/resnet20", "arguments": {"width": 2}},
        **{"task": "images", "classes": list(range(10)), "channels": 1, "image_size": 8},
    }
    network = stimulative.unravel(model, torch.randn(2, 1, 8, 8))
    save_family(network, file, ["1-1-1", "3-2-3"], [torch.randn(8, 1, 8, 8)], about=about)
    with safe_open(file, framework="pt") as opened:
        tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
        return tensors, json.loads(opened.metadata()["stimulative"])


def places(value: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield place
    if isinstance(value, dict | list):
        for key in value if isinstance(value, dict) else range(len(value)):
            yield from places(value[key], (*place, key))


def changed(about: dict[str, Any], draw: random.Random) -> dict[str, Any]:
    about = copy.deepcopy(about)
    for _ in range(draw.choice([1, 1, 2])):
        *way, last = draw.choice([place for place in places(about) if place])
        owner: Any = about
        for key in way:
            owner = owner[key]
        if draw.random() < 0.7:
            owner[last] = copy.deepcopy(draw.choice(STRANGE))
        else:
            del owner[last]
    return about


def test_headers_that_were_changed_anywhere(family, tmp_path: Path):
    tensors, about = family
    draw, ends = random.Random(0), {"loaded": 0, "refused": 0}
    for _ in range(80):
        file = tmp_path / "changed.safetensors"
        save_file(tensors, file, metadata={"stimulative": json.dumps(changed(about, draw))})
        try:
            stimulative.load(file)
            ends["loaded"] += 1
        except UsageError:
            ends["refused"] += 1
    assert ends["loaded"] > 5 and ends["refused"] > 30
