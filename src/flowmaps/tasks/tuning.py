"""Finding the grid of a trained map: the map's own path proposes, the modality's aim decides, fresh noise confirms."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from functools import cached_property
from typing import Literal, NamedTuple

import torch

from ..fields import Data, take
from ..maps import FlowMap
from ..metrics.text import Measure, mean
from ..samplers import Sampler
from ..samplers.grids import TimeGrid, refined
from ..samplers.tuning import JumpCosts, noises, price, proposed, search
from ..seeds import check_seed
from ..train import Tuned
from ..train.state import versions
from .aims import Aim
from .base import Task

By = Literal["both", "metric", "path"]
PATHS = 64  # states whose path is followed: a cost is a mean over all their positions
POINTS = 20  # intervals of the path, or twice the steps where those are more
PARTS = 4  # independent ones, whose spread is the error of a cost
GROUPS = 8  # of samples, whose spread is the error of a difference


def stream(seed: int, purpose: str) -> int:
    """A seed of noise that no sampling of this package draws from.

    Bit 63 is set, which :func:`~flowmaps.seeds.check_seed` lets no user's seed have, and bit 31, for a generator on a
    CPU looks at the lower 32 alone: there it differs from every seed below 2^31.

    >>> stream(0, "search") >> 63, stream(0, "search") >> 31 & 1, stream(0, "search") == stream(1, "search")
    (1, 1, False)
    """
    digest = hashlib.blake2b(f"grid {check_seed(seed)} {purpose}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") | 2**63 | 2**31


class Progress(NamedTuple):
    """What a tuning has just measured.

    Arguments:
        grid: The grid; ``None`` for the costs of all jumps.
        samples: How many it was measured on.
        value: The number, as the aim has it.
        whole: Whether these were all samples.
    """

    grid: TimeGrid | None
    samples: int
    value: float
    whole: bool = True


class Tuner:
    """Grids for a map, one number of steps after the other.

    Arguments:
        task: The modality.
        flow_map: In evaluation mode.
        by: ``path`` compares jumps with a fine path of the same map (plain jumps only), ``metric`` searches by the
            task's aim, ``both`` searches from what the path proposes as well.
        n: Samples that candidates are compared on; by default what the aim asks for.
        seed: Of the noise, see :func:`stream`: nothing that is reported elsewhere is drawn from it.
        told: Called with each measurement.
    Raises: ValueError if the task has no aim and ``by`` asks for one.
    """

    def __init__(
        self,
        task: Task,
        flow_map: FlowMap,
        by: By = "both",
        n: int | None = None,
        seed: int = 0,
        told: Callable[[Progress], None] = lambda _: None,
    ):
        self.task, self.flow_map, self.by, self.seed, self.told = task, flow_map, by, seed, told
        self.aim: Aim | None = None if by == "path" else task.aim()
        self.n = n or (PARTS * PATHS if self.aim is None else self.aim.n)
        self.device = flow_map.device
        self._before: dict[int, TimeGrid] = {}

    @torch.no_grad()
    def __call__(self, steps: int, proposal: TimeGrid | None = None) -> Tuned:
        """The grid of N jumps, with its record.

        Arguments:
            proposal: The one candidate that is compared with equal steps, instead of a search.
        Raises: ValueError if there is a proposal and no aim to judge it by.
        """
        if self.aim is None:
            if proposal is not None:
                raise ValueError("a proposed grid is judged by the task's metric; leave out --by path")
            found = self._by_path(steps)
        elif proposal is not None:
            found = self._decided(self.aim, -1 if self.aim.rises else 1, steps, [proposal])
        else:
            found = self._by_aim(self.aim, steps)
        self._before[steps] = found.grid
        return found

    # -- by the path -----------------------------------------------------------------------------------------------

    def costs(self, steps: int) -> JumpCosts:
        """The costs of all jumps between equally spaced times, enough of them for N steps."""
        points = POINTS * -(-2 * steps // POINTS)
        if points not in self._costs:
            measured = JumpCosts(points)
            self._draw(measured, min(self.n, PATHS), "path")
            self._costs[points] = measured
            self.told(Progress(None, measured.seen, float(measured.costs[0, -1])))
        return self._costs[points]

    @cached_property
    def _costs(self) -> dict[int, JumpCosts]:
        return {}

    def _by_path(self, steps: int) -> Tuned:
        measured = self.costs(steps)
        grid, equal = proposed(measured.costs, measured.times, steps), TimeGrid.uniform(steps)
        times = torch.tensor(sorted({*grid.times, *equal.times}))
        parts: list[tuple[float, float]] = []
        for part in range(PARTS):
            fresh = JumpCosts(times, refine=max(2, -(-POINTS // len(times))))
            self._draw(fresh, max(self.n // PARTS, 1), f"decide {part}")
            parts.append((price(fresh.costs, times, grid), price(fresh.costs, times, equal)))
        ours, its = (mean(column) for column in zip(*parts, strict=True))
        if not ours.value < its.value:
            grid, ours = equal, its
        return self._tuned(grid, "path", ours, its, {})

    # -- by the aim ------------------------------------------------------------------------------------------------

    def _by_aim(self, aim: Aim, steps: int) -> Tuned:
        sign = -1 if aim.rises else 1

        def measure(one: TimeGrid, share: float) -> float:
            n = max(2, round(share * self.n))
            value = aim.measure(self._draw(one.sampler(), n, "search")).value
            self.told(Progress(one, n, value, share == 1))
            return sign * value if value == value else math.inf

        proposals: list[tuple[float, ...]] = []
        if self.by == "both":
            measured = self.costs(steps)
            proposals.append(proposed(measured.costs, measured.times, steps).times)
        if steps % 2 == 0 and steps // 2 in self._before:
            proposals.append(refined(self._before[steps // 2].times))
        return self._decided(aim, sign, steps, search(steps, measure, proposals, *noises(self.flow_map, steps)))

    def _decided(self, aim: Aim, sign: int, steps: int, finalists: list[TimeGrid]) -> Tuned:
        """The first finalist that beats equal steps on fresh noise by more than the error and pays with no guard.

        Both start from the same noise, so what counts is the error of their difference over parts of the samples.
        """
        equal = TimeGrid.uniform(steps)
        its_samples, its, its_guards = self._measured(aim, equal)
        for one in finalists:
            if one == equal:
                break
            samples, ours, guards = self._measured(aim, one)
            gain = self._difference(aim, its_samples, samples)
            paid = [
                name for name, guard in guards.items()
                if guard.value - its_guards[name].value > 2 * math.hypot(guard.error, its_guards[name].error)
            ]  # fmt: skip
            if sign * gain.value > gain.error and not paid:
                return self._tuned(
                    one, aim.metric, ours, its, {name: (guards[name], its_guards[name]) for name in guards}
                )
        return self._tuned(equal, aim.metric, its, its, {name: (guard, guard) for name, guard in its_guards.items()})

    def _measured(self, aim: Aim, one: TimeGrid) -> tuple[Data, Measure, dict[str, Measure]]:
        samples = self._draw(one.sampler(), self.n, "decide")
        value = aim.measure(samples)
        self.told(Progress(one, self.n, value.value))
        return samples, value, {name: measure(samples) for name, measure in aim.guards.items()}

    def _difference(self, aim: Aim, first: Data, second: Data) -> Measure:
        """By how much the aim is larger on the first, a mean over interleaved parts of both."""
        parts = [slice(k, None, count) for count in [max(2, min(GROUPS, self.n // 2))] for k in range(count)]
        value = lambda samples, part: aim.measure(take(samples, part)).value  # noqa: E731
        return mean([value(first, part) - value(second, part) for part in parts])

    # -- both ------------------------------------------------------------------------------------------------------

    def _draw(self, sampler: Sampler, n: int, purpose: str) -> Data:
        generator = torch.Generator(self.device).manual_seed(stream(self.seed, purpose))
        return self.task.sample(self.flow_map, n, sampler, generator)

    def _tuned(
        self, grid: TimeGrid, metric: str, ours: Measure, its: Measure, guards: dict[str, tuple[Measure, Measure]]
    ) -> Tuned:
        record = {
            "by": self.by, "metric": metric, **_pair(ours, its),
            "guards": {name: _pair(*pair) for name, pair in guards.items()},
            "n": self.n, "seed": self.seed, "versions": versions(),
        }  # fmt: skip
        return Tuned(grid, record)


def _pair(ours: Measure, its: Measure) -> dict[str, float]:
    values = {"value": ours.value, "error": ours.error, "uniform": its.value, "uniform_error": its.error}
    return {name: value if math.isfinite(value) else 0.0 for name, value in values.items()}
