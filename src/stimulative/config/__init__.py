"""Recipes: everything that decides a run, read from YAML and checked before any work."""

from stimulative.config.annotations import plain as plain
from stimulative.config.foreign import AUTHORSHIP as AUTHORSHIP
from stimulative.config.foreign import RECIPE as RECIPE
from stimulative.config.foreign import guarding as guarding
from stimulative.config.foreign import sign as sign
from stimulative.config.recipe import Recipe as Recipe
from stimulative.config.recipe import load_recipe as load_recipe
from stimulative.config.schema import SECTIONS as SECTIONS
from stimulative.config.schema import settings_help as settings_help
from stimulative.config.settings import CalibrationSetting as CalibrationSetting
from stimulative.config.settings import OptimizerSettings as OptimizerSettings
from stimulative.config.settings import ScheduleSettings as ScheduleSettings
from stimulative.config.settings import TrainingSettings as TrainingSettings
from stimulative.config.sources import Overrides as Overrides
from stimulative.config.sources import read_file as read_file
from stimulative.config.sources import read_overrides as read_overrides
from stimulative.config.sources import shipped as shipped
from stimulative.config.yamlfile import dump_line as dump_line
from stimulative.config.yamlfile import parse_yaml as parse_yaml
