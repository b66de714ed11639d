"""Weighted particles: reweighing, resampling, and what a steering method returns."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Generic, overload

import torch
from torch import Tensor, nn

from ..fields import FREE, Condition, Data, S, State, cat, first_leaf, one_field, parts, portion, take
from ..maps import FlowMap
from .guidance import Guidance

ENOUGH = 50  # effective ancestors from which an error bar is trusted


def effective(log_w: Tensor) -> Tensor:
    r"""Effective sample size of log-weights, :math:`(\sum w)^2 / \sum w^2`, between 1 and n."""
    return (2 * log_w.logsumexp(0) - (2 * log_w).logsumexp(0)).exp()


def systematic(weights: Tensor, generator: torch.Generator, n: int | None = None) -> Tensor:
    """Indices of ``n`` resampled particles from normalised weights: one uniform number, equally spaced teeth.

    Each particle is copied the whole part of ``n * weight`` times, or once more; as many as before by default.
    """
    n = len(weights) if n is None else n
    offset = torch.rand((), generator=generator, device=weights.device, dtype=torch.float64)
    teeth = (torch.arange(n, device=weights.device) + offset) / n
    edges = weights.double().cumsum(0)
    return torch.searchsorted(edges / edges[-1], teeth, right=True).clamp(max=len(weights) - 1)


@dataclass(frozen=True)
class Steered:
    r"""What a steering method found.

    Arguments:
        samples: Categories, int64 ``(n, *positions)`` per field.
        weights: Normalised weights ``(n,)``; samples and weights together represent the tilted
            distribution.
        rewards: Reward of each sample, ``(n,)``; zeros for methods without one.
        ess: Effective sample size after each weighting, before any resampling, as a share of the particles ``(steps,)``
            in (0, 1]; the mean over populations.
        effective_size: Effective number of ancestors at time 0 whose descendants carry the weight. Without resampling
            that is the effective sample size of the weights; resampling evens the weights but cannot raise it.
        log_normaliser: Estimate of log E[exp(strength * r)] under the plain distribution; NaN for methods without one.
        error: Its standard error by the delta method, from the ancestry; NaN likewise, infinite with one particle. With
            few ancestors it is a lower limit: see ``trusted``.
        evaluations: Network evaluations in all, a gradient counting as one more.
        resampled: How often particles were resampled, over all populations.
        condition: That of each sample, resampled with it.
    """

    samples: Data
    weights: Tensor
    rewards: Tensor
    ess: Tensor
    effective_size: float
    log_normaliser: float
    error: float
    evaluations: int
    resampled: int
    condition: Condition = FREE

    @property
    def mean_reward(self) -> float:
        """Weighted mean of the rewards."""
        return float((self.weights * self.rewards).sum())

    @property
    def collapsed(self) -> bool:
        """Whether one particle, or one ancestor, carries nearly all the weight although there are several."""
        return len(self.weights) > 1 and self.effective_size < 1.5

    @property
    def trusted(self) -> bool:
        """Whether enough ancestors are left for the error bar to mean something.

        What no particle found has no share in it. On exact distributions errors beyond three bars occur in a quarter of
        the runs below 50 effective ancestors, and in hardly any above (``tests/steering/test_particles.py``).
        """
        return self.effective_size >= ENOUGH

    def describe(self) -> str:
        """One line for people; says so if the particles collapsed, or are too few for their error bar."""
        n = len(self.weights)
        line = (
            f"reward {self.mean_reward:.4g}, ESS {self.effective_size:.1f} of {n} (lowest on the way "
            f"{float(self.ess.min()):.1%}), {self.evaluations} network evaluations"
        )
        if math.isfinite(self.log_normaliser):
            line += f", log-normaliser {self.log_normaliser:.3f} ± {self.error:.3f}"
        if self.collapsed:
            line += "; COLLAPSED: one particle carries the weight, lower the strength or use more particles"
        elif not self.trusted and math.isfinite(self.log_normaliser):
            line += "; FEW: the error is a lower limit, lower the strength or use more particles"
        return line

    def draw(self, n: int, generator: torch.Generator) -> Data:
        """``n`` equally weighted samples."""
        return take(self.samples, self.choose(n, generator))

    def choose(self, n: int, generator: torch.Generator) -> Tensor:
        """Indices of ``n`` equally weighted samples, by systematic resampling of the weighted ones in random order."""
        order = torch.randperm(len(self.weights), generator=generator, device=self.weights.device)
        return order[systematic(self.weights[order], generator, n)]


class Cloud(Generic[S]):
    """Particles of one population on their way, with their weights and ancestors.

    Arguments:
        x: States, ``(n, ...)`` per field.
        generator: Drives resampling.
        threshold: Resample when the effective sample size falls below this share of the particles; 0 never does.
    """

    def __init__(self, x: S, generator: torch.Generator, threshold: float = 0.5):
        first = first_leaf(x)
        self.x, self.generator, self.threshold, self.n = x, generator, threshold, len(first)
        self.log_w = torch.zeros(self.n, dtype=torch.float64, device=first.device)
        self.ancestor = torch.arange(self.n, device=first.device)
        self.log_z, self.resampled = 0.0, 0
        self.ess: list[float] = []

    def weigh(self, increment: Tensor) -> None:
        """Multiply the weights by exp(increment)."""
        self.log_w = self.log_w + increment.double()
        self.ess.append(float(effective(self.log_w)) / self.n)

    def resample(self) -> Tensor | None:
        """Resample if the weights are too uneven; returns who was kept, for what else belongs to the particles."""
        if not self.ess or self.ess[-1] >= self.threshold or self.n == 1:
            return None
        index = systematic(self.log_w.softmax(0), self.generator)
        self.x = take(self.x, index)
        self.ancestor = self.ancestor[index]
        self.log_z += float(self.log_w.logsumexp(0)) - math.log(self.n)
        self.log_w = torch.zeros_like(self.log_w)
        self.resampled += 1
        return index

    def finish(self, samples: Data, rewards: Tensor) -> Population:
        r"""The result of this population.

        The relative variance of its normaliser is :math:`\frac{N}{N-1}(\sum_e W_e^2 - \frac1N)`, with the weights W_e
        of the descendants of each ancestor e: the delta method if nothing was resampled. It is the estimate of Lee and
        Whiteley (2018, *Variance estimation in the particle filter*, Biometrika 105) without what they subtract for
        multinomial resampling, as systematic resampling adds less.
        """
        log_z = self.log_z + float(self.log_w.logsumexp(0)) - math.log(self.n)
        weights = self.log_w.softmax(0)
        family = torch.zeros_like(weights).index_add_(0, self.ancestor, weights)
        same = float(family.square().sum())
        variance = max(self.n * same - 1, 0.0) / (self.n - 1) if self.n > 1 else math.inf
        size = max(1 / same, 1.0)
        return Population(samples, weights, rewards, self.ess, log_z, variance, log_z, size, self.resampled)


@dataclass(frozen=True)
class Population:
    """The result of one population, to be joined with others.

    Arguments:
        log_z, variance: Log-normaliser, and relative variance of the normaliser.
        counts: Logarithm of what each particle counts for among populations: ``log_z``, or 0 where weights are equal.
    """

    samples: Data
    weights: Tensor
    rewards: Tensor
    ess: list[float]
    log_z: float
    variance: float
    counts: float
    effective_size: float
    resampled: int
    condition: Condition = FREE


def join(populations: list[Population], evaluations: int) -> Steered:
    """Populations as one result: each counts by its size times its normaliser."""
    column = lambda name: torch.tensor([getattr(p, name) for p in populations], dtype=torch.float64)  # noqa: E731
    log_n = torch.tensor([len(p.weights) for p in populations], dtype=torch.float64).log()
    share = (log_n + column("counts")).softmax(0)
    of_z = (log_n + column("log_z")).softmax(0)
    return Steered(
        samples=cat([p.samples for p in populations]),
        weights=torch.cat([p.weights * w for p, w in zip(populations, share.tolist(), strict=True)]),
        rewards=torch.cat([p.rewards for p in populations]),
        ess=torch.tensor([p.ess for p in populations], dtype=torch.float64).mean(0),
        effective_size=float(1 / (share.square() / column("effective_size")).sum()),
        log_normaliser=float((log_n + column("log_z")).logsumexp(0) - log_n.logsumexp(0)),
        error=float((of_z.square() * column("variance")).sum().sqrt()),
        evaluations=evaluations,
        resampled=sum(p.resampled for p in populations),
        condition=_joined([p.condition for p in populations]),
    )


def _joined(conditions: list[Condition]) -> Condition:
    """The conditions of all particles, in order."""
    every = lambda column: [part for part in column if part is not None]  # noqa: E731
    mask, known, label = (every(column) for column in zip(*conditions, strict=True))
    return Condition(cat(mask) if mask else None, cat(known) if known else None, torch.cat(label) if label else None)


def populations_of(particles: int, population: int | None) -> list[int]:
    """Sizes of the populations that run one after the other; the last may be smaller."""
    for name, value in (("particles", particles), ("population", population)):
        if value is not None and value < 1:
            raise ValueError(f"{name} is {value}, expected at least 1")
    size = population or particles
    return [size] * (particles // size) + ([particles % size] if particles % size else [])


@overload
def shared(part: Condition, particles: int, first: int, n: int) -> Condition: ...
@overload
def shared(part: Tensor, particles: int, first: int, n: int) -> Tensor: ...
@overload
def shared(part: Data | None, particles: int, first: int, n: int) -> Data | None: ...
def shared(part: Condition | Data | None, particles: int, first: int, n: int) -> Condition | Data | None:
    """A condition, or given categories, for particles ``first`` to ``first + n`` of all.

    What is there for one sample (leading dimension 1) all particles share; otherwise there is one for each.
    """
    if isinstance(part, Condition):
        mask, known, label = (shared(each, particles, first, n) for each in part)
        return Condition(mask, known, one_field(label))
    for leaf in () if part is None else parts(part):
        if len(leaf) not in (1, particles):
            raise ValueError(f"a condition of {len(leaf)} samples for {particles} particles; give one for all, or each")
    return portion(part, first, n)


class Counter:
    """Network evaluations while it is open: one for each state that enters a network."""

    def __init__(self) -> None:
        self.evaluations = 0

    def add(self, module: nn.Module, arguments: tuple[State, ...]) -> None:
        self.evaluations += len(first_leaf(arguments[0]))


@contextmanager
def counting(*maps: FlowMap) -> Iterator[Counter]:
    """Count evaluations of the networks of some maps, those inside guided maps included."""
    counter = Counter()
    found = {
        m for flow_map in maps for m in flow_map.modules() if isinstance(m, FlowMap) and not isinstance(m, Guidance)
    }
    networks = {m.network for m in found}
    hooks = [network.register_forward_pre_hook(counter.add) for network in networks]
    try:
        yield counter
    finally:
        for hook in hooks:
            hook.remove()


def stream(
    run: Callable[[int, int, Counter], Population], maps: Sequence[FlowMap], particles: int, population: int | None
) -> Steered:
    """Run populations one after the other, ``run(size, number of the first particle, counter)``, and join them."""
    results, first = [], 0
    with torch.no_grad(), counting(*maps) as counter:
        for n in populations_of(particles, population):
            results.append(run(n, first, counter))
            first += n
    return join(results, counter.evaluations)
