"""A recipe for a model and data of your own, what it will take, and a learning-rate range test."""

from stimulative.proposing.estimates import Estimate as Estimate
from stimulative.proposing.estimates import Forecast as Forecast
from stimulative.proposing.forecast import forecast_of as forecast_of
from stimulative.proposing.lr_range import RangeTest as RangeTest
from stimulative.proposing.lr_range import lr_range_test as lr_range_test
from stimulative.proposing.machines import GPUS as GPUS
from stimulative.proposing.machines import HERE as HERE
from stimulative.proposing.machines import Machine as Machine
from stimulative.proposing.processor_rates import measured_machine as measured_machine
from stimulative.proposing.proposal import Proposal as Proposal
from stimulative.proposing.proposal import propose as propose
