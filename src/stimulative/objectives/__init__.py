"""Losses as pure functions of logits: no network, no state, no schedule."""

from stimulative.objectives.bernoulli import label_cross_entropy as label_cross_entropy
from stimulative.objectives.bernoulli import label_divergence as label_divergence
from stimulative.objectives.directional import Normalisation as Normalisation
from stimulative.objectives.directional import directional_divergence as directional_divergence
from stimulative.objectives.directional import normalised as normalised
from stimulative.objectives.distances import cosine_distance as cosine_distance
from stimulative.objectives.distances import squared_distance as squared_distance
from stimulative.objectives.distillation import Direction as Direction
from stimulative.objectives.distillation import decoupled_divergence as decoupled_divergence
from stimulative.objectives.distillation import divergence_of_top as divergence_of_top
from stimulative.objectives.distillation import soft_cross_entropy as soft_cross_entropy
from stimulative.objectives.distillation import squared_logits as squared_logits
from stimulative.objectives.groups import group_divergence as group_divergence
from stimulative.objectives.groups import running_averages as running_averages
from stimulative.objectives.kl import IGNORED as IGNORED
from stimulative.objectives.kl import counted as counted
from stimulative.objectives.kl import cross_entropy as cross_entropy
from stimulative.objectives.kl import kl_divergence as kl_divergence
from stimulative.objectives.logits import logits_of as logits_of
from stimulative.objectives.shallow import hint_loss as hint_loss
from stimulative.objectives.shallow import shallow_loss as shallow_loss
