"""Sampling by jumps of the flow map."""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor

from ..evaluation import Readouts
from ..fields import Condition, S, across, lead, like
from ..maps import FlowMap
from ..paths import normal
from .base import Sampler


class Jumps(Sampler):
    r"""Few-step sampling on any grid.

    .. math:: x_{t_{i+1}} = X_{t_i, t_{i+1}}(x_{t_i}), \qquad x_0 = \sigma\, \varepsilon

    Arguments:
        times: Grid or number of steps.
        spread: σ, the deviation of the noise that sampling starts from, in (0, 1]. Less than 1 gives up the exact law
            for samples nearer to the modes: the truncation of generative adversarial networks, the temperature of
            normalising flows. A map of few jumps is least sure of what is rare (``flowmaps tune`` tries spreads).
            Needs the Gaussian source.
    Raises: ValueError if the spread is out of range.
    Invariant: on an exact map, k jumps give what one jump gives (``tests/test_samplers.py``).
    Reference: Brock et al. 2018, *Large scale GAN training for high fidelity natural image synthesis*, arXiv
    1809.11096; Kingma and Dhariwal 2018, *Glow*, arXiv 1807.03039.
    """

    def __init__(self, times: int | Tensor, spread: float = 1.0):
        super().__init__(times)
        if not 0 < spread <= 1:
            raise ValueError(f"spread is {spread}, expected a number in (0, 1]")
        self.spread = spread

    def step(
        self, flow_map: FlowMap[S], x: S, s: Tensor, t: Tensor, condition: Condition, generator: torch.Generator | None
    ) -> S:
        return flow_map(x, s, t, condition)

    def final(self, flow_map: FlowMap[S], x: S, s: Tensor, condition: Condition) -> Readouts:
        return flow_map.final(x, flow_map.features(x, s, torch.ones_like(s), condition), s)


class Stochastic(Jumps):
    r"""Steps with Gaussian noise, :math:`x_t = m_{s,t}(x_s) + d_{s,t}\, \varepsilon`; subclasses give m and d."""

    @property
    @abstractmethod
    def still(self) -> bool:
        """Whether there is no noise at all."""

    @abstractmethod
    def kernel(self, flow_map: FlowMap[S], x: S, s: Tensor, t: Tensor, condition: Condition) -> tuple[S, Tensor]:
        """Mean of the new state, and standard deviation ``(*batch,)`` of its noise."""

    def step(
        self, flow_map: FlowMap[S], x: S, s: Tensor, t: Tensor, condition: Condition, generator: torch.Generator | None
    ) -> S:
        mean, deviation = self.kernel(flow_map, x, s, t, condition)
        if self.still:
            return mean
        return flow_map.path.clamp(mean + across(deviation, mean) * noise_like(flow_map, x, generator), x, condition)


class Renoise(Stochastic):
    r"""Stochastic jumps: overshoot to t' = t + η (1 - t), then add noise back onto the path.

    .. math:: x_t = \frac{t}{t'}\, X_{s,t'}(x_s) + \sqrt{(1-t)^2 - \tfrac{t^2}{t'^2}(1-t')^2}\; \varepsilon

    η = 0 is :class:`Jumps`; η = 1 predicts the endpoint and noises it again. The distribution of the path is kept
    exactly.

    Arguments:
        times: Grid or number of steps.
        eta: η, in [0, 1].
        spread: As in :class:`Jumps`.
    Reference: Kim et al. 2023, *Consistency trajectory models*, arXiv 2310.02279 (γ-sampling, here for this path).
    """

    def __init__(self, times: int | Tensor, eta: float = 0.5, spread: float = 1.0):
        super().__init__(times, spread)
        if not 0 <= eta <= 1:
            raise ValueError(f"eta is {eta}, expected a number in [0, 1]")
        self.eta = eta

    @property
    def still(self) -> bool:
        return self.eta == 0

    def kernel(self, flow_map: FlowMap[S], x: S, s: Tensor, t: Tensor, condition: Condition) -> tuple[S, Tensor]:
        beyond = t + self.eta * (1 - t)
        scale = t / beyond
        deviation = ((1 - t).square() - (scale * (1 - beyond)).square()).clamp(min=0).sqrt()
        if self.eta == 0:
            return flow_map(x, s, t, condition), deviation
        ahead = flow_map(x, s, beyond, condition)
        return across(scale, ahead) * ahead, deviation


def noise_like(flow_map: FlowMap[S], x: S, generator: torch.Generator | None) -> S:
    """A fresh Gaussian source point, or Brownian increment of unit time, for the state x."""
    flow_map.path.require_gaussian("noise on the way")
    if generator is None:
        raise ValueError("a sampler with noise on the way needs a generator; pass one")
    space = flow_map.space
    return like(space.random(normal(space, lead(x), generator)), x)
