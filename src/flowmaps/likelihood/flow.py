"""The log-density of points under the flow of a map's diagonal, and a bound on that of categories by it."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Generic

import torch
from torch import Tensor, nn

from ..autodiff import Derivative, ForwardMode
from ..evaluation import total
from ..fields import FREE, Batch, Condition, Data, S, first_leaf, joined, like, parts, zeros_like
from ..maps import FlowMap, VelocityMap
from ..samplers.ode import solved
from ..spaces import FisherSphere


class ProbabilityFlow:
    r"""The log-density of points under the flow of a map's diagonal, from data to noise.

    .. math:: \log p_1(x_1) = \log p_0(x_0) - \int_0^1 \mathrm{div}\, v_t(x_t)\, dt, \qquad
              \mathrm{div}\, v = \sum_i \langle e_i, P\, \partial_{e_i} v \rangle + \partial_v \log \sqrt{|g|}

    P projects to the tangents. The divergence is exact, a pass of forward mode for each direction of the space's frame
    at each position; solved with an adaptive method of order 5. The density is that in the volume of the metric: nats
    per example, which may have any sign, and no bound on anything discrete. Jumps do not enter: a map with a good
    density may jump badly.

    Arguments:
        rtol, atol: Tolerances.
        derivative: How derivatives along the network's inputs are taken.
    Invariant: exact on exact flows (``tests/test_likelihood.py``).
    Reference: Davis et al. 2025, *Generalised flow maps on Riemannian manifolds*, arXiv 2510.21608; Mathieu and Nickel
    2020, *Riemannian continuous normalizing flows*, arXiv 2006.10605.
    """

    def __init__(self, rtol: float = 1e-5, atol: float = 1e-5, derivative: Derivative | None = None):
        if not (rtol > 0 and atol > 0):
            raise ValueError(f"rtol is {rtol} and atol {atol}, expected positive tolerances")
        self.rtol, self.atol, self.derivative = rtol, atol, derivative or ForwardMode()

    @torch.no_grad()
    def __call__(self, flow_map: FlowMap[S], x_1: Data, condition: Condition = FREE) -> Tensor:
        """log p(x_1) in nats, ``(n,)``, of data ``(n, *positions, dim)`` per field.

        Raises: ValueError if the map is no VelocityMap, whose velocity is finite at the data, or its space or source
            has no density, or the flow takes more than 5,000 steps, as that of a map which has diverged.
        """
        flow_map.space.check(x_1)
        return self.of_states(flow_map, flow_map.space.encode(x_1), condition)

    @torch.no_grad()
    def of_states(self, flow_map: FlowMap[S], end: S, condition: Condition = FREE) -> Tensor:
        """The same of states at time 1."""
        if not isinstance(flow_map, VelocityMap):
            raise ValueError(f"the density of the flow needs a VelocityMap, not a {type(flow_map).__name__}")
        first = first_leaf(end)
        velocity = _Velocity(flow_map)

        def flow(time: Tensor, tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            state = joined(end, tensors[:-1])
            v, divergence = self.divergence(velocity, state, time.to(first.dtype).repeat(len(first)), condition)
            return *parts(v), divergence

        start = (*parts(end), first.new_zeros(len(first)))
        *path, change = solved(flow, start, first.new_ones(()), first.new_zeros(()), self.rtol, self.atol)
        x_0: S = joined(end, path)
        return total(flow_map.path.source.log_density(flow_map.space, x_0), condition) + change

    def divergence(self, velocity: _Velocity[S], x: S, t: Tensor, condition: Condition) -> tuple[S, Tensor]:
        """v_t(x) and its divergence ``(n,)``."""
        space, still = velocity.flow_map.space, torch.zeros_like(t)
        v, result = zeros_like(x), torch.zeros_like(t)
        for e in space.frame(x):
            for part in _one_position_each(e):
                there: tuple[S, S] = self.derivative(velocity, (x, t, t), (part, still, still), condition)  # pyright: ignore[reportAssignmentType]  (the fields of x)
                v, change = there
                result = result + total(space.inner(x, part, space.project(x, like(change, x))))
        return v, result + total(space.growth(x, v))


class Smoothed:
    r"""A bound on the log-probability of categories under a flow on the orthant, whose density at a category is none.

    .. math:: \log p(k) \ge \mathbb{E}_u[\log p(\tilde\mu) + \log \tilde\mu_k - \log q(\tilde\mu)], \qquad
              \tilde\mu = (1 - T)\, u + T\, e_k, \quad u \sim \mathrm{Dirichlet}(1)

    It is that of a category drawn from the point :math:`\tilde\mu` of the simplex, not of arg-max; the densities are
    those in the simplex.

    Arguments:
        T: Share of the category, in [0, 1).
        flow: How the density is found.
    Invariant: below the truth, and equal to its own closed form where nothing moves (``tests/test_smoothed.py``).
    Reference: Cheng et al. 2024, *Categorical flow matching on statistical manifolds*, arXiv 2405.16441.
    """

    def __init__(self, T: float = 0.995, flow: ProbabilityFlow | None = None):
        if not 0 <= T < 1:
            raise ValueError(f"T is {T}, expected a share from 0 to below 1")
        self.T, self.flow = T, flow or ProbabilityFlow()

    def __call__(self, flow_map: FlowMap[Tensor], batch: Batch, generator: torch.Generator) -> Tensor:
        """One draw of the bound in nats, ``(n,)``; at most the log-probability in expectation.

        Raises: ValueError if the map is not on a FisherSphere.
        """
        space, k = flow_map.space, first_leaf(batch.x_1)
        if not isinstance(space, FisherSphere):
            raise ValueError(f"the bound is of maps on a FisherSphere, not {type(space).__name__}; use CutOff")
        space.check(k)
        u = -torch.rand(*k.shape, space.K, generator=generator, device=k.device, dtype=flow_map.dtype).log()
        mu = (1 - self.T) * u / u.sum(-1, keepdim=True)
        mu = mu.scatter_add(-1, k.unsqueeze(-1), torch.full_like(mu[..., :1], self.T))
        log_q = math.lgamma(space.K) - (space.K - 1) * math.log1p(-self.T)
        x = space.lift(mu)
        each = mu.gather(-1, k.unsqueeze(-1)).squeeze(-1).log() - log_q - space.log_simplex(x)
        return self.flow.of_states(flow_map, x, batch.condition) + total(each, batch.condition)


class _Velocity(nn.Module, Generic[S]):
    """The velocity of a map, called as a network."""

    def __init__(self, flow_map: FlowMap[S]):
        super().__init__()
        self.flow_map = flow_map

    def forward(self, x: S, s: Tensor, t: Tensor, condition: Condition = FREE) -> S:
        return self.flow_map.velocity(x, s, condition)


def _one_position_each(e: S) -> Iterable[S]:
    """Tangents that are those of ``e`` at one position and 0 at all others, for the positions of each field where
    ``e`` is not 0 itself."""
    fields = parts(e)
    for k, leaf in enumerate(fields):
        places = leaf[0, ..., 0].numel()
        if len(fields) > 1 and not bool(leaf.any()):
            continue
        for place in range(places):
            here = torch.zeros(places, dtype=leaf.dtype, device=leaf.device)
            here[place] = 1
            only = leaf * here.reshape(leaf.shape[1:-1]).unsqueeze(-1)
            yield joined(e, [only if i == k else torch.zeros_like(other) for i, other in enumerate(fields)])
