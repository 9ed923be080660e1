"""A residual network, unraveled: its stages, the space of its subnets, and running any of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import cached_property, partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from stimulative.errors import UsageError
from stimulative.residual.access.slices import put
from stimulative.residual.access.trees import map_tensors
from stimulative.residual.access.undisturbed import uncut, undisturbed
from stimulative.residual.finding.carried import settle_carried
from stimulative.residual.finding.dense import NotDense, find_dense, unlike_dense
from stimulative.residual.finding.discovery import Finder, LeftOut, Stage, find_stages, stages_by_hand
from stimulative.residual.finding.example import Example, as_in, check_batches, is_in_format
from stimulative.residual.finding.inside import Inside, as_written, inside_of
from stimulative.residual.finding.norms import find_norms
from stimulative.residual.finding.recording import Call, arguments_of, record
from stimulative.residual.finding.units import wire
from stimulative.residual.finding.wiring import Wiring
from stimulative.residual.running.execution import Pass, replay
from stimulative.residual.running.observing import AfterBlock, after_blocks
from stimulative.residual.running.order import order_of
from stimulative.residual.running.recalibration import recalibrate
from stimulative.residual.running.skipping import skipping
from stimulative.residual.running.statistics import Statistics, frozen_statistics, norms_in, with_statistics
from stimulative.residual.subnet import Subnet, SubnetSpace

SubnetLike = Subnet | str | Sequence[int]
_REMEMBERED = 10_000


class Asked(NamedTuple):
    """Several passes on a batch that are asked of a network; see its ``passes``."""

    x: Any
    subnets: tuple[Subnet, ...]
    before_pass: Callable[[int], Any] | None
    samples: int | None


@undisturbed
def unravel(
    model: nn.Module, example_input: Any, *, stages: Sequence[str | Sequence[str]] | None = None
) -> ResidualNetwork:
    """Find the residual blocks of a model, and make every sub-network of it runnable.

    The model runs once on the example input, in evaluation mode and without gradients. It is not changed: its
    parameters, buffers, state dict, mode and class stay as they are, also where the call is interrupted.

    Args:
        model: Any residual network.
        example_input: What the model is called with: a tensor (such as images of shape ``(B, C, H, W)``), a tuple of
            positional arguments, or a mapping of keyword arguments; on the model's device.
        stages: The stages by hand: names of containers of blocks (``"layer1"``) or lists of names of blocks. Found by
            the zero-parameter test by default.

    Raises:
        UsageError: If no block is found, a named stage does not fit, or the model cannot be taken apart (compiled or
            scripted as a whole, or wrapped for several devices).
    """
    _check_model(model)
    trace = record(model, example_input)
    named = [block for stage in stages or () if not isinstance(stage, str) for block in stage]
    for stage in stages or ():
        named += [f"{stage}.{key}" for key in _children_of(model, stage)] if isinstance(stage, str) else []
    finder = Finder(model, example_input, trace, by_name=named)
    dense = None
    try:
        dense = find_dense(model, finder, example_input)
        finder.not_dense = lambda: unlike_dense(model, finder, example_input)
    except NotDense as error:
        finder.not_dense = partial(str, error)
    if dense is not None:
        for name, modules, layers in zip(dense.names, dense.modules, dense.layers, strict=True):
            finder.dense |= dict.fromkeys(modules, Stage(name, layers, fixed_entry=False, concatenates=True))
    if stages is None:
        found = find_stages(model, finder, example_input)
    else:
        found = stages_by_hand(model, finder, example_input, stages)
    if not found:
        raise UsageError("stages= is empty: name at least one container of blocks, or leave it out")
    settle_carried(model, example_input, finder.blocks, [stage.block_names for stage in found])
    wiring = replace(wire(model, trace, finder, found, dense), norms=find_norms(model, example_input))
    network = ResidualNetwork(model, tuple(found), wiring, example_input)
    network.left_out = tuple(finder.left_out(found))
    return network


class ResidualNetwork(nn.Module):
    """A model whose sub-networks can be run; see ``unravel``, which makes it.

    Attributes:
        model: The model itself, unchanged.
        stages: Its stages, in the order in which they run.
        space: The space of its ordered subnets.
        left_out: The parts that always run, and why.
    """

    left_out: tuple[LeftOut, ...] = ()

    def __init__(self, model: nn.Module, stages: tuple[Stage, ...], wiring: Wiring, example_input: Any) -> None:
        super().__init__()
        self.model = model
        self._example_input = example_input
        self._example = Example.of(model, example_input)
        self._keeps_formats = not is_in_format(model, example_input)
        self.stages = stages
        self.wiring = wiring
        self._runnable: set[Subnet] = set()
        self.space = SubnetSpace(
            lengths=tuple(stage.blocks for stage in stages),
            fixed=tuple(stage.fixed_entry for stage in stages),
            ranges=tuple((stage.min_depth, stage.blocks) for stage in stages),
        )

    @property
    def example_input(self) -> Any:
        """What the model was unraveled with, on the model's device, and in its number format if it was in that."""
        example = as_in(self.model, self._example_input, keep_formats=self._keeps_formats)
        return map_tensors(Tensor.clone, example) if "" in self.wiring.writers else example

    def split(self, batch: Any) -> tuple[Any, tuple[Any, ...]]:
        """A batch of a loader as what the model is called with, and the rest of it, such as targets.

        What the model is called with is decided by the example input of ``unravel``. A batch is like the example, or
        has something like it first: ``(x, y)``, ``(x, t, y)`` where the example is ``(x, t)``, ``((x, t), y)``,
        ``({"input_ids": …}, y)``, or a mapping with the names of the example and more. Lists will do for tuples.

        Args:
            batch: The batch.

        Returns:
            The input, on the model's device, in its number format if the example was, and what else there is, on its
            device.

        Raises:
            UsageError: If there is nothing like the example in it.
        """
        inputs, rest = self._example.split(batch)
        return as_in(self.model, inputs, keep_formats=self._keeps_formats), tuple(
            as_in(self.model, rest, keep_formats=True)
        )

    def first_call(self, name: str) -> Call:
        """How a module of the model is called first on the example input, in shape; recorded once for all of them."""
        observed = self.wiring.observed
        if observed.first_calls is None:
            observed.first_calls = {}
            for call in record(self.model, self.example_input).calls:
                observed.first_calls.setdefault(call.name, call)
        return observed.first_calls[name]

    @cached_property
    def full(self) -> Subnet:
        """The main net as a subnet."""
        return Subnet.from_depths(self.space.lengths)

    def forward(self, x: Any, subnet: SubnetLike | None = None, *, statistics: Statistics | None = None) -> Any:
        """Run one subnet, or the main net.

        Args:
            x: The model's input, in the form of the example input of ``unravel``.
            subnet: Which blocks run: a ``Subnet``, its text such as ``"2-3-5-2"``, or a depth for each stage.
            statistics: Statistics from ``recalibrate`` to normalise with, instead of the model's own.

        Returns:
            What the model returns.
        """
        return self.run(x, [self.full if subnet is None else subnet], statistics=statistics)[0]

    def run(self, x: Any, subnets: Sequence[SubnetLike], *, statistics: Statistics | None = None) -> list[Any]:
        """Run several subnets on one batch, computing what they share once.

        In training mode, what subnets share is also shared by their passes: dropout in a shared prefix is drawn once,
        and a BatchNorm in it updates its running statistics once.

        Args:
            x: The model's input, in the form of the example input of ``unravel``.
            subnets: The subnets to run.
            statistics: Statistics from ``recalibrate`` to normalise with, instead of the model's own.

        Returns:
            The model's outputs, in the order of ``subnets``.
        """
        outputs: list[Any] = [None] * len(subnets)
        for position, output, _ in self.passes(x, subnets, statistics=statistics):
            outputs[position] = output
        return outputs

    def passes(
        self,
        x: Any,
        subnets: Sequence[SubnetLike],
        *,
        statistics: Statistics | None = None,
        cut: bool = False,
        before_pass: Callable[[int], AbstractContextManager[Any] | None] | None = None,
        samples: int | None = None,
        shrink: int = 1,
    ) -> Iterator[Pass]:
        """Run several subnets on one batch and yield each output as it comes, the main net first.

        Args:
            x: The model's input, in the form of the example input of ``unravel``.
            subnets: The subnets to run.
            statistics: Statistics from ``recalibrate`` to normalise with, instead of the model's own.
            cut: Cut the graph where later subnets depart, so that the memory of each tail can go before the next one is
                computed. The caller calls backward on what comes of each output, with the pass's ``retain_graph``,
                drops it, and exhausts the iterator.
            before_pass: Called with a position in ``subnets`` before it runs; may return a context manager.
            samples: How many of the batch's samples all subnets but the first one run on, which is then the main net;
                all of them by default. Samples are counted along the first dimension of every tensor.
            shrink: By which factor feature maps of all subnets but the main net are smaller; see ``replay``.

        Yields:
            For each subnet its position in ``subnets``, the model's output, and whether backward has to retain the
            graph; in the order that shares most.
        """
        chosen = tuple([self.resolve(subnet) for subnet in subnets])
        stages = [subnet.stages for subnet in chosen]
        if statistics is not None:
            statistics.check(stages)
        inside = self._check_state()
        whole = self.wiring.live.whole if statistics is None and not cut and shrink == 1 else None
        outputs = None if whole is None else whole(Asked(x, chosen, before_pass, samples))
        if outputs is not None:
            for number, position in enumerate(order_of(self.wiring, stages).positions, start=1):
                yield Pass(position, outputs[position], number < len(outputs))
            return
        args, kwargs = arguments_of(x)
        yield from replay(
            self.model,
            self.wiring,
            args,
            kwargs,
            stages,
            around=None if statistics is None else with_statistics(self.model, self.wiring, statistics),
            cut=cut,
            before_pass=before_pass,
            samples=samples,
            shrink=shrink,
            inside=inside,
        )

    def after_blocks(self, callback: AfterBlock) -> AbstractContextManager[None]:
        """A context in which a callback sees what blocks return, and decides what the model goes on with.

        For features of blocks (return the output as it is), and for dropping a block for some samples of a batch. It
        holds for the model's own calls and for subnets' passes; a block that a subnet skips is not seen.

        Args:
            callback: Called after each block with its place (``place.name``, ``place.stage``, ``place.index``), its
                output, and a function that gives what skipping the block would have returned; returns what the model
                goes on with.
        """
        self._check_state()
        return after_blocks(self.model, self.wiring, callback)

    def only(self, subnet: SubnetLike) -> AbstractContextManager[nn.Module]:
        """The model itself, with one subnet for all that it runs: nothing intercepted but the skipped blocks.

        For whoever calls the model without knowing of subnets, such as a timer or an exporter. The model keeps its
        own mode and statistics; it is the whole net again when the context closes, also after an error::

            with network.only("2-3-5-2") as model:
                logits = model(x)

        Args:
            subnet: Which blocks run.

        Returns:
            A context manager that yields the model.
        """
        chosen = self.resolve(subnet).stages
        self._check_state()
        return skipping(self.model, self.wiring, chosen)

    @undisturbed
    def recalibrate(
        self,
        batches: Iterable[Any],
        subnets: Sequence[SubnetLike] | None = None,
        *,
        images: int | None = None,
    ) -> Statistics:
        """Estimate the normalisation statistics of subnets on training images, sharing what their prefixes share.

        Each layer's mean and (biased) variance are the sample-weighted averages over the batches, every layer
        normalising by its own batch. The model's own statistics come back untouched, also where the call is
        interrupted; subnets that run in other threads meanwhile are right, and wait for a batch at most.

        Args:
            batches: Such as a data loader yields: inputs of the model, alone or followed by targets and more; see
                ``split``.
            subnets: Which subnets; by default all in ``space``.
            images: How many images to use at most; all by default.

        Returns:
            Statistics to be passed on to ``run``; they record how many images they come from.
        """
        chosen = [self.resolve(subnet).stages for subnet in (self.space if subnets is None else subnets)]
        check_batches(batches)
        inputs = (self.split(batch)[0] for batch in batches)
        return recalibrate(self.model, self.wiring, chosen, inputs, images=images)

    @uncut
    def load_statistics(self, statistics: Statistics, subnet: SubnetLike | None = None) -> None:
        """Make the statistics of one subnet (by default the main net) the model's own.

        Of a norm that reads the channels of dense layers, those of the channels that the subnet keeps.
        """
        stages = (self.full if subnet is None else self.resolve(subnet)).stages
        slices = {piece.name: piece for pieces in self.wiring.slices(stages).values() for piece in pieces}
        keys = {layer: norm.keys for _, layer, norm in norms_in(self.model, self.wiring)}
        for name, values in statistics.of(self.wiring, stages).items():
            layer = self.model.get_submodule(name)
            for key, value in zip(keys[layer], values, strict=True):
                whole: Any = getattr(layer, key)
                if name in slices:
                    put(whole, slices[name].inputs, value)
                else:
                    whole.data.copy_(value)

    def resolve(self, subnet: SubnetLike) -> Subnet:
        """A subnet from its text or depths, checked to be runnable: known blocks, fixed ones in their place.

        Raises:
            UsageError: If it is not, with the legal range.
        """
        if isinstance(subnet, str):
            subnet = Subnet.parse(subnet)
        elif not isinstance(subnet, Subnet):
            if not isinstance(subnet, Sequence):
                raise UsageError(
                    f"a subnet is a Subnet, its text such as {str(self.full)!r}, or a depth for each stage such as "
                    f"{list(self.full.depths)}; got {subnet!r}"
                )
            subnet = Subnet.from_depths(subnet)
        if subnet not in self._runnable:
            if subnet not in self.space:
                self._check_runnable(subnet)
            if len(self._runnable) >= _REMEMBERED:
                self._runnable.clear()
            self._runnable.add(subnet)
        return subnet

    def _check_runnable(self, subnet: Subnet) -> None:
        if len(subnet.stages) != len(self.stages):
            self.space.check(subnet)
        for number, (stage, kept) in enumerate(zip(self.stages, subnet.stages, strict=True)):
            legal = range(int(stage.fixed_entry), stage.blocks + 1)
            if len(kept) not in legal or any(block >= stage.blocks for block in kept):
                raise UsageError(
                    f"subnet {subnet} does not fit stage {stage.name!r}: it runs blocks {list(kept)}, but it has "
                    f"{stage.blocks} blocks (0..{stage.blocks - 1}) and runs {legal.start} to {stage.blocks} of them. "
                    f"Allowed: {self.space}"
                )
            if stage.in_own_order and list(kept) != sorted(kept):
                raise UsageError(
                    f"subnet {subnet} does not fit stage {stage.name!r}: its layers have different widths, so they run "
                    f"in their own order only; got {list(kept)}"
                )
            if stage.fixed_entry and kept[0] != 0:
                carries = number in self.wiring.carrying
                does = "makes what later ones hand on" if carries else "changes stride or width"
                raise UsageError(
                    f"subnet {subnet} does not fit stage {stage.name!r}: its block 0 {does} and always runs first, got "
                    f"{list(kept)}"
                )

    def uncompiled(self) -> AbstractContextManager[None]:
        """A context in which compiled blocks run as they were written.

        For evaluation: code that was compiled for training would be compiled once more for it, and for its last batch.
        """
        return as_written(self.model, self.wiring)

    @property
    def inside(self) -> Inside:
        """The modules of the model that are asked for in every step."""
        return inside_of(self.model, self.wiring)

    def frozen_statistics(self) -> AbstractContextManager[None]:
        """A context in which layers in training mode leave their running statistics alone."""
        return frozen_statistics(self.model, self.wiring)

    def extra_repr(self) -> str:
        """The plan in one line."""
        return f"stages={[f'{stage.name}: {stage.blocks}' for stage in self.stages]}, subnets={self.space.count}"

    def _check_state(self) -> Inside:
        """Make sure that nothing around blocks is compiled, and with gradients that nothing checkpoints activations.

        Returns:
            What is inside of the model.
        """
        inside = inside_of(self.model, self.wiring)
        for name, module in inside.around:
            _check_not_compiled(name, module)
        for name, module, switch in inside.switches if torch.is_grad_enabled() else ():
            if getattr(module, switch):
                raise UsageError(
                    f"activation checkpointing is on in {name or type(module).__name__!r}: it runs blocks again during "
                    "the backward pass, when it is no longer known which were skipped. Turn it off "
                    "(model.set_grad_checkpointing(False), of Transformers model.gradient_checkpointing_disable(); "
                    "memory_efficient=False of a DenseNet); to save memory, "
                    "use schedule='lean'"
                )
        return inside


def _check_model(model: nn.Module) -> None:
    if not isinstance(model, nn.Module):
        raise UsageError(f"a model is an nn.Module, got {type(model).__name__}")
    if isinstance(model, ResidualNetwork):
        raise UsageError("this is a ResidualNetwork already; unravel its .model")
    _check_not_compiled("", model)
    if isinstance(model, torch.jit.ScriptModule):
        raise UsageError("a scripted model cannot be taken apart; unravel the model before torch.jit.script")
    if isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
        raise UsageError(
            f"unravel the model inside of {type(model).__name__} (its .module), and wrap the training method instead"
        )


def _children_of(model: nn.Module, name: str) -> list[str]:
    """The names of a module's children; none if there is no such module, which is for later to judge."""
    return [key for key, _ in dict(model.named_modules()).get(name, nn.Module()).named_children()]


def _check_not_compiled(name: str, module: nn.Module) -> None:
    if type(module).__name__ == "OptimizedModule" or getattr(module, "_compiled_call_impl", None) is not None:
        raise UsageError(
            f"{f'{name!r} is compiled as a whole and' if name else 'a model compiled as a whole'} cannot be taken "
            "apart, since the compiled code would not see which blocks are skipped; leave it as it is, and "
            "compile its blocks (block.compile()) if you like"
        )
