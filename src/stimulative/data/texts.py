"""Texts for language models: documents, cut into sequences of tokens."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch

from stimulative.data import documents, fingerprints, sequences
from stimulative.data.batches import LazyLoader, Loader
from stimulative.data.dataset import Chance, TextData
from stimulative.data.kind import KindSettings, Opening
from stimulative.data.tokens import tokenizer_of

PYDOC = "pydoc"
TEXT = "text:"

DEFAULT_LENGTH = 128
"""Tokens of a sequence."""


@dataclass(frozen=True)
class TextSettings(KindSettings):
    """Settings of texts.

    Args:
        length: Tokens of a sequence; None for the usual number.
        tokenizer: `bytes`, or the path of a tokenizer.
        validation: Share of the characters held out, in whole documents.
    """

    task = "text"
    accepted = ("workers",)

    length: int | None
    tokenizer: str
    validation: float

    def problems(self) -> dict[str, str]:
        """What cannot be used as given, by key."""
        found = super().problems()
        if self.name == TEXT:
            found["name"] = "data.name: 'text:' needs the path of a folder with train/ and val/, as in text:PATH"
        return found

    def open(self, opening: Opening) -> TextData:
        """Read the documents; those to test on are cut when they are first used."""
        found = documents.pydoc() if self.name == PYDOC else documents.in_folder(self.name.removeprefix(TEXT))
        tokenizer = tokenizer_of(self.tokenizer)
        length, seed = self.length or DEFAULT_LENGTH, opening.seed
        training, validation = documents.hold_out_documents(
            [len(text) for text in found.train], self.validation, seed=seed, purpose="validation split"
        )

        def cut(texts: Iterable[str]) -> sequences.Sequences:
            return sequences.Sequences.of(list(texts), tokenizer, length, opening.device)

        def in_order(of: sequences.Sequences, order: Callable[[int], torch.Tensor] | None = None) -> Loader:
            return sequences.SequenceLoader(
                of, order or sequences.fixed_order(len(of)), batch_size=self.evaluation_batch_size
            )

        train = cut(found.train[number] for number in training)
        opening.check_shares(len(train), "sequences")
        classes = len(tokenizer.names)
        calibration = in_order(train, sequences.calibration_order(len(train), seed))
        return TextData(
            name=self.name,
            classes=classes,
            class_names=tokenizer.names,
            length=length,
            train=sequences.SequenceLoader(
                train,
                sequences.training_order(len(train), seed=seed, rank=opening.rank, world_size=opening.world_size),
                batch_size=self.batch_size,
                drop_incomplete=True,
            ),
            validation=in_order(cut(found.train[number] for number in validation)),
            test=LazyLoader(lambda: in_order(cut(found.test))),
            calibration=calibration,
            plain_calibration=calibration,
            token_chance=Chance(*train.guess(classes)),
            fingerprint={
                "training texts": fingerprints.of_texts(found.train),
                "test texts": fingerprints.of_texts(found.test),
                "tokens": fingerprints.of_texts(tokenizer.names),
            },
        )
