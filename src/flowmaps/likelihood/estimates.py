"""What bounds come to over data: a mean with its standard error."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ..evaluation import total
from ..fields import Batch
from ..maps import EndpointMap
from .bounds import Bound


class Moments:
    """Sums of values v and sizes p of examples, all that an :class:`Estimate` needs, in memory that does not grow."""

    def __init__(self) -> None:
        self.n, self.v, self.p, self.vv, self.vp, self.pp = 0, 0.0, 0.0, 0.0, 0.0, 0.0

    def add(self, value: float, size: float) -> None:
        """One more example."""
        self.n += 1
        self.v, self.p = self.v + value, self.p + size
        self.vv, self.vp, self.pp = self.vv + value**2, self.vp + value * size, self.pp + size**2


@dataclass(frozen=True)
class Estimate:
    """A bound on the mean of -log p in nats per example, with its standard error.

    Arguments:
        nats: Mean over the examples.
        error: Standard error, over examples and Monte Carlo draws together.
        n: Number of examples.
        positions: Mean number of positions that were scored.
        rate_error: Standard error of ``nats / positions``, a ratio of two means: longer examples cost more, so it is
            not ``error / positions`` where lengths vary.
        uniform: What a uniform distribution over the categories has instead of ``nats``.
    """

    nats: float
    error: float
    n: int
    positions: float
    rate_error: float
    uniform: float = math.inf

    @classmethod
    def of(cls, nats: Tensor, positions: Tensor, uniform: float = math.inf) -> Estimate:
        """From nats and positions of each example, ``(n,)``."""
        moments = Moments()
        for value, size in zip(nats.tolist(), positions.tolist(), strict=True):
            moments.add(value, size)
        return cls.of_moments(moments, uniform)

    @classmethod
    def of_moments(cls, m: Moments, uniform: float = math.inf) -> Estimate:
        r"""From the sums over two examples or more.

        .. math:: \mathrm{Var}\Big(\frac{\bar v}{\bar p}\Big) \approx
                  \frac{1}{n\,\bar p^2}\, \mathrm{Var}\Big(v - \frac{\bar v}{\bar p}\, p\Big)
        """
        mean, length, rate = m.v / m.n, m.p / m.n, m.v / m.p
        spread = max(m.vv - m.n * mean**2, 0.0)
        around = max(m.vv - 2 * rate * m.vp + rate**2 * m.pp, 0.0)
        error, rate_error = (math.sqrt(x / (m.n - 1) / m.n) for x in (spread, around))
        return cls(mean, error, m.n, length, rate_error / length, uniform)

    @property
    def bits_per_position(self) -> float:
        return self.nats / self.positions / math.log(2)

    @property
    def bits_error(self) -> float:
        return self.rate_error / math.log(2)

    @property
    def perplexity(self) -> float:
        nats = self.nats / self.positions
        return math.exp(nats) if nats < 700 else math.inf

    @property
    def perplexity_error(self) -> float:
        return self.perplexity * self.rate_error

    @property
    def vacuous(self) -> bool:
        """Whether the bound says no more than that there are categories: it is no better than uniform."""
        return self.nats >= self.uniform


class OwnScore(NamedTuple):
    """What each example costs by a map that needs no bounds of flow maps: its density is exact, or has its own bound.

    Arguments:
        name: How it is known: ``exact``, or the draws of a bound.
        nats: -log p, float64 ``(n,)``.
        positions: Numbers of one example, over which the nats are spread.
        uniform: What a uniform distribution has instead, where examples are of categories.
        columns: Further numbers of each example, ``(n,)``, by name.
    """

    name: str
    nats: Tensor
    positions: int
    uniform: float = math.inf
    columns: Mapping[str, Tensor] = {}

    def estimate(self) -> Estimate:
        """The mean with its standard error over examples.

        Raises: ValueError if there are not two examples.
        """
        if len(self.nats) < 2:
            raise ValueError(f"there is {len(self.nats)} row to score, expected two at least for an error")
        return Estimate.of(self.nats, torch.full_like(self.nats, self.positions), self.uniform)


def score(flow_map: EndpointMap, batches: Iterable[Batch], bound: Bound, generator: torch.Generator) -> Estimate:
    """The mean bound over data, with its standard error; streams over ``batches``."""
    values, positions, uniform = [], [], []
    for batch in batches:
        flow_map.space.check(batch.x_1)
        values.append(bound(flow_map, batch, generator).cpu())
        ones = flow_map.space.each(lambda space, x: torch.ones(x.shape, device=x.device), batch.x_1)
        positions.append(total(flow_map.space.once(ones), batch.condition).double().cpu())
        even = flow_map.space.each(lambda space, one: one * math.log(space.K), ones)
        uniform.append(total(flow_map.space.once(even), batch.condition).double().cpu())
    if not values or sum(len(v) for v in values) < 2:
        raise ValueError("a score needs at least two examples for its error bar")
    return Estimate.of(torch.cat(values), torch.cat(positions), float(torch.cat(uniform).mean()))
