"""Whole steps as one piece of compiled code each, for the subnets that come up most.

Blocks that are compiled one by one end where they end: a compiler can neither fuse the end of one with the start of the
next, nor choose the layout of what goes between them. Here all passes of a step, main net and subnets with what they
share, become one graph, forward and backward. Every choice of subnets is another graph, and each takes as long to
compile as a model does; so it is done for a few of them, and all others run as ever.

Graphs are recorded at the level of PyTorch's operations, from a step that runs as it always does. A recording is blind
to what Python decides; so each is made twice, and has to be the same. It is used as long as the model is what it was:
its modules, their modes, hooks, numbers and words, its parameters and buffers, and what it is called with.
"""

from __future__ import annotations

import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils import _pytree as pytree

from stimulative.config import Recipe
from stimulative.errors import UsageError
from stimulative.residual import Asked, ResidualNetwork, intercepted, state_of, tensors_in
from stimulative.training.capturing import as_it_was

_KEY = "whole_passes"
_COUNTED = 100
"""The steps in which it is counted what comes up most."""


class WholePasses:
    """Compiles the passes of whole steps for a training, if a recipe asks for it.

    Args:
        recipe: The recipe.
        network: The network.
        processes: How many train together.
        tells: Whether to say what is being compiled.
        counted: The steps in which it is counted which choices of subnets come up most, before any is compiled.
        backend: What compiles; see ``torch.compile``.

    Attributes:
        most: How many choices of subnets are compiled.
        pieces: What has been compiled.

    Raises:
        UsageError: If the method of the recipe has no such passes, or several processes train.
    """

    def __init__(
        self,
        recipe: Recipe,
        network: ResidualNetwork,
        processes: int = 1,
        *,
        tells: bool = False,
        counted: int = _COUNTED,
        backend: str | Callable[..., Any] = "inductor",
    ) -> None:
        self.most = recipe.training.compile_steps
        method = recipe.method
        if self.most and (method.name != "stimulative" or method.settings.get("schedule", "joint") != "joint"):
            got = f"method {method.name!r}" if method.name != "stimulative" else "method.schedule lean"
            raise UsageError(
                "training.compile_steps: it compiles the passes of stimulative training that go backward together "
                f"(method.schedule joint), and the recipe has {got}; leave it out"
            )
        if self.most and processes > 1:
            raise UsageError(
                f"training.compile_steps: it was not made for several processes, and {processes} train together; leave "
                "it out (training.compile alone compiles blocks)"
            )
        self.network, self.counted, self.backend = network, counted, backend
        self.compiles, self.mode = recipe.training.compile, recipe.training.compile_mode
        self.tells, self.begun = tells, False
        self.seen: Counter[str] = Counter()
        self.chosen: list[str] | None = None
        self.pieces: dict[str, _Piece | None] = {}

    @contextmanager
    def step(self) -> Iterator[None]:
        """A context for a step."""
        if self.compiles:
            if not self.begun:
                self._tell("the first steps compile blocks, which takes a minute or several")
            self.begun = True
            torch.compiler.cudagraph_mark_step_begin()  # what recorded graphs gave in the last step may be written over
        live = self.network.wiring.live
        live.whole = self._outputs if self.most else None
        try:
            yield
        finally:
            live.whole = None

    def _outputs(self, asked: Asked) -> list[Any] | None:
        """The outputs of all passes, or None where they are to run as ever."""
        if not (torch.is_grad_enabled() and self.network.model.training):
            return None
        choice = _choice(asked)
        if self.chosen is None:
            self.seen[choice] += 1
            if self.seen.total() <= self.counted:
                return None
            self.chosen = [one for one, _ in self.seen.most_common(self.most)]
            self.seen.clear()
        if choice not in self.chosen:
            return None
        if choice not in self.pieces:
            self.pieces[choice] = self._compiled(asked)
        piece = self.pieces[choice]
        return None if piece is None or piece.state != _state(self.network) else piece(asked.x)

    @property
    def still_counts(self) -> bool:
        """Whether it is still counted what comes up most."""
        return self.most > 0 and self.chosen is None

    def state(self) -> dict[str, Any]:
        """What a checkpoint has to hold: compiled code rounds otherwise, so a run has to go on with the same."""
        return {_KEY: {"seen": dict(self.seen), "chosen": self.chosen}} if self.most else {}

    def restore(self, checkpoint: Mapping[str, Any]) -> None:
        """Go on from a checkpoint."""
        if self.most and _KEY in checkpoint:
            self.seen, self.chosen = Counter(checkpoint[_KEY]["seen"]), checkpoint[_KEY]["chosen"]

    def _tell(self, what: str) -> None:
        if self.tells:
            print(f"training.compile: {what}", file=sys.stderr, flush=True)

    def _compiled(self, asked: Asked) -> _Piece | None:
        """The graph of a choice, compiled; None, with a warning, where that cannot be."""
        live, names, began = self.network.wiring.live, " and ".join(map(str, asked.subnets)), time.perf_counter()
        live.whole = None  # while it is recorded
        self._tell(f"compiles the step of {names} as a whole, {len(self.pieces) + 1} of {len(self.chosen or ())}")
        try:
            piece = _Piece(self.network, asked, mode=self.mode, backend=self.backend)
            self._tell(f"compiled it in {time.perf_counter() - began:.0f} s")
            return piece
        except Exception as error:  # whatever a model or a compiler does: the step can run as ever
            reason = str(error).strip().partition("\n")[0] or type(error).__name__
            warnings.warn(
                f"training.compile_steps: the step of {names} runs as it was written, "
                f"not compiled as a whole: {reason}. Results are the same; steps are slower than they could be",
                stacklevel=2,
            )
            return None
        finally:
            live.whole = self._outputs


def _choice(asked: Asked) -> str:
    """What a graph belongs to: the passes, and what the model is called with."""
    leaves, structure = pytree.tree_flatten(asked.x)
    kinds = sorted({tensor.device.type for tensor in tensors_in(asked.x)})
    autocast = [(kind, torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)) for kind in kinds]
    subnets = " ".join(map(str, asked.subnets))
    return f"{subnets}, samples {asked.samples}, {structure}, {[*map(_kind, leaves)]}, autocast {autocast}"


class _Passes(nn.Module):
    """The passes of one choice as a module, of which parameters and buffers can be exchanged."""

    def __init__(self, network: ResidualNetwork, asked: Asked) -> None:
        super().__init__()
        self.network, self.asked = network, asked

    def forward(self, x: Any) -> list[Any]:
        asked = self.asked
        passes = self.network.passes(x, asked.subnets, before_pass=asked.before_pass, samples=asked.samples)
        outputs = {position: output for position, output, _ in passes}
        return [outputs[position] for position in sorted(outputs)]


class _Piece:
    """The passes of one choice, recorded and compiled.

    Args:
        network: The network.
        asked: What is asked of it.
        mode: What PyTorch's compiler is to go for.
        backend: What compiles.

    Attributes:
        state: What the network was when they were recorded.

    Raises:
        ValueError: If a second recording is not the first.
    """

    def __init__(self, network: ResidualNetwork, asked: Asked, *, mode: str, backend: str | Callable[..., Any]) -> None:
        passes = _Passes(network, asked)
        held = {**dict(passes.named_parameters()), **dict(passes.named_buffers())}
        self.state, self.held = _state(network), [*held.values()]
        self.outputs: list[Any] = []
        self.form: Any = None
        with as_it_was(network):
            with _all_as_written(network):
                passes(asked.x)  # what is looked at once is looked at now
                graphs = [self._recorded(passes, [*held], asked.x) for _ in range(2)]
            if graphs[0].code != graphs[1].code:
                raise ValueError("two recordings of it differ, so Python decides something in it each time anew")
            self.run = torch.compile(graphs[0], fullgraph=True, dynamic=False, mode=mode, backend=backend)
            self(asked.x)

    def __call__(self, x: Any) -> list[Any]:
        found = iter(self.run(*self.held, *tensors_in(x)))
        return pytree.tree_unflatten([next(found) if one is _TENSOR else one for one in self.outputs], self.form)

    def _recorded(self, passes: _Passes, names: Sequence[str], x: Any) -> torch.fx.GraphModule:
        leaves, structure = pytree.tree_flatten(x)

        def run(*values: Tensor) -> list[Tensor]:
            held = dict(zip(names, values[: len(names)], strict=True))
            given = iter(values[len(names) :])
            x = pytree.tree_unflatten([next(given) if isinstance(one, Tensor) else one for one in leaves], structure)
            outputs, self.form = pytree.tree_flatten(torch.func.functional_call(passes, held, (x,)))
            self.outputs = [_TENSOR if isinstance(one, Tensor) else one for one in outputs]
            return tensors_in(outputs)

        return make_fx(run, tracing_mode="real", pre_dispatch=True)(*self.held, *tensors_in(x))


_TENSOR = object()
_PLAIN = (bool, int, float, str, tuple, type(None))


@contextmanager
def _all_as_written(network: ResidualNetwork) -> Iterator[None]:
    """A context in which blocks that are compiled alone can be recorded: nothing of the compiler is called."""
    units = {name: unit for name, unit in network.inside.units.items() if unit._compiled_call_impl is not None}
    with network.uncompiled(), intercepted(units, {name: unit._call_impl for name, unit in units.items()}):
        yield


def _state(network: ResidualNetwork) -> list[Any]:
    """What a recording goes by of a model: numbers and words that its modules hold, and what is around their calls."""
    modules = network.inside.modules
    plain = [value for one in modules for value in vars(one).values() if type(value) in _PLAIN]
    around = [(len(one._forward_hooks), len(one._forward_pre_hooks), vars(one).get("forward")) for one in modules]
    return [*map(id, modules), *plain, *around, *state_of(modules)]


def _kind(leaf: Any) -> Any:
    if isinstance(leaf, Tensor):
        return tuple(leaf.shape), leaf.stride(), leaf.dtype, leaf.device.type, leaf.requires_grad
    return leaf if isinstance(leaf, _PLAIN) else type(leaf).__name__
