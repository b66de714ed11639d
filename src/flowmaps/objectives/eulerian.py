r"""Eulerian self-distillation: move the start of the jump along the flow; its end must not change.

.. math:: \pi_{s,t}(x) = \pi_{s,s}(x) + \kappa' D \pi_{s,t}(x), \qquad D = \partial_s + v_s \cdot \nabla_x, \quad
          \kappa' = \frac{(t-s)(1-s)}{1-t}

Everything is multiplied out by 1 - t, and D by 1 - s, so that no division by a vanishing number remains.
"""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor

from ..autodiff import Derivative
from ..evaluation import Evaluation, Readouts, wide
from ..fields import S, across
from ..maps import FlowMap
from ..networks.chunked import Losses
from .base import Identity, Jump, require_simplex
from .lagrangian import kl_to_logits


class EulerianFamily(Identity):
    """Evaluates z_st, its derivative along the flow (times 1 - s), and the diagonal at the start.

    Arguments:
        from_data: Use the example in place of the diagonal prediction: e_{x_1} for π_ss and the velocity of its path
            for v_s. Unbiased for losses linear in the target (MeanFlow, consistency training), at a higher variance.
    """

    def __init__(self, from_data: bool = False, in_state: bool = False, derivative: Derivative | None = None):
        super().__init__(in_state, derivative)
        self.from_data = from_data

    def start(self, flow_map: FlowMap[S], teacher: FlowMap[S], jump: Jump[S]) -> tuple[S, Readouts]:
        """The direction of the diagonal at the start of the jump, and the mean there."""
        x_s, s, condition = jump.x_s, jump.s, jump.condition
        with torch.no_grad():
            if self.from_data:
                velocity = flow_map.path.velocity(jump.x_0, jump.x_1, s, condition)
                return across(flow_map.slack(s), velocity) * velocity, flow_map.target(jump.x_1, velocity)
            h_ss = teacher.features(x_s, s, s, condition)
            return teacher.direction(x_s, h_ss, condition), teacher.readout(h_ss)

    def between_means(
        self, flow_map: FlowMap[S], teacher: FlowMap[S], jump: Jump[S], evaluate: Evaluation[S]
    ) -> dict[str, S]:
        s, t = jump.s, jump.t
        d_ss, start = self.start(flow_map, teacher, jump)
        h_st, dh_st = self.along(flow_map.network, jump, d_ss, flow_map.slack(s), torch.zeros_like(t))
        compare = lambda *z: self.compare(flow_map, *z)  # noqa: E731
        return evaluate(compare, flow_map.readout(h_st), flow_map.tangent(dh_st), start, s, t)

    @abstractmethod
    def compare(self, flow_map: FlowMap, z_st: Tensor, dz_st: Tensor, z_ss: Tensor, s: Tensor, t: Tensor) -> Losses:
        """The loss of predictions (positions, K) at times (positions, 1); optionally with a clamp rate."""


class Eulerian(EulerianFamily):
    r"""ESD: the residual, with the gradient through π_st alone.

    .. math:: r = (1-t)(\pi_{s,t} - \pi_{s,s}) - (t-s)(1-s)\, D\pi_{s,t}, \qquad
              L = \| \pi_{s,t} - \mathrm{sg}(\pi_{s,t} - r) \|^2

    This is ‖π_st - sg[π_ss + κ'Dπ_st]‖² weighted by 1 - t in its gradient, 2 r ∇π_st, which stays informative at t = 1:
    there it is consistency training. Its value is ‖r‖². On a curved space it is G-ESD, with the true push-forward and
    the gradient through the derivative in s alone:

    .. math:: r = \ell(s)\, \partial_s X_{s,t}(x_s) + \mathrm{sg}\; dX_{s,t}[d_{s,s}(x_s)]

    Between means the residual may be stabilised as in Align Your Flow, whose tangent it is up to the sign:

    .. math:: r = (1-t)(\pi_{s,t} - \pi_{s,s}) - \rho\,(t-s)(1-s)\, D\pi_{s,t}, \qquad
              L = \Big\| \pi_{s,t} - \mathrm{sg}\Big(\pi_{s,t} - \frac{r}{\|r\| + c}\Big) \Big\|^2

    Arguments:
        normalise: The constant c (0.1 in Align Your Flow), the norm being that of a position, so that no residual
            weighs more than 1; ``None`` leaves the residual as it is.
        warm_up: Updates over which ρ grows linearly from 0, where the loss is flow matching, to its ``limit``.
        limit: The final ρ; 1 is the identity itself, 0.99 the value of Align Your Flow.
    Raises: ValueError if an option is out of its range, or asked for in the form between states.
    Reference: Boffi et al. 2025, arXiv 2505.18825; Geng et al. 2025, *Mean flows for one-step generative modeling*,
    arXiv 2505.13447; Sabour et al. 2025, *Align your flow*, arXiv 2506.14603; Davis et al. 2025, arXiv 2510.21608.
    """

    updates: Tensor

    def __init__(
        self,
        from_data: bool = False,
        in_state: bool = False,
        derivative: Derivative | None = None,
        normalise: float | None = None,
        warm_up: int = 0,
        limit: float = 1.0,
    ):
        super().__init__(from_data, in_state, derivative)
        if normalise is not None and not normalise > 0:
            raise ValueError(f"normalise is {normalise}, expected a positive constant such as 0.1, or None")
        if warm_up < 0 or not 0 <= limit <= 1:
            raise ValueError(f"warm_up is {warm_up} and limit {limit}, expected updates >= 0 and a factor in [0, 1]")
        self.normalise, self.warm_up, self.limit = normalise, warm_up, limit
        if in_state:
            self._between_means_alone("in_state is True")
        if warm_up:
            self.register_buffer("updates", torch.zeros((), dtype=torch.float64))  # saved with the run

    def after_step(self) -> None:
        if self.warm_up:
            self.updates += 1

    @property
    def rho(self) -> Tensor | float:
        """ρ at this update."""
        return self.limit * (self.updates / self.warm_up).clamp(max=1) if self.warm_up else self.limit

    def _between_means_alone(self, reason: str) -> None:
        if self.normalise is not None or self.warm_up or self.limit != 1:
            raise ValueError(
                f"normalise, warm_up and limit are for residuals between means, but {reason}; leave them out"
            )

    def between_states(self, flow_map: FlowMap[S], teacher: FlowMap[S], jump: Jump[S]) -> tuple[S, S]:
        self._between_means_alone(f"the space is {type(flow_map.space).__name__}")
        s, still = jump.s, torch.zeros_like(jump.s)
        d_ss, _ = self.start(flow_map, teacher, jump)
        x_t, dx_t = self.along(flow_map, jump, None, flow_map.slack(s), still)
        with torch.no_grad():
            _, pushed = self.along(flow_map, jump, d_ss, still, still)
        return x_t, flow_map.space.project(x_t, dx_t + pushed)

    def compare(self, flow_map: FlowMap, z_st: Tensor, dz_st: Tensor, z_ss: Tensor, s: Tensor, t: Tensor) -> Tensor:
        pi_st = flow_map.mean(z_st)
        dpi_st = flow_map.dmean(pi_st, wide(dz_st))
        pi_ss = wide(z_ss) if self.from_data else flow_map.mean(z_ss)
        r = flow_map.slack(t) * (pi_st - pi_ss) - self.rho * (t - s) * dpi_st
        if self.normalise is not None:
            r = r / (r.norm(dim=-1, keepdim=True) + self.normalise)
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
        super().__init__(derivative=derivative)
        self.floor = floor

    def compare(self, flow_map: FlowMap, z_st: Tensor, dz_st: Tensor, z_ss: Tensor, s: Tensor, t: Tensor) -> Losses:
        require_simplex(flow_map, "EulerianKL")
        log_pi = wide(z_st).log_softmax(-1)
        Dz = wide(dz_st).detach()  # the direction carries the factor 1 - s
        delta = Dz - (log_pi.detach().exp() * Dz).sum(-1, keepdim=True)
        return kl_to_logits(wide(z_ss), (1 - t) - (t - s) * delta, self.floor, log_pi)
