r"""Solvers of the probability flow dx/dt = v_t(x) with the diagonal of the map."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..fields import FREE, Condition, across, fieldwise
from ..maps import FlowMap
from .base import Sampler


class Euler(Sampler):
    r"""Steps of first order, x + (t - s) v_s(x); the last one ends in the posterior π_{s,s} itself."""

    def step(self, map: FlowMap, x: Any, s: Tensor, t: Tensor, condition: Condition, generator: Any) -> Any:
        return fieldwise(lambda x, v: x + across(t - s, x) * v, x, map.velocity(x, s, condition))

    def final(self, map: FlowMap, x: Any, s: Tensor, condition: Condition) -> Any:
        return map.final(x, map.features(x, s, s, condition), s)


class Heun(Euler):
    """Steps of second order, by the mean of the velocities at both ends; the last step is one of Euler."""

    @property
    def evaluations(self) -> int:
        return 2 * len(self.times) - 3

    def step(self, map: FlowMap, x: Any, s: Tensor, t: Tensor, condition: Condition, generator: Any) -> Any:
        v_s = map.velocity(x, s, condition)
        ahead = fieldwise(lambda x, v: x + across(t - s, x) * v, x, v_s)
        v_t = map.velocity(ahead, t, condition)
        return fieldwise(lambda x, a, b: x + across(t - s, x) * (a + b) / 2, x, v_s, v_t)


class Dopri5(Euler):
    r"""Adaptive Dormand-Prince of order 5 up to a time T, then the posterior π_{T,T}.

    Arguments:
        T: Where integration stops, in (0, 1): the velocity is singular at 1.
        rtol, atol: Tolerances.
    After a call ``evaluations`` counts what was used.
    """

    def __init__(self, T: float = 0.99, rtol: float = 1e-4, atol: float = 1e-4):
        if not 0 < T < 1:
            raise ValueError(f"T is {T}, expected a time strictly between 0 and 1")
        super().__init__(torch.tensor([0.0, T, 1.0]))
        self.rtol, self.atol, self._count = rtol, atol, 0

    @property
    def evaluations(self) -> int:
        return self._count

    def __call__(
        self, map: FlowMap, x: Any, condition: Condition = FREE, generator: torch.Generator | None = None
    ) -> Any:
        self._count = 1
        return super().__call__(map, x, condition, generator)

    def step(self, map: FlowMap, x: Any, s: Tensor, t: Tensor, condition: Condition, generator: Any) -> Any:
        from torchdiffeq import odeint  # imported here: with scipy it takes a third of a second

        names = list(x) if isinstance(x, dict) else None

        def velocity(time: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            self._count += 1
            tree = state[0] if names is None else dict(zip(names, state, strict=True))
            v = map.velocity(tree, time.to(s.dtype).expand(s.shape), condition)
            return (v,) if names is None else tuple(v.values())

        start = (x,) if names is None else tuple(x.values())
        end = odeint(velocity, start, torch.stack([s[0], t[0]]), rtol=self.rtol, atol=self.atol, method="dopri5")
        last = [path[-1] for path in end]
        return last[0] if names is None else dict(zip(names, last, strict=True))
