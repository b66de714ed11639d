r"""Noise on the way: what lets particles that were copied part again, and how a gradient bends it."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from ..fields import FREE, Condition, across, fieldwise, leaves
from ..maps import FlowMap
from ..samplers import Stochastic
from ..samplers.flow_map import noise_like


def posterior(map: FlowMap, x: Any, t: Tensor, condition: Condition = FREE) -> Any:
    """μ_t(x) in the space of states: x + (1-t) v_t(x)."""
    direction = map.towards(x, map.features(x, t, t, condition), condition)
    return fieldwise(lambda x, d: x + across((1 - t) / map.slack(t), d) * d, x, direction)


def langevin(x: Any, mu: Any, t: Tensor, rate: float, total: float = 1.0) -> tuple[Any, Tensor]:
    r"""Langevin dynamics at a fixed time, exact for a Gaussian, so that no rate is too large to be stable.

    .. math:: m = \frac{t\mu}{B} + e^{-\rho}\Big(x - \frac{t\mu}{B}\Big), \qquad
              d = (1-t)\sqrt{\tfrac{1 - e^{-2\rho}}{B}}

    This is :math:`dx = \frac{\sigma^2}{2} S\,d\tau + \sigma\,dW` with the score :math:`S = (t\mu - Bx)/(1-t)^2`, for
    :math:`\rho = B \sigma^2 \Delta\tau / 2(1-t)^2` with μ held fixed: an error of order ρ.

    Arguments:
        mu: μ of the states, in their space.
        rate: ρ, at least 0.
        total: B, the sum of the exponents of a product of laws.
    Returns: mean of the new states, and standard deviation ``(n,)`` of their noise.
    """
    away = -math.expm1(-rate)  # 1 - exp(-ρ)
    mean = fieldwise(lambda x, mu: x.lerp(across(t, x) * mu / total, away), x, mu)
    return mean, (1 - t) * (-math.expm1(-2 * rate) / total) ** 0.5


def disturb(
    map: FlowMap, mean: Any, deviation: Tensor, generator: Any, gradient: Any = None
) -> tuple[Any, Tensor | float]:
    r"""A Gaussian step, bent by a gradient g.

    .. math:: x' = m + d^2 g + d\, \varepsilon, \qquad
              \log\frac{N(x'; m, d^2)}{N(x'; m + d^2 g, d^2)}
              = -d\, \langle g, \varepsilon\rangle - \frac{d^2}{2} \|g\|^2

    With g the gradient of a log-reward at m this is the step conditioned on the reward, to first order.

    Arguments:
        gradient: g, as autograd gives it; none by default.
    Returns: new states, and the log-weight ``(n,)`` by which bent steps represent plain ones, whatever g is.
    """
    noise = noise_like(map, mean, generator)
    moved = fieldwise(lambda m, e: m + across(deviation, m) * e, mean, noise)
    if gradient is None:
        return moved, 0.0
    pull = map.path.space.pair(gradient)
    moved = fieldwise(lambda x, p: x + across(deviation.square(), x) * p, moved, pull)
    return moved, -deviation * inner(gradient, noise) - deviation.square() / 2 * inner(gradient, pull)


def inner(a: Any, b: Any) -> Tensor:
    """Inner product of each sample, over all fields, ``(n,)``."""
    return torch.stack([(u * v).flatten(1).sum(1) for u, v in leaves(a, b)]).sum(0)


class Langevin(Stochastic):
    r"""Jumps of the flow map, each followed by Langevin noise at its end: same law of the path, new ways through it.

    The operator splitting of :math:`dx = [v + \frac{\sigma^2}{2}\nabla\log\rho]dt + \sigma\,dW`,
    :math:`\sigma^2 = 2c\,(1-t)^2`: the flow by a jump, the noise by :func:`langevin` with :math:`\rho = c\,\Delta t`.
    :class:`~flowmaps.samplers.Renoise` costs half and keeps the law at any number of steps; this one visits only times
    of the grid, and its noise is set apart from its steps.

    Arguments:
        times: Grid or number of steps.
        c: Strength of the noise, at least 0; 0 is :class:`~flowmaps.samplers.Jumps` bit for bit.
    Invariant: on an exact map the law of the samples tends to the truth as steps shrink (``tests/steering``).
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

    def kernel(self, map: FlowMap, x: Any, s: Tensor, t: Tensor, condition: Condition) -> tuple[Any, Tensor]:
        if self.still:
            return map(x, s, t, condition), torch.zeros_like(t)
        map.path.require_gaussian("Langevin noise")
        x = map(x, s, t, condition)
        return langevin(x, posterior(map, x, t, condition), t, self.c * float(t[0] - s[0]))
