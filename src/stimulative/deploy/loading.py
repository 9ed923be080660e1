"""Loads a family file: one module whose depth is switched while it runs; ``family_file`` describes the file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from stimulative import models
from stimulative.data import noise_images, noise_sequences
from stimulative.deploy.about import NamedModel
from stimulative.deploy.carving import Carving, carve
from stimulative.deploy.elastic import Elastic
from stimulative.deploy.family_file import FORMAT
from stimulative.deploy.packed import StoredFamily
from stimulative.deploy.writing import KEY
from stimulative.errors import UsageError
from stimulative.extension import distrusting, is_own, trusting
from stimulative.files import Damaged, check_seal, metadata_of
from stimulative.records import Record, understanding
from stimulative.residual import Subnet, put_statistics, unravel
from stimulative.tasks import TaskName
from stimulative.training import as_in


@dataclass(frozen=True, kw_only=True)
class _Whole(Record):
    """The whole model, as far as it takes to build and to call it; ``About`` says what these are."""

    model: NamedModel
    task: TaskName

    def built(self) -> nn.Module:
        """It, with new parameters."""
        raise NotImplementedError

    def example(self) -> Any:
        """What it is called with."""
        raise NotImplementedError

    def _built(self, classes: int, channels: int) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            return models.build(
                self.model.name, classes=classes, channels=channels, arguments=self.model.arguments, task=self.task
            )


@dataclass(frozen=True, kw_only=True)
class _OfImages(_Whole):
    classes: tuple[Any, ...]
    channels: int
    image_size: int

    def built(self) -> nn.Module:
        return self._built(len(self.classes), self.channels)

    def example(self) -> Any:
        _check_sizes(channels=self.channels, image_size=self.image_size)
        return noise_images(self.channels, self.image_size)


@dataclass(frozen=True, kw_only=True)
class _OfText(_Whole):
    vocabulary: int
    length: int

    def built(self) -> nn.Module:
        return self._built(self.vocabulary, 1)

    def example(self) -> Any:
        _check_sizes(vocabulary=self.vocabulary, length=self.length)
        return noise_sequences(self.length, self.vocabulary)


_MOST = {"channels": 4096, "image_size": 4096, "vocabulary": 10_000_000, "length": 1_000_000}
"""The greatest sizes of what a model in a file takes: beyond, an example of it would fill the memory."""


_ALLOW = "say load(FILE, trust=True), or give the whole model: load(FILE, model=...)"

_TIMES_THE_FILE = 50
"""How many times its file a whole model may be; a file of small subnets has the smaller part of it."""


def _check_sizes(**sizes: int) -> None:
    for name, size in sizes.items():
        if not 1 <= size <= _MOST[name]:
            raise ValueError(f"{name} is from 1 to {_MOST[name]:,}, and it says {size}")


def load(
    file: str | Path,
    *,
    model: nn.Module | None = None,
    example_input: Any = None,
    device: torch.device | str = "cpu",
    trust: bool = False,
) -> Elastic:
    """Load a family file as one module whose depth is switched at run time.

    Args:
        file: What ``stimulative pack`` or ``save_family`` wrote.
        model: The whole model, as it was trained, where the file has no name to build it by; it is filled with the
            file's weights, and taken apart.
        example_input: What the model is called with, where the file does not say; as ``unravel`` takes it.
        device: Where to.
        trust: Whether the file may name code of its own (``package.module:factory``) and give it any arguments.
            Importing runs that code. Otherwise only models of the catalogue are built, with plain arguments.

    Returns:
        The family, in evaluation mode, with the largest subnet in use.

    Raises:
        UsageError: If the file is no family file, does not fit the model, or names code and is not trusted.
    """
    path = Path(file)
    if model is None and not trust:
        _check_name(path)
    tensors, about = _read(path)
    if "model" not in about and (model is None or example_input is None):
        raise UsageError(
            f"{path} was written of a model without a name: give the whole model and what it is called with, as "
            "load(FILE, model=..., example_input=...)"
        )
    if model is None:
        with trusting() if trust else distrusting(f"{path}", allow=_ALLOW):
            whole = _whole(about, path)
            _check_parameters(whole, tensors, path)
            model = whole.built()
    with understanding(path):
        example = _whole(about, path).example() if example_input is None else example_input
        family = StoredFamily.from_mapping(about)
    missing = _fill(model, tensors, path)
    network = unravel(model, as_in(model, example), stages=[stage.blocks for stage in family.stages])
    nets = {}
    for stored in family.subnets:
        subnet = network.resolve(stored.subnet)
        carving = carve(network, subnet, shared=True, deleting=stored.deleting)
        _check_filled(path, subnet, carving, missing)
        for layer, number in stored.statistics.items():
            prefix = f"statistics.{number}.{layer}."
            keys = [name.removeprefix(prefix) for name in tensors if name.rpartition(".")[0] == prefix[:-1]]
            if not keys or layer not in carving.modules:
                raise UsageError(
                    f"{path} says that layer {layer!r} of subnet {subnet} has statistics {number}, and it has none of "
                    "these: write it again"
                )
            put_statistics(carving.modules[layer], {key: tensors[prefix + key].clone() for key in keys})
        nets[subnet] = carving.model.eval()
    return Elastic(nets, about).to(device).eval()


def _check_name(path: Path) -> None:
    """Refuse code that a file names before anything else is said of it, such as that it was changed.

    Raises:
        UsageError: If it names some.
    """
    try:
        name = json.loads(metadata_of(path)[KEY])["model"]["name"]
    except (KeyError, TypeError, ValueError, RecursionError):  # which reading it tells
        return
    if isinstance(name, str) and is_own(name):
        with distrusting(f"{path}", allow=_ALLOW):
            models.find(name, "images")


def _check_parameters(whole: _Whole, tensors: Mapping[str, Tensor], path: Path) -> None:
    """Make sure that a model is not far larger than its file, before it takes any memory.

    Raises:
        UsageError: If it is.
    """
    try:
        with torch.device("meta"):
            parameters = sum(parameter.numel() for parameter in whole.built().parameters())
    except UsageError:
        raise
    except Exception:  # some models look at their values while they are made
        return
    stored = sum(tensor.numel() for tensor in tensors.values())
    if parameters > _TIMES_THE_FILE * stored + 10_000_000:
        raise UsageError(
            f"{path} has {stored:,} numbers, and its model {whole.model.name} would have {parameters:,} parameters: "
            "that is not the model of this file"
        )


def _whole(about: Mapping[str, Any], path: Path) -> _Whole:
    with understanding(path):
        return (_OfText if "vocabulary" in about else _OfImages).from_mapping(about)


def _read(path: Path) -> tuple[dict[str, Tensor], Mapping[str, Any]]:
    """The tensors and the JSON of a family file."""
    from safetensors import SafetensorError, safe_open

    if path.is_dir():
        raise UsageError(f"{path} is a directory, and no family file; of a run, write one: stimulative pack {path}")
    if not path.is_file():
        raise UsageError(f"there is no file {path}; write one: stimulative pack RUN")
    try:
        check_seal(path)
        with safe_open(path, framework="pt") as opened:
            about = json.loads((opened.metadata() or {}).get(KEY, "null"))
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118, it is no mapping
    except Damaged as error:
        raise UsageError(f"{error}. Copy it again, or write it again: stimulative pack") from error
    except (SafetensorError, OSError, ValueError, RecursionError) as error:
        raise UsageError(
            f"{path} cannot be read as a family file: {error}. Write it again: stimulative pack"
        ) from error
    if not isinstance(about, Mapping) or about.get("format") != FORMAT:
        raise UsageError(
            f"{path} is no family file of this version ({FORMAT!r}): its header says "
            f"{about.get('format') if isinstance(about, Mapping) else 'nothing'!r}. Write one: stimulative pack RUN"
        )
    return tensors, about


def _fill(model: nn.Module, tensors: Mapping[str, Tensor], path: Path) -> set[int]:
    """Fill a model with the weights of a file; the tensors of the model that the file does not have."""
    own = {name: value for name, value in model.state_dict(keep_vars=True).items() if isinstance(value, Tensor)}
    given = {name: value for name, value in tensors.items() if not name.startswith("statistics.")}
    wrong = [name for name, value in given.items() if name not in own or own[name].shape != value.shape]
    if wrong:
        raise UsageError(
            f"{path} does not fit the model {type(model).__name__}: {len(wrong)} of its {len(given)} tensors have "
            f"other names or shapes there, such as {wrong[0]}. Give the model that was trained: load(FILE, model=...)"
        )
    dtype = next((value.dtype for value in given.values() if value.is_floating_point()), torch.float32)
    model.to(dtype)
    model.load_state_dict(given, strict=False)
    own = {name: value for name, value in model.state_dict(keep_vars=True).items() if isinstance(value, Tensor)}
    filled = {id(own[name]) for name in given}
    return {id(value) for value in own.values()} - filled


def _check_filled(path: Path, subnet: Subnet, carving: Carving, missing: set[int]) -> None:
    """Make sure that a subnet has nothing left that the file did not fill."""
    empty = [name for name, value in carving.model.named_parameters() if id(value) in missing]
    if empty:
        raise UsageError(
            f"{path} lacks {len(empty)} tensors of its subnet {subnet}, such as {empty[0]}: write it again"
        )
