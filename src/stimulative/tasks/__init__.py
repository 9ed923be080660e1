"""What a network is for: what its outputs mean, what they are compared with, and which targets fit."""

from stimulative.tasks.classification import Classification as Classification
from stimulative.tasks.embedding import Embedding as Embedding
from stimulative.tasks.measures import KEYS as KEYS
from stimulative.tasks.measures import MEASURES as MEASURES
from stimulative.tasks.measures import Measure as Measure
from stimulative.tasks.measures import TaskName as TaskName
from stimulative.tasks.meters import Measurement as Measurement
from stimulative.tasks.meters import Meter as Meter
from stimulative.tasks.meters import hits as hits
from stimulative.tasks.multilabel import MultiLabel as MultiLabel
from stimulative.tasks.own_task import OwnTask as OwnTask
from stimulative.tasks.regression import ImageToImage as ImageToImage
from stimulative.tasks.regression import Regression as Regression
from stimulative.tasks.segmentation import Segmentation as Segmentation
from stimulative.tasks.task import Rows as Rows
from stimulative.tasks.task import Task as Task
from stimulative.tasks.tasks_by_name import TASKS as TASKS
from stimulative.tasks.tasks_by_name import resolve_task as resolve_task
from stimulative.tasks.tasks_by_name import task_named as task_named
from stimulative.tasks.tasks_by_name import task_of_model as task_of_model
