"""Batch norms that take the statistics of the batches of all processes (``training.sync_batchnorm``).

They are PyTorch's and timm's, which need CUDA. All processes draw the same subnets, so that they call the same layers
in the same order. Where statistics are estimated processes look at other batches, so each keeps to its own then.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import distributed, nn
from torch.nn.modules.batchnorm import _BatchNorm

from stimulative.errors import UsageError

_KNOWN = {nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d}


def synchronised(model: nn.Module) -> nn.Module:
    """The model with layers in place of its batch norms that can synchronise, and do not yet.

    Args:
        model: The model; its batch norms are exchanged in place, with the same parameters and statistics.

    Raises:
        UsageError: If it has a batch norm that computes in a way of its own.
    """
    from timm.layers.norm_act import BatchNormAct2d, convert_sync_batchnorm

    known = {*_KNOWN, BatchNormAct2d, nn.SyncBatchNorm}
    strange = [
        f"{name} ({type(layer).__name__})"
        for name, layer in model.named_modules()
        if isinstance(layer, _BatchNorm) and type(layer) not in known
    ]
    if strange:
        raise UsageError(
            f"training.sync_batchnorm: {strange[0]} computes in a way of its own, and cannot be synchronised; leave "
            "the setting out"
        )
    model = convert_sync_batchnorm(model)
    synchronise(model, on=False)
    return model


def synchronise(model: nn.Module, *, on: bool) -> None:
    """Let synchronised batch norms of a model take the statistics of all processes, or of this one alone."""
    for layer in model.modules():
        if isinstance(layer, nn.SyncBatchNorm):
            layer.process_group = None if on else distributed.GroupMember.NON_GROUP_MEMBER


@contextmanager
def each_by_itself(model: nn.Module) -> Iterator[None]:
    """Within, synchronised batch norms take the statistics of this process's batches alone."""
    layers = [layer for layer in model.modules() if isinstance(layer, nn.SyncBatchNorm)]
    before = [layer.process_group for layer in layers]
    synchronise(model, on=False)
    try:
        yield
    finally:
        for layer, group in zip(layers, before, strict=True):
            layer.process_group = group
