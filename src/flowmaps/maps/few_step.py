"""A flow map in a few jumps as a bijection: its density by the Jacobian of every jump."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..autodiff import jacobian
from ..fields import FREE, Condition
from ..spaces import Torus
from ..times import check_grid, grid
from .bijection import Bijection
from .flow import VelocityMap


class Scored(NamedTuple):
    """Log-densities, and what they are worth.

    Arguments:
        x_0, x_1: Source and data points.
        log_prob: log p(x_1) in nats, ``(n,)``.
        cycle: Distance of what is found back to where it began, ``(n,)``, in the units of the space: of x_1 where data
            were scored, of x_0 where samples were. Where it is large the value means nothing.
        folded: Whether a jump turns the orientation round there, bool ``(n,)``: it is then no bijection.
    """

    x_0: Tensor
    x_1: Tensor
    log_prob: Tensor
    cycle: Tensor
    folded: Tensor


class FewStep(Bijection):
    r"""Jumps of a velocity map over a grid, with the density of what they generate.

    .. math:: \log p(x_1) = \log p_0(x_0) - \sum_i \log|\det J_i(x_{t_i})|, \qquad
              J_i = \frac{\partial X_{t_i,t_{i+1}}}{\partial x}

    The full Jacobian is taken by batched forward mode, one pass for each coordinate: for at most about 66 of them. The
    value is that of the jumps as they are, whether or not they follow the flow, as long as they are invertible, which
    :class:`~flowmaps.objectives.Cycle` trains. The inverse is by jumps backwards in time, improved by Newton's method.

    Arguments:
        flow_map: On a flat space, or a torus.
        times: A grid from 0 to 1, or its number of equal steps.
        newton: Steps of Newton's method after each jump backwards: with two or three the inverse is exact where the
            jump is invertible and the jump backwards was near; 0 takes the jump as it is.
        double: Compute in float64 whatever the precision of the weights; the map itself becomes float64.
    Raises: ValueError if the map has no such density, or the grid does not reach from 0 to 1.
    Invariant: exact on exact maps (``tests/maps/test_few_step.py``).
    Reference: Rehman et al. 2025, *FALCON*, arXiv 2512.09914.
    """

    def __init__(self, flow_map: VelocityMap[Tensor], times: int | Tensor = 4, newton: int = 0, double: bool = False):
        if not isinstance(flow_map, VelocityMap) or not (flow_map.space.flat or isinstance(flow_map.space, Torus)):
            where = type(getattr(flow_map, "space", None)).__name__
            raise ValueError(
                f"the density of jumps needs a VelocityMap on a flat space or a torus, not a {type(flow_map).__name__} "
                f"on {where}; use ProbabilityFlow on other spaces"
            )
        super().__init__(flow_map.path)
        self.flow_map, self.wide = (flow_map.double() if double else flow_map), double
        self.times = grid(times) if isinstance(times, int) else check_grid(times)
        if self.times[0] != 0 or self.times[-1] != 1:
            raise ValueError(f"times go from {float(self.times[0])} to {float(self.times[-1])}, expected from 0 to 1")
        if newton < 0:
            raise ValueError(f"newton is {newton}, expected a number of steps, or 0")
        self.newton = newton

    def _jump(self, x: Tensor, s: float, t: float, condition: Condition) -> Tensor:
        times = (x.new_full(x.shape[:1], float(time)) for time in (s, t))
        return self.flow_map(x, *times, condition)

    def _log_det(self, x: Tensor, s: float, t: float, condition: Condition) -> tuple[Tensor, Tensor, Tensor]:
        """The end of a jump, log|det| and the sign of the determinant."""
        J = jacobian(lambda x: self._jump(x, s, t, condition), x)
        sign, log_det = torch.linalg.slogdet(J)
        return self._jump(x, s, t, condition), log_det, sign

    def _precise(self, x: Tensor) -> Tensor:
        return x.double() if self.wide else x

    def _intervals(self) -> list[tuple[float, float]]:
        times = self.times.tolist()
        return list(zip(times[:-1], times[1:], strict=True))

    def _forward(self, x_0: Tensor, condition: Condition) -> tuple[Tensor, Tensor, Tensor]:
        x = self._precise(x_0)
        total, folded = x.new_zeros(len(x)), torch.zeros(len(x), dtype=torch.bool, device=x.device)
        for s, t in self._intervals():
            x, log_det, sign = self._log_det(x, s, t, condition)
            total, folded = total + log_det, folded | (sign <= 0)
        return x, total, folded

    def forward(self, x_0: Tensor, condition: Condition = FREE) -> tuple[Tensor, Tensor]:
        return self._forward(x_0, condition)[:2]

    def push(self, x_0: Tensor, condition: Condition = FREE) -> Tensor:
        """Data by the jumps alone, without their Jacobians."""
        x = self._precise(x_0)
        for s, t in self._intervals():
            x = self._jump(x, s, t, condition)
        return x

    def back(self, x_1: Tensor, condition: Condition = FREE) -> Tensor:
        """The source point that leads to x_1, by jumps backwards."""
        x = self._precise(x_1)
        for s, t in reversed(self._intervals()):
            x = self._newton(self._jump(x, t, s, condition), x, s, t, condition)
        return x

    def _newton(self, x_s: Tensor, x_t: Tensor, s: float, t: float, condition: Condition) -> Tensor:
        for _ in range(self.newton):
            r = self.space.log(self._jump(x_s, s, t, condition), x_t)
            J = jacobian(lambda x: self._jump(x, s, t, condition), x_s)
            step = torch.linalg.solve_ex(J, r.flatten(1))[0]
            x_s = self.space.exp(x_s, step.view_as(x_s))
        return x_s

    def inverse(self, x_1: Tensor, condition: Condition = FREE) -> tuple[Tensor, Tensor]:
        x_0 = self.back(x_1, condition)
        return x_0, -self._forward(x_0, condition)[1]

    @torch.no_grad()
    def scored(self, x_1: Tensor, condition: Condition = FREE) -> Scored:
        """Data with their log-densities and cycle errors."""
        x_0 = self.back(x_1, condition)
        again, log_det, folded = self._forward(x_0, condition)
        return Scored(x_0, x_1, self.log_source(x_0) - log_det, self._distance(x_1.to(again.dtype), again), folded)

    @torch.no_grad()
    def sampled(self, x_0: Tensor, condition: Condition = FREE) -> Scored:
        """Samples of source points, with their log-densities and cycle errors."""
        x_1, log_det, folded = self._forward(x_0, condition)
        cycle = self._distance(x_0.to(x_1.dtype), self.back(x_1, condition))
        return Scored(x_0, x_1, self.log_source(x_0) - log_det, cycle, folded)

    def _distance(self, x: Tensor, y: Tensor) -> Tensor:
        return self.space.log(x, y).flatten(1).norm(dim=1)
