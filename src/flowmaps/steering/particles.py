r"""Steering by a reward r at test time.

.. math:: \tilde p(x_1) \propto p(x_1)\, e^{\lambda r(x_1)}

:class:`FeynmanKac` and :class:`Tilted` represent this distribution by weighted samples, exactly as the number of
particles grows, whatever the map and the number of steps: p is then the distribution of their own plain sampler.
:class:`BestOf` and :class:`LookAhead` trade the distribution for a higher reward.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Generic

import torch
from torch import Tensor

from ..evaluation import Readouts
from ..fields import FREE, Condition, Data, S, Shape, across, batched, first_leaf, select, take, where
from ..maps import FlowMap
from ..samplers import Argmax, Decoder, Jumps, Renoise, Sampler, Stochastic
from ..samplers.base import keep_given, source_point
from .cloud import Cloud, Counter, Population, Steered, shared, stream
from .kernels import disturb, inner
from .lookahead import look_ahead, look_ahead_gradient
from .rewards import Hard, Reward, Score

Schedule = Callable[[float], float]
Potential = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Tilt(Generic[S]):
    """The tilted law of one population; arguments as in :class:`Method`, ``first`` numbers its particles."""

    flow_map: FlowMap[S]
    reward: Reward
    strength: float
    shape: Shape
    first: int
    condition: Condition
    given: Data | None
    decoder: Decoder
    generator: torch.Generator
    counter: Counter

    def start(self, sampler: Sampler) -> S:
        """Source points."""
        return source_point(self.flow_map, self.shape, self.generator, self.condition, self.given, sampler.spread)

    def finish(self, sampler: Sampler, x: S, s: Tensor) -> tuple[Data, Tensor]:
        """Samples decoded from the states at the last time, and their rewards."""
        return self.decode(sampler.final(self.flow_map, x, s, self.condition))

    def decode(self, scores: Readouts) -> tuple[Data, Tensor]:
        """Samples and their rewards from scores."""
        samples = keep_given(self.decoder(scores, self.generator, self.flow_map.chunk), self.condition, self.given)
        mask = self.condition.mask
        existing = samples if mask is None else where(mask, samples, -1)
        return samples, self.reward.of_sample(existing, self.flow_map.space.sizes(), self.first)

    def keep(self, index: Tensor | None) -> Tilt[S]:
        """The same tilt for the particles that were kept, with their own conditions."""
        if index is None:
            return self
        return replace(self, condition=select(self.condition, index), given=take(self.given, index))

    def look_ahead(self, x: S, t: Tensor) -> Tensor:
        return look_ahead(self.flow_map, self.reward, x, t, self.condition, self.first)

    def gradient(self, x: S, t: Tensor) -> tuple[Tensor, S]:
        self.counter.evaluations += len(t)  # the way back counts as one more
        return look_ahead_gradient(self.flow_map, self.reward, x, t, self.condition, self.first)


class Method(ABC):
    """A way to steer.

    Arguments:
        flow_map: A flow map, learned, guided or exact, in evaluation mode.
        reward: r; a plain function is taken as a black box on samples, :class:`~flowmaps.steering.rewards.Hard`.
        shape: Shape of one sample, ``positions`` per field, without a batch.
        particles: How many samples to return.
        generator: Drives noise, resampling and decoding; a seed reproduces everything.
        strength: λ, at least 0; 0 gives the plain samples of the method's sampler, bit for bit (in one population).
        condition, given: As in ``generate``, for one sample (leading dimension 1) that all particles share, or for each
            particle: then they are kept or lost with it, and the weighted particles represent both together.
        decoder: From scores to categories; arg-max by default.
        population: Particles alive at one time; more run one after the other and count by their normalisers, so
            memory is that of one population however many particles there are. Default: all at once.
    Returns: :class:`~flowmaps.steering.cloud.Steered`.
    Raises: RewardError naming the particle; ValueError for a bad strength, size or condition.
    Invariant: strength 0 equals ``generate`` with the method's sampler (``tests/steering/test_particles.py``).
    """

    sampler: Sampler

    @abstractmethod
    def run(self, tilt: Tilt[S]) -> Population:
        """Steer one population."""

    def __call__(
        self,
        flow_map: FlowMap[S],
        reward: Reward | Score,
        shape: Shape,
        particles: int,
        generator: torch.Generator,
        *,
        strength: float = 1.0,
        condition: Condition = FREE,
        given: Data | None = None,
        decoder: Decoder | None = None,
        population: int | None = None,
    ) -> Steered:
        if not 0 <= strength < math.inf:
            raise ValueError(f"strength is {strength}, expected a finite number, at least 0; negate the reward instead")
        self.sampler.from_noise()
        reward = reward if isinstance(reward, Reward) else Hard(reward)

        def run(n: int, first: int, counter: Counter) -> Population:
            own, clean = shared(condition, particles, first, n), shared(given, particles, first, n)
            rest = (decoder or Argmax(), generator, counter)
            return self.run(Tilt(flow_map, reward, float(strength), batched(shape, n), first, own, clean, *rest))

        return stream(run, (flow_map,), particles, population)

    def jumps(self, x: S) -> list[tuple[Tensor, Tensor]]:
        """The sampler's intervals that end before 1, as times ``(n,)``; the last one is the sampler's ``final``."""
        leaf = first_leaf(x)
        times = [leaf.new_full(leaf.shape[:1], float(t)) for t in self.sampler.times]
        return list(zip(times[:-2], times[1:-1], strict=True))

    def last(self, x: S) -> Tensor:
        """The time from which the sampler goes to the data."""
        leaf = first_leaf(x)
        return leaf.new_full(leaf.shape[:1], float(self.sampler.times[-2]))


class BestOf(Method):
    r"""Best of n: draw n plain samples for each one returned and keep that of the highest reward.

    The baseline of every method. Its samples follow no tilted distribution and have equal weights; the log-normaliser
    at the given strength is estimated from all draws. The first of equals is kept, so at strength 0 the first of all.

    Arguments:
        n: Draws for each sample.
        sampler: How to draw them; one jump by default.
    """

    def __init__(self, n: int, sampler: Sampler | None = None):
        if n < 1:
            raise ValueError(f"n is {n}, expected at least 1 draw")
        self.n, self.sampler = n, sampler or Jumps(1)

    def run(self, tilt: Tilt[S]) -> Population:
        samples, best = self._draw(tilt)
        drawn = [tilt.strength * best.double()]
        for _ in range(self.n - 1):
            others, rewards = self._draw(tilt)
            better = (rewards > best) & (tilt.strength > 0)
            best = torch.where(better, rewards, best)
            samples = where(better, others, samples)
            drawn.append(tilt.strength * rewards.double())
        cloud = Cloud(torch.cat(drawn), tilt.generator)
        cloud.weigh(torch.cat(drawn))
        every = cloud.finish(samples, best)
        n = len(best)
        equal = torch.full_like(every.weights[:n], 1 / n)
        of_all = replace(every, condition=tilt.condition)
        return replace(of_all, weights=equal, ess=[1.0], counts=0.0, effective_size=float(n))

    def _draw(self, tilt: Tilt[S]) -> tuple[Data, Tensor]:
        return tilt.decode(self.sampler(tilt.flow_map, tilt.start(self.sampler), tilt.condition, tilt.generator))


class LookAhead(Method):
    r"""Follow the gradient of the look-ahead reward between jumps; no noise, no weights.

    .. math:: x_t = X_{s,t}(x_s) + (1-t)^2 (1 - e^{-c(t-s)})\, \lambda \nabla r_t

    The drift that :class:`Tilted` adds, alone. It raises the reward at the price of a distribution that is not known:
    weights are equal and there is no log-normaliser. Needs a differentiable reward.

    Arguments:
        times: Grid or number of steps; one step has nothing to follow.
        c: How far to follow.
    """

    def __init__(self, times: int | Tensor, c: float = 4.0):
        if not 0 <= c < math.inf:
            raise ValueError(f"c is {c}, expected a finite step, at least 0")
        self.sampler, self.c = Jumps(times), c

    def run(self, tilt: Tilt[S]) -> Population:
        x = tilt.start(self.sampler)
        for s, t in self.jumps(x):
            x = self.sampler.step(tilt.flow_map, x, s, t, tilt.condition, tilt.generator)
            pull = tilt.flow_map.space.sharp(x, tilt.gradient(x, t)[1])
            size = (1 - t).square() * -torch.expm1(-self.c * (t - s)) * tilt.strength
            x = x + across(size, x) * pull
        cloud = Cloud(x, tilt.generator)
        samples, rewards = tilt.finish(self.sampler, x, self.last(x))
        cloud.weigh(torch.zeros_like(rewards))
        result = cloud.finish(samples, rewards)
        return replace(result, log_z=math.nan, variance=math.nan, condition=tilt.condition)


def difference(history: Tensor) -> Tensor:
    """A particle counts by its look-ahead reward of now: potentials exp(λ (r_k - r_{k-1}))."""
    return history[:, -1]


def maximum(history: Tensor) -> Tensor:
    """A particle counts by the best look-ahead reward that it ever had: max_{i<=k} r_i."""
    return history.max(1).values


def average(history: Tensor) -> Tensor:
    """A particle counts by the mean of its look-ahead rewards so far, which evens out noisy ones."""
    return history.mean(1)


def constant(t: float) -> float:
    return 1.0


def linear(t: float) -> float:
    return t


class FeynmanKac(Method):
    r"""Particles of a stochastic sampler, weighted by look-ahead rewards on the way; no gradients.

    .. math:: \log w_k = \log w_{k-1} + \varphi_k - \varphi_{k-1}, \qquad \varphi_k = \lambda_{t_k}
              \Phi(r_{t_0}, \dots, r_{t_k}), \qquad \varphi_N = \lambda\, r(x_1)

    The last weighting takes back whatever the potentials did, so all of them are exact as particles grow; they differ
    in whom they keep. Φ should stay on the scale of one reward, as the three do: the published potentials of maximum
    and sum multiply exp(λ max) or exp(λ Σ r) over all steps, a tilt by many times λ on the way, after which too few of
    the particles that the target asks for are left for the last weighting to find, and no error bar tells.
    The sampler should be stochastic: copies of a particle never part on a deterministic one. If its noise is 0 there
    is nothing to resample, and this is importance sampling of plain samples at their price.

    Arguments:
        sampler: The plain process; eight steps of :class:`~flowmaps.samplers.Renoise` by default.
        potential: Φ, of the look-ahead rewards so far ``(n, k)``: ``difference``, ``maximum`` or ``average``.
        schedule: λ_t / λ on the way; always 1 by default.
        threshold: Resample below this share of effective particles.
    Reference: Singhal et al. 2025, *A general framework for inference-time scaling and steering of diffusion models*,
    arXiv 2501.06848.
    """

    def __init__(
        self,
        sampler: Sampler | None = None,
        potential: Potential = difference,
        schedule: Schedule = constant,
        threshold: float = 0.5,
    ):
        if not 0 <= threshold <= 1:
            raise ValueError(f"threshold is {threshold}, expected a share of the particles in [0, 1]")
        self.sampler, self.potential = sampler or Renoise(8, 0.5), potential
        self.schedule, self.threshold = schedule, threshold

    def look(self, tilt: Tilt[S], x: S, s: Tensor) -> tuple[Tensor, S | None]:
        """Look-ahead rewards ``(n,)``, and whatever the next move wants to know of them."""
        return tilt.look_ahead(x, s), None

    def move(self, tilt: Tilt[S], x: S, s: Tensor, t: Tensor, known: S | None) -> tuple[S, Tensor | float]:
        """New states, and the log-weight by which they represent plain ones."""
        return self.sampler.step(tilt.flow_map, x, s, t, tilt.condition, tilt.generator), 0.0

    def run(self, tilt: Tilt[S]) -> Population:
        cloud = Cloud(tilt.start(self.sampler), tilt.generator, self.threshold)
        still = getattr(self.sampler, "still", False)
        history = cloud.log_w.new_zeros(cloud.n, 0)
        held = torch.zeros_like(cloud.log_w)  # what the weights contain already
        for s, t in self.jumps(cloud.x):
            known = None
            if not still:
                rewards, known = self.look(tilt, cloud.x, s)
                history = torch.cat([history, rewards.double().unsqueeze(1)], dim=1)
                phi = tilt.strength * self.schedule(float(s[0])) * self.potential(history)
                cloud.weigh(phi - held)
                index, held = cloud.resample(), phi
                tilt = tilt.keep(index)
                if index is not None:
                    history, held = history[index], held[index]
                    known = take(known, index)
            cloud.x, log_w = self.move(tilt, cloud.x, s, t, known)
            held = held - log_w
        samples, rewards = tilt.finish(self.sampler, cloud.x, self.last(cloud.x))
        cloud.weigh(tilt.strength * rewards - held)
        return replace(cloud.finish(samples, rewards), condition=tilt.condition)


class Tilted(FeynmanKac):
    r"""The tilted stochastic process with exact weights and systematic resampling (FMTT).

    .. math:: x_t \sim N(m_{s,t} + d_{s,t}^2\, \lambda_t \nabla r,\; d_{s,t}^2), \qquad
              \Delta \log w = \lambda_t r_t(x_t) - \lambda_s r_s(x_s)
              + \log\frac{N(x_t; m_{s,t}, d_{s,t}^2)}{N(x_t; m_{s,t} + d_{s,t}^2 \lambda_t \nabla r, d_{s,t}^2)}

    The process :math:`dx = [v + \frac{\sigma^2}{2}\nabla\log\rho + \sigma^2 \lambda\nabla r]dt + \sigma\,dW`, weighted
    by discrete steps: the weights of continuous time, :math:`\lambda'_t r_t\,dt` with half that gradient, hold
    only where look-ahead rewards are smooth and the map is exact, and r of a categorical map has steps. These hold for
    every map, number of steps and gradient, so the gradient may be shortened at will. Without noise it is importance
    sampling of plain samples of the flow. Needs a differentiable reward unless there is no noise.

    Arguments:
        sampler: The plain process, with Gaussian steps; eight of :class:`~flowmaps.samplers.Renoise` by default.
        schedule: λ_t / λ, from 0 at t = 0 to 1; linear by default.
        threshold: Resample below this share of effective particles.
        pull: Factor of the gradient; 1/2 is the drift of the paper cited, 0 ignores it.
        longest: Longest shift by the gradient, in standard deviations of the noise.
    Reference: Sabour et al. 2025, *Test-time scaling of diffusions with flow maps*, arXiv 2511.22688.
    """

    sampler: Stochastic

    def __init__(
        self,
        sampler: Stochastic | None = None,
        schedule: Schedule = linear,
        threshold: float = 0.5,
        pull: float = 1.0,
        longest: float = 1.0,
    ):
        super().__init__(sampler, difference, schedule, threshold)
        if not isinstance(self.sampler, Stochastic):
            raise ValueError(f"sampler is {type(sampler).__name__}; expected Gaussian steps, as of Renoise or Langevin")
        if not pull >= 0 or not longest >= 0:
            raise ValueError(f"pull is {pull} and longest is {longest}, expected numbers of at least 0")
        self.pull, self.longest = pull, longest

    def look(self, tilt: Tilt[S], x: S, s: Tensor) -> tuple[Tensor, S | None]:
        return tilt.gradient(x, s)

    def move(self, tilt: Tilt[S], x: S, s: Tensor, t: Tensor, known: S | None) -> tuple[S, Tensor | float]:
        mean, deviation = self.sampler.kernel(tilt.flow_map, x, s, t, tilt.condition)
        if self.sampler.still or known is None:
            return mean, 0.0
        # Noise contracts from s to t, so that r_s(x) = r_t(X_st(x)) grows faster at t.
        factor = tilt.strength * self.schedule(float(t[0])) * self.pull * (1 - s) / (1 - t)
        length = factor * deviation * inner(known, tilt.flow_map.space.sharp(x, known)).clamp(min=0).sqrt()
        factor = factor * (self.longest / length.clamp(min=torch.finfo(length.dtype).tiny)).clamp(max=1)
        gradient = across(factor, known) * known
        moved, log_w = disturb(tilt.flow_map, mean, deviation, tilt.generator, gradient)
        return tilt.flow_map.path.clamp(moved, x, tilt.condition), log_w
