"""From noise to data: sources, couplings, and the straight path between them."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Generic

import torch
from torch import Tensor, nn

from .fields import FREE, Condition, Data, S, Shape, across, first_leaf, hold, like, take, zeros_like
from .spaces import Categorical, FisherSphere, Manifold, Space


class Source(nn.Module):
    """Distribution of x_0, independent of the data: the space's own random points, unless a subclass draws others.

    Noise is drawn first and made a state later, so that gradients reach the weights of the space.
    """

    def noise(self, space: Space[S], shape: Shape, generator: torch.Generator) -> S:
        """Raw noise for data of ``shape``, on the generator's device."""
        return normal(space, shape, generator)

    def state(self, space: Space[S], noise: S) -> S:
        """The source point x_0 made of that noise."""
        return space.random(noise)

    def log_density(self, space: Space[S], x: S) -> S:
        """The log-density of x_0 in the volume of the metric, ``(*batch, *positions)`` per field.

        Raises: ValueError where it is not known.
        """
        return space.log_density(x)


class Gaussian(Source):
    """x_0 ~ N(0, I) at each position of a flat space: the default there, and the only source with a closed-form score.

    On a one-hot space that is N(0, I_K), on an embedded one the image of it.
    """


class Uniform(Source):
    """x_0 uniform on a compact space: the default there. (On a hyperbolic one, the default is the wrapped normal around
    the origin, with deviation 1.)"""


class WrappedNormal(Source):
    r"""A normal distribution of the tangent space at a point, carried to the space by its geodesics.

    .. math:: x_0 = \exp_m(\sigma \varepsilon), \qquad \varepsilon \sim N(0, 1_{T_m M})

    Arguments:
        mean: m, coordinates of a point of the space, the same at every position.
        deviation: σ, positive, in the units of the metric.
    Invariant: the density integrates to 1 and is that of the draws (``tests/spaces/test_densities.py``).
    Reference: Nagano et al. 2019, *A wrapped normal distribution on hyperbolic space*, arXiv 1902.02992.
    """

    mean: Tensor

    def __init__(self, mean: Sequence[float], deviation: float = 1.0):
        super().__init__()
        if not deviation > 0:
            raise ValueError(f"deviation is {deviation}, expected a positive number")
        self.deviation = deviation
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float64), persistent=False)

    @classmethod
    def around(cls, space: Manifold, x: Tensor) -> WrappedNormal:
        r"""That of points ``(n, dim)``: at their Fréchet mean, as far from it in the mean square as they are.

        .. math:: m = \arg\min_m \sum_i d(m, x_i)^2, \qquad \sigma^2 = \frac{1}{n \dim M} \sum_i d(m, x_i)^2

        The mean is found from the best of 64 of the points by m ← exp_m of the mean of log_m x, a hundred times
        at most; six decimals are kept.

        Raises: ValueError if all points are one.
        Reference: Karcher 1977, Riemannian center of mass and mollifier smoothing.
        """
        x = x.double()
        some, more = (x[:: -(-len(x) // n)] for n in (64, 4096))
        m = some[space.apart(some, more).mean(-1).argmin()]
        for _ in range(100):
            step = space.log(m.expand_as(x), x).mean(0)
            m = space.exp(m, step)
            if float(space.inner(m, step, step)) < 1e-16:
                break
        v = space.log(m.expand_as(x), x)
        dimension = sum(space.inner(m, e, e) for e in space.frame(m))
        square = space.inner(m.expand_as(x), v, v).mean() / dimension
        return cls([round(value, 6) for value in m.tolist()], round(float(square.clamp(min=0).sqrt()), 6))

    def _mean(self, space: Space[Tensor], x: Tensor) -> Tensor:
        if not isinstance(space, Manifold):
            raise ValueError(f"a wrapped normal needs one curved space, not {type(space).__name__}; use Gaussian()")
        mean = self.mean.to(x)
        space.check(mean)
        return mean.expand(*x.shape[:-1], space.dim)

    def state(self, space: Space[S], noise: S) -> S:
        def start(space: Space[Tensor], noise: Tensor) -> Tensor:
            mean = self._mean(space, noise)
            return space.exp(mean, self.deviation * space.tangent(mean, noise))

        return space.each(start, noise)

    def log_density(self, space: Space[S], x: S) -> S:
        def density(space: Manifold, x: Tensor) -> Tensor:
            return space.log_wrapped(self._mean(space, x), x, self.deviation)

        return space.each(density, x)


class Dirichlet(Source):
    r"""x_0 uniform on the simplex, Dirichlet(1), by normalised exponentials; its noise has K dimensions."""

    def noise(self, space: Space[S], shape: Shape, generator: torch.Generator) -> S:
        def draw(space: Space[Tensor], shape: tuple[int, ...]) -> Tensor:
            if not isinstance(space, Categorical):
                raise ValueError(f"the Dirichlet source is on the simplex, but the space is {type(space).__name__}")
            return torch.rand(*shape, space.K, generator=generator, device=generator.device)

        return space.each(draw, shape)

    def state(self, space: Space[S], noise: S) -> S:
        def lift(space: Categorical, u: Tensor) -> Tensor:
            exponential = -torch.log1p(-u)
            return space.lift(exponential / exponential.sum(-1, keepdim=True))

        return space.each(lift, noise)

    def log_density(self, space: Space[S], x: S) -> S:
        def density(space: Space[Tensor], x: Tensor) -> Tensor:
            if not isinstance(space, FisherSphere):
                raise ValueError("the density of Dirichlet() is known on a FisherSphere alone; use Gaussian()")
            return math.lgamma(space.K) + space.log_simplex(x)

        return space.each(density, x)


def normal(space: Space[S], shape: Shape, generator: torch.Generator) -> S:
    """The standard normal numbers that random points of a space are made of, on the generator's device."""
    draw = lambda space, shape: torch.randn(space.noise_shape(shape), generator=generator, device=generator.device)  # noqa: E731
    return space.each(draw, shape)


class Coupling(ABC):
    """Which noise meets which example within a batch."""

    @abstractmethod
    def __call__(self, space: Space[S], x_0: S, e_1: S) -> Tensor | None:
        """Order of the noise that pairs it with the data, or ``None`` to leave it; states of ``space`` in."""


class Independent(Coupling):
    """Noise and data as drawn: the coupling of the exact posterior."""

    def __call__(self, space: Space[S], x_0: S, e_1: S) -> None:
        return None


class MinibatchOT(Coupling):
    r"""Optimal transport within the batch.

    .. math:: \min_\sigma \sum_i d\big(x_0^{\sigma(i)}, e_{x_1^i}\big)^2

    Straighter paths, but noise is no longer independent of the data: likelihood bounds and the closed-form score do
    not hold; the likelihood of the flow does. The assignment is solved on the host, in a time that grows with the cube
    of the number of pairs.

    Arguments:
        group: Pairs that are assigned at a time, consecutive ones; ``None`` for the whole batch.
    Reference: Tong et al. 2023, *Improving and generalizing flow-based generative models with minibatch optimal
    transport*, arXiv 2302.00482; Davis et al. 2024, *Fisher flow matching*, arXiv 2405.14664, on curved spaces.
    """

    def __init__(self, group: int | None = None):
        if group is not None and group < 1:
            raise ValueError(f"group is {group}, expected a positive number of pairs, or None for the whole batch")
        self.group = group

    def __call__(self, space: Space[S], x_0: S, e_1: S) -> Tensor:
        first = first_leaf(x_0)
        size = self.group or len(first)
        groups = [slice(start, start + size) for start in range(0, len(first), size)]
        orders = [group.start + _assigned(space, take(x_0, group), take(e_1, group)) for group in groups]
        return torch.cat(orders).to(first.device)


def _assigned(space: Space[S], x_0: S, e_1: S) -> Tensor:
    """The order of the noise of least squared distance to the data."""
    from scipy.optimize import linear_sum_assignment  # imported here: it takes longer to import than the library

    return torch.as_tensor(linear_sum_assignment(space.apart(e_1, like(x_0, e_1)).detach().cpu().numpy())[1])


class GeodesicPath(nn.Module, Generic[S]):
    r"""The geodesic from source to data; a straight line where the space is flat.

    .. math:: x_t = \exp_{x_0}(t \log_{x_0} x_1), \qquad \text{flat:} \quad x_t = (1-t)\, x_0 + t\, x_1

    Known positions hold clean data at every time.

    Arguments:
        space: Where states live.
        source: Distribution of x_0; the space's own by default: normal where flat, uniform where compact.
    Reference: Roos et al. 2026, *Categorical Flow Maps*, arXiv 2602.12233; Davis et al. 2025, *Generalised flow maps
    on Riemannian manifolds*, arXiv 2510.21608.
    """

    space: Space[S]

    def __init__(self, space: Space[S], source: Source | None = None):
        super().__init__()
        if isinstance(source, Gaussian) and not space.flat:
            raise ValueError(f"the Gaussian source needs a flat space, not {type(space).__name__}; use Uniform()")
        self.space, self.source = space, source or (Gaussian() if space.flat else Uniform())

    def noise(self, shape: Shape, generator: torch.Generator) -> S:
        """Raw noise for data of ``shape``; draw it outside the objective."""
        return self.source.noise(self.space, shape, generator)

    def start(self, noise: S) -> S:
        """The source point x_0 made of raw noise; gradients reach the read-in weights."""
        return self.source.state(self.space, noise)

    def forward(self, x_0: S, x_1: Data, t: Tensor, condition: Condition = FREE) -> S:
        """x_t, shape ``(*batch, *positions, dim)``, for data ``x_1`` and times ``(*batch,)``."""
        end = like(self.space.encode(x_1), x_0)
        return self.clamp(self.space.geodesic(x_0, end, t), end, condition)

    def velocity(self, x_0: S, x_1: Data, t: Tensor, condition: Condition = FREE) -> S:
        """dx_t/dt of one pair, a tangent at x_t; where flat it is x_1 - x_0 at every t. 0 at known positions."""
        direction = self.space.log(x_0, like(self.space.encode(x_1), x_0))
        if not self.space.flat:
            x_t = self.space.exp(x_0, across(t, x_0) * direction)
            direction = self.space.transport(x_0, x_t, direction)
        return self.clamp(direction, zeros_like(x_0), condition)

    @staticmethod
    def clamp(x: S, clean: S, condition: Condition) -> S:
        """Put clean data at the known positions."""
        return hold(x, clean, condition.known)

    def require_gaussian(self, what: str) -> None:
        """Refuse a source that is not standard normal: noise on the way, scores and bounds are of no other one."""
        if type(self.source) is not Gaussian:  # a subclass may draw anything
            raise ValueError(
                f"source is {type(self.source).__name__}: {what} needs the standard normal source, Gaussian(); with "
                "another one, sample by Jumps, Euler, Heun or Dopri5, and steer without noise or by BestOf"
            )

    def score(self, x: S, mu: S, t: Tensor) -> S:
        r"""The score of the Gaussian path from the mean endpoint μ as a state, as a tangent; t < 1.

        .. math:: \nabla\log\rho_t(x) = \frac{t\,\mu_t(x) - x}{(1-t)^2}
        """
        self.require_gaussian("the score")
        return (across(t, x) * mu - x) / across((1 - t).square(), x)


def root_snr(t: Tensor) -> Tensor:
    """U = t / (1 - t), the square root of the signal-to-noise ratio of the path."""
    return t / (1 - t)
