r"""Eulerian self-distillation: move the start of the jump along the flow; its end must not change.

.. math:: \pi_{s,t}(x) = \pi_{s,s}(x) + \kappa' D \pi_{s,t}(x), \qquad D = \partial_s + v_s \cdot \nabla_x, \quad
          \kappa' = \frac{(t-s)(1-s)}{1-t}

Everything is multiplied out by 1 - t, and D by 1 - s, so that no division by a vanishing number remains.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor

from ..autodiff import Derivative
from ..fields import across, fieldwise
from ..maps import FlowMap, wide
from .base import Consistency, Jump, per_position, require_simplex
from .lagrangian import kl_to_logits


class EulerianFamily(Consistency):
    """Evaluates z_st, its derivative along the flow (times 1 - s), and the diagonal at the start.

    Arguments:
        from_data: Use the datum in place of the diagonal prediction: e_{x_1} for π_ss and its straight velocity for
            v_s. Unbiased for losses linear in the target (MeanFlow, consistency training), at a higher variance.
    """

    def __init__(self, from_data: bool = False, derivative: Derivative | None = None):
        super().__init__(derivative)
        self.from_data = from_data

    def forward(self, map: FlowMap, teacher: FlowMap, jump: Jump) -> dict[str, Any]:
        x_s, s, t, condition = jump.x_s, jump.s, jump.t, jump.condition
        with torch.no_grad():
            if self.from_data:
                slope = map.path.slope(jump.x_0, jump.x_1, condition)
                direction = fieldwise(lambda v: across(map.slack(s), v) * v, slope)
                start = map.datum(jump.x_1, slope)
            else:
                h_ss = teacher.features(x_s, s, s, condition)
                direction, start = teacher.towards(x_s, h_ss, condition), teacher.readout(h_ss)
        tangents = (direction, map.slack(s), torch.zeros_like(t))
        h_st, dh_st = self.derivative(map.network, (x_s, s, t), tangents, condition)
        compare = lambda *z: self.compare(map, *z)  # noqa: E731
        return per_position(map, compare, jump, map.readout(h_st), map.tangent(dh_st), start, s, t)

    @abstractmethod
    def compare(self, map: FlowMap, z_st: Tensor, dz_st: Tensor, z_ss: Tensor, s: Tensor, t: Tensor) -> Any:
        """The loss of predictions (positions, K) at times (positions, 1); optionally with a clamp rate."""


class Eulerian(EulerianFamily):
    r"""ESD: the residual, with the gradient through π_st alone.

    .. math:: r = (1-t)(\pi_{s,t} - \pi_{s,s}) - (t-s)(1-s)\, D\pi_{s,t}, \qquad
              L = \| \pi_{s,t} - \mathrm{sg}(\pi_{s,t} - r) \|^2

    This is ‖π_st - sg[π_ss + κ'Dπ_st]‖² weighted by 1 - t in its gradient, 2 r ∇π_st, which stays informative at t = 1:
    there it is consistency training. Its value is ‖r‖².

    Reference: Boffi et al. 2025, arXiv 2505.18825; Geng et al. 2025, *Mean flows for one-step generative modeling*,
    arXiv 2505.13447; Sabour et al. 2025, *Align your flow*, arXiv 2506.14603.
    """

    def compare(self, map: FlowMap, z_st: Tensor, dz_st: Tensor, z_ss: Tensor, s: Tensor, t: Tensor) -> Tensor:
        pi_st = map.mean(z_st)
        dpi_st = map.dmean(pi_st, wide(dz_st))
        pi_ss = wide(z_ss) if self.from_data else map.mean(z_ss)
        r = map.slack(t) * (pi_st - pi_ss) - (t - s) * dpi_st
        return (pi_st - (pi_st - r).detach()).square().sum(-1)


class EulerianKL(EulerianFamily):
    r"""ESD-KL: the identity solved for the logits of π_st.

    .. math:: L = \mathrm{KL}(\mathrm{sg}\,q \,\|\, \pi_{s,t}), \quad
              q = \mathrm{softmax}\big(z_{s,s} - \log((1-t) - (1-s)(t-s)\delta)\big), \quad
              \delta = D z - \langle \pi, D z \rangle

    The argument of the logarithm is held at ``floor``; the share of such entries is logged as ``clamp_rate``.

    Arguments:
        floor: Smallest argument of the logarithm.
    Reference: Potaptchik et al. 2026, *Discrete Flow Maps*, arXiv 2604.09784.
    """

    def __init__(self, floor: float = 1e-3, derivative: Derivative | None = None):
        super().__init__(False, derivative)
        self.floor = floor

    def compare(self, map: FlowMap, z_st: Tensor, dz_st: Tensor, z_ss: Tensor, s: Tensor, t: Tensor) -> Any:
        require_simplex(map, "EulerianKL")
        log_pi = wide(z_st).log_softmax(-1)
        Dz = wide(dz_st).detach()  # the direction carries the factor 1 - s
        delta = Dz - (log_pi.detach().exp() * Dz).sum(-1, keepdim=True)
        return kl_to_logits(wide(z_ss), (1 - t) - (t - s) * delta, self.floor, log_pi)
