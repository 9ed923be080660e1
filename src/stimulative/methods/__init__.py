"""How to train: one file and one card a method, the table of them all, and how methods of one's own are named."""

from stimulative.methods.base import Backward as Backward
from stimulative.methods.base import Method as Method
from stimulative.methods.base import Terms as Terms
from stimulative.methods.beside import Beside as Beside
from stimulative.methods.beside import as_input as as_input
from stimulative.methods.beside import call_of as call_of
from stimulative.methods.beside import called_instead as called_instead
from stimulative.methods.beside import check_settings_beside as check_settings_beside
from stimulative.methods.common import CommonTraining as CommonTraining
from stimulative.methods.group_knowledge import GroupKnowledge as GroupKnowledge
from stimulative.methods.inputs import resized as resized
from stimulative.methods.inputs import samples_of as samples_of
from stimulative.methods.inputs import sides_of as sides_of
from stimulative.methods.labels import known_targets as known_targets
from stimulative.methods.labels import shifted_labels as shifted_labels
from stimulative.methods.layer_supervision import LayerSupervision as LayerSupervision
from stimulative.methods.logit_memory import Numbered as Numbered
from stimulative.methods.named import METHODS as METHODS
from stimulative.methods.named import method_named as method_named
from stimulative.methods.self_distillation import SelfDistillation as SelfDistillation
from stimulative.methods.stage_supervision import StageSupervision as StageSupervision
from stimulative.methods.stimulative import StimulativeTraining as StimulativeTraining
from stimulative.methods.stochastic_depth import StochasticDepth as StochasticDepth
from stimulative.methods.subnet_objectives import OBJECTIVES as OBJECTIVES
from stimulative.methods.subnet_objectives import SubnetObjective as SubnetObjective
from stimulative.methods.teachers import known_numbers as known_numbers
