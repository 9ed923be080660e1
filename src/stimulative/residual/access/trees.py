"""Tensors in nested containers.

PyTorch's ``pytree`` knows every container that a model may take or return, and takes its time. Plain tensors, tuples,
lists and dictionaries, which is what nearly every call of nearly every block has, are walked here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.utils import _pytree as pytree

_PLAIN = frozenset({type(None), bool, int, float, str})


def map_tensors(function: Callable[[Tensor], Any], tree: Any, *, is_leaf: Callable[[Any], bool] | None = None) -> Any:
    """The same containers with what a function makes of each tensor in its place.

    Args:
        function: Called with each tensor.
        tree: Tensors in nested containers.
        is_leaf: Whether something that is no tensor is to stay as it is, whatever it holds.
    """
    kind = type(tree)
    if kind is tuple:
        return tuple([map_tensors(function, part, is_leaf=is_leaf) for part in tree])
    if kind is list:
        return [map_tensors(function, part, is_leaf=is_leaf) for part in tree]
    if kind is dict:
        return {key: map_tensors(function, part, is_leaf=is_leaf) for key, part in tree.items()}
    if isinstance(tree, Tensor):
        return function(tree)
    return tree if kind in _PLAIN else pytree.tree_map_only(Tensor, function, tree, is_leaf=is_leaf)


def tensors_in(tree: Any) -> list[Tensor]:
    """All tensors in nested containers, in order."""
    kind = type(tree)
    if kind is tuple or kind is list:
        return [tensor for part in tree for tensor in tensors_in(part)]
    if isinstance(tree, Tensor):
        return [tree]
    return [] if kind in _PLAIN else [leaf for leaf in pytree.tree_leaves(tree) if isinstance(leaf, Tensor)]
