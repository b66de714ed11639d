"""The angles φ and ψ of a peptide as a normalising flow: a density on the torus, exact and in one step."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ..data.torsions import angles, radians
from ..maps import Bijection, CircularNSF, Transport
from ..paths import GeodesicPath
from ..samplers import Sampler
from ..spaces.torus import wrapped
from .aims import Aim
from .base import in_batches
from .bijections import OfBijection
from .torsions import Torsions


class Ramachandran(OfBijection, Torsions):
    """Angles by a bijection of the torus, whose likelihood is exact.

    Arguments:
        source: ``alanine`` (alanine dipeptide), ``rna``, ``protein``, or a file of angles.
        path, columns, unit, skip, seed: As in :class:`~flowmaps.tasks.torsions.Torsions`.
        flow: What makes the bijection, from a path and the shape of one state.
        paired: Folder of pairs that ``flowmaps pairs`` made, on which :class:`~flowmaps.objectives.RegFlow` trains.
    """

    drawn = 5000

    def __init__(
        self,
        source: str = "alanine",
        path: str | None = None,
        columns: str | None = None,
        unit: str = "degrees",
        skip: bool = False,
        flow: Callable[[GeodesicPath, Sequence[int]], Bijection] = CircularNSF,
        paired: str | None = None,
        seed: int = 42,
    ):
        super().__init__(source, path, columns, unit, skip, seed=seed)
        self.flow, self.paired = flow, paired

    @property
    def dim(self) -> int:
        return self.space.dim

    def build_map(self) -> Bijection:  # pyright: ignore[reportIncompatibleMethodOverride]  (this task alone samples it)
        return self.flow(GeodesicPath(self.space), (self.dim,))

    @torch.no_grad()
    def sample(
        self, flow_map: Transport, n: int, sampler: Sampler, generator: torch.Generator, batch: int = 10_000
    ) -> Tensor:
        """Angles in degrees, float64.

        Arguments:
            batch: Points at a time.
        Raises: ValueError if the sampler takes several steps.
        """
        self.require_one_step(sampler)
        path = flow_map.path
        noise = [flow_map.noise((len(rows),), generator) for rows in in_batches(n, batch)]
        return self.shown(torch.cat([flow_map.push(path.start(part)) for part in noise]))

    def read_states(self, path: str, n: int | None) -> Tensor:
        """Angles of a file as those of training, in its unit: columns by name where the file names them."""
        found = angles(path, self.columns, self.skip, self.state()["names"])
        x = torch.from_numpy(found.numbers[:n])
        if x.shape[1] != self.dim:
            names = self.state()["names"]
            raise ValueError(f"{path} has {x.shape[1]} columns of angles, expected {self.dim}: {', '.join(names)}")
        return (radians(x) if self.unit == "degrees" else wrapped(x)).float()

    def aim(self) -> Aim:
        raise ValueError("a bijection samples in one step, so that there is no grid to choose")

    @torch.no_grad()
    def negative_log_likelihood(self, flow_map: Transport, most: int) -> tuple[Tensor, None]:
        """-log p of at most ``most`` held-out points ``(n,)``, exact."""
        assert isinstance(flow_map, Bijection)
        x = self.splits.test.original(most)
        device = flow_map.device
        parts = [flow_map.log_prob(part.to(device, flow_map.dtype)).cpu() for part in x.split(10_000)]
        return -torch.cat(parts).double(), None
