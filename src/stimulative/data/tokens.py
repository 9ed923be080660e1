"""From text to numbers: bytes, which need nothing, or a tokenizer in a file."""

from typing import Any, Protocol

from stimulative.errors import UsageError
from stimulative.files import user_path

BYTES = "bytes"
_ENDS = ("<|endoftext|>", "<|end_of_text|>", "</s>", "<eos>", "[SEP]")
"""What tokenizers that do not say it themselves call the end of a document."""


class Tokenizer(Protocol):
    """Cuts text into numbered tokens."""

    @property
    def names(self) -> tuple[str, ...]:
        """What the tokens are called, in the order of their numbers."""
        ...

    @property
    def end(self) -> int:
        """The number of the token at the end of a document, and in front of its first one."""
        ...

    @property
    def padding(self) -> int:
        """The number of the token behind the end of shorter texts of a batch."""
        ...

    def encode(self, text: str) -> list[int]:
        """The tokens of a text, without any at its ends."""
        ...

    def whole(self, text: str, length: int) -> list[int]:
        """A text as an encoder takes it: with the tokens that belong at its ends, cut to a length."""
        ...


class Bytes:
    """A token for each byte of UTF-8, and one for the end of a document: 257 tokens."""

    names = (*(repr(bytes([number]))[2:-1] for number in range(256)), "<end>")
    end = padding = 256

    def encode(self, text: str) -> list[int]:
        """The bytes of a text."""
        return list(text.encode("utf-8"))

    def whole(self, text: str, length: int) -> list[int]:
        """The first bytes of a text and the end."""
        return [*self.encode(text)[: length - 1], self.end]


class FromFile:
    """A tokenizer of Transformers.

    Args:
        tokenizer: The tokenizer.
        end: The number of its token at the end of a document.
    """

    def __init__(self, tokenizer: Any, end: int) -> None:
        self._tokenizer = tokenizer
        self.end = end
        self.padding = end if tokenizer.pad_token_id is None else tokenizer.pad_token_id
        self.names = tuple(tokenizer.convert_ids_to_tokens(list(range(len(tokenizer)))))

    def encode(self, text: str) -> list[int]:
        """The tokens of a text."""
        return self._tokenizer.encode(text, add_special_tokens=False, verbose=False)

    def whole(self, text: str, length: int) -> list[int]:
        """The tokens of a text between those that the tokenizer puts at its ends."""
        return self._tokenizer.encode(text, truncation=True, max_length=length, verbose=False)


def tokenizer_of(name: str) -> Tokenizer:
    """Open a tokenizer.

    Args:
        name: `bytes`, the path of a `tokenizer.json`, or that of a folder in which Transformers saved a tokenizer.
            Nothing is downloaded.

    Raises:
        UsageError: If it is not there, cannot be read, has no token for the end of a document, or Transformers is not
            installed.
    """
    if name == BYTES:
        return Bytes()
    path = user_path(name)
    if not path.exists():
        raise UsageError(
            f"data.tokenizer: there is no {path}; give {BYTES}, the path of a tokenizer.json, or that of a folder in "
            "which a tokenizer was saved (tokenizer.save_pretrained(FOLDER))"
        )
    try:
        from transformers import AutoTokenizer, PreTrainedTokenizerFast
    except ImportError as error:
        raise UsageError(
            "data.tokenizer: reading a tokenizer needs Transformers: pip install 'stimulative[hf]'; "
            f"'{BYTES}' needs nothing"
        ) from error
    try:
        if path.is_dir():
            opened = AutoTokenizer.from_pretrained(str(path), local_files_only=True, trust_remote_code=False)
        else:
            opened = PreTrainedTokenizerFast(tokenizer_file=str(path))
    except Exception as error:  # the readers raise almost anything on files that are not theirs
        raise UsageError(f"data.tokenizer: {path} cannot be read as a tokenizer: {error}") from error
    known = opened.get_vocab()
    named = [known[name] for name in _ENDS if name in known]
    ends = [opened.eos_token_id, opened.bos_token_id, *named]
    end = next((number for number in ends if number is not None), None)
    if end is None:
        raise UsageError(
            f"data.tokenizer: {path} has no token for the end of a document; give it one: "
            "tokenizer.add_special_tokens({'eos_token': '<|endoftext|>'})"
        )
    return FromFile(opened, end)
