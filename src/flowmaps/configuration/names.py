"""The nearest name that is known; nothing here waits for torch."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def closest(name: str, known: Iterable[str]) -> str:
    """`` (did you mean 'x'?)``, or nothing if no name is near.

    >>> closest("digit", ["digits", "mnist"])
    " (did you mean 'digits'?)"
    """
    near = difflib.get_close_matches(name, list(known), n=1)
    return f" (did you mean {near[0]!r}?)" if near else ""
