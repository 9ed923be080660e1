"""Texts for encoders: a line each, without labels, in `PATH/train.txt` and `PATH/val.txt`."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from stimulative.data import fingerprints, sequences
from stimulative.data.batches import Batch, LazyLoader, Loader
from stimulative.data.dataset import SentenceData
from stimulative.data.kind import KindSettings, Opening
from stimulative.data.split import hold_out_any
from stimulative.data.texts import DEFAULT_LENGTH
from stimulative.data.tokens import Tokenizer, tokenizer_of
from stimulative.errors import UsageError
from stimulative.files import user_path
from stimulative.residual import sent

SENTENCES = "sentences:"

_TRAIN, _TEST = "train.txt", "val.txt"


@dataclass(frozen=True)
class SentenceSettings(KindSettings):
    """Settings of texts without labels.

    Args:
        length: The most tokens of a text; None for the usual number.
        tokenizer: `bytes`, or the path of a tokenizer.
        validation: Share of the texts held out.
    """

    task = "embedding"
    accepted = ("workers",)

    length: int | None
    tokenizer: str
    validation: float

    def problems(self) -> dict[str, str]:
        """What cannot be used as given, by key."""
        found = super().problems()
        if self.name == SENTENCES:
            found["name"] = f"data.name: '{SENTENCES}' needs the path of a folder with {_TRAIN} and {_TEST}"
        return found

    def open(self, opening: Opening) -> SentenceData:
        """Read the texts; those to test on are read when they are first used."""
        root = user_path(self.name.removeprefix(SENTENCES))
        found = read_lines(root / _TRAIN)
        _check_there(root / _TEST)
        tokenizer = tokenizer_of(self.tokenizer)
        length, seed = self.length or DEFAULT_LENGTH, opening.seed
        training, validation = (
            [found[number] for number in part]
            for part in hold_out_any(len(found), self.validation, seed=seed, what="texts")
        )
        opening.check_shares(len(training), "texts")
        train = Sentences.of(training, tokenizer, length, opening.device)

        def in_order(texts: Sentences, order: Callable[[int], Tensor] | None = None) -> Loader:
            return sequences.SequenceLoader(
                texts, order or sequences.fixed_order(len(texts)), batch_size=self.evaluation_batch_size
            )

        def test() -> Loader:
            return in_order(Sentences.of(read_lines(root / _TEST), tokenizer, length, opening.device))

        calibration = in_order(train, sequences.calibration_order(len(train), seed))
        return SentenceData(
            name=self.name,
            classes=len(tokenizer.names),
            class_names=tokenizer.names,
            length=length,
            train=sequences.SequenceLoader(
                train,
                sequences.training_order(len(train), seed=seed, rank=opening.rank, world_size=opening.world_size),
                batch_size=self.batch_size,
                drop_incomplete=True,
            ),
            validation=in_order(Sentences.of(validation, tokenizer, length, opening.device)),
            test=LazyLoader(test),
            calibration=calibration,
            plain_calibration=calibration,
            fingerprint={
                "training texts": fingerprints.of_texts(found),
                "tokens": fingerprints.of_texts(tokenizer.names),
            },
        )


@dataclass(frozen=True)
class Sentences:
    """Texts of one part of a data set, on the device.

    Args:
        tokens: Tokens, int32 (texts, tokens of the longest one), padded behind their ends.
        lengths: How many of them each text has, int64 (texts,), on the CPU, which has to know how long a batch is.
    """

    tokens: Tensor
    lengths: Tensor

    @classmethod
    def of(cls, texts: Sequence[str], tokenizer: Tokenizer, length: int, device: torch.device) -> "Sentences":
        """Make tokens of texts, so many of each at most."""
        cut = [torch.tensor(tokenizer.whole(text, length), dtype=torch.int32) for text in texts]
        longest = max(map(len, cut))
        padded = [F.pad(tokens, (0, longest - len(tokens)), value=tokenizer.padding) for tokens in cut]
        return cls(torch.stack(padded).to(device), torch.tensor([len(tokens) for tokens in cut]))

    def __len__(self) -> int:
        return len(self.tokens)

    def batch(self, numbers: Tensor) -> Batch:
        """Some of them, as long as the longest of these, and no targets."""
        lengths = self.lengths[numbers]
        longest = int(lengths.max())
        mask = torch.arange(longest) < lengths[:, None]
        device = self.tokens.device
        tokens = self.tokens[sent(numbers, device), :longest]
        return {"input_ids": tokens.long(), "attention_mask": sent(mask.long(), device)}, None


def read_lines(path: Path) -> list[str]:
    """The texts of a file, a line each; empty lines are none.

    Raises:
        UsageError: If it cannot be read, or holds no text.
    """
    _check_there(path)
    try:
        texts = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} cannot be read as text ({error}); save it as UTF-8") from error
    found = [text for text in texts if text]
    if not found:
        raise UsageError(f"{path} holds no text; expected a text a line")
    return found


def _check_there(path: Path) -> None:
    if not path.is_file():
        raise UsageError(
            f"data.name: there is no file {path}; expected {path.parent} to hold {_TRAIN} and {_TEST}, UTF-8 with a "
            "text a line; no labels are needed"
        )
