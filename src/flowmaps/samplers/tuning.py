"""Which grid suits a trained map: jumps compared with a fine path of the same map, and search by any measure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import cache

import torch
from torch import Tensor

from ..evaluation import Readouts, total
from ..fields import FREE, Condition, S, cat, first_leaf, parts, select, take
from ..maps import FlowMap
from ..paths import Gaussian
from .flow_map import Jumps
from .grids import TimeGrid, cheapest, distinct, neighbours, shapes

NUMBERS = 2**25  # of states that are kept at one time
OVERSHOOTS = (0.0, 0.25, 0.5, 0.75, 1.0)
SPREADS = (1.0, 0.9, 0.8, 0.7, 0.6)
FEW, MOVES = 4, 2  # steps up to which single times are moved, and how often

Measure = Callable[[TimeGrid, float], float]  # of a grid, over a share of the samples; less is better


class JumpCosts(Jumps):
    r"""Walks a fine path, and measures on the way how far every jump between two of its times ends from it.

    .. math:: c_{ij} = \sqrt{E\, d(X_{t_i,t_j}(x_{t_i}), x_{t_j})^2}, \qquad
              x_{t_{i+1}} = X_{t_i + h_i, t_{i+1}} \circ \dots \circ X_{t_i, t_i + h_i / r}(x_{t_i})

    A sampler like others, so that every modality draws its own noise and conditions for it; ``costs`` is the mean over
    all it was called with. Distances are root mean squares, because those of successive jumps add up to a bound on the
    distance at the end, wherever later jumps bring states no further apart. What does not exist or is known has none.

    Arguments:
        times: The grid whose times are compared, or its number of equal steps.
        refine: Jumps of the fine path in each interval, r.
        numbers: Numbers of states in memory at one time; larger batches are worked off in parts.
    Reference: Chen et al. 2024, *On the trajectory regularity of ODE-based diffusion sampling*, arXiv 2405.11326.
    """

    def __init__(self, times: int | Tensor, refine: int = 2, numbers: int = NUMBERS):
        super().__init__(times)
        if refine < 1:
            raise ValueError(f"refine is {refine}, expected at least 1 jump of the fine path in each interval")
        self.refine, self.numbers = refine, numbers
        self.squares = torch.zeros(len(self.times), len(self.times), dtype=torch.float64)
        self.seen = 0

    @property
    def costs(self) -> Tensor:
        """c, ``(M + 1, M + 1)`` float64, 0 where j <= i."""
        return (self.squares / max(self.seen, 1)).sqrt()

    @property
    def evaluations(self) -> int:
        """Network evaluations for each state."""
        intervals = len(self.times) - 1
        return intervals * self.refine + intervals * (intervals + 1) // 2 + 1

    def __call__(
        self, flow_map: FlowMap[S], x: S, condition: Condition = FREE, generator: torch.Generator | None = None
    ) -> Readouts:
        n = len(first_leaf(x))
        one = sum(leaf[0].numel() for leaf in parts(x))
        size = max(1, self.numbers // (one * len(self.times)))
        rows = [slice(start, start + size) for start in range(0, n, size)]
        before_last = cat([self._walk(flow_map, take(x, part), select(condition, part)) for part in rows])
        return self.final(flow_map, before_last, self._at(before_last, self.times[-2]), condition)

    def _walk(self, flow_map: FlowMap[S], x: S, condition: Condition) -> S:
        """Add the squared distances of some states; their last state before 1."""
        path = [x]
        for i in range(len(self.times) - 1):
            inner = torch.linspace(float(self.times[i]), float(self.times[i + 1]), self.refine + 1)
            for s, t in zip(inner[:-1], inner[1:], strict=True):
                x = flow_map(x, self._at(x, s), self._at(x, t), condition)
            path.append(x)
        for i, start in enumerate(path[:-1]):
            for j in range(i + 1, len(path)):
                end = flow_map(start, self._at(x, self.times[i]), self._at(x, self.times[j]), condition)
                away = flow_map.space.log(path[j], end)
                squared = flow_map.space.once(flow_map.space.inner(path[j], away, away))
                self.squares[i, j] += float(total(squared, condition).double().sum())
        self.seen += len(first_leaf(x))
        return path[-2]

    @staticmethod
    def _at(x: S, t: Tensor) -> Tensor:
        leaf = first_leaf(x)
        return leaf.new_full(leaf.shape[:1], float(t))


def proposed(costs: Tensor, times: Tensor, steps: int) -> TimeGrid:
    """The grid of N plain jumps that costs least, its inner times rounded; see :func:`~.grids.cheapest`."""
    chosen = [float(times[i]) for i in cheapest(costs, steps)]
    return TimeGrid(next(distinct([chosen]), tuple(chosen)))


def price(costs: Tensor, times: Tensor, one: TimeGrid) -> float:
    """The cost of the jumps of a grid whose times are all among ``times``, nearest ones taken."""
    at = [int((times - t).abs().argmin()) for t in one.times]
    return float(sum(costs[i, j] for i, j in zip(at, at[1:], strict=False)))


def noises(flow_map: FlowMap, steps: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """The overshoots and spreads that may be tried: both need the Gaussian source, one jump has no overshoot."""
    if type(flow_map.path.source) is not Gaussian:
        return (0.0,), (1.0,)
    return OVERSHOOTS if steps > 1 else (0.0,), SPREADS


def search(
    steps: int,
    measure: Measure,
    proposals: Iterable[Sequence[float]] = (),
    etas: Sequence[float] = OVERSHOOTS,
    spreads: Sequence[float] = (1.0,),
) -> list[TimeGrid]:
    """Grids in order of a measure over all samples, the best first; what is tried first is tried on few of them.

    Shapes (:func:`~.grids.shapes` and the proposals) meet at the middle overshoot over a quarter of the samples; then
    the best three of them and the equal steps at every overshoot, over a quarter too; then the best six over half. For
    few steps inner times of the best one are moved, as long as that helps; then it tries every spread of the noise. The
    best three, and the best of spread 1, meet over all samples.

    Arguments:
        steps: N. One jump has its spread to choose.
        measure: Less is better; to be comparable, the same noise for every grid.
        proposals: Times of further grids to try.
        etas: Overshoots to try.
        spreads: Deviations of the first noise to try, the best grid of deviation 1 with each.
    """
    value = cache(measure)

    def best(some: Iterable[TimeGrid], share: float) -> list[TimeGrid]:
        return sorted(dict.fromkeys(some), key=lambda one: value(one, share))

    middle = etas[len(etas) // 2]
    forms = list(distinct([*shapes(steps), *proposals]))
    first = best((TimeGrid(times, middle) for times in forms), 0.25)
    kept = dict.fromkeys([*(one.times for one in first[:3]), forms[0]])
    second = best((TimeGrid(times, eta) for times in kept for eta in etas), 0.25)
    third = best(second[:6], 0.5)
    for _ in range(MOVES if steps <= FEW else 0):
        before = third[0]
        moved = [TimeGrid(times, before.overshoot) for times in neighbours(before.times, 0.05)]
        third = best([*third, *moved], 0.5)
        if third[0] == before:
            break
    third = best([*third, *(third[0]._replace(spread=spread) for spread in spreads)], 0.5)
    return best([*third[:3], next(one for one in third if one.spread == 1)], 1.0)
