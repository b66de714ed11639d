"""Places on Earth: volcanic eruptions, earthquakes, floods and fires, or any table of latitudes and longitudes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from torch import Tensor

from ..data.earth import CATALOGUES, earth, latitudes, unit_vectors
from ..data.points import PointSplits
from ..maps import VelocityMap
from ..networks import Network
from ..pictures import globes
from ..spaces import Sphere
from .base import Kind
from .manifolds import OnManifold, file_or


class Earth(OnManifold):
    """Places as unit vectors.

    Arguments:
        source: ``earthquake``, ``volcano``, ``flood``, ``fire``, or a file with a place on each line.
        path: Folder of the catalogues.
        columns: Names or numbers of latitude and longitude in a file, such as ``lat,lon`` or ``3,4``.
        skip: Leave damaged rows out, with a warning that counts them, instead of refusing the file.
        fetch: Download a catalogue if it is missing.
        network, width, depth, frequencies, band, flow_map, seed: As in :class:`~flowmaps.tasks.manifolds.OnManifold`.
    """

    def __init__(
        self,
        source: str = "earthquake",
        path: str | None = None,
        columns: str | None = None,
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
        self.data_set, self.path, self.columns, self.skip, self.fetch = source, path, columns, skip, fetch

    @property
    def space(self) -> Sphere:
        return Sphere(3)

    def load(self) -> PointSplits:
        return earth(
            file_or(self.data_set, list(CATALOGUES)), self.path, self.columns, self.skip, self.fetch, self.seed
        )

    def shown(self, x: Tensor) -> Tensor:
        """Latitude and longitude in degrees ``(n, 2)``."""
        return latitudes(x)

    def points(self, shown: Tensor) -> Tensor:
        return unit_vectors(shown)

    def picture(self, path: Path, rows: Mapping[str, Tensor]) -> None:
        globes(path, rows)
