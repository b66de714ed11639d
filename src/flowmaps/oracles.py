r"""Exact flow maps under the interface of learned ones: the truth that every other part is tested on."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .fields import FREE, Condition, across, one_field
from .maps import EndpointMap, VelocityMap
from .paths import GeodesicPath
from .spaces import Euclidean, FisherSphere, OneHot, Space, Torus
from .times import LAST


class FiniteLaw(nn.Module):
    r"""A distribution on finitely many sequences, with its exact posterior and flow.

    .. math:: \mu_t(x) = \sum_n w_n e_{y_n}, \quad w_n \propto p_n \exp\Big(-\frac{\|x - t e_{y_n}\|^2}{2(1-t)^2}\Big),
              \qquad \frac{dy}{dU} = \mu, \quad y = \frac{x}{1-t}, \; U = \frac{t}{1-t}

    In the variables (y, U) the flow has no singularity and π_{s,t} is the plain average of μ over [U_s, U_t], which is
    how it is integrated (Runge-Kutta of order 4, equal steps in U). The diagonal is exact at every state and time. A
    call as a network returns log π_{s,t}.

    Arguments:
        atoms: The sequences, int64 ``(n, *positions)``.
        log_p: Their log-probabilities, up to a constant, ``(n,)``.
        K: Number of categories.
        steps: Runge-Kutta steps of a jump.
        U_max: Up to where steps are equal; beyond, half as many decide what is not settled yet, then μ is constant.
    Invariant: Lagrangian, Eulerian and semigroup residuals vanish (``tests/identities``).
    Reference: Roos et al. 2026, *Categorical Flow Maps*, arXiv 2602.12233.
    """

    atoms: Tensor
    log_p: Tensor
    one_hot: Tensor

    def __init__(self, atoms: Tensor, log_p: Tensor, K: int, steps: int = 64, U_max: float = 12.0):
        super().__init__()
        if atoms.ndim < 2 or len(atoms) != len(log_p):
            shapes = f"{tuple(atoms.shape)} and {tuple(log_p.shape)}"
            raise ValueError(f"atoms and log_p have shapes {shapes}, expected (n, *positions) and (n,)")
        if int(atoms.max()) >= K or int(atoms.min()) < 0:
            raise ValueError(f"atoms range over {int(atoms.min())}..{int(atoms.max())}, expected 0..{K - 1}")
        self.K, self.steps, self.U_max = K, steps, U_max
        self.register_buffer("atoms", atoms)
        self.register_buffer("log_p", log_p.log_softmax(0))
        self.register_buffer("one_hot", F.one_hot(atoms, K).to(log_p.dtype).flatten(1))

    @classmethod
    def dependent(
        cls,
        K: int,
        positions: int,
        *,
        generator: torch.Generator,
        coupling: float = 2.0,
        steps: int = 64,
        U_max: float = 12.0,
    ) -> FiniteLaw:
        r"""All K^positions sequences under random pairwise energies between every two positions.

        .. math:: \log p(y) = \beta \textstyle\sum_{i<j} J_{ij}(y_i, y_j) / \sqrt{positions - 1} + \sum_i h_i(y_i)
        """
        atoms = torch.cartesian_prod(*[torch.arange(K)] * positions).reshape(-1, positions)
        J = torch.randn(positions, positions, K, K, generator=generator, dtype=torch.float64)
        h = torch.randn(positions, K, generator=generator, dtype=torch.float64) / 2
        log_p = sum(h[i, atoms[:, i]] for i in range(positions))
        scale = coupling / max(positions - 1, 1) ** 0.5
        for i in range(positions):
            for j in range(i):
                log_p = log_p + scale * J[i, j, atoms[:, i], atoms[:, j]]
        return cls(atoms, torch.as_tensor(log_p), K, steps, U_max)

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """Exact samples, int64 ``(n, *positions)``."""
        return self.atoms[torch.multinomial(self.log_p.exp(), n, replacement=True, generator=generator)]

    def entropy(self) -> Tensor:
        """Entropy in nats per sequence."""
        return -(self.log_p.exp() * self.log_p).sum()

    def tilt(self, reward: Callable[[Tensor], Tensor], strength: float = 1.0) -> FiniteLaw:
        """The distribution in proportion to p exp(strength * reward), of one-hot atoms ``(n, *positions, K)``."""
        r = reward(self.one_hot.unflatten(1, (*self.atoms.shape[1:], self.K)))
        return FiniteLaw(self.atoms, self.log_p + strength * r, self.K, self.steps, self.U_max)

    def index(self, x_1: Tensor) -> Tensor:
        """The number of each sequence among the atoms, -1 for one that is not there; shape ``(*batch,)``."""
        place = self.K ** torch.arange(self.atoms[0].numel(), device=x_1.device)
        codes, order = (self.atoms.flatten(1) * place).sum(1).sort()
        wanted = (x_1.flatten(1) * place).sum(1)
        found = torch.searchsorted(codes, wanted).clamp(max=len(codes) - 1)
        return torch.where(codes[found] == wanted, order[found], -1)

    def flow_map(self) -> EndpointMap:
        """The exact flow map."""
        return EndpointMap(GeodesicPath(OneHot(self.K)), self)

    def weights(self, y: Tensor, U: Tensor, impossible: Tensor | None = None) -> Tensor:
        """Posterior of the atoms given y = x_t/(1-t) at U, shape ``(batch, n)``."""
        energy = self.log_p.to(y.dtype) + U.unsqueeze(-1) * (y @ self.one_hot.to(y.dtype).mT)
        if impossible is not None:
            energy = energy.masked_fill(impossible, -torch.inf)
        return energy.softmax(-1)

    def forward(self, x: Tensor, s: Tensor, t: Tensor, condition: Condition = FREE) -> Tensor:
        shape, x, diagonal = x.shape, x.flatten(1), s is t
        s, t = (torch.as_tensor(time, dtype=x.dtype, device=x.device).expand(len(x)) for time in (s, t))
        s = s.clamp(max=LAST)
        visible, impossible = self._given(x, shape, condition)
        one_hot = self.one_hot.to(x.dtype)
        mu = lambda y, U: self.weights(y * visible, U, impossible) @ one_hot  # noqa: E731
        y, U = x / (1 - s).unsqueeze(-1), s / (1 - s)
        if diagonal:  # one and the same tensor: the posterior, nothing to integrate
            return _log(mu(y, U)).reshape(shape)
        u = torch.minimum(t, s.clamp(min=self.U_max / (1 + self.U_max)))
        dU = (u - s) / ((1 - u) * (1 - s)) / self.steps
        y, pi = _integrate(mu, y, U, dU, self.steps)
        if bool((t > u).any()):
            gap = torch.where(t > u, t - s, 1)
            lam = ((1 - t) * (u - s) / ((1 - u) * gap)).unsqueeze(-1)
            rest = lam * pi + (1 - lam) * self._settle(mu, y, u, t)
            pi = torch.where((t > u).unsqueeze(-1), rest, pi)
        return _log(pi).reshape(shape)

    def _settle(self, mu: Mean, y: Tensor, u: Tensor, t: Tensor) -> Tensor:
        """π_{u,t} for t > u where posteriors settle: what is left of U_max on, finely, then a constant μ.

        The log-odds of two atoms grow at a rate of U or more, so a stretch of 32/U decides all that float32 can tell.
        """
        U, gap, steps = u / (1 - u), torch.where(t > u, t - u, 1), max(self.steps // 2, 1)
        stretch = torch.minimum(32 / U, gap / ((1 - u) * (1 - t).clamp(min=1 - LAST)))
        y, pi = _integrate(mu, y, U, stretch / steps, steps)
        lam = (stretch * (1 - t) * (1 - u) / gap).clamp(max=1).unsqueeze(-1)
        return lam * pi + (1 - lam) * mu(y, U + stretch)

    def _given(self, x: Tensor, shape: torch.Size, condition: Condition) -> tuple[Tensor, Tensor | None]:
        """Coordinates that speak through noise, and excluded atoms.

        Masked positions say nothing; known ones exclude the atoms that differ there.
        """
        spread = lambda positions: positions.unsqueeze(-1).expand(shape).flatten(1)  # noqa: E731
        visible, impossible = torch.ones_like(x), None
        mask, given = one_field(condition.mask), one_field(condition.known)
        if mask is not None:
            visible = spread(mask).to(x.dtype)
        if given is not None:
            known = spread(given).to(x.dtype)
            agreements = (known * x) @ self.one_hot.to(x.dtype).mT
            impossible = agreements < given.flatten(1).sum(1, keepdim=True) - 0.5
            visible = visible * (1 - known)
        return visible, impossible


Mean = Callable[[Tensor, Tensor], Tensor]


def _integrate(mu: Mean, y: Tensor, U: Tensor, dU: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    """y after that many Runge-Kutta steps of dy/dU = μ, and the average of μ over them."""
    h, total = dU.unsqueeze(-1), torch.zeros_like(y)
    for _ in range(steps):
        k_1 = mu(y, U)
        k_2 = mu(y + h / 2 * k_1, U + dU / 2)
        k_3 = mu(y + h / 2 * k_2, U + dU / 2)
        k_4 = mu(y + h * k_3, U + dU)
        k = (k_1 + 2 * k_2 + 2 * k_3 + k_4) / 6
        y, U, total = y + h * k, U + dU, total + k
    return y, total / steps


def _log(pi: Tensor) -> Tensor:
    return pi.clamp(min=torch.finfo(pi.dtype).tiny).log()


class GaussianLaw(nn.Module):
    r"""Gaussian data N(m, a²) in each coordinate, with its exact flow map.

    .. math:: X_{s,t}(x) = t m + \frac{\sigma_t}{\sigma_s}(x - s m), \qquad \sigma_t^2 = (1-t)^2 + t^2 a^2

    A call as a network returns the mean velocity (X - x)/(t - s), and its limit at s = t.

    Arguments:
        m: Mean, broadcastable to the state.
        a: Standard deviation, positive.
    Reference: Boffi, Albergo, Vanden-Eijnden 2024, *Flow Map Matching*, arXiv 2406.07507.
    """

    m: Tensor

    def __init__(self, m: Tensor, a: float):
        super().__init__()
        if not a > 0:
            raise ValueError(f"a is {a}, expected a positive standard deviation")
        self.register_buffer("m", m)
        self.a = a

    def flow_map(self) -> VelocityMap:
        """The exact flow map; its space is that of plain vectors."""
        return VelocityMap(GeodesicPath(Euclidean(self.m.shape[-1])), self)

    def forward(self, x: Tensor, s: Tensor, t: Tensor, condition: Condition = FREE) -> Tensor:
        s, t = across(s, x), across(t, x)
        # (σ_t - σ_s)/(t - s) without the division: the variance is a quadratic in t.
        deviation = lambda t: ((1 - t).square() + (t * self.a).square()).sqrt()  # noqa: E731
        rate = ((s + t) * (1 + self.a**2) - 2) / (deviation(s) + deviation(t))
        return self.m + rate / deviation(s) * (x - s * self.m)


class PointMass(nn.Module):
    r"""All data at one point y of any space, with its exact flow map: every geodesic ends in y.

    .. math:: X_{s,t}(x) = \exp_x\Big(\frac{t-s}{1-s} \log_x y\Big), \qquad v_t(x) = \frac{\log_x y}{1-t}

    A call as a network returns the velocity, the same at every end of the jump.

    Arguments:
        space: Where the flow lives.
        y: The point, ``(*positions, dim)``.
    """

    y: Tensor

    def __init__(self, space: Space[Tensor], y: Tensor):
        super().__init__()
        self.space = space
        self.register_buffer("y", y)

    def flow_map(self) -> VelocityMap[Tensor]:
        """The exact flow map."""
        return VelocityMap(GeodesicPath(self.space), self)

    def forward(self, x: Tensor, s: Tensor, t: Tensor, condition: Condition = FREE) -> Tensor:
        return self.space.log(x, self.y.expand_as(x)) / (1 - across(s, x))


class LinearField(nn.Module):
    r"""A velocity that is linear in the coordinates and keeps to the space: a rotation of the sphere, of SO(3) by both
    sides, or an isometry of the hyperboloid.

    .. math:: v(x) = G x, \qquad X_{s,t}(x) = e^{(t-s) G}\, x, \qquad
              v_{s,t}(x) = \frac{\log_x X_{s,t}(x)}{t-s}

    Its divergence is 0. A call as a network returns v_{s,t}; jumps must not reach the cut locus.

    Arguments:
        space: Where the flow lives.
        G: Its generator, ``(dim, dim)``.
    """

    G: Tensor

    def __init__(self, space: Space[Tensor], G: Tensor):
        super().__init__()
        self.space = space
        self.register_buffer("G", G)

    def flow_map(self) -> VelocityMap[Tensor]:
        """The exact flow map."""
        return VelocityMap(GeodesicPath(self.space), self)

    def forward(self, x: Tensor, s: Tensor, t: Tensor, condition: Condition = FREE) -> Tensor:
        here = x @ self.G.mT
        if s is t:
            return here
        gap = (t - s).reshape(-1, 1, 1)
        end = torch.einsum("bij,b...j->b...i", torch.linalg.matrix_exp(gap * self.G), x)
        apart = across(torch.where(t > s, t - s, 1), x)
        return torch.where(across(t - s, x) > 0, self.space.log(x, end) / apart, here)


class WrappedNormalLaw(nn.Module):
    r"""Independent angles, wrapped normal, with the exact flow map from uniform ones.

    Given x_1, the difference u of the source to it is uniform, so that x_t = x_1 - (1 - t) u and

    .. math:: \rho_t(x) = \frac1{2a} \sum_k \Big[\Phi\Big(\frac{z_k + a}\sigma\Big)
              - \Phi\Big(\frac{z_k - a}\sigma\Big)\Big], \quad z_k = x - m + 2\pi k, \; a = \pi (1 - t),
              \qquad X_{s,t} = F_t^{-1} \circ F_s

    with F the mass between m and x: nothing flows through m, by symmetry. F is inverted by bisection, and one step of
    Newton's gives it its derivatives. A call as a network returns [X - x]/(t - s), and its limit at s = t.

    Arguments:
        m: Mean, ``(dim,)``.
        deviation: σ, at most 1.5.
    Invariant: identities and likelihood are exact (``tests/identities``, ``tests/test_likelihood.py``).
    """

    m: Tensor
    turns: Tensor

    def __init__(self, m: Tensor, deviation: float, windings: int = 4):
        super().__init__()
        if not 0 < deviation <= 1.5:
            raise ValueError(f"deviation is {deviation}, expected a number in (0, 1.5]")
        self.deviation, self.space = deviation, Torus(m.shape[-1])
        self.register_buffer("m", m)
        self.register_buffer("turns", 2 * math.pi * torch.arange(-windings, windings + 1, dtype=m.dtype))

    def flow_map(self) -> VelocityMap[Tensor]:
        """The exact flow map."""
        return VelocityMap(GeodesicPath(self.space), self)

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """Exact samples ``(n, dim)``."""
        noise = torch.randn(n, self.m.shape[-1], generator=generator, dtype=self.m.dtype)
        return self.space.exp(self.m.expand_as(noise), self.deviation * noise)

    def log_density(self, x: Tensor) -> Tensor:
        """Of data."""
        return self.space.log_wrapped(self.m, x, self.deviation)

    def _sums(self, z: Tensor, a: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Mass from 0 to z, density and flux of ρ at z = x - m."""
        c, phi = self.deviation, lambda w: torch.exp(-w.square() / 2) / math.sqrt(2 * math.pi)
        Phi = torch.special.ndtr
        integral = lambda w: w * Phi(w) + phi(w)  # noqa: E731
        z, a = z.unsqueeze(-1) + self.turns, a.unsqueeze(-1)
        ahead, behind, zero = (z + a) / c, (z - a) / c, self.turns
        mass = integral(ahead) - integral(behind) - integral((zero + a) / c) + integral((zero - a) / c)
        share = Phi(ahead) - Phi(behind)
        # u = (x_1 - x)/(1 - t) with x_1 normal between x - a and x + a.
        moment = -z * share - c * (phi(ahead) - phi(behind))
        return c * mass.sum(-1) / (2 * a[..., 0]), share.sum(-1) / (2 * a[..., 0]), moment.sum(-1) / (2 * a[..., 0])

    def forward(self, x: Tensor, s: Tensor, t: Tensor, condition: Condition = FREE) -> Tensor:
        z = self.space.log(self.m.to(x.dtype).expand_as(x), x)
        a, b = (math.pi * (1 - across(time.clamp(max=LAST), x)).expand_as(x) for time in (s, t))
        mass, density, moment = self._sums(z, a)
        here = moment / density / (a / math.pi)
        if s is t:
            return here
        with torch.no_grad():
            low, high = torch.full_like(z, -math.pi), torch.full_like(z, math.pi)
            for _ in range(60):
                middle = (low + high) / 2
                below = self._sums(middle, b)[0] < mass
                low, high = torch.where(below, middle, low), torch.where(below, high, middle)
        end = ((low + high) / 2).detach()
        reached, slope, _ = self._sums(end, b)
        end = end + (mass - reached) / slope
        apart = across(torch.where(t > s, t - s, 1), x)
        return torch.where(across(t - s, x) > 0, (end - z) / apart, here)


class OrthantLaw(nn.Module):
    r"""Independent positions on the orthant of :class:`~flowmaps.spaces.FisherSphere`, with the exact posterior.

    .. math:: w_k \propto p_k \Big(\frac{\sin r_k}{\sin\theta_k}\Big)^{K-2} [r_k \le \tfrac{\pi}{2}], \qquad
              r_k = \frac{\theta_k}{1-t}, \quad \cos\theta_k = x_k

    A path that ends in category k shrinks the angle to it from r to θ, and its source is on the orthant while r is at
    most a right angle. A call as a network returns log w at time s: the diagonal of an :class:`EndpointMap`, whose flow
    is exact; its jumps are not.

    Arguments:
        p: Probabilities ``(*positions, K)``.
    Invariant: samples of the diagonal's flow have the law p (``tests/test_oracles.py``).
    Reference: Davis et al. 2024, *Fisher flow matching*, arXiv 2405.14664.
    """

    p: Tensor

    def __init__(self, p: Tensor):
        super().__init__()
        if bool((p < 0).any()) or not torch.allclose(p.sum(-1), torch.ones_like(p[..., 0])):
            raise ValueError(f"probabilities sum to {float(p.sum(-1).amin()):g} or more; give some that sum to 1")
        self.register_buffer("p", p)

    def flow_map(self) -> EndpointMap[Tensor]:
        """The map whose diagonal is exact."""
        return EndpointMap(GeodesicPath(FisherSphere(self.p.shape[-1])), self)

    def forward(self, x: Tensor, s: Tensor, t: Tensor, condition: Condition = FREE) -> Tensor:
        theta = x.clamp(-1, 1).arccos()
        r = theta / across((1 - s).clamp(min=1 - LAST), x)
        right = math.pi / 2
        log_ratio = r.clamp(max=right).sin().log() - theta.sin().log()
        settled = torch.where(theta > 0, log_ratio, -torch.log1p(-across(s, x)))  # the limit at the category itself
        beyond = 1e6 * (r - right).clamp(min=0)  # after steps of finite length no source may be left: take the nearest
        return self.p.log().to(x.dtype) + (x.shape[-1] - 2) * settled - beyond
