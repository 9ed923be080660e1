"""A model from the user's own code: ``package.module:factory``."""

from __future__ import annotations

from stimulative.extension import imported, seeing_here
from stimulative.models.factory import Factory, accepted_keywords
from stimulative.tasks import TaskName


def find_own(name: str, task: TaskName = "images") -> Factory:
    """Imports the module, also from the current directory, and finds the factory in it.

    The factory (a function or a class) is called with ``num_classes`` and ``in_chans`` if its signature takes
    them, by name or as ``**kwargs``, and with the user's arguments. For text it is called with the size of the
    vocabulary as ``vocab_size`` if its signature names it, else as ``num_classes``. Importing runs the module's code.

    Raises:
        UsageError: The name has not the form, the module cannot be imported, or has no such factory.
    """
    make = imported(name, "model", "factory", "a function or class that returns a torch.nn.Module")
    accepted = accepted_keywords(make)

    def taken(keyword: str) -> str | None:
        return keyword if accepted is None or keyword in accepted else None

    if task == "text":
        named = accepted is not None and "vocab_size" in accepted
        return Factory(name, seeing_here(make), "vocab_size" if named else taken("num_classes"), None)
    return Factory(name, seeing_here(make), taken("num_classes"), taken("in_chans"))
