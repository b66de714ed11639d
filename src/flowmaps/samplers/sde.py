"""A stochastic sampler with the closed-form score of the Gaussian path."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ..fields import Condition, across, fieldwise
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

    def step(self, map: FlowMap, x: Any, s: Tensor, t: Tensor, condition: Condition, generator: Any) -> Any:
        if self.c == 0:
            return super().step(map, x, s, t, condition, generator)
        toward = map.towards(x, map.features(x, s, s, condition), condition)
        v = fieldwise(lambda d: d / across(map.slack(s), d), toward)
        variance = 2 * self.c * (1 - s) ** self.a
        # (t μ - x)/(1-t)² with μ = x + (1-t) v: the score without a second evaluation.
        half = variance / 2 / (1 - s).square()
        mu = fieldwise(lambda x, d: x + across((1 - s) / map.slack(s), d) * d, x, toward)
        pull = fieldwise(lambda x, m: across(half, x) * (across(s, x) * m - x), x, mu)
        dW = noise_like(map, x, generator)
        root = (variance * (t - s)).sqrt()
        new = fieldwise(lambda x, v, p, w: x + across(t - s, x) * (v + p) + across(root, x) * w, x, v, pull, dW)
        return map.path.clamp(new, x, condition)
