"""Questions asked of a trained network: its subnets, what they cost, and how methods compare."""

from stimulative.analysis.comparison import compare as compare
from stimulative.analysis.cost import Cost as Cost
from stimulative.analysis.cost import CostModel as CostModel
from stimulative.analysis.family import Member as Member
from stimulative.analysis.family import evaluate as evaluate
