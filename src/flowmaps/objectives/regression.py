"""RegFlow: the regression of a bijection on pairs, in the direction in which it generates."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..evaluation import total
from ..fields import Batch, named_fields
from ..maps import Bijection
from .base import Objective
from .likelihood import require_bijection


class Regularizer(nn.Module, ABC):
    """What keeps the Jacobian of a regression sound, because values converge where derivatives need not.

    Arguments (of a call):
        flow_map: The bijection f.
        x_0: Source points.
        x_1: f(x_0).
        log_det: log|det J_f(x_0)|, ``(n,)``.
    Returns: the penalty R of each example, ``(n,)``.
    """

    @abstractmethod
    def forward(self, flow_map: Bijection, x_0: Tensor, x_1: Tensor, log_det: Tensor) -> Tensor: ...


class LogDeterminant(Regularizer):
    r"""No volume may change much: :math:`R = (\log|\det J_f(x_0)|)^2`. It costs nothing."""

    def forward(self, flow_map: Bijection, x_0: Tensor, x_1: Tensor, log_det: Tensor) -> Tensor:
        return log_det.square()


class ForwardBackward(Regularizer):
    r"""The inverse must find back numerically: :math:`R = \|f^{-1}(f(x_0)) - x_0\|^2`. It doubles the cost.

    In exact arithmetic R is 0 for every bijection: it sees rounding alone, which grows with the condition of J.
    """

    def forward(self, flow_map: Bijection, x_0: Tensor, x_1: Tensor, log_det: Tensor) -> Tensor:
        back = flow_map.inverse(x_1)[0]
        r = flow_map.space.log(x_0, back)
        return total(flow_map.space.inner(x_0, r, r))


class RegressionDraw(NamedTuple):
    """The normal numbers that targets are jittered by, of their shape."""

    epsilon: Tensor


class RegFlow(Objective[RegressionDraw, Bijection]):
    r"""Regression of a bijection on pairs of source and data points.

    .. math:: L = \mathbb{E}\, d\big(f(x_0),\, \exp_{x_1}(\lambda_n \varepsilon)\big)^2
              + \lambda_r\, \mathbb{E}\, R(x_0), \qquad \varepsilon \sim N(0, I)

    On a flat space the distance is that of coordinates and the jittered target is x_1 + λ_n ε. The likelihood
    afterwards is the plain change of variables, and that of samples comes with them.

    Arguments:
        flow_map: The bijection in training.
        regularizer: R; ``None`` for none.
        strength: λ_r; in print from 1e-6 to 1e-5.
        jitter: λ_n.
    Raises: ValueError if the map is no bijection, the data are no pairs, or a number is negative.
    Invariant: 0 with gradient 0 where f carries each x_0 to its x_1 (``tests/identities/test_flows.py``).
    Reference: Rehman et al. 2025, *RegFlow*, arXiv 2506.01158.
    """

    def __init__(
        self,
        flow_map: Bijection,
        regularizer: Regularizer | None = None,
        strength: float = 1e-5,
        jitter: float = 0.0,
    ):
        super().__init__()
        if not (strength >= 0 and jitter >= 0):
            raise ValueError(f"strength is {strength} and jitter {jitter}, expected no negative numbers")
        self.flow_map = require_bijection(flow_map, type(self).__name__)
        self.regularizer, self.strength, self.jitter = regularizer, strength, jitter

    def draw(self, batch: Batch, generator: torch.Generator) -> RegressionDraw:
        x_1 = pair(batch)[1]
        self.flow_map.space.check(x_1)
        return RegressionDraw(torch.randn(x_1.shape, generator=generator, device=generator.device))

    def forward(self, batch: Batch, draw: RegressionDraw) -> dict[str, Tensor]:
        f, space = self.flow_map, self.flow_map.space
        x_0, x_1 = (x.to(f.dtype) for x in pair(batch))
        if self.jitter and self.training:
            x_1 = space.exp(x_1, self.jitter * space.project(x_1, draw.epsilon.to(x_1.dtype)))
        y, log_det = f(x_0, batch.condition)
        r = space.log(y, x_1)
        distance = total(space.inner(y, r, r)).mean()
        values = {"loss": distance, "distance": distance.detach()}
        if self.regularizer is not None and self.strength:
            penalty = self.regularizer(f, x_0, y, log_det).mean()
            values |= {"loss": distance + self.strength * penalty, "regularizer": penalty.detach()}
        return values


def pair(batch: Batch) -> tuple[Tensor, Tensor]:
    """Source and data points of a batch of pairs.

    Raises: ValueError if it is none.
    """
    if not isinstance(batch.x_1, dict) or not {"x_0", "x_1"} <= batch.x_1.keys():
        raise ValueError("RegFlow is trained on pairs of x_0 and x_1, but the data are points; make pairs first")
    fields = named_fields(batch.x_1)
    return fields["x_0"], fields["x_1"]
