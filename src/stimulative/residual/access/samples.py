"""The samples of a batch, in nested containers of tensors."""

from __future__ import annotations

from collections import Counter
from typing import Any

from torch import Tensor
from torch.utils import _pytree as pytree

from stimulative.residual.access.trees import tensors_in


def batch_size(tree: Any) -> int:
    """How many samples a batch holds: the first dimension that most of its tensors have, of several the first one.

    0 where no tensor has a dimension.
    """
    if isinstance(tree, Tensor):
        return len(tree) if tree.dim() else 0
    lengths = Counter(len(tensor) for tensor in tensors_in(tree) if tensor.dim())
    return lengths.most_common(1)[0][0] if lengths else 0


def first_samples(tree: Any, samples: int, batch: int) -> Any:
    """The first samples of a batch, of every tensor and every list that has one entry for each of its samples.

    Args:
        tree: The batch; what holds no samples, such as a table of positions, stays as it is.
        samples: How many of them to keep.
        batch: How many it holds.
    """

    def cut(node: Any) -> Any:
        return node[:samples] if is_batch(node) else node

    def is_batch(node: Any) -> bool:
        if isinstance(node, Tensor):
            return node.dim() > 0 and len(node) == batch
        of_samples = isinstance(node, list | tuple) and len(node) == batch
        return of_samples and not any(map(is_batch, pytree.tree_leaves(node)))

    return pytree.tree_map(cut, tree, is_leaf=is_batch)
