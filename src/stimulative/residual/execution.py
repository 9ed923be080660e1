"""Runs subnets of a model by memoised replay.

Blocks and the modules outside of blocks are *units*, called in a fixed order. While one subnet runs, the calls of its
units are intercepted: a skipped block returns its input. When several subnets run on the same batch, the next one is
the same as the one before up to the first block in which they differ, so every unit before that returns its
remembered output and only the rest is computed. Whatever runs before the first difference cannot depend on it; this
holds for any module. Nothing stays on the model after a run.

Subnets run in the order of their first differing blocks (a depth-first walk of the tree of their prefixes), so what
has to be remembered at any time is one path of that tree.

With ``cut`` the graph of each pass is cut where a later subnet departs, so that the caller can call backward on each
output as it comes, and the memory of its tail is gone before the next tail is computed. The shared prefix gets its
backward once, for all that depends on it. Tensors that go around the cut (a position bias that each block reads, say)
are differentiated in place: gradients add up, so the result is the same. Only then does a graph have to outlive its
backward pass; whether it has to is found by walking it.
"""

from __future__ import annotations

import inspect
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise, takewhile
from typing import Any, NamedTuple

import torch
import torch.utils.checkpoint
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from stimulative.errors import UsageError
from stimulative.residual.caches import check_for_several, configs_of, is_cache, without_caches
from stimulative.residual.channels import Slice, sliced
from stimulative.residual.interception import call_slot, intercepted
from stimulative.residual.recording import tensors_in
from stimulative.residual.shrinking import numbered, shrunk
from stimulative.residual.wiring import Decision, Place, Wiring, skip

_running: weakref.WeakKeyDictionary[nn.Module, tuple[threading.Lock, list[int]]] = weakref.WeakKeyDictionary()
_registry = threading.Lock()


@dataclass(frozen=True)
class Node:
    """A unit's call within the tree of prefixes: which unit, which call, and what ran before it."""

    unit: str
    call: int
    path: tuple[Decision, ...]


Around = Callable[[Node, Callable[[], Any]], Any]
"""Called in place of computing a unit: gets the node and the computation, returns the unit's output."""


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


@dataclass
class _Entry:
    """A remembered output, and what its tensors' counts of writes should be."""

    unit: str
    output: Any
    versions: list[int]

    @property
    def intact(self) -> bool:
        return self.versions == _versions(self.output)


@dataclass
class _Cut:
    upstream: list[Tensor] = field(default_factory=list)
    leaves: list[Tensor] = field(default_factory=list)

    def backward(self, *, retain_graph: bool) -> None:
        """Continue the gradients that arrived at this cut into the graph before it."""
        reached = [
            (up, leaf.grad) for up, leaf in zip(self.upstream, self.leaves, strict=True) if leaf.grad is not None
        ]
        self.upstream, self.leaves = [], []
        if reached:
            tensors, gradients = zip(*reached, strict=True)
            with torch.autocast(tensors[0].device.type, enabled=False):  # a backward pass has its forward's formats
                torch.autograd.backward(tensors, gradients, retain_graph=retain_graph)


def replay(
    model: nn.Module,
    wiring: Wiring,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    subnets: Sequence[tuple[tuple[int, ...], ...]],
    *,
    around: Around | None = None,
    cut: bool = False,
    before_pass: Callable[[int], Any] | None = None,
    samples: int | None = None,
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

    Yields:
        A pass for each subnet, in the order that shares most. The main net comes before every subnet of it.

    Raises:
        UsageError: If later subnets are to run on fewer samples, and another one than the first one given runs first;
            or if several are to run with a cache.
    """
    alone = len(subnets) == 1 and around is None
    if len(subnets) > 1:
        check_for_several(args, kwargs, len(subnets))
    decisions = [wiring.decisions(stages) for stages in subnets]
    order = sorted(range(len(subnets)), key=lambda i: _depth_first(wiring.places, decisions[i]))
    passes = [decisions[i] for i in order]
    if samples is not None and order[0] != 0:
        raise UsageError("with samples=, the first subnet has to be the main net: it runs on the whole batch")
    batch = next((len(tensor) for tensor in tensors_in((args, kwargs)) if tensor.dim()), 0)
    names = [place.name for place in wiring.places]
    shared = [_common(a, b) for a, b in pairwise(passes)]
    entries: list[_Entry] = []
    cuts: dict[int, _Cut] = {}
    modules: dict[str, nn.Module] = {}

    writes = "" in wiring.writers and len(order) > 1

    def copied(x: Tensor) -> Tensor:
        return x.clone() if writes or x.is_inference() else x

    def own(tree: Any) -> Any:
        return pytree.tree_map_only(Tensor, copied, tree, is_leaf=is_cache)  # the model fills the cache that it gets

    for number, position in enumerate(order):
        part = samples if number and samples is not None and samples < batch else None
        following = passes[number + 1] if number + 1 < len(passes) else None
        later = [at for at in _running_minima(shared[number:]) if at < len(names)]
        here = [at for at in shared[max(number - 1, 0) : number] if at < len(names)]
        run = _Pass(
            wiring=wiring,
            decisions=dict(zip(names, passes[number], strict=True)),
            entries=list(takewhile(lambda entry: entry.intact, entries)),
            differs=None
            if following is None
            else {n for n, a, b in zip(names, passes[number], following, strict=True) if a != b},
            departs={names[at] for at in here},
            departures={names[at] for at in later},
            cuts={names[at]: cuts.setdefault(at, _Cut()) for at in {*here, *later}} if cut else {},
            around=around,
            model=model,
            slices=wiring.slices(subnets[position]),
            part=None if part is None else (batch, part),
        )
        context = (before_pass(position) if before_pass is not None else None) or nullcontext()
        with context, exclusive(model), _plain_tensors():
            # by their names when nobody else has taken layers out of the model
            modules = modules or {name: model.get_submodule(name) for name in wiring.units}
            with _as_smaller(run, passes[number], alone), run.intercepting(modules):
                output = model(*own(run.cut_down(args)), **own(run.cut_down(dict(kwargs))))
        if run.looking:
            wiring.found["looked", model.training] = True
        entries = run.entries if run.keep is None else run.entries[: run.keep]
        del run
        # without cuts, and when the next pass is the same, later outputs hang on the same graph
        needed = following is not None and (not cut or following == passes[number])
        retain_graph = needed or _bypass(model, wiring, output, cuts, entries, passes[number], len(names))
        yield Pass(position, output, retain_graph)
        del output
        done = [at for at in cuts if number >= len(shared) or at > shared[number]]
        for at in sorted(done, reverse=True):
            segment = cuts.pop(at)
            segment.backward(retain_graph=_bypass(model, wiring, segment.upstream, cuts, entries, passes[number], at))
            del segment


@contextmanager
def _as_smaller(run: _Pass, decisions: Sequence[Decision], alone: bool) -> Iterator[None]:
    """The layers that a config counts as the smaller model has them, or at least with the numbers that it gives."""
    if alone:
        with shrunk(run.model, run.wiring, decisions) as others:
            inside = set(run.decisions) - {place.name for place, _ in others}
            run.decisions.update({place.name: place.index for place in run.wiring.places if place.name in inside})
            yield
    else:
        if "configs" not in run.wiring.found:  # a walk over all modules is too long for every pass
            run.wiring.found["configs"] = configs_of(run.model)
        with without_caches(run.wiring.found["configs"]), numbered(run.model, run.wiring, decisions):
            yield


def _bypass(
    model: nn.Module,
    wiring: Wiring,
    outputs: Any,
    cuts: Mapping[int, _Cut],
    entries: Sequence[_Entry],
    decisions: tuple[Decision, ...],
    end: int,
) -> bool:
    """Whether the graph of outputs reaches into a graph before a cut, so that backward must not free it.

    Before a cut is what was cut there, and all that the next pass remembers: a stream beside the one that was cut may
    have a graph of its own.

    It is the same in every step, so it is looked for once for each way through the network.
    """
    if not cuts:
        return False
    trained = sum(parameter.requires_grad for parameter in model.parameters())
    key = (frozenset(cuts), len(entries), decisions[:end], trained)
    if key not in wiring.bypassed:
        remembered = [tensor for entry in entries for tensor in tensors_in(entry.output)]
        before = _graph([*remembered, *(tensor for cut in cuts.values() for tensor in cut.upstream)])
        wiring.bypassed[key] = not before.isdisjoint(_graph(tensors_in(outputs)))
    return wiring.bypassed[key]


def _graph(tensors: Sequence[Tensor]) -> set[Any]:
    """The nodes of the autograd graph behind tensors, without those that only add to a parameter's gradient."""
    nodes: set[Any] = set()
    open_nodes = [tensor.grad_fn for tensor in tensors if tensor.grad_fn is not None]
    while open_nodes:
        node = open_nodes.pop()
        if node not in nodes and not hasattr(node, "variable"):
            nodes.add(node)
            open_nodes += [following for following, _ in node.next_functions if following is not None]
    return nodes


class _Pass:
    """One forward pass of one subnet."""

    def __init__(
        self,
        wiring: Wiring,
        decisions: dict[str, Decision],
        entries: list[_Entry],
        differs: set[str] | None,
        departs: set[str],
        departures: set[str],
        cuts: dict[str, _Cut],
        around: Around | None,
        model: nn.Module,
        slices: Mapping[str, tuple[Slice, ...]],
        part: tuple[int, int] | None,
    ) -> None:
        self.model = model
        self.part = part  # how many samples the batch has, and how many of them this pass runs on
        self.slices = slices
        self.wiring = wiring
        self.places = {place.name: place for place in wiring.places}
        self.decisions = decisions
        self.entries = entries
        self.reusable = len(entries)
        self.differs = differs
        self.keep: int | None = 0 if differs is None else None  # how many entries the next pass can use
        self.departs = departs  # where this pass leaves what is remembered
        self.departures = departures  # where later ones leave this one
        self.guarded = 0  # how many entries must not be written into any more
        self.cuts = cuts
        self.around = around
        self.number = 0
        self.path: tuple[Decision, ...] = ()
        # how a model runs its blocks is looked at in its first pass of each mode
        self.looking = torch.is_grad_enabled() and ("looked", model.training) not in wiring.found
        self.made: dict[int, Any] = {}  # what the block before has returned, by stage, where it is needed
        self.inside = False
        self.thread = threading.get_ident()
        self.originals: dict[str, Callable[..., Any]] = {}

    @contextmanager
    def intercepting(self, modules: Mapping[str, nn.Module]) -> Iterator[None]:
        """Route the calls of all units through this pass, and take every trace of it away again."""
        self.originals = {name: getattr(module, call_slot(module)) for name, module in modules.items()}
        calls = {name: partial(self._call, name, original) for name, original in self.originals.items()}
        with intercepted(modules, calls):
            yield

    def _call(self, name: str, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        if self.inside or threading.get_ident() != self.thread:
            return original(*args, **kwargs)  # a unit within a unit, or somebody else's call of the same model
        if self.looking and name in self.decisions:
            refuse_checkpoint(name)
        number, self.number = self.number, self.number + 1
        if self.keep is None and self.differs is not None and name in self.differs:
            self.keep = number
        if name in self.departures:
            self.departures.remove(name)
            self.guarded = number
        if name in self.decisions:
            self.path += (self.decisions[name],)
        cut = self.cuts.pop(name, None)  # a module may be called again, but what differs begins at its first call
        if number < self.reusable:
            if self.entries[number].unit == name:
                return self._handed_out(name, self.entries[number].output)
            self.reusable = number  # the model took another way than before: what is remembered ends here
            del self.entries[number:]
        if cut is not None:
            given, (args, kwargs) = args, self._cut(cut, args, kwargs)
            if self.places[name].concatenates:
                # a dense block goes on with the list that it gave to its layer, so what is in there is cut, too
                for old, new in zip(given, args, strict=True):
                    if isinstance(old, list):
                        old[:] = new
        elif name in self.departs and torch.is_grad_enabled():
            # what comes next may write, and the graph of an earlier pass may hold what is handed to it
            args, kwargs = _clone((args, kwargs))
        self.departs.discard(name)
        self.inside = True
        try:
            output = self._compute(name, number, original, args, kwargs)
        finally:
            self.inside = False
        if self.keep is None:
            self.entries.append(_Entry(name, output, _versions(output)))
        return self._handed_out(name, output)

    def _handed_out(self, name: str, output: Any) -> Any:
        output = self.cut_down(_clone(output) if name in self.wiring.fragile else output)
        if name in self.places and self.places[name].stage in self.wiring.carrying:
            self.made[self.places[name].stage] = output
        return output

    def cut_down(self, tree: Any) -> Any:
        """The samples that this pass runs on, of every tensor that has them all, batch first."""
        if self.part is None:
            return tree
        whole, part = self.part
        return pytree.tree_map_only(Tensor, lambda x: x[:part] if x.dim() and len(x) == whole else x, tree)

    def _compute(
        self,
        name: str,
        number: int,
        original: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        place = self.places.get(name)
        unit = name
        if place is not None:
            block = self.decisions[name]
            if block is None:
                return skip(place, self.made.get(place.stage), *args, **kwargs)
            unit = self.wiring.blocks[place.stage][block]
            original = self.originals[unit]
        written = self._protect(args, kwargs) if unit in self.wiring.writers else []
        with sliced(self.model, self.slices[unit]) if unit in self.slices else nullcontext():
            if self.around is None:
                output = original(*args, **kwargs)
            else:
                output = self.around(Node(unit, number, self.path), partial(original, *args, **kwargs))
        for entry in written:
            entry.versions = _versions(entry.output)
        return output

    def _protect(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[_Entry]:
        """Keep remembered outputs that later passes need as they are from being written into: remember copies of them.

        Returns:
            The others, which may be written into: later passes do not run the writing unit again and need them so.
        """
        storages = {_storage(tensor) for tensor in tensors_in((args, kwargs))}
        written = []
        for position, entry in enumerate(self.entries):
            if entry.intact and any(_storage(tensor) in storages for tensor in tensors_in(entry.output)):
                if position < self.guarded:
                    entry.output = _clone(entry.output)
                    entry.versions = _versions(entry.output)
                else:
                    written.append(entry)
        return written

    def _cut(self, cut: _Cut, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        leaves: dict[int, Tensor] = {}

        def part(tensor: Tensor) -> Tensor:
            if not tensor.requires_grad:
                return tensor
            if id(tensor) not in leaves:
                leaf = tensor.detach().requires_grad_()
                cut.upstream.append(tensor)
                cut.leaves.append(leaf)
                leaves[id(tensor)] = leaf.clone()  # a leaf must not be written into, its copy may
            return leaves[id(tensor)]

        return pytree.tree_map_only(Tensor, part, (args, kwargs))


def refuse_checkpoint(name: str) -> None:
    """Raise if a block is called by activation checkpointing, which would call it again when the pass is over."""
    frame = inspect.currentframe()
    while frame is not None:
        if frame.f_code.co_filename == torch.utils.checkpoint.__file__:
            raise UsageError(
                f"the model checkpoints activations: block {name!r} is called by torch.utils.checkpoint, which runs it "
                "again during the backward pass, when it is no longer known which blocks were skipped. Call the block "
                "itself in the model's forward; to save memory, use schedule='lean'"
            )
        frame = frame.f_back


def _depth_first(places: Sequence[Place], decisions: Sequence[Decision]) -> tuple[tuple[int, int], ...]:
    """Sorts a block at its own place before another one, and any block before none."""
    return tuple(
        (2, 0) if block is None else (int(block != place.index), block)
        for place, block in zip(places, decisions, strict=True)
    )


def _common(first: Sequence[Decision], second: Sequence[Decision]) -> int:
    for at, (a, b) in enumerate(zip(first, second, strict=True)):
        if a != b:
            return at
    return len(first)


def _running_minima(numbers: Sequence[int]) -> Iterator[int]:
    least: int | None = None
    for number in numbers:
        if least is None or number < least:
            least = number
            yield number


def _clone(tree: Any) -> Any:
    return pytree.tree_map_only(Tensor, torch.Tensor.clone, tree)


def _versions(tree: Any) -> list[int]:
    """How often each tensor was written into; a tensor of inference mode cannot be, outside of it."""
    return [0 if tensor.is_inference() else tensor._version for tensor in tensors_in(tree)]


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


@contextmanager
def _plain_tensors() -> Iterator[None]:
    """Leave inference mode for no_grad: only ordinary tensors can tell that they were written into."""
    if torch.is_inference_mode_enabled():
        with torch.inference_mode(False), torch.no_grad():
            yield
    else:
        yield


@contextmanager
def exclusive(model: nn.Module) -> Iterator[None]:
    """One pass of a model at a time: threads wait for each other, a pass within a pass is refused."""
    with _registry:
        lock, owner = _running.setdefault(model, (threading.Lock(), []))
    if lock.locked() and owner == [threading.get_ident()]:
        raise UsageError(
            f"{type(model).__name__} is already running a subnet in this thread: a model cannot run a subnet of itself "
            "from within its own forward or from within only(...). Run the subnets one after the other"
        )
    with lock:
        owner[:] = [threading.get_ident()]
        try:
            yield
        finally:
            owner.clear()
