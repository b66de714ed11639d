"""What tasks on curved spaces share: one set of objectives, samplers and metrics, whatever the space."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from ..data.points import PointSplits
from ..files import write_json
from ..likelihood import ProbabilityFlow
from ..maps import FewStep, FlowMap, VelocityMap
from ..metrics.manifolds import PAIRS, Kernel, geodesic_kernel, mmd
from ..networks import Network
from ..paths import GeodesicPath, Source
from ..reading import Document
from ..samplers import Sampler
from ..spaces import Manifold, Torus
from .aims import Aim, against
from .base import Kind, Study, fitted
from .of_points import OfPoints


class OnManifold(OfPoints):
    """Points of a curved space, by default modelled by the velocity of a perceptron.

    Arguments:
        network: What makes the network of the coordinates; by default a :class:`~flowmaps.networks.PointNetwork`.
        width, depth, frequencies, band: Settings of the network, where they are to differ from its own.
        flow_map: What the network predicts: a velocity.
        seed: Of the split.
    """

    files = (*OfPoints.files, "nll.json")
    teaching = {"names": [str]}

    def __init__(
        self,
        network: Callable[[int], Network] | None = None,
        width: int | None = None,
        depth: int | None = None,
        frequencies: int | None = None,
        band: float | None = None,
        flow_map: Kind = VelocityMap,
        seed: int = 42,
    ):
        super().__init__(network, width, depth, frequencies, band, flow_map, seed)

    @property
    @abstractmethod
    def space(self) -> Manifold:
        """Where the points live."""

    @property
    def start(self) -> Source | None:
        """Where flows start; the space's own random points by default."""
        return None

    def true_log_density(self, x: Tensor) -> Tensor | None:
        """The log-density of the data in the volume of the metric, where it is known."""
        return None

    @abstractmethod
    def points(self, shown: Tensor) -> Tensor:
        """The inverse of :meth:`shown`."""

    @property
    def kernels(self) -> dict[str, Kernel]:
        """The kernels of the discrepancies by name, the headline first."""
        return {"mmd": geodesic_kernel(self.space)}

    def learned(self, splits: PointSplits) -> Document:
        return {"names": splits.names}

    def made(self) -> Network:
        """The network of the coordinates."""
        more = {"periodic": True} if isinstance(self.space, Torus) else {}
        return fitted(self.network, self.space.dim, settings=self.sizes, **more)

    def build_map(self) -> FlowMap:
        return self.flow_map(GeodesicPath(self.space, self.start), self.made(), None, None)

    @cached_property
    def held_out(self) -> Tensor:
        """The points that samples are compared with."""
        return self.splits.test.original(PAIRS).double()

    def quality(self, samples: Tensor) -> dict[str, float]:
        """``mmd``, the root of the V-statistic with k = exp(-d²) against held-out points, at most 4,000 of each."""
        x = self.points(samples[:PAIRS].double().cpu())
        return {name: mmd(x, self.held_out, kernel) for name, kernel in self.kernels.items()}

    def aim(self) -> Aim:
        """The headline's discrepancy to validation points."""
        name, kernel = next(iter(self.kernels.items()))
        distance = lambda x, y: mmd(x, y, kernel)  # noqa: E731
        return against(name, distance, lambda x: self.points(x.double()), self.splits.valid.original(2000).double())

    def of_data(self, n: int | None = None) -> dict[str, float]:
        """The metrics of points for training: what as many exact points score."""
        return self.quality(self.real(n or self.samples))

    def real(self, n: int) -> Tensor:
        """At most ``n`` points for training, of which no neighbours are neighbours in the file."""
        train = self.splits.train
        order = torch.randperm(len(train), generator=torch.Generator().manual_seed(0))[:n]
        return self.shown(train.original(len(train))[order])

    @property
    def samples(self) -> int:
        return min(len(self.splits.test), PAIRS)

    def studies(self, nll: int = 0, jumps: int = 0) -> Mapping[str, Study]:
        """The likelihood of held-out points.

        Arguments:
            nll: Of how many, at most; 0 leaves it out. Nats per point in the volume of the metric, by the flow of the
                diagonal.
            jumps: Also by so many jumps of the map, each with its Jacobian, and how far the jumps back miss the points;
                0 leaves it out. On a torus.
        """
        if nll < 0 or jumps < 0:
            raise ValueError(f"nll is {nll} and jumps {jumps}, expected numbers of points and jumps, or 0 for none")

        def study(
            flow_map: FlowMap,
            rows: Mapping[str, Sampler],
            n: int,
            seed: int,
            data: Mapping[str, float],
            directory: Path,
        ) -> tuple[object, list[Path]]:
            found, exact = self.negative_log_likelihood(flow_map, nll)
            result = {"nats": float(found.mean()), "error": float(found.std() / len(found) ** 0.5), "n": len(found)}
            result |= {} if exact is None else {"exact": float(exact.mean())}
            result |= self._by_jumps(flow_map, nll, jumps) if jumps else {}
            write_json(directory / "nll.json", result)
            print(", ".join(f"{name} {value:.4g}" for name, value in result.items()))
            return result, [directory / "nll.json"]

        return {"nll": study} if nll else {}

    def _by_jumps(self, flow_map: FlowMap, most: int, jumps: int) -> dict[str, float]:
        """The likelihood of held-out points by the jumps themselves, with what it is worth."""
        x = self.splits.test.original(most).to(flow_map.device, flow_map.dtype)
        found = FewStep(flow_map, jumps).scored(x)  # pyright: ignore[reportArgumentType]  (it refuses other maps)
        return {
            "jumps_nats": -float(found.log_prob.mean()),
            "jumps_cycle": float(found.cycle.mean()),
            "jumps_folded": float(found.folded.float().mean()),
        }

    def negative_log_likelihood(self, flow_map: FlowMap, most: int) -> tuple[Tensor, Tensor | None]:
        """-log p of at most ``most`` held-out points ``(n,)``, and that of the true density where it is known."""
        x = self.splits.test.original(most)
        device = flow_map.device
        parts = [ProbabilityFlow()(flow_map, part.to(device, flow_map.dtype)).cpu() for part in x.split(1000)]
        true = self.true_log_density(x.double())
        return -torch.cat(parts).double(), None if true is None else -true


def file_or(source: str, known: Sequence[str]) -> str:
    """``source``, if it is one of the known data sets or there is such a file.

    Raises: ValueError naming the known ones otherwise.
    """
    if source not in known and not Path(source).expanduser().exists():
        raise ValueError(f"source is {source!r}, neither one of {', '.join(known)} nor a file")
    return source
