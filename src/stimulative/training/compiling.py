"""Compiling what repeats in every step: the blocks.

The model as a whole is another one with every subnet; its blocks are always the same. PyTorch keeps one piece of
compiled code for all blocks of a shape, in the main net as in its subnets, so a ResNet-50 has eight however many
subnets there are.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from stimulative.config import Recipe
from stimulative.data import Data
from stimulative.residual import ResidualNetwork
from stimulative.runs import Epoch
from stimulative.training.events import Callback

if TYPE_CHECKING:
    from stimulative.training.trainer import Trainer

_PIECES = 64  # far more than a net that repeats its blocks needs, and an end to one that is another in each step


def compile_blocks(
    network: ResidualNetwork,
    *,
    mode: str | None = None,
    varied: bool = False,
    backend: str | Callable[..., Any] = "inductor",
) -> None:
    """Compile the blocks of a network, in place.

    Args:
        network: The network.
        mode: What PyTorch's compiler is to go for; see ``torch.compile``.
        varied: Whether images or sequences come in many sizes. Code for one size is faster, and compiled anew for each.
        backend: What compiles; see ``torch.compile``.
    """
    for stage in network.stages:
        for name in stage.block_names:
            block = network.model.get_submodule(name)
            block.compile(mode=mode, dynamic=None if varied else False, backend=backend)


def sizes_vary(recipe: Recipe, data: Data) -> bool:
    """Whether images or sequences come in many sizes."""
    settings = recipe.method.settings
    return data.is_text or bool(settings.get("smaller_inputs")) or settings.get("tail_shrink", 1) != 1


@contextmanager
def compiling(*, several: bool = False) -> Iterator[None]:
    """A context in which the blocks of a network may be of many shapes; by default PyTorch gives up after eight.

    Args:
        several: Whether a step has several backward passes, which may go through the same graph: compiled code then
            must not reuse the memory of what it reads there.
    """
    from torch import _dynamo
    from torch._functorch import config

    with (
        _dynamo.config.patch(recompile_limit=max(_PIECES, _dynamo.config.recompile_limit)),
        config.patch(donated_buffer=config.donated_buffer and not several),
    ):
        yield


class TellsOfFallbacks(Callback):
    """Warns of code that PyTorch's compiler could not take, behind the first epoch in which it met it.

    And behind the last one, if that came too early for any whole step to be compiled.
    """

    def __init__(self) -> None:
        self.known = _fallbacks()

    def on_epoch(self, trainer: Trainer, epoch: Epoch) -> None:
        """Look at what the compiler has counted."""
        if trainer.epoch == trainer.epochs and (whole := trainer.whole_passes).still_counts:
            warnings.warn(
                "training.compile_steps: no whole step was compiled, since which ones come up most is counted in the "
                f"first {whole.counted}, and this training has {epoch.step}; leave it out for short ones",
                stacklevel=2,
            )
        new = [reason for reason in _fallbacks() if reason not in self.known]
        self.known += new
        if new:
            warnings.warn(
                "training.compile: a part of the blocks runs as it was written, not compiled, since PyTorch's compiler "
                f"met: {'; '.join(new)}. Results are the same; steps are slower than they could be",
                stacklevel=2,
            )


def _fallbacks() -> list[str]:
    """Why code was left as it was written, in the compiler's words."""
    from torch._dynamo.utils import counters

    return [
        str(reason).strip().partition("\n")[0] for kind in ("unimplemented", "graph_break") for reason in counters[kind]
    ]
