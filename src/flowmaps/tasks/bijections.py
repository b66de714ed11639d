"""What tasks whose map is a bijection have in common: one step, and pairs that RegFlow trains on."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from ..data import Dataset
from ..data.conformations import evenly
from ..data.pairs import Pairs, read_pairs
from ..fields import one_field
from ..likelihood import Bound, OwnScore
from ..maps import Bijection, Transport
from ..samplers import Jumps, Sampler
from .base import Task


class OfBijection(Task[Any, Any, Any]):
    """A task whose map is a bijection; it stands before the base that reads the data.

    Arguments:
        paired: Folder of pairs that ``flowmaps pairs`` made, on which :class:`~flowmaps.objectives.RegFlow` trains.
    """

    paired: str | None

    @property
    @abstractmethod
    def dim(self) -> int:
        """Coordinates of a state."""

    @cached_property
    def _parts(self) -> tuple[Pairs, Pairs]:
        """Pairs to train on and to validate by, of these very data and from the noise of a bijection."""
        assert self.paired is not None
        found = read_pairs(self.paired).require((self.dim,), data=self.state()["data"]["train"])
        if source := found.origin.get("source"):
            raise ValueError(
                f"the pairs start from a {source}, a bijection from random points of the space; make pairs of a map "
                "that does, too (of angles: --task.start uniform)"
            )
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

    @abstractmethod
    def read_states(self, path: str, n: int | None) -> Tensor:
        """States ``(n, dim)`` of at most ``n`` rows of a file of one's own data.

        Raises: ValueError if it holds none of these.
        """

    @torch.no_grad()
    def own_likelihood(
        self,
        flow_map: Transport[Tensor],
        generator: torch.Generator,
        bound: Bound | None,
        n: int | None,
        path: str | None = None,
    ) -> OwnScore:
        """The exact -log p of each row: of held-out data, at equal distances, or of a file."""
        if bound is not None:
            raise ValueError(f"{type(bound).__name__} bounds flow maps; a bijection is exact, leave --bound out")
        assert isinstance(flow_map, Bijection)
        y = self.read_states(path, n) if path else self._held_out(n)
        parts = [flow_map.log_prob(part.to(flow_map.device, flow_map.dtype)).cpu() for part in y.split(2000)]
        log_p = torch.cat(parts).double()
        return OwnScore("exact", -log_p, self.dim, columns=self.columns_of(y, log_p))

    def _held_out(self, n: int | None) -> Tensor:
        data = self.test_data
        return one_field(data.batch(evenly(torch.arange(len(data)), n or len(data))).x_1)

    def columns_of(self, y: Tensor, log_p: Tensor) -> Mapping[str, Tensor]:
        """What else is known of states ``(n, dim)`` with log-densities ``(n,)``, by name."""
        return {}

    @staticmethod
    def require_one_step(sampler: Sampler) -> None:
        """Refuse several steps.

        Raises: ValueError with their number.
        """
        if sampler.evaluations != 1:
            raise ValueError(f"a bijection samples in one step, not in {sampler.evaluations}; leave --steps out")
