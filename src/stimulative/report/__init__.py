"""Pictures and the HTML report, drawn from the files of runs and studies."""

from stimulative.report.choice import draw_choice as draw_choice
from stimulative.report.comparison import draw_comparison as draw_comparison
from stimulative.report.destruction import draw_destruction as draw_destruction
from stimulative.report.loafing import draw_loafing as draw_loafing
from stimulative.report.matrix import draw_matrix as draw_matrix
from stimulative.report.scatter import draw_family as draw_family
from stimulative.report.sweep import draw_sweep as draw_sweep
from stimulative.report.writing_report import write_report as write_report
