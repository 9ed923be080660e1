"""Finds dense blocks (DenseNet's) by what they do.

A dense block is a module that returns its own input followed by the outputs of its children, along the channels, or the
other way round with the newest in front, and whose children each read all of what came before; or a run of modules that
each do this with a single child. Which modules read the
concatenation later, and which channels they read, is not guessed from their sizes: the model runs twice more, without
half of the layers and then without the other half. Every module with parameters returns in these runs what it returned
on the example input, without the channels that are gone, so what reaches it has to be what it was before without some
channels, and shows which. A model in which anything else happens is taken to have no dense blocks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from stimulative.residual.access.interception import call_slot, intercepted
from stimulative.residual.access.slices import Runs, Slice, narrowed, sliced, treats_each
from stimulative.residual.access.trees import tensors_in
from stimulative.residual.finding.channels import Channels, DenseBlock, Reader
from stimulative.residual.finding.discovery import Finder, stage_name
from stimulative.residual.finding.identity import has_sibling
from stimulative.residual.finding.recording import Call, arguments_of, quietly, record
from stimulative.residual.finding.trying import tolerance


@dataclass(frozen=True)
class Dense:
    """The dense blocks of a model.

    Args:
        names: Their names, in the order in which they run.
        modules: The modules that concatenate, of each: one, or one for each layer.
        layers: The module names of the layers of each.
        widths: Their widths; each is a stage of its own.
        readers: The modules that read their channels.
    """

    names: tuple[str, ...]
    modules: tuple[tuple[str, ...], ...]
    layers: tuple[tuple[str, ...], ...]
    widths: tuple[DenseBlock, ...]
    readers: tuple[Reader, ...]


class NotDense(Exception):
    """Why concatenating modules are no dense blocks."""


@dataclass
class _Run:
    """Modules that concatenate, one or several that follow each other with one layer each: a dense block.

    Args:
        modules: Their names.
        layers: The names of their layers.
        channels: How many channels enter, and how many each layer adds.
        newest_first: Whether each layer's channels come in front of all that were there before.
    """

    modules: list[str]
    layers: list[str]
    channels: list[int]
    newest_first: bool

    def goes_on_with(self, other: _Run, calls: Mapping[str, Sequence[Call]]) -> bool:
        """Whether another one's modules are more of the same dense block."""
        single = all(len(run.layers) == len(run.modules) for run in (self, other))
        beside = _around(self.modules[0]) == _around(other.modules[0])
        if not single or not beside or self.newest_first != other.newest_first:
            return False
        (given,) = _given(calls, other.modules[0])
        return torch.equal(given, calls[self.modules[-1]][0].output)

    def extend(self, other: _Run) -> None:
        """Add the modules of another one, which go on where these end."""
        self.modules += other.modules
        self.layers += other.layers
        self.channels += other.channels[1:]

    def block(self, number: int) -> DenseBlock:
        """The dense block of this number."""
        base, *widths = self.channels
        return DenseBlock(base, tuple(widths), number, self.newest_first)

    def name(self, finder: Finder) -> str:
        """The name of its stage."""
        if len(self.modules) == 1:
            return self.modules[0]
        around = _around(self.modules[0])
        return stage_name(around, self.modules, finder.children(around, finder.modules[around]))


def find_dense(model: nn.Module, finder: Finder, example_input: Any) -> Dense | None:
    """The dense blocks of a recorded model; None if it has no two dense layers.

    Raises:
        NotDense: If modules concatenate, but not as dense blocks do.
    """
    names = sorted((name for name in finder.modules if name), key=finder.first_call)
    if not any(_concatenated(finder, finder.calls, name) for name in names):
        return None
    calls: dict[str, list[Call]] = {}  # with values, which are kept for nets of this kind only
    for call in record(model, example_input, values_of=None).calls:
        calls.setdefault(call.name, []).append(call)
    found: list[_Run] = []
    unlike: list[str] = []
    for name in names:
        if any(name.startswith(f"{module}.") for run in found for module in run.modules):
            continue
        layers = _concatenated(finder, calls, name)
        if layers is not None:
            parts, output = _parts(calls, name, layers), calls[name][0].output
            newest_first = not torch.equal(torch.cat(parts, 1), output)
            if newest_first and not torch.equal(torch.cat(parts[::-1], 1), output):
                unlike.append(name)
                continue
            run = _Run([name], list(layers), [part.shape[1] for part in parts], newest_first)
            if found and found[-1].goes_on_with(run, calls):
                found[-1].extend(run)
            else:
                found.append(run)
    if sum(len(run.layers) for run in found) < 2:
        if unlike:
            raise NotDense(
                f"{unlike[0]!r} has as many channels as its input and its layers' outputs together, but does not "
                "return these one behind the other, in the order in which they are made or the newest first"
            )
        return None
    layers = tuple(tuple(run.layers) for run in found)
    widths = tuple(run.block(number) for number, run in enumerate(found))
    readers: dict[str, Reader] = {}
    for first in (0, 1):
        kept = [tuple(range(first, len(block.widths), 2)) for block in widths]
        probe = _Probe(model, finder, calls, layers, Channels(widths, {}), kept)
        probe.run(example_input)
        readers.update(probe.readers)
    modules = tuple(tuple(run.modules) for run in found)
    return Dense(tuple(run.name(finder) for run in found), modules, layers, widths, tuple(readers.values()))


def unlike_dense(model: nn.Module, finder: Finder, example_input: Any) -> str:
    """Why modules that concatenate as the layers of a DenseNet do are none; nothing if there are no such modules.

    For the message that a model has no blocks: the model runs once more.
    """
    modules = finder.modules
    names = [
        name for name, calls in finder.calls.items() if _grows(calls[0]) is not None and has_sibling(modules, name)
    ]
    for call in record(model, example_input, values_of=names).calls if names else []:
        dim = _grows(call) if call.name in names else None
        if dim is None:
            continue
        x, y = tensors_in((call.args, call.kwargs))[0], call.output
        if any(torch.equal(y.narrow(dim, at, x.shape[dim]), x) for at in (0, y.shape[dim] - x.shape[dim])):
            return (
                f"{call.name!r} returns its input and something beside it, along dimension {dim} of {tuple(y.shape)}. "
                "Such layers are found where they concatenate channels, dimension 1 of maps (B, C, H, W) or of series "
                "(B, C, L), and where what they add is zero when their parameters are"
            )
    return ""


def _grows(call: Call) -> int | None:
    """The one dimension in which a module returns more than it is given; None if there is no such dimension."""
    inputs = tensors_in((call.args, call.kwargs))
    if not inputs or not isinstance(call.output, Tensor) or inputs[0].dim() != call.output.dim():
        return None
    sizes = enumerate(zip(inputs[0].shape, call.output.shape, strict=True))
    (*changed,) = (dim for dim, (before, after) in sizes if before != after)
    grown = len(changed) == 1 and changed[0] > 0 and call.output.shape[changed[0]] > inputs[0].shape[changed[0]]
    return changed[0] if grown else None


def _concatenated(finder: Finder, calls: Mapping[str, Sequence[Call]], name: str) -> tuple[str, ...] | None:
    """The children whose outputs a module may return beside its own input, by their shapes, in order; None if not."""
    own = calls.get(name, [])
    children = [key for key, _ in finder.children(name, finder.modules[name])]
    if len(own) != 1 or not children or any(len(calls.get(child, [])) != 1 for child in children):
        return None
    inputs, output = tensors_in((own[0].args, own[0].kwargs)), own[0].output
    children.sort(key=finder.first_call)
    parts = [*inputs, *(calls[child][0].output for child in children)]
    if len(inputs) != 1 or not all(isinstance(part, Tensor) and part.dim() > 2 for part in [output, *parts]):
        return None
    around = [(*part.shape[:1], *part.shape[2:]) for part in [output, *parts]]
    if len(set(around)) > 1 or output.shape[1] != sum(part.shape[1] for part in parts):
        return None
    return tuple(children)


def _parts(calls: Mapping[str, Sequence[Call]], name: str, layers: Sequence[str]) -> list[Tensor]:
    """What a module is given, and what its layers return."""
    return [*_given(calls, name), *(calls[layer][0].output for layer in layers)]


def _given(calls: Mapping[str, Sequence[Call]], name: str) -> list[Tensor]:
    return tensors_in((calls[name][0].args, calls[name][0].kwargs))


def _around(name: str) -> str:
    return name.rpartition(".")[0]


class _Probe:
    """A run of a model without some layers, in which modules with parameters return what they did on the example.

    Args:
        model: The model.
        finder: Its modules.
        known: What they were called with, with values.
        layers: The names of the layers of each dense block.
        channels: The dense blocks.
        kept: The layers that run, of each dense block.
    """

    def __init__(
        self,
        model: nn.Module,
        finder: Finder,
        known: Mapping[str, Sequence[Call]],
        layers: Sequence[tuple[str, ...]],
        channels: Channels,
        kept: Sequence[Sequence[int]],
    ) -> None:
        self.model = model
        self.finder = finder
        self.known = known
        self.channels = channels
        self.kept = kept
        self.runs = channels.kept(kept)
        self.readers: dict[str, Reader] = {}
        self.at = 0, 0  # how far the concatenation is: the number of the block, and of its layers seen
        self.inside = False
        self.counts: dict[str, int] = {}
        self.calls: dict[str, Callable[..., Any]] = {}
        for number, names in enumerate(layers):
            for index, name in enumerate(names):
                module = finder.modules[name]
                self.calls[name] = partial(self._layer, name, (number, index), getattr(module, call_slot(module)))
        for name, module in finder.modules.items():
            if _has_tensors(module) and not any(_has_tensors(inner) for inner in list(module.modules())[1:]):
                if name in self.calls:
                    raise NotDense(f"{name!r} is a layer without modules in it")
                self.calls[name] = partial(self._leaf, name)

    def run(self, example_input: Any) -> None:
        args, kwargs = arguments_of(example_input)
        try:
            with quietly(self.model), intercepted(self.finder.modules, self.calls):
                args, kwargs = pytree.tree_map_only(Tensor, torch.Tensor.clone, (args, kwargs))
                output = self.model(*args, **kwargs)
        except NotDense:
            raise
        except Exception as error:
            raise NotDense(f"without some of its layers the model fails: {type(error).__name__}: {error}") from error
        shapes = [[tensor.shape for tensor in tensors_in(tree)] for tree in (output, self.known[""][0].output)]
        if shapes[0] != shapes[1]:
            raise NotDense("without some of its layers the model returns something of another shape")

    def _layer(self, name: str, at: tuple[int, int], original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        self.at = at
        call = self.known[name][0]
        given, before = ([*tensors_in(tree)] for tree in ((args, kwargs), (call.args, call.kwargs)))
        if not _same(torch.cat(given, 1), narrowed(torch.cat(before, 1), 1, self.runs[at])):
            raise NotDense(f"{name!r} does not read all that comes before it, in its order")
        if at[1] in self.kept[at[0]]:
            self.inside = True
            output = original(*args, **kwargs)
            self.inside = False
        else:
            output = given[0].new_empty((len(given[0]), 0, *given[0].shape[2:]))
        self.at = at[0], at[1] + 1
        return output

    def _leaf(self, name: str, *args: Any, **kwargs: Any) -> Any:
        number = self.counts[name] = self.counts.get(name, -1) + 1
        calls = self.known.get(name, [])
        if number >= len(calls):
            raise NotDense(f"without some of the layers {name!r} is called more often")
        given, before = (tensors_in(tree) for tree in ((args, kwargs), (calls[number].args, calls[number].kwargs)))
        if [tensor.shape for tensor in given] == [tensor.shape for tensor in before]:
            if not all(_same(a, b) for a, b in zip(given, before, strict=True)):
                raise NotDense(f"what {name!r} reads depends on the layers")
            return pytree.tree_map_only(Tensor, torch.Tensor.clone, calls[number].output)
        if len(given) != 1 or len(calls) != 1:
            raise NotDense(f"{name!r} reads several things, or is called several times")
        return self._read(name, given[0], before[0], calls[0].output)

    def _takes_fewer(self, name: str, given: Tensor, inputs: Runs) -> bool:
        """Whether a module that has parameters for each channel returns these channels when it has these alone."""
        module = self.finder.modules[name]
        with sliced(self.model, [Slice(name, inputs)]):
            try:
                output = type(module).forward(module, given.clone())
            except (RuntimeError, ValueError):
                return False
        return isinstance(output, Tensor) and output.shape[:2] == given.shape[:2]

    def _read(self, name: str, given: Tensor, before: Tensor, output: Any) -> Tensor:
        """What a reader returns in this run; says how it reads."""
        module = self.finder.modules[name]
        number, seen = self.at
        block, runs = self.channels.blocks[number], self.runs[self.at]
        whole = block.base + sum(block.widths[:seen])
        each, rest = divmod(before.shape[1], whole)
        inputs: Runs = tuple((start * each, length * each) for start, length in runs)
        if rest or not _same(given, narrowed(before, 1, inputs)):
            raise NotDense(f"{name!r} reads other channels than those of the layers before it, in their order")
        if any(key not in module._parameters for key, _ in module.named_parameters()) or not isinstance(output, Tensor):
            raise NotDense(f"{name!r} computes its parameters")
        if treats_each(module) and each == 1 and self._takes_fewer(name, given, inputs):
            self.readers[name] = Reader(name, number, seen)
            return narrowed(output, 1, runs).clone()
        convolves = isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d) and module.groups == 1 and each == 1
        if not (convolves or (isinstance(module, nn.Linear) and before.dim() == 2)) or (
            "weight" not in module._parameters
        ):
            raise NotDense(f"{name!r} ({type(module).__name__}) reads the channels of layers, but cannot do with fewer")
        if self.inside or number + 1 == len(self.channels.blocks):
            self.readers[name] = Reader(name, number, seen, each)
            return output.clone()
        if not convolves or output.shape[1] != self.channels.blocks[number + 1].base:
            raise NotDense(f"{name!r} is between two dense blocks, but does not make what enters the second one")
        self.readers[name] = Reader(name, number, seen, compresses=True)
        self.at = number + 1, 0
        return narrowed(output, 1, self.runs[self.at]).clone()


def _has_tensors(module: nn.Module) -> bool:
    return any(tensor is not None for tensor in (*module._parameters.values(), *module._buffers.values()))


def _same(given: Tensor, expected: Tensor) -> bool:
    if given.shape != expected.shape:
        return False
    if not given.is_floating_point() or not given.numel():
        return torch.equal(given, expected)
    return bool((given - expected).abs().amax() <= tolerance(given, expected) * expected.abs().amax())
