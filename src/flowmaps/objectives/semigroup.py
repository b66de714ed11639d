r"""Semigroup (progressive) self-distillation: one long jump equals two short ones.

.. math:: \pi_{s,t}(x) = \lambda\, \pi_{s,u}(x) + (1-\lambda)\, \pi_{u,t}(X_{s,u}(x)), \qquad
          \lambda = \frac{(1-t)(u-s)}{(1-u)(t-s)} \in [0, 1]

Needs no derivative, and its target is always on the simplex: the fallback wherever forward mode fails.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from ..evaluation import Evaluation
from ..fields import S
from ..maps import FlowMap
from ..networks.chunked import Losses
from ..times import LAST
from .base import Identity, Jump, require_simplex
from .diagonal import divergence


class SemigroupFamily(Identity):
    r"""Evaluates z_st and the shorter jumps of the teacher, two or more.

    .. math:: \pi_{s,t}(x) = \sum_i w_i\, \pi_{u_i,u_{i+1}}(X_{s,u_i}(x)), \qquad s = u_0 < u_1 < \dots < u_n = t

    by the identity of two jumps, applied n - 1 times. One long path of a good teacher gives better targets than many
    generations of two jumps, for n - 1 more evaluations without gradient.

    Arguments:
        fraction: Place of u between s and t, 0.5 for the midpoint; several of them for a path of as many stops;
            ``None`` draws one uniformly.
    Raises: ValueError if the places do not increase strictly between 0 and 1.
    """

    def __init__(self, fraction: float | Sequence[float] | None = None, in_state: bool = False):
        super().__init__(in_state)
        places = [] if fraction is None else [fraction] if isinstance(fraction, int | float) else list(fraction)
        if fraction is not None and not places or not all(a < b for a, b in pairwise([0, *places, 1])):
            raise ValueError(
                f"fraction is {fraction}, expected numbers that increase strictly between 0 and 1, or None"
            )
        self.fraction = fraction
        self.places = places

    def stops(self, jump: Jump[S]) -> list[Tensor]:
        """The times s, u_1, ..., t."""
        places = self.places or [jump.r]
        between = [(jump.s + (jump.t - jump.s) * place).clamp(max=LAST) for place in places]
        return [jump.s, *between, jump.t]

    def between_means(
        self, flow_map: FlowMap[S], teacher: FlowMap[S], jump: Jump[S], evaluate: Evaluation[S]
    ) -> dict[str, S]:
        s, t, condition = jump.s, jump.t, jump.condition
        stops = self.stops(jump)
        x, path = jump.x_s, []
        with torch.no_grad():
            for i, (a, b) in enumerate(pairwise(stops)):
                path.append(teacher.features(x, a, b, condition))
                x = teacher.move(x, path[i], a, b, condition) if i + 2 < len(stops) else x
        h_st = flow_map.features(jump.x_s, s, t, condition)
        far = torch.where(t > s, 0, (1 - s) / 2)  # s = t: no jump, any times above s do
        lam = [torch.where(t > s, flow_map.weight(s, u, v + far), 1) for u, v in pairwise(stops[1:])]
        compare = lambda *z: self.compare(flow_map, z[0], _mean(flow_map, z[1 : len(stops)], z[len(stops) :]))  # noqa: E731
        return evaluate(compare, flow_map.readout(h_st), *(teacher.readout(h) for h in path), *lam)

    @abstractmethod
    def compare(self, flow_map: FlowMap, z_st: Tensor, target: Tensor) -> Losses:
        """The loss of predictions (positions, K) against the mean that the teacher's jumps make."""


def _mean(flow_map: FlowMap, z: Sequence[Tensor], lam: Sequence[Tensor]) -> Tensor:
    """The mean of one jump from those of its parts: λ of what is behind, 1 - λ of the next."""
    mean = flow_map.mean(z[0])
    for z_uv, lam_v in zip(z[1:], lam, strict=True):
        mean = lam_v * mean + (1 - lam_v) * flow_map.mean(z_uv)
    return mean.detach()


class Semigroup(SemigroupFamily):
    r"""PSD with a squared error; with a :class:`VelocityMap` and the midpoint these are shortcut models.

    .. math:: L = \| \pi_{s,t} - \mathrm{sg}[\lambda \pi_{s,u} + (1-\lambda)\pi_{u,t}(X_{s,u})] \|^2

    On a curved space it is G-PSD, with the teacher's two jumps as one point:

    .. math:: r = \log_{X_{s,t}(x_s)} \mathrm{sg}\, X_{u,t}(X_{s,u}(x_s)), \qquad L = \|r\|^2 = d(\cdot, \cdot)^2

    Reference: Boffi et al. 2025, arXiv 2505.18825; Frans et al. 2024, *One step diffusion via shortcut models*,
    arXiv 2410.12557; Davis et al. 2025, arXiv 2510.21608.
    """

    def between_states(self, flow_map: FlowMap[S], teacher: FlowMap[S], jump: Jump[S]) -> tuple[S, S]:
        end = jump.x_s
        with torch.no_grad():
            for a, b in pairwise(self.stops(jump)):
                end = teacher(end, a, b, jump.condition)
        x_t = flow_map(jump.x_s, jump.s, jump.t, jump.condition)
        return x_t, flow_map.space.log(x_t, end)

    def compare(self, flow_map: FlowMap, z_st: Tensor, target: Tensor) -> Tensor:
        return (flow_map.mean(z_st) - target).square().sum(-1)


class SemigroupKL(SemigroupFamily):
    r"""PSD-KL: the same identity by the Kullback-Leibler divergence.

    .. math:: L = \mathrm{KL}\big(\mathrm{sg}[\lambda \pi_{s,u} + (1-\lambda)\pi_{u,t}(X_{s,u})] \,\|\, \pi_{s,t}\big)

    Reference: Lee et al. 2026, arXiv 2602.16813; Potaptchik et al. 2026, arXiv 2604.09784.
    """

    def compare(self, flow_map: FlowMap, z_st: Tensor, target: Tensor) -> Tensor:
        require_simplex(flow_map, "SemigroupKL")
        return divergence(target, z_st)
