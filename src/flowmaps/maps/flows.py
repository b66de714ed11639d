"""Normalising flows by name: stacks of the layers of :mod:`~flowmaps.maps.couplings`."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from math import prod

from torch import Tensor

from ..paths import GeodesicPath
from ..spaces import Torus
from ..spaces.base import check_size
from .bijection import Composed
from .conditioners import ResidualConditioner, TransformerConditioner
from .couplings import Autoregressive, Coupling, alternating
from .univariate import CircularSpline, Scaled, Spline, Univariate


class RealNVP(Composed):
    r"""Affine couplings with residual conditioners.

    .. math:: y_a = x_a, \qquad y_b = e^{a(x_a)} x_b + b(x_a), \qquad \text{halves in turns}

    Arguments:
        path: A flat space with its source.
        shape: Of one state, ``(*positions, dim)``.
        layers: Number of couplings.
        width, depth: Size of the conditioners' layers, and number of their residual blocks.
    Reference: Dinh, Sohl-Dickstein, Bengio 2016, *Density estimation using Real NVP*, arXiv 1605.08803.
    """

    def __init__(
        self, path: GeodesicPath[Tensor], shape: Sequence[int], layers: int = 8, width: int = 128, depth: int = 2
    ):
        conditioner = partial(ResidualConditioner, width=width, depth=depth)
        super().__init__(flat(path), _couplings(shape, layers, Scaled(), conditioner), shape)


class NSF(Composed):
    r"""Neural spline flow: couplings, or autoregressive layers in one pass from noise to data.

    Arguments:
        path, shape, layers, width, depth: As in :class:`RealNVP`.
        bins, bound: Pieces of the splines, and their end; states beyond stay as they are.
        autoregressive: Autoregressive layers, in forward and backward order in turns: more expressive, with an inverse
            of as many passes as there are coordinates.
    Reference: Durkan et al. 2019, *Neural spline flows*, arXiv 1906.04032.
    """

    def __init__(
        self,
        path: GeodesicPath[Tensor],
        shape: Sequence[int],
        layers: int = 6,
        width: int = 128,
        depth: int = 2,
        bins: int = 8,
        bound: float = 5.0,
        autoregressive: bool = False,
    ):
        path, spline = flat(path), Spline(bins, bound)
        if autoregressive:
            each = partial(Autoregressive, prod(shape), spline, width, depth)
            stack = [each(backwards=bool(i % 2)) for i in range(check_size("layers", layers))]
        else:
            stack = _couplings(shape, layers, spline, partial(ResidualConditioner, width=width, depth=depth))
        super().__init__(path, stack, shape)


class CircularNSF(Composed):
    r"""Couplings of circular splines on a torus, from uniform angles.

    Arguments:
        path: A torus with its source.
        shape, layers, width, depth, bins: As in :class:`NSF`.
        harmonics: Multiples of the held angles that conditioners see.
    Reference: Rezende et al. 2020, *Normalizing flows on tori and spheres*, arXiv 2002.02428.
    """

    def __init__(
        self,
        path: GeodesicPath[Tensor],
        shape: Sequence[int],
        layers: int = 6,
        width: int = 96,
        depth: int = 2,
        bins: int = 12,
        harmonics: int = 4,
    ):
        if not isinstance(path.space, Torus):
            raise ValueError(f"circular splines are of angles, not of points of {type(path.space).__name__}; use NSF")
        conditioner = partial(ResidualConditioner, width=width, depth=depth, harmonics=harmonics)
        super().__init__(path, _couplings(shape, layers, CircularSpline(bins), conditioner), shape)


class TransformerFlow(Composed):
    r"""Couplings whose parameters a transformer over positions gives: particles, tokens.

    Half of the positions are held, in turns; the coordinates of a single position are taken as positions.

    Arguments:
        path, shape, layers: As in :class:`RealNVP`.
        width, depth, heads: Size of the transformers.
        splines: Splines in the place of scales and shifts.
        bins, bound: As in :class:`NSF`.
    Reference: Rehman et al. 2025, *RegFlow*, arXiv 2506.01158.
    """

    def __init__(
        self,
        path: GeodesicPath[Tensor],
        shape: Sequence[int],
        layers: int = 8,
        width: int = 64,
        depth: int = 2,
        heads: int = 4,
        splines: bool = False,
        bins: int = 8,
        bound: float = 5.0,
    ):
        conditioner = partial(TransformerConditioner, width=width, depth=depth, heads=heads)
        univariate = Spline(bins, bound) if splines else Scaled()
        super().__init__(flat(path), _couplings(shape, layers, univariate, conditioner, by_position=True), shape)


def _couplings(
    shape: Sequence[int], layers: int, univariate: Univariate, conditioner: partial, by_position: bool = False
) -> list[Coupling]:
    """Couplings that hold one half and the other in turns."""
    halves = [alternating(shape, i, by_position) for i in range(check_size("layers", layers))]
    return [Coupling(held, univariate, conditioner) for held in halves]


def flat(path: GeodesicPath[Tensor]) -> GeodesicPath[Tensor]:
    """The path, if its space is flat.

    Raises: ValueError naming the space.
    """
    if not path.space.flat:
        raise ValueError(f"these couplings are of a flat space, not of {type(path.space).__name__}; use CircularNSF")
    return path
