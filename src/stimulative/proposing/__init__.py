"""A recipe for a model and data of your own: settings with their reasons, and a learning-rate range test."""

from stimulative.proposing.lr_range import RangeTest as RangeTest
from stimulative.proposing.lr_range import lr_range_test as lr_range_test
from stimulative.proposing.proposal import Proposal as Proposal
from stimulative.proposing.proposal import propose as propose
