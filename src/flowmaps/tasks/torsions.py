"""Torsion angles: of RNA, of proteins, or any table of angles."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from ..data.points import PointSplits
from ..data.torsions import SOURCES, radians, torsions
from ..maps import VelocityMap
from ..metrics.manifolds import Kernel, per_angle_kernel
from ..networks import Network
from ..paths import WrappedNormal
from ..pictures import angle_panels
from ..reading import Document, expect
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
        start: Where flows start: ``uniform``, or ``data``, the wrapped normal of the training points. Angles that keep
            to a small part of the torus are nearer to the latter, and fewer steps reach them.
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
        start: str = "uniform",
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
        if start not in ("uniform", "data"):
            raise ValueError(f"start is {start!r}, expected uniform or data")
        self.from_data = start == "data"

    @property
    def space(self) -> Torus:
        return Torus(len(self.state()["names"]))

    @property
    def start(self) -> WrappedNormal | None:
        if not self.from_data:
            return None
        found = self.state()["start"]
        return WrappedNormal(found["mean"], found["deviation"])

    def learned(self, splits: PointSplits) -> Document:
        if not self.from_data:
            return super().learned(splits)
        source = WrappedNormal.around(Torus(len(splits.names)), splits.train.original(len(splits.train)))
        return {**super().learned(splits), "start": {"mean": source.mean.tolist(), "deviation": source.deviation}}

    def restore(self, state: Mapping[str, Any]) -> None:
        super().restore(state)
        if self.from_data:
            expect(state, {"start": {"mean": [float], "deviation": float}}, "state of config.json")
            if len(state["start"]["mean"]) != len(state["names"]):
                found, names = len(state["start"]["mean"]), len(state["names"])
                raise ValueError(f"state.start.mean of config.json has {found} angles, expected one of each of {names}")

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
