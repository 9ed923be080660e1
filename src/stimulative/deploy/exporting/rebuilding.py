"""How a subnet's module is made again in plain PyTorch, without this library.

Either its library's own constructor builds it, told of fewer blocks (``timm.create_model("resnet50", layers=[2, 3, 4,
1])``): that is tried, and believed only if names and shapes of all tensors are the same and so is what comes out. Or
the main net is built and loses the blocks: which children of which containers are left, under which names.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from stimulative.deploy.carving import Carving
from stimulative.deploy.exporting.deployed import Deployed, runner
from stimulative.models import build, find
from stimulative.records import Record, absent
from stimulative.residual import Subnet, config_of, put_children
from stimulative.training import Prepared

_WORDS = (
    *("depth", "depths", "layers", "num_layers", "n_layers", "block_config", "num_blocks", "blocks"),
    *("num_hidden_layers", "n_layer", "stage_depths", "layer_depths", "repeats"),
)
"""What constructors call the number of their blocks, or the numbers of their stages' blocks."""

_TOLERANCE = 1e-5


@dataclass(frozen=True, kw_only=True)
class BuildingCall(Record):
    """A call that builds a model.

    Args:
        function: The import path of what is called.
        args: Its positional arguments.
        kwargs: Its keyword arguments.
        config_class: Of Transformers, the class of the config that is the one argument.
        config: Of Transformers, the fields of that config.
        python: The call as Python.
    """

    function: str
    args: tuple[Any, ...] | None = absent()
    kwargs: Mapping[str, Any] | None = absent()
    config_class: str | None = absent()
    config: Mapping[str, Any] | None = absent()
    python: str

    @classmethod
    def with_arguments(cls, function: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> BuildingCall:
        """A call of anything with arguments."""
        words = [*map(repr, args), *(f"{key}={value!r}" for key, value in kwargs.items())]
        return BuildingCall(function=function, args=args, kwargs=kwargs, python=f"{function}({', '.join(words)})")

    @classmethod
    def with_config(cls, function: str, config_class: str, config: Mapping[str, Any]) -> BuildingCall:
        """A call of a class of Transformers with a config."""
        python = f"{function}(transformers.{config_class}.from_dict(CONFIG))"
        return BuildingCall(function=function, config_class=config_class, config=config, python=python)


@dataclass(frozen=True, kw_only=True)
class MainNetCall(BuildingCall):
    """A call that builds the main net, and what is left of it.

    Args:
        children: Of containers that lost children, the name in the main net of each one that is left, by its new key.
        identities: Blocks of the main net that ``nn.Identity`` stands for.
    """

    children: Mapping[str, Mapping[str, str]]
    identities: tuple[str, ...]


@dataclass(frozen=True)
class Ways(Record):
    """The ways in which a module is built again, each tried out.

    Args:
        directly: The call that builds it; None if none was found.
        from_main_net: The call that builds the main net; None if the module did not come out of that.
    """

    directly: BuildingCall | None
    from_main_net: MainNetCall | None


@dataclass(frozen=True)
class Rebuilding:
    """How a module is built again.

    Args:
        ways: The ways.
        built: A module that was built in one of them; None if there is no way.
    """

    ways: Ways
    built: nn.Module | None


def rebuilding_of(
    run: Prepared, carving: Carving, module: Deployed, subnet: Subnet, inputs: tuple[Tensor, ...]
) -> Rebuilding:
    """Look for the ways in which an extracted module is built again.

    Args:
        run: The run that it is of.
        carving: The extracted module.
        module: The same, as it is exported.
        subnet: The subnet that it is.
        inputs: What is compared: one batch, as the module takes it.
    """
    model, identities = carving.model, carving.identities

    def works(made: nn.Module) -> bool:
        return _filled(made, model) and _same(made, module, inputs)

    directly = built = None
    for call, make in _direct_calls(run, model, subnet):
        made = _made(make)
        if made is not None and _shapes(made) == _shapes(model) and works(made):
            directly, built = call, made
            break
    main_net, made = _main_net(run)
    if made is not None:
        try:
            put_together(made, carving.children, identities)
            if not works(made):
                made = None
        except (AttributeError, KeyError):
            made = None
    if made is None:
        return Rebuilding(Ways(directly, None), built)
    left = MainNetCall(**vars(main_net), children=carving.children, identities=identities)
    return Rebuilding(Ways(directly, left), made if built is None else built)


def put_together(model: nn.Module, children: Mapping[str, Mapping[str, str]], identities: Sequence[str]) -> None:
    """Take the blocks out of a main net that a subnet skips; what anybody can do with the JSON, in plain PyTorch."""
    for name in identities:
        model.set_submodule(name, nn.Identity())
    modules = dict(model.named_modules(remove_duplicate=False))
    for name, left in children.items():
        put_children(modules[name], {key: modules[old] for key, old in left.items()})


def fill(model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Give a model weights, whose shapes may be others than its own (DenseNet's layers read fewer channels)."""
    own = model.state_dict(keep_vars=True)
    for name, value in weights.items():
        own[name].data = value


def _shapes(model: nn.Module) -> dict[str, torch.Size]:
    return {name: value.shape for name, value in model.state_dict().items()}


def _filled(made: nn.Module, model: nn.Module) -> bool:
    """Fill a model that was built with the weights of the extracted one, if it has the same names."""
    weights = {name: value.detach().clone() for name, value in model.state_dict().items()}
    if made.state_dict().keys() != weights.keys():
        return False
    fill(made, weights)
    return True


def _same(made: nn.Module, module: Deployed, inputs: tuple[Tensor, ...]) -> bool:
    """Whether a model gives what the extracted one gives."""
    try:
        got, wanted = (runner(net)(*inputs) for net in (type(module)(made.eval()), module))
    except Exception:  # whatever a model does that is not the right one
        return False
    return got.shape == wanted.shape and bool((got - wanted).abs().amax() <= _TOLERANCE * wanted.abs().amax())


def _made(make: Callable[[], nn.Module]) -> nn.Module | None:
    try:
        with torch.random.fork_rng(devices=[]):
            return make()
    except Exception:  # whatever a constructor does with an argument that it does not have
        return None


def _main_net(run: Prepared) -> tuple[BuildingCall, nn.Module | None]:
    config = config_of(run.network.model)
    if config is not None:
        return _of_config(run.network.model)
    arguments = run.recipe.model.arguments
    return _call(run, arguments), _made(lambda: _build(run, arguments))


def _direct_calls(
    run: Prepared, model: nn.Module, subnet: Subnet
) -> Iterator[tuple[BuildingCall, Callable[[], nn.Module]]]:
    """Calls that may build a model, and what makes them."""
    if config_of(model) is not None:
        call, made = _of_config(model)
        if made is not None:
            yield call, lambda: made
        return
    given = run.recipe.model.arguments
    for arguments in _candidates(run, model, subnet):
        merged = {**given, **arguments}
        yield _call(run, merged), lambda merged=merged: _build(run, merged)


def _candidates(run: Prepared, model: nn.Module, subnet: Subnet) -> Iterator[Mapping[str, Any]]:
    """Arguments that may say how many blocks there are, those that the recipe has before others."""
    network = run.network
    containers = dict.fromkeys(stage.block_names[0].rpartition(".")[0] for stage in network.stages)
    full, left = ([len(of.get_submodule(name)._modules) for name in containers] for of in (network.model, model))
    if subnet == network.full:
        yield {}
    values: list[tuple[Any, Any]] = [(full, left)]
    depths = list(network.full.depths), list(subnet.depths)
    if depths != values[0]:
        values.append(depths)
    if len(left) == 1:
        values.insert(0, (full[0], left[0]))
    for old, new in values:
        for key, value in run.recipe.model.arguments.items():
            if value == old:
                yield {key: new}
    for word in _WORDS:
        for _, new in values:
            yield {word: new}


def _of_config(model: nn.Module) -> tuple[BuildingCall, nn.Module | None]:
    """The call that builds a model of Transformers from its config."""
    import transformers

    config = config_of(model)
    kind, config_kind = type(model).__name__, type(config).__name__
    fields = json.loads(config.to_json_string(use_diff=False))
    call = BuildingCall.with_config(f"transformers.{kind}", config_kind, fields)
    of: Any = transformers
    return call, _made(lambda: getattr(of, kind)(getattr(of, config_kind).from_dict(dict(fields))))


def _build(run: Prepared, arguments: Mapping[str, Any]) -> nn.Module:
    data = run.data
    return build(run.recipe.model.name, **data.sizes, arguments=arguments, task=data.task)


def _call(run: Prepared, arguments: Mapping[str, Any]) -> BuildingCall:
    """The call that builds a model, in the words of the library that it is from."""
    name, data = run.recipe.model.name, run.data
    factory = find(name, data.task)
    keywords = {"classes": factory.classes_keyword, "channels": factory.channels_keyword}
    sizes = {keyword: size for of, size in data.sizes.items() if (keyword := keywords[of]) is not None}
    kwargs = {**sizes, **arguments}
    room, _, rest = name.partition("/")
    if ":" in name:
        return BuildingCall.with_arguments(name.replace(":", "."), (), kwargs)
    if room == "timm":
        return BuildingCall.with_arguments("timm.create_model", (rest,), kwargs)
    if room == "torchvision":
        return BuildingCall.with_arguments("torchvision.models.get_model", (rest,), kwargs)
    ours = {**data.sizes, "arguments": dict(arguments)}
    if data.task == "embedding":
        ours["task"] = data.task
    return BuildingCall.with_arguments("stimulative.models.build", (name,), ours)
