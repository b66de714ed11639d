"""Angles."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .base import check_size
from .manifold import WINDINGS, Manifold

TURN = 2 * math.pi


class Torus(Manifold):
    r"""The flat torus :math:`(\mathbb{R} / 2\pi\mathbb{Z})^d` per position: d angles in radians, in [-π, π].

    .. math:: \exp_x v = [x + v], \qquad \log_x y = [y - x], \qquad [a] = a - 2\pi\,\mathrm{round}(a / 2\pi)

    Squared distances of the angles add up. Two angles that are opposite have two shortest geodesics, of which log takes
    one; derivatives of both are 1 everywhere.

    Arguments:
        dim: d, the number of angles.
    Invariant: ``exp(x, log(x, y)) = y`` modulo 2π; results lie in [-π, π] (``tests/spaces``).
    Reference: Davis et al. 2025, *Generalised flow maps on Riemannian manifolds*, arXiv 2510.21608.
    """

    place = "the angles from -π to π; take them in radians modulo 2π"

    def __init__(self, dim: int):
        super().__init__()
        self.dim = self.dimension = check_size("dim, the number of angles,", dim)

    def exp(self, x: Tensor, v: Tensor) -> Tensor:
        return wrapped(x + v)

    def log(self, x: Tensor, y: Tensor) -> Tensor:
        return wrapped(y - x)

    def project(self, x: Tensor, v: Tensor) -> Tensor:
        return v

    def transport(self, x: Tensor, y: Tensor, v: Tensor) -> Tensor:
        return v

    def inner(self, x: Tensor, u: Tensor, v: Tensor) -> Tensor:
        return (u * v).sum(-1)

    def sharp(self, x: Tensor, gradient: Tensor) -> Tensor:
        return gradient

    def random(self, noise: Tensor) -> Tensor:
        return TURN * (torch.special.ndtr(noise) - 0.5)

    def off(self, x: Tensor) -> Tensor:
        return (x.abs().amax(-1) - math.pi).clamp(min=0)

    def log_density(self, x: Tensor) -> Tensor:
        return torch.full_like(x[..., 0], -self.dim * math.log(TURN))

    def frame(self, x: Tensor) -> tuple[Tensor, ...]:
        return tuple(torch.eye(self.dim, dtype=x.dtype, device=x.device)[i].expand_as(x) for i in range(self.dim))

    def log_wrapped(self, mean: Tensor, x: Tensor, deviation: float) -> Tensor:
        """As on every space, angle by angle: a torus is a product of circles."""
        a = self.log(mean.expand_as(x), x).unsqueeze(-1)
        r = a + TURN * torch.arange(-WINDINGS, WINDINGS + 1, device=x.device)
        normal = -r.square() / (2 * deviation**2) - math.log(2 * math.pi * deviation**2) / 2
        return normal.logsumexp(-1).sum(-1)

    def lengths(self, distance: Tensor) -> Tensor:
        return distance.unsqueeze(-1)

    def log_volume(self, r: Tensor) -> Tensor:
        return torch.zeros_like(r)


def wrapped(angle: Tensor) -> Tensor:
    """Angles modulo 2π, in [-π, π] up to rounding."""
    return angle - TURN * (angle / TURN).round()
