"""What a network is made of, and running any part of it. Knows no training.

Its sub-rooms, lowest first; each imports only those before it:

- ``access``: reaching into a module: its mode, its calls, its slots, its caches;
- ``finding``: what a model is made of, seen by running it on an example input;
- ``counted``: layers that a config counts (Hugging Face Transformers), and models with fewer of them;
- ``running``: running subnets of a model, and their statistics;
- ``subnet``, ``deletion``, ``sampling``, ``odds`` and ``network``: subnets as values, drawing them, and what has them;
- ``surgery``: what is done to an unraveled network: blocks removed, a stem frozen, branches scaled.

Other rooms import from here.
"""

from stimulative.residual.access.caches import configs_of as configs_of
from stimulative.residual.access.caches import is_cache as is_cache
from stimulative.residual.access.caches import without_caches as without_caches
from stimulative.residual.access.interception import call_slot as call_slot
from stimulative.residual.access.interception import intercepted as intercepted
from stimulative.residual.access.mode import evaluating as evaluating
from stimulative.residual.access.mode import going_backward as going_backward
from stimulative.residual.access.samples import batch_size as batch_size
from stimulative.residual.access.samples import first_samples as first_samples
from stimulative.residual.access.sending import sent as sent
from stimulative.residual.access.slices import Slice as Slice
from stimulative.residual.access.slices import narrow_for_good as narrow_for_good
from stimulative.residual.access.slices import size_of as size_of
from stimulative.residual.access.slices import treats_each as treats_each
from stimulative.residual.access.slots import buffers_kept as buffers_kept
from stimulative.residual.access.slots import computed_by_hooks as computed_by_hooks
from stimulative.residual.access.slots import put_children as put_children
from stimulative.residual.access.slots import put_statistics as put_statistics
from stimulative.residual.access.slots import statistics_in as statistics_in
from stimulative.residual.access.trees import map_tensors as map_tensors
from stimulative.residual.access.trees import tensors_in as tensors_in
from stimulative.residual.access.undisturbed import uncut as uncut
from stimulative.residual.access.undisturbed import undisturbed as undisturbed
from stimulative.residual.counted.layers import stacks_of as stacks_of
from stimulative.residual.counted.misfits import misfit as misfit
from stimulative.residual.counted.misfits import restored_config as restored_config
from stimulative.residual.counted.shrinking import shrink_for_good as shrink_for_good
from stimulative.residual.deletion import skippable as skippable
from stimulative.residual.deletion import without as without
from stimulative.residual.finding.discovery import Stage as Stage
from stimulative.residual.finding.example import as_in as as_in
from stimulative.residual.finding.inside import state_of as state_of
from stimulative.residual.finding.passing import FIRST as FIRST
from stimulative.residual.finding.passing import Argument as Argument
from stimulative.residual.finding.passing import Constant as Constant
from stimulative.residual.finding.passing import Input as Input
from stimulative.residual.finding.passing import Nothing as Nothing
from stimulative.residual.finding.passing import needs_before as needs_before
from stimulative.residual.finding.passing import padding as padding
from stimulative.residual.finding.passing import widens as widens
from stimulative.residual.finding.recording import Call as Call
from stimulative.residual.finding.recording import arguments_of as arguments_of
from stimulative.residual.finding.recording import quietly as quietly
from stimulative.residual.finding.recording import record as record
from stimulative.residual.finding.stacks import config_of as config_of
from stimulative.residual.finding.wiring import Decision as Decision
from stimulative.residual.finding.wiring import Place as Place
from stimulative.residual.network import Asked as Asked
from stimulative.residual.network import ResidualNetwork as ResidualNetwork
from stimulative.residual.network import SubnetLike as SubnetLike
from stimulative.residual.network import unravel as unravel
from stimulative.residual.odds import corrections as corrections
from stimulative.residual.odds import odds_of as odds_of
from stimulative.residual.running.execution import Pass as Pass
from stimulative.residual.running.execution import replay as replay
from stimulative.residual.running.one_pass import Node as Node
from stimulative.residual.running.statistics import FROZEN as FROZEN
from stimulative.residual.running.statistics import Statistics as Statistics
from stimulative.residual.running.statistics import check_statistics as check_statistics
from stimulative.residual.running.statistics import layers_with_statistics as layers_with_statistics
from stimulative.residual.running.statistics import norms_in as norms_in
from stimulative.residual.sampling import SAMPLERS as SAMPLERS
from stimulative.residual.sampling import Sampler as Sampler
from stimulative.residual.sampling import nested_inside as nested_inside
from stimulative.residual.sampling import resolve_sampler as resolve_sampler
from stimulative.residual.sampling import sampler_problem as sampler_problem
from stimulative.residual.sampling import uniform as uniform
from stimulative.residual.subnet import KEPT as KEPT
from stimulative.residual.subnet import RANKED as RANKED
from stimulative.residual.subnet import Kept as Kept
from stimulative.residual.subnet import Order as Order
from stimulative.residual.subnet import Subnet as Subnet
from stimulative.residual.subnet import SubnetSpace as SubnetSpace
from stimulative.residual.subnet import as_order as as_order
from stimulative.residual.subnet import by_importance as by_importance
from stimulative.residual.subnet import check_kept as check_kept
from stimulative.residual.surgery.branches import branch_ends as branch_ends
from stimulative.residual.surgery.removal import RemovedBlock as RemovedBlock
from stimulative.residual.surgery.removal import keep_only as keep_only
from stimulative.residual.surgery.stem import freeze as freeze
from stimulative.residual.surgery.stem import keep_frozen as keep_frozen
from stimulative.residual.surgery.stem import stem_of as stem_of
