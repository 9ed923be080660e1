"""How to train: one file and one card a method, and the table of them all."""

from stimulative.methods.base import Method as Method
from stimulative.methods.base import Terms as Terms
from stimulative.methods.common import CommonTraining as CommonTraining
from stimulative.methods.group_knowledge import GroupKnowledge as GroupKnowledge
from stimulative.methods.layer_supervision import LayerSupervision as LayerSupervision
from stimulative.methods.self_distillation import SelfDistillation as SelfDistillation
from stimulative.methods.stage_supervision import StageSupervision as StageSupervision
from stimulative.methods.stimulative import StimulativeTraining as StimulativeTraining
from stimulative.methods.stochastic_depth import StochasticDepth as StochasticDepth

METHODS: dict[str, type[Method]] = {
    "common": CommonTraining,
    "layer_supervision": LayerSupervision,
    "stage_supervision": StageSupervision,
    "self_distillation": SelfDistillation,
    "stochastic_depth": StochasticDepth,
    "stimulative": StimulativeTraining,
    "group_knowledge": GroupKnowledge,
}
