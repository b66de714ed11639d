"""Hyperbolic space of curvature -1, in two systems of coordinates."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..fields import Shape
from .base import check_size, one_shape
from .manifold import Manifold, norm, root, settled

RIM = {torch.float32: 1e-6, torch.float64: 1e-14}  # 1 - |x| that points of the ball keep


class Hyperbolic(Manifold):
    """What both models share: their random points are wrapped normal around the origin, with deviation 1."""

    def origin(self, x: Tensor) -> Tensor:
        """The origin, in the shape of x."""
        return torch.zeros_like(x)

    def random(self, noise: Tensor) -> Tensor:
        o = self.origin(noise.new_zeros(*noise.shape[:-1], self.dim))
        return self.exp(o, self.tangent(o, noise))

    def noise_shape(self, shape: Shape) -> Shape:
        return (*one_shape(shape), self.dimension)

    def log_density(self, x: Tensor) -> Tensor:
        return self.log_wrapped(self.origin(x), x, 1.0)

    def lengths(self, distance: Tensor) -> Tensor:
        return distance.unsqueeze(-1)

    def log_volume(self, r: Tensor) -> Tensor:
        near = r < 1e-2
        safe = torch.where(near, 1, r)
        far = safe + torch.log1p(-torch.exp(-2 * safe)) - math.log(2) - safe.log()
        return (self.dimension - 1) * torch.where(near, r.square() / 6, far)


class PoincareBall(Hyperbolic):
    r"""The open unit ball with the metric :math:`\lambda_x^2 |v|^2`, :math:`\lambda_x = 2/(1 - |x|^2)`.

    .. math:: \exp_x v = x \oplus \tanh\frac{\lambda_x |v|}{2} \frac{v}{|v|}, \qquad
              \log_x y = \frac{2}{\lambda_x}\, \mathrm{artanh}|z|\, \frac{z}{|z|}, \quad z = (-x) \oplus y

    with Möbius addition ⊕. In float32 points are kept 10⁻⁶ off the rim, a distance of 14.5 from the origin.

    Arguments:
        dim: Number of coordinates.
    Invariant: ``exp(x, log(x, y)) = y``, and all is as on :class:`Hyperboloid` (``tests/spaces``).
    Reference: Ganea, Bécigneul, Hofmann 2018, *Hyperbolic neural networks*, arXiv 1805.09112; Davis et al. 2025,
    arXiv 2510.21608.
    """

    place = "the open unit ball; scale them into it"

    def __init__(self, dim: int):
        super().__init__()
        self.dim = self.dimension = check_size("dim, the number of coordinates,", dim)

    def exp(self, x: Tensor, v: Tensor) -> Tensor:
        half = norm(v) * factor(x) / 2
        y = mobius(x, _ratio(half.tanh(), half) * v * factor(x) / 2)
        far = norm(y)
        return settled(y, y * ((1 - _rim(x)) / far.clamp(min=0.5)).clamp(max=1), half == 0)

    def log(self, x: Tensor, y: Tensor) -> Tensor:
        z = mobius(-x, y)
        length = norm(z).clamp(max=1 - _rim(x))
        return 2 / factor(x) * _ratio(length.atanh(), length) * z

    def project(self, x: Tensor, v: Tensor) -> Tensor:
        return v

    def transport(self, x: Tensor, y: Tensor, v: Tensor) -> Tensor:
        return factor(x) / factor(y) * gyration(y, -x, v)

    def inner(self, x: Tensor, u: Tensor, v: Tensor) -> Tensor:
        return factor(x).squeeze(-1).square() * (u * v).sum(-1)

    def sharp(self, x: Tensor, gradient: Tensor) -> Tensor:
        return gradient / factor(x).square()

    def tangent(self, x: Tensor, noise: Tensor) -> Tensor:
        return noise / factor(x)

    def off(self, x: Tensor) -> Tensor:
        far = x.norm(dim=-1) - (1 - _rim(x))
        return torch.where(far > 0, 1 + far, 0)

    def frame(self, x: Tensor) -> tuple[Tensor, ...]:
        return tuple(e / factor(x) for e in torch.eye(self.dim, dtype=x.dtype, device=x.device))

    def growth(self, x: Tensor, v: Tensor) -> Tensor:
        return self.dim * factor(x).squeeze(-1) * (x * v).sum(-1)


class Hyperboloid(Hyperbolic):
    r"""The upper sheet :math:`\langle x, x\rangle_L = -1` of :math:`\langle x, y\rangle_L = -x_0 y_0 + x_1 y_1 + \dots`

    .. math:: \exp_x v = \cosh|v|\, x + \frac{\sinh|v|}{|v|} v, \qquad
              \log_x y = \frac{r}{\sinh r}\, u, \quad u = y + \langle x, y\rangle_L\, x, \quad \sinh r = |u|_L

    The first coordinate follows from the others, and does so after every exp. Digits are lost with the distance from
    the origin as :math:`e^{2r}`, twice as fast as in the ball.

    Arguments:
        dim: Number of coordinates, at least 2: one more than the space has dimensions.
    Invariant: as for :class:`PoincareBall`.
    Reference: Nickel and Kiela 2018, *Learning continuous hierarchies in the Lorentz model*, arXiv 1806.03417.
    """

    place = "the hyperboloid; take as first coordinate the root of 1 plus the squares of the others"

    def __init__(self, dim: int):
        super().__init__()
        self.dim = check_size("dim, the number of coordinates,", dim, least=2)
        self.dimension = dim - 1

    def origin(self, x: Tensor) -> Tensor:
        return torch.cat([torch.ones_like(x[..., :1]), torch.zeros_like(x[..., 1:])], dim=-1)

    def exp(self, x: Tensor, v: Tensor) -> Tensor:
        r = root(self.inner(x, v, v).unsqueeze(-1))
        y = r.cosh() * x + _ratio(r.sinh(), r) * v
        return settled(y, lifted(y[..., 1:]), r == 0)

    def log(self, x: Tensor, y: Tensor) -> Tensor:
        u = y + lorentz(x, y) * x
        sinh = root(self.inner(x, u, u).unsqueeze(-1))
        return u * _ratio(sinh.asinh(), sinh)

    def project(self, x: Tensor, v: Tensor) -> Tensor:
        return v + lorentz(x, v) * x

    def transport(self, x: Tensor, y: Tensor, v: Tensor) -> Tensor:
        return v + lorentz(y, v) / (1 - lorentz(x, y)) * (x + y)

    def inner(self, x: Tensor, u: Tensor, v: Tensor) -> Tensor:
        """⟨u, v⟩_L of tangents, by a sum in which nothing cancels however far x is: (u·v + (x∧u)·(x∧v)) / x_0² without
        their first coordinates."""
        a, b, c = (w[..., 1:] for w in (x, u, v))
        return ((b * c).sum(-1) + (wedge(a, b) * wedge(a, c)).sum((-2, -1)) / 2) / x[..., 0].square()

    def sharp(self, x: Tensor, gradient: Tensor) -> Tensor:
        return self.project(x, torch.cat([-gradient[..., :1], gradient[..., 1:]], dim=-1))

    def tangent(self, x: Tensor, noise: Tensor) -> Tensor:
        there = torch.cat([torch.zeros_like(noise[..., :1]), noise], dim=-1)
        return self.transport(self.origin(x), x, there)

    def off(self, x: Tensor) -> Tensor:
        return (x[..., 0] - lifted(x[..., 1:])[..., 0]).abs() / lifted(x[..., 1:])[..., 0]

    def frame(self, x: Tensor) -> tuple[Tensor, ...]:
        return tuple(
            self.tangent(x, e.expand(*x.shape[:-1], -1))
            for e in torch.eye(self.dimension, dtype=x.dtype, device=x.device)
        )

    @staticmethod
    def from_ball(x: Tensor) -> Tensor:
        """The points of :class:`PoincareBall` in these coordinates."""
        square = x.square().sum(-1, keepdim=True)
        return torch.cat([1 + square, 2 * x], dim=-1) / (1 - square)

    @staticmethod
    def to_ball(x: Tensor) -> Tensor:
        """The inverse of :meth:`from_ball`."""
        return x[..., 1:] / (1 + x[..., :1])


def factor(x: Tensor) -> Tensor:
    """λ of the ball."""
    return 2 / (1 - x.square().sum(-1, keepdim=True))


def mobius(x: Tensor, y: Tensor) -> Tensor:
    """x ⊕ y: the isometry of the ball that moves 0 to x and turns nothing, at y."""
    xy, xx, yy = ((a * b).sum(-1, keepdim=True) for a, b in ((x, y), (x, x), (y, y)))
    return ((1 + 2 * xy + yy) * x + (1 - xx) * y) / (1 + 2 * xy + xx * yy)


def gyration(u: Tensor, v: Tensor, w: Tensor) -> Tensor:
    """The rotation -(u ⊕ v) ⊕ (u ⊕ (v ⊕ w)), linear in w."""
    uv, uw, vw, uu, vv = ((a * b).sum(-1, keepdim=True) for a, b in ((u, v), (u, w), (v, w), (u, u), (v, v)))
    a = -uw * vv + vw + 2 * uv * vw
    b = -vw * uu - uw
    return w + 2 * (a * u + b * v) / (1 + 2 * uv + uu * vv)


def lorentz(x: Tensor, y: Tensor) -> Tensor:
    """The product of Minkowski, over the last dimension, kept."""
    return (x[..., 1:] * y[..., 1:]).sum(-1, keepdim=True) - x[..., :1] * y[..., :1]


def wedge(a: Tensor, b: Tensor) -> Tensor:
    """The matrix of a_i b_j - a_j b_i; half of the sum of its squares is |a|²|b|² - (a·b)²."""
    outer = a.unsqueeze(-1) * b.unsqueeze(-2)
    return outer - outer.mT


def lifted(x: Tensor) -> Tensor:
    """The point of the hyperboloid whose later coordinates are x."""
    return torch.cat([(1 + x.square().sum(-1, keepdim=True)).sqrt(), x], dim=-1)


def _ratio(a: Tensor, r: Tensor) -> Tensor:
    """a / r for odd functions a of r with slope 1, and 1 at 0."""
    small = r.abs() < torch.finfo(r.dtype).tiny ** 0.5
    return torch.where(small, 1, a / torch.where(small, 1, r))


def _rim(x: Tensor) -> float:
    return RIM.get(x.dtype, 1e-6)
