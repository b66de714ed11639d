"""Maximum likelihood: the plain objective of normalising flows, and the baseline of every other one."""

from __future__ import annotations

import torch
from torch import Tensor

from ..fields import Batch, one_field
from ..maps import Bijection
from .base import Objective


class MaximumLikelihood(Objective[None, Bijection]):
    r"""The negative log-likelihood of data under a bijection, in nats per example.

    .. math:: L = -\mathbb{E}_{x_1} \big[\log p_0(f^{-1}(x_1)) + \log|\det J_{f^{-1}}(x_1)|\big]

    It goes through the inverse, from data to noise: the slow direction of autoregressive layers.

    Arguments:
        flow_map: The bijection in training.
    Raises: ValueError if the map is no bijection, or data do not fit its space.
    Invariant: its minimum over Gaussians is the likeliest one (``tests/identities/test_flows.py``).
    Reference: Papamakarios et al. 2019, *Normalizing flows for probabilistic modeling and inference*, arXiv 1912.02762.
    """

    def __init__(self, flow_map: Bijection):
        super().__init__()
        self.flow_map = require_bijection(flow_map, type(self).__name__)

    def draw(self, batch: Batch, generator: torch.Generator) -> None:
        self.flow_map.space.check(batch.x_1)

    def forward(self, batch: Batch, draw: None) -> dict[str, Tensor]:
        x_1 = one_field(batch.x_1).to(self.flow_map.dtype)
        loss = -self.flow_map.log_prob(x_1, batch.condition).mean()
        return {"loss": loss, "nll": loss.detach()}


def require_bijection(flow_map: object, name: str) -> Bijection:
    """The map, if it is a bijection.

    Raises: ValueError naming what it is.
    """
    if not isinstance(flow_map, Bijection):
        raise ValueError(
            f"{name} needs a density by the change of variables, but the map is a {type(flow_map).__name__}; use a "
            "bijection such as NSF, or train jumps by SelfDistillation"
        )
    return flow_map
