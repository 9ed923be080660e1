"""Caches of keys and values belong to one subnet.

A decoder that generates text keeps the keys and values of what it has read, layer by layer. Layers write into the cache
when they run; so passes that share a prefix, in which the second one does not run it again, leave a cache behind that
nobody can go on with. Several subnets are therefore run without any, and are refused where the caller wants one. The
same holds for attention maps, which layers leave behind when they run.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import nn

from stimulative.errors import UsageError


def is_cache(value: Any) -> bool:
    """Whether a value is a cache of keys and values, as Transformers' are."""
    return not isinstance(value, nn.Module) and hasattr(value, "get_seq_length") and hasattr(value, "update")


def check_example(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
    """Refuse an example input with a cache: a layer that is tried more than once would write into it more than once.

    Raises:
        UsageError: If there is a cache among the arguments, or the model is to make one.
    """
    what = _cache_in(args, kwargs)
    if what is not None:
        raise UsageError(
            f"the example input has {what}, and unravel calls layers again and again, which would all write into the "
            "cache. Leave it out; subnets can be run with caches all the same"
        )


def check_for_several(args: tuple[Any, ...], kwargs: Mapping[str, Any], subnets: int) -> None:
    """Refuse what makes no sense for several subnets.

    Raises:
        UsageError: If there is a cache among the arguments, or the caller wants one, or attention maps.
    """
    what = _cache_in(args, kwargs) or ("output_attentions=True" if kwargs.get("output_attentions") else None)
    if what is not None:
        raise UsageError(
            f"{what} belongs to one subnet, and {subnets} run on this batch: what they share is computed once, so that "
            "the later ones would leave nothing of it behind. Leave it out, or run each subnet alone, with a cache of "
            "its own: network(x, subnet)"
        )


def _cache_in(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str | None:
    for name, value in kwargs.items():
        if is_cache(value):
            return f"the cache {name}="
    if any(is_cache(value) for value in args):
        return "a cache"
    return "use_cache=True" if kwargs.get("use_cache") is True else None


def configs_of(model: nn.Module) -> list[Any]:
    """The configs of a model's modules, each once; none of a model that is not of Transformers."""
    configs = (getattr(module, "config", None) for module in model.modules())
    return list({id(config): config for config in configs if hasattr(config, "__dict__")}.values())


@contextmanager
def without_caches(configs: Iterable[Any]) -> Iterator[None]:
    """Models of these configs do not make a cache of their own accord, for a while: ``use_cache`` is off."""
    switched = [config.__dict__ for config in configs if config.__dict__.get("use_cache")]
    for fields in switched:
        fields["use_cache"] = False
    try:
        yield
    finally:
        for fields in switched:
            fields["use_cache"] = True
