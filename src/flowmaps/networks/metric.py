"""A network whose output is measured by the metric of a space."""

from __future__ import annotations

from torch import Tensor

from ..fields import FREE, Condition
from ..spaces import PoincareBall
from .base import Network


class InMetric(Network):
    r"""The velocity of a network that speaks of lengths as the ball has them.

    .. math:: h'(x) = \frac{h(x)}{\lambda_x}, \qquad |h'(x)|_x = |h(x)|

    Coordinates of the ball shrink towards its rim, and with them the coordinates of a velocity of one length; without
    the factor a flow would have to learn it, and could leave the ball in finite time.

    Arguments:
        space: The ball.
        network: Any network of its coordinates.
    """

    def __init__(self, space: PoincareBall, network: Network):
        super().__init__()
        self.space, self.network = space, network

    def forward(self, x: Tensor, s: Tensor, t: Tensor, condition: Condition = FREE) -> Tensor:
        return self.space.tangent(x, self.network(x, s, t, condition))
