"""Which arguments a file that somebody else may have written may give to a model of the catalogue.

Some arguments of timm's and Transformers' models open files or the network: a checkpoint, a backbone to download, an
attention whose code comes from a hub. So from such a file only plain values are taken: numbers, switches, and short
words that name a kind of layer.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

_WORD = re.compile(r"\w{1,64}", re.ASCII)
_NAMES_A_KIND = re.compile(
    r"(^|_)(act|activation|afn|proj|pool|pooling|norm|mode|types?|reduction|strategy|policy|method|functions?|fn|func|"
    r"layers?|features|op|scaling|scheme|dtype|kind|init|initializer|embeds?|arch|architecture)$"
)
_WHERE = "attn_implementation", "_attn_implementation"
_ATTENTIONS = "eager", "sdpa", "flex_attention"
_DEPTH = 8


def foreign_problem(arguments: Mapping[str, Any]) -> str | None:
    """Why arguments are not taken from a file of somebody else, a sentence; None if they are."""
    for key, value in arguments.items():
        where = _refused(key, value)
        if where is not None:
            return (
                f"{where!r} is not taken from a file that others may have written, since it might open a file or the "
                "network; numbers, switches and names of kinds of layers are"
            )
    return None


def _refused(key: str, value: object, depth: int = 0) -> str | None:
    """The key of what is refused in a value."""
    if depth > _DEPTH or "pretrained" in key:
        return key
    if isinstance(value, Mapping):
        found = (_refused(str(inner), one, depth + 1) for inner, one in value.items())
    elif isinstance(value, list | tuple):
        found = (_refused(key, one, depth + 1) for one in value)
    elif isinstance(value, str):
        fine = value in _ATTENTIONS if key in _WHERE else _NAMES_A_KIND.search(key) and _WORD.fullmatch(value)
        return None if fine else key
    else:
        return None if value is None or isinstance(value, bool | int | float) else key
    return next((where for where in found if where is not None), None)
