"""What the grid of a trained map is tuned for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from ..metrics.text import Measure

Measured = Callable[[Any], Measure]  # of a modality's samples


class Aim(NamedTuple):
    """A number about samples that a grid is chosen by, and others that it may not pay with.

    It needs no test data: what samples are compared with is the validation part, so that what ``flowmaps evaluate``
    reports was not chosen on.

    Arguments:
        metric: Its name.
        measure: The number and its standard error.
        rises: Whether more is better.
        guards: Numbers by name that may not become larger than those of equal steps, beyond their errors.
        n: Samples that it is taken over by default.
    """

    metric: str
    measure: Measured
    rises: bool = False
    guards: Mapping[str, Measured] = {}
    n: int = 2000
