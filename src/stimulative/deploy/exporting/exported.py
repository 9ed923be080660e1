"""What an exported file says of itself, and what is known of it once it has been written."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

from stimulative.deploy.about import About
from stimulative.deploy.exporting.checking import Agreement
from stimulative.deploy.exporting.rebuilding import Ways
from stimulative.records import Record, absent
from stimulative.runs import Score


@dataclass(frozen=True)
class Net(Record):
    """How good a net is, and what it costs.

    Args:
        subnet: Which one.
        test: Its score on the test split.
        parameters: The number of its parameters.
        flops: Floating-point operations for one sample; a multiply-add counts as two.
    """

    subnet: str
    test: Score
    parameters: int
    flops: int


@dataclass(frozen=True, kw_only=True)
class Measured(Net):
    """The exported subnet, and how it was measured.

    Args:
        main_net: The whole net, for comparison.
        temperature: What its logits are to be divided by, where that was fitted.
        calibration_images: Training images that its statistics were estimated on.
    """

    main_net: Net
    temperature: float | None
    calibration_images: int


@dataclass(frozen=True, kw_only=True)
class Side(Record):
    """What goes in, or what comes out.

    Args:
        names: The names of the tensors.
        type: The type of their numbers.
        shape: Their shape; names stand for dimensions of any size.
        values: What their numbers are.
    """

    names: tuple[str, ...]
    type: str
    shape: tuple[int | str, ...]
    values: str


@dataclass(frozen=True, kw_only=True)
class ImagesIn(Side):
    """Images that go in.

    Args:
        normalised_inside: Whether the graph normalises them.
        channels: ``RGB``, or how many.
        preparation: How validation and test images were made of files, in words.
    """

    normalised_inside: bool
    channels: int | str
    preparation: str


@dataclass(frozen=True, kw_only=True)
class TextIn(Side):
    """Text that goes in.

    Args:
        tokenizer: What made tokens of it.
        trained_length: The length of a sequence in training.
        longest: The most tokens that the model takes, where it says so.
    """

    tokenizer: str
    trained_length: int
    longest: int | None


@dataclass(frozen=True, kw_only=True)
class Description(About, Measured):  # the fields of the last base come first
    """What an exported file says of itself.

    Args:
        input: What goes in.
        output: What comes out.
        fixed: Why its batch is fixed; None if it is not.
        opset: Of ONNX, the version of its operators.
        rebuild: Of weights, how the module is built again.
    """

    input: ImagesIn | TextIn
    output: Side
    fixed: str | None = None
    opset: int | None = absent()
    rebuild: Ways | None = absent()


@dataclass(frozen=True)
class Check(Record):
    """How what was written compares with the subnet in place.

    Args:
        reader: What read it.
        agreement: How near its outputs are.
    """

    reader: str
    agreement: Agreement

    def to_mapping(self) -> dict[str, Any]:
        """As it stands in JSON: the reader as ``in``, which is no name in Python."""
        return {"in": self.reader, **self.agreement.to_mapping()}

    @classmethod
    def from_mapping(cls, mapping: Any) -> Self:
        """Read what ``to_mapping`` gives."""
        return cls(mapping["in"], Agreement.from_mapping(mapping))


@dataclass(frozen=True, kw_only=True)
class Exported(Description):
    """An exported file.

    Args:
        file: The file.
        bytes: Its size.
        main_net_bytes: The size of the main net's weights.
        json: Of weights, the JSON beside them.
        check: How what was written compares with the subnet in place.
    """

    file: str
    bytes: int
    main_net_bytes: int
    json: str | None = absent()
    check: Check
