"""Grids that belong to a trained map: its jump times for a number of steps, and how far jumps overshoot."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..times import check_grid, grid
from .flow_map import Jumps, Renoise

NOISE = 0.5  # overshoot of stochastic steps where nobody chose one
DIGITS = 2  # decimals of a proposed time: finer ones cannot be told apart by a few thousand samples


class TimeGrid(NamedTuple):
    """The times of N jumps, η of their re-noising, and σ of the noise they start from.

    Arguments:
        times: ``0 = t_0 < ... < t_N = 1``.
        overshoot: η in [0, 1] of :class:`~flowmaps.samplers.Renoise`; 0 is plain :class:`~flowmaps.samplers.Jumps`.
        spread: σ in (0, 1] of both.

    >>> print(TimeGrid((0.0, 0.6, 0.75, 0.85, 1.0), 0.5, 0.9))
    0, .6, .75, .85, 1, overshoot .5, spread .9
    """

    times: tuple[float, ...]
    overshoot: float = 0.0
    spread: float = 1.0

    @classmethod
    def uniform(cls, steps: int, overshoot: float = 0.0) -> TimeGrid:
        """Equal steps: the grid of a map that was not tuned."""
        return cls(tuple(grid(steps).tolist()), overshoot)

    @classmethod
    def read(cls, text: str) -> TimeGrid:
        """Times between 0 and 1, and perhaps an overshoot and then a spread.

        Raises: ValueError if the text is not such a grid.

        >>> TimeGrid.read("0, .75, 1 : .5"), TimeGrid.read("0, 1 : 0 : .8").spread
        (TimeGrid(times=(0.0, 0.75, 1.0), overshoot=0.5, spread=1.0), 0.8)
        """
        times, *more = text.split(":")
        try:
            found = cls(tuple(map(float, times.split(","))), *map(float, more))
        except (ValueError, TypeError):
            raise ValueError(
                f"{text!r} is no grid; write its times and overshoot like 0,.75,1:.5, and a spread behind: 0,1:0:.8"
            ) from None
        found.sampler()
        return found

    @property
    def steps(self) -> int:
        """The number of jumps."""
        return len(self.times) - 1

    @property
    def name(self) -> str:
        """``1 step``, ``4 steps``."""
        return f"{self.steps} step{'s' * (self.steps > 1)}"

    def sampler(self) -> Jumps:
        """The jumps.

        Raises: ValueError if the times are no grid from 0 to 1, or the overshoot or spread is out of range.
        """
        times = check_grid(torch.tensor(self.times))
        sampler = Renoise(times, self.overshoot, self.spread) if self.overshoot else Jumps(times, self.spread)
        sampler.from_noise()
        return sampler

    def stochastic(self, overshoot: float | None = None) -> Renoise:
        """Jumps with noise on the way, by the overshoot given, else the grid's own, or half where it has none."""
        eta = self.overshoot or NOISE if overshoot is None else overshoot
        return Renoise(torch.tensor(self.times), eta, self.spread)

    def __str__(self) -> str:
        noise = f", overshoot {short(self.overshoot)}" if self.overshoot else ""
        start = f", spread {short(self.spread)}" if self.spread != 1 else ""
        return ", ".join(map(short, self.times)) + noise + start


def short(x: float) -> str:
    """A number in [0, 1] with at most four significant digits and no leading zero.

    >>> short(0.75), short(1.0), short(0.0)
    ('.75', '1', '0')
    """
    text = f"{x:.4g}"
    return text[1:] if text.startswith("0.") else text


def shapes(steps: int) -> Iterator[tuple[float, ...]]:
    r"""Grids that are worth a try, the uniform one first, each once.

    .. math:: t_i = (i/N)^p \qquad \text{and} \qquad t_0 = 0, \; t_i = a + (1-a)\,\frac{i-1}{N-1}

    Powers put times late (p < 1) or early; the second kind jumps to a at once, since the state is noise until then.
    """
    fractions = [i / steps for i in range(steps + 1)]
    powers = [[f**p for f in fractions] for p in (1, 0.7, 0.5, 0.35, 1.5, 2)]
    late = [[0, *(a + (1 - a) * i / max(steps - 1, 1) for i in range(steps))] for a in (0.3, 0.45, 0.6, 0.7, 0.8, 0.9)]
    yield from distinct([*powers, *late])


def distinct(times: Sequence[Sequence[float]]) -> Iterator[tuple[float, ...]]:
    """Grids with rounded inner times, each once; those whose times coincide when rounded are left out."""
    seen = set[tuple[float, ...]]()
    for one in times:
        uniform = all(math.isclose(t, i / (len(one) - 1), abs_tol=1e-9) for i, t in enumerate(one))
        exact = TimeGrid.uniform(len(one) - 1).times
        rounded = exact if uniform else (0.0, *(round(t, DIGITS) for t in one[1:-1]), 1.0)
        if rounded not in seen and all(a < b for a, b in zip(rounded, rounded[1:], strict=False)):
            seen.add(rounded)
            yield rounded


def neighbours(times: tuple[float, ...], distance: float) -> Iterator[tuple[float, ...]]:
    """Grids in which one inner time is moved down or up, at most halfway to the next."""
    for i in range(1, len(times) - 1):
        down, up = (times[i] - times[i - 1]) / 2, (times[i + 1] - times[i]) / 2
        for shift in (-min(distance, down), min(distance, up)):
            yield from distinct([[*times[:i], times[i] + shift, *times[i + 1 :]]])


def refined(times: tuple[float, ...]) -> tuple[float, ...]:
    """Twice as many steps: a time halfway between every two."""
    middles = [(a + b) / 2 for a, b in zip(times, times[1:], strict=False)]
    return tuple(sorted([*times, *middles]))


def cheapest(costs: Tensor, steps: int) -> list[int]:
    r"""The path of N jumps from the first point to the last that costs least, by dynamic programming.

    .. math:: C_1(j) = c_{0j}, \qquad C_k(j) = \min_i \, C_{k-1}(i) + c_{ij}

    Arguments:
        costs: Cost of the jump from point i to point j > i, ``(M + 1, M + 1)``; the rest is not read.
        steps: N, from 1 to M.
    Returns: the points, ``0 = i_0 < ... < i_N = M``.
    Raises: ValueError if there are fewer points than that.
    Invariant: no other path of N jumps costs less (``tests/samplers/test_grids.py`` tries all).
    Reference: Chen et al. 2024, *On the trajectory regularity of ODE-based diffusion sampling*, arXiv 2405.11326.
    """
    last = len(costs) - 1
    if not 1 <= steps <= last:
        raise ValueError(f"{steps} steps over {last} intervals; expected 1 to {last}")
    ahead = torch.ones_like(costs, dtype=torch.bool).triu(1)
    costs = torch.where(ahead, costs.double(), math.inf)
    total, before = costs[0], []
    for _ in range(steps - 1):
        total, source = (total.unsqueeze(1) + costs).min(0)
        before.append(source)
    path = [last]
    for source in reversed(before):
        path.append(int(source[path[-1]]))
    return [0, *reversed(path)]
