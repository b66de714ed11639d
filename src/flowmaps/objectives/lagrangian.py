r"""Lagrangian self-distillation: move the end of the jump and compare with the flow there.

.. math:: \pi_{s,t}(x) + \kappa\, \partial_t \pi_{s,t}(x) = \pi_{t,t}(X_{s,t}(x)), \qquad
          \kappa = \frac{(t-s)(1-t)}{1-s}

Written at the level of the mean, so that no state of K dimensions appears; for a velocity map κ = t - s.

At t = 1 an endpoint map has κ = 0 and the identity holds for whatever the map decodes. Pairs that end there, as those
of :class:`~flowmaps.times.FullJump`, would only make the map surer of what it says, until all jumps to 1 decode the
same (``bench/results/fisher.md``), so they do not count; the jump to 1 is learned from those that end a little before.
"""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor

from ..autodiff import Derivative
from ..evaluation import Evaluation, wide
from ..fields import S, across, detach
from ..maps import FlowMap
from ..networks.chunked import Losses
from .base import Identity, Jump, require_simplex


class LagrangianFamily(Identity):
    """Evaluates z_st, its time derivative and the teacher's z_tt at X_{s,t}(x_s); subclasses compare them."""

    def between_means(
        self, flow_map: FlowMap[S], teacher: FlowMap[S], jump: Jump[S], evaluate: Evaluation[S]
    ) -> dict[str, S]:
        x_s, s, t, condition = jump.x_s, jump.s, jump.t, jump.condition
        h_st, dh_st = self.along(flow_map.network, jump, None, torch.zeros_like(s), torch.ones_like(t))
        with torch.no_grad():
            x_t = flow_map.move(x_s, h_st, s, t, condition)
            h_tt = teacher.features(x_t, t, t, condition)
        compare = lambda *z: self.asked(flow_map, *z)  # noqa: E731
        return evaluate(compare, flow_map.readout(h_st), flow_map.tangent(dh_st), teacher.readout(h_tt), s, t)

    def asked(self, flow_map: FlowMap, z_st: Tensor, dz_st: Tensor, z_tt: Tensor, s: Tensor, t: Tensor) -> Losses:
        """:meth:`compare` where the identity asks for anything, 0 elsewhere."""
        found = self.compare(flow_map, z_st, dz_st, z_tt, s, t)
        loss, *rest = found if isinstance(found, tuple) else (found,)
        loss = torch.where(flow_map.slack(t).squeeze(-1) > 0, loss, 0.0)
        return (loss, *rest) if rest else loss

    @abstractmethod
    def compare(self, flow_map: FlowMap, z_st: Tensor, dz_st: Tensor, z_tt: Tensor, s: Tensor, t: Tensor) -> Losses:
        """The loss of predictions (positions, K) at times (positions, 1); optionally with a clamp rate."""


class Lagrangian(LagrangianFamily):
    r"""LSD, called CSD for categorical maps: the squared residual.

    .. math:: L = \| \pi_{s,t} + \kappa\, \partial_t\pi_{s,t} - \mathrm{sg}\,\pi_{t,t}(X_{s,t}) \|^2

    Gradients flow through the time derivative. With a :class:`VelocityMap` this is the plain, unconstrained form. On a
    curved space it is G-LSD:

    .. math:: r = \ell(t)\, \partial_t X_{s,t}(x_s) - \mathrm{sg}\, d_{t,t}(X_{s,t}(x_s))

    Arguments:
        through_tangent: Let gradients reach the derivative; ``False`` leaves them to π_st alone, as in AYF-LMD (between
            means only).
        in_state: Take the second form on flat spaces, too; on ``OneHot`` both are equal.
    Reference: Boffi et al. 2025, *How to build a consistency model*, arXiv 2505.18825; Roos et al. 2026,
    arXiv 2602.12233; Davis et al. 2025, arXiv 2510.21608.
    """

    def __init__(self, through_tangent: bool = True, in_state: bool = False, derivative: Derivative | None = None):
        super().__init__(in_state, derivative)
        self.through_tangent = through_tangent

    def between_states(self, flow_map: FlowMap[S], teacher: FlowMap[S], jump: Jump[S]) -> tuple[S, S]:
        s, t, condition = jump.s, jump.t, jump.condition
        x_t, dx_t = self.along(flow_map, jump, None, torch.zeros_like(s), torch.ones_like(t))
        with torch.no_grad():
            here = detach(x_t)
            d_tt = teacher.direction(here, teacher.features(here, t, t, condition), condition)
        return x_t, across(flow_map.slack(t), dx_t) * dx_t - d_tt

    def compare(self, flow_map: FlowMap, z_st: Tensor, dz_st: Tensor, z_tt: Tensor, s: Tensor, t: Tensor) -> Tensor:
        pi_st, pi_tt = flow_map.mean(z_st), flow_map.mean(z_tt)
        dpi_st = flow_map.dmean(pi_st, wide(dz_st))
        if not self.through_tangent:
            dpi_st = dpi_st.detach()
        return (pi_st + flow_map.kappa(s, t) * dpi_st - pi_tt.detach()).square().sum(-1)


class LagrangianCE(LagrangianFamily):
    r"""LSD-CE: cross-entropy against the signed target that the identity gives for π_st.

    .. math:: L = -\sum_k \mathrm{sg}\big(\pi_{t,t}(X_{s,t}) - \kappa\, \partial_t\pi_{s,t}\big)_k \log \pi_{s,t,k}

    The target sums to 1 but may be negative; the gradient in the logits is π - target, as for a proper one. There is
    no logarithm of the target, hence nothing to clamp.
    """

    def compare(self, flow_map: FlowMap, z_st: Tensor, dz_st: Tensor, z_tt: Tensor, s: Tensor, t: Tensor) -> Tensor:
        require_simplex(flow_map, "LagrangianCE")
        log_pi = wide(z_st).log_softmax(-1)
        dpi_st = flow_map.dmean(log_pi.exp(), wide(dz_st))
        target = (flow_map.mean(z_tt) - flow_map.kappa(s, t) * dpi_st).detach()
        return -(target * log_pi).sum(-1)


class LagrangianKL(LagrangianFamily):
    r"""LSD-KL: the identity solved for the logits of π_st.

    .. math:: L = \mathrm{KL}(\mathrm{sg}\, q \,\|\, \pi_{s,t}), \qquad
              q = \mathrm{softmax}\big(z_{t,t}(X_{s,t}) - \log(1 + \kappa(\dot z - \langle\pi, \dot z\rangle))\big)

    The argument of the logarithm can leave its domain while the map is not yet consistent; it is held at ``floor`` and
    the share of such entries is logged as ``clamp_rate``. At the exact map it equals :math:`\pi_{t,t}/\pi_{s,t}`, which
    is as small as one likes wherever the posterior has settled: whatever the floor, late jumps meet it, and there the
    gradient does not vanish at the truth. Prefer :class:`LagrangianCE`, whose gradient is the same and unbiased.

    Arguments:
        floor: Smallest argument of the logarithm.
    Invariant: on an exact map the gradient is 0 where no entry is held, and not where one is (``tests/identities``).
    Reference: Potaptchik et al. 2026, *Discrete Flow Maps*, arXiv 2604.09784.
    """

    def __init__(self, floor: float = 1e-3, derivative: Derivative | None = None):
        super().__init__(derivative=derivative)
        self.floor = floor

    def compare(self, flow_map: FlowMap, z_st: Tensor, dz_st: Tensor, z_tt: Tensor, s: Tensor, t: Tensor) -> Losses:
        require_simplex(flow_map, "LagrangianKL")
        log_pi = wide(z_st).log_softmax(-1)
        dz = wide(dz_st).detach()
        factor = 1 + flow_map.kappa(s, t) * (dz - (log_pi.detach().exp() * dz).sum(-1, keepdim=True))
        return kl_to_logits(wide(z_tt), factor, self.floor, log_pi)


def kl_to_logits(z: Tensor, factor: Tensor, floor: float, log_pi: Tensor) -> tuple[Tensor, Tensor]:
    """KL(sg softmax(z - log factor) || π) with the factor held at a floor, and the share of entries held."""
    log_q = (z - factor.clamp(min=floor).log()).log_softmax(-1).detach()
    held = (factor < floor).to(log_pi.dtype).mean(-1)
    return (log_q.exp() * (log_q - log_pi)).sum(-1), held


class EndpointConsistency(LagrangianFamily):
    r"""ECLD: cross-entropy to the teacher's endpoint plus a penalty on temporal drift.

    .. math:: L = c\, w \,\mathrm{CE}\big(\mathrm{sg}\,\pi_{t,t}(X_{s,t}), \pi_{s,t}\big)
                  + d\, \gamma^p \| \partial_t \pi_{s,t} \|^2, \qquad w = (1-t)^{-2} \text{ or } 1

    With c = 4, d = 2, p = 2 and w = (1-t)^-2 it bounds the squared Lagrangian residual over (1-t)²; c = 2 is enough,
    since ‖d‖² <= KL for differences of points of the simplex. Used with w = 1. Its minimiser shrinks temporal drift, so
    it is biased: prefer an unbiased objective unless you reproduce published numbers. Both terms sum over categories
    and are averaged over positions alike.

    Arguments:
        endpoint: The constant c.
        drift: The constant d.
        power: The power p of γ.
        weighted: Use w = (1-t)^-2 instead of 1; diverges at t = 1.
    Reference: Roos et al. 2026, *Categorical Flow Maps*, arXiv 2602.12233, equations 16, 18 and 19.
    """

    def __init__(
        self,
        endpoint: float = 4.0,
        drift: float = 2.0,
        power: float = 2.0,
        weighted: bool = False,
        derivative: Derivative | None = None,
    ):
        super().__init__(derivative=derivative)
        self.endpoint, self.drift, self.power, self.weighted = endpoint, drift, power, weighted

    def compare(self, flow_map: FlowMap, z_st: Tensor, dz_st: Tensor, z_tt: Tensor, s: Tensor, t: Tensor) -> Tensor:
        require_simplex(flow_map, "EndpointConsistency")
        log_pi = wide(z_st).log_softmax(-1)
        dpi_st = flow_map.dmean(log_pi.exp(), wide(dz_st))
        gamma = ((t - s) / (1 - s)).squeeze(-1)
        w = (1 - t.squeeze(-1)) ** -2 if self.weighted else 1.0
        endpoint = -(flow_map.mean(z_tt).detach() * log_pi).sum(-1)
        return self.endpoint * w * endpoint + self.drift * gamma**self.power * dpi_st.square().sum(-1)
