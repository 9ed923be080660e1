"""Documents of text: Python's own manual pages, or text files of one's own in `PATH/train/` and `PATH/val/`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from stimulative.data.batches import generator_for
from stimulative.errors import UsageError
from stimulative.files import regular, user_path

_TRAIN, _TEST = "train", "val"
_ENDING = ".txt"
_PYDOC_TEST_SHARE = 0.2
_LEAST_PASSAGE = 40
"""Shorter passages, such as headings, may stand in several pages."""


@dataclass(frozen=True)
class Documents:
    """Documents to train on and to test on.

    Args:
        train: Their texts.
        test: Likewise; no document is in both.
    """

    train: tuple[str, ...]
    test: tuple[str, ...]


def pydoc() -> Documents:
    """The pages that `help("topics")` of Python shows, about 380,000 characters on the language itself.

    They come with every Python, and differ a little from version to version. Many pages repeat passages of others
    (`if` is a part of `compound`); a passage that several pages have stays in the longest of them, or test pages would
    be known from training. The test pages are always the same, whatever the seed of the run.
    """
    from pydoc_data.topics import topics

    texts = without_repetitions(topics)
    _, test = hold_out_documents([len(text) for text in texts], _PYDOC_TEST_SHARE, seed=0, purpose="pydoc test pages")
    held = set(test)
    return Documents(
        tuple(text for number, text in enumerate(texts) if number not in held),
        tuple(texts[number] for number in test),
    )


def without_repetitions(pages: Mapping[str, str]) -> list[str]:
    """The pages, longest first, each without the paragraphs that a longer one has.

    Pages that lose more than half by that are left out.
    """
    seen: set[str] = set()
    texts = []
    for _, page in sorted(pages.items(), key=lambda item: (-len(item[1]), item[0])):
        passages = [(passage, " ".join(passage.split())) for passage in page.split("\n\n")]
        kept = [(text, key) for text, key in passages if len(key) < _LEAST_PASSAGE or key not in seen]
        seen.update(key for _, key in kept)
        text = "\n\n".join(text for text, _ in kept)
        if 2 * len(text) >= len(page):
            texts.append(text)
    return texts


def in_folder(path: str) -> Documents:
    """The files `PATH/train/**/*.txt` and `PATH/val/**/*.txt`, each a document.

    Raises:
        UsageError: If a folder is missing or holds no text, or a file is not UTF-8.
    """
    root = user_path(path)
    return Documents(*(_read(root, split) for split in (_TRAIN, _TEST)))


def hold_out_documents(sizes: Sequence[int], share: float, *, seed: int, purpose: str) -> tuple[list[int], list[int]]:
    """Split documents into a part to train on and a part held out.

    Args:
        sizes: Length of each document, in characters.
        share: Share of all characters to hold out, above 0 and below 1. Documents stay whole: in an order drawn by the
            seed, each that still fits is held out, unless it would be more than a third of all that is; the shortest
            if none is left.
        seed: Of the draw.
        purpose: What is held out, which decides the draw along with the seed.

    Returns:
        Positions to train on and positions held out, both ascending.

    Raises:
        UsageError: If there are less than two documents.
    """
    if len(sizes) < 2:
        raise UsageError(
            f"{len(sizes)} training document cannot be divided; holding out a validation part needs 2 or more: add "
            "some, or cut one into several files"
        )
    left = share * sum(sizes)
    longest = left / 3
    held = []
    for number in torch.randperm(len(sizes), generator=generator_for(seed, purpose)).tolist():
        if sizes[number] <= min(left, longest):
            held.append(number)
            left -= sizes[number]
    if len(held) in (0, len(sizes)):
        held = [min(range(len(sizes)), key=lambda number: (sizes[number], number))]
    return [number for number in range(len(sizes)) if number not in set(held)], sorted(held)


def _read(root: Path, split: str) -> tuple[str, ...]:
    folder = root / split
    if not folder.is_dir():
        raise UsageError(
            f"data.name: {folder} is not a folder; expected {root} to hold {_TRAIN}/ and {_TEST}/, each with text "
            f"files ending in {_ENDING}, a document a file"
        )
    texts = []
    for file in sorted(folder.rglob(f"*{_ENDING}")):
        try:
            text = regular(file).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"{file} cannot be read as text ({error}); save it as UTF-8, or remove it") from error
        if text:
            texts.append(text)
    if not texts:
        raise UsageError(f"{folder} holds no text; expected files ending in {_ENDING} that are not empty")
    return tuple(texts)
