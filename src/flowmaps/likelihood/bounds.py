r"""Upper bounds on -log p(x_1) for any denoiser, with error bars.

With u = t/(1-t), the root of the signal-to-noise ratio, and e = e_{x_1}, every bound has the form

.. math:: -\log p(x_1) \le \mathbb{E}\Big[\sum_{\text{positions}} \int a(u)\, \mathrm{CE}(u)
          + b(u)\, \|e - \pi_u\|^2 \, du\Big], \qquad \mathrm{CE}(u) = -\log \pi_{t,t}(x_t)[x_1]

for a distribution or a point of cut-offs. They are tight for the true posterior and never below the truth for any
network. They look at the diagonal alone: no bound here sees a jump, and a map with a good one may jump badly.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor

from ..evaluation import Evaluation, total, wide
from ..fields import Batch, State, first_leaf, parts
from ..maps import EndpointMap
from ..times import stratified
from .proposals import Proposal

ENDS = 2  # evaluations at the cut-off itself, a pair for an error
BOUND_BY_CE = 0.8146  # ‖e_k - π‖² <= 0.8146 CE for every point π of the simplex


def cut_off(K: int) -> float:
    """u beyond which the integrand vanishes: sqrt(2 ln K) + 5."""
    return math.sqrt(2 * math.log(max(K, 2))) + 5


class Bound(ABC):
    """One bound; a call gives an unbiased estimate per example.

    Arguments:
        U_max: Largest cut-off u; by default the alphabet's ``cut_off``.
        draws: Monte Carlo points per example, stratified over example and draw.
        proposal: Density that the points have in u; uniform by default.
        symbol: What reports call it.
    """

    symbol: ClassVar[str]

    def __init__(self, U_max: float | None = None, draws: int = 8, proposal: Proposal | None = None):
        if U_max is not None and not U_max > 0:
            raise ValueError(f"U_max is {U_max}, expected a positive root signal-to-noise ratio")
        if draws < 1:
            raise ValueError(f"draws is {draws}, expected at least 1")
        self.U_max, self.draws, self.proposal = U_max, draws, proposal or Proposal()

    @abstractmethod
    def points(self, v: Tensor, U_max: float) -> tuple[Tensor, Tensor, Tensor]:
        """u, and its weights a and b on CE and the squared error, each ``(n, m)``.

        Arguments:
            v: Uniforms ``(n, draws)``, column j in the j-th of as many equal cells of [0, 1).
        """

    def end(self, flow_map: EndpointMap) -> float:
        """The largest cut-off for the alphabet of a map."""
        return self.U_max or cut_off(max(k for k in parts(flow_map.space.sizes()) if k))

    @torch.no_grad()
    def __call__(self, flow_map: EndpointMap, batch: Batch, generator: torch.Generator) -> Tensor:
        """Estimates in nats per example, float64, shape ``(n,)``."""
        require_posterior(flow_map)
        n = len(first_leaf(batch.x_1))
        u, a, b = self.points(_spread(n, self.draws, generator), self.end(flow_map))
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

    def points(self, v: Tensor, U_max: float) -> tuple[Tensor, Tensor, Tensor]:
        u, width = self.proposal(v, U_max)
        end, zero = torch.full_like(u[:, :ENDS], U_max), torch.zeros_like(u[:, :1]).expand(-1, ENDS)
        a = torch.cat([torch.zeros_like(u), zero + 1 / ENDS], 1)
        b = torch.cat([u * width / v.shape[1], zero], 1)
        return torch.cat([u, end], 1), a, b


class Averaged(Bound):
    r"""B2: B1 averaged over cut-offs, here uniform in [U_low, U_max].

    .. math:: \int w(u)\,\mathrm{CE}(u)\,du + \int u\, P(U > u)\, \mathbb{E}\|e - \pi_u\|^2 du
    """

    symbol = "B2"

    def __init__(
        self, U_low: float = 0.0, U_max: float | None = None, draws: int = 8, proposal: Proposal | None = None
    ):
        super().__init__(U_max, draws, proposal)
        self.U_low = U_low

    def points(self, v: Tensor, U_max: float) -> tuple[Tensor, Tensor, Tensor]:
        if not 0 <= self.U_low < U_max:
            raise ValueError(f"U_low is {self.U_low}, expected a number in [0, U_max = {U_max:.2f})")
        u, width = self.proposal(v, U_max)
        cut_offs = U_max - self.U_low
        inside = (u >= self.U_low).to(u.dtype)
        survival = ((U_max - u) / cut_offs).clamp(max=1)
        return u, inside * width / cut_offs / v.shape[1], u * survival * width / v.shape[1]


class CrossEntropyOnly(CutOff):
    r"""B3: the squared error replaced by its bound 0.8146 CE; looser.

    .. math:: -\log p \le \mathbb{E}[\mathrm{CE}(U)] + 0.8146 \int_0^U u\, \mathbb{E}[\mathrm{CE}(u)]\, du
    """

    symbol = "B3"

    def points(self, v: Tensor, U_max: float) -> tuple[Tensor, Tensor, Tensor]:
        u, a, b = super().points(v, U_max)
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

    def points(self, v: Tensor, U_max: float) -> tuple[Tensor, Tensor, Tensor]:
        u = torch.linspace(0, U_max, self.draws + 1, dtype=torch.float64, device=v.device)
        b = torch.cat([u.square().diff() / 2, u.new_zeros(1)])
        a = torch.zeros_like(b)
        a[-1] = 1
        u, a, b = (part.float().expand(len(v), -1) for part in (u, a, b))
        return u, a, b


def errors(flow_map: EndpointMap, batch: Batch, t: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Cross-entropy and squared error of π_tt at a fresh x_t, summed over fields and scored positions, ``(n,)``."""
    path = flow_map.path
    return errors_from(flow_map, batch, path.start(flow_map.noise(path.space.positions(batch.x_1), generator)), t)


def errors_from(flow_map: EndpointMap, batch: Batch, x_0: State, t: Tensor) -> tuple[Tensor, Tensor]:
    """The same at the x_t that the path reaches from the source point ``x_0``."""
    x_1, condition = batch
    t = t.to(first_leaf(x_0).dtype)
    x_t = flow_map.path(x_0, x_1, t, condition)
    h = flow_map.features(x_t, t, t, condition)

    def both(z: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        log_pi = wide(z).log_softmax(-1)
        log_k, pi = log_pi.gather(-1, k.long()).squeeze(-1), log_pi.exp()
        return -log_k, 1 - 2 * log_k.exp() + pi.square().sum(-1)

    # The scores of the endpoint: for a guided map they are not the prediction itself.
    values = Evaluation(flow_map.chunk)(both, flow_map.final(x_t, h, t), x_1, names=("ce", "square"))
    ce, square = (total(flow_map.space.once(value), condition) for value in values.values())
    return ce, square


def require_posterior(flow_map: object) -> None:
    """Refuse a map whose diagonal is no posterior of a Gaussian path."""
    if not isinstance(flow_map, EndpointMap):
        raise ValueError(f"bounds need the posterior of an EndpointMap, not a {type(flow_map).__name__}")
    flow_map.path.require_gaussian("a likelihood bound")


def _spread(n: int, m: int, generator: torch.Generator) -> Tensor:
    """Uniforms ``(n, m)``: each row has one point in each of m cells, and each column is stratified over the rows."""
    offset = torch.stack([stratified(n, generator=generator).squeeze(-1) for _ in range(m)], dim=1)
    return (torch.arange(m, device=offset.device) + offset) / m
