"""What curved spaces share whose data are their own points, and the normal distributions on them."""

from __future__ import annotations

import math
from abc import abstractmethod

import torch
from torch import Tensor

from ..fields import Data, Shape, one_field
from .base import Space, one_shape
from .euclidean import coordinates

WINDINGS = 3  # times that a wrapped normal goes round a closed geodesic, either way, before it is cut off


class Manifold(Space[Tensor]):
    r"""A curved space in coordinates, with ``dimension`` directions at each point.

    The wrapped normal :math:`y = \exp_m(\sigma\varepsilon)` has at distance r from m the density

    .. math:: p(y) = \sum_k \frac{e^{-r_k^2 / 2\sigma^2}}{(2\pi\sigma^2)^{n/2}}\, e^{-\log|\det d\exp_m|(r_k)}

    over the lengths r_k of the geodesics from m to y: one on a hyperbolic space, one for each winding on a closed one.

    Arguments:
        dim: Number of coordinates of a point.
        dimension: n, that of the tangent spaces.
    """

    dim: int
    dimension: int

    def encode(self, x_1: Data) -> Tensor:
        return one_field(x_1)

    def decode(self, x: Tensor) -> Tensor:
        return x

    def positions(self, x_1: Data) -> Shape:
        return tuple(one_field(x_1).shape[:-1])

    def noise_shape(self, shape: Shape) -> Shape:
        return (*one_shape(shape), self.dim)

    def check(self, x_1: Data) -> None:
        x = coordinates(x_1, self.dim)
        if x.device.type == "cpu" and x.numel() and (far := float(self.off(x).amax())) > 1e-3:
            raise ValueError(f"data are up to {far:.3g} off {self.place}")

    place: str  # where data should be, and how to bring them there, for complaints

    def apart(self, x: Tensor, y: Tensor) -> Tensor:
        a, b = x.unsqueeze(1).expand(-1, len(y), *y.shape[1:]), y.expand(len(x), *y.shape)
        v = self.log(a, b)
        return self.inner(a, v, v).reshape(len(x), len(y), -1).sum(2)

    @abstractmethod
    def off(self, x: Tensor) -> Tensor:
        """How far coordinates are from being a point, ``(*batch, *positions)``; 0 on the space."""

    def log_wrapped(self, mean: Tensor, x: Tensor, deviation: float) -> Tensor:
        r"""The log-density at x of :math:`\exp_m(\sigma \varepsilon)`, ``(*batch, *positions)``.

        Arguments:
            mean: m, broadcastable to x.
            deviation: σ.
        """
        v = self.log(mean.expand_as(x), x)
        r = self.lengths(self.inner(mean, v, v).clamp(min=0).sqrt())
        normal = -r.square() / (2 * deviation**2) - self.dimension / 2 * math.log(2 * math.pi * deviation**2)
        return (normal - self.log_volume(r)).logsumexp(-1)

    @abstractmethod
    def lengths(self, distance: Tensor) -> Tensor:
        """Lengths of the geodesics from one point to another at a distance, the shortest first, ``(..., count)``."""

    @abstractmethod
    def log_volume(self, r: Tensor) -> Tensor:
        r"""Logarithm of :math:`|\det d\exp|` at tangents of length r."""


class Closed(Manifold):
    """A space whose geodesics all close after the same length, so that a point is reached from two sides."""

    turn: float = 2 * math.pi

    def lengths(self, distance: Tensor) -> Tensor:
        k = self.turn * torch.arange(WINDINGS + 1, device=distance.device)
        r = distance.unsqueeze(-1)
        return torch.cat([r + k, (k[1:] - r).abs()], dim=-1)


def norm(v: Tensor) -> Tensor:
    """|v| over the last dimension, kept; its derivatives at 0 are 0, not NaN."""
    return root(v.square().sum(-1, keepdim=True))


def root(square: Tensor) -> Tensor:
    """The root of numbers that are not negative but for rounding; its derivatives at 0 are 0, not infinite."""
    zero = square <= 0
    return torch.where(zero, 0, torch.where(zero, 1, square).sqrt())


def settled(moved: Tensor, on: Tensor, still: Tensor) -> Tensor:
    """``moved``, put on the space as ``on`` without a change of its derivatives; as it is where it stood ``still``."""
    return moved + torch.where(still, 0, on - moved).detach()
