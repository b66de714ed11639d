"""What a space knows of its own geometry: everything above it is written against these few operations."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, Generic

import torch
from torch import Tensor, nn

from ..fields import Data, S, Shape, Tree, across, one_field


class Space(nn.Module, ABC, Generic[S]):
    r"""A Riemannian manifold in coordinates, and how data become its points.

    .. math:: \exp_x : T_x M \to M, \qquad \log_x = \exp_x^{-1}, \qquad \langle u, v \rangle_x

    A state is a point for each position, ``(*batch, *positions, dim)``, per field. ``exp(x, 0)`` is ``x`` bit for bit.

    Arguments:
        flat: Whether exp is addition, so that means of points and velocities make sense.
    """

    flat: bool = False

    @abstractmethod
    def exp(self, x: S, v: S) -> S:
        """The point at time 1 of the geodesic from x with velocity v."""

    @abstractmethod
    def log(self, x: S, y: S) -> S:
        """The velocity at x of the shortest geodesic that is at y at time 1."""

    @abstractmethod
    def project(self, x: S, v: S) -> S:
        """The tangent at x nearest to a vector of the coordinates."""

    @abstractmethod
    def transport(self, x: S, y: S, v: S) -> S:
        """The tangent v at x carried in parallel to y along their geodesic."""

    @abstractmethod
    def inner(self, x: S, u: S, v: S) -> S:
        """The metric of two tangents at x, ``(*batch, *positions)`` per field."""

    @abstractmethod
    def sharp(self, x: S, gradient: S) -> S:
        """The tangent that a gradient in the coordinates at x stands for."""

    @abstractmethod
    def encode(self, x_1: Data) -> S:
        """Data as points."""

    @abstractmethod
    def decode(self, x: S) -> Data:
        """The data nearest to points."""

    @abstractmethod
    def positions(self, x_1: Data) -> Shape:
        """The shape ``(*batch, *positions)`` of data, per field."""

    @abstractmethod
    def noise_shape(self, shape: Shape) -> Shape:
        """The shape of the normal numbers that random points of data of ``shape`` are made of, per field."""

    @abstractmethod
    def random(self, noise: S) -> S:
        """The space's own random points, made of standard normal numbers: normal where flat, uniform where compact."""

    def log_density(self, x: S) -> S:
        """The log-density of :meth:`random` points in the volume of the metric, ``(*batch, *positions)`` per field.

        Raises: ValueError where it is not known.
        """
        raise ValueError(f"the density of random points of {type(self).__name__} is not known; use another space")

    def tangent(self, x: S, noise: S) -> S:
        """A tangent at x with standard normal coordinates in an orthonormal frame, made of the numbers that
        :meth:`random` points are made of."""
        return self.project(x, noise)

    def frame(self, x: S) -> tuple[S, ...]:
        r"""Tangents at x with :math:`\sum_i e_i e_i^\top = 1` in the metric there: an orthonormal basis is one.

        Raises: ValueError where it is not known.
        """
        raise ValueError(f"{type(self).__name__} has no frame for divergences; use another space")

    def growth(self, x: S, v: S) -> S:
        r"""What a divergence has beside :math:`\sum_i \langle e_i, \partial_{e_i} v\rangle`.

        It is the derivative along v of the logarithm of the volume of the coordinates: 0 where points lie in a
        surrounding space.
        """
        return self.inner(x, v, 0 * v)

    def sizes(self) -> Tree[int | None]:
        """The number of categories, per field; ``None`` where data are points."""
        return None

    @abstractmethod
    def check(self, x_1: Data) -> None:
        """Refuse what is no data of this space; on an accelerator, where looking means waiting, by the type alone.

        Raises: ValueError naming the value and what was expected.
        """

    def once(self, values: S) -> S:
        """Values per position, ``(*batch, *positions)``, with 0 where a position repeats another one or always holds
        the same: what sums over positions are taken of."""
        return values

    @abstractmethod
    def apart(self, x: S, y: S) -> Tensor:
        """Squared distances of every two examples ``(n, m)``, summed over positions and fields."""

    def geodesic(self, x: S, y: S, t: Tensor) -> S:
        """The point at times t ``(*batch,)`` on the way from x to y."""
        return self.exp(x, across(t, x) * self.log(x, y))

    def each(self, function: Callable[..., object], *trees: object) -> Any:  # noqa: ANN401  (what the function gives)
        """``function(space, *fields)`` of every field; of the trees themselves where there is but one."""
        return function(self, *trees)


class Flat(Space[Tensor]):
    r"""A vector space: :math:`\exp_x v = x + v`, and every tangent space is the space itself."""

    flat = True
    dim: int

    def exp(self, x: Tensor, v: Tensor) -> Tensor:
        return x + v

    def log(self, x: Tensor, y: Tensor) -> Tensor:
        return y - x

    def project(self, x: Tensor, v: Tensor) -> Tensor:
        return v

    def transport(self, x: Tensor, y: Tensor, v: Tensor) -> Tensor:
        return v

    def inner(self, x: Tensor, u: Tensor, v: Tensor) -> Tensor:
        return (u * v).sum(-1)

    def sharp(self, x: Tensor, gradient: Tensor) -> Tensor:
        return gradient

    def apart(self, x: Tensor, y: Tensor) -> Tensor:
        return torch.cdist(x.flatten(1), y.flatten(1)).square()

    def noise_shape(self, shape: Shape) -> Shape:
        return (*one_shape(shape), self.dim)

    def random(self, noise: Tensor) -> Tensor:
        return noise

    def geodesic(self, x: Tensor, y: Tensor, t: Tensor) -> Tensor:
        return x.lerp(y, across(t, x))


class Categorical(Space[Tensor]):
    """A space whose data are categories, and whose points stand for points of the simplex.

    Arguments:
        K: Number of categories.
    """

    K: int

    def check(self, x_1: Data) -> None:
        x = one_field(x_1)
        if x.dtype != torch.int64:
            raise ValueError(f"categories are {x.dtype}, expected torch.int64 numbers in 0..{self.K - 1}")
        if x.device.type == "cpu" and x.numel():
            low, high = (int(k) for k in x.aminmax())
            if low < 0 or high >= self.K:
                raise ValueError(
                    f"category {low if low < 0 else high} is outside the alphabet 0..{self.K - 1} of the map; "
                    "give data of that alphabet, or build the map for theirs"
                )

    def sizes(self) -> int:
        """The number of categories."""
        return self.K

    def positions(self, x_1: Data) -> Shape:
        return one_field(x_1).shape

    @abstractmethod
    def lift(self, pi: Tensor) -> Tensor:
        """The state of points of the simplex, ``(..., K)`` to ``(..., dim)``; ``encode`` is that of its vertices."""

    @abstractmethod
    def toward(self, x: Tensor, pi: Tensor) -> Tensor:
        r"""The tangent :math:`\sum_k \pi_k \log_x(e_k)` at x that leads to the endpoint π."""

    def approach(self, x: Tensor, pi: Tensor, gamma: Tensor) -> Tensor:
        """The share γ ``(*batch,)`` of the way from x to the endpoint π."""
        return self.exp(x, across(gamma, x) * self.toward(x, pi))


class FlatCategorical(Flat, Categorical):
    r"""A linear image :math:`h = W^\top x` of the one-hot cube, where an endpoint π is one point."""

    def toward(self, x: Tensor, pi: Tensor) -> Tensor:
        return self.lift(pi).to(x.dtype) - x

    def approach(self, x: Tensor, pi: Tensor, gamma: Tensor) -> Tensor:
        return self.geodesic(x, self.lift(pi).to(x.dtype), gamma)


def one_shape(shape: Shape) -> tuple[int, ...]:
    """The shape of a single field.

    Raises: ValueError if there are several.
    """
    if isinstance(shape, Mapping):
        raise ValueError(f"shapes of the fields {list(shape)}, expected one; use a Product of spaces for fields")
    return tuple(shape)


def check_size(what: str, size: int, least: int = 1) -> int:
    """``size`` if it is at least ``least``; the error says what it is the size of."""
    if size < least:
        raise ValueError(f"{what} is {size}, expected at least {least}")
    return size
