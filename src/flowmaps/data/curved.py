"""Points of the hyperbolic plane and rotations: known distributions, and files of one's own."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ..paths import WrappedNormal
from ..spaces import PoincareBall
from ..spaces.rotations import from_quaternion, hat
from .columns import Check, Columns, by_name, read_columns
from .points import PointSplits
from .splits import parted

CENTRES, DEVIATION, DRAWS = ([-0.6, 0.6], [0.6, -0.6]), 0.7, 20_000
DISC, QUATERNION = ["x", "y"], ["w", "x", "y", "z"]


def pair(seed: int = 42, n: int = DRAWS) -> Tensor:
    """Points of the disc, half of them each from the wrapped normals around (-.6, .6) and (.6, -.6), deviation .7.

    Reference: Davis et al. 2025, *Generalised flow maps on Riemannian manifolds*, arXiv 2510.21608.
    """
    generator, space = torch.Generator().manual_seed(seed), PoincareBall(2)
    noise = torch.randn(n, 2, generator=generator, dtype=torch.float64)
    parts = zip(CENTRES, (noise[: n // 2], noise[n // 2 :]), strict=True)
    x = torch.cat([WrappedNormal(centre, DEVIATION).state(space, part) for centre, part in parts])
    return x[torch.randperm(n, generator=generator)]


def pair_log_density(x: Tensor) -> Tensor:
    """The log-density of :func:`pair` in the volume of the metric."""
    space = PoincareBall(2)
    each = [WrappedNormal(centre, DEVIATION).log_density(space, x) for centre in CENTRES]
    return torch.stack(each).logsumexp(0) - math.log(len(each))


def cones(seed: int = 42, n: int = DRAWS) -> Tensor:
    """Orientations of bodies with an axis of symmetry, as nine numbers each: four directions of the axis, any angle
    around it, and normal errors of .1 about every axis. (Of this package; published tables show other cones.)"""
    generator = torch.Generator().manual_seed(seed)
    frames = from_quaternion(torch.randn(4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64))
    R = frames.unflatten(-1, (3, 3))[torch.randint(4, (n,), generator=generator)]
    turn = torch.zeros(n, 3, dtype=torch.float64)
    turn[:, 2] = 2 * math.pi * torch.rand(n, generator=generator, dtype=torch.float64)
    error = 0.1 * torch.randn(n, 3, generator=generator, dtype=torch.float64)
    return (R @ torch.linalg.matrix_exp(hat(turn)) @ torch.linalg.matrix_exp(hat(error))).flatten(-2)


def hyperbolic(source: str, columns: str | None = None, skip: bool = False, seed: int = 42) -> PointSplits:
    """Points of the disc ``(n, 2)``, split 80 / 10 / 10 per cent at random.

    Arguments:
        source: ``pair``, or a file with two coordinates on each line.
        columns, skip: As in :func:`~flowmaps.data.earth.earth`.
    Raises: ValueError naming the lines of rows that are no point of the open unit disc.
    """
    if source == "pair":
        return parted(pair(seed), DISC, seed)

    def check(values: Sequence[float]) -> str | None:
        far = math.hypot(*values)
        return None if far < 1 - 1e-6 else f"the point is {far:g} from the centre, expected less than 1"

    found = _table(source, DISC, columns, skip, check)
    return parted(torch.from_numpy(found.numbers), DISC, seed)


def rotations(source: str, columns: str | None = None, skip: bool = False, seed: int = 42) -> PointSplits:
    """Rotations as nine numbers, split 80 / 10 / 10 per cent at random.

    Arguments:
        source: ``cones``, or a file with a quaternion w, x, y, z on each line, of any length but 0.
        columns, skip: As in :func:`~flowmaps.data.earth.earth`.
    Raises: ValueError naming the lines of rows that are no quaternion.
    """
    if source == "cones":
        return parted(cones(seed), QUATERNION, seed)

    def check(values: Sequence[float]) -> str | None:
        length = math.hypot(*values)
        return None if 1e-6 < length < 1e6 else f"the quaternion has length {length:g}, expected about 1"

    found = _table(source, QUATERNION, columns, skip, check)
    return parted(from_quaternion(torch.from_numpy(found.numbers)), QUATERNION, seed)


def _table(source: str, names: list[str], columns: str | None, skip: bool, check: Check) -> Columns:
    """As many columns as there are names: those that are asked for, or named so, or all that there are."""

    def choose(given: list[str] | None, row: list[str]) -> list[int]:
        if columns is None and given is None and len(row) == len(names):
            return list(range(len(names)))
        found = by_name(columns or ",".join(names), given, row)
        if len(found) != len(names):
            raise ValueError(f"columns is {columns!r}, expected {len(names)} for {', '.join(names)}")
        return found

    return read_columns(source, choose, check, skip)
