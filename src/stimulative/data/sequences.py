"""Documents as sequences of tokens with the next token at each position, and loaders of them.

A document `t1 … tn` with the end token `E` gives the inputs `E t1 … tn` and the targets `t1 … tn E`, cut into pieces
of equal length, of which the last one is padded. So each token of a document, and its end, is predicted once: from what
stands before it in its piece.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from stimulative.data.batches import Batch, CountedBatches, generator_for, share_of
from stimulative.data.tokens import Tokenizer
from stimulative.objectives import IGNORED
from stimulative.residual import sent


class Batched(Protocol):
    """Samples made of tokens, any of which make a batch."""

    @property
    def tokens(self) -> Tensor:
        """Their tokens, int32 (samples, length), on the device."""
        ...

    def batch(self, numbers: Tensor) -> Batch:
        """Some of them, as the model takes them.

        Args:
            numbers: Which ones, int64, on the CPU.
        """
        ...


@dataclass(frozen=True)
class Sequences:
    """Sequences of one part of a data set, on the device.

    Args:
        tokens: Tokens, int32 (sequences, length); behind the end of a document its end token.
        targets: The token that follows each of them, int32 (sequences, length), -100 behind the end.
    """

    tokens: Tensor
    targets: Tensor

    @classmethod
    def of(cls, texts: Sequence[str], tokenizer: Tokenizer, length: int, device: torch.device) -> "Sequences":
        """Cut documents into sequences of so many tokens."""
        tokens, targets = [], []
        for text in texts:
            document = torch.tensor([tokenizer.end, *tokenizer.encode(text), tokenizer.end], dtype=torch.int32)
            missing = -(len(document) - 1) % length
            tokens.append(F.pad(document[:-1], (0, missing), value=tokenizer.end))
            targets.append(F.pad(document[1:], (0, missing), value=IGNORED))
        return cls(*(torch.cat(values).view(-1, length).to(device) for values in (tokens, targets)))

    def __len__(self) -> int:
        return len(self.tokens)

    def batch(self, numbers: Tensor) -> Batch:
        """Some of them, as the model takes them."""
        numbers = sent(numbers, self.tokens.device)
        targets = self.targets[numbers].long()
        x = {"input_ids": self.tokens[numbers].long(), "attention_mask": (targets != IGNORED).long()}
        return x, targets

    def guess(self, classes: int) -> tuple[float, float]:
        """What predicting every token by its frequency alone gives: cross-entropy in nats, and accuracy in percent."""
        counted = self.targets[self.targets != IGNORED].long()
        shares = torch.bincount(counted, minlength=classes).double() / len(counted)
        return float(torch.special.entr(shares).sum()), 100 * float(shares.max())


class SequenceLoader(CountedBatches):
    """Batches of sequences.

    Args:
        sequences: The sequences.
        order: The numbers of those of an epoch, int64; always equally many.
        batch_size: Sequences per batch.
        drop_incomplete: Drop the last batch if it is incomplete, unless it is the only one.
    """

    def __init__(
        self,
        sequences: Batched,
        order: Callable[[int], Tensor],
        *,
        batch_size: int,
        drop_incomplete: bool = False,
    ) -> None:
        super().__init__(len(order(0)), batch_size, drop_incomplete=drop_incomplete)
        self._sequences = sequences
        self._order = order

    def __iter__(self) -> Iterator[Batch]:
        numbers = self._order(self._epoch)[: self._images]
        for chosen in numbers.split(self._batch_size):
            yield self._sequences.batch(chosen)


def training_order(count: int, *, seed: int, rank: int, world_size: int) -> Callable[[int], Tensor]:
    """So many sequences in an order of their own in every epoch; one process's share of them."""

    def order(epoch: int) -> Tensor:
        drawn = torch.randperm(count, generator=generator_for(seed, f"training epoch {epoch}"))
        return share_of(drawn, rank, world_size)

    return order


def calibration_order(count: int, seed: int) -> Callable[[int], Tensor]:
    """So many sequences in one drawn order, the same in every epoch."""
    shuffled = torch.randperm(count, generator=generator_for(seed, "calibration"))
    return lambda epoch: shuffled


def fixed_order(count: int) -> Callable[[int], Tensor]:
    """The same order in every epoch: that of the documents."""
    return lambda epoch: torch.arange(count)
