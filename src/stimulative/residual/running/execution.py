"""Runs subnets of a model by memoised replay.

Blocks and the modules outside of blocks are *units*, called in a fixed order. While one subnet runs, the calls of its
units are intercepted: a skipped block returns its input. When several subnets run on the same batch, the next one is
the same as the one before up to the first block in which they differ, so every unit before that returns its
remembered output and only the rest is computed. Whatever runs before the first difference cannot depend on it; this
holds for any module. Nothing stays on the model after a run.

Subnets run in the order of their first differing blocks (a depth-first walk of the tree of their prefixes), so what
has to be remembered at any time is one path of that tree.

With ``cut`` the graph of each pass is cut where a later subnet departs (see ``cutting``), so that the caller can call
backward on each output as it comes, and the memory of its tail is gone before the next tail is computed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from itertools import takewhile
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from stimulative.errors import UsageError
from stimulative.residual.access.caches import check_for_several, configs_of, is_cache, without_caches
from stimulative.residual.access.samples import batch_size
from stimulative.residual.access.trees import map_tensors
from stimulative.residual.access.undisturbed import step
from stimulative.residual.counted.layers import stacks_of
from stimulative.residual.counted.shrinking import numbered, shrunk
from stimulative.residual.finding.inside import Inside, inside_of
from stimulative.residual.finding.wiring import Decision, Wiring
from stimulative.residual.running.cutting import Cut, bypasses
from stimulative.residual.running.guarding import exclusive
from stimulative.residual.running.one_pass import Around, OnePass, Part
from stimulative.residual.running.order import Order, Stages, order_of
from stimulative.residual.running.remembering import Entry


class Pass(NamedTuple):
    """One subnet's forward pass.

    Args:
        position: Which of the given subnets it is.
        output: What the model returned.
        retain_graph: Whether backward on this output alone has to retain the graph, for the passes to come.
    """

    position: int
    output: Any
    retain_graph: bool


def replay(
    model: nn.Module,
    wiring: Wiring,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    subnets: Sequence[Stages],
    *,
    around: Around | None = None,
    cut: bool = False,
    before_pass: Callable[[int], Any] | None = None,
    samples: int | None = None,
    shrink: int = 1,
    inside: Inside | None = None,
) -> Iterator[Pass]:
    """Run subnets of a model on one batch, computing what they share once.

    A subnet that runs alone, with no ``around``, is the smaller model itself where a config counts the layers: it takes
    and returns caches of its own. Several make no caches, and have the layers' numbers of the smaller models only.

    Args:
        model: The model that the wiring belongs to.
        wiring: Its units and places.
        args: Positional arguments of the model.
        kwargs: Keyword arguments of the model.
        subnets: The blocks that run, per stage, of each subnet.
        around: Called around the computation of each unit.
        cut: Cut the graph where later subnets depart. Call backward on what comes of each output, with the pass's
            ``retain_graph``, before asking for the next one, and exhaust the iterator: the rest of the backward pass
            happens in here.
        before_pass: Called with the position of a subnet right before it runs; may return a context manager.
        samples: How many of the batch's samples all subnets but the first one given run on, which has to be the first
            one to run; all of them by default. What they share with it is computed once all the same, and cut down.
        shrink: By which factor feature maps of all subnets but the first one are smaller, in height and width, by
            average pooling where they depart from it.
        inside: What is inside of the model; looked at by default.

    Yields:
        A pass for each subnet, in the order that shares most. The main net comes before every subnet of it.

    Raises:
        UsageError: If later subnets are to run on fewer samples or smaller maps, and another one than the first one
            given runs first; or if several are to run with a cache.
    """
    if len(subnets) > 1:
        check_for_several(args, kwargs, len(subnets))
    order = order_of(wiring, subnets)
    if (samples is not None or shrink > 1) and order.positions[0] != 0:
        what = "samples" if samples is not None else "shrink"
        raise UsageError(f"with {what}=, the first subnet has to be the main net: it runs on the whole batch")
    inside = inside or inside_of(model, wiring)
    walk = _Walk(model, wiring, inside, args, kwargs, subnets, order, around, cut, before_pass, samples, shrink)
    for number, position in enumerate(order.positions):
        output = walk.run(number)
        yield Pass(position, output, walk.retains_graph(number, output))
        del output  # before the graph of what is behind the cuts goes
        walk.go_back(number)


@dataclass
class _Walk:
    """A walk of the tree of prefixes, pass by pass; see ``replay`` for what it is made of."""

    model: nn.Module
    wiring: Wiring
    inside: Inside
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    subnets: Sequence[Stages]
    order: Order
    around: Around | None
    cut: bool
    before_pass: Callable[[int], Any] | None
    samples: int | None
    shrink: int
    entries: list[Entry] = field(default_factory=list)
    cuts: dict[int, Cut] = field(default_factory=dict)

    def __post_init__(self) -> None:
        partly = self.samples is not None or self.shrink > 1
        self.batch = batch_size((self.args, self.kwargs)) if partly else 0
        self.alone = len(self.subnets) == 1 and self.around is None
        self.writes = "" in self.wiring.writers

    @cached_property
    def trained(self) -> int:
        """How many parameters ask for a gradient."""
        return self.inside.trained

    def run(self, number: int) -> Any:
        """Run the next subnet; what the model returns."""
        step()
        model, run = self.model, self._next(number)
        position = self.order.positions[number]
        context = (self.before_pass(position) if self.before_pass is not None else None) or nullcontext()
        smaller = _as_smaller(run, self.order.passes[number], self.alone)
        with (
            exclusive(model),
            _plain_tensors(),
            self.wiring.live.passing(number, self.inside),
            context,
            smaller,
            run.intercepting(self.inside.units) as run.release,
        ):
            args, kwargs = run.made_smaller(self.args), run.made_smaller(dict(self.kwargs))
            output = model(*self._own(args), **self._own(kwargs))
        if run.looking:
            self.wiring.observed.looked_at.add(model.training)
        self.entries = run.entries if run.keep is None else run.entries[: run.keep]
        return output

    def retains_graph(self, number: int, output: Any) -> bool:
        """Whether backward on what a pass has returned has to retain the graph."""
        following = self.order.following(number)
        # without cuts, and when the next pass is the same, later outputs hang on the same graph
        needed = following is not None and (not self.cut or following == self.order.passes[number])
        return needed or self._bypassed(number, output, len(self.order.names))

    def go_back(self, number: int) -> None:
        """Continue the gradients of all cuts that no later pass needs into the graph before them."""
        for at in sorted((at for at in self.cuts if self.order.is_over(at, number)), reverse=True):
            segment = self.cuts.pop(at)
            segment.backward(retain_graph=self._bypassed(number, segment.upstream, at))
            del segment

    def _next(self, number: int) -> OnePass:
        names, turn = self.order.names, self.order.turn(number)
        samples = self.batch if self.samples is None else min(self.samples, self.batch)
        partly = number and (samples < self.batch or self.shrink > 1)
        return OnePass(
            self.model,
            self.wiring,
            turn,
            list(takewhile(lambda entry: entry.intact, self.entries)),
            cuts={names[at]: self.cuts.setdefault(at, Cut()) for at in turn.cuts} if self.cut else {},
            around=self.around,
            slices=self.wiring.slices(self.subnets[self.order.positions[number]]),
            part=Part(self.batch, samples, self.shrink) if partly else None,
        )

    def _bypassed(self, number: int, outputs: Any, end: int) -> bool:
        if not self.cuts:
            return False
        decisions = self.order.passes[number][:end]
        return bypasses(self.wiring, outputs, self.cuts, self.entries, decisions, self.trained)

    def _own(self, tree: Any) -> Any:
        """Copies of the arguments, if the model writes into its own: the caller's stay as they are."""

        def copied(x: Tensor) -> Tensor:
            return x.clone() if self.writes or x.is_inference() else x

        return map_tensors(copied, tree, is_leaf=is_cache)  # the model fills the cache that it gets


def _as_smaller(run: OnePass, decisions: Sequence[Decision], alone: bool) -> AbstractContextManager[None]:
    """The layers that a config counts as the smaller model has them, or at least with the numbers that it gives."""
    counts = stacks_of(run.model, run.wiring) or (not alone and _configs_of(run))
    return _counted_anew(run, decisions, alone) if counts else nullcontext()


@contextmanager
def _counted_anew(run: OnePass, decisions: Sequence[Decision], alone: bool) -> Iterator[None]:
    if alone:
        with shrunk(run.model, run.wiring, decisions) as others:
            counted = set(run.decisions) - {place.name for place, _ in others}
            run.decisions = {
                name: run.wiring.place_of[name].index if name in counted else block
                for name, block in run.decisions.items()
            }
            yield
    else:
        with without_caches(_configs_of(run)), numbered(run.model, run.wiring, decisions):
            yield


def _configs_of(run: OnePass) -> list[Any]:
    """The configs of a model's modules, looked for once: a walk over all modules is too long for every pass."""
    observed = run.wiring.observed
    if observed.configs is None:
        observed.configs = configs_of(run.model)
    return observed.configs


def _plain_tensors() -> AbstractContextManager[None]:
    """Leave inference mode for no_grad: only ordinary tensors can tell that they were written into."""
    return _with_versions() if torch.is_inference_mode_enabled() else nullcontext()


@contextmanager
def _with_versions() -> Iterator[None]:
    with torch.inference_mode(False), torch.no_grad():
        yield
