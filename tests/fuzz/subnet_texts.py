"""Subnets as texts, as JSON, as numbers of blocks, and what a network makes of them."""

import json
import random
from pathlib import Path

import torch

import stimulative
from fuzz.changing import PIECES, STRANGE, changed, changed_text
from fuzz.judging import Wrong
from fuzz.kinds import Input
from stimulative.models import build
from stimulative.residual import Subnet


class SubnetTexts:
    """Of a ResNet with three stages of three blocks."""

    def __init__(self, place: Path) -> None:
        torch.manual_seed(0)
        model = build("cifar/resnet20", classes=10, channels=1, arguments={"width": 1}).eval()
        self.x = torch.randn(1, 1, 8, 8)
        self.network = stimulative.unravel(model, self.x)

    def input(self, draw: random.Random) -> Input:
        how = draw.random()
        if how < 0.5:
            text = changed_text(draw.choice(["1-1-1", "3-3-3", "2-[0.2]-3", "[0.1.2]-[0]-1", "1-2"]), draw)
            return f"text {text!r:.200}", lambda: self._text(text)
        if how < 0.6:
            text = "".join(draw.choice("0123456789-[]. ") for _ in range(draw.randrange(30)))
            return f"text {text!r}", lambda: self._text(text)
        if how < 0.75:
            text = json.dumps(changed([[0, 1], [0], [0, 1, 2]], draw))
            text = changed_text(text, draw) if draw.random() < 0.3 else text
            return f"JSON {text!r:.200}", lambda: self._run(Subnet.from_json(text))
        if how < 0.85:
            depths = changed([1, 2, 3], draw)
            return f"depths {depths!r:.200}", lambda: self._run(Subnet.from_depths(depths))
        if how < 0.95:
            ranges = changed([[1, 2], [1, 3], [2, 3]], draw)
            return f"ranges {ranges!r:.200}", lambda: list(self.network.space.restrict(ranges))[:100]
        given = draw.choice([draw.choice(STRANGE), draw.choice(PIECES), changed([[0], [0, 1], [0]], draw)])
        return f"given {given!r:.200}", lambda: self._run(given)

    def _text(self, text: str) -> None:
        subnet = Subnet.parse(text)
        if Subnet.parse(str(subnet)) != subnet or Subnet.from_json(subnet.to_json()) != subnet:
            raise Wrong(f"{subnet} is read as another subnet")
        self._run(subnet)

    def _run(self, subnet: object) -> None:
        self.network.space.check(self.network.resolve(subnet))
        with torch.no_grad():
            self.network(self.x, subnet)
