"""Sampling by jumps of the flow map."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor

from ..fields import Condition, across, fieldwise
from ..maps import FlowMap
from .base import Sampler


class Jumps(Sampler):
    r"""Few-step sampling on any grid.

    .. math:: x_{t_{i+1}} = X_{t_i, t_{i+1}}(x_{t_i})

    Invariant: on an exact map, k jumps give what one jump gives (``tests/test_samplers.py``).
    """

    def step(self, map: FlowMap, x: Any, s: Tensor, t: Tensor, condition: Condition, generator: Any) -> Any:
        return map(x, s, t, condition)

    def final(self, map: FlowMap, x: Any, s: Tensor, condition: Condition) -> Any:
        return map.final(x, map.features(x, s, torch.ones_like(s), condition), s)


class Stochastic(Jumps):
    r"""Steps with Gaussian noise, :math:`x_t = m_{s,t}(x_s) + d_{s,t}\, \varepsilon`; subclasses give m and d."""

    @property
    @abstractmethod
    def still(self) -> bool:
        """Whether there is no noise at all."""

    @abstractmethod
    def kernel(self, map: FlowMap, x: Any, s: Tensor, t: Tensor, condition: Condition) -> tuple[Any, Tensor]:
        """Mean of the new state, and standard deviation ``(*batch,)`` of its noise."""

    def step(self, map: FlowMap, x: Any, s: Tensor, t: Tensor, condition: Condition, generator: Any) -> Any:
        mean, deviation = self.kernel(map, x, s, t, condition)
        if self.still:
            return mean
        fresh = noise_like(map, x, generator)
        return map.path.clamp(fieldwise(lambda m, e: m + across(deviation, m) * e, mean, fresh), x, condition)


class Renoise(Stochastic):
    r"""Stochastic jumps: overshoot to t' = t + η (1 - t), then add noise back onto the path.

    .. math:: x_t = \frac{t}{t'}\, X_{s,t'}(x_s) + \sqrt{(1-t)^2 - \tfrac{t^2}{t'^2}(1-t')^2}\; \varepsilon

    η = 0 is :class:`Jumps`; η = 1 predicts the endpoint and noises it again. The law of the path is kept exactly.

    Arguments:
        times: Grid or number of steps.
        eta: η, in [0, 1].
    Reference: Kim et al. 2023, *Consistency trajectory models*, arXiv 2310.02279 (γ-sampling, here for this path).
    """

    def __init__(self, times: int | Tensor, eta: float = 0.5):
        super().__init__(times)
        if not 0 <= eta <= 1:
            raise ValueError(f"eta is {eta}, expected a number in [0, 1]")
        self.eta = eta

    @property
    def still(self) -> bool:
        return self.eta == 0

    def kernel(self, map: FlowMap, x: Any, s: Tensor, t: Tensor, condition: Condition) -> tuple[Any, Tensor]:
        beyond = t + self.eta * (1 - t)
        scale = t / beyond
        deviation = ((1 - t).square() - (scale * (1 - beyond)).square()).clamp(min=0).sqrt()
        if self.eta == 0:
            return map(x, s, t, condition), deviation
        return fieldwise(lambda x: across(scale, x) * x, map(x, s, beyond, condition)), deviation


def noise_like(map: FlowMap, x: Any, generator: Any) -> Any:
    """A fresh Gaussian source point, or Brownian increment of unit time, for the state x."""
    map.path.require_gaussian("noise on the way")
    space = map.path.space
    shape = space.noise_shape(fieldwise(lambda x: tuple(x.shape[:-1]), x))
    draw = fieldwise(lambda shape: torch.randn(shape, generator=generator, device=generator.device), shape)
    return fieldwise(lambda e, x: e.to(x.dtype), space.normal(draw), x)
