"""The visible loop on Lightning Fabric: from a recipe to a run directory."""

from stimulative.config import Recipe as Recipe
from stimulative.config import load_recipe as load_recipe
from stimulative.config import shipped as shipped
from stimulative.runs import Score as Score
from stimulative.training.divergence import Diverged as Diverged
from stimulative.training.entry import train as train
from stimulative.training.events import Callback as Callback
from stimulative.training.events import Step as Step
from stimulative.training.finishing import parameters_of as parameters_of
from stimulative.training.measuring import in_format as in_format
from stimulative.training.measuring import in_precision_of as in_precision_of
from stimulative.training.measuring import measure as measure
from stimulative.training.optimization import optimizer_of as optimizer_of
from stimulative.training.preparing import Prepared as Prepared
from stimulative.training.preparing import as_in as as_in
from stimulative.training.preparing import prepare as prepare
from stimulative.training.preparing import unravel_on_images as unravel_on_images
from stimulative.training.preparing import unravel_on_text as unravel_on_text
from stimulative.training.randomness import random_states as random_states
from stimulative.training.randomness import restore_random_states as restore_random_states
from stimulative.training.temperature import fit_temperatures as fit_temperatures
from stimulative.training.temperature import measure_and_fit as measure_and_fit
from stimulative.training.trainer import Trainer as Trainer
