"""From noise to data: sources, couplings, and the straight path between them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor, nn

from .fields import FREE, Condition, across, fieldwise, leaves
from .spaces import Space


class Source(nn.Module, ABC):
    """Law of x_0, independent of the data. Noise is drawn first and turned into a state by the space's weights."""

    @abstractmethod
    def noise(self, space: Space, shape: Any, generator: torch.Generator) -> Any:
        """Raw noise for data of ``shape`` (a tree of shapes), on the generator's device."""

    @abstractmethod
    def state(self, space: Space, noise: Any) -> Any:
        """The source point x_0 made of that noise."""


class Gaussian(Source):
    r"""x_0 ~ N(0, I_K) at each position: the default, and the only source with a closed-form score."""

    def noise(self, space: Space, shape: Any, generator: torch.Generator) -> Any:
        return fieldwise(
            lambda shape: torch.randn(shape, generator=generator, device=generator.device), space.noise_shape(shape)
        )

    def state(self, space: Space, noise: Any) -> Any:
        return space.normal(noise)


class Dirichlet(Source):
    r"""x_0 uniform on the simplex, Dirichlet(1), by normalised exponentials; its noise has K dimensions."""

    def noise(self, space: Space, shape: Any, generator: torch.Generator) -> Any:
        return fieldwise(
            lambda shape, K: torch.rand(*shape, K, generator=generator, device=generator.device), shape, space.sizes()
        )

    def state(self, space: Space, noise: Any) -> Any:
        exponential = fieldwise(lambda u: -torch.log1p(-u), noise)
        return space.read(fieldwise(lambda e: e / e.sum(-1, keepdim=True), exponential))


class Coupling(ABC):
    """Which noise meets which datum within a batch."""

    @abstractmethod
    def __call__(self, x_0: Any, e_1: Any) -> Tensor | None:
        """Order of the noise that pairs it with the data, or ``None`` to leave it; states in, shape (*batch, ...)."""


class Independent(Coupling):
    """Noise and data as drawn: the coupling of the exact posterior."""

    def __call__(self, x_0: Any, e_1: Any) -> None:
        return None


class MinibatchOT(Coupling):
    r"""Optimal transport within the batch.

    .. math:: \min_\sigma \sum_i \| x_0^{\sigma(i)} - e_{x_1^i} \|^2

    Straighter paths, but noise is no longer independent of the data: likelihood bounds and the closed-form score do
    not hold. The assignment is solved on the host.

    Reference: Tong et al. 2023, *Improving and generalizing flow-based generative models with minibatch optimal
    transport*, arXiv 2302.00482.
    """

    def __call__(self, x_0: Any, e_1: Any) -> Tensor:
        from scipy.optimize import linear_sum_assignment  # imported here: it takes longer to import than the library

        cost = sum(torch.cdist(a.flatten(1), b.flatten(1)).square() for a, b in leaves(e_1, x_0))
        order = linear_sum_assignment(cost.detach().cpu().numpy())[1]  # type: ignore[union-attr]
        return torch.as_tensor(order, device=next(leaves(x_0))[0].device)


class LinearPath(nn.Module):
    r"""The straight path from source to data and its exact relations.

    .. math:: x_t = (1-t)\, x_0 + t\, e_{x_1}, \qquad
              v_t(x) = \frac{\mu_t(x) - x}{1-t}, \qquad
              \nabla\log\rho_t(x) = \frac{t\,\mu_t(x) - x}{(1-t)^2}

    The score is that of the Gaussian source. Known positions hold clean data at every time.

    Arguments:
        space: Where states live.
        source: Law of x_0.
    Reference: Roos et al. 2026, *Categorical Flow Maps*, arXiv 2602.12233.
    """

    def __init__(self, space: Space, source: Source | None = None):
        super().__init__()
        self.space, self.source = space, source or Gaussian()

    def noise(self, shape: Any, generator: torch.Generator) -> Any:
        """Raw noise for data of ``shape``; draw it outside the objective."""
        return self.source.noise(self.space, shape, generator)

    def start(self, noise: Any) -> Any:
        """The source point x_0 made of raw noise; gradients reach the read-in weights."""
        return self.source.state(self.space, noise)

    def forward(self, x_0: Any, x_1: Any, t: Tensor, condition: Condition = FREE) -> Any:
        """x_t, shape ``(*batch, *positions, dim)``, for categories ``x_1`` and times ``(*batch,)``."""
        e_1 = fieldwise(lambda e, x: e.to(x.dtype), self.space.embed(x_1), x_0)
        return self.clamp(self.space.move(x_0, e_1, t), e_1, condition)

    def slope(self, x_0: Any, x_1: Any, condition: Condition = FREE) -> Any:
        """dx_t/dt = e_{x_1} - x_0, the straight velocity of one pair; 0 at known positions."""
        slope = fieldwise(lambda e, x: e.to(x.dtype) - x, self.space.embed(x_1), x_0)
        return self.clamp(slope, fieldwise(torch.zeros_like, x_0), condition)

    @staticmethod
    def clamp(x: Any, clean: Any, condition: Condition) -> Any:
        """Put clean data at the known positions."""
        if condition.known is None:
            return x
        return fieldwise(lambda x, e, known: torch.where(known.unsqueeze(-1), e, x), x, clean, condition.known)

    def require_gaussian(self, what: str) -> None:
        """Refuse a source that is not standard normal: noise on the way, scores and bounds are of no other one."""
        if type(self.source) is not Gaussian:  # a subclass may draw anything
            raise ValueError(
                f"source is {type(self.source).__name__}: {what} needs the standard normal source, Gaussian(); with "
                "another one, sample by Jumps, Euler, Heun or Dopri5, and steer without noise or by BestOf"
            )

    def velocity(self, x: Any, mu: Any, t: Tensor) -> Any:
        """v_t(x) from the endpoint mean, given over the categories; t < 1."""
        return fieldwise(lambda x, m: (m - x) / (1 - across(t, x)), x, self.space.read(mu))

    def score(self, x: Any, mu: Any, t: Tensor) -> Any:
        r"""∇log ρ_t(x), paired with the space so that it can be added to a state; t < 1, Gaussian source only."""
        self.require_gaussian("the score")
        return fieldwise(lambda x, m: (across(t, x) * m - x) / (1 - across(t, x)).square(), x, self.space.read(mu))


def root_snr(t: Tensor) -> Tensor:
    """U = t / (1 - t), the square root of the signal-to-noise ratio of the path."""
    return t / (1 - t)
