"""Studies: questions that take several runs, or the same ones of several runs."""

from stimulative.studies.comparison import COMPARISON as COMPARISON
from stimulative.studies.comparison import MARKDOWN as MARKDOWN
from stimulative.studies.comparison import ComparisonPlan as ComparisonPlan
from stimulative.studies.comparison import compare as compare
from stimulative.studies.comparison_table import accuracy as accuracy
from stimulative.studies.comparison_table import caution as caution
from stimulative.studies.comparison_table import cells as cells
from stimulative.studies.comparison_table import headings as headings
from stimulative.studies.comparison_table import notes as notes
from stimulative.studies.comparison_table import sentences as sentences
from stimulative.studies.destruction import DESTRUCTION as DESTRUCTION
from stimulative.studies.destruction import check_numbers as check_numbers
from stimulative.studies.destruction import destroy as destroy
from stimulative.studies.destruction import draw_images as draw_images
from stimulative.studies.launching import FAILURE as FAILURE
from stimulative.studies.launching import Workers as Workers
from stimulative.studies.loafing import LOAFING as LOAFING
from stimulative.studies.loafing import LoafingPlan as LoafingPlan
from stimulative.studies.loafing import measure_loafing as measure_loafing
from stimulative.studies.matrix import MATRIX as MATRIX
from stimulative.studies.matrix import MatrixPlan as MatrixPlan
from stimulative.studies.matrix import fill_matrix as fill_matrix
from stimulative.studies.sweep import SWEEP as SWEEP
from stimulative.studies.sweep import SweepPlan as SweepPlan
from stimulative.studies.sweep import sweep_setting as sweep_setting
