r"""Exact weights for guided, annealed and product distributions (Feynman-Kac correctors).

.. math:: \tilde p \propto \prod_i q_i^{\beta_i}, \qquad B = \sum_i \beta_i

A guided velocity follows such a product in its drift but not in its distribution. The weights of this module are
what is missing. In the variables y = x/(1-t), U = t/(1-t), with \bar\mu = Σ β_i μ_i,

.. math:: \frac{dy}{dU} = \bar\mu - \frac{(B-1) f}{U}\, y, \qquad
          \frac{d\log w}{dU} = U\Big(\|\bar\mu\|^2 - \sum_i\beta_i\|\mu_i\|^2\Big)
          - (B-1)(1+f)\, y\cdot\bar\mu + \frac{B(B-1) f}{U}\|y\|^2

for any f with values in [0, 1], f(0) = 0; for B = 1 it drops out and the weight is β(β-1) U ‖μ_1 - μ_2‖² in the case of
two factors. f = 1 is the drift of the paper cited, singular at t = 0; f = 0 has no singularity there but leaves the
target near t = 1. Here f = U²/(U² + U_0²), so particles start at t = 0 from N(0, I/B) with equal weights.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Generic, NamedTuple, TypedDict, Unpack

import torch
from torch import Tensor

from ..evaluation import Readout, Readouts, blend, in_chunks, total, wide
from ..fields import (
    FREE,
    Condition,
    Data,
    S,
    Shape,
    State,
    batched,
    first_leaf,
    like,
    parts,
    select,
    take,
    unzipped,
    zeros_like,
)
from ..likelihood import cut_off
from ..maps import EndpointMap
from ..samplers import Argmax, Decoder
from ..samplers.base import keep_given, source_point
from ..spaces import Categorical, OneHot
from .cloud import Cloud, Counter, Population, Steered, shared, stream
from .guidance import Guidance, unchanged
from .kernels import disturb, langevin


class Expert(NamedTuple):
    """One factor of a product: the distribution of a map, under what it sees of the condition, to a power."""

    flow_map: EndpointMap
    exponent: float
    sees: Callable[[Condition], Condition] = unchanged


@dataclass(frozen=True)
class View(Generic[S]):
    """What the experts say about states at one time.

    Arguments:
        mu: Σ β_i μ_i in the space of states.
        spread: Σ β_i ‖μ_i‖² - ‖Σ β_i μ_i‖² of each sample, over free coordinates, ``(n,)``.
        scores: Readouts of Σ β_i log μ_i.
    """

    mu: S
    spread: Tensor
    scores: Readouts


class Settings(TypedDict, total=False):
    """The arguments of :class:`Corrector` beside its experts."""

    steps: int
    c: float | None
    threshold: float
    weighted: bool
    U_0: float
    U_max: float | None


class Corrector:
    r"""Samples of a product of distributions, with weights that make them exact as steps shrink and particles grow.

    Arguments:
        experts: The factors; their maps live on one space, and share the support at the data.
        steps: Steps of second order, equal in U = t/(1-t).
        c: Strength of the Langevin noise that lets copies part, :math:`\rho = c\,\Delta\log(1 + U)`; 0 for none. By
            default 1, and 4 if B is not 1: there the drift keeps the mean but not the width, which noise restores.
        threshold: Resample below this share of effective particles; never if c = 0.
        weighted: Carry the weights; without them this is plain guidance, with its bias.
        U_0: Where f changes from 0 to 1; counts only if B is not 1.
        U_max: Where the posteriors count as settled; by the alphabet if not given.
    B = 1 (guidance, autoguidance) works in any dimension in which the distributions are not too far apart. Otherwise
    the weights of every coordinate fluctuate: expect an effective size that falls exponentially with the number of
    coordinates. Large noise biases few steps where exponents are negative; look at the log-normaliser at twice the
    steps.

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
        sizes = parts(self.experts[0].flow_map.space.sizes())
        self.U_max = U_max or cut_off(max(size for size in sizes if size))

    @classmethod
    def of(cls, guidance: Guidance, **options: Unpack[Settings]) -> Corrector:
        """The corrector of a guided map: q_weak^(1-w) q_strong^w."""
        pair = guidance.network
        if callable(pair.scale):
            raise ValueError(
                "a schedule of scales follows no single product of distributions; correct a constant scale"
            )
        return cls([Expert(pair.weak, 1 - pair.scale, pair.weaken), Expert(pair.strong, pair.scale)], **options)

    def __call__(
        self,
        shape: Shape,
        particles: int,
        generator: torch.Generator,
        *,
        condition: Condition = FREE,
        given: Data | None = None,
        decoder: Decoder | None = None,
        population: int | None = None,
    ) -> Steered:
        """Weighted samples; arguments as those of :class:`~flowmaps.steering.particles.Method`."""

        def run(n: int, first: int, counter: Counter) -> Population:
            own, clean = shared(condition, particles, first, n), shared(given, particles, first, n)
            cloud, view, own, clean = self._travel(batched(shape, n), own, clean, generator)
            sample = (decoder or Argmax())(view.scores, generator, self.experts[0].flow_map.chunk)
            result = cloud.finish(keep_given(sample, own, clean), torch.zeros_like(cloud.log_w))
            result = replace(result, condition=own)
            return result if self.weighted else replace(result, log_z=math.nan, variance=math.nan, counts=0.0)

        return stream(run, [e.flow_map for e in self.experts], particles, population)

    def _travel(
        self, shape: Shape, condition: Condition, given: Data | None, generator: torch.Generator
    ) -> tuple[Cloud, View, Condition, Data | None]:
        """Particles from noise to U_max, each with its own condition and given categories."""
        x = source_point(self.experts[0].flow_map, shape, generator, condition, given)
        start = self.experts[0].flow_map.path.clamp(x / self.B**0.5, x, condition)
        cloud = Cloud(start, generator, self.threshold)
        grid = torch.linspace(0, self.U_max, self.steps + 1, dtype=torch.float64).tolist()
        free = _coordinates(cloud.x, condition)
        view = self._look(cloud.x, grid[0], condition)
        for U, V in zip(grid[:-1], grid[1:], strict=True):
            start, dy, rate = cloud.x, self._velocity(cloud.x, view, U), self._gain(cloud.x, view, U, condition)
            cloud.x = self._move(start, dy, U, V, condition)
            ahead = self._look(cloud.x, V, condition)
            dy = (dy + self._velocity(cloud.x, ahead, V)) / 2
            gain = (rate + self._gain(cloud.x, ahead, V, condition)) / 2
            cloud.x = self._move(start, dy, U, V, condition)
            view = self._look(cloud.x, V, condition)
            if self.weighted:
                cloud.weigh((V - U) * gain + self._contraction(U, V) * free)
            index = cloud.resample()
            mu = view.mu
            if index is not None:
                mu, given = take(mu, index), take(given, index)
                condition, free = select(condition, index), free[index]
            if self.c > 0:
                cloud.x = self._refresh(cloud.x, mu, U, V, condition, generator)
                view = self._look(cloud.x, V, condition)
        if not self.weighted:
            cloud.weigh(torch.zeros_like(cloud.log_w))
        return cloud, view, condition, given

    def _time(self, x: S, U: float) -> Tensor:
        leaf = first_leaf(x)
        return leaf.new_full(leaf.shape[:1], U / (1 + U))

    def _share(self, U: float) -> float:
        """f / U."""
        return U / (U * U + self.U_0**2)

    def _velocity(self, x: S, view: View[S], U: float) -> S:
        """dy/dU; x = y / (1 + U)."""
        shrink = (self.B - 1) * self._share(U) * (1 + U)
        return view.mu if shrink == 0 else view.mu - shrink * x

    def _gain(self, x: S, view: View[S], U: float, condition: Condition) -> Tensor:
        """d log w / dU."""
        gain = -U * view.spread
        if self.B == 1:
            return gain
        f_U = self._share(U)
        y = x * (1 + U)
        dot = _sum((y * view.mu).sum(-1), condition)
        square = _sum(y.square().sum(-1), condition)
        return gain + (self.B - 1) * (self.B * f_U * square - (1 + f_U * U) * dot)

    def _contraction(self, U: float, V: float) -> float:
        """The integral of -(B-1) f/U, by which the drift contracts each coordinate of y on its way from U to V."""
        return (1 - self.B) / 2 * math.log((V * V + self.U_0**2) / (U * U + self.U_0**2))

    def _move(self, x: S, dy: S, U: float, V: float, condition: Condition) -> S:
        """The state at V from that at U: y + (V - U) dy/dU, in x."""
        moved = (x * (1 + U) + (V - U) * dy) / (1 + V)
        return self.experts[0].flow_map.path.clamp(moved, x, condition)

    def _refresh(self, x: S, mu: S, U: float, V: float, condition: Condition, generator: torch.Generator) -> S:
        flow_map, rate = self.experts[0].flow_map, self.c * math.log((1 + V) / (1 + U))
        new, _ = disturb(flow_map, *langevin(x, mu, self._time(x, V), rate, self.B), generator)
        return flow_map.path.clamp(new, x, condition)

    def _look(self, x: S, U: float, condition: Condition) -> View[S]:
        t = self._time(x, U)
        reads = [e.flow_map.readout(e.flow_map.features(x, t, t, e.sees(condition))) for e in self.experts]
        space, chunk = self.experts[0].flow_map.path.space, self.experts[0].flow_map.chunk
        mu, spread = unzipped(space.each(lambda space, *r: self._mix(space, r, chunk), *reads))
        mu = self.experts[0].flow_map.path.clamp(like(mu, x), x, condition)
        return View(mu, _sum(space.once(spread), condition), blend(reads, self._product))

    def _mix(self, space: Categorical, reads: Sequence[Readout], chunk: int | None) -> tuple[Tensor, Tensor]:
        def mix(*z: Tensor) -> tuple[Tensor, Tensor]:
            pis = [e.flow_map.mean(z_i) for e, z_i in zip(self.experts, z, strict=True)]
            mean = torch.stack([e.exponent * pi for e, pi in zip(self.experts, pis, strict=True)]).sum(0)
            squares = [e.exponent * pi.square().sum(-1) for e, pi in zip(self.experts, pis, strict=True)]
            return space.lift(mean), torch.stack(squares).sum(0) - mean.square().sum(-1)

        return in_chunks(mix, *reads, chunk=chunk)

    def _product(self, *z: Tensor) -> Tensor:
        """Σ β_i log π_i."""
        pairs = zip(self.experts, z, strict=True)
        return torch.stack([e.exponent * wide(z_i).log_softmax(-1) for e, z_i in pairs]).sum(0)


def _check(experts: list[Expert], B: float) -> None:
    if not experts or not B > 0:
        raise ValueError(f"{len(experts)} factors whose exponents sum to {B}: expected at least one and a positive sum")
    space = experts[0].flow_map.path.space
    for e in experts:
        if not isinstance(e.flow_map, EndpointMap) or isinstance(e.flow_map, Guidance):
            raise ValueError(
                f"a factor is a {type(e.flow_map).__name__}; expected plain endpoint maps, whose distribution is known"
            )
        if e.flow_map.space.sizes() != space.sizes():
            sizes = f"{space.sizes()} and {e.flow_map.space.sizes()}"
            raise ValueError(f"factors have {sizes} categories; multiply maps of one alphabet")
        e.flow_map.path.require_gaussian("a product of distributions")
    if B != 1 and (not isinstance(space, OneHot) or space.symmetric):
        raise ValueError(f"exponents sum to {B}, expected 1 unless states are plain OneHot, not {type(space).__name__}")


def _sum(values: State, condition: Condition) -> Tensor:
    """Sum over fields and free positions, ``(n,)``, in double precision."""
    return total(values.to(torch.float64), condition)


def _coordinates(x: S, condition: Condition) -> Tensor:
    """Number of free coordinates of each state, ``(n,)``."""
    return _sum((zeros_like(x) + 1.0).sum(-1), condition)
