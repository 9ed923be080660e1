"""Pictures, drawn from the files of runs."""

from stimulative.report.comparison import draw_comparison as draw_comparison
