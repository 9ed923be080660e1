"""A model that was found by its name and is not built yet."""

import inspect
import re
import traceback
from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from stimulative.errors import UsageError
from stimulative.extension import distrusted, how_to_trust
from stimulative.models.foreign_arguments import foreign_problem
from stimulative.naming import did_you_mean


def accepted_keywords(make: Callable[..., Any]) -> set[str] | None:
    """Returns the keyword arguments that ``make`` names, or None when it takes any or cannot be asked."""
    try:
        parameters = inspect.signature(make).parameters.values()
    except (TypeError, ValueError):
        return None
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return None
    by_keyword = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return {parameter.name for parameter in parameters if parameter.kind in by_keyword}


@dataclass(frozen=True)
class Factory:
    """How to build one model.

    Args:
        name: The whole name the user wrote, for messages.
        make: Called with keywords only; returns the model.
        classes_keyword: The keyword of ``make`` that takes the number of classes; None if it takes none.
        channels_keyword: The keyword of ``make`` that takes the number of input channels; None if it takes
            none.
        rgb_only: The model has three input channels and no way to change that.
        reserved: Keywords of ``make`` that are not the user's to give, with the reason.
        known: The keywords of ``make``, where its signature does not name them.
        make_pretrained: Like ``make``, but with the weights that the model's library publishes, and with as many
            classes as they have; None if there are none.
        none_published: Why there are none.
    """

    name: str
    make: Callable[..., nn.Module]
    classes_keyword: str | None = "num_classes"
    channels_keyword: str | None = "in_chans"
    rgb_only: bool = False
    reserved: Mapping[str, str] = field(default_factory=dict)
    known: frozenset[str] | None = None
    make_pretrained: Callable[..., nn.Module] | None = None
    none_published: str = "nobody publishes weights of it by this name"

    def problems(self, arguments: Mapping[str, Any]) -> list[str]:
        """Returns what is wrong with ``arguments``, as far as it shows without building the model."""
        reserved = dict(self.reserved)
        for keyword in (self.classes_keyword, self.channels_keyword):
            if keyword is not None:
                reserved[keyword] = "it follows from the data"
        accepted = accepted_keywords(self.make) if self.known is None else self.known
        found = []
        foreign = foreign_problem(arguments) if distrusted() else None
        if foreign is not None:
            return [f"{distrusted()} gives model {self.name!r} arguments: {foreign}. {how_to_trust()}"]
        for argument in arguments:
            if argument in reserved:
                found.append(f"{argument!r} cannot be given to model {self.name!r}: {reserved[argument]}; remove it")
            elif accepted is not None and argument not in accepted:
                found.append(self._unknown(argument, accepted - reserved.keys()))
        return found

    def build(self, *, classes: int, channels: int, arguments: Mapping[str, Any]) -> nn.Module:
        """Builds the model, its parameters drawn from torch's global generator.

        Raises:
            UsageError: An argument is unknown, reserved or refused, the channels do not fit, or what comes
                back is no ``nn.Module``.
        """
        if problems := self.problems(arguments):
            raise UsageError("; ".join(problems))
        if self.rgb_only and channels != 3:
            raise UsageError(self._no_such_channels(channels))
        sizes = {self.classes_keyword: classes, self.channels_keyword: channels}
        keywords = {keyword: size for keyword, size in sizes.items() if keyword is not None}
        try:
            model = self.make(**keywords, **arguments)
        except UsageError:
            raise
        except Exception as error:
            raise self._explained(error, channels, arguments) from error
        if not isinstance(model, nn.Module):
            raise UsageError(
                f"the factory {self.name!r} must return a torch.nn.Module; got {type(model).__name__} {model!r}"
            )
        return model

    def build_pretrained(self, *, channels: int, arguments: Mapping[str, Any]) -> nn.Module:
        """Builds the model with the weights that its library publishes, downloaded at first use.

        Raises:
            UsageError: There are none, they cannot be had, or they do not fit the arguments or the channels.
        """
        if self.make_pretrained is None:
            raise UsageError(self.no_pretrained())
        if self.rgb_only and channels != 3:
            raise UsageError(self._no_such_channels(channels))
        sizes = {} if self.channels_keyword is None else {self.channels_keyword: channels}
        try:
            return self.make_pretrained(**sizes, **arguments)
        except Exception as error:  # of the network, the hub's cache, the files, and weights that do not fit
            reason = " ".join(str(error).split())[:500]
            raise UsageError(
                f"the published weights of model {self.name!r} cannot be had: {type(error).__name__}: {reason}. "
                "Without a network, download the file elsewhere and give its path: model.weights: PATH"
            ) from error

    def no_pretrained(self) -> str:
        """Why the model cannot start from published weights, and from what it can."""
        return (
            f"model {self.name!r} has no pretrained weights: {self.none_published}; give a file or a run directory, or "
            "take a timm/ or torchvision/ model"
        )

    def _unknown(self, argument: str, accepted: Set[str] | None) -> str:
        message = f"model {self.name!r} takes no argument {argument!r}"
        if accepted is None:
            return message
        known = f"known: {', '.join(sorted(accepted))}" if accepted else "it takes none"
        return f"{message}; {known}{did_you_mean(argument, accepted)}"

    def _no_such_channels(self, channels: int) -> str:
        return (
            f"model {self.name!r} takes images of 3 channels only; got {channels}; "
            "take a cifar/ or timm/ model, or a factory of your own"
        )

    def _explained(self, error: Exception, channels: int, arguments: Mapping[str, Any]) -> Exception:
        unexpected = re.search(r"unexpected keyword argument '(\w+)'", str(error))
        if unexpected and unexpected[1] in arguments:
            return UsageError(self._unknown(unexpected[1], None))
        if unexpected and unexpected[1] == self.channels_keyword:
            return UsageError(self._no_such_channels(channels))
        if arguments and isinstance(error, TypeError | ValueError | AssertionError):
            given = ", ".join(f"{key}={value!r}" for key, value in arguments.items())
            return UsageError(f"model {self.name!r} refuses its arguments ({given}): {type(error).__name__}: {error}")
        frame = traceback.extract_tb(error.__traceback__)[-1]
        return UsageError(
            f"building model {self.name!r} failed: {type(error).__name__}: {error} ({frame.filename}:{frame.lineno})"
        )
