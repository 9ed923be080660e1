"""Questions asked of a trained network: its subnets, and what they cost."""

from stimulative.analysis.adoption import adopt as adopt
from stimulative.analysis.adoption import recipe_for as recipe_for
from stimulative.analysis.cost import CostModel as CostModel
from stimulative.analysis.drawing import Chosen as Chosen
from stimulative.analysis.drawing import choose_subnets as choose_subnets
from stimulative.analysis.drawing import draw as draw
from stimulative.analysis.drawing import draw_images as draw_images
from stimulative.analysis.evaluation import ResultsLost as ResultsLost
from stimulative.analysis.evaluation import evaluate as evaluate
from stimulative.analysis.latency import MAX_ROUNDS as MAX_ROUNDS
from stimulative.analysis.latency import SECONDS as SECONDS
from stimulative.analysis.latency import Latencies as Latencies
from stimulative.analysis.latency import measure_modules as measure_modules
from stimulative.analysis.steps import Steps as Steps
from stimulative.analysis.trained import open_run as open_run
from stimulative.analysis.verifying import Finding as Finding
from stimulative.analysis.verifying import trained_on as trained_on
from stimulative.analysis.verifying import verify as verify
