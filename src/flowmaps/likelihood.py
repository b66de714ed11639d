r"""Upper bounds on -log p(x_1) for any denoiser, with error bars; and log p(x_1) itself of points, by their flow.

With u = t/(1-t), the root of the signal-to-noise ratio, and e = e_{x_1}, every bound has the form

.. math:: -\log p(x_1) \le \mathbb{E}\Big[\sum_{\text{positions}} \int a(u)\, \mathrm{CE}(u)
          + b(u)\, \|e - \pi_u\|^2 \, du\Big], \qquad \mathrm{CE}(u) = -\log \pi_{t,t}(x_t)[x_1]

for a distribution or a point of cut-offs. They are tight for the true posterior and never below the truth for any
network. They look at the diagonal alone: no bound here sees a jump, and a map with a good one may jump badly.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar, Generic

import torch
from torch import Tensor, nn

from .autodiff import Derivative, ForwardMode
from .evaluation import Evaluation, total, wide
from .fields import FREE, Batch, Condition, Data, S, first_leaf, joined, like, parts, zeros_like
from .maps import EndpointMap, FlowMap, VelocityMap
from .spaces import FisherSphere
from .times import stratified

BOUND_BY_CE = 0.8146  # ‖e_k - π‖² <= 0.8146 CE for every point π of the simplex


def cut_off(K: int) -> float:
    """u beyond which the integrand vanishes: sqrt(2 ln K) + 5."""
    return math.sqrt(2 * math.log(max(K, 2))) + 5


@dataclass(frozen=True)
class Estimate:
    """A bound on the mean of -log p in nats per example, with its standard error.

    Arguments:
        nats: Mean over the examples.
        error: Standard error, over examples and Monte Carlo draws together.
        n: Number of examples.
        positions: Mean number of positions that were scored.
        rate_error: Standard error of ``nats / positions``, a ratio of two means: longer examples cost more, so it is
            not ``error / positions`` where lengths vary.
        uniform: What a uniform distribution over the categories has instead of ``nats``.
    """

    nats: float
    error: float
    n: int
    positions: float
    rate_error: float
    uniform: float = math.inf

    @classmethod
    def of(cls, nats: Tensor, positions: Tensor, uniform: float = math.inf) -> Estimate:
        r"""From nats and positions of each example, ``(n,)``.

        .. math:: \mathrm{Var}\Big(\frac{\bar v}{\bar p}\Big) \approx
                  \frac{1}{n\,\bar p^2}\, \mathrm{Var}\Big(v - \frac{\bar v}{\bar p}\, p\Big)
        """
        n, mean, length = len(nats), nats.mean(), positions.mean()
        around = nats - mean / length * positions
        error, rate_error = (float(v.std() / n**0.5) for v in (nats, around / length))
        return cls(float(mean), error, n, float(length), rate_error, uniform)

    @property
    def bits_per_position(self) -> float:
        return self.nats / self.positions / math.log(2)

    @property
    def bits_error(self) -> float:
        return self.rate_error / math.log(2)

    @property
    def perplexity(self) -> float:
        nats = self.nats / self.positions
        return math.exp(nats) if nats < 700 else math.inf

    @property
    def perplexity_error(self) -> float:
        return self.perplexity * self.rate_error

    @property
    def vacuous(self) -> bool:
        """Whether the bound says no more than that there are categories: it is no better than uniform."""
        return self.nats >= self.uniform


class Bound(ABC):
    """One bound; a call gives an unbiased estimate per example.

    Arguments:
        U_max: Largest cut-off u; by default the alphabet's ``cut_off``.
        draws: Monte Carlo points per example, stratified over example and draw.
        symbol: What reports call it.
    """

    symbol: ClassVar[str]

    def __init__(self, U_max: float | None = None, draws: int = 8):
        if U_max is not None and not U_max > 0:
            raise ValueError(f"U_max is {U_max}, expected a positive root signal-to-noise ratio")
        if draws < 1:
            raise ValueError(f"draws is {draws}, expected at least 1")
        self.U_max, self.draws = U_max, draws

    @abstractmethod
    def points(self, n: int, U_max: float, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """u, and its weights a and b on CE and the squared error, each ``(n, m)``."""

    @torch.no_grad()
    def __call__(self, flow_map: EndpointMap, batch: Batch, generator: torch.Generator) -> Tensor:
        """Estimates in nats per example, float64, shape ``(n,)``."""
        if not isinstance(flow_map, EndpointMap):
            raise ValueError(f"bounds need the posterior of an EndpointMap, not a {type(flow_map).__name__}")
        flow_map.path.require_gaussian("a likelihood bound")
        n = len(first_leaf(batch.x_1))
        K = max(k for k in parts(flow_map.space.sizes()) if k)
        u, a, b = self.points(n, self.U_max or cut_off(K), generator)
        total = torch.zeros(n, dtype=torch.float64, device=u.device)
        for i in range(u.shape[1]):
            ce, square = errors(flow_map, batch, u[:, i] / (1 + u[:, i]), generator)
            total += a[:, i] * ce.double() + b[:, i] * square.double()
        return total


class CutOff(Bound):
    r"""B1: one cut-off U.

    .. math:: -\log p \le \mathbb{E}[\mathrm{CE}(U)] + \int_0^U u\, \mathbb{E}\|e - \pi_u\|^2 du

    With the true posterior the gap is the total correlation that the posterior at U still has: 0 for one position at
    every U, and vanishing for any number once U settles the example (the default).
    """

    symbol = "B1"

    def points(self, n: int, U_max: float, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        u = _spread(n, self.draws, generator) * U_max
        end, zero = torch.full_like(u[:, :1], U_max), torch.zeros_like(u[:, :1])
        a = torch.cat([torch.zeros_like(u), zero + 1], 1)
        b = torch.cat([u * U_max / self.draws, zero], 1)
        return torch.cat([u, end], 1), a, b


class Averaged(Bound):
    r"""B2: B1 averaged over cut-offs, here uniform in [U_low, U_max].

    .. math:: \int w(u)\,\mathrm{CE}(u)\,du + \int u\, P(U > u)\, \mathbb{E}\|e - \pi_u\|^2 du
    """

    symbol = "B2"

    def __init__(self, U_low: float = 0.0, U_max: float | None = None, draws: int = 8):
        super().__init__(U_max, draws)
        self.U_low = U_low

    def points(self, n: int, U_max: float, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        if not 0 <= self.U_low < U_max:
            raise ValueError(f"U_low is {self.U_low}, expected a number in [0, U_max = {U_max:.2f})")
        u = _spread(n, self.draws, generator) * U_max
        width = U_max - self.U_low
        inside = (u >= self.U_low).to(u.dtype)
        survival = ((U_max - u) / width).clamp(max=1)
        return u, inside * U_max / width / self.draws, u * survival * U_max / self.draws


class CrossEntropyOnly(CutOff):
    r"""B3: the squared error replaced by its bound 0.8146 CE; looser.

    .. math:: -\log p \le \mathbb{E}[\mathrm{CE}(U)] + 0.8146 \int_0^U u\, \mathbb{E}[\mathrm{CE}(u)]\, du
    """

    symbol = "B3"

    def points(self, n: int, U_max: float, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        u, a, b = super().points(n, U_max, generator)
        return u, a + BOUND_BY_CE * b, torch.zeros_like(b)


class Grid(Bound):
    r"""B4: a finite grid 0 = u_0 < ... < u_N; valid however coarse.

    .. math:: \sum_i \tfrac{u_{i+1}^2 - u_i^2}{2}\, \mathbb{E}\|e - \pi_{u_i}\|^2 + \mathbb{E}[\mathrm{CE}(u_N)]

    With few steps it bounds the ancestral sampler of the diagonal that takes as many, and says nothing of the jumps
    of a map:

    .. math:: Z_{i+1} = Z_i + (u_{i+1}^2 - u_i^2)\, \pi_{u_i} + \sqrt{u_{i+1}^2 - u_i^2}\; \xi, \qquad
              Z = \tfrac{u}{1-t}\, x_t, \quad Z_0 = 0, \qquad x_1 \sim \pi_{u_N}

    Arguments:
        steps: N, equal steps in u.
        U_max: u_N.
    """

    symbol = "B4"

    def __init__(self, steps: int = 64, U_max: float | None = None):
        super().__init__(U_max, steps)

    def points(self, n: int, U_max: float, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        u = torch.linspace(0, U_max, self.draws + 1, dtype=torch.float64, device=generator.device)
        b = torch.cat([u.square().diff() / 2, u.new_zeros(1)])
        a = torch.zeros_like(b)
        a[-1] = 1
        u, a, b = (v.float().expand(n, -1) for v in (u, a, b))
        return u, a, b


def errors(flow_map: EndpointMap, batch: Batch, t: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Cross-entropy and squared error of π_tt at a fresh x_t, summed over fields and scored positions, ``(n,)``."""
    x_1, condition = batch
    path = flow_map.path
    x_0 = path.start(flow_map.noise(path.space.positions(x_1), generator))
    t = t.to(first_leaf(x_0).dtype)
    x_t = flow_map.path(x_0, x_1, t, condition)
    h = flow_map.features(x_t, t, t, condition)

    def both(z: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        log_pi = wide(z).log_softmax(-1)
        log_k, pi = log_pi.gather(-1, k.long()).squeeze(-1), log_pi.exp()
        return -log_k, 1 - 2 * log_k.exp() + pi.square().sum(-1)

    # The scores of the endpoint: for a guided map they are not the prediction itself.
    values = Evaluation(flow_map.chunk)(both, flow_map.final(x_t, h, t), x_1, names=("ce", "square"))
    ce, square = (total(path.space.once(value), condition) for value in values.values())
    return ce, square


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
            has no density.
        """
        flow_map.space.check(x_1)
        return self.of_states(flow_map, flow_map.space.encode(x_1), condition)

    @torch.no_grad()
    def of_states(self, flow_map: FlowMap[S], end: S, condition: Condition = FREE) -> Tensor:
        """The same of states at time 1."""
        from torchdiffeq import odeint  # imported here, for the time it takes

        if not isinstance(flow_map, VelocityMap):
            raise ValueError(f"the density of the flow needs a VelocityMap, not a {type(flow_map).__name__}")
        first = first_leaf(end)
        velocity = _Velocity(flow_map)

        def flow(time: Tensor, tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            state = joined(end, tensors[:-1])
            v, divergence = self.divergence(velocity, state, time.to(first.dtype).repeat(len(first)), condition)
            return *parts(v), divergence

        start, times = (*parts(end), first.new_zeros(len(first))), first.new_tensor([1.0, 0.0])
        *path, change = odeint(flow, start, times, rtol=self.rtol, atol=self.atol, method="dopri5")
        x_0: S = joined(end, [x[-1] for x in path])
        return total(flow_map.path.source.log_density(flow_map.space, x_0), condition) + change[-1]

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


def score(flow_map: EndpointMap, batches: Iterable[Batch], bound: Bound, generator: torch.Generator) -> Estimate:
    """The mean bound over data, with its standard error; streams over ``batches``."""
    values, positions, uniform = [], [], []
    for batch in batches:
        flow_map.space.check(batch.x_1)
        values.append(bound(flow_map, batch, generator).cpu())
        ones = flow_map.space.each(lambda space, x: torch.ones(x.shape, device=x.device), batch.x_1)
        positions.append(total(flow_map.space.once(ones), batch.condition).double().cpu())
        even = flow_map.space.each(lambda space, one: one * math.log(space.K), ones)
        uniform.append(total(flow_map.space.once(even), batch.condition).double().cpu())
    if not values or sum(len(v) for v in values) < 2:
        raise ValueError("a score needs at least two examples for its error bar")
    return Estimate.of(torch.cat(values), torch.cat(positions), float(torch.cat(uniform).mean()))


def _spread(n: int, m: int, generator: torch.Generator) -> Tensor:
    """Uniforms ``(n, m)``: each row has one point in each of m cells, and each column is stratified over the rows."""
    offset = torch.stack([stratified(n, generator=generator).squeeze(-1) for _ in range(m)], dim=1)
    return (torch.arange(m, device=offset.device) + offset) / m
