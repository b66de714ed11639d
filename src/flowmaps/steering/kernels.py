r"""Noise on the way: what lets particles that were copied part again, and how a gradient bends it."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .. import evaluation
from ..fields import FREE, Condition, S, across, lerp
from ..maps import FlowMap
from ..samplers import Stochastic
from ..samplers.flow_map import noise_like


def posterior(flow_map: FlowMap[S], x: S, t: Tensor, condition: Condition = FREE) -> S:
    """μ_t(x) in the space of states: x + (1-t) v_t(x)."""
    direction = flow_map.direction(x, flow_map.features(x, t, t, condition), condition)
    return x + across((1 - t) / flow_map.slack(t), direction) * direction


def langevin(x: S, mu: S, t: Tensor, rate: float, total: float = 1.0) -> tuple[S, Tensor]:
    r"""Langevin dynamics at a fixed time, exact for a Gaussian, so that no rate is too large to be stable.

    .. math:: m = \frac{t\mu}{B} + e^{-\rho}\Big(x - \frac{t\mu}{B}\Big), \qquad
              d = (1-t)\sqrt{\tfrac{1 - e^{-2\rho}}{B}}

    This is :math:`dx = \frac{\sigma^2}{2} S\,d\tau + \sigma\,dW` with the score :math:`S = (t\mu - Bx)/(1-t)^2`, for
    :math:`\rho = B \sigma^2 \Delta\tau / 2(1-t)^2` with μ held fixed: an error of order ρ.

    Arguments:
        mu: μ of the states, in their space.
        rate: ρ, at least 0.
        total: B, the sum of the exponents of a product of distributions.
    Returns: mean of the new states, and standard deviation ``(n,)`` of their noise.
    """
    away = -math.expm1(-rate)  # 1 - exp(-ρ)
    return lerp(x, across(t, x) * mu / total, away), (1 - t) * (-math.expm1(-2 * rate) / total) ** 0.5


def disturb(
    flow_map: FlowMap[S], mean: S, deviation: Tensor, generator: torch.Generator | None, gradient: S | None = None
) -> tuple[S, Tensor | float]:
    r"""A Gaussian step, bent by a gradient g.

    .. math:: x' = m + d^2 g + d\, \varepsilon, \qquad
              \log\frac{N(x'; m, d^2)}{N(x'; m + d^2 g, d^2)}
              = -d\, \langle g, \varepsilon\rangle - \frac{d^2}{2} \|g\|^2

    With g the gradient of a log-reward at m this is the step conditioned on the reward, to first order.

    Arguments:
        gradient: g, as autograd gives it; none by default.
    Returns: new states, and the log-weight ``(n,)`` by which bent steps represent plain ones, whatever g is.
    """
    noise = noise_like(flow_map, mean, generator)
    moved = mean + across(deviation, mean) * noise
    if gradient is None:
        return moved, 0.0
    pull = flow_map.space.sharp(mean, gradient)
    moved = moved + across(deviation.square(), moved) * pull
    return moved, -deviation * inner(gradient, noise) - deviation.square() / 2 * inner(gradient, pull)


def inner(a: S, b: S) -> Tensor:
    """Inner product of each sample, over all fields, ``(n,)``."""
    return evaluation.total(a * b)


class Langevin(Stochastic):
    r"""Jumps of the flow map, each followed by Langevin noise at its end: same distribution of the path, new ways
    through it.

    The operator splitting of :math:`dx = [v + \frac{\sigma^2}{2}\nabla\log\rho]dt + \sigma\,dW`,
    :math:`\sigma^2 = 2c\,(1-t)^2`: the flow by a jump, the noise by :func:`langevin` with :math:`\rho = c\,\Delta t`.
    :class:`~flowmaps.samplers.Renoise` costs half and keeps the distribution at any number of steps; this one visits
    only times of the grid, and its noise is set apart from its steps.

    Arguments:
        times: Grid or number of steps.
        c: Strength of the noise, at least 0; 0 is :class:`~flowmaps.samplers.Jumps` bit for bit.
    Invariant: on an exact map the distribution of the samples tends to the truth as steps shrink
        (``tests/steering``).
    """

    def __init__(self, times: int | Tensor, c: float = 1.0):
        super().__init__(times)
        if not 0 <= c < torch.inf:
            raise ValueError(f"c is {c}, expected a finite strength of noise, at least 0")
        self.c = c

    @property
    def still(self) -> bool:
        return self.c == 0

    @property
    def evaluations(self) -> int:
        jumps = len(self.times) - 1
        return jumps if self.still else 2 * jumps - 1

    def kernel(self, flow_map: FlowMap[S], x: S, s: Tensor, t: Tensor, condition: Condition) -> tuple[S, Tensor]:
        if self.still:
            return flow_map(x, s, t, condition), torch.zeros_like(t)
        flow_map.path.require_gaussian("Langevin noise")
        x = flow_map(x, s, t, condition)
        return langevin(x, posterior(flow_map, x, t, condition), t, self.c * float(t[0] - s[0]))
