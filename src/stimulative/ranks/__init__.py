"""Processes that train together: which of them this one is, and what each does of work that is divided."""

from stimulative.ranks.division import Division as Division
from stimulative.ranks.division import divided as divided
from stimulative.ranks.division import division as division
from stimulative.ranks.places import Place as Place
from stimulative.ranks.places import first_node as first_node
from stimulative.ranks.places import gpu_of as gpu_of
from stimulative.ranks.places import gpus_of_job as gpus_of_job
from stimulative.ranks.places import is_first_of_node as is_first_of_node
from stimulative.ranks.places import place_of_process as place_of_process
