"""What carries a source to data, in however many steps."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Generic

import torch
from torch import nn

from ..fields import FREE, Condition, S, Shape
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

    @property
    def dtype(self) -> torch.dtype:
        """Precision of states and times: float64 if the weights have it, else float32."""
        weight = next(self.parameters(), None)
        return torch.float64 if weight is not None and weight.dtype == torch.float64 else torch.float32

    @property
    def device(self) -> torch.device:
        """Where the weights are; the CPU if there are none."""
        weight = next(self.parameters(), None)
        return torch.device("cpu") if weight is None else weight.device

    def noise(self, shape: Shape, generator: torch.Generator) -> S:
        """Raw noise of the path in the precision of states; a seed gives the same noise in every precision."""
        return self.path.noise(shape, generator).to(self.dtype)
