"""Train a residual network so that every sub-network pulls its weight, measure it, and deploy the one that fits."""

from typing import TYPE_CHECKING, Any

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

if TYPE_CHECKING:
    from stimulative.deploy import extract as extract
    from stimulative.deploy import load as load

__version__ = "0.1.0"

_DEPLOY = "extract", "load"


def __getattr__(name: str) -> Any:
    """What is imported when it is first asked for, since it is slow to."""
    if name in _DEPLOY:
        from stimulative import deploy

        return getattr(deploy, name)
    raise AttributeError(f"module 'stimulative' has no attribute {name!r}")
