"""What machines can do at most, by their makers, and how much of that work like ours is assumed to reach.

Rates are the datasheets' dense ones, without sparsity. The shares of them are assumptions, chosen before anything was
measured on a GPU. A convolution or a matrix product of a training step is assumed to reach a third to two thirds of a
GPU's arithmetic; it starts and ends, and is rarely of the shape that datasheets are measured on. Everything else is
assumed to reach 40 to 85 % of the memory's bandwidth by its operands and results: some operations read them twice, as
BatchNorm does. Launching an operation from Python takes 4 to 15 microseconds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from stimulative.errors import UsageError
from stimulative.naming import did_you_mean

Format = Literal["fp64", "fp32", "tf32", "bf16", "fp16"]
"""What products are computed in; tf32 is float32 on tensor cores, rounded."""

GIB = 2**30


@dataclass(frozen=True)
class Machine:
    """What one device can do.

    Args:
        name: Its name.
        flops: Floating-point operations a second, by number format.
        bandwidth: Bytes a second from and to its memory.
        memory: Bytes of its memory; None where nobody knows.
        link: Bytes a second to another one like it in the same machine, in one direction.
        source: Where these numbers are from.
        measured: Whether they were measured on work like that of a training step, so that all of them is reached.
        per_operation: Seconds that launching an operation takes; None for what is assumed.
    """

    name: str
    flops: Mapping[Format, float]
    bandwidth: float
    memory: float | None
    link: float
    source: str
    measured: bool = False
    per_operation: float | None = None

    def rate(self, number_format: Format) -> float:
        """Floating-point operations a second in a format, or in the widest that stands for it.

        Args:
            number_format: What products are computed in.
        """
        stand_ins: dict[Format, tuple[Format, ...]] = {"tf32": ("fp32",), "bf16": ("fp32",), "fp64": ("fp32",)}
        for candidate in (number_format, *stand_ins.get(number_format, ())):
            if candidate in self.flops:
                return self.flops[candidate]
        return self.flops["fp32"]

    @property
    def half_precision(self) -> tuple[Format, str] | None:
        """The format of 16 bits to mix with 32, and what ``training.precision`` calls it; None where it has none."""
        if "bf16" in self.flops:
            return "bf16", "bf16-mixed"
        return ("fp16", "16-mixed") if "fp16" in self.flops else None


@dataclass(frozen=True)
class Shares:
    """How much of a machine's rates is reached.

    Args:
        arithmetic: Share of its floating-point operations a second.
        bandwidth: Share of its memory's and its links' bandwidth.
        per_operation: Seconds of the host for each operation that it launches.
        hidden: Share of the communication that is hidden behind the backward pass.
    """

    arithmetic: float
    bandwidth: float
    per_operation: float
    hidden: float


Case = Literal["best", "typical", "worst"]

ASSUMED: Mapping[Case, Shares] = {
    "best": Shares(arithmetic=0.65, bandwidth=0.85, per_operation=4e-6, hidden=1.0),
    "typical": Shares(arithmetic=0.45, bandwidth=0.6, per_operation=8e-6, hidden=0.5),
    "worst": Shares(arithmetic=0.3, bandwidth=0.4, per_operation=15e-6, hidden=0.0),
}
"""What is assumed of a machine of which only the datasheet is known."""

OF_MEASURED: Mapping[Case, float] = {"best": 1.8, "typical": 1.0, "worst": 0.5}
"""How much faster or slower than its measured rates a machine is assumed to be."""


def shares_of(machine: Machine, case: Case) -> Shares:
    """How much of a machine's rates is reached in a case."""
    if not machine.measured:
        return ASSUMED[case]
    factor = OF_MEASURED[case]
    return Shares(factor, factor, (machine.per_operation or 0.0) / factor, hidden=0.0)


_SXM = "datasheet, SXM; its rates with sparsity halved"
_FORMATS: tuple[Format, ...] = "fp64", "fp32", "tf32", "bf16", "fp16"
_DATASHEETS = (
    # where a datasheet tells no float64, the architecture's whitepaper does: 1/64 of float32 (Ada), 1/32 (Turing)
    # MiB of memory as NVIDIA's tools report it, GB a second of it and of its link, TFLOP a second in each format
    ("h200", 143_771, 4800, 450, (34, 67, 494.5, 989.5, 989.5), f"NVIDIA H200 Tensor Core GPU {_SXM}"),
    ("h100", 81_559, 3350, 450, (34, 67, 494.5, 989.5, 989.5), f"NVIDIA H100 Tensor Core GPU {_SXM}"),
    ("a100", 81_920, 2039, 300, (9.7, 19.5, 156, 312, 312), "NVIDIA A100 Tensor Core GPU datasheet, 80 GB SXM"),
    ("l40s", 46_068, 864, 32, (91.6 / 64, 91.6, 183, 362, 362), "NVIDIA L40S datasheet; PCIe 4.0 x16"),
    (
        "l4",
        23_034,
        300,
        32,
        (30.3 / 64, 30.3, 60, 121, 121),
        "NVIDIA L4 datasheet, its rates with sparsity halved; PCIe 4.0 x16",
    ),
    (
        *("rtx4090", 24_564, 1008, 32, (82.6 / 64, 82.6, 82.6, 165.2, 165.2)),
        "NVIDIA Ada GPU architecture whitepaper, RTX 4090, sums in float32; PCIe 4.0 x16",
    ),
    ("v100", 32_510, 900, 150, (7.8, 15.7, None, None, 125), "NVIDIA V100 datasheet, 32 GB SXM2"),
    ("t4", 15_360, 320, 16, (8.1 / 32, 8.1, None, None, 65), "NVIDIA T4 datasheet; PCIe 3.0 x16"),
)

GPUS: Mapping[str, Machine] = {
    name: Machine(
        name,
        {key: 1e12 * rate for key, rate in zip(_FORMATS, rates, strict=True) if rate is not None},
        bandwidth * 1e9,
        memory * 2**20,
        link * 1e9,
        source,
    )
    for name, memory, bandwidth, link, rates, source in _DATASHEETS
}
"""The machines whose datasheets are known."""

HERE = "cpu"
"""What the machine is called that the command runs on, whose rates are measured."""


def machine_named(name: str) -> Machine:
    """A machine by its name.

    Raises:
        UsageError: If its datasheet is not known here.
    """
    if name in GPUS:
        return GPUS[name]
    known = ", ".join(GPUS)
    near = f"; did you mean {name.lower()!r}?" if name.lower() in (*GPUS, HERE) else did_you_mean(name.lower(), GPUS)
    raise UsageError(
        f"gpu={name!r}: its rates are not known here, known: {known}, {HERE} (this machine's processor, measured){near}"
    )
