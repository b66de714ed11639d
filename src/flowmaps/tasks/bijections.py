"""What tasks whose map is a bijection have in common: one step, and pairs that RegFlow trains on."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from functools import cached_property
from typing import Any

from ..data import Dataset
from ..data.pairs import Pairs, read_pairs
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
        """Pairs to train on and to validate by, of these very data."""
        assert self.paired is not None
        found = read_pairs(self.paired).require((self.dim,), data=self.state()["data"]["train"])
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

    @staticmethod
    def require_one_step(sampler: Sampler) -> None:
        """Refuse several steps.

        Raises: ValueError with their number.
        """
        if sampler.evaluations != 1:
            raise ValueError(f"a bijection samples in one step, not in {sampler.evaluations}; leave --steps out")
