"""Rotations of space."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..fields import Shape
from .base import one_shape
from .manifold import Closed, norm, settled


class Rotations(Closed):
    r"""SO(3) per position: rotation matrices as nine numbers, row by row; distance is the angle between two rotations.

    .. math:: \exp_R V = R\, \mathrm{expm}(R^\top V), \qquad \log_R S = R\, \mathrm{logm}(R^\top S), \qquad
              \langle U, V\rangle = \tfrac12 \mathrm{tr}(U^\top V)

    Rotations by π have two shortest geodesics, of which log takes one; all is finite there and where rotations meet.

    Invariant: ``exp(x, log(x, y)) = y`` (``tests/spaces``); random points are uniform (Haar).
    Reference: Davis et al. 2025, *Generalised flow maps on Riemannian manifolds*, arXiv 2510.21608.
    """

    dim = 9
    dimension = 3
    place = "the rotations; give matrices with orthonormal rows and determinant 1, as nine numbers row by row"

    def exp(self, x: Tensor, v: Tensor) -> Tensor:
        R, w = matrix(x), self.axis(x, v)
        angle = norm(w).unsqueeze(-1)
        K = hat(w)
        turned = R + R @ (sinc(angle) * K + sinc(angle / 2).square() / 2 * (K @ K))
        # One step of Newton's iteration to the nearest orthogonal matrix.
        settled_at = 1.5 * turned - 0.5 * turned @ turned.mT @ turned
        return settled(turned, settled_at, angle == 0).flatten(-2)

    def log(self, x: Tensor, y: Tensor) -> Tensor:
        R = matrix(x)
        return (R @ hat(rotation_vector(R.mT @ matrix(y)))).flatten(-2)

    def project(self, x: Tensor, v: Tensor) -> Tensor:
        R = matrix(x)
        A = R.mT @ matrix(v)
        return (R @ (A - A.mT) / 2).flatten(-2)

    def transport(self, x: Tensor, y: Tensor, v: Tensor) -> Tensor:
        R, S = matrix(x), matrix(y)
        half = rotation_vector(R.mT @ S) / 2
        turn = self.exp(torch.eye(3, dtype=x.dtype, device=x.device).flatten().expand_as(x), hat(half).flatten(-2))
        H = matrix(turn)
        return (S @ H.mT @ (R.mT @ matrix(v)) @ H).flatten(-2)

    def inner(self, x: Tensor, u: Tensor, v: Tensor) -> Tensor:
        return (u * v).sum(-1) / 2

    def sharp(self, x: Tensor, gradient: Tensor) -> Tensor:
        return 2 * self.project(x, gradient)

    def noise_shape(self, shape: Shape) -> Shape:
        return (*one_shape(shape), 4)

    def random(self, noise: Tensor) -> Tensor:
        return from_quaternion(noise)

    def tangent(self, x: Tensor, noise: Tensor) -> Tensor:
        return (matrix(x) @ hat(noise[..., :3])).flatten(-2)

    def axis(self, x: Tensor, v: Tensor) -> Tensor:
        """The rotation vector, ``(..., 3)``, of a tangent seen from x."""
        return vee(matrix(x).mT @ matrix(v))

    def off(self, x: Tensor) -> Tensor:
        R = matrix(x)
        apart = (R @ R.mT - torch.eye(3, dtype=x.dtype, device=x.device)).abs().amax((-2, -1))
        return torch.where(torch.linalg.det(R) > 0, apart, 1 + apart)

    def log_density(self, x: Tensor) -> Tensor:
        return torch.full_like(x[..., 0], -math.log(8 * math.pi**2))

    def frame(self, x: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.tangent(x, e.expand(*x.shape[:-1], -1)) for e in torch.eye(3, dtype=x.dtype, device=x.device))

    def log_volume(self, r: Tensor) -> Tensor:
        return 2 * sinc(r / 2).abs().clamp(min=torch.finfo(r.dtype).tiny).log()


def matrix(x: Tensor) -> Tensor:
    """Nine numbers as a matrix."""
    return x.unflatten(-1, (3, 3))


def hat(w: Tensor) -> Tensor:
    """The skew matrix of the cross product with w."""
    a, b, c = w.unbind(-1)
    zero = torch.zeros_like(a)
    return torch.stack([zero, -c, b, c, zero, -a, -b, a, zero], dim=-1).unflatten(-1, (3, 3))


def vee(A: Tensor) -> Tensor:
    """The inverse of :func:`hat`, of the skew part of A."""
    return (
        torch.stack([A[..., 2, 1] - A[..., 1, 2], A[..., 0, 2] - A[..., 2, 0], A[..., 1, 0] - A[..., 0, 1]], dim=-1) / 2
    )


def sinc(x: Tensor) -> Tensor:
    """sin(x)/x."""
    return torch.sinc(x / torch.pi)


def quaternion(R: Tensor) -> Tensor:
    """The unit quaternion of rotation matrices, real part first and not negative: of four formulas the one whose
    divisor is largest, so that nothing is lost near any angle."""
    a, b, c = R[..., 0, 0], R[..., 1, 1], R[..., 2, 2]
    xy, xz, yz = R[..., 0, 1] + R[..., 1, 0], R[..., 0, 2] + R[..., 2, 0], R[..., 1, 2] + R[..., 2, 1]
    x, y, z = (2 * vee(R)).unbind(-1)
    four = torch.stack(
        [
            torch.stack([1 + a + b + c, x, y, z], dim=-1),
            torch.stack([x, 1 + a - b - c, xy, xz], dim=-1),
            torch.stack([y, xy, 1 - a + b - c, yz], dim=-1),
            torch.stack([z, xz, yz, 1 - a - b + c], dim=-1),
        ],
        dim=-2,
    )  # rows are the quaternion times four of its own components
    best = torch.stack([four[..., i, i] for i in range(4)], dim=-1).argmax(-1)
    q = four.gather(-2, best[..., None, None].expand(*best.shape, 1, 4)).squeeze(-2)
    q = q / norm(q)
    return torch.where(q[..., :1] < 0, -q, q)


def rotation_vector(R: Tensor) -> Tensor:
    """Axis times angle, in [0, π], of rotation matrices."""
    q = quaternion(R)
    w, u = q[..., :1], q[..., 1:]
    sin = norm(u)
    half = torch.atan2(sin, w)
    return 2 * u / sinc(half).clamp(min=torch.finfo(R.dtype).eps)


def from_quaternion(q: Tensor) -> Tensor:
    """The rotation of a quaternion of any length, as nine numbers."""
    w, x, y, z = (q / norm(q)).unbind(-1)
    rows = [
        *(1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)),
        *(2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)),
        *(2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)),
    ]
    return torch.stack(rows, dim=-1)
