"""Studies: questions that take several runs, or the same question asked of several runs that there are.

A study of runs to be trained is a *plan* (which runs it needs), a *launch* (one for all studies: processes on this
machine, or a cluster) and a *record* of typed rows (what it has come to), which is its file. To add one:

1. Here, a file with the record (a ``StudyOfRuns``, whose ``NAME`` is that of its file), the plan (what ``Plan`` asks
   for: its ``recipe``, its ``jobs`` by name, and ``result``, which makes the record of what came of them) and a
   function that carries it out (``carry_out``).
2. In ``report``, a file that draws the record.
3. In ``cli/commands``, a file that reads the plan from words, and hands it to ``run_study``.
"""

from stimulative.studies.comparison import MARKDOWN as MARKDOWN
from stimulative.studies.comparison import ComparedMethods as ComparedMethods
from stimulative.studies.comparison import ComparedRun as ComparedRun
from stimulative.studies.comparison import Comparison as Comparison
from stimulative.studies.comparison import ComparisonPlan as ComparisonPlan
from stimulative.studies.comparison import ComparisonRow as ComparisonRow
from stimulative.studies.comparison import compare as compare
from stimulative.studies.comparison_table import accuracy as accuracy
from stimulative.studies.comparison_table import caution as caution
from stimulative.studies.comparison_table import cells as cells
from stimulative.studies.comparison_table import headings as headings
from stimulative.studies.comparison_table import notes as notes
from stimulative.studies.comparison_table import sentences as sentences
from stimulative.studies.destroying import check_numbers as check_numbers
from stimulative.studies.destroying import destroy as destroy
from stimulative.studies.destruction import DeletedRow as DeletedRow
from stimulative.studies.destruction import DestroyedRun as DestroyedRun
from stimulative.studies.destruction import Destruction as Destruction
from stimulative.studies.destruction import DrawsRow as DrawsRow
from stimulative.studies.destruction import SingleRow as SingleRow
from stimulative.studies.destruction import SwappedRow as SwappedRow
from stimulative.studies.jobs import AfterRun as AfterRun
from stimulative.studies.jobs import Job as Job
from stimulative.studies.jobs import Outcome as Outcome
from stimulative.studies.jobs import Workers as Workers
from stimulative.studies.launching import FAILURE as FAILURE
from stimulative.studies.loafing import Loafing as Loafing
from stimulative.studies.loafing import LoafingPair as LoafingPair
from stimulative.studies.loafing import LoafingPlan as LoafingPlan
from stimulative.studies.loafing import LoafingRow as LoafingRow
from stimulative.studies.loafing import measure_loafing as measure_loafing
from stimulative.studies.matrix import Matrix as Matrix
from stimulative.studies.matrix import MatrixCell as MatrixCell
from stimulative.studies.matrix import MatrixPlan as MatrixPlan
from stimulative.studies.matrix import fill_matrix as fill_matrix
from stimulative.studies.planning import Plan as Plan
from stimulative.studies.planning import carry_out as carry_out
from stimulative.studies.repeating import Compared as Compared
from stimulative.studies.repeating import Repetition as Repetition
from stimulative.studies.repeating import rerun as rerun
from stimulative.studies.study import Failed as Failed
from stimulative.studies.study import OverSeeds as OverSeeds
from stimulative.studies.study import Study as Study
from stimulative.studies.study import StudyOfRuns as StudyOfRuns
from stimulative.studies.study import over_seeds as over_seeds
from stimulative.studies.sweep import Sweep as Sweep
from stimulative.studies.sweep import SweepPlan as SweepPlan
from stimulative.studies.sweep import SweepRow as SweepRow
from stimulative.studies.sweep import SweepRun as SweepRun
from stimulative.studies.sweep import sweep_setting as sweep_setting
from stimulative.studies.variants import directory_name as directory_name
