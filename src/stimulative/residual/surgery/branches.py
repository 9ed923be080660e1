"""Finds what the residual branch of a block ends in, so that the branch can be scaled by scaling parameters.

A block computes ``x + f(x)``; where the last layer of ``f`` is linear in its parameters (a norm's gain and bias, a
projection's weight and bias, a layer scale), these times ``s`` make it ``x + s f(x)``. Which parameters that are, is
found by what they do, not by what they are called, on the block's input of the example run, in evaluation mode:

- *They end the branch.* With a smallest set of parameters at zero the block returns its input. Of all such sets it is
  that of the parameters whose modules are called last: those that are called first are put back one after the other,
  as long as the block stays without effect. A transformer's block has some for each of its two branches.
- *They scale the branch.* With all later ends at zero, a module's ends times ``s`` make ``s`` times the difference to
  those at zero as well. Elements that are exactly zero are left out: a ReLU behind the addition may have made them so.
  A parameter that fails is no end, and the search begins again without it.

All of this is computed with parameters and running statistics moved away from where they are. So neither a last layer
that starts at zero nor a norm that has seen nothing yet looks like something else, and the network is not touched.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from stimulative.errors import UsageError
from stimulative.residual.access.trees import tensors_in
from stimulative.residual.finding.passing import inputs_of
from stimulative.residual.finding.recording import Call, Trace, record
from stimulative.residual.finding.trying import moved, precise, run_with
from stimulative.residual.finding.wiring import Place
from stimulative.residual.network import ResidualNetwork
from stimulative.residual.running.statistics import norms_in

_SCALE = 0.25  # a power of two changes no digit of a product, however coarsely the device rounds
_SAME = 1e-4  # of the largest input, as in discovery
_PROPORTIONAL = 1e-3  # of the branch's largest value
_ROUNDING = 1e-5  # of the largest output
_LEAST = 0.05  # share of elements that has to be left to compare


def branch_ends(network: ResidualNetwork) -> dict[str, tuple[str, ...]]:
    """The parameters that the residual branches of each block end in, of all blocks that may be skipped.

    All of a block's times ``s`` scale its branch by ``s``; of a block with several branches each of them, so that a
    later branch reads what the scaled ones before it have made.

    Args:
        network: The network; its model runs once on the example input, and is not changed.

    Returns:
        Names of parameters of ``network.model`` by the name of the block, in the order in which the blocks run.

    Raises:
        UsageError: If the branch of some block cannot be scaled by any of its parameters, or the network concatenates
            instead of adding (a DenseNet).
    """
    dense = [stage.name for stage in network.stages if stage.concatenates]
    if dense:
        raise UsageError(
            f"the layers of {dense[0]!r} have no residual branch that could be scaled: what they return is "
            "concatenated, not added (a DenseNet)"
        )
    places = {place.name for place in network.wiring.places}
    trace = record(network.model, network.example_input, values_of=places)
    calls: dict[str, Call] = {}
    for call in trace.calls:
        calls.setdefault(call.name, call)
    shared = _shared(network.model)
    kept = {layer: norm.keys for _, layer, norm in norms_in(network.model, network.wiring)}
    found: dict[str, tuple[str, ...]] = {}
    known: dict[tuple[str, ...], None] = {}  # ends by their names within the block, as most blocks are alike
    for place in network.wiring.places:
        if place.index == 0 and network.stages[place.stage].fixed_entry:
            continue
        block = _Block(place, network.model.get_submodule(place.name), calls[place.name], kept)
        own = [name for name in _in_order(place.name, block.module, trace) if name not in shared]
        guesses = [tuple(block.prefix + name for name in names) for names in known]
        ends = next((guess for guess in guesses if set(guess) <= set(own) and _are_ends(block, guess)), None)
        ends = ends or _ends(block, own)
        if not ends:
            raise UsageError(
                f"the residual branch of block {place.name!r} ({type(block.module).__name__}) cannot be scaled by its "
                "last parameters: something that is not linear follows them (an activation, or a gate such as "
                "squeeze-and-excitation), or they belong to other modules, too, or without all of its parameters the "
                "block does not return its input"
            )
        found[place.name] = ends
        known[tuple(name.removeprefix(block.prefix) for name in ends)] = None
    return found


def _shared(model: nn.Module) -> set[str]:
    """The names of parameters that the model holds more than once."""
    names: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    return {name for same in names.values() if len(same) > 1 for name in same}


def _in_order(block_name: str, block: nn.Module, trace: Trace) -> list[str]:
    """The names of a block's parameters, in the order in which their modules were last called.

    A module that is never called itself, such as the output projection of PyTorch's attention, runs within the one
    that holds it.
    """
    last_call = {call.name: number for number, call in enumerate(trace.calls)}

    def order(name: str) -> tuple[int, int]:
        module = name.rpartition(".")[0]
        depth = module.count(".")
        while module not in last_call:
            module = module.rpartition(".")[0]
        return last_call[module], depth

    return sorted((f"{block_name}.{name}" for name, _ in block.named_parameters()), key=order)


def _ends(block: _Block, parameters: Sequence[str]) -> tuple[str, ...]:
    """The parameters that the branches of a block end in; none if there are no such parameters."""
    possible = list(parameters)
    while possible:
        start = len(possible) - 1
        while start >= 0 and not block.is_identity_without(possible[start:]):
            start -= 1
        if start < 0:
            break
        ends = possible[start:]
        for name in possible[start + 1 :]:
            rest = [other for other in ends if other != name]
            if block.is_identity_without(rest):
                ends = rest
        bad = _failing(block, ends)
        if not bad:
            return tuple(ends)
        possible = [name for name in possible if name not in bad]
    return ()


def _are_ends(block: _Block, names: Sequence[str]) -> bool:
    return block.is_identity_without(names) and not _failing(block, names)


def _failing(block: _Block, ends: Sequence[str]) -> set[str]:
    """The ends that do not scale what they add; those of one module may do it together or each by itself."""
    bad = set()
    for _, names in groupby(ends, key=lambda name: name.rpartition(".")[0]):
        own = list(names)
        later = ends[ends.index(own[-1]) + 1 :]
        if not block.is_scaled_by(own, without=later):
            bad |= {
                name for at, name in enumerate(own) if not block.is_scaled_by([name], without=[*own[at + 1 :], *later])
            }
    return bad


class _Block:
    """A block that can be run with some of its parameters scaled.

    Args:
        place: Where it runs.
        module: The block.
        call: What it was called with.
        kept: The names of the running statistics of the model's layers.
    """

    def __init__(self, place: Place, module: nn.Module, call: Call, kept: Mapping[nn.Module, Sequence[str]]) -> None:
        self.module = module
        self.prefix = f"{place.name}."
        self.values = _moved(module, kept)
        self.args, self.kwargs = pytree.tree_map_only(Tensor, precise, (call.args, call.kwargs))
        inputs = tensors_in((self.args, self.kwargs))
        self.streams = [inputs[number] for number in inputs_of(place.returns)]
        generator = torch.Generator().manual_seed(0)
        for stream in self.streams:  # of zeros, which a ReLU before the block makes many of, nothing can be told
            added = torch.rand(stream.shape, generator=generator, dtype=torch.float32).to(stream)
            largest = stream.abs().amax()
            stream += added * torch.where(largest > 0, largest, 1.0)

    def run(self, factors: Mapping[str, float]) -> list[Tensor]:
        """The tensors of the output, with some parameters times a factor."""
        values = dict(self.values)
        for name, factor in factors.items():
            values[name.removeprefix(self.prefix)] = self.values[name.removeprefix(self.prefix)] * factor
        return tensors_in(run_with(self.module, values, (self.args, self.kwargs)))

    def is_identity_without(self, parameters: Iterable[str]) -> bool:
        """Whether the block returns its input when some parameters are zero."""
        outputs = self.run(dict.fromkeys(parameters, 0.0))
        return all(
            bool((output - x).abs().amax() <= _SAME * x.abs().amax())
            for output, x in zip(outputs, self.streams, strict=True)
        )

    def is_scaled_by(self, parameters: Iterable[str], *, without: Iterable[str]) -> bool:
        """Whether a factor on parameters is one on all that they add, with others at zero."""
        own, others = list(parameters), dict.fromkeys(without, 0.0)
        before, after = self.run({**others, **dict.fromkeys(own, 0.0)}), self.run(others)
        scaled = self.run({**others, **dict.fromkeys(own, _SCALE)})
        adds = False
        for x, whole, part in zip(before, after, scaled, strict=True):
            compared = (x != 0) & (whole != 0) & (part != 0)
            size = whole.abs().amax()
            if not bool(torch.isfinite(size)) or int(compared.sum()) < _LEAST * whole.numel():
                return False
            branch = (whole - x)[compared]
            error = ((part - x)[compared] - _SCALE * branch).abs().amax()
            if not bool(error <= _PROPORTIONAL * branch.abs().amax() + _ROUNDING * size):
                return False
            adds = adds or bool(branch.abs().amax() > 100 * _ROUNDING * size)
        return adds


def _moved(module: nn.Module, kept: Mapping[nn.Module, Sequence[str]]) -> dict[str, Tensor]:
    """Parameters and running statistics, all moved away from where they are, and other buffers as they are."""
    values = {name: precise(value.detach()) for name, value in module.named_buffers()}
    inside = [
        (f"{name}.{key}".lstrip("."), key) for name, layer in module.named_modules() for key in kept.get(layer, ())
    ]
    means = {name: values[name] for name, key in inside if name in values and key == "running_mean"}
    others = {name: values[name] + 0.5 for name, _ in inside if name in values and name not in means}
    parameters = {name: precise(value.detach()) for name, value in module.named_parameters()}
    floating = {name: value for name, value in parameters.items() if value.is_floating_point()}
    return values | moved(means) | others | parameters | moved(floating)
