"""The angles φ and ψ of a peptide as a normalising flow: a density on the torus, exact and in one step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property

import torch
from torch import Tensor

from ..data import Dataset
from ..data.pairs import Pairs, read_pairs
from ..maps import Bijection, CircularNSF, Transport, VelocityMap
from ..paths import GeodesicPath
from ..samplers import Jumps, Sampler
from .aims import Aim
from .base import in_batches
from .torsions import Torsions


class Ramachandran(Torsions):
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
        super().__init__(source, path, columns, unit, skip, False, None, None, None, None, None, VelocityMap, seed)
        self.flow, self.paired = flow, paired

    def build_map(self) -> Bijection:  # pyright: ignore[reportIncompatibleMethodOverride]  (this task alone samples it)
        return self.flow(GeodesicPath(self.space), (self.space.dim,))

    @cached_property
    def _parts(self) -> tuple[Pairs, Pairs]:
        """Pairs to train on and to validate by, of these very data."""
        assert self.paired is not None
        found = read_pairs(self.paired).require((self.space.dim,), data=self.state()["data"]["train"])
        return found.parted(max(len(found) // 10, 1))

    @cached_property
    def train_data(self) -> Dataset:
        return super().train_data if self.paired is None else self._parts[0]

    @cached_property
    def valid_data(self) -> Dataset:
        return super().valid_data if self.paired is None else self._parts[1]

    def rows(self, steps: Sequence[int], ode: int | None = 128) -> dict[str, Sampler]:
        """One step: a bijection has no others."""
        return {"1": Jumps(1)}

    @torch.no_grad()
    def sample(
        self, flow_map: Transport, n: int, sampler: Sampler, generator: torch.Generator, batch: int = 10_000
    ) -> Tensor:
        """Angles in degrees, float64.

        Arguments:
            batch: Points at a time.
        Raises: ValueError if the sampler takes several steps.
        """
        if sampler.evaluations != 1:
            raise ValueError(f"a bijection samples in one step, not in {sampler.evaluations}; leave --steps out")
        path = flow_map.path
        noise = [flow_map.noise((len(rows),), generator) for rows in in_batches(n, batch)]
        return self.shown(torch.cat([flow_map.push(path.start(part)) for part in noise]))

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
