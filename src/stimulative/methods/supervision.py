"""What layer supervision and stage supervision have in common: a classifier at each of some points."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from torch import Tensor, nn

from stimulative.errors import UsageError
from stimulative.methods.base import Method, Terms, check_settings, impossible, refuse_subnets
from stimulative.methods.heads import Layout, LinearHead, Point, initialising, layouts_of, reading
from stimulative.residual import ResidualNetwork, SubnetLike
from stimulative.tasks import Task


class Supervision(Method):
    """Train the main net and classifiers inside of it: ``loss = CE(z_main, y) + weight * sum_i CE(z_i, y)``.

    Args:
        network: The network to train.
        weight: Weight of each classifier's cross-entropy. 0 is common training, without classifiers.
        task: What the network is for; see ``Method``.
        label_smoothing: Label smoothing of all cross-entropies, 0 to 1.
        total_steps: The number of batches that training will take, accumulated or not.
        seed: Seed of the classifiers' initial values.

    Raises:
        UsageError: If a setting has an impossible value, or a classifier cannot read the network's features.
    """

    title: ClassVar[str]
    tasks = ("classification", "multilabel", "regression")

    def __init__(
        self,
        network: ResidualNetwork,
        *,
        weight: float = 0.3,
        task: str | Task | None = None,
        label_smoothing: float = 0.0,
        total_steps: int | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(network, task=task, label_smoothing=label_smoothing, total_steps=total_steps, seed=seed)
        check_settings(type(self), {"weight": weight})
        self.weight = weight
        self.points = inner_points(self.title, self.all_points(network)) if weight else []
        self.layouts: list[Layout] = []
        self.heads = nn.ModuleList()
        if self.points:
            self.layouts, classes = layouts_of(network, self.points)
            with initialising(self.generator):
                self.heads.extend(LinearHead(layout, classes) for layout in self.layouts)
            self.heads.to(next(network.parameters()))

    @classmethod
    def all_points(cls, network: ResidualNetwork) -> list[Point]:
        """Where classifiers belong, the last one standing for the model's own."""
        raise NotImplementedError

    @classmethod
    def problems(cls, settings: Mapping[str, Any]) -> list[str]:
        """What is impossible about settings of this method, a sentence each."""
        return impossible(settings, {"weight": (lambda v: v >= 0, "0 or more")})

    def forward(self, x: Any, y: Any, subnets: Sequence[SubnetLike] | None = None) -> Terms:
        """The terms of one step; see ``Method.forward``."""
        refuse_subnets(self.title, subnets)
        read: dict[int, Tensor] = {}

        def head(number: int, features: list[Tensor]) -> None:
            read[number] = self.heads[number](features)

        with reading(self.network, self.points, self.layouts, head):
            logits = self.run_main(x)
        main_ce = self.label_loss(logits, y)
        self._count()
        if not read:
            return Terms(loss=main_ce, main_ce=main_ce, logits=logits)
        total = sum_of([self.label_loss(z, y) for z in read.values()])
        loss = main_ce + self.weight * total
        return Terms(loss=loss, main_ce=main_ce, auxiliary=total / len(read), logits=logits)


def inner_points(title: str, points: Sequence[Point]) -> list[Point]:
    """All points but the last one, where the model's own classifier is.

    Raises:
        UsageError: If there is no other.
    """
    if len(points) < 2:
        raise UsageError(
            f"{title} puts classifiers before the last block, but this network has a single block. Train it with "
            "CommonTraining (method common)"
        )
    return list(points[:-1])


def sum_of(losses: Sequence[Tensor]) -> Tensor:
    """The sum of scalars."""
    first, *others = losses
    for loss in others:
        first = first + loss
    return first
