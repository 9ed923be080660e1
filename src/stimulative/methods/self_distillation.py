"""Self-distillation: shallow classifiers that learn from the deepest one.

Zhang et al., "Be Your Own Teacher: Improve the Performance of Convolutional Neural Networks via Self Distillation",
ICCV 2019, arXiv 1905.08094. The network is divided into its stages, and every stage but the last one gets a bottleneck,
pooling and a linear layer. With ``C`` the deepest classifier, the model's own,

    L = CE(z_C, y) + weight * sum_i [(1 - alpha) * CE(z_i, y) + alpha * KL(softmax(z_C / T) || softmax(z_i / T))
                                     + hint_weight * ||F_i - F_C||],

where ``F`` are the pooled features before the linear layers, and ``z_C`` and ``F_C`` are fixed targets.

Where this differs from the paper or the authors' published code, and why:

- ``alpha`` 0.3, ``T`` 3 and ``hint_weight`` 0.03 are the code's defaults, and belong to its form of the terms, which is
  ours: the divergence is not multiplied by ``T^2``, and the hint is the Euclidean norm over the batch, not its square.
- The code leaves out the hint of one classifier; the paper, and this, give it to all.
- A bottleneck of convolutions is that of the authors' later code: for every change of shape from here to the deepest
  stage, two depthwise-separable convolutions with BatchNorm and ReLU, the first one with the change's stride. It is
  derived from the shapes, so it fits any network. Its last ReLU is left out where the deepest features have negative
  values, which it could not reach. The attention of the later code is left out; it is not in this paper.
- Features of transformers and other networks without convolutional maps are pooled first; their bottleneck is a layer
  norm and two linear layers with a GELU in between. This is ours: the paper has none.
- A network whose blocks are all one stage is divided into four sections of equal depth.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from stimulative.methods.base import Method, Terms, check_settings, impossible, refuse_subnets
from stimulative.methods.heads import Layout, initialising, layouts_of, reading, stage_points
from stimulative.methods.supervision import inner_points, sum_of
from stimulative.objectives import hint_loss, shallow_loss
from stimulative.residual import ResidualNetwork, SubnetLike
from stimulative.tasks import Task

_CONVOLUTIONS: dict[int, Any] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
_NORMS: dict[int, Any] = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}


class SelfDistillation(Method):
    """Train the main net and shallow classifiers that learn from it.

    Args:
        network: The network to train.
        alpha: Share of the divergence from the deepest classifier in a shallow one's loss, 0 to 1; the rest is
            cross-entropy.
        temperature: Temperature of both distributions in the divergence.
        hint_weight: Weight of the distance between shallow features and the deepest ones.
        weight: Weight of all that the shallow classifiers add. 0 is common training, without classifiers.
        task: What the network is for; see ``Method``.
        label_smoothing: Label smoothing of all cross-entropies, 0 to 1.
        total_steps: The number of batches that training will take, accumulated or not.
        seed: Seed of the classifiers' initial values.

    Raises:
        UsageError: If a setting has an impossible value, or a classifier cannot read the network's features.
    """

    tasks = ("classification",)

    def __init__(
        self,
        network: ResidualNetwork,
        *,
        alpha: float = 0.3,
        temperature: float = 3.0,
        hint_weight: float = 0.03,
        weight: float = 1.0,
        task: str | Task | None = None,
        label_smoothing: float = 0.0,
        total_steps: int | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(network, task=task, label_smoothing=label_smoothing, total_steps=total_steps, seed=seed)
        settings = {"alpha": alpha, "temperature": temperature, "hint_weight": hint_weight, "weight": weight}
        check_settings(type(self), settings)
        self.alpha = alpha
        self.temperature = temperature
        self.hint_weight = hint_weight
        self.weight = weight
        self.points = stage_points(network) if weight else []
        self.layouts: list[Layout] = []
        self.heads = nn.ModuleList()
        if self.points:
            shallow = inner_points("self-distillation", self.points)
            self.layouts, classes = layouts_of(network, self.points)
            with initialising(self.generator):
                self.heads.extend(ShallowClassifier(self.layouts[at:], classes) for at in range(len(shallow)))
            self.heads.to(next(network.parameters()))

    @classmethod
    def problems(cls, settings: Mapping[str, Any]) -> list[str]:
        """What is impossible about settings of this method, a sentence each."""
        rules = {
            "alpha": (lambda v: 0 <= v <= 1, "a share, 0 to 1"),
            "temperature": (lambda v: v > 0, "above 0"),
            "hint_weight": (lambda v: v >= 0, "0 or more"),
            "weight": (lambda v: v >= 0, "0 or more"),
        }
        return impossible(settings, rules)

    def forward(self, x: Any, y: Any, subnets: Sequence[SubnetLike] | None = None) -> Terms:
        """The terms of one step; see ``Method.forward``."""
        refuse_subnets("self-distillation", subnets)
        shallow: dict[int, tuple[Tensor, Tensor]] = {}
        deepest: list[Tensor] = []

        def head(number: int, features: list[Tensor]) -> None:
            if number < len(self.heads):
                shallow[number] = self.heads[number](features)
            else:
                with torch.no_grad():
                    deepest[:] = [self.layouts[-1].pool(features)]

        with reading(self.network, self.points, self.layouts, head):
            logits = self.run_main(x)
        main_ce = self.label_loss(logits, y)
        self._count()
        if not shallow:
            return Terms(loss=main_ce, main_ce=main_ce, logits=logits)
        losses = [self._shallow(features, z, deepest[0], logits, y) for features, z in shallow.values()]
        total = sum_of(losses)
        loss = main_ce + self.weight * total
        return Terms(loss=loss, main_ce=main_ce, auxiliary=total / len(losses), logits=logits)

    def _shallow(self, features: Tensor, z: Tensor, deepest_features: Tensor, deepest: Tensor, y: Tensor) -> Tensor:
        loss = shallow_loss(
            z, deepest, y, alpha=self.alpha, temperature=self.temperature, label_smoothing=self.label_smoothing
        )
        return loss + self.hint_weight * hint_loss(features, deepest_features) if self.hint_weight else loss


class ShallowClassifier(nn.Module):
    """A bottleneck that gives features the width of the deepest ones, pooling, and a linear layer.

    Args:
        layouts: What the features look like here and behind all following stages, the deepest last.
        classes: The number of classes.
    """

    def __init__(self, layouts: Sequence[Layout], classes: int) -> None:
        super().__init__()
        here, deepest = layouts[0], layouts[-1]
        self.layout = here
        kinds = {len(layout.positions) if layout.is_map else 0 for layout in layouts}
        self.convolves = len(kinds) == 1 and kinds <= _CONVOLUTIONS.keys()
        if self.convolves:
            layers = list(_convolutions(layouts))
            self.bottleneck = nn.Sequential(*(layers if deepest.non_negative else layers[:-1]))
        else:
            self.bottleneck = nn.Sequential(
                nn.LayerNorm(here.channels),
                nn.Linear(here.channels, deepest.channels),
                nn.GELU(),
                nn.Linear(deepest.channels, deepest.channels),
            )
        self.classifier = nn.Linear(deepest.channels, classes)

    def forward(self, features: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Pooled features of shape ``(B, deepest channels)``, and logits of shape ``(B, classes)``."""
        if self.convolves:
            x = torch.cat(list(features), 1) if len(features) > 1 else features[0]
            pooled = self.bottleneck(x).flatten(2).mean(2)
        else:
            pooled = self.bottleneck(self.layout.pool(features))
        return pooled, self.classifier(pooled)


def _convolutions(layouts: Sequence[Layout]) -> Iterator[nn.Module]:
    """The layers of a bottleneck, each change of shape on the way to the deepest features in its turn."""
    shapes = [(layout.channels, layout.positions) for layout in layouts]
    changes = [(a, b) for a, b in pairwise(shapes) if a != b] or [(shapes[0], shapes[-1])]
    for (width_in, sizes_in), (width_out, sizes_out) in changes:
        stride = tuple(max(1, round(a / b)) for a, b in zip(sizes_in, sizes_out, strict=True))
        yield from _separable(width_in, width_in, stride)
        yield from _separable(width_in, width_out, (1,) * len(stride))


def _separable(width_in: int, width_out: int, stride: tuple[int, ...]) -> Iterator[nn.Module]:
    convolution = _CONVOLUTIONS[len(stride)]
    yield convolution(width_in, width_in, 3, stride, 1, groups=width_in, bias=False)
    yield convolution(width_in, width_out, 1, bias=False)
    yield _NORMS[len(stride)](width_out)
    yield nn.ReLU()
