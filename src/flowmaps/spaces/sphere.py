"""Unit vectors."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .base import check_size
from .manifold import Closed, norm, settled


class Sphere(Closed):
    r"""The unit sphere :math:`S^{d-1} \subset \mathbb{R}^d` per position, with the metric of :math:`\mathbb{R}^d`.

    .. math:: \exp_x v = \cos|v|\, x + \frac{\sin|v|}{|v|}\, v, \qquad
              \log_x y = \frac{\theta}{\sin\theta}\,(y - \cos\theta\, x), \qquad
              \theta = \mathrm{atan2}(|y - \langle x, y\rangle x|, \langle x, y\rangle)

    All of it is smooth where x = y, where an arc cosine is not. Opposite points have no shortest geodesic: there log is
    finite, in no particular direction.

    Arguments:
        dim: d, the number of coordinates, at least 2.
    Invariant: ``exp(x, log(x, y)) = y`` (``tests/spaces``).
    Reference: Davis et al. 2025, *Generalised flow maps on Riemannian manifolds*, arXiv 2510.21608.
    """

    place = "the unit sphere; divide them by their norm"

    def __init__(self, dim: int):
        super().__init__()
        self.dim = check_size("dim, the number of coordinates,", dim, least=2)
        self.dimension = dim - 1

    def exp(self, x: Tensor, v: Tensor) -> Tensor:
        angle = norm(v)
        y = angle.cos() * x + torch.sinc(angle / torch.pi) * v
        return settled(y, y / norm(y), angle == 0)

    def log(self, x: Tensor, y: Tensor) -> Tensor:
        cos = (x * y).sum(-1, keepdim=True)
        away = y - cos * x
        sin = norm(away)
        theta = torch.atan2(sin, cos)
        return away / torch.sinc(theta / torch.pi).clamp(min=torch.finfo(x.dtype).eps)

    def project(self, x: Tensor, v: Tensor) -> Tensor:
        return v - (x * v).sum(-1, keepdim=True) * x

    def transport(self, x: Tensor, y: Tensor, v: Tensor) -> Tensor:
        along = (y * v).sum(-1, keepdim=True) / (1 + (x * y).sum(-1, keepdim=True)).clamp(min=torch.finfo(x.dtype).eps)
        return v - along * (x + y)

    def inner(self, x: Tensor, u: Tensor, v: Tensor) -> Tensor:
        return (u * v).sum(-1)

    def sharp(self, x: Tensor, gradient: Tensor) -> Tensor:
        return self.project(x, gradient)

    def apart(self, x: Tensor, y: Tensor) -> Tensor:
        """By the arc sine of half the chord, with nothing of the size of a state for every two examples."""
        half = ((1 - torch.einsum("n...d,m...d->nm...", x, y)) / 2).clamp(0, 1).sqrt()
        return (2 * half.asin()).square().reshape(len(x), len(y), -1).sum(2)

    def off(self, x: Tensor) -> Tensor:
        return (x.norm(dim=-1) - 1).abs()

    def random(self, noise: Tensor) -> Tensor:
        return noise / norm(noise)

    def log_density(self, x: Tensor) -> Tensor:
        area = math.log(2) + self.dim / 2 * math.log(math.pi) - math.lgamma(self.dim / 2)
        return torch.full_like(x[..., 0], -area)

    def frame(self, x: Tensor) -> tuple[Tensor, ...]:
        basis = torch.eye(self.dim, dtype=x.dtype, device=x.device)
        return tuple(self.project(x, e.expand_as(x)) for e in basis)

    def log_volume(self, r: Tensor) -> Tensor:
        return (self.dim - 2) * torch.sinc(r / torch.pi).abs().clamp(min=torch.finfo(r.dtype).tiny).log()
