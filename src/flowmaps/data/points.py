"""Points: distributions of the plane whose density is known, and tables of numbers of one's own."""

from __future__ import annotations

import math
import os
from abc import ABC, abstractmethod
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..fields import Batch
from ..seeds import check_seed
from .base import fingerprint, split
from .points_table import read_table

PARTS = {"train": 0, "valid": 1, "test": 2}


class KnownDistribution(ABC):
    """A distribution of the plane with an exact density, made of modes.

    Arguments:
        half_width: The square [-half_width, half_width]² holds all of it but a negligible part.
        modes: Number of its modes.
        mean, deviation: Of each coordinate.
    """

    half_width: float
    modes: int
    mean: float = 0.0
    deviation: float

    @abstractmethod
    def points(self, u: Tensor) -> Tensor:
        """Points ``(n, 2)`` of uniform numbers ``(n, 3)``."""

    @abstractmethod
    def mass(self, bins: int) -> Tensor:
        """Probability of each cell of a grid of ``bins`` by ``bins`` on the square, float64 ``(bins, bins)``; the first
        index is that of the first coordinate."""

    @abstractmethod
    def mode(self, x: Tensor) -> Tensor:
        """The mode that points ``(n, 2)`` belong to, int64 ``(n,)``; -1 for none. All modes have the same mass."""

    def sample(self, n: int, seed: int) -> Tensor:
        """Exact points, float64 ``(n, 2)``."""
        return self.points(uniforms(seed, torch.arange(n), 3))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={value}' for name, value in sorted(vars(self).items()))})"


class Checkerboard(KnownDistribution):
    r"""Uniform on the squares of a board of which every second one is left out.

    .. math:: p(x) = \frac{2}{(2a)^2} \quad\text{if}\quad \lfloor c_1 \rfloor + \lfloor c_2 \rfloor \text{ is even},
              \qquad c = \frac{(x + a)\, m}{2 a}

    Arguments:
        squares: m, the number of squares on a side, even.
        half_width: a.
    """

    def __init__(self, squares: int = 4, half_width: float = 2.0):
        if squares < 2 or squares % 2:
            raise ValueError(f"squares is {squares}, expected an even number of squares on a side")
        if not 0 < half_width < math.inf:
            raise ValueError(f"half_width is {half_width}, expected a positive number")
        self.squares, self.half_width = squares, float(half_width)
        self.modes, self.deviation = squares**2 // 2, half_width / math.sqrt(3)

    def points(self, u: Tensor) -> Tensor:
        k = (u[:, 0] * self.modes).long().clamp(max=self.modes - 1)
        row, place = k // (self.squares // 2), k % (self.squares // 2)
        corner = torch.stack([row, 2 * place + row % 2], dim=1)
        return (corner + u[:, 1:]) * (2 * self.half_width / self.squares) - self.half_width

    def mass(self, bins: int) -> Tensor:
        if bins % self.squares:
            raise ValueError(f"bins is {bins}, expected a multiple of the {self.squares} squares on a side")
        i = torch.arange(bins) * self.squares // bins
        board = ((i.unsqueeze(1) + i) % 2 == 0).double()
        return board / board.sum()

    def mode(self, x: Tensor) -> Tensor:
        c = ((x + self.half_width) * (self.squares / (2 * self.half_width))).floor().long()
        inside = ((c >= 0) & (c < self.squares)).all(1) & (c.sum(1) % 2 == 0)
        return torch.where(inside, c[:, 0] * (self.squares // 2) + c[:, 1] // 2, -1)


class Ring(KnownDistribution):
    r"""Equal normal distributions on a circle.

    .. math:: p(x) = \frac1m \sum_k \mathcal N\big(x;\, r\,(\cos 2\pi k/m, \sin 2\pi k/m),\, \sigma^2 I\big)

    Arguments:
        modes: m.
        radius: r.
        spread: σ; a point belongs to the nearest mode if that is within 4 σ.
    """

    def __init__(self, modes: int = 8, radius: float = 2.0, spread: float = 0.2):
        if modes < 1:
            raise ValueError(f"modes is {modes}, expected at least one")
        if not (0 <= radius < math.inf and 0 < spread < math.inf):
            raise ValueError(f"radius is {radius} and spread {spread}, expected positive numbers")
        self.modes, self.radius, self.spread = modes, float(radius), float(spread)
        self.half_width = radius + 6 * spread
        self.deviation = math.sqrt(radius**2 / 2 + spread**2)

    @property
    def centres(self) -> Tensor:
        """Means of the modes, float64 ``(m, 2)``."""
        angle = 2 * math.pi * torch.arange(self.modes, dtype=torch.float64) / self.modes
        return self.radius * torch.stack([angle.cos(), angle.sin()], dim=1)

    def points(self, u: Tensor) -> Tensor:
        k = (u[:, 0] * self.modes).long().clamp(max=self.modes - 1)
        return self.centres[k] + self.spread * torch.special.ndtri(u[:, 1:].clamp(2.0**-53, 1 - 2.0**-53))

    def mass(self, bins: int) -> Tensor:
        edges = torch.linspace(-self.half_width, self.half_width, bins + 1, dtype=torch.float64)
        below = torch.special.ndtr((edges - self.centres.unsqueeze(-1)) / self.spread)  # (m, 2, bins + 1)
        first, second = below.diff(dim=-1).unbind(1)
        return torch.einsum("ki,kj->ij", first, second) / self.modes

    def mode(self, x: Tensor) -> Tensor:
        distance, k = torch.cdist(x.double(), self.centres).min(1)
        return torch.where(distance <= 4 * self.spread, k, -1)


class Units(NamedTuple):
    """What the coordinates of points are measured in: a map sees ``(x - mean) / deviation``.

    Arguments:
        mean, deviation: One number for each coordinate.
    """

    mean: list[float]
    deviation: list[float]

    def standardised(self, x: Tensor) -> Tensor:
        """Points as a map sees them, float32."""
        mean, deviation = (torch.tensor(part, dtype=torch.float64) for part in self)
        return ((x.double() - mean) / deviation).float()

    def original(self, x: Tensor) -> Tensor:
        """Points of a map as they were given, float64."""
        mean, deviation = (torch.tensor(part, dtype=torch.float64, device=x.device) for part in self)
        return x.double() * deviation + mean

    @classmethod
    def of(cls, x: Tensor) -> Units:
        """Those of points ``(n, d)``; a coordinate that never changes keeps its unit.

        Raises: ValueError if the numbers are too large to be squared.
        """
        mean, deviation = x.double().mean(0), x.double().std(0, correction=0)
        if not bool((mean.abs() + deviation).isfinite().all()):
            raise ValueError(
                f"the largest number is {float(x.abs().max()):g}, too large to be squared; use other units"
            )
        changes = deviation > 1e-13 * mean.abs()  # the mean of equal numbers may differ from them by rounding
        return cls(mean.tolist(), torch.where(changes, deviation, 1.0).tolist())


class PointData:
    """Points in memory.

    Arguments:
        x: Finite numbers ``(n, d)`` as they were given.
        units: Those in which :meth:`batch` gives them.
    """

    def __init__(self, x: Tensor, units: Units):
        if x.ndim != 2 or not x.numel() or not bool(x.isfinite().all()):
            raise ValueError(f"points have shape {tuple(x.shape)}, expected at least one row of finite numbers")
        self.x, self.units = x, units

    def __len__(self) -> int:
        return len(self.x)

    def batch(self, index: Tensor) -> Batch:
        """Standardised points ``(B, d)``, float32."""
        return Batch(self.units.standardised(self.x[index]))

    def original(self, n: int) -> Tensor:
        """The first ``n`` points as they were given."""
        return self.x[:n]

    def fingerprint(self) -> str:
        return fingerprint(self.x, *self.units)


class Drawn:
    """Points of a known distribution, each a function of the seed and its own number, so that nothing is kept.

    Arguments:
        distribution: Where they come from.
        size: How many there are; more than a training looks at and every one is fresh.
        seed: Chooses them.
        part: Which of the disjoint sequences of a seed.
        units: Those in which :meth:`batch` gives them.
    Invariant: ``batch(index)`` is the same in any order, batch and process (``tests/data/test_points.py``).
    """

    def __init__(self, distribution: KnownDistribution, size: int, seed: int, part: str, units: Units):
        if size < 1:
            raise ValueError(f"size is {size}, expected at least one point")
        self.distribution, self.size, self.units = distribution, size, units
        self.seed = 3 * check_seed(seed, bits=32) + PARTS[part]

    def __len__(self) -> int:
        return self.size

    def batch(self, index: Tensor) -> Batch:
        """Standardised points ``(B, 2)``, float32."""
        return Batch(self.units.standardised(self._points(index)))

    def original(self, n: int) -> Tensor:
        """The first ``n`` points as they are."""
        return self._points(torch.arange(min(n, self.size)))

    def fingerprint(self) -> str:
        return fingerprint(repr(self.distribution), self.size, self.seed)

    def _points(self, index: Tensor) -> Tensor:
        return self.distribution.points(uniforms(self.seed, index, 3))


class PointSplits(NamedTuple):
    """Points in three disjoint parts.

    Arguments:
        units: Mean and deviation of the training part.
        names: Of the coordinates.
        known: Their distribution, if it is known.
    """

    train: PointData | Drawn
    valid: PointData | Drawn
    test: PointData | Drawn
    units: Units
    names: list[str]
    known: KnownDistribution | None = None


def drawn(known: KnownDistribution, size: int, held_out: int, seed: int = 0) -> PointSplits:
    """``size`` points for training and ``held_out`` each to validate and to test."""
    units = Units([known.mean] * 2, [known.deviation] * 2)
    train, valid, test = (
        Drawn(known, count, seed, part, units)
        for part, count in (("train", size), ("valid", held_out), ("test", held_out))
    )
    return PointSplits(train, valid, test, units, ["x", "y"], known)


def table(path: str | os.PathLike, seed: int = 0) -> PointSplits:
    """The rows of a file of numbers, split 70 / 10 / 20 per cent by :func:`~flowmaps.data.base.split`."""
    found = read_table(path)
    x = torch.from_numpy(found.numbers)
    try:
        parts = [x[rows] for rows in split(len(x), seed=seed)]
        units = Units.of(parts[0])
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    train, valid, test = (PointData(part, units) for part in parts)
    return PointSplits(train, valid, test, units, found.names)


def uniforms(seed: int, index: Tensor, dims: int) -> Tensor:
    r"""Uniform numbers in [0, 1), float64 ``(*index, dims)``, each a function of the seed and its place alone.

    The place is multiplied by an odd number and its bits are mixed (SplitMix64), so that any part of the sequence can
    be drawn without the rest.

    Reference: G. Steele, D. Lea and C. Flood 2014, Fast splittable pseudorandom number generators.
    """
    step = np.uint64(0x9E3779B97F4A7C15)
    place = index.cpu().numpy().astype(np.uint64)[..., None] * np.uint64(dims) + np.arange(dims, dtype=np.uint64)
    start = _mixed(np.array([check_seed(seed)], dtype=np.uint64) * step + step)
    return torch.from_numpy((_mixed(start + (place + np.uint64(1)) * step) >> np.uint64(11)) * 2.0**-53)


def _mixed(z: np.ndarray) -> np.ndarray:
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))
