"""What carries a source to data, in however many steps."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Generic

from torch import nn

from ..fields import FREE, Condition, S
from ..paths import GeodesicPath
from ..spaces import Space


class Transport(nn.Module, ABC, Generic[S]):
    """A map from source points to data points: a flow map jumps, a bijection also knows its density.

    Arguments:
        path: Space and source.
    """

    path: GeodesicPath[S]

    def __init__(self, path: GeodesicPath[S]):
        super().__init__()
        self.path = path

    @property
    def space(self) -> Space[S]:
        """Where states live."""
        return self.path.space

    @abstractmethod
    def push(self, x_0: S, condition: Condition = FREE) -> S:
        """The data point x_1 of a source point."""
