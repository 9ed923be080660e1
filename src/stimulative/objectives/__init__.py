"""Losses as pure functions of logits: no network, no state, no schedule."""

from stimulative.objectives.kl import cross_entropy as cross_entropy
from stimulative.objectives.kl import kl_divergence as kl_divergence
