"""Unit vectors."""

from __future__ import annotations

import torch
from torch import Tensor

from ..fields import Data, Shape, one_field
from .base import Space, check_size, one_shape
from .euclidean import coordinates


class Sphere(Space[Tensor]):
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

    def __init__(self, dim: int):
        super().__init__()
        self.dim = check_size("dim, the number of coordinates,", dim, least=2)

    def exp(self, x: Tensor, v: Tensor) -> Tensor:
        angle = norm(v)
        return angle.cos() * x + torch.sinc(angle / torch.pi) * v

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

    def encode(self, x_1: Data) -> Tensor:
        return one_field(x_1)

    def check(self, x_1: Data) -> None:
        x = coordinates(x_1, self.dim)
        if x.device.type == "cpu" and x.numel():
            far = float((x.norm(dim=-1) - 1).abs().amax())
            if far > 1e-3:
                raise ValueError(f"data are up to {far:.3g} off the unit sphere; divide them by their norm")

    def decode(self, x: Tensor) -> Tensor:
        return x

    def positions(self, x_1: Data) -> Shape:
        return tuple(one_field(x_1).shape[:-1])

    def noise_shape(self, shape: Shape) -> Shape:
        return (*one_shape(shape), self.dim)

    def random(self, noise: Tensor) -> Tensor:
        return noise / norm(noise)


def norm(v: Tensor) -> Tensor:
    """|v| over the last dimension, kept; its derivatives at 0 are 0, not NaN."""
    square = v.square().sum(-1, keepdim=True)
    zero = square == 0
    return torch.where(zero, 0, torch.where(zero, 1, square).sqrt())
