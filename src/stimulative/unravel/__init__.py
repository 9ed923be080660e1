"""What a network is made of, and running any part of it. Knows no training."""

from stimulative.unravel.discovery import Stage as Stage
from stimulative.unravel.mode import evaluating as evaluating
from stimulative.unravel.network import ResidualNetwork as ResidualNetwork
from stimulative.unravel.network import SubnetLike as SubnetLike
from stimulative.unravel.network import unravel as unravel
from stimulative.unravel.recalibration import Statistics as Statistics
from stimulative.unravel.recalibration import layers_with_statistics as layers_with_statistics
from stimulative.unravel.removal import keep_only as keep_only
from stimulative.unravel.sampling import SAMPLERS as SAMPLERS
from stimulative.unravel.sampling import Sampler as Sampler
from stimulative.unravel.subnet import Subnet as Subnet
from stimulative.unravel.subnet import SubnetSpace as SubnetSpace
