"""How to train: one file and one card a method, and the table of them all."""

from stimulative.methods.base import Method as Method
from stimulative.methods.base import Terms as Terms
from stimulative.methods.common import CommonTraining as CommonTraining
from stimulative.methods.stimulative import StimulativeTraining as StimulativeTraining

METHODS: dict[str, type[Method]] = {
    "common": CommonTraining,
    "stimulative": StimulativeTraining,
}
