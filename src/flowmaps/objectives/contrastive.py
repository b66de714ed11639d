r"""Contrastive flow matching: pull towards one's own datum, push away from another one of the batch.

.. math:: L = \ell(x_1) - \lambda\, \ell(\tilde x_1), \qquad \tilde x_1 \text{ another sample's target}

Samples of different conditions become more distinct without guidance at test time; the price is a bias of order λ.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ..fields import fieldwise
from ..maps import FlowMap
from .base import Jump, per_position, require_simplex
from .diagonal import Diagonal, cross_entropy


def other(tree: Any) -> Any:
    """The same of another sample: the batch moved on by one."""
    return fieldwise(lambda leaf: leaf.roll(1, 0), tree)


class ContrastiveCrossEntropy(Diagonal):
    r"""The contrastive form of :class:`CrossEntropy`.

    .. math:: L = -\log \pi_{t,t}(x_t)[x_1] - \lambda \min\big(-\log \pi_{t,t}(x_t)[\tilde x_1],\, c\big)

    The clip c keeps it bounded below: what is pushed far enough counts no more. Without it the minimiser would be
    :math:`(\mu_t - \lambda p)/(1 - \lambda)` with the marginal p of each position, where that is positive.

    Arguments:
        strength: λ, in [0, 1); 0 is :class:`CrossEntropy`.
        clip: c in nats, positive.
    Reference: Stoica et al. 2025, *Contrastive flow matching*, arXiv 2506.05350, for squared errors.
    """

    def __init__(self, strength: float = 0.05, clip: float = 5.0):
        super().__init__()
        self.strength, self.clip = _share(strength), clip
        if not clip > 0:
            raise ValueError(f"clip is {clip}, expected a positive number of nats")

    def forward(self, map: FlowMap, jump: Jump) -> Any:
        require_simplex(map, "ContrastiveCrossEntropy")

        def loss(z: Tensor, x_1: Tensor, another: Tensor) -> Tensor:
            return cross_entropy(z, x_1) - self.strength * cross_entropy(z, another).clamp(max=self.clip)

        h = map.features(jump.x_s, jump.s, jump.s, jump.condition)
        return per_position(map, loss, jump, map.readout(h), jump.x_1, other(jump.x_1))["loss"]


class ContrastiveSquaredError(Diagonal):
    r"""The contrastive form of :class:`SquaredError`, as published.

    .. math:: L = \| v - (e_{x_1} - x_0) \|^2 - \lambda\, \| v - (e_{\tilde x_1} - \tilde x_0) \|^2

    Its minimiser is :math:`(v_t - \lambda \bar v)/(1 - \lambda)` with the mean velocity :math:`\bar v` of all data.

    Arguments:
        strength: λ, in [0, 1); 0 is :class:`SquaredError`.
    Reference: Stoica et al. 2025, *Contrastive flow matching*, arXiv 2506.05350, equation 7.
    """

    def __init__(self, strength: float = 0.05):
        super().__init__()
        self.strength = _share(strength)

    def forward(self, map: FlowMap, jump: Jump) -> Any:
        v = map.velocity(jump.x_s, jump.s, jump.condition)
        slope = map.path.slope(jump.x_0, jump.x_1, jump.condition)

        def loss(v: Tensor, slope: Tensor, another: Tensor) -> Tensor:
            return (v - slope).square().sum(-1) - self.strength * (v - another).square().sum(-1)

        return fieldwise(loss, v, slope, other(slope))


def _share(strength: float) -> float:
    if not 0 <= strength < 1:
        raise ValueError(f"strength is {strength}, expected a number in [0, 1); 0.05 is usual")
    return strength
