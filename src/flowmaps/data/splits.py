"""Points of a curved space in three parts."""

from __future__ import annotations

from torch import Tensor

from .base import split
from .points import PointData, PointSplits, Units


def parted(x: Tensor, names: list[str], seed: int) -> PointSplits:
    """Points ``(n, dim)`` of a space that knows no other units, split 80 / 10 / 10 per cent at random.

    Arguments:
        names: Of the columns that their files have.
    """
    as_they_are = Units([0.0] * x.shape[1], [1.0] * x.shape[1])
    train, valid, test = (PointData(x[rows], as_they_are) for rows in split(len(x), (0.8, 0.1, 0.1), seed))
    return PointSplits(train, valid, test, as_they_are, names)
