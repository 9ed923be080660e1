"""Headers of family files that were changed, and files of which bytes were."""

import json
import random
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file

import stimulative
from fuzz.changing import changed, changed_bytes
from fuzz.judging import Wrong
from fuzz.kinds import Input
from stimulative.deploy import save_family
from stimulative.models import build


class FamilyHeaders:
    """Of a small family file of two subnets."""

    def __init__(self, place: Path) -> None:
        torch.manual_seed(0)
        model = build("cifar/resnet20", classes=10, channels=1, arguments={"width": 2}).eval()
        self.file, self.changed = place / "family.safetensors", place / "changed.safetensors"
        about = {
            "model": {"name": "cifar/resnet20", "arguments": {"width": 2}},
            **{"task": "images", "classes": list(range(10)), "channels": 1, "image_size": 8},
        }
        network = stimulative.unravel(model, torch.randn(2, 1, 8, 8))
        save_family(network, self.file, ["1-1-1", "3-2-3"], [torch.randn(8, 1, 8, 8)], about=about)
        with safe_open(self.file, framework="pt") as opened:
            self.tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
            self.about = json.loads(opened.metadata()["stimulative"])
        self.content, self.x = self.file.read_bytes(), torch.randn(4, 1, 8, 8)
        self.right = self._outputs(self.file)

    def _outputs(self, file: Path) -> list[torch.Tensor]:
        network, outputs = stimulative.load(file), []
        for subnet in network.subnets:
            with network.use(subnet), torch.no_grad():
                outputs.append(network(self.x))
        return outputs

    def input(self, draw: random.Random) -> Input:
        if draw.random() < 0.3:
            content = changed_bytes(self.content, draw)
            return "a file with other bytes", lambda: self._bytes(content)
        about = changed(self.about, draw)
        return f"header {json.dumps(about):.2000}", lambda: self._header(json.dumps(about))

    def _header(self, about: str) -> None:
        save_file(self.tensors, self.changed, metadata={"stimulative": about})
        stimulative.load(self.changed)

    def _bytes(self, content: bytes) -> None:
        self.changed.write_bytes(content)
        found = self._outputs(self.changed)
        if not all(torch.equal(one, right) for one, right in zip(found, self.right, strict=True)):
            raise Wrong("a damaged family file gives other outputs")
