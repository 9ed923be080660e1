"""The visible loop on Lightning Fabric: from a recipe to a run directory."""

from stimulative.training.loop import Diverged as Diverged
from stimulative.training.loop import Run as Run
from stimulative.training.loop import prepare as prepare
from stimulative.training.loop import train as train
from stimulative.training.measure import Score as Score
from stimulative.training.measure import measure as measure
from stimulative.training.recipe import Recipe as Recipe
from stimulative.training.recipe import load_recipe as load_recipe
from stimulative.training.recipe import shipped as shipped
