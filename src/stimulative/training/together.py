"""What processes that train together do together: agree, gather, and bring gradients and statistics to their mean.

Numbers of the host travel between hosts (gloo), also where gradients travel between GPUs (NCCL), so that agreeing on
something waits for no GPU.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.nn.modules.batchnorm import _NormBase

from stimulative.errors import UsageError
from stimulative.methods import Method
from stimulative.ranks import Division, World
from stimulative.residual import norms_in, statistics_in
from stimulative.training.copies import Copies, ProcessLost
from stimulative.training.divergence import Diverged

_OF_OTHERS = re.compile(r"gloo/gloo/|Gloo connectFullMesh failed")
"""What gloo's errors begin with, which are of no kind of their own: the place in its source that says it."""

_TOLD = 4  # differences between processes that a message tells of


class Elsewhere(UsageError):
    """Something cannot be used, and the first of the processes that train together says what."""


class Processes:
    """The processes that train together, seen from one of them; all that it does is for all of them to call.

    Args:
        world: The place of this process.
        copies: Those that this one has started, if it has.
    """

    def __init__(self, world: World, copies: Copies | None = None) -> None:
        self.rank, self.size, self.copies = world.rank, world.size, copies

    @property
    def first(self) -> bool:
        """Whether this process is the first one, which writes and speaks for all."""
        return self.rank == 0

    def gathered(self, value: Any) -> list[Any]:
        """What all processes have, by rank; values that can be pickled, tensors among them on the CPU."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        distributed.all_gather_object(values, value)
        return values

    def greatest(self, number: int) -> int:
        """The greatest of all processes' numbers."""
        if self.size == 1:
            return number
        found = torch.tensor(number)
        distributed.all_reduce(found, distributed.ReduceOp.MAX)
        return int(found)

    def mean(self, values: Tensor) -> Tensor:
        """The mean of all processes' tensors."""
        if self.size == 1:
            return values
        values = values.clone()
        distributed.all_reduce(values)
        return values / self.size

    def wait(self) -> None:
        """Wait until all processes have come here."""
        self.greatest(0)

    def share(self, module: nn.Module) -> None:
        """Give all processes the parameters and buffers of the first."""
        for tensors in _by_format([*module.parameters(), *module.buffers()]) if self.size > 1 else ():
            flat = _flat(tensors)
            distributed.broadcast(flat, 0)
            _put_back(flat, tensors)

    def average_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Bring gradients to their mean over processes, by one exchange (of each number format).

        A parameter without a gradient counts as one whose gradient is zero if another process has one for it, and
        stays without one if none has.

        Args:
            parameters: Those that are trained, in the same order in all processes.
        """
        for trained in _by_format([one for one in parameters if one.requires_grad]) if self.size > 1 else ():
            lacking = [at for at, one in enumerate(trained) if one.grad is None]
            flat = _flat([torch.zeros_like(one) if one.grad is None else one.grad for one in trained])
            has = flat.new_ones(len(trained))
            for at in lacking:
                has[at] = 0
            both = torch.cat([flat, has])
            distributed.all_reduce(both)
            flat, has = both[: -len(trained)].div_(self.size), both[-len(trained) :]
            if lacking:
                somewhere = has.tolist()  # waits for the device, and so is looked at only where it tells something
                for at in lacking:
                    trained[at].grad = torch.zeros_like(trained[at]) if somewhere[at] else None
            for one, values in zip(trained, flat.split([one.numel() for one in trained]), strict=True):
                if one.grad is not None:
                    one.grad.copy_(values.view_as(one))

    def average_buffers(self, module: nn.Module, statistics: Iterable[Tensor]) -> None:
        """Bring running statistics to their mean over processes; all other buffers become the first one's.

        Running statistics are linear in what each batch adds to them, so that their mean is what a layer would have
        that sees the batches of all processes one by one. Training does not read them; whoever reads them comes here
        first. Of no other buffer is the mean known to mean anything. It is computed in double precision, each share
        divided before they are added: what all have alike stays as it is, however great.

        Args:
            module: What is trained.
            statistics: Its running statistics, in the same order in all processes; see ``running_statistics``.
        """
        if self.size == 1:
            return
        averaged = [one for one in statistics if one.is_floating_point()]
        if averaged:
            flat = _flat([one.double() for one in averaged]).div_(self.size)
            distributed.all_reduce(flat)
            _put_back(flat, averaged)
        known = set(map(id, averaged))
        for tensors in _by_format([one for one in module.buffers() if id(one) not in known]):
            flat = _flat(tensors)
            distributed.broadcast(flat, 0)
            _put_back(flat, tensors)

    @property
    def division(self) -> Division | None:
        """How they divide work on batches; None for a process alone."""
        return Division(self.rank, self.size, self.gathered) if self.size > 1 else None

    @contextmanager
    def agreed(self) -> Iterator[None]:
        """Within, what one process cannot use none can; nothing in there may wait for the others.

        Raises:
            UsageError: In the first process, with what any of them has said.
            Elsewhere: In the others.
        """
        error: UsageError | None = None
        try:
            yield
        except UsageError as found:
            error = found
        said = [text for text in self.gathered(None if error is None else str(error)) if text is not None]
        if error is not None and (self.first or self.size == 1):
            raise error
        if said:
            raise (UsageError if self.first else Elsewhere)(said[0])

    def check_alike(self, told: Mapping[str, Any]) -> None:
        """Make sure that all processes have been told to do the same.

        Args:
            told: What this one has been told, by name; values that can be pickled and compared.

        Raises:
            UsageError: In the first process, if they have not.
            Elsewhere: In the others.
        """
        first, *others = self.gathered(dict(told))
        apart = [
            f"{name} is {first.get(name)!r} for the first and {other.get(name)!r} for process {rank}"
            for rank, other in enumerate(others, start=1)
            for name in sorted(first.keys() | other.keys())
            if first.get(name) != other.get(name)
        ]
        if apart:
            more = f", and {len(apart) - _TOLD} more" if len(apart) > _TOLD else ""
            raise (UsageError if self.first else Elsewhere)(
                f"the {self.size} processes were started together, which is for one piece of work, and were told to do "
                f"different ones: {'; '.join(apart[:_TOLD])}{more}. Tell all of them the same, or start each piece of "
                "work by a launcher of its own (srun: a step each)"
            )

    @contextmanager
    def whole(self, *, to_the_end: bool = True) -> Iterator[None]:
        """Within, an error that comes of another process's end says so, and copies end with this process's work.

        Args:
            to_the_end: Whether the work is over behind it.

        Raises:
            ProcessLost: In place of what PyTorch raises where another process has gone.
        """
        over, well = to_the_end, True
        try:
            yield
        except BaseException as error:
            over, well = True, isinstance(error, KeyboardInterrupt)  # by which all were asked to stop
            if self.size == 1 or not isinstance(error, RuntimeError) or not _of_others(error):
                if to_the_end and self.size > 1 and not isinstance(error, KeyboardInterrupt | Diverged):
                    error.of_one = True  # pyright: ignore[reportAttributeAccessIssue], for whoever tells of it
                raise
            said = None if self.copies is None else self.copies.lost()
            what = said or f"another of the {self.size} processes that train together has ended"
            raise ProcessLost(f"{what}; the run goes on from its last checkpoint with resume=True") from error
        finally:
            if self.copies is not None and over:
                self.copies.close(well=well)
                self.copies = None


def running_statistics(method: Method) -> list[Tensor]:
    """The running statistics of a method's layers: its network's, and those of PyTorch's norms that it has besides."""
    network = method.network
    keys = {layer: norm.keys for _, layer, norm in norms_in(network.model, network.wiring)}
    inside = {*network.model.modules()}
    besides = [layer for layer in method.modules() if isinstance(layer, _NormBase) and layer not in inside]
    keys |= dict.fromkeys(besides, ("running_mean", "running_var"))
    found = [one for layer, names in keys.items() for one in statistics_in(layer, names).values()]
    return [one for one in found if one is not None]


@contextmanager
def one_voice(processes: Processes) -> Iterator[None]:
    """Within, only the first process warns; the others have the same to say."""
    with warnings.catch_warnings():
        if not processes.first:
            warnings.simplefilter("ignore", UserWarning)
        yield


def _of_others(error: RuntimeError) -> bool:
    """Whether an error comes of another process's end."""
    return isinstance(error, distributed.DistError) or _OF_OTHERS.search(str(error)) is not None


def _by_format(tensors: Iterable[Any]) -> list[list[Any]]:
    """Tensors apart by number format, each part in their order."""
    parts: dict[torch.dtype, list[Any]] = {}
    for tensor in tensors:
        parts.setdefault(tensor.dtype, []).append(tensor)
    return list(parts.values())


def _flat(tensors: Sequence[Tensor]) -> Tensor:
    """The values of tensors of one format behind each other."""
    return torch.cat([tensor.detach().reshape(-1) for tensor in tensors])


def _put_back(flat: Tensor, tensors: Sequence[Tensor]) -> None:
    """Set tensors to the values that lie behind each other."""
    for tensor, values in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
        tensor.detach().copy_(values.view_as(tensor))
