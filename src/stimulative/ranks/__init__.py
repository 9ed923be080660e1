"""Processes that train together: which of them this one is, and what each does of work that is divided."""

from stimulative.ranks.dividing import Division as Division
from stimulative.ranks.dividing import divided as divided
from stimulative.ranks.dividing import division as division
from stimulative.ranks.world import World as World
from stimulative.ranks.world import first_node as first_node
from stimulative.ranks.world import gpu_of as gpu_of
from stimulative.ranks.world import gpus_of_job as gpus_of_job
from stimulative.ranks.world import is_first_of_node as is_first_of_node
from stimulative.ranks.world import world_of_process as world_of_process
