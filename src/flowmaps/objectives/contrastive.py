r"""Contrastive flow matching: attract one's own example, repel another one of the batch.

.. math:: L = \ell(x_1) - \lambda\, \ell(\tilde x_1), \qquad \tilde x_1 \text{ another sample's target}

Samples of different conditions become more distinct without guidance at test time; the price is a bias of order λ.
"""

from __future__ import annotations

from torch import Tensor

from ..evaluation import Evaluation
from ..fields import S, roll
from ..maps import FlowMap
from .base import Jump, require_simplex
from .diagonal import Diagonal, cross_entropy


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

    def forward(self, flow_map: FlowMap[S], jump: Jump[S], evaluate: Evaluation[S] | None = None) -> S:
        require_simplex(flow_map, "ContrastiveCrossEntropy")

        def loss(z: Tensor, x_1: Tensor, another: Tensor) -> Tensor:
            return cross_entropy(z, x_1) - self.strength * cross_entropy(z, another).clamp(max=self.clip)

        evaluate = evaluate or Evaluation(flow_map.chunk)
        h = flow_map.features(jump.x_s, jump.s, jump.s, jump.condition)
        return evaluate(loss, flow_map.readout(h), jump.x_1, roll(jump.x_1))["loss"]


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

    def forward(self, flow_map: FlowMap[S], jump: Jump[S], evaluate: Evaluation[S] | None = None) -> S:
        space, x_s = flow_map.space, jump.x_s
        v = flow_map.velocity(x_s, jump.s, jump.condition)
        own = flow_map.path.velocity(jump.x_0, jump.x_1, jump.s, jump.condition)
        r, away = v - own, v - roll(own)
        return space.inner(x_s, r, r) - self.strength * space.inner(x_s, away, away)


def _share(strength: float) -> float:
    if not 0 <= strength < 1:
        raise ValueError(f"strength is {strength}, expected a number in [0, 1); 0.05 is usual")
    return strength
