"""Stage supervision: an auxiliary classifier behind every stage.

Lee et al., "Deeply-Supervised Nets", AISTATS 2015, arXiv 1409.5185, with classifiers behind stages instead of layers:

    L = CE(z_main, y) + sum_i weight * CE(z_i, y).

Table 1 of stimulative training (arXiv 2210.04153) compares with it; the classifiers are ours here, too. What differs
from Deeply-Supervised Nets is the same as for layer supervision, and is listed at the head of
``layer_supervision.py``. The last stage has no classifier of its own: the model's classifier reads it. A network whose
blocks are all one stage, such as a plain vision transformer, is divided into four sections of equal depth.
"""

from __future__ import annotations

from stimulative.methods.heads import Point, stage_points
from stimulative.methods.supervision import Supervision
from stimulative.residual import ResidualNetwork


class StageSupervision(Supervision):
    """Train the main net and a classifier behind every stage: ``loss = CE(z_main, y) + weight * sum_i CE(z_i, y)``.

    Args:
        network: The network to train.
        weight: Weight of each classifier's cross-entropy. 0 is common training, without classifiers.
        label_smoothing: Label smoothing of all cross-entropies, 0 to 1.
        total_steps: The number of batches that training will take, accumulated or not.
        seed: Seed of the classifiers' initial values.

    Raises:
        UsageError: If a setting has an impossible value, or a classifier cannot read the network's features.
    """

    title = "stage supervision"

    @classmethod
    def all_points(cls, network: ResidualNetwork) -> list[Point]:
        """Behind every stage, in the order in which they run."""
        return stage_points(network)
