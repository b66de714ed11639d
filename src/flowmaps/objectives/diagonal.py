"""Losses on the diagonal s = t, where a flow map is an ordinary denoiser."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from ..evaluation import Evaluation, wide
from ..fields import S
from ..maps import EndpointMap, FlowMap
from .base import Jump, require_simplex
from .teachers import Frozen


class Diagonal(nn.Module, ABC):
    """Regression of m_tt(x_t) on data.

    Returns (of a call): loss per position, ``(*batch, *positions)`` per field.
    """

    @abstractmethod
    def forward(self, flow_map: FlowMap[S], jump: Jump[S], evaluate: Evaluation[S] | None = None) -> S: ...


class CrossEntropy(Diagonal):
    r"""Variational flow matching: the posterior by cross-entropy, in nats.

    .. math:: L = -\log \pi_{t,t}(x_t)[x_1]

    Minimised by the posterior π_tt = μ_t, where it is the conditional entropy of the example's positions given x_t.

    Reference: Eijkelboom et al. 2024, *Variational flow matching for graph generation*, arXiv 2406.04843.
    """

    def forward(self, flow_map: FlowMap[S], jump: Jump[S], evaluate: Evaluation[S] | None = None) -> S:
        require_simplex(flow_map, "CrossEntropy")
        evaluate = evaluate or Evaluation(flow_map.chunk)
        h = flow_map.features(jump.x_s, jump.s, jump.s, jump.condition)
        return evaluate(cross_entropy, flow_map.readout(h), jump.x_1)["loss"]


def cross_entropy(z: Tensor, x_1: Tensor) -> Tensor:
    """-log softmax(z)[x_1]."""
    return -wide(z).log_softmax(-1).gather(-1, x_1.long()).squeeze(-1)


class Distilled(Diagonal):
    r"""The posterior of another map in the place of data, such as a guided one, by the Kullback-Leibler divergence.

    .. math:: L = \mathrm{KL}\big(\mathrm{sg}\, \pi^*_{t,t}(x_t) \,\|\, \pi_{t,t}(x_t)\big), \qquad
              \pi^*_{t,t} \propto \pi_{teacher}^{1/T}

    Minimised by π*, where it is 0. A student of ``LogitGuidance`` needs one evaluation where its teacher needs two, and
    its jumps are those of the guided flow.

    Arguments:
        teacher: The map to learn, on the same space; a frozen copy of it is kept.
        temperature: T; below 1 the student is surer than its teacher.
    Raises: ValueError if it has no endpoint to predict, or if the temperature is not positive.
    Reference: Meng et al. 2022, *On distillation of guided diffusion models*, arXiv 2210.03142.
    """

    def __init__(self, teacher: EndpointMap, temperature: float = 1.0):
        super().__init__()
        require_simplex(teacher, "Distilled")
        if not temperature > 0:
            raise ValueError(f"temperature is {temperature}, expected a number above 0")
        self.teacher, self.temperature = Frozen(teacher), temperature

    def forward(self, flow_map: FlowMap[S], jump: Jump[S], evaluate: Evaluation[S] | None = None) -> S:
        require_simplex(flow_map, "Distilled")
        evaluate = evaluate or Evaluation(flow_map.chunk)
        teacher, where = self.teacher(flow_map), (jump.x_s, jump.s, jump.s, jump.condition)
        with torch.no_grad():
            known = teacher.features(*where)
        compare = lambda z, taught: divergence(teacher.mean(taught / self.temperature).detach(), z)  # noqa: E731
        return evaluate(compare, flow_map.readout(flow_map.features(*where)), teacher.readout(known))["loss"]


def divergence(target: Tensor, z: Tensor) -> Tensor:
    """KL(target || softmax(z)), over the last dimension."""
    return torch.special.xlogy(target, target).sum(-1) - (target * wide(z).log_softmax(-1)).sum(-1)


class SquaredError(Diagonal):
    r"""Flow matching: the velocity by squared error, summed over coordinates.

    .. math:: L = \| v_{t,t}(x_t) - \dot x_t \|^2_{x_t}, \qquad \text{flat:} \quad \dot x_t = x_1 - x_0

    Reference: Lipman et al. 2022, *Flow matching for generative modeling*, arXiv 2210.02747; Chen and Lipman 2023,
    *Flow matching on general geometries*, arXiv 2302.03660.
    """

    def forward(self, flow_map: FlowMap[S], jump: Jump[S], evaluate: Evaluation[S] | None = None) -> S:
        v = flow_map.velocity(jump.x_s, jump.s, jump.condition)
        r = v - flow_map.path.velocity(jump.x_0, jump.x_1, jump.s, jump.condition)
        return flow_map.space.inner(jump.x_s, r, r)
