"""From a trained network to what is deployed: extraction, families, export, and choosing under a budget."""

from stimulative.deploy.choosing.choice import Choice as Choice
from stimulative.deploy.choosing.choose import CHOICE as CHOICE
from stimulative.deploy.choosing.choose import choose as choose
from stimulative.deploy.choosing.picking import written as written
from stimulative.deploy.elastic import Elastic as Elastic
from stimulative.deploy.exporting.checking import ExportFailed as ExportFailed
from stimulative.deploy.exporting.export import export as export
from stimulative.deploy.extraction import extract as extract
from stimulative.deploy.family_file import save_family as save_family
from stimulative.deploy.loading import load as load
from stimulative.deploy.packing import pack as pack
