"""A family of subnets as one module whose depth is switched while it runs.

Each subnet is a plain module of its own, and all of them have the same parameters in memory. So nothing is patched when
the depth changes: threads can run different depths at once, and each depth can be compiled. Only the normalisation
statistics are the subnets' own.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn

from stimulative.errors import UsageError
from stimulative.residual import Subnet, SubnetLike

_using: ContextVar[Mapping[object, int]] = ContextVar("stimulative_depths_in_use", default={})  # noqa: B039, never written


class Elastic(nn.Module):
    """A family of subnets that share their parameters; ``stimulative.load`` makes one.

    Calling it runs the subnet in use: at first the largest one, then whichever ``use`` has said last *in this thread*
    (or asynchronous task). Other threads are not affected, so that one may serve one depth while another serves
    another.

    It may be moved to a device or to another number format, which converts each shared parameter once. ``compile``
    compiles each subnet; ``torch.compile(net)`` works as well, but stops after PyTorch's limit of recompilations.

    Args:
        nets: A plain module for each subnet, sharing parameters.
        about: What is known of the family: ``subnets`` has a mapping for each of them, in their order.
    """

    def __init__(self, nets: Mapping[Subnet, nn.Module], about: Mapping[str, Any]) -> None:
        super().__init__()
        if not nets:
            raise UsageError("a family has at least one subnet, got none")
        self.subnets = tuple(nets)
        self.about = about
        self.nets = nn.ModuleList(nets.values())
        self._largest = max(range(len(nets)), key=lambda at: self.subnets[at].blocks)
        self._token = object()

    @property
    def subnet(self) -> Subnet:
        """The subnet in use in this thread."""
        return self.subnets[self._at]

    @property
    def _at(self) -> int:
        return _using.get().get(self._token, self._largest)

    def use(self, subnet: SubnetLike) -> Use:
        """Use another subnet from now on; as a context manager, until it closes.

        ::

            net.use("2-3-5-2")
            with net.use("1-1-1-1"):
                quick = net(x)
            logits = net(x)  # "2-3-5-2" again

        Args:
            subnet: One of ``subnets``: a ``Subnet``, its text, or a depth for each stage.

        Raises:
            UsageError: If it is not in the family.
        """
        position, before = self._position(subnet), _using.get()
        self._use(position)
        return Use(self, before.get(self._token))

    def net(self, subnet: SubnetLike) -> nn.Module:
        """The plain module of a subnet, which shares its parameters with the others.

        Raises:
            UsageError: If it is not in the family.
        """
        return self.nets[self._position(subnet)]

    @torch.compiler.disable(recursive=False)  # compiled code would remember the depth; the subnets are compiled
    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the subnet in use."""
        return self.nets[self._at](*args, **kwargs)

    def compile(self, *args: Any, **kwargs: Any) -> None:
        """Compile each subnet when it first runs; takes what ``torch.compile`` takes."""
        if "isolate_recompiles" in inspect.signature(torch.compile).parameters:
            kwargs.setdefault("isolate_recompiles", True)  # so that the limit of recompilations is each subnet's
        for net in self.nets:
            net.compile(*args, **kwargs)

    def extra_repr(self) -> str:
        """The subnets in one line."""
        shown = ", ".join(map(str, self.subnets[:8]))
        return f"subnets=[{shown}{', …' if len(self.subnets) > 8 else ''}], in use: {self.subnet}"

    def _use(self, position: int | None) -> None:
        others = {token: at for token, at in _using.get().items() if token is not self._token}
        _using.set(others if position is None else {**others, self._token: position})

    def _position(self, subnet: SubnetLike) -> int:
        if isinstance(subnet, str):
            subnet = Subnet.parse(subnet)
        elif isinstance(subnet, Sequence):
            subnet = Subnet.from_depths(subnet)
        elif not isinstance(subnet, Subnet):
            raise UsageError(
                f"a subnet is a Subnet, its text such as {str(self.subnets[0])!r}, or a depth for each stage; got "
                f"{subnet!r}"
            )
        if subnet not in self.subnets:
            raise UsageError(
                f"subnet {subnet} is not in this family; allowed: {_listed(self.subnets)}. Pack it: stimulative pack "
                f"RUN --subnets {subnet},..."
            )
        return self.subnets.index(subnet)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Elastic:
        """Convert what subnets share once, so that they go on sharing it."""
        converted: dict[int, tuple[Tensor, Tensor]] = {}  # with the original, whose number would be given again

        def once(tensor: Tensor) -> Tensor:
            if id(tensor) not in converted:
                new = fn(tensor)
                converted[id(tensor)] = tensor, new
                converted[id(new)] = new, new
            return converted[id(tensor)][1]

        return super()._apply(once, recurse)


class Use:
    """What ``Elastic.use`` returns: closes as a context manager by going back to the subnet before.

    Args:
        net: The family.
        before: The position of the subnet in use before; None for none chosen.
    """

    def __init__(self, net: Elastic, before: int | None) -> None:
        self._net, self._before = net, before

    def __enter__(self) -> Elastic:
        return self._net

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._net._use(self._before)


def _listed(subnets: Sequence[Subnet], most: int = 12) -> str:
    shown = ", ".join(map(str, subnets[:most]))
    return shown if len(subnets) <= most else f"{shown} and {len(subnets) - most} more"
