"""Real vectors."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..fields import Data, Shape, one_field
from .base import Flat, check_size


class Euclidean(Flat):
    r"""States in :math:`\mathbb{R}^d` per position; data are their own states.

    .. math:: \exp_x v = x + v, \qquad \log_x y = y - x

    Arguments:
        dim: d, the number of coordinates of a position.
    """

    def __init__(self, dim: int):
        super().__init__()
        self.dim = check_size("dim, the number of coordinates,", dim)

    def encode(self, x_1: Data) -> Tensor:
        return one_field(x_1)

    def decode(self, x: Tensor) -> Tensor:
        return x

    def positions(self, x_1: Data) -> Shape:
        return tuple(one_field(x_1).shape[:-1])

    def check(self, x_1: Data) -> None:
        coordinates(x_1, self.dim)

    def log_density(self, x: Tensor) -> Tensor:
        return -(x.square().sum(-1) + self.dim * math.log(2 * math.pi)) / 2

    def frame(self, x: Tensor) -> tuple[Tensor, ...]:
        return tuple(e.expand_as(x) for e in torch.eye(self.dim, dtype=x.dtype, device=x.device))


def coordinates(x_1: Data, dim: int) -> Tensor:
    """Data of one field, if they are finite floating-point numbers with ``dim`` coordinates in the last dimension.

    Raises: ValueError otherwise.
    """
    x = one_field(x_1)
    if x.shape[-1:] != (dim,) or not x.is_floating_point():
        raise ValueError(
            f"data have shape {tuple(x.shape)} and type {x.dtype}, expected floating-point numbers with {dim} "
            "coordinates in the last dimension"
        )
    if x.device.type == "cpu" and not bool(x.isfinite().all()):
        raise ValueError("data hold numbers that are not finite; leave those rows out")
    return x
