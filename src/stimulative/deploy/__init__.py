"""From a trained network to what is deployed: extraction, families, export, and choosing under a budget."""

from typing import TYPE_CHECKING, Any

from stimulative.deploy.choosing.choice import CHOICE as CHOICE
from stimulative.deploy.choosing.choice import Choice as Choice
from stimulative.deploy.choosing.choose import choose as choose
from stimulative.deploy.choosing.picking import written as written
from stimulative.deploy.exporting.checking import ExportFailed as ExportFailed
from stimulative.deploy.exporting.export import export as export
from stimulative.deploy.exporting.exported import Exported as Exported
from stimulative.deploy.exporting.exported import Side as Side
from stimulative.deploy.extraction import extract as extract
from stimulative.deploy.family_file import save_family as save_family
from stimulative.deploy.packed import Packed as Packed
from stimulative.deploy.packing import pack as pack

if TYPE_CHECKING:
    from stimulative.deploy.elastic import Elastic as Elastic
    from stimulative.deploy.loading import load as load


def __getattr__(name: str) -> Any:
    """What is imported when it is first asked for: PyTorch's compiler, which a family needs, takes two seconds."""
    if name == "Elastic":
        from stimulative.deploy.elastic import Elastic

        return Elastic
    if name == "load":
        from stimulative.deploy.loading import load

        return load
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
