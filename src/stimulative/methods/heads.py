"""Auxiliary classifiers inside a network: where they read, in what layout, and how they are fed.

Nothing here goes by what a model's classes or modules are called:

- *Where.* After blocks that ``unravel`` found, fixed entry blocks among them, or after the last block of each stage.
  A network whose blocks are all one stage (a plain vision transformer) is divided into four sections of equal depth,
  as ResNets have four stages. A layer of a DenseNet returns only its new channels, but what follows it reads all that
  came before as well; so do heads. A stage of one ends with the concatenation of all of its layers.
- *Layout.* Which dimension holds the channels is found by trying: a change to the first entry of one of a block's
  parameters (tried from the last one on) moves a single index of that dimension and all of the others, since the last
  layer of a block has its outputs as channels. This tells maps ``(B, C, H, W)`` from ``(B, H, W, C)`` and tokens
  ``(B, N, C)`` from signals ``(B, C, N)``, also where sizes are equal.
- *Which tokens.* Those that the model's own classifier reads: the tokens of the last block's output by which the
  model's output changes. That is the class token where there is one (two of a distilled transformer), and the others
  or all of them where the model averages. Heads average over the same tokens.

The heads are fed while the model runs, right where the features are, because a later in-place operation may overwrite
them. They are modules of the method, not of the model: the optimiser trains them, the checkpoint holds them, and the
saved model has none of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils import _pytree as pytree

from stimulative.errors import UsageError
from stimulative.objectives import logits_of
from stimulative.residual import (
    ResidualNetwork,
    arguments_of,
    batch_size,
    call_slot,
    intercepted,
    map_tensors,
    quietly,
    tensors_in,
)

SECTIONS = 4  # of a network that is a single stage


@dataclass(frozen=True)
class Point:
    """Where features are read: behind a module of the model.

    Args:
        name: The module's name.
        gathers: Whether what the module was given belongs to the features as well, as behind a layer of a DenseNet.
    """

    name: str
    gathers: bool = False


@dataclass(frozen=True)
class Layout:
    """What features look like.

    Args:
        channels: The number of channels.
        channel_dim: The dimension that holds them.
        positions: The sizes of the dimensions between batch and channels or after the channels; none of a vector.
        tokens: Which positions count, of those in one dimension; all of them by default.
        non_negative: Whether no feature was below 0 on the example input, as behind a ReLU.
        overwritten: Whether the model writes into the features later on.
    """

    channels: int
    channel_dim: int
    positions: tuple[int, ...]
    tokens: slice | None = None
    non_negative: bool = False
    overwritten: bool = False

    @property
    def is_map(self) -> bool:
        """Whether features are maps with their channels first, as convolutions have them."""
        return self.channel_dim == 1 and bool(self.positions)

    @property
    def channels_last(self) -> bool:
        """Whether channels come after the positions, as in transformers."""
        return self.channel_dim > 1

    def pool(self, features: Sequence[Tensor]) -> Tensor:
        """The mean over the positions that count, shape ``(B, channels)``.

        Args:
            features: Tensors of this layout whose channels are concatenated.
        """
        return torch.cat([self._pool(x) for x in features], 1) if len(features) > 1 else self._pool(features[0])

    def _pool(self, x: Tensor) -> Tensor:
        if self.tokens is not None:
            x = x[:, self.tokens]
        spread = [dim for dim in range(1, x.dim()) if dim != self.channel_dim]
        return x.mean(spread) if spread else x


Reader = Callable[[int, list[Tensor]], None]
"""Gets the number of a point and the features there: one tensor, or several to be concatenated along the channels."""


class _Call(NamedTuple):
    """One call of a module: what it was given, and what it returned."""

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    output: Any

    @property
    def given(self) -> list[Tensor]:
        return tensors_in((self.args, self.kwargs))


_Seen = Callable[[int, _Call], Any]
"""Gets the number of a point and the call there; what it returns takes the place of the output."""


def block_points(network: ResidualNetwork) -> list[Point]:
    """Behind every block, in the order in which they run."""
    return [Point(place.name, gathers=place.concatenates) for place in network.wiring.places]


def stage_points(network: ResidualNetwork) -> list[Point]:
    """Behind every stage, in the order in which they end; a network of one stage is divided into sections."""
    blocks = block_points(network)
    if len(network.stages) == 1:
        sections = min(SECTIONS, len(blocks))
        return [blocks[round(len(blocks) * (number + 1) / sections) - 1] for number in range(sections)]
    order = {point.name: number for number, point in enumerate(blocks)}
    stages = sorted(network.stages, key=lambda stage: order[stage.block_names[-1]])
    return [Point(stage.name if stage.concatenates else stage.block_names[-1]) for stage in stages]


def reading(
    network: ResidualNetwork, points: Sequence[Point], layouts: Sequence[Layout], reader: Reader
) -> AbstractContextManager[Any]:
    """A context in which the model shows the features at some points as it runs.

    Features are seen at every call of a module; of one that is called several times in a forward, the last call counts
    for whoever keeps the latest.

    Args:
        network: The network.
        points: Where.
        layouts: What ``layouts_of`` found there.
        reader: Called with the number of a point and its features, which later operations leave alone.
    """

    def seen(number: int, call: _Call) -> Any:
        features = tensors_in(call.output)[:1]
        if points[number].gathers:
            features = [*call.given, *features]
        reader(number, [x.clone() for x in features] if layouts[number].overwritten else features)
        return call.output

    return _watching(network, points, seen)


def layouts_of(network: ResidualNetwork, points: Sequence[Point]) -> tuple[list[Layout], int]:
    """What the features at some points look like, and the number of classes; tried on the example input.

    The model is run in evaluation mode, and is left as it was.

    Args:
        network: The network.
        points: Where.

    Raises:
        UsageError: If the model does not return logits, or features are not of a kind that a classifier can read.
    """
    example = network.example_input
    batch = batch_size(example)
    calls: dict[int, _Call] = {}
    versions: dict[int, list[tuple[Tensor, int]]] = {}

    def seen(number: int, call: _Call) -> Any:
        calls[number] = map_tensors(torch.Tensor.clone, call)
        versions[number] = [(x, x._version) for x in tensors_in(call)]
        return call.output

    with quietly(network.model):
        with _watching(network, points, seen):
            args, kwargs = arguments_of(map_tensors(torch.Tensor.clone, example))
            logits = logits_of(network.model(*args, **kwargs))
        if logits.dim() != 2 or len(logits) != batch:
            raise UsageError(
                f"auxiliary classifiers need a model that returns logits of shape (batch, classes); this one returns "
                f"shape {tuple(logits.shape)} for a batch of {batch}. Language models have none yet: train them with "
                "another method"
            )
        layouts = [_layout(network.model, point, calls[n], batch) for n, point in enumerate(points)]
        # dropout writes in training only
        drops = any(isinstance(m, nn.modules.dropout._DropoutNd) and m.inplace for m in network.model.modules())
        layouts = [
            replace(layout, overwritten=drops or any(x._version != version for x, version in versions[n]))
            for n, layout in enumerate(layouts)
        ]
    if any(layout.channels_last and len(layout.positions) == 1 for layout in layouts):
        count, tokens = _tokens_read(network)
        layouts = [
            replace(layout, tokens=tokens) if layout.channels_last and layout.positions == (count,) else layout
            for layout in layouts
        ]
    return layouts, logits.shape[1]


@contextmanager
def initialising(generator: torch.Generator) -> Iterator[None]:
    """A context in which new layers get their values by a generator; all other random numbers go on as before.

    So a network is trained with the same dropout, say, whichever heads it has.
    """
    seed = int(torch.randint(2**62, (), generator=generator))
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield


class LinearHead(nn.Module):
    """A classifier on pooled features; those of networks with channels last are normalised first, as their own are.

    Args:
        layout: What the features look like.
        classes: The number of classes.
    """

    def __init__(self, layout: Layout, classes: int) -> None:
        super().__init__()
        self.layout = layout
        self.norm = nn.LayerNorm(layout.channels) if layout.channels_last else nn.Identity()
        self.classifier = nn.Linear(layout.channels, classes)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Logits of shape ``(B, classes)``."""
        return self.classifier(self.norm(self.layout.pool(features)))


def _watching(network: ResidualNetwork, points: Sequence[Point], seen: _Seen) -> AbstractContextManager[Any]:
    modules = {point.name: network.model.get_submodule(point.name) for point in points}
    calls = {
        point.name: partial(_heard, seen, number, getattr(modules[point.name], call_slot(modules[point.name])))
        for number, point in enumerate(points)
    }
    return intercepted(modules, calls)


def _heard(seen: _Seen, number: int, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    # a layer may extend the very list that it is given
    given, named = pytree.tree_map(lambda leaf: leaf, (args, kwargs))
    return seen(number, _Call(given, named, original(*args, **kwargs)))


def _layout(model: nn.Module, point: Point, call: _Call, batch: int) -> Layout:
    found = tensors_in(call.output)[:1]
    if not found or not found[0].is_floating_point() or found[0].dim() < 2 or len(found[0]) != batch:
        got = str(tuple(found[0].shape)) if found else type(call.output).__name__
        raise UsageError(
            f"an auxiliary classifier cannot read the features of {point.name!r}: it returns {got}, but features have "
            f"the batch first (here {batch}) and channels"
        )
    (features,) = found
    dim = 1 if features.dim() == 2 else _channel_dim(model.get_submodule(point.name), call)
    if dim is None:
        raise UsageError(
            f"an auxiliary classifier cannot read the features of {point.name!r}: it returns "
            f"{tuple(features.shape)}, and none of its parameters shows which dimension holds the channels"
        )
    gathered = [*(call.given if point.gathers else ()), features]
    return Layout(
        channels=sum(x.shape[dim] for x in gathered),
        channel_dim=dim,
        positions=tuple(size for at, size in enumerate(features.shape) if at not in (0, dim)),
        non_negative=all(bool((x >= 0).all()) for x in gathered),
    )


def _channel_dim(module: nn.Module, call: _Call) -> int | None:
    """The dimension of a module's output of which a single index follows a single output of its last layer."""

    def output(parameters: dict[str, Tensor]) -> Tensor:
        given = map_tensors(torch.Tensor.clone, (call.args, dict(call.kwargs)))
        return tensors_in(functional_call(module, parameters, *given))[0]

    before = output({})
    for name, parameter in reversed(list(module.named_parameters())):
        if not parameter.dim() or not parameter.numel() or not parameter.is_floating_point():
            continue
        changed = parameter.detach().clone()
        changed[0] += 1 + changed.abs().amax()
        moved = (output({name: changed}) - before).abs()
        if not bool(moved.isfinite().all()) or not bool(moved.any()):
            continue
        where = (moved > 1e-3 * moved.amax()).nonzero()
        single = [dim for dim in range(1, before.dim()) if before.shape[dim] > 1 and len(where[:, dim].unique()) == 1]
        if len(single) == 1:
            return single[0]
    return None


def _tokens_read(network: ResidualNetwork) -> tuple[int, slice | None]:
    """How many tokens the last block returns, and which run of them the model's output depends on; None for all."""
    last = Point(network.wiring.places[-1].name)
    read: list[Tensor] = []

    def seen(number: int, call: _Call) -> Any:
        leaves, structure = pytree.tree_flatten(call.output)
        at = next(n for n, leaf in enumerate(leaves) if isinstance(leaf, Tensor))
        read[:] = [leaves[at].detach().requires_grad_()]
        leaves[at] = read[0].clone()  # a leaf must not be written into, its copy may
        return pytree.tree_unflatten(leaves, structure)

    model = network.model
    # a classifier that starts at zero reads as much as any other
    generator = torch.Generator().manual_seed(0)
    awake = {
        name: torch.randn(parameter.shape, generator=generator).to(parameter)
        for name, parameter in model.named_parameters()
        if parameter.dim() > 1 and not bool(parameter.any())
    }
    args, kwargs = arguments_of(pytree.tree_map_only(Tensor, torch.Tensor.clone, network.example_input))
    with quietly(model), _watching(network, [last], seen), torch.enable_grad():
        logits = logits_of(functional_call(model, awake, args, kwargs))
        weights = torch.randn(logits.shape, generator=generator).to(logits)
        (gradient,) = torch.autograd.grad((logits * weights).sum(), read, allow_unused=True)
    if gradient is None or gradient.dim() != 3:
        return -1, None
    count = gradient.shape[1]
    tokens = gradient.abs().amax((0, 2)).nonzero()[:, 0].tolist()
    if len(tokens) in (0, count) or tokens != list(range(tokens[0], tokens[-1] + 1)):
        return count, None
    return count, slice(tokens[0], None if tokens[-1] + 1 == count else tokens[-1] + 1)
