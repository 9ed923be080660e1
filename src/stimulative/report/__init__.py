"""Pictures and the HTML report, drawn from the files of runs and studies."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stimulative.report.assembling import write_report as write_report
    from stimulative.report.choice import draw_choice as draw_choice
    from stimulative.report.comparison import draw_comparison as draw_comparison
    from stimulative.report.destruction import draw_destruction as draw_destruction
    from stimulative.report.family_pictures import draw_family as draw_family
    from stimulative.report.loafing import draw_loafing as draw_loafing
    from stimulative.report.matrix import draw_matrix as draw_matrix
    from stimulative.report.sweep import draw_sweep as draw_sweep

_HOMES = {
    "draw_choice": "choice",
    "draw_comparison": "comparison",
    "draw_destruction": "destruction",
    "draw_family": "family_pictures",
    "draw_loafing": "loafing",
    "draw_matrix": "matrix",
    "draw_sweep": "sweep",
    "write_report": "assembling",
}


def __getattr__(name: str) -> Any:
    """What is imported when it is first asked for, since Altair is slow to."""
    if name in _HOMES:
        return getattr(import_module(f"stimulative.report.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'stimulative.report' has no attribute {name!r}")
