"""What tasks of points with real coordinates share, whatever their space: the network, sampling, and files."""

from __future__ import annotations

import csv
import warnings
from abc import abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from ..data.points import PointSplits
from ..files import replacing
from ..maps import FlowMap
from ..networks import Network, PointNetwork
from ..pictures import heading
from ..samplers import Sampler, generate
from ..seeds import check_seed
from .base import ChangedData, Kind, Task, in_batches


class OfPoints(Task[PointSplits, Tensor]):
    """Points, whose network makes predictions of their coordinates.

    Arguments:
        network: What makes the network of the coordinates; by default a :class:`~flowmaps.networks.PointNetwork`.
        width, depth, frequencies, band: Settings of the network, where they are to differ from its own.
        flow_map: What the network predicts.
        seed: Of what is drawn or split.
    """

    kinds = (".png", ".csv")
    files = ("samples.*", "samples-*.csv")

    def __init__(
        self,
        network: Callable[[int], Network] | None,
        width: int | None,
        depth: int | None,
        frequencies: int | None,
        band: float | None,
        flow_map: Kind,
        seed: int,
    ):
        self.network, self.flow_map, self.seed = network or PointNetwork, flow_map, check_seed(seed, bits=32)
        self.sizes = {"width": width, "depth": depth, "frequencies": frequencies, "band": band}

    @abstractmethod
    def shown(self, x: Tensor) -> Tensor:
        """Points as their files and users have them, float64."""

    @abstractmethod
    def real(self, n: int) -> Tensor:
        """At most ``n`` real points, as they are shown, that the metrics do not compare with."""

    @abstractmethod
    def picture(self, path: Path, rows: Mapping[str, Tensor]) -> None:
        """Draw what is shown, one panel or line of panels a row."""

    def sample(
        self, flow_map: FlowMap, n: int, sampler: Sampler, generator: torch.Generator, batch: int = 10_000
    ) -> Tensor:
        """Points as their files have them, float64.

        Arguments:
            batch: Points at a time.
        """
        parts = [generate(flow_map, sampler, (len(rows),), generator) for rows in in_batches(n, batch)]
        return self.shown(torch.cat(parts))

    def write(self, rows: Mapping[str, Tensor], directory: Path, **options: object) -> list[Path]:
        """``samples-ROW.csv`` with the points of each row, and ``samples.png`` with real ones beside, if any."""
        tables = []
        for name, x in rows.items():
            tables.append(directory / f"samples-{name.replace(' ', '-')}.csv")
            with replacing(tables[-1]) as temporary, open(temporary, "w", encoding="utf-8", newline="") as file:
                csv.writer(file, lineterminator="\n").writerows([self.state()["names"], *x.tolist()])
        picture = directory / "samples.png"
        named = {heading(name): x for name, x in rows.items()}
        self.picture(picture, {**named, **self._beside(max(map(len, rows.values())))})
        return [picture, *tables]

    def _beside(self, n: int) -> dict[str, Tensor]:
        try:
            return {"real": self.real(n)}
        except ChangedData as error:
            warnings.warn(f"real points are left out: {error}", stacklevel=3)
        except (OSError, ValueError):
            pass  # sampling needs no data
        return {}
