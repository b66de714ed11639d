r"""Exact weights for guided, annealed and product laws (Feynman-Kac correctors).

.. math:: \tilde p \propto \prod_i q_i^{\beta_i}, \qquad B = \sum_i \beta_i

A guided velocity follows such a product in its drift but not in its law. The weights of this module are what is
missing. In the variables y = x/(1-t), U = t/(1-t), with \bar\mu = Σ β_i μ_i,

.. math:: \frac{dy}{dU} = \bar\mu - \frac{(B-1) f}{U}\, y, \qquad
          \frac{d\log w}{dU} = U\Big(\|\bar\mu\|^2 - \sum_i\beta_i\|\mu_i\|^2\Big)
          - (B-1)(1+f)\, y\cdot\bar\mu + \frac{B(B-1) f}{U}\|y\|^2

for any f with values in [0, 1], f(0) = 0; for B = 1 it drops out and the weight is β(β-1) U ‖μ_1 - μ_2‖² in the case of
two laws. f = 1 is the drift of the paper cited, singular at t = 0; f = 0 has no singularity there but leaves the target
near t = 1. Here f = U²/(U² + U_0²), so particles start at t = 0 from N(0, I/B) with equal weights.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..fields import FREE, Condition, fieldwise, leaves, select
from ..likelihood import cut_off
from ..maps import EndpointMap, Readout, in_chunks, wide
from ..samplers import Argmax, Decoder
from ..samplers.base import keep_given, source_point
from ..spaces import OneHot
from .cloud import Cloud, Counter, Population, Steered, shared, stream
from .guidance import Guidance, unchanged
from .kernels import disturb, langevin


class Expert(NamedTuple):
    """One factor of a product: the law of a map, told something about the condition, to a power."""

    map: EndpointMap
    exponent: float
    told: Callable[[Condition], Condition] = unchanged


@dataclass(frozen=True)
class View:
    """What the experts say about states at one time.

    Arguments:
        mu: Σ β_i μ_i in the space of states.
        spread: Σ β_i ‖μ_i‖² - ‖Σ β_i μ_i‖² of each sample, over free coordinates, ``(n,)``.
        scores: Readouts of Σ β_i log μ_i.
    """

    mu: Any
    spread: Tensor
    scores: Any


class Corrector:
    r"""Samples of a product of laws, with the weights that make them exact as steps shrink and particles grow.

    Arguments:
        experts: The factors; their maps live on one space, and share the support at the data.
        steps: Steps of second order, equal in U = t/(1-t).
        c: Strength of the Langevin noise that lets copies part, :math:`\rho = c\,\Delta\log(1 + U)`; 0 for none. By
            default 1, and 4 if B is not 1: there the drift keeps the mean but not the width, which noise restores.
        threshold: Resample below this share of effective particles; never if c = 0.
        weighted: Carry the weights; without them this is plain guidance, with its bias.
        U_0: Where f changes from 0 to 1; counts only if B is not 1.
        U_max: Where the posteriors count as settled; by the alphabet if not given.
    B = 1 (guidance, autoguidance) works in any dimension in which the laws are not too far apart. Otherwise the weights
    of every coordinate fluctuate: expect an effective size that falls exponentially with the number of coordinates.
    Large noise biases few steps where exponents are negative; look at the log-normaliser at twice the steps.

    Raises: ValueError if there is no factor, B <= 0, the maps differ in their alphabet, or B is not 1 on a space other
        than plain ``OneHot`` states.
    Invariant: the weighted samples tend to the product, and the normaliser to Σ Π q_i^{β_i} over the data
        (``tests/steering/test_correctors.py``).
    Reference: Skreta et al. 2025, *Feynman-Kac correctors in diffusion*, arXiv 2503.02819.
    """

    def __init__(
        self,
        experts: Sequence[Expert],
        steps: int = 64,
        c: float | None = None,
        threshold: float = 0.5,
        weighted: bool = True,
        U_0: float = 2.0,
        U_max: float | None = None,
    ):
        self.experts, B = list(experts), math.fsum(e.exponent for e in experts)
        self.B = 1.0 if math.isclose(B, 1, rel_tol=1e-9) else B  # sums such as .1 + .2 + .7 are rounded
        c = (1.0 if self.B == 1 else 4.0) if c is None else c
        if steps < 1 or not 0 <= c < math.inf or not 0 <= threshold <= 1 or not U_0 > 0:
            given = f"steps {steps}, c {c}, threshold {threshold}, U_0 {U_0}"
            raise ValueError(f"{given}: expected steps >= 1, c >= 0, threshold in [0, 1] and U_0 > 0")
        _check(self.experts, self.B)
        self.steps, self.c, self.weighted, self.U_0 = steps, c, weighted, U_0
        self.threshold = threshold if c > 0 and weighted else 0.0
        sizes = [k for (k,) in leaves(self.experts[0].map.path.space.sizes())]
        self.U_max = U_max or cut_off(max(sizes))

    @classmethod
    def of(cls, guidance: Guidance, **options: Any) -> Corrector:
        """The corrector of a guided map: q_weak^(1-w) q_strong^w."""
        pair: Any = guidance.network
        if callable(pair.scale):
            raise ValueError("a schedule of scales follows no single product of laws; correct a constant scale")
        return cls([Expert(pair.weak, 1 - pair.scale, pair.weaken), Expert(pair.strong, pair.scale)], **options)

    def __call__(
        self,
        shape: Any,
        particles: int,
        generator: torch.Generator,
        *,
        condition: Condition = FREE,
        given: Any = None,
        decoder: Decoder | None = None,
        population: int | None = None,
    ) -> Steered:
        """Weighted samples; arguments as those of :class:`~flowmaps.steering.particles.Method`."""
        shape = fieldwise(tuple, shape if isinstance(shape, dict) else tuple(shape))

        def run(n: int, first: int, counter: Counter) -> Population:
            full = fieldwise(lambda positions: (n, *positions), shape)
            known, clean = (shared(part, particles, first, n) for part in (condition, given))
            cloud, view, known, clean = self._travel(full, known, clean, generator)
            scores = (decoder or Argmax())(view.scores, generator, self.experts[0].map.chunk)
            samples = keep_given(scores, known, clean)
            result = replace(cloud.finish(samples, torch.zeros_like(cloud.log_w)), condition=known)
            return result if self.weighted else replace(result, log_z=math.nan, variance=math.nan, counts=0.0)

        return stream(run, [e.map for e in self.experts], particles, population)

    def _travel(
        self, shape: Any, condition: Condition, given: Any, generator: Any
    ) -> tuple[Cloud, View, Condition, Any]:
        """Particles from noise to U_max, each with its own condition and given categories."""
        x = source_point(self.experts[0].map, shape, generator, condition, given)
        noise = fieldwise(lambda leaf: leaf / self.B**0.5, x)
        cloud = Cloud(self.experts[0].map.path.clamp(noise, x, condition), generator, self.threshold)
        grid = torch.linspace(0, self.U_max, self.steps + 1, dtype=torch.float64).tolist()
        free = _coordinates(cloud.x, condition)
        view = self._look(cloud.x, grid[0], condition)
        for U, V in zip(grid[:-1], grid[1:], strict=True):
            start, slope, rate = cloud.x, self._slope(cloud.x, view, U), self._gain(cloud.x, view, U, condition)
            cloud.x = self._move(start, slope, U, V, condition)
            ahead = self._look(cloud.x, V, condition)
            slopes = fieldwise(lambda a, b: (a + b) / 2, slope, self._slope(cloud.x, ahead, V))
            gain = (rate + self._gain(cloud.x, ahead, V, condition)) / 2
            cloud.x = self._move(start, slopes, U, V, condition)
            view = self._look(cloud.x, V, condition)
            if self.weighted:
                cloud.weigh((V - U) * gain + self._contraction(U, V) * free)
            index = cloud.resample()
            mu = view.mu
            if index is not None:
                mu, given = (None if part is None else fieldwise(lambda m, i=index: m[i], part) for part in (mu, given))
                condition, free = select(condition, index), free[index]
            if self.c > 0:
                cloud.x = self._refresh(cloud.x, mu, U, V, condition, generator)
                view = self._look(cloud.x, V, condition)
        if not self.weighted:
            cloud.weigh(torch.zeros_like(cloud.log_w))
        return cloud, view, condition, given

    def _time(self, x: Any, U: float) -> Tensor:
        leaf = next(leaves(x))[0]
        return leaf.new_full(leaf.shape[:1], U / (1 + U))

    def _share(self, U: float) -> float:
        """f / U."""
        return U / (U * U + self.U_0**2)

    def _slope(self, x: Any, view: View, U: float) -> Any:
        """dy/dU; x = y / (1 + U)."""
        shrink = (self.B - 1) * self._share(U) * (1 + U)
        return view.mu if shrink == 0 else fieldwise(lambda mu, x: mu - shrink * x, view.mu, x)

    def _gain(self, x: Any, view: View, U: float, condition: Condition) -> Tensor:
        """d log w / dU."""
        gain = -U * view.spread
        if self.B == 1:
            return gain
        f_U = self._share(U)
        y = fieldwise(lambda x: x * (1 + U), x)
        dot = _sum(fieldwise(lambda y, mu: (y * mu).sum(-1), y, view.mu), condition)
        square = _sum(fieldwise(lambda y: y.square().sum(-1), y), condition)
        return gain + (self.B - 1) * (self.B * f_U * square - (1 + f_U * U) * dot)

    def _contraction(self, U: float, V: float) -> float:
        """The integral of -(B-1) f/U, by which the drift contracts each coordinate of y on its way from U to V."""
        return (1 - self.B) / 2 * math.log((V * V + self.U_0**2) / (U * U + self.U_0**2))

    def _move(self, x: Any, slope: Any, U: float, V: float, condition: Condition) -> Any:
        """The state at V from that at U: y + (V - U) dy/dU, in x."""
        moved = fieldwise(lambda x, d: (x * (1 + U) + (V - U) * d) / (1 + V), x, slope)
        return self.experts[0].map.path.clamp(moved, x, condition)

    def _refresh(self, x: Any, mu: Any, U: float, V: float, condition: Condition, generator: Any) -> Any:
        map, rate = self.experts[0].map, self.c * math.log((1 + V) / (1 + U))
        new, _ = disturb(map, *langevin(x, mu, self._time(x, V), rate, self.B), generator)
        return map.path.clamp(new, x, condition)

    def _look(self, x: Any, U: float, condition: Condition) -> View:
        t = self._time(x, U)
        told = [(e, e.told(condition)) for e in self.experts]
        reads = [e.map.readout(e.map.features(x, t, t, c)) for e, c in told]
        space, chunk = self.experts[0].map.path.space, self.experts[0].map.chunk
        spaces = space.parts()
        results = fieldwise(lambda space, *r: self._mix(space, r, chunk), spaces, *reads)
        part = lambda i: fieldwise(lambda pair: pair[i], results)  # noqa: E731
        mu = fieldwise(lambda m, x: m.to(x.dtype), part(0), x)
        mu = self.experts[0].map.path.clamp(mu, x, condition)
        spread = fieldwise(lambda space, values: space.once(values), spaces, part(1))
        return View(mu, _sum(spread, condition), fieldwise(lambda *r: self._product(r), *reads))

    def _mix(self, space: Any, reads: Sequence[Readout], chunk: int | None) -> Any:
        def mix(*z: Tensor) -> tuple[Tensor, Tensor]:
            pis = [e.map.mean(z_i) for e, z_i in zip(self.experts, z, strict=True)]
            mean = torch.stack([e.exponent * pi for e, pi in zip(self.experts, pis, strict=True)]).sum(0)
            squares = [e.exponent * pi.square().sum(-1) for e, pi in zip(self.experts, pis, strict=True)]
            return space.read(mean), torch.stack(squares).sum(0) - mean.square().sum(-1)

        return in_chunks(mix, *reads, chunk=chunk)

    def _product(self, reads: Sequence[Readout]) -> Readout:
        """Σ β_i log π_i of features side by side."""
        widths = [r.h.shape[-1] for r in reads]

        def read(h: Tensor) -> Tensor:
            parts = zip(self.experts, reads, h.split(widths, dim=-1), strict=True)
            return torch.stack([e.exponent * wide(r.read(part)).log_softmax(-1) for e, r, part in parts]).sum(0)

        return Readout(read, torch.cat([r.h for r in reads], dim=-1))


def _check(experts: list[Expert], B: float) -> None:
    if not experts or not B > 0:
        raise ValueError(f"{len(experts)} factors whose exponents sum to {B}: expected at least one and a positive sum")
    space = experts[0].map.path.space
    for e in experts:
        if not isinstance(e.map, EndpointMap) or isinstance(e.map, Guidance):
            raise ValueError(f"a factor is a {type(e.map).__name__}; expected plain endpoint maps, whose law is known")
        if e.map.path.space.sizes() != space.sizes():
            sizes = f"{space.sizes()} and {e.map.path.space.sizes()}"
            raise ValueError(f"factors have {sizes} categories; multiply maps of one alphabet")
        e.map.path.require_gaussian("a product of distributions")
    if B != 1 and (not isinstance(space, OneHot) or space.symmetric):
        raise ValueError(f"exponents sum to {B}, expected 1 unless states are plain OneHot, not {type(space).__name__}")


def _free(leaf: Tensor, mask: Tensor | None, known: Tensor | None) -> Tensor:
    free = torch.ones_like(leaf, dtype=torch.bool) if mask is None else mask
    return free if known is None else free & ~known


def _sum(values: Any, condition: Condition) -> Tensor:
    """Sum over fields and free positions, ``(n,)``, in double precision."""
    parts = leaves(values, condition.mask, condition.known)
    return torch.stack([torch.where(_free(*p), p[0], 0).double().flatten(1).sum(1) for p in parts]).sum(0)


def _coordinates(x: Any, condition: Condition) -> Tensor:
    """Number of free coordinates of each state, ``(n,)``."""
    return _sum(fieldwise(lambda leaf: torch.full_like(leaf[..., 0], leaf.shape[-1]), x), condition)
