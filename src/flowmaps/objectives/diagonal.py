"""Losses on the diagonal s = t, where a flow map is an ordinary denoiser."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from torch import Tensor, nn

from ..fields import fieldwise
from ..maps import FlowMap, wide
from .base import Jump, per_position, require_simplex


class Diagonal(nn.Module, ABC):
    """Regression of m_tt(x_t) on data.

    Returns (of a call): loss per position, ``(*batch, *positions)`` per field.
    """

    @abstractmethod
    def forward(self, map: FlowMap, jump: Jump) -> Any: ...


class CrossEntropy(Diagonal):
    r"""Variational flow matching: the posterior by cross-entropy, in nats.

    .. math:: L = -\log \pi_{t,t}(x_t)[x_1]

    Minimised by the posterior π_tt = μ_t, where it is the conditional entropy of the datum's positions given x_t.

    Reference: Eijkelboom et al. 2024, *Variational flow matching for graph generation*, arXiv 2406.04843.
    """

    def forward(self, map: FlowMap, jump: Jump) -> Any:
        require_simplex(map, "CrossEntropy")
        h = map.features(jump.x_s, jump.s, jump.s, jump.condition)
        return per_position(map, cross_entropy, jump, map.readout(h), jump.x_1)["loss"]


def cross_entropy(z: Tensor, x_1: Tensor) -> Tensor:
    """-log softmax(z)[x_1]."""
    return -wide(z).log_softmax(-1).gather(-1, x_1.long()).squeeze(-1)


class SquaredError(Diagonal):
    r"""Flow matching: the velocity by squared error, summed over coordinates.

    .. math:: L = \| v_{t,t}(x_t) - (e_{x_1} - x_0) \|^2

    Reference: Lipman et al. 2022, *Flow matching for generative modeling*, arXiv 2210.02747.
    """

    def forward(self, map: FlowMap, jump: Jump) -> Any:
        v = map.velocity(jump.x_s, jump.s, jump.condition)
        slope = map.path.slope(jump.x_0, jump.x_1, jump.condition)
        return fieldwise(lambda v, slope: (v - slope).square().sum(-1), v, slope)
