"""Points of the hyperbolic plane, in the disc of Poincaré."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from torch import Tensor

from ..data.curved import hyperbolic, pair_log_density
from ..data.points import PointSplits
from ..maps import VelocityMap
from ..networks import InMetric, Network
from ..paths import WrappedNormal
from ..pictures import discs
from ..spaces import PoincareBall
from .base import Kind
from .manifolds import OnManifold, file_or

CENTRE, DEVIATION = (-0.6, -0.6), 0.7  # of the source


class Hyperbolic(OnManifold):
    """Points of the open unit disc; flows start from the wrapped normal around (-.6, -.6) with deviation .7.

    Arguments:
        source: ``pair``, two wrapped normals, or a file with two coordinates on each line.
        columns: Their names or numbers in a file.
        skip: Leave damaged rows out, with a warning that counts them, instead of refusing the file.
        network, width, depth, frequencies, band, flow_map, seed: As in :class:`~flowmaps.tasks.manifolds.OnManifold`.
    """

    def __init__(
        self,
        source: str = "pair",
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
    def space(self) -> PoincareBall:
        return PoincareBall(2)

    def made(self) -> Network:
        return InMetric(self.space, super().made())

    @property
    def start(self) -> WrappedNormal:
        return WrappedNormal(CENTRE, DEVIATION)

    def load(self) -> PointSplits:
        return hyperbolic(file_or(self.data_set, ("pair",)), self.columns, self.skip, self.seed)

    def true_log_density(self, x: Tensor) -> Tensor | None:
        return pair_log_density(x) if self.data_set == "pair" else None

    def shown(self, x: Tensor) -> Tensor:
        """Coordinates of the disc ``(n, 2)``."""
        return x.double()

    def points(self, shown: Tensor) -> Tensor:
        return shown

    def picture(self, path: Path, rows: Mapping[str, Tensor]) -> None:
        discs(path, rows)
