"""Torsion angles: of RNA, of proteins, or any table of angles."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path

from torch import Tensor

from ..data.points import PointSplits
from ..data.torsions import SOURCES, radians, torsions
from ..maps import VelocityMap
from ..metrics.manifolds import Kernel, per_angle_kernel
from ..networks import Network
from ..pictures import angle_panels
from ..spaces import Torus
from .base import Kind
from .manifolds import OnManifold, file_or


class Torsions(OnManifold):
    """Angles as points of a flat torus.

    Arguments:
        source: ``rna`` (seven angles), ``protein`` (φ and ψ), ``alanine`` (φ and ψ of alanine dipeptide), or a file
            with the angles of one molecule on each line.
        path: Folder of the known data sets.
        columns: Names or numbers of the angles in a file, such as ``phi,psi`` or ``2,3``; all that begin with a number
            by default.
        unit: ``degrees`` or ``radians``, of a file. Samples are always in degrees.
        skip: Leave damaged rows out, with a warning that counts them, instead of refusing the file.
        fetch: Download ``rna`` if it is missing.
        network, width, depth, frequencies, band, flow_map, seed: As in :class:`~flowmaps.tasks.manifolds.OnManifold`.
    """

    def __init__(
        self,
        source: str = "rna",
        path: str | None = None,
        columns: str | None = None,
        unit: str = "degrees",
        skip: bool = False,
        fetch: bool = False,
        network: Callable[[int], Network] | None = None,
        width: int | None = None,
        depth: int | None = None,
        frequencies: int | None = None,
        band: float | None = None,
        flow_map: Kind = VelocityMap,
        seed: int = 42,
    ):
        super().__init__(network, width, depth, frequencies, band, flow_map, seed)
        self.data_set, self.path, self.columns, self.unit = source, path, columns, unit
        self.skip, self.fetch = skip, fetch

    @property
    def space(self) -> Torus:
        return Torus(len(self.state()["names"]))

    def load(self) -> PointSplits:
        return torsions(
            file_or(self.data_set, SOURCES), self.path, self.columns, self.unit, self.skip, self.fetch, self.seed
        )

    def shown(self, x: Tensor) -> Tensor:
        """Angles in degrees, from -180 to 180."""
        return x.double() * (180 / math.pi)

    def points(self, shown: Tensor) -> Tensor:
        return radians(shown)

    @property
    def kernels(self) -> dict[str, Kernel]:
        """That of all angles together, and that of angles taken one by one, which tables in print show."""
        return {**super().kernels, "mmd_per_angle": per_angle_kernel}

    def picture(self, path: Path, rows: Mapping[str, Tensor]) -> None:
        angle_panels(path, rows, self.state()["names"])
