r"""Semigroup (progressive) self-distillation: one long jump equals two short ones.

.. math:: \pi_{s,t}(x) = \lambda\, \pi_{s,u}(x) + (1-\lambda)\, \pi_{u,t}(X_{s,u}(x)), \qquad
          \lambda = \frac{(1-t)(u-s)}{(1-u)(t-s)} \in [0, 1]

Needs no derivative, and its target is always on the simplex: the fallback wherever forward mode fails.
"""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor

from ..evaluation import Evaluation, wide
from ..fields import S
from ..maps import FlowMap
from ..networks.chunked import Losses
from ..times import LAST
from .base import Identity, Jump, require_simplex


class SemigroupFamily(Identity):
    """Evaluates z_st and the teacher's two shorter jumps.

    Arguments:
        fraction: Place of u between s and t, 0.5 for the midpoint; ``None`` draws it uniformly.
    """

    def __init__(self, fraction: float | None = None, in_state: bool = False):
        super().__init__(in_state)
        if fraction is not None and not 0 < fraction < 1:
            raise ValueError(f"fraction is {fraction}, expected a number strictly between 0 and 1, or None")
        self.fraction = fraction

    def between(self, jump: Jump[S]) -> Tensor:
        """The time u."""
        part = jump.r if self.fraction is None else self.fraction
        return (jump.s + (jump.t - jump.s) * part).clamp(max=LAST)

    def between_means(
        self, flow_map: FlowMap[S], teacher: FlowMap[S], jump: Jump[S], evaluate: Evaluation[S]
    ) -> dict[str, S]:
        x_s, s, t, condition = jump.x_s, jump.s, jump.t, jump.condition
        u = self.between(jump)
        with torch.no_grad():
            h_su = teacher.features(x_s, s, u, condition)
            x_u = teacher.move(x_s, h_su, s, u, condition)
            h_ut = teacher.features(x_u, u, t, condition)
        h_st = flow_map.features(x_s, s, t, condition)
        lam = torch.where(t > s, flow_map.weight(s, u, torch.where(t > s, t, s + (1 - s) / 2)), 1)  # s = t: no jump
        compare = lambda *z: self.compare(flow_map, *z)  # noqa: E731
        return evaluate(compare, flow_map.readout(h_st), teacher.readout(h_su), teacher.readout(h_ut), lam)

    @abstractmethod
    def compare(self, flow_map: FlowMap, z_st: Tensor, z_su: Tensor, z_ut: Tensor, lam: Tensor) -> Losses:
        """The loss of predictions (positions, K), with the weight λ (positions, 1)."""


class Semigroup(SemigroupFamily):
    r"""PSD with a squared error; with a :class:`VelocityMap` and the midpoint these are shortcut models.

    .. math:: L = \| \pi_{s,t} - \mathrm{sg}[\lambda \pi_{s,u} + (1-\lambda)\pi_{u,t}(X_{s,u})] \|^2

    On a curved space it is G-PSD, with the teacher's two jumps as one point:

    .. math:: r = \log_{X_{s,t}(x_s)} \mathrm{sg}\, X_{u,t}(X_{s,u}(x_s)), \qquad L = \|r\|^2 = d(\cdot, \cdot)^2

    Reference: Boffi et al. 2025, arXiv 2505.18825; Frans et al. 2024, *One step diffusion via shortcut models*,
    arXiv 2410.12557; Davis et al. 2025, arXiv 2510.21608.
    """

    def between_states(self, flow_map: FlowMap[S], teacher: FlowMap[S], jump: Jump[S]) -> tuple[S, S]:
        x_s, s, t, condition = jump.x_s, jump.s, jump.t, jump.condition
        u = self.between(jump)
        with torch.no_grad():
            end = teacher(teacher(x_s, s, u, condition), u, t, condition)
        x_t = flow_map(x_s, s, t, condition)
        return x_t, flow_map.space.log(x_t, end)

    def compare(self, flow_map: FlowMap, z_st: Tensor, z_su: Tensor, z_ut: Tensor, lam: Tensor) -> Tensor:
        target = lam * flow_map.mean(z_su) + (1 - lam) * flow_map.mean(z_ut)
        return (flow_map.mean(z_st) - target.detach()).square().sum(-1)


class SemigroupKL(SemigroupFamily):
    r"""PSD-KL: the same identity by the Kullback-Leibler divergence.

    .. math:: L = \mathrm{KL}\big(\mathrm{sg}[\lambda \pi_{s,u} + (1-\lambda)\pi_{u,t}(X_{s,u})] \,\|\, \pi_{s,t}\big)

    Reference: Lee et al. 2026, arXiv 2602.16813; Potaptchik et al. 2026, arXiv 2604.09784.
    """

    def compare(self, flow_map: FlowMap, z_st: Tensor, z_su: Tensor, z_ut: Tensor, lam: Tensor) -> Tensor:
        require_simplex(flow_map, "SemigroupKL")
        target = (lam * flow_map.mean(z_su) + (1 - lam) * flow_map.mean(z_ut)).detach()
        return torch.special.xlogy(target, target).sum(-1) - (target * wide(z_st).log_softmax(-1)).sum(-1)
