"""Finds the stages and residual blocks of a network by what its modules do, not by what they are called.

A residual unit computes ``x + f(x)``, and ``f`` vanishes when its parameters do. So a module is a residual block if,
with all its parameters set to zero, it returns its own input. The network runs once on an example input; the modules
in its containers are then tried one by one on the inputs that they had. Runs of such modules are the stages. A module
of the same kind in front of a run that fails the test, because it changes stride or width, is the stage's fixed entry
block: it always runs, and counts towards the depth as in the paper.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils import _pytree as pytree

from stimulative.errors import UsageError
from stimulative.unravel.mode import evaluating

_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
_TOLERANCE = 1e-4


@dataclass(frozen=True)
class Stage:
    """A run of blocks of which some may be skipped.

    Args:
        name: Where the stage is in the model, such as ``layer1`` or ``features.2-3``.
        block_names: The module names of its blocks, in the order in which they run.
        fixed_entry: Whether the first block always runs because it changes stride or width.
        min_depth: The least number of blocks that run.
        concatenates: Whether it is a dense block (DenseNet's), whose layers' outputs are concatenated: the channels of
            a skipped layer are missing in all that follows, and no layer can take another's place.
    """

    name: str
    block_names: tuple[str, ...]
    fixed_entry: bool
    min_depth: int = 1
    concatenates: bool = False

    @property
    def blocks(self) -> int:
        """The number of blocks, a fixed entry block included."""
        return len(self.block_names)


@dataclass
class Call:
    """One call of a module while the network ran on the example input."""

    name: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    output: Any = None
    writes_input: bool = False


@dataclass
class Trace:
    """What every module was called with, in the order of the calls."""

    calls: list[Call] = field(default_factory=list)
    writes: list[tuple[str, str]] = field(default_factory=list)
    """Pairs of modules: the code of the first one's forward wrote into what the second one had returned."""


def arguments_of(example_input: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """An input as positional and keyword arguments: a tensor is one argument, a tuple several, a mapping keywords."""
    if isinstance(example_input, Mapping):
        return (), dict(example_input)
    if isinstance(example_input, tuple | list):
        return tuple(example_input), {}
    return (example_input,), {}


def tensors_in(tree: Any) -> list[Tensor]:
    """All tensors in nested containers, in order."""
    return [leaf for leaf in pytree.tree_leaves(tree) if isinstance(leaf, Tensor)]


@contextmanager
def quietly(model: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients, in which a forward leaves no trace on buffers or random numbers."""
    buffers = [(module, dict(module._buffers)) for module in model.modules()]
    values = [(buffer, buffer.detach().clone()) for buffer in model.buffers()]
    devices = {parameter.device.index for parameter in model.parameters() if parameter.device.type == "cuda"}
    try:
        with evaluating(model), torch.random.fork_rng(devices=devices), torch.inference_mode(False), torch.no_grad():
            yield
    finally:
        for module, own in buffers:  # a forward may have made some, or put others in their place
            module._buffers.clear()
            module._buffers.update(own)
        with torch.no_grad():
            for buffer, value in values:
                buffer.copy_(value)


def record(model: nn.Module, example_input: Any) -> Trace:
    """Run the model once, in evaluation mode and without gradients, and keep what its modules were called with."""
    trace = Trace()
    open_calls: list[tuple[Call, list[int]]] = []
    seen: dict[int, tuple[Tensor, int]] = {}  # by storage; the tensor is kept so that its storage is not used again
    returned: dict[int, list[str]] = {}
    copies: dict[int, tuple[Tensor, int, Tensor]] = {}  # layers that read all before them get the same tensors often

    def copy(tensor: Tensor) -> Tensor:
        known, version, copied = copies.get(id(tensor), (None, None, None))
        if known is not tensor or version != tensor._version or copied is None:
            copied = tensor.clone()
            copies[id(tensor)] = tensor, tensor._version, copied
        return copied

    def look(tree: Any, by: str) -> None:
        for tensor in tensors_in(tree):
            storage = tensor.untyped_storage().data_ptr()
            if storage in seen and seen[storage][1] != tensor._version:
                trace.writes.extend((by, name) for name in returned.get(storage, ()))
            seen[storage] = tensor, tensor._version

    def before(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], *, name: str) -> None:
        look((args, kwargs), open_calls[-1][0].name if open_calls else "")
        kept = pytree.tree_map_only(Tensor, copy, (args, kwargs))
        call = Call(name, kept[0], kept[1])
        trace.calls.append(call)
        open_calls.append((call, [tensor._version for tensor in tensors_in((args, kwargs))]))

    def after(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        call, versions = open_calls.pop()
        look((args, kwargs, output), call.name)
        for tensor in tensors_in(output):
            returned.setdefault(tensor.untyped_storage().data_ptr(), []).append(call.name)
        drops = isinstance(module, nn.modules.dropout._DropoutNd) and module.inplace  # writes in training mode only
        call.writes_input = drops or versions != [tensor._version for tensor in tensors_in((args, kwargs))]
        call.output = pytree.tree_map_only(Tensor, copy, output)

    handles = []
    for name, module in model.named_modules():
        handles.append(
            module.register_forward_pre_hook(lambda m, a, k, name=name: before(m, a, k, name=name), with_kwargs=True)
        )
        handles.append(module.register_forward_hook(after, with_kwargs=True))
    args, kwargs = arguments_of(example_input)
    try:
        with quietly(model):
            # copies, since some models write into their input, and so that tensors of inference mode count writes too
            args, kwargs = pytree.tree_map_only(Tensor, torch.Tensor.clone, (args, kwargs))
            model(*args, **kwargs)
    finally:
        for handle in handles:
            handle.remove()
    return trace


def find_stages(model: nn.Module, finder: Finder) -> list[Stage]:
    """The stages of a recorded model, in the order in which they run.

    Raises:
        UsageError: If there is no run of residual blocks to skip any of.
    """
    stages = sorted(finder.stages_in("", model), key=lambda stage: finder.first_call(stage.block_names[0]))
    if not stages:
        looked = ", ".join(f"{name} ({kind})" for name, kind in finder.tried[:6])
        more = f" and {len(finder.tried) - 6} more" if len(finder.tried) > 6 else ""
        raise UsageError(
            f"no residual blocks found in {type(model).__name__}: no run of two or more modules of which one can be "
            "skipped, that is, returns its own input when its parameters are zero. "
            f"Looked at {looked + more if looked else 'its modules, but none has siblings to run with'}. "
            "If it has blocks that keep their input's shape, name them: stages=['layer1', ...] for containers, or "
            "stages=[['layer1.0', 'layer1.1'], ...] for the blocks themselves."
            f"{f' It is not taken for a DenseNet, either: {finder.not_dense}.' if finder.not_dense else ''}"
        )
    return stages


def stages_by_hand(model: nn.Module, finder: Finder, stages: Sequence[str | Sequence[str]]) -> list[Stage]:
    """Stages as the user names them: containers, or lists of blocks.

    Raises:
        UsageError: If a name is unknown or a block other than the first of a stage changes its input's shape.
    """
    if isinstance(stages, str):
        raise UsageError(f"stages= is a list of containers or of lists of blocks, such as ['layer1']; got {stages!r}")
    modules = finder.modules
    found = []
    for given in stages:
        whole = [dense for dense in finder.dense.values() if given == dense.name or tuple(given) == dense.block_names]
        if whole:
            found += whole
            continue
        if isinstance(given, str):
            if given not in modules:
                raise UsageError(_unknown_module(model, given, modules))
            blocks = [_join(given, child) for child, _ in modules[given].named_children()]
            name = given
        else:
            blocks = list(given)
            name = _common_name(blocks)
        for block in blocks:
            if block not in modules:
                raise UsageError(_unknown_module(model, block, modules))
            for dense in finder.dense.values():
                if block in dense.block_names:
                    raise UsageError(
                        f"stage {name!r}: {block!r} is a layer of the dense block {dense.name!r}, which is a stage as "
                        f"a whole or not at all; name {dense.name!r}"
                    )
            if block not in finder.calls:
                raise UsageError(f"stage {name!r}: its block {block!r} did not run on the example input")
        if len(blocks) < 2:
            raise UsageError(f"stage {name!r} has {len(blocks)} block(s); at least two are needed to skip one")
        for block in blocks[1:]:
            if finder.passes_through(block) is None:
                call = finder.calls[block][0]
                raise UsageError(
                    f"stage {name!r}: block {block!r} cannot be skipped, since it turns {_shapes(call.args)} into "
                    f"{_shapes(call.output)}. Only the first block of a stage may change the shape"
                )
        found.append(Stage(name, tuple(blocks), fixed_entry=not finder.residual(blocks[0])))
    names = [block for stage in found for block in stage.block_names]
    for block in names:
        inside = [other for other in names if other.startswith(block + ".")]
        if names.count(block) > 1 or inside:
            raise UsageError(f"block {block!r} is named twice, or holds another one: {inside or block}")
    return sorted(found, key=lambda stage: finder.first_call(stage.block_names[0]))


def pass_through(call: Call, *, same_values: Any = None) -> Any:
    """What a skipped module returns in place of its output.

    Args:
        call: The recorded call.
        same_values: If given, an output that has to equal the inputs in value, not only in shape.

    Returns:
        The output with each tensor replaced by the number of the input tensor that takes its place and everything
        else by None; or None if some tensor of the output has no such input.
    """
    inputs = tensors_in((call.args, call.kwargs))
    taken: set[int] = set()

    def source(output: Any) -> int | None:
        if not isinstance(output, Tensor):
            return None
        for number, tensor in enumerate(inputs):
            if number not in taken and _matches(output, tensor, values=same_values is not None):
                taken.add(number)
                return number
        raise LookupError

    try:
        template = pytree.tree_map(source, call.output if same_values is None else same_values)
    except LookupError:
        return None
    return template if taken else None


class Finder:
    """Tries the modules of a recorded model, each at most once.

    Args:
        model: The model.
        trace: What its modules were called with.
    """

    def __init__(self, model: nn.Module, trace: Trace) -> None:
        self.modules = dict(model.named_modules())
        self.calls: dict[str, list[Call]] = {}
        self.order: dict[str, int] = {}
        for number, call in enumerate(trace.calls):
            self.calls.setdefault(call.name, []).append(call)
            parts = call.name.split(".")
            for end in range(len(parts) + 1):  # a list of modules is never called itself, but its modules are
                self.order.setdefault(".".join(parts[:end]), number)
        self.tried: list[tuple[str, str]] = []
        self.dense: dict[str, Stage] = {}
        self.not_dense = ""
        self._identities: dict[str, Any] = {}

    def first_call(self, name: str) -> int:
        """When a module, or the first one inside, was first called."""
        return self.order.get(name, len(self.order))

    def children(self, name: str, module: nn.Module) -> list[tuple[str, nn.Module]]:
        """The children of a module with their full names; one that has several names counts under its first only."""
        named = [(_join(name, key), child) for key, child in module.named_children()]
        return [(key, child) for key, child in named if key in self.modules]

    def passes_through(self, name: str) -> Any:
        """What a skipped module returns by the shapes of its inputs; see ``pass_through``."""
        return pass_through(self.calls[name][0])

    def returns_when_skipped(self, name: str) -> Any:
        """What a skipped block returns: by its values at zero parameters, else by the shapes of its inputs."""
        if any(name in stage.block_names for stage in self.dense.values()):
            return None
        return self._identities[name] if self.residual(name) else self.passes_through(name)

    def residual(self, name: str) -> bool:
        """Whether the module returns its own input when its parameters are zero."""
        if name not in self._identities:
            self._identities[name] = self._identity(name)
            self.tried.append((name, type(self.modules[name]).__name__))
        return self._identities[name] is not None

    def _identity(self, name: str) -> Any:
        """Which inputs the module returns when its parameters are zero, or None where it does not."""
        module = self.modules[name]
        calls = self.calls.get(name, [])
        # every module once, though it may have several names: a parameter that is set under two of them is not restored
        parameters = {
            f"{inside}.{key}" if inside else key: value
            for inside, submodule in module.named_modules()
            for key, value in submodule._parameters.items()
            if value is not None
        }
        if (
            not calls
            or not parameters
            or (type(module).__module__.startswith("torch.nn.modules.") and not list(module.children()))
        ):
            return None
        if pass_through(calls[0]) is None:
            return None
        call = _with_signal(calls[0])
        zeros = {key: torch.zeros_like(value) for key, value in parameters.items()}
        args, kwargs = pytree.tree_map_only(Tensor, torch.Tensor.clone, (call.args, call.kwargs))
        try:
            with evaluating(module), torch.inference_mode(False), torch.no_grad():
                output = functional_call(module, zeros, args, kwargs, tie_weights=False)
        except Exception:  # a module that cannot run with zeros (a solver, say) is no block that we know of
            return None
        return pass_through(call, same_values=output)

    def stages_in(self, name: str, module: nn.Module) -> list[Stage]:
        """The stages among a module's children and below, in the order in which the children run."""
        children = self.children(name, module)
        children.sort(key=lambda child: self.first_call(child[0]))
        blocks = {key for key, child in children if self._is_block(key, child)}
        of_one_kind = not isinstance(module, _CONTAINERS)  # attributes form a run only with others of their class
        stages: list[Stage] = []
        run: list[tuple[str, nn.Module]] = []
        entry = False

        def close() -> None:
            nonlocal run, entry
            if len(run) >= 2:
                keys = [key for key, _ in run]
                stages.append(Stage(_stage_name(name, keys, children), tuple(keys), fixed_entry=entry))
            run, entry = [], False

        for position, (key, child) in enumerate(children):
            if key in self.dense:
                close()
                stages.append(self.dense[key])
                continue
            following = children[position + 1] if position + 1 < len(children) else (None, None)
            if key in blocks:
                if of_one_kind and run and type(run[-1][1]) is not type(child):
                    close()
                run.append((key, child))
            elif next(child.parameters(), None) is not None:
                close()
                inside = self.stages_in(key, child)
                stages += inside
                # what holds a stage is no entry block, though the next one is of its kind
                if not inside and self.calls.get(key) and following[0] in blocks and type(following[1]) is type(child):
                    run, entry = [(key, child)], True
        close()
        return stages

    def _is_block(self, name: str, module: nn.Module) -> bool:
        return self.residual(name) and not self._holds_blocks(name, module)

    def _holds_blocks(self, name: str, module: nn.Module) -> bool:
        """Whether the blocks are further inside, as in a stage that as a whole keeps its input's shape."""
        children = self.children(name, module)
        if isinstance(module, _CONTAINERS) and sum(self.residual(key) for key, _ in children) >= 2:
            return True
        return any(self._holds_blocks(key, child) for key, child in children)


def _with_signal(call: Call) -> Call:
    """The same call, where an input that is all zeros is replaced by numbers that a test can tell apart."""

    def fill(tensor: Tensor) -> Tensor:
        if not tensor.is_floating_point() or tensor.numel() == 0 or bool(tensor.any()):
            return tensor
        generator = torch.Generator().manual_seed(0)
        return torch.rand(tensor.shape, generator=generator).to(tensor)

    args, kwargs = pytree.tree_map_only(Tensor, fill, (call.args, call.kwargs))
    return Call(call.name, args, kwargs, call.output)


def _matches(output: Tensor, tensor: Tensor, *, values: bool) -> bool:
    if output.shape != tensor.shape or output.dtype != tensor.dtype or not output.is_floating_point():
        return False
    if not values:
        return True
    scale = tensor.abs().amax() if tensor.numel() else tensor.new_zeros(())
    return bool(scale > 0) and bool((output - tensor).abs().amax() <= _TOLERANCE * scale)


def _join(parent: str, child: str) -> str:
    return f"{parent}.{child}" if parent else child


def _stage_name(container: str, run: Sequence[str], children: Sequence[tuple[str, nn.Module]]) -> str:
    with_parameters = [key for key, child in children if next(child.parameters(), None) is not None]
    if list(run) == with_parameters:
        return container
    first, last = (key.rpartition(".")[2] for key in (run[0], run[-1]))
    return _join(container, f"{first}-{last}")


def _common_name(blocks: Sequence[str]) -> str:
    if not blocks:
        return "(empty)"
    parents = {block.rpartition(".")[0] for block in blocks}
    if len(parents) == 1 and len(blocks) > 1:
        first, last = (block.rpartition(".")[2] for block in (blocks[0], blocks[-1]))
        return _join(parents.pop(), f"{first}-{last}")
    return "+".join(blocks)


def _unknown_module(model: nn.Module, name: str, modules: Mapping[str, nn.Module]) -> str:
    containers: Iterator[str] = (key for key, module in modules.items() if isinstance(module, _CONTAINERS))
    return (
        f"{type(model).__name__} has no module {name!r}. Its containers: "
        f"{', '.join(key for key in containers if key) or 'none'}; all names: model.named_modules()"
    )


def _shapes(tree: Any) -> str:
    return ", ".join(str(tuple(tensor.shape)) for tensor in tensors_in(tree)) or "no tensor"
