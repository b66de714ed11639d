r"""Distributions of times and of pairs of times, and the decode-rate clock. Time 0 is noise, time 1 is data.

A distribution is a pure map of uniform numbers, so that the caller owns the randomness and may stratify it.
"""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Collection
from typing import TypeVar

import torch
from torch import Tensor, nn

LAST = 1 - 2**-24  # the largest float32 below 1: s and t of the diagonal stay at or below it


def stratified(n: int, dims: int = 1, *, generator: torch.Generator, dtype: torch.dtype = torch.float32) -> Tensor:
    r"""Latin hypercube of ``n`` points: each coordinate has one point in each of ``n`` equal cells.

    .. math:: u_{ij} = (\sigma_j(i) + \epsilon_{ij}) / n

    Returns: uniforms in ``[0, 1)``, shape ``(n, dims)``, on the generator's device.
    """
    device = generator.device
    cells = [torch.randperm(n, generator=generator, device=device) for _ in range(dims)]
    jitter = torch.rand(n, dims, generator=generator, device=device, dtype=dtype)
    return ((torch.stack(cells, dim=-1) + jitter) / n).clamp(max=LAST)


class TimeLaw(nn.Module, ABC):
    """Distribution of one time: maps uniforms ``(n,)`` to times in ``[0, 1)``."""

    @abstractmethod
    def forward(self, u: Tensor) -> Tensor: ...

    def weight(self, t: Tensor) -> Tensor | None:
        """Factor of the loss at ``t`` that makes up for how often it is drawn; ``None`` where draws count as they come.

        Arguments:
            t: Times that the law has drawn since it last learned, ``(n,)``.
        """
        return None

    def learn(self, t: Tensor, loss: Tensor) -> None:  # noqa: B027
        """Take note of the losses ``(n,)`` at times ``(n,)``."""

    def after_step(self) -> None:  # noqa: B027
        """Called after each update of the weights; draws follow what was noted."""


class PairLaw(nn.Module, ABC):
    """Distribution of a jump ``s <= t``: maps uniforms ``(n, 2)`` to ``(s, t)``, with ``s < 1``."""

    @abstractmethod
    def forward(self, u: Tensor) -> tuple[Tensor, Tensor]: ...


class Uniform(TimeLaw):
    """t ~ U[0, 1)."""

    def forward(self, u: Tensor) -> Tensor:
        return u


class LogitNormal(TimeLaw):
    r"""Logit of t normal: :math:`t = \sigma(m + a z)`; more weight in the middle of the path.

    Reference: Esser et al. 2024, *Scaling rectified flow transformers*, arXiv 2403.03206.
    """

    def __init__(self, mean: float = -0.4, deviation: float = 1.0):
        super().__init__()
        self.mean, self.deviation = mean, deviation

    def forward(self, u: Tensor) -> Tensor:
        z = torch.special.ndtri(u.clamp(min=2**-24))
        return torch.sigmoid(self.mean + self.deviation * z).clamp(max=LAST)


class RatioPower(TimeLaw):
    r"""A power of a uniform number as the ratio of data to noise: how bounds on the likelihood weigh times.

    .. math:: t = \frac{u}{1+u}, \qquad u = u_{\max}\, v^{1/p}, \qquad \text{density of } u \propto u^{p-1}

    ``power=1`` is uniform in u; 2 is the bound on the likelihood by cross-entropies, of weight t/(1-t)³ dt = u du.

    Arguments:
        power: p, above 0.
        top: The largest ratio; beyond √(2 ln K) + 5 every position of an alphabet of K is decoded.
    Raises: ValueError if a setting is not positive.
    Reference: Kingma et al. 2021, *Variational diffusion models*, arXiv 2107.00630 (the weighting by likelihood).
    """

    def __init__(self, power: float = 1.0, top: float = 10.0):
        super().__init__()
        for name, value in (("power", power), ("top", top)):
            if not 0 < value < math.inf:
                raise ValueError(f"{name} is {value}, expected a positive number")
        self.power, self.top = power, top

    def forward(self, u: Tensor) -> Tensor:
        ratio = self.top * u.pow(1 / self.power)
        return (ratio / (1 + ratio)).clamp(max=LAST)


class Sorted(PairLaw):
    """Two independent draws, sorted; of uniform ones this is the uniform triangle."""

    def __init__(self, law: TimeLaw | None = None):
        super().__init__()
        self.law = law or Uniform()

    def forward(self, u: Tensor) -> tuple[Tensor, Tensor]:
        a, b = self.law(u[:, 0]), self.law(u[:, 1])
        return torch.minimum(a, b), torch.maximum(a, b)


class Triangle(Sorted):
    """(s, t) uniform on the triangle s < t: two sorted uniforms."""

    def __init__(self):
        super().__init__(Uniform())


class UniformBelow(PairLaw):
    """t ~ U[0, 1), then s ~ U[0, t]."""

    def forward(self, u: Tensor) -> tuple[Tensor, Tensor]:
        t = u[:, 0]
        return t * u[:, 1], t


class UniformGap(PairLaw):
    """d = t - s ~ U[0, 1), then s ~ U(0, 1 - d): long and short jumps equally often."""

    def forward(self, u: Tensor) -> tuple[Tensor, Tensor]:
        d = u[:, 0]
        s = u[:, 1] * (1 - d)
        return s, (s + d).clamp(max=LAST)


class ToData(PairLaw):
    """s ~ U[0, 1), t = 1: the pairs of consistency training, where every jump ends at the data."""

    def forward(self, u: Tensor) -> tuple[Tensor, Tensor]:
        return u[:, 0], torch.ones_like(u[:, 0])


class FullJump(PairLaw):
    """With a small probability the jump (0, 1) of one-step sampling, otherwise another distribution.

    A Lagrangian identity of an endpoint map asks nothing of a jump to 1 and leaves it out (:mod:`flowmaps.objectives`).
    """

    def __init__(self, law: PairLaw | None = None, probability: float = 0.05):
        super().__init__()
        if not 0 <= probability <= 1:
            raise ValueError(f"probability is {probability}, expected a number in [0, 1]")
        self.law, self.probability = law or Triangle(), probability

    def forward(self, u: Tensor) -> tuple[Tensor, Tensor]:
        p = self.probability
        full = u[:, 0] < p
        rest = torch.stack([((u[:, 0] - p) / max(1 - p, 2**-24)).clamp(0, LAST), u[:, 1]], dim=-1)
        s, t = self.law(rest)
        return torch.where(full, 0.0, s), torch.where(full, 1.0, t)


class OnGrid(PairLaw):
    r"""Part of the pairs are the jumps of a grid that a map will be sampled on, the others of another distribution.

    .. math:: (s, t) = (t_i, \; t_{i+1} + \eta\, (1 - t_{i+1})), \qquad i \text{ uniform in } 0, \dots, N-1

    Arguments:
        times: The grid, ``0 <= t_0 < ... < t_N <= 1``.
        law: Of the other pairs; the uniform triangle by default.
        probability: Share of the grid's jumps.
        overshoot: η in [0, 1] of sampling that re-noises: how far its jumps go beyond the grid's times.
    Raises: ValueError if the times do not increase, or a number is outside of [0, 1].
    """

    times: Tensor

    def __init__(
        self,
        times: tuple[float, ...],
        law: PairLaw | None = None,
        probability: float = 0.25,
        overshoot: float = 0.0,
    ):
        super().__init__()
        for name, value in (("probability", probability), ("overshoot", overshoot)):
            if not 0 <= value <= 1:
                raise ValueError(f"{name} is {value}, expected a number in [0, 1]")
        self.register_buffer("times", check_grid(torch.tensor(times, dtype=torch.float32)), persistent=False)
        self.law, self.probability, self.overshoot = law or Triangle(), probability, overshoot

    def forward(self, u: Tensor) -> tuple[Tensor, Tensor]:
        times, p = self.times.to(u), self.probability
        chosen, jumps = u[:, 0] < p, len(times) - 1
        i = (u[:, 0] / max(p, 2**-24) * jumps).long().clamp(max=jumps - 1)
        end = times[i + 1] + self.overshoot * (1 - times[i + 1])
        rest = torch.stack([((u[:, 0] - p) / max(1 - p, 2**-24)).clamp(0, LAST), u[:, 1]], dim=-1)
        s, t = self.law(rest)
        return torch.where(chosen, times[i], s), torch.where(chosen, end, t)


class DecodeRateClock(nn.Module):
    r"""Time measured by how much of a position is decoded already.

    .. math:: q(t) = E_z[\Phi(z + t/(1-t))^{K-1}], \quad a(t) = \frac{q - 1/K}{1 - 1/K}, \quad
              c(t) = (1-\epsilon)\, a(t) + \epsilon\, t

    ``q`` is the probability that the largest coordinate of :math:`x_t` is the right category. Half of decoding happens
    near :math:`t^* = \sqrt{2 \ln K}/(1 + \sqrt{2 \ln K})`, so at large K uniform times are spent on pure noise.

    Arguments:
        K: Number of categories, at least 2.
        temper: The share ``epsilon`` of plain time, in [0, 1].
        table: Points of the table by which the clock is inverted.
    Invariant: ``inverse(clock(t)) = t`` within the table's spacing (``tests/test_times.py``).
    Reference: Lee et al. 2026, arXiv 2602.16813; Potaptchik et al. 2026, arXiv 2604.09784.
    """

    z: Tensor
    weight: Tensor
    table: Tensor

    def __init__(self, K: int, temper: float = 0.1, table: int = 4097):
        super().__init__()
        if K < 2:
            raise ValueError(f"K is {K}, expected at least 2 categories for a decode rate")
        if not 0 <= temper <= 1:
            raise ValueError(f"temper is {temper}, expected a number in [0, 1]")
        if not 2 <= table <= 2**20:
            raise ValueError(f"table is {table}, expected 2 to {2**20:,} points")
        self.K, self.temper = K, temper
        # The trapezoid rule converges geometrically for analytic integrands with Gaussian tails.
        z = torch.linspace(-7, 7, 113, dtype=torch.float64)
        weight = torch.exp(-z.square() / 2)
        self.register_buffer("z", z, persistent=False)
        self.register_buffer("weight", weight / weight.sum(), persistent=False)
        t = torch.linspace(0, 1, table, dtype=torch.float64)
        self.register_buffer("table", torch.cummax(self.forward(t), dim=0).values, persistent=False)

    def decode_rate(self, t: Tensor) -> Tensor:
        """q(t), the probability that the arg-max of x_t is the example, shape of ``t``, float32 at least."""
        t = t.to(torch.promote_types(t.dtype, torch.float32))
        ratio = t / (1 - t).clamp(min=1e-3)  # beyond a ratio of 1,000 every alphabet is decoded
        log_phi = torch.special.log_ndtr(self.z.to(t.dtype) + ratio.unsqueeze(-1))
        device = "cpu" if t.is_meta else t.device.type  # autocast knows no tensors without memory
        with torch.autocast(device, enabled=False):  # a product in bf16 would make steps of the clock
            return torch.exp((self.K - 1) * log_phi) @ self.weight.to(t.dtype)

    def forward(self, t: Tensor) -> Tensor:
        """c(t) in [0, 1], any shape, differentiable."""
        a = (self.decode_rate(t) - 1 / self.K) * (self.K / (self.K - 1))
        return (1 - self.temper) * a + self.temper * t

    def inverse(self, c: Tensor) -> Tensor:
        """The time at which the clock shows ``c``: linear interpolation in the table, on the device."""
        table = self.table.to(c.dtype)
        right = torch.searchsorted(table, c.contiguous()).clamp(1, len(table) - 1)
        left = right - 1
        gap = (table[right] - table[left]).clamp(min=torch.finfo(c.dtype).tiny)
        part = ((c - table[left]) / gap).clamp(0, 1)
        return ((left + part) / (len(table) - 1)).clamp(max=LAST)


class OnClock(TimeLaw):
    """Times uniform (or of another distribution) on a clock, read back as times.

    Arguments:
        clock: By default that of the alphabet of the map in training, see :func:`on_alphabet`.
        law: Distribution of the times that the clock shows.
    """

    def __init__(self, clock: DecodeRateClock | None = None, law: TimeLaw | None = None):
        super().__init__()
        self.clock, self.law = clock, law or Uniform()

    def forward(self, u: Tensor) -> Tensor:
        return _given(self.clock).inverse(self.law(u))

    def weight(self, t: Tensor) -> Tensor | None:
        return self.law.weight(_given(self.clock)(t))

    def learn(self, t: Tensor, loss: Tensor) -> None:
        self.law.learn(_given(self.clock)(t), loss)

    def after_step(self) -> None:
        self.law.after_step()


class PairOnClock(PairLaw):
    """Pairs of another distribution on a clock, read back as times; a jump that ends at 1 still does.

    Arguments:
        clock, law: As for :class:`OnClock`, of pairs.
    """

    def __init__(self, clock: DecodeRateClock | None = None, law: PairLaw | None = None):
        super().__init__()
        self.clock, self.law = clock, law or Triangle()

    def forward(self, u: Tensor) -> tuple[Tensor, Tensor]:
        a, b = self.law(u)
        clock = _given(self.clock)
        return clock.inverse(a), torch.where(b < 1, clock.inverse(b), 1.0)


def _given(clock: DecodeRateClock | None) -> DecodeRateClock:
    if clock is None:
        raise ValueError(
            "a distribution on a clock has none yet; give it a clock, or an objective, which knows the alphabet"
        )
    return clock


Law = TypeVar("Law", TimeLaw, PairLaw)


def on_alphabet(law: Law, sizes: Collection[int]) -> Law:
    """The distribution, with the decode-rate clock of an alphabet wherever it has none.

    Arguments:
        sizes: Numbers of categories of the fields of the map in training.
    Raises: ValueError if a clock is of another alphabet, or there are several to choose from.
    """
    for part in law.modules():
        if isinstance(part, DecodeRateClock) and part.K not in sizes:
            raise ValueError(f"the clock is of K = {part.K} categories and the map of {_either(sizes)}; leave the "
                             "clock out, it follows from the data")  # fmt: skip
    if not any(part.clock is None for part in law.modules() if isinstance(part, OnClock | PairOnClock)):
        return law
    if len(set(sizes)) > 1:
        raise ValueError(f"a clock may be of K = {_either(sizes)} categories: the fields differ; name its K")
    law = copy.deepcopy(law)  # the same one may serve a map of another alphabet
    for part in law.modules():
        if isinstance(part, OnClock | PairOnClock) and part.clock is None:
            part.clock = DecodeRateClock(*set(sizes))
    return law


def _either(sizes: Collection[int]) -> str:
    return " or ".join(str(K) for K in sorted(set(sizes)))


MOST_STEPS = 2**20  # of a grid in single precision, whose times near 1 are 2^-24 apart


def grid(steps: int, clock: DecodeRateClock | None = None) -> Tensor:
    """Times ``0 = t_0 < ... < t_N = 1``, equally spaced in time or on a clock, shape ``(steps + 1,)``."""
    if not 1 <= steps <= MOST_STEPS:
        raise ValueError(f"steps is {steps}, expected 1 to {MOST_STEPS}")
    times = torch.linspace(0, 1, steps + 1)
    if clock is not None:
        times[1:-1] = clock.inverse(times[1:-1].to(clock.table.device)).cpu()
    return times


def check_grid(times: Tensor) -> Tensor:
    """Return ``times`` if they increase strictly from 0 or later to 1 or earlier; explain otherwise."""
    try:
        times = torch.as_tensor(times)
        single = times.float()  # the precision of most states: times that are one there would be a step of no time
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"{times!r} is no time grid: expected a tensor or list of numbers from 0 to 1") from error
    if times.ndim != 1 or len(times) < 2:
        raise ValueError(f"a time grid has shape {tuple(times.shape)}, expected at least two times in a row")
    if not bool((single[1:] > single[:-1]).all()) or not bool(((single >= 0) & (single <= 1)).all()):
        given = [round(float(t), 8) for t in single]
        raise ValueError(f"time grid {given}: expected increasing times within [0, 1], in single precision too")
    return times


def half_decoded(K: int) -> float:
    """t* = sqrt(2 ln K) / (1 + sqrt(2 ln K)), near which half of decoding happens."""
    root = math.sqrt(2 * math.log(K))
    return root / (1 + root)
