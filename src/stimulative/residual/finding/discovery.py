"""Finds the stages and residual blocks of a network by what its modules do, not by what they are called.

A residual unit computes ``x + f(x)``, and ``f`` vanishes when its parameters do. So a module is a residual block if,
with all its parameters set to zero, it returns its own input (see ``identity``). Runs of such modules are the stages. A
module of the same kind in front of a run that fails the test, because it changes stride or width, is the stage's fixed
entry block: it always runs, and counts towards the depth as in the paper.

Blocks that have none beside them, because each stands in a module with others that always run, are a stage together
where these modules follow each other (the depthwise convolutions of a ConvMixer). Where there are no blocks at all,
modules that are added to their own inputs by the modules around them take their place (see ``addends``).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from torch import nn
from torch.utils import _pytree as pytree

from stimulative.errors import UsageError
from stimulative.residual.access.trees import tensors_in
from stimulative.residual.finding.addends import find_addends
from stimulative.residual.finding.identity import CONTAINERS, NO_PARAMETERS, shapes, try_modules
from stimulative.residual.finding.passing import Input, Nothing, Template, inputs_of, needs_before, pass_through, widens
from stimulative.residual.finding.recording import Call, Trace
from stimulative.residual.finding.sums import find_sums
from stimulative.residual.finding.trying import kind_of, shapes_inside


@dataclass(frozen=True)
class Stage:
    """A run of blocks of which some may be skipped.

    Args:
        name: Where the stage is in the model, such as ``layer1`` or ``features.2-3``.
        block_names: The module names of its blocks, in the order in which they run.
        fixed_entry: Whether the first block always runs because it changes stride or width, or because it makes
            something that a later block, when it is skipped, has to return.
        min_depth: The least number of blocks that run.
        concatenates: Whether it is a dense block (DenseNet's), whose layers' outputs are concatenated: the channels of
            a skipped layer are missing in all that follows, and no layer can take another's place.
        widens: Whether blocks return more channels than they are given, those of a skipped one being zeros; no block
            can take another's place.
        changes_width: Whether something between its blocks changes the width, so that no block can take another's
            place.
    """

    name: str
    block_names: tuple[str, ...]
    fixed_entry: bool
    min_depth: int = 1
    concatenates: bool = False
    widens: bool = False
    changes_width: bool = False

    @property
    def blocks(self) -> int:
        """The number of blocks, a fixed entry block included."""
        return len(self.block_names)

    @property
    def in_own_order(self) -> bool:
        """Whether its blocks can run in their own order only."""
        return self.concatenates or self.widens or self.changes_width


@dataclass(frozen=True)
class LeftOut:
    """A part of a model that always runs.

    Args:
        name: Its module name.
        kind: Its class.
        reason: Why no block of it can be skipped.
    """

    name: str
    kind: str
    reason: str


def find_stages(model: nn.Module, finder: Finder, example_input: Any) -> list[Stage]:
    """The stages of a recorded model, in the order in which they run.

    Args:
        model: The model.
        finder: What is known of it.
        example_input: What it was recorded on.

    Raises:
        UsageError: If there is no run of residual blocks to skip any of.
    """
    stages = finder.stages_in("", model)
    stages += finder.cousins([block for stage in stages for block in stage.block_names])
    stages += finder.in_lone_blocks([block for stage in stages for block in stage.block_names])
    if not stages:
        stages = finder.addends(model, example_input)
    stages.sort(key=lambda stage: finder.first_call(stage.block_names[0]))
    if not stages:
        tried = [
            (name, kind_of(finder.modules[name]).__name__)
            for name, reason in finder.reasons.items()
            if name and reason != NO_PARAMETERS
        ]
        looked = ", ".join(f"{name} ({kind})" for name, kind in tried[:6])
        more = f" and {len(tried) - 6} more" if len(tried) > 6 else ""
        not_dense = finder.not_dense()
        raise UsageError(
            f"no residual blocks found in {type(model).__name__}: no run of two or more modules of which one can be "
            "skipped, that is, returns its own input when its parameters are zero. "
            f"Looked at {looked + more if looked else 'its modules, but none has siblings to run with'}. "
            "If it has blocks that keep their input's shape, name them: stages=['layer1', ...] for containers, or "
            "stages=[['layer1.0', 'layer1.1'], ...] for the blocks themselves."
            f"{f' It is not taken for a DenseNet, either: {not_dense}.' if not_dense else ''}"
        )
    return stages


def stages_by_hand(
    model: nn.Module, finder: Finder, example_input: Any, stages: Sequence[str | Sequence[str]]
) -> list[Stage]:
    """Stages as the user names them: containers, or lists of blocks.

    Args:
        model: The model.
        finder: What is known of it.
        example_input: What it was recorded on.
        stages: The stages.

    Raises:
        UsageError: If a name is unknown or a block other than the first of a stage changes its input's shape.
    """
    if isinstance(stages, str):
        raise UsageError(f"stages= is a list of containers or of lists of blocks, such as ['layer1']; got {stages!r}")
    found, named = [], []
    for given in stages:
        every = dict.fromkeys(finder.dense.values())
        whole = [dense for dense in every if given == dense.name or tuple(given) == dense.block_names]
        found += whole
        named += [] if whole else [_named(model, finder, given)]
    if not all(finder.residual(block) for _, blocks in named for block in blocks[1:]):
        finder.addends(model, example_input)  # what is no block may be the end of a sum around it
    for name, blocks in named:
        for block in blocks[1:]:
            if finder.returns_when_skipped(block) is None:
                call = finder.calls[block][0]
                raise UsageError(
                    f"stage {name!r}: block {block!r} cannot be skipped, since it turns {shapes(call.args)} into "
                    f"{shapes(call.output)}. Only the first block of a stage may change the shape"
                )
        found.append(finder.stage(name, blocks, fixed_entry=not finder.residual(blocks[0])))
    names = [block for stage in found for block in stage.block_names]
    for block in names:
        inside = [other for other in names if other.startswith(block + ".")]
        if names.count(block) > 1 or inside:
            raise UsageError(f"block {block!r} is named twice, or holds another one: {inside or block}")
    return sorted(found, key=lambda stage: finder.first_call(stage.block_names[0]))


def _named(model: nn.Module, finder: Finder, given: str | Sequence[str]) -> tuple[str, list[str]]:
    """A stage that the user names: its name, and its blocks.

    Raises:
        UsageError: If there are no such blocks, or too few.
    """
    modules = finder.modules
    if isinstance(given, str):
        if given not in modules:
            raise UsageError(_unknown_module(model, given, modules))
        name, blocks = given, [_join(given, child) for child, _ in modules[given].named_children()]
    else:
        name, blocks = _common_name(given), list(given)
    for block in blocks:
        if block not in modules:
            raise UsageError(_unknown_module(model, block, modules))
        for dense in finder.dense.values():
            if block in dense.block_names:
                raise UsageError(
                    f"stage {name!r}: {block!r} is a layer of the dense block {dense.name!r}, which is a stage as a "
                    f"whole or not at all; name {dense.name!r}"
                )
        if block not in finder.calls:
            raise UsageError(f"stage {name!r}: its block {block!r} did not run on the example input")
    if len(blocks) < 2:
        raise UsageError(f"stage {name!r} has {len(blocks)} block(s); at least two are needed to skip one")
    return name, blocks


class Finder:
    """What is known of the modules of a recorded model.

    Args:
        model: The model.
        example_input: What it was recorded on.
        trace: What its modules were called with.
        by_name: Modules to try in any case.
    """

    def __init__(self, model: nn.Module, example_input: Any, trace: Trace, *, by_name: Collection[str] = ()) -> None:
        self.modules = dict(model.named_modules())
        self.calls: dict[str, list[Call]] = {}
        self.order: dict[str, int] = {}
        for number, call in enumerate(trace.calls):
            self.calls.setdefault(call.name, []).append(call)
            parts = call.name.split(".")
            for end in range(len(parts) + 1):  # a list of modules is never called itself, but its modules are
                self.order.setdefault(".".join(parts[:end]), number)
        self.dense: dict[str, Stage] = {}
        self.not_dense: Callable[[], str] = str
        self.alone: list[str] = []
        self.blocks, self.reasons = try_modules(model, example_input, self.calls, by_name=by_name)

    def first_call(self, name: str) -> int:
        """When a module, or the first one inside, was first called."""
        return self.order.get(name, len(self.order))

    def children(self, name: str, module: nn.Module) -> list[tuple[str, nn.Module]]:
        """The children of a module with their full names; one that has several names counts under its first only."""
        named = [(_join(name, key), child) for key, child in module.named_children()]
        return [(key, child) for key, child in named if key in self.modules]

    def passes_through(self, name: str) -> Template | None:
        """What a skipped module returns by the shapes of its inputs; see ``pass_through``."""
        return pass_through(self.calls[name][0])

    def returns_when_skipped(self, name: str) -> Template | None:
        """What a skipped block returns: by its values at zero parameters, else by the shapes of its inputs."""
        if any(name in stage.block_names for stage in self.dense.values()):
            return None
        return self.blocks[name] if self.residual(name) else self.passes_through(name)

    def residual(self, name: str) -> bool:
        """Whether the module returns its own input when its parameters are zero."""
        return name in self.blocks

    def stage(self, name: str, block_names: Sequence[str], *, fixed_entry: bool) -> Stage:
        """A stage of some blocks, of which the first one always runs if it has to."""
        skipped = [self.blocks.get(block) for block in block_names[int(fixed_entry) :]]
        return Stage(
            name,
            tuple(block_names),
            fixed_entry=fixed_entry or any(needs_before(template) for template in skipped),
            widens=any(widens(template) for template in skipped),
            changes_width=any(self._changes_width(*pair) for pair in pairwise(block_names)),
        )

    def stages_in(self, name: str, module: nn.Module) -> list[Stage]:
        """The stages among a module's children and below, in the order in which the children run."""
        children = self.children(name, module)
        children.sort(key=lambda child: self.first_call(child[0]))
        blocks = {key for key, child in children if self._is_block(key, child)}
        of_one_kind = not isinstance(module, CONTAINERS)  # attributes form a run only with others of their class
        stages: list[Stage] = []
        run: list[tuple[str, nn.Module]] = []
        entry = False

        def close() -> None:
            nonlocal run, entry
            keys = [key for key, _ in run]
            if len(run) >= 2:
                for number, part in enumerate(self._by_width(keys)):
                    stages.append(self.stage(stage_name(name, part, children), part, fixed_entry=entry and not number))
            elif not entry:
                self.alone += keys
            run, entry = [], False

        for position, (key, child) in enumerate(children):
            if key in self.dense:
                close()
                stages += [self.dense[key]] if self.dense[key] not in stages else []  # a run of modules may be one
                continue
            following = children[position + 1] if position + 1 < len(children) else ("", module)
            if key in blocks:
                if of_one_kind and run and kind_of(run[-1][1]) is not kind_of(child):
                    close()
                run.append((key, child))
            elif next(child.parameters(), None) is not None:
                close()
                inside = self.stages_in(key, child)
                stages += inside
                # what holds a stage is no entry block, though the next one is of its kind
                if (
                    not inside
                    and self.calls.get(key)
                    and following[0] in blocks
                    and kind_of(following[1]) is kind_of(child)
                ):
                    run, entry = [(key, child)], True
        close()
        return stages

    def _by_width(self, blocks: Sequence[str]) -> list[list[str]]:
        """A run of blocks in parts of one width each; whole if a part would be of one block, which none can skip."""
        parts = [[blocks[0]]]
        for before, block in pairwise(blocks):
            if self._changes_width(before, block):
                parts.append([])
            parts[-1].append(block)
        return parts if min(map(len, parts)) > 1 else [list(blocks)]

    def _changes_width(self, before: str, block: str) -> bool:
        """Whether a block is one of its kind for another width than the block before, which is not what changes it."""
        streams = inputs_of(self.returns_when_skipped(block))
        if not streams or kind_of(self.modules[before]) is not kind_of(self.modules[block]):
            return False
        call, earlier = self.calls[block][0], self.calls[before][0]
        given = tensors_in((call.args, call.kwargs))[streams[0]]
        sizes = [{key: value.shape for key, value in self.modules[name].named_parameters()} for name in (before, block)]
        resized = any(size != sizes[1].get(key, size) for key, size in sizes[0].items())
        return resized and given.shape != tensors_in(earlier.output)[0].shape

    def cousins(self, taken: Collection[str]) -> list[Stage]:
        """Stages of blocks that stand alone, each at the same place of a module, these modules following each other.

        Args:
            taken: The blocks of other stages.
        """
        around = {block.rpartition(".")[0] for block in taken}
        found: list[Stage] = []
        left = list(self.alone)
        while left:
            first = left.pop(0)
            parts = first.split(".")
            for end in range(len(parts) - 1, 0, -1):
                container, inside = ".".join(parts[: end - 1]), ".".join(parts[end:])
                others = [name for name in left if self._is_cousin(name, first, container, inside)]
                if others and inside and not any(name.startswith(f"{container}.") for name in around):
                    left = [name for name in left if name not in others]
                    found.append(self.stage(_join(container, f"*.{inside}"), [first, *others], fixed_entry=False))
                    break
        return found

    def in_lone_blocks(self, taken: Collection[str]) -> list[Stage]:
        """Stages within blocks that stand alone, which always run as a whole.

        Args:
            taken: The blocks of other stages.
        """
        found: list[Stage] = []
        for name in [name for name in self.alone if name not in taken]:
            found += self.stages_in(name, self.modules[name])
        return found

    def addends(self, model: nn.Module, example_input: Any) -> list[Stage]:
        """Stages of modules that the modules around them add to what they read; see ``addends`` and ``sums``."""
        found = [
            (_join(container, f"*.{place}"), names)
            for container, place, names in find_addends(model, example_input, self.calls)
        ]
        stages = []
        for stage, names in found or find_sums(model, example_input, self.calls):
            for name in names:
                call = self.calls[name][0]
                (like,) = (leaf for leaf in pytree.tree_leaves(pass_through(call)) if isinstance(leaf, Input))
                self.blocks[name] = pytree.tree_map(lambda leaf, of=like: Nothing(of.number, of.path), call.output)
            stages.append(Stage(stage, names, fixed_entry=False))
        return stages

    def _is_cousin(self, name: str, first: str, container: str, inside: str) -> bool:
        start = f"{container}." if container else ""
        between = name.removeprefix(start).removesuffix(f".{inside}")
        return (
            name.startswith(start)
            and name.endswith(f".{inside}")
            and "." not in between
            and kind_of(self.modules[name]) is kind_of(self.modules[first])
            and shapes(self.calls[name][0].args) == shapes(self.calls[first][0].args)
        )

    def left_out(self, stages: Sequence[Stage]) -> list[LeftOut]:
        """The largest parts with parameters that hold no block, in the order in which they run, and why."""
        blocks = {block for stage in stages for block in stage.block_names}
        found = list(self._left_out("", self.modules[""], blocks))
        return sorted(found, key=lambda part: self.first_call(part.name))

    def _left_out(self, name: str, module: nn.Module, blocks: Collection[str]) -> Iterator[LeftOut]:
        if name in blocks or next(module.parameters(), None) is None:
            return
        holds_blocks = not name or any(block.startswith(f"{name}.") for block in blocks)
        children = self.children(name, module)
        if holds_blocks or (name not in self.calls and name in self.order and children):
            for key, child in children:
                yield from self._left_out(key, child, blocks)
            return
        if name not in self.order:
            reason = "does not run on the example input"
        elif name in self.blocks:
            reason = "is a residual block, but has none beside it"
        else:
            reason = self.reasons.get(name, "is no residual block")
        yield LeftOut(name, kind_of(module).__name__, reason)

    def _is_block(self, name: str, module: nn.Module) -> bool:
        holds_dense = any(dense.startswith(f"{name}.") for dense in self.dense)
        return self.residual(name) and not holds_dense and not self._holds_blocks(name, module)

    def _holds_blocks(self, name: str, module: nn.Module) -> bool:
        """Whether the blocks are further inside, as in a stage that as a whole keeps its input's shape."""
        children = self.children(name, module)
        if isinstance(module, CONTAINERS):
            blocks = [child for key, child in children if self.residual(key)]
            # one of each kind (attention, cross-attention, feed-forward: T5) are the parts of a block
            if len(set(map(kind_of, blocks))) < len(blocks) and not self._are_parts(name, module):
                return True
        return any(self._holds_blocks(key, child) for key, child in children)

    def _are_parts(self, name: str, module: nn.Module) -> bool:
        """Whether children, of one class though they may be, differ inside, and modules beside have the same ones."""
        parts = shapes_inside(module)
        siblings = self.children(around, self.modules[around]) if (around := name.rpartition(".")[0]) else []
        others = [sibling for key, sibling in siblings if key != name and kind_of(sibling) is kind_of(module)]
        return len(set(parts)) == len(parts) and any(shapes_inside(other) == parts for other in others)


def _join(parent: str, child: str) -> str:
    return f"{parent}.{child}" if parent else child


def stage_name(container: str, run: Sequence[str], children: Sequence[tuple[str, nn.Module]]) -> str:
    """The name of a run of children: the container's if these are all that have parameters."""
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
    containers: Iterator[str] = (key for key, module in modules.items() if isinstance(module, CONTAINERS))
    return (
        f"{type(model).__name__} has no module {name!r}. Its containers: "
        f"{', '.join(key for key in containers if key) or 'none'}; all names: model.named_modules()"
    )
