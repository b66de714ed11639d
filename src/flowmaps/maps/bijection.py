"""Transports whose density is known by the change of variables."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..evaluation import total
from ..fields import FREE, Condition
from ..paths import GeodesicPath
from .transport import Transport


class Invertible(nn.Module, ABC):
    r"""A map with an inverse and both log-determinants: a layer of a :class:`Bijection`, or one itself.

    .. math:: y = f(x), \quad \log|\det J_f(x)|, \qquad x = f^{-1}(y), \quad \log|\det J_{f^{-1}}(y)|

    Invariant: ``inverse(*forward(x))`` gives x back, with log-determinants that sum to 0 (``tests/maps``).
    """

    @abstractmethod
    def forward(self, x_0: Tensor, condition: Condition = FREE) -> tuple[Tensor, Tensor]:
        """f of states ``(*batch, ...)``, and log|det| of its Jacobian there, ``(*batch,)``."""

    @abstractmethod
    def inverse(self, x_1: Tensor, condition: Condition = FREE) -> tuple[Tensor, Tensor]:
        """The inverse, and log|det| of its Jacobian, ``(*batch,)``."""


class Inverted(Invertible):
    """A layer the other way round: its inverse is the fast direction from noise to data.

    Arguments:
        layer: What is turned round.
    """

    def __init__(self, layer: Invertible):
        super().__init__()
        self.layer = layer

    def forward(self, x_0: Tensor, condition: Condition = FREE) -> tuple[Tensor, Tensor]:
        return self.layer.inverse(x_0, condition)

    def inverse(self, x_1: Tensor, condition: Condition = FREE) -> tuple[Tensor, Tensor]:
        return self.layer(x_1, condition)


class Bijection(Transport[Tensor], Invertible):
    r"""An invertible map f from source to data, noise to data being the fast direction.

    .. math:: \log p(x_1) = \log p_0(x_0) - \log|\det J_f(x_0)|, \qquad x_0 = f^{-1}(x_1)

    States are ``(*batch, *positions, dim)``: points of the path's space, whose source has the density p_0.
    """

    def push(self, x_0: Tensor, condition: Condition = FREE) -> Tensor:
        return self(x_0, condition)[0]

    def log_source(self, x_0: Tensor) -> Tensor:
        """log p_0(x_0) in nats, ``(*batch,)``."""
        return total(self.path.source.log_density(self.space, x_0))

    def log_prob(self, x_1: Tensor, condition: Condition = FREE) -> Tensor:
        """log p(x_1) in nats, ``(*batch,)``."""
        x_0, log_det = self.inverse(x_1, condition)
        return self.log_source(x_0) + log_det

    def with_log_prob(self, x_0: Tensor, condition: Condition = FREE) -> tuple[Tensor, Tensor]:
        """The data point x_1 of a source point, and log p(x_1): both in the fast direction."""
        x_1, log_det = self(x_0, condition)
        return x_1, self.log_source(x_0) - log_det

    @torch.no_grad()
    def sample(
        self, shape: tuple[int, ...], generator: torch.Generator, condition: Condition = FREE
    ) -> tuple[Tensor, Tensor]:
        """Samples ``(*shape, dim)`` and their log-densities; a seed reproduces them exactly.

        Arguments:
            shape: ``(*batch, *positions)``.
        """
        return self.with_log_prob(self.path.start(self.noise(shape, generator)), condition)


class Composed(Bijection):
    r"""Layers one after the other.

    .. math:: f = f_n \circ \dots \circ f_1, \qquad \log|\det J_f| = \sum_i \log|\det J_{f_i}|

    Arguments:
        path: Space and source.
        layers: The maps f_1, ..., f_n; each may be a bijection itself.
        shape: Of one state, ``(*positions, dim)``; others are refused.
    Raises: ValueError if there is no layer, or a state has another shape.
    """

    def __init__(self, path: GeodesicPath[Tensor], layers: Sequence[Invertible], shape: Sequence[int]):
        super().__init__(path)
        if not layers:
            raise ValueError("there are 0 layers, expected at least one")
        self.shape, self.layers = tuple(shape), nn.ModuleList(layers)

    def _check(self, x: Tensor) -> None:
        if tuple(x.shape[1:]) != self.shape:
            raise ValueError(
                f"one state has shape {tuple(x.shape[1:])}, expected {self.shape}; give a batch of states of the shape "
                "that the bijection was built for"
            )

    def forward(self, x_0: Tensor, condition: Condition = FREE) -> tuple[Tensor, Tensor]:
        self._check(x_0)
        x, log_det = x_0, x_0.new_zeros(len(x_0))
        for layer in self.layers:
            x, change = layer(x, condition)
            log_det = log_det + change
        return x, log_det

    def inverse(self, x_1: Tensor, condition: Condition = FREE) -> tuple[Tensor, Tensor]:
        self._check(x_1)
        x, log_det = x_1, x_1.new_zeros(len(x_1))
        for layer in reversed(self.layers):
            assert isinstance(layer, Invertible)
            x, change = layer.inverse(x, condition)
            log_det = log_det + change
        return x, log_det


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


class Oscillating(Bijection):
    r"""The identity with a small, fast oscillation: near it in values, far from it in densities.

    .. math:: f(x) = x + \frac{a \sin(m x)}{m}, \qquad |f(x) - x| \le \frac{a}{m}, \qquad f'(x) = 1 + a \cos(m x)

    As m grows f converges to the identity, uniformly, and its log-determinant does not: the example by which regression
    alone fits values and not densities.

    Arguments:
        path: A flat space with its source.
        m: Frequency, positive.
        a: Amplitude of the derivative at first, in [0, 1); learned.
    Reference: Rehman et al. 2025, *RegFlow*, arXiv 2506.01158.
    """

    def __init__(self, path: GeodesicPath[Tensor], m: float, a: float = 0.95):
        super().__init__(path)
        if not (m > 0 and 0 <= a < 1):
            raise ValueError(f"m is {m} and a is {a}, expected a positive frequency and an amplitude in [0, 1)")
        self.m, self.a = m, nn.Parameter(torch.tensor(float(a)))

    def forward(self, x_0: Tensor, condition: Condition = FREE) -> tuple[Tensor, Tensor]:
        slope = 1 + self.a * (self.m * x_0).cos()
        return x_0 + self.a * (self.m * x_0).sin() / self.m, slope.log().flatten(1).sum(1)

    def inverse(self, x_1: Tensor, condition: Condition = FREE) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            low, high = x_1 - 1 / self.m, x_1 + 1 / self.m
            for _ in range(60):
                middle = (low + high) / 2
                below = self(middle)[0] < x_1
                low, high = torch.where(below, middle, low), torch.where(below, high, middle)
        x = (low + high) / 2
        slope = 1 + self.a * (self.m * x).cos()
        x = x + (x_1 - x - self.a * (self.m * x).sin() / self.m) / slope.detach()  # one step of Newton's: derivatives
        return x, -self(x)[1]
