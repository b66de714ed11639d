r"""Solvers of the probability flow dx/dt = v_t(x) with the diagonal of the map."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..evaluation import Readouts
from ..fields import FREE, Condition, S, across, joined, parts
from ..maps import FlowMap
from .base import Sampler

MOST = 5_000  # steps of the adaptive solver; flows that were learned take tens or hundreds
Velocity = Callable[[Tensor, tuple[Tensor, ...]], tuple[Tensor, ...]]


def solved(
    velocity: Velocity, x: tuple[Tensor, ...], s: Tensor, t: Tensor, rtol: float, atol: float
) -> tuple[Tensor, ...]:
    """The states at time t of dx/dt = velocity(time, x), which are x at s, by Dormand-Prince steps of order 5.

    Arguments:
        s, t: Times ``()``, in either order.
        rtol, atol: Tolerances.
    Raises: ValueError if they are not reached in 5,000 steps, or are no longer finite.
    """
    from torchdiffeq import odeint  # imported here, for the time it takes

    options = {"max_num_steps": MOST}
    try:
        path = odeint(velocity, x, torch.stack([s, t]), rtol=rtol, atol=atol, method="dopri5", options=options)
    except AssertionError as error:  # of torchdiffeq, with tensors in it
        raise ValueError(
            f"the flow cannot be followed from t = {s:g} to {t:g} in {MOST:,} steps at rtol {rtol:g} and atol {atol:g} "
            f"({str(error).partition('(')[0].strip()}): the map has diverged, or takes larger tolerances"
        ) from error
    return tuple(states[-1] for states in path)


class Euler(Sampler):
    r"""Steps of first order, :math:`\exp_x((t - s)\, v_s(x))`; the last one ends in the posterior π_{s,s} itself."""

    def step(
        self, flow_map: FlowMap[S], x: S, s: Tensor, t: Tensor, condition: Condition, generator: torch.Generator | None
    ) -> S:
        return flow_map.space.exp(x, across(t - s, x) * flow_map.velocity(x, s, condition))

    def final(self, flow_map: FlowMap[S], x: S, s: Tensor, condition: Condition) -> Readouts:
        return flow_map.final(x, flow_map.features(x, s, s, condition), s)


class Heun(Euler):
    """Steps of second order, by the mean of the velocities at both ends; the last step is one of Euler."""

    @property
    def evaluations(self) -> int:
        return 2 * len(self.times) - 3

    def step(
        self, flow_map: FlowMap[S], x: S, s: Tensor, t: Tensor, condition: Condition, generator: torch.Generator | None
    ) -> S:
        v_s = flow_map.velocity(x, s, condition)
        step, space = across(t - s, x), flow_map.space
        ahead = space.exp(x, step * v_s)
        v_t = space.transport(ahead, x, flow_map.velocity(ahead, t, condition))
        return space.exp(x, step * (v_s + v_t) / 2)


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
        self, flow_map: FlowMap[S], x: S, condition: Condition = FREE, generator: torch.Generator | None = None
    ) -> Readouts:
        self._count = 1
        return super().__call__(flow_map, x, condition, generator)

    def step(
        self, flow_map: FlowMap[S], x: S, s: Tensor, t: Tensor, condition: Condition, generator: torch.Generator | None
    ) -> S:
        project = flow_map.space.project  # off a curved space by the stages of a step

        def velocity(time: Tensor, tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            self._count += 1
            state = joined(x, tensors)
            return parts(project(state, flow_map.velocity(state, time.to(s.dtype).expand(s.shape), condition)))

        return joined(x, solved(velocity, parts(x), s[0], t[0], self.rtol, self.atol))
