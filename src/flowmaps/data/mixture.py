"""Several sources of data as one, each with its share of what a map sees."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import torch
from torch import Tensor

from ..fields import Batch, Condition, cat, select, take
from .base import Dataset, Identified, fingerprint


class Mixture:
    r"""Data sets that come in given shares, which are the same in every epoch and for every number of processes.

    .. math:: N = \max_j \lceil n_j / w_j \rceil, \qquad N_j = \max(n_j, [w_j N]), \qquad
              \text{row } i \text{ of source } j = i \bmod n_j, \quad 0 \le i < N_j

    An epoch is as long as the source with the most data for its share needs to be seen once; the others are repeated.
    So no row is left out, and a row of source j comes either :math:`\lfloor N_j / n_j \rfloor` times or once more.

    Arguments:
        sources: Data of one kind: the same fields, and the same parts in their conditions.
        weights: Their shares, positive, in any unit.
    Raises: ValueError if there is no source, or a share is missing or not positive.
    Invariant: the order of rows comes from outside, so a run resumes exactly; shares are exact up to one row.
    """

    def __init__(self, sources: Sequence[Dataset], weights: Sequence[float]):
        if not sources or len(sources) != len(weights) or min(weights) <= 0:
            raise ValueError(f"{len(sources)} sources and shares {list(weights)}: expected one positive share for each")
        self.sources = list(sources)
        shares = [weight / sum(weights) for weight in weights]
        whole = max(-(-len(data) // share) for data, share in zip(sources, shares, strict=True))
        self.counts = [max(len(data), round(share * whole)) for data, share in zip(sources, shares, strict=True)]
        self._ends = torch.tensor(list(accumulate(self.counts)))

    def __len__(self) -> int:
        return int(self._ends[-1])

    def batch(self, index: Tensor) -> Batch:
        """Rows ``index``, int64 ``(B,)``, those of all sources in the order that is asked for."""
        owner = torch.searchsorted(self._ends, index, right=True)
        places, batches = [], []
        for j, data in enumerate(self.sources):
            if len(place := (owner == j).nonzero().flatten()):
                first = int(self._ends[j]) - self.counts[j]
                places.append(place)
                batches.append(data.batch((index[place] - first) % len(data)))
        back = torch.cat(places).argsort()
        x_1 = cat([batch.x_1 for batch in batches])
        conditions = Condition(*(_joined(parts) for parts in zip(*(b.condition for b in batches), strict=True)))
        return Batch(take(x_1, back), select(conditions, back))

    def fingerprint(self) -> str:
        """Of the sources and how often each comes."""
        prints = [data.fingerprint() if isinstance(data, Identified) else len(data) for data in self.sources]
        return fingerprint(prints, self.counts)


def _joined(parts: Sequence):  # noqa: ANN202  (data of a condition, or nothing)
    if all(part is None for part in parts):
        return None
    if any(part is None for part in parts):
        raise ValueError("sources of a mixture differ in their conditions; give all of them masks and labels, or none")
    return cat(parts)
