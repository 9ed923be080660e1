"""Train a residual network so that every sub-network pulls its weight, measure it, and deploy the one that fits."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stimulative.deploy import extract as extract
    from stimulative.deploy import load as load
    from stimulative.errors import UsageError as UsageError
    from stimulative.extension import trusting as trusting
    from stimulative.methods import CommonTraining as CommonTraining
    from stimulative.methods import GroupKnowledge as GroupKnowledge
    from stimulative.methods import LayerSupervision as LayerSupervision
    from stimulative.methods import SelfDistillation as SelfDistillation
    from stimulative.methods import StageSupervision as StageSupervision
    from stimulative.methods import StimulativeTraining as StimulativeTraining
    from stimulative.methods import StochasticDepth as StochasticDepth
    from stimulative.methods import Terms as Terms
    from stimulative.residual import ResidualNetwork as ResidualNetwork
    from stimulative.residual import Stage as Stage
    from stimulative.residual import Statistics as Statistics
    from stimulative.residual import Subnet as Subnet
    from stimulative.residual import SubnetSpace as SubnetSpace
    from stimulative.residual import unravel as unravel

__version__ = "0.1.0"

_NAMES = {
    "deploy": ("extract", "load"),
    "errors": ("UsageError",),
    "extension": ("trusting",),
    "methods": (
        *("CommonTraining", "GroupKnowledge", "LayerSupervision", "SelfDistillation", "StageSupervision"),
        *("StimulativeTraining", "StochasticDepth", "Terms"),
    ),
    "residual": ("ResidualNetwork", "Stage", "Statistics", "Subnet", "SubnetSpace", "unravel"),
}
"""What each room gives this face. It is imported when it is first asked for, since PyTorch takes seconds."""
_HOMES = {name: room for room, names in _NAMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    if name in _NAMES:
        return import_module(f"{__name__}.{name}")
    raise AttributeError(f"module 'stimulative' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
