"""Transports whose density is known by the change of variables."""

from __future__ import annotations

import math
from abc import abstractmethod

import torch
from torch import Tensor, nn

from ..fields import FREE, Condition
from ..paths import GeodesicPath
from .transport import Transport


class Bijection(Transport[Tensor]):
    r"""An invertible map f from source to data, noise to data being the fast direction.

    .. math:: \log p(x_1) = \log p_0(x_0) - \log|\det J_f(x_0)|, \qquad x_0 = f^{-1}(x_1)

    Invariant: ``inverse(*forward(x))`` gives x back, with log-determinants that sum to 0 (``tests/maps``).
    """

    @abstractmethod
    def forward(self, x_0: Tensor, condition: Condition = FREE) -> tuple[Tensor, Tensor]:
        """The data point, and log|det| of the Jacobian there, ``(*batch,)``."""

    @abstractmethod
    def inverse(self, x_1: Tensor, condition: Condition = FREE) -> tuple[Tensor, Tensor]:
        """The source point, and log|det| of the Jacobian of the inverse, ``(*batch,)``."""

    def push(self, x_0: Tensor, condition: Condition = FREE) -> Tensor:
        return self(x_0, condition)[0]

    def log_prob(self, x_1: Tensor, condition: Condition = FREE) -> Tensor:
        """log p(x_1) under the Gaussian source, in nats, ``(*batch,)``."""
        x_0, log_det = self.inverse(x_1, condition)
        normal = -(x_0.square() + math.log(2 * math.pi)).flatten(1).sum(1) / 2
        return normal + log_det


class Affine(Bijection):
    r"""A lower-triangular linear map with an offset: a Gaussian, exactly.

    .. math:: x_1 = m + L\, x_0, \qquad p(x_1) = N(m, L L^\top)

    Arguments:
        path: A flat space of one position, with the Gaussian source.
        mean: m, ``(dim,)``.
        factor: L, ``(dim, dim)``, lower triangular with a positive diagonal.
    """

    def __init__(self, path: GeodesicPath[Tensor], mean: Tensor, factor: Tensor):
        super().__init__(path)
        if factor.shape != (len(mean), len(mean)) or not bool((factor.diagonal() > 0).all()):
            raise ValueError(
                f"factor has shape {tuple(factor.shape)}, expected {2 * (len(mean),)} with a positive diagonal"
            )
        self.mean, self.factor = nn.Parameter(mean), nn.Parameter(factor.tril())

    @classmethod
    def fit(cls, path: GeodesicPath[Tensor], x_1: Tensor) -> Affine:
        """The Gaussian of greatest likelihood of data ``(n, dim)``."""
        return cls(path, x_1.mean(0), torch.linalg.cholesky(torch.cov(x_1.mT, correction=0)))

    def _log_det(self, x: Tensor) -> Tensor:
        return self.factor.diagonal().log().sum().expand(x.shape[:-1])

    def forward(self, x_0: Tensor, condition: Condition = FREE) -> tuple[Tensor, Tensor]:
        return self.mean + x_0 @ self.factor.tril().mT, self._log_det(x_0)

    def inverse(self, x_1: Tensor, condition: Condition = FREE) -> tuple[Tensor, Tensor]:
        x_0 = torch.linalg.solve_triangular(self.factor.tril(), (x_1 - self.mean).mT, upper=False).mT
        return x_0, -self._log_det(x_1)
