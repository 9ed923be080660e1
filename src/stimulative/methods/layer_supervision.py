"""Layer supervision: an auxiliary classifier behind every residual block.

Lee et al., "Deeply-Supervised Nets", AISTATS 2015, arXiv 1409.5185. Hidden layers get classifiers of their own
("companion objectives"), and the network minimises

    L = CE(z_main, y) + sum_i weight * CE(z_i, y).

Table 1 of stimulative training (arXiv 2210.04153) compares with it. How its classifiers are built and weighed is not
stated in what we hold; those of global average pooling and one linear layer are ours.

Where this differs from Deeply-Supervised Nets, and why:

- Softmax classifiers on pooled features, as residual networks end in, instead of squared-hinge ones on all features.
- A constant weight. There it falls to 0 over training, and a classifier's loss stops to count once it is below a
  threshold; neither has a published value for residual networks.
- The weight is 0.3, that of the auxiliary classifiers of GoogLeNet (Szegedy et al., CVPR 2015, arXiv 1409.4842,
  section 5), which were summed in the same way.
- The last block has no classifier of its own: the model's classifier reads it.
"""

from __future__ import annotations

from stimulative.methods.heads import Point, block_points
from stimulative.methods.supervision import Supervision
from stimulative.residual import ResidualNetwork


class LayerSupervision(Supervision):
    """Train the main net and a classifier behind every block: ``loss = CE(z_main, y) + weight * sum_i CE(z_i, y)``.

    Args:
        network: The network to train.
        weight: Weight of each classifier's cross-entropy. 0 is common training, without classifiers.
        label_smoothing: Label smoothing of all cross-entropies, 0 to 1.
        total_steps: The number of batches that training will take, accumulated or not.
        seed: Seed of the classifiers' initial values.

    Raises:
        UsageError: If a setting has an impossible value, or a classifier cannot read the network's features.
    """

    title = "layer supervision"

    @classmethod
    def all_points(cls, network: ResidualNetwork) -> list[Point]:
        """Behind every block, in the order in which they run."""
        return block_points(network)
