"""Methods and objectives of the user's own, imported by name: whatever their module does, an error is one sentence."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from typing import Any

from stimulative.errors import UsageError
from stimulative.extension import imported


def import_own(name: str, kind: str, thing: str, what: str) -> Callable[..., Any]:
    """What ``package.module:name`` names; see ``stimulative.extension.imported``.

    Args:
        name: The name.
        kind: What it is for, for messages.
        thing: What stands behind the colon, for messages.
        what: What it has to be, for messages.

    Raises:
        UsageError: If it cannot be imported, also where the code of its module fails.
    """
    try:
        return imported(name, kind, thing, what)
    except UsageError:
        raise
    except Exception as error:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        raise UsageError(
            f"cannot import {name.partition(':')[0]!r} for {kind} {name!r}: {type(error).__name__}: {error} "
            f"({frame.filename}:{frame.lineno})"
        ) from error
