"""Categories on the sphere: the simplex with the metric of Fisher and Rao."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from ..fields import Data, one_field
from .base import Categorical, check_size
from .manifold import norm
from .sphere import Sphere

NEAR = 0.05  # of 1 - cos θ: where a series replaces θ / sin θ
TERMS = 10


class FisherSphere(Categorical, Sphere):
    r"""Points of the simplex as unit vectors :math:`x = \sqrt p` of the positive orthant.

    .. math:: \log_x(e_k) = c_k\,(e_k - x_k\, x), \qquad c_k = \frac{\theta_k}{\sin\theta_k}, \quad \cos\theta_k = x_k

    Lengths are half of those in the metric of Fisher and Rao. The space's own random points are uniform on the orthant,
    which is Dirichlet(1/2) on the simplex; the source :class:`~flowmaps.paths.Dirichlet` is uniform on the simplex. The
    direction of an endpoint map is :math:`\sum_k \pi_k \log_x(e_k)`: on the diagonal that is the velocity of the
    geodesic path exactly, so that cross-entropy trains Fisher-Flow. Off it these directions do not reach all of the
    orthant; a :class:`~flowmaps.maps.VelocityMap` reaches it, and more than it.

    Arguments:
        K: Number of categories, at least 2.
        smoothing: ε of the points :math:`\sqrt{(1-\varepsilon)\, e_k + \varepsilon/K}` that stand for categories; they
            have a density only inside the orthant, above 0.
    Invariant: ``exp(x, toward(x, e_k))`` is the point of category k (``tests/spaces``).
    Reference: Davis et al. 2024, *Fisher flow matching*, arXiv 2405.14664; Cheng et al. 2024,
        *Categorical flow matching on statistical manifolds*, arXiv 2405.16441.
    """

    def __init__(self, K: int, smoothing: float = 0.0):
        super().__init__(check_size("K, the number of categories,", K, least=2))
        if not 0 <= smoothing < 1:
            raise ValueError(f"smoothing is {smoothing}, expected a number from 0 to below 1")
        self.K, self.smoothing = K, smoothing

    def random(self, noise: Tensor) -> Tensor:
        return noise.abs() / norm(noise)

    def log_density(self, x: Tensor) -> Tensor:
        return super().log_density(x) + self.K * math.log(2)  # one of 2^K orthants

    def log_simplex(self, x: Tensor) -> Tensor:
        r"""Logarithm of the volume of the simplex per volume of the sphere, :math:`2^{K-1} \prod_k x_k`."""
        return (self.K - 1) * math.log(2) + x.abs().log().sum(-1)

    def lift(self, pi: Tensor) -> Tensor:
        return pi.sqrt()

    def encode(self, x_1: Data) -> Tensor:
        e = F.one_hot(one_field(x_1), self.K).to(torch.get_default_dtype())
        return e if self.smoothing == 0 else self.lift((1 - self.smoothing) * e + self.smoothing / self.K)

    def decode(self, x: Tensor) -> Tensor:
        return x.argmax(-1)

    def toward(self, x: Tensor, pi: Tensor) -> Tensor:
        low = math.sqrt(self.smoothing / self.K)
        high = math.sqrt(1 - self.smoothing + self.smoothing / self.K) - low  # a category is high e_k + low (1, ..., 1)
        cos = high * x if self.smoothing == 0 else high * x + low * x.sum(-1, keepdim=True)
        weight = pi.to(x.dtype) * angle_over_sine(cos)
        return self.project(x, high * weight + low * weight.sum(-1, keepdim=True))


def angle_over_sine(cos: Tensor) -> Tensor:
    r"""θ / sin θ of cos θ, smooth where θ = 0; bounded where θ nears π.

    .. math:: \frac{\theta}{\sin\theta} = \sum_n a_n\,(1 - \cos\theta)^n, \qquad a_0 = 1, \quad
              a_{n+1} = \frac{n+1}{2n+3}\, a_n

    >>> angle_over_sine(torch.tensor([1.0, 0.0])).tolist()
    [1.0, 1.5707963...]
    """
    y = 1 - cos
    near = y < NEAR
    series, term = torch.ones_like(y), torch.ones_like(y)
    small = torch.where(near, y, 0)
    for n in range(TERMS):
        term = term * small * ((n + 1) / (2 * n + 3))
        series = series + term
    far = torch.where(near, 0.5, cos).clamp(min=-1 + 1e-3)
    return torch.where(near, series, far.arccos() * torch.rsqrt(1 - far.square()))
