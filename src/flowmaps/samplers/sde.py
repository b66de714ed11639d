"""A stochastic sampler with the closed-form score of the Gaussian path."""

from __future__ import annotations

import torch
from torch import Tensor

from ..fields import Condition, S, across
from ..maps import FlowMap
from .flow_map import noise_like
from .ode import Euler


class EulerMaruyama(Euler):
    r"""Same marginals as the flow, with noise that corrects errors on the way.

    .. math:: dx = \Big[v_t + \frac{\sigma_t^2}{2} \nabla\log\rho_t\Big] dt + \sigma_t\, dW, \qquad
              \sigma_t^2 = 2 c\, (1-t)^a

    Arguments:
        times: Grid or number of steps.
        c: Strength of the noise, at least 0; 0 is :class:`Euler`.
        a: At least 2, so that the drift stays finite at t = 1.
    """

    def __init__(self, times: int | Tensor, c: float = 1.0, a: float = 2.0):
        super().__init__(times)
        if c < 0 or a < 2:
            raise ValueError(f"c is {c} and a is {a}, expected c >= 0 and a >= 2: the score grows like (1-t)^-2")
        self.c, self.a = c, a

    def step(
        self, flow_map: FlowMap[S], x: S, s: Tensor, t: Tensor, condition: Condition, generator: torch.Generator | None
    ) -> S:
        if self.c == 0:
            return super().step(flow_map, x, s, t, condition, generator)
        direction = flow_map.direction(x, flow_map.features(x, s, s, condition), condition)
        v = direction / across(flow_map.slack(s), direction)
        variance = 2 * self.c * (1 - s) ** self.a
        # (t μ - x)/(1-t)² with μ = x + (1-t) v: the score without a second evaluation.
        half = variance / 2 / (1 - s).square()
        mu = x + across((1 - s) / flow_map.slack(s), x) * direction
        pull = across(half, x) * (across(s, x) * mu - x)
        dW = noise_like(flow_map, x, generator)
        root = (variance * (t - s)).sqrt()
        new = x + across(t - s, x) * (v + pull) + across(root, x) * dW
        return flow_map.path.clamp(new, x, condition)
