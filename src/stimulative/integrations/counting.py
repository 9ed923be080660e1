"""How many batches a trainer will train on, where it counts steps of its optimiser."""

from __future__ import annotations

import math
from collections.abc import Callable


def batches_in(*, epochs: float, updates: float, per_epoch: float, accumulate: Callable[[int], int]) -> int | None:
    """The batches of a training that ends after so many epochs or optimiser steps, whichever comes first.

    The optimiser steps once for several batches, and for fewer at the end of an epoch that has some left.

    Args:
        epochs: Epochs at most; infinity for no limit.
        updates: Optimiser steps at most; infinity for no limit.
        per_epoch: Batches in an epoch; infinity where nobody knows.
        accumulate: The batches of an optimiser step, by the number of the epoch from 0.

    Returns:
        Their number; None where there is no limit, or it cannot be known.
    """
    if math.isinf(updates):
        batches = epochs * per_epoch if per_epoch else 0
        return None if math.isinf(batches) else int(batches)
    batches, epoch = 0, 0
    while updates > 0 and epoch < epochs and per_epoch > 0:
        here = min(per_epoch, updates * accumulate(epoch))
        batches += int(here)
        updates -= math.ceil(here / accumulate(epoch))
        epoch += 1
    return batches
