"""Points with real coordinates: known distributions of the plane, and tables of numbers of one's own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import astuple
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..data.points import Checkerboard, KnownDistribution, PointSplits, Units, drawn, table
from ..maps import FlowMap, VelocityMap
from ..metrics.points import PointQuality, histogram_kl
from ..metrics.text import Measure
from ..metrics.two_sample import energy_distance
from ..networks import Network
from ..paths import GeodesicPath
from ..pictures import point_panels
from ..reading import Document
from ..spaces import Euclidean
from .aims import Aim, against
from .base import Kind, fitted
from .of_points import OfPoints

FRESH = 2**30  # seed of the exact points that stand beside a table


class Points(OfPoints):
    """Points as states of a Euclidean space, by default modelled by the velocity of a perceptron.

    Arguments:
        distribution: A known one; the checkerboard by default.
        path: A file of numbers, one point a line, instead of it.
        size, held_out: Points of a known distribution for training, and each to validate and to test.
        network: What makes the network of d coordinates; by default a :class:`~flowmaps.networks.PointNetwork`.
        width, depth, frequencies, band: Settings of the network, where they are to differ from its own.
        flow_map: What the network predicts: a velocity.
        seed: Of the points that are drawn, or of the split of a file.
    """

    teaching = {"names": [str], "mean": [float], "deviation": [float]}

    def __init__(
        self,
        distribution: KnownDistribution | None = None,
        path: str | None = None,
        size: int = 2**20,
        held_out: int = 10_000,
        network: Callable[[int], Network] | None = None,
        width: int | None = None,
        depth: int | None = None,
        frequencies: int | None = None,
        band: float | None = None,
        flow_map: Kind = VelocityMap,
        seed: int = 0,
    ):
        super().__init__(network, width, depth, frequencies, band, flow_map, seed)
        self.distribution, self.path = distribution or Checkerboard(), path
        self.size, self.held_out = size, held_out

    @classmethod
    def own_data(cls, path: str) -> dict[str, str]:
        return {"path": path}

    def load(self) -> PointSplits:
        if self.path is not None:
            return table(self.path, self.seed)
        return drawn(self.distribution, self.size, self.held_out, self.seed)

    def learned(self, splits: PointSplits) -> Document:
        return {"names": splits.names, "mean": splits.units.mean, "deviation": splits.units.deviation}

    def restore(self, state: Mapping[str, Any]) -> None:
        super().restore(state)
        if len({len(state[name]) for name in self.teaching}) > 1:
            sizes = ", ".join(f"{len(state[name])} of {name}" for name in self.teaching)
            raise ValueError(f"state of config.json has {sizes}, expected one of each for every coordinate")

    @property
    def units(self) -> Units:
        """What the coordinates are measured in."""
        return Units(self.state()["mean"], self.state()["deviation"])

    def build_map(self) -> FlowMap:
        d = len(self.state()["names"])
        return self.flow_map(GeodesicPath(Euclidean(d)), fitted(self.network, d, settings=self.sizes), None, None)

    def shown(self, x: Tensor) -> Tensor:
        """Points ``(n, d)`` in their own units."""
        return self.units.original(x)

    @cached_property
    def judge(self) -> PointQuality:
        """The metrics, against the known distribution and held-out points."""
        return PointQuality(self.splits.test.original(self.held_out), self.splits.known)

    def quality(self, samples: Tensor) -> dict[str, float]:
        """The metrics of :class:`~flowmaps.metrics.points.PointQuality`."""
        return self.judge(samples)

    def aim(self) -> Aim:
        """KL of the distribution where it is known, else the energy distance to validation points."""
        if (known := self.splits.known) is not None:
            return Aim("kl", lambda x: Measure(*astuple(histogram_kl(x.cpu(), known))), n=50_000)
        valid = self.splits.valid.original(2000).double()
        deviation = valid.std(0, correction=0)
        scaled = lambda x: x.double() / torch.where(deviation > 0, deviation, 1.0)  # noqa: E731
        return against("energy", energy_distance, scaled, scaled(valid))

    def of_data(self, n: int | None = None) -> dict[str, float]:
        """The metrics of exact points, or of points for training where the distribution is not known."""
        return self.judge(self.real(n or self.samples))

    def real(self, n: int) -> Tensor:
        """At most ``n`` real points that the metrics do not compare with."""
        known = self.splits.known
        return self.splits.train.original(n) if known is None else known.sample(n, FRESH)

    @property
    def samples(self) -> int:
        return 100_000 if self.path is None else len(self.splits.test)

    def picture(self, path: Path, rows: Mapping[str, Tensor]) -> None:
        point_panels(path, rows, self.state()["names"])
