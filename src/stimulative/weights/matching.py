"""Finds the weights of a model among all the tensors of a file, by their names.

The names of a model's tensors are the ends of names in the file: dictionaries of a checkpoint and modules around the
model (``module.`` of DataParallel and ``AveragedModel``, ``model.`` of Lightning, whatever a class calls it) only put
something before them. So no list of such beginnings is kept, and what is next to the model in the file (a counter of
averages, the weights of a loss) is not taken for a part of it. What wrappers put into the midst of names is left out of
account.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

# torch.compile, FSDP and activation checkpointing of single modules
_WRAPPED = re.compile(r"(?<![^.])(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")

# The names of torchvision's DenseNets before PyTorch 0.4.1, which its published files still have.
_OLD_DENSENET = re.compile(r"(denselayer\d+\.(?:norm|conv))\.(?=[12]\.)")


@dataclass(frozen=True)
class Match:
    """Tensors of a file that have, below one beginning of their names, names of a model.

    Args:
        key: The beginning, without its last dot; empty at the top of the file.
        weights: The tensors, under the names that the model has for them.
        unexpected: What else there is below it, by its name from there on.
    """

    key: str
    weights: Mapping[str, Tensor]
    unexpected: tuple[str, ...]

    def equals(self, other: Match) -> bool:
        """Whether both hold the same values, as where one module has two names."""
        return self.weights.keys() == other.weights.keys() and all(
            value is other.weights[name] or _equal(value, other.weights[name]) for name, value in self.weights.items()
        )


def matches(own: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> list[Match]:
    """Where in a file there are tensors with names of a model.

    Args:
        own: The model's state dict; only its names count.
        weights: The tensors of the file.

    Returns:
        All of them, those with the most of the model's names first, and of equals the one that is further up.
    """
    names = {_plain(name): name for name in own}
    found: dict[str, dict[str, Tensor]] = {}
    used: dict[str, set[str]] = {}
    for full, value in weights.items():
        for key, rest in _divided(full):
            name = names.get(_plain(rest))
            if name is not None:
                found.setdefault(key, {})[name] = value
                used.setdefault(key, set()).add(full)
    several = [Match(key, found[key], _others(key, weights, used[key])) for key in found]
    return sorted(several, key=lambda match: (-len(match.weights), match.key.count("."), len(match.key)))


def telling(keys: Sequence[str]) -> list[str]:
    """The least of each key that no other one begins with; a key that another one goes on from has none."""
    starts = [[start for start, _ in _divided(f"{key}.") if start] for key in keys]
    shared = Counter(start for several in starts for start in several)
    least = (next((start for start in several if shared[start] == 1), None) for several in starts)
    return [start for start in least if start is not None]


def _divided(name: str) -> Iterator[tuple[str, str]]:
    """Every way to divide a name into a beginning and the rest."""
    yield "", name
    for at, letter in enumerate(name):
        if letter == ".":
            yield name[:at], name[at + 1 :]


def _others(key: str, weights: Mapping[str, Tensor], used: set[str]) -> tuple[str, ...]:
    start = f"{key}." if key else ""
    return tuple(name.removeprefix(start) for name in weights if name.startswith(start) and name not in used)


def _plain(name: str) -> str:
    return _OLD_DENSENET.sub(r"\1", _WRAPPED.sub("", name))


def _equal(one: Tensor, other: Tensor) -> bool:
    return one.dtype == other.dtype and torch.equal(one, other)
