"""Rotations of space, in files as quaternions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from torch import Tensor

from ..data.curved import rotations
from ..data.earth import latitudes
from ..data.points import PointSplits
from ..maps import VelocityMap
from ..networks import Network
from ..pictures import globes
from ..spaces import Rotations as Space
from ..spaces.rotations import from_quaternion, matrix, quaternion
from .base import Kind
from .manifolds import OnManifold, file_or


class Rotations(OnManifold):
    """Rotations as matrices, from uniform ones.

    Arguments:
        source: ``cones``, orientations of bodies with an axis of symmetry, or a file with a quaternion on each line.
        columns: Names or numbers of w, x, y, z in a file.
        skip: Leave damaged rows out, with a warning that counts them, instead of refusing the file.
        network, width, depth, frequencies, band, flow_map, seed: As in :class:`~flowmaps.tasks.manifolds.OnManifold`.
    """

    def __init__(
        self,
        source: str = "cones",
        columns: str | None = None,
        skip: bool = False,
        network: Callable[[int], Network] | None = None,
        width: int | None = None,
        depth: int | None = None,
        frequencies: int | None = None,
        band: float | None = None,
        flow_map: Kind = VelocityMap,
        seed: int = 42,
    ):
        super().__init__(network, width, depth, frequencies, band, flow_map, seed)
        self.data_set, self.columns, self.skip = source, columns, skip

    @property
    def space(self) -> Space:
        return Space()

    def load(self) -> PointSplits:
        return rotations(file_or(self.data_set, ("cones",)), self.columns, self.skip, self.seed)

    def shown(self, x: Tensor) -> Tensor:
        """Unit quaternions w, x, y, z with w not negative, ``(n, 4)``."""
        return quaternion(matrix(x.double()))

    def points(self, shown: Tensor) -> Tensor:
        return from_quaternion(shown)

    def picture(self, path: Path, rows: Mapping[str, Tensor]) -> None:
        """Where the axis of the body points to, on maps of the sphere."""
        globes(path, {name: latitudes(matrix(from_quaternion(x))[..., 2]) for name, x in rows.items()})
