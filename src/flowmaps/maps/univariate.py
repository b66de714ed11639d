"""Increasing functions of one coordinate, whose parameters a conditioner gives."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor

from ..spaces.base import check_size
from ..spaces.torus import wrapped

if TYPE_CHECKING:
    from torch import LongTensor
    from torch.distributions import Transform
    from zuko.transforms import MonotonicRQSTransform


class Univariate(ABC):
    r"""A family of increasing functions of one coordinate; all parameters 0 give the identity.

    .. math:: y_i = \tau(x_i; \phi_i), \qquad \tau' > 0

    Arguments:
        count: Number of parameters of one coordinate.
        periodic: Whether coordinates are angles.
    Arguments (of both calls):
        x, y: Coordinates ``(*batch, d)``.
        phi: Their parameters ``(*batch, d, count)``.
    Returns: the values and log τ', both ``(*batch, d)``; those of the inverse with its own derivative.
    """

    count: int
    periodic: bool = False

    @abstractmethod
    def transform(self, phi: Tensor) -> Transform:
        """The functions as a transform of zuko."""

    def forward(self, x: Tensor, phi: Tensor) -> tuple[Tensor, Tensor]:
        return self.transform(phi).call_and_ladj(x)  # pyright: ignore[reportAttributeAccessIssue]  (zuko's transforms have it)

    def inverse(self, y: Tensor, phi: Tensor) -> tuple[Tensor, Tensor]:
        transform = self.transform(phi)
        x = transform._inverse(y)  # the public inverse keeps a weak reference and recomputes the parameters
        return x, -transform.log_abs_det_jacobian(x, y)


class Scaled(Univariate):
    r"""Scale and shift, of RealNVP and masked autoregressive flows.

    .. math:: y = e^{a}\, x + b, \qquad a = \frac{\phi}{1 + |\phi / \log 10^3|}

    Reference: Dinh, Sohl-Dickstein, Bengio 2016, *Density estimation using Real NVP*, arXiv 1605.08803.
    """

    count = 2

    def transform(self, phi: Tensor) -> Transform:
        from zuko.transforms import MonotonicAffineTransform

        shift, scale = phi.unbind(-1)
        return MonotonicAffineTransform(shift, scale)


class RationalQuadratic(Univariate):
    r"""Splines of quotients of quadratics, whose inverse subtracts no numbers that nearly agree.

    With u and v the distances of y from the lower and the upper end of its piece, :math:`\delta_0` and
    :math:`\delta_1` the slopes at these ends and s the mean slope, the place z of the inverse in the piece is

    .. math:: z = \frac{2 s u}{r + 2 s u + t} \;\; (t \ge 0), \qquad
              1 - z = \frac{2 s v}{r + 2 s v - t} \;\; (t < 0), \qquad
              t = \delta_0 v - \delta_1 u, \quad r = \sqrt{t^2 + 4 s^2 u v}

    :math:`t^2 + 4 s^2 u v` is the discriminant of the usual quadratic, as a sum of positive terms. What is found is the
    exact inverse of a value within four roundings of y. No inverse is nearer to x than
    :math:`\varepsilon B / \tau'(x)`, for a unit of rounding ε and values of size B (``tests/maps/test_univariate.py``).
    """

    @abstractmethod
    def transform(self, phi: Tensor) -> MonotonicRQSTransform: ...

    def inverse(self, y: Tensor, phi: Tensor) -> tuple[Tensor, Tensor]:
        spline = self.transform(phi)
        k = cast("LongTensor", spline.searchsorted(spline.vertical, y) - 1)
        inside, x_0, x_1, y_0, y_1, d_0, d_1, s = spline.bin(k)
        within = torch.where(inside, y, y_0)
        u, v = within - y_0, y_1 - within
        t = d_0 * v - d_1 * u
        r = (t.square() + 4 * s.square() * u * v).sqrt()
        near, left = torch.where(t < 0, v, u), x_1 - x_0
        share = 2 * s * near / (r + 2 * s * near + t.abs())
        x = torch.where(inside, torch.where(t < 0, x_1 - share * left, x_0 + share * left), y)
        return x, -spline.call_and_ladj(x)[1]


class Spline(RationalQuadratic):
    r"""Rational-quadratic splines on [-bound, bound], the identity outside.

    Arguments:
        bins: K, number of pieces.
        bound: End of the splines.
    Reference: Durkan et al. 2019, *Neural spline flows*, arXiv 1906.04032.
    """

    def __init__(self, bins: int = 8, bound: float = 5.0):
        self.bins = check_size("bins, the number of pieces,", bins, 2)
        if not bound > 0:
            raise ValueError(f"bound is {bound}, expected a positive end of the splines")
        self.bound, self.count = bound, 3 * bins - 1

    def transform(self, phi: Tensor) -> MonotonicRQSTransform:
        from zuko.transforms import MonotonicRQSTransform

        widths, heights, derivatives = phi.split((self.bins, self.bins, self.bins - 1), -1)
        return MonotonicRQSTransform(widths, heights, derivatives, bound=self.bound)


class CircularSpline(RationalQuadratic):
    r"""Splines of an angle: the same slope at -π and π, and then a turn.

    .. math:: y = [S(x) + b], \qquad S(\pm\pi) = \pm\pi, \quad S'(-\pi) = S'(\pi)

    Densities are continuous on the circle.

    Arguments:
        bins: K, number of pieces.
    Reference: Rezende et al. 2020, *Normalizing flows on tori and spheres*, arXiv 2002.02428.
    """

    periodic = True
    slope = 1e-3  # the least

    def __init__(self, bins: int = 8):
        self.bins = check_size("bins, the number of pieces,", bins, 2)
        self.count = 3 * bins + 1

    def transform(self, phi: Tensor) -> MonotonicRQSTransform:
        from zuko.transforms import MonotonicRQSTransform

        widths, heights, at_knots = phi[..., :-1].split((self.bins, self.bins, self.bins), -1)
        spline = MonotonicRQSTransform(widths, heights, at_knots[..., 1:], bound=math.pi, slope=self.slope)
        derivatives = (at_knots / (1 + (at_knots / math.log(self.slope)).abs())).exp()
        spline.derivatives = torch.cat([derivatives, derivatives[..., :1]], -1)
        return spline

    def forward(self, x: Tensor, phi: Tensor) -> tuple[Tensor, Tensor]:
        y, change = super().forward(wrapped(x), phi)
        return wrapped(y + phi[..., -1]), change

    def inverse(self, y: Tensor, phi: Tensor) -> tuple[Tensor, Tensor]:
        x, change = super().inverse(wrapped(y - phi[..., -1]), phi)
        return wrapped(x), change
