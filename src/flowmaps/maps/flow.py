r"""Flow maps and their parametrisations: one form for every space.

.. math:: X_{s,t}(x) = \exp_x\big(\gamma_{s,t}\, d_{s,t}(x)\big), \qquad \gamma_{s,t} = \frac{t-s}{\ell(s)}, \qquad
          d_{t,t} = \ell(t)\, v_t

A parametrisation is a direction d and a slack ℓ. An endpoint map points at the end of the flow and has ℓ(t) = 1 - t, a
velocity map says how fast it goes and has ℓ = 1. Where the space is flat, what a map predicts is the *mean* of a
quantity along the trajectory between s and t (the posterior, the velocity), and the three identities that train it
hold between means.
"""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import TypeVar  # with defaults, which the standard library has from Python 3.13 on

from ..evaluation import Plain, Readout, Readouts, in_chunks, itself, plain, predictions, readouts, tangents, wide
from ..fields import FREE, Condition, Data, Fields, S, Tree, across, first_leaf, zeros_like
from ..networks.embeddings import ReadOut
from ..networks.heads import Head
from ..paths import GeodesicPath
from ..spaces import Categorical
from .transport import Transport


class FlowMap(Transport[S]):
    r"""A flow map X_{s,t} with a network ``(state, s, t, condition) -> features``.

    .. math:: X_{s,s} = \mathrm{id}, \qquad X_{u,t} \circ X_{s,u} = X_{s,t}

    Arguments:
        path: Space and source.
        network: Any module called as ``network(x, s, t, condition)``; states of several fields in, the same fields out.
        head: Linear read-out with ``forward(h)`` and ``tangent(dh)`` (one per field in a ``ModuleDict``); ``None`` if
            the network's output is the prediction itself.
        chunk: Positions whose predictions exist at one time; ``None`` for all. Smaller chunks recompute the head in
            the backward pass instead of keeping it.
    Raises: ValueError if network and head both end in zeros, because then neither ever learns.
    Invariant: X_{s,s}(x) equals x bit for bit, trained or not (``tests/identities``).
    """

    def __init__(
        self, path: GeodesicPath[S], network: nn.Module, head: nn.Module | None = None, chunk: int | None = None
    ):
        super().__init__(path)
        if chunk is not None and chunk < 1:
            raise ValueError(f"chunk is {chunk}, expected a positive number of positions or None")
        self.network, self.head, self.chunk = network, head or Plain(), chunk
        _require_gradient(self)

    # -- the parametrisation ------------------------------------------------------------------------------------

    @abstractmethod
    def direction(self, x: S, h: S, condition: Condition = FREE) -> S:
        """d, a tangent at x, from the features at (x, s, t); 0 at known positions."""

    @abstractmethod
    def slack(self, t: Tensor) -> Tensor:
        """ℓ(t): the direction of the diagonal is ℓ(t) times the velocity, finite at every time."""

    @abstractmethod
    def final(self, x: S, h: S, s: Tensor) -> Readouts:
        """What the state at time 1 is decoded from, given the features of a jump of x that ends there."""

    def mean(self, z: Tensor) -> Tensor:
        """The predicted mean m from raw predictions z."""
        return z

    def dmean(self, m: Tensor, dz: Tensor) -> Tensor:
        """The tangent of the mean from that of the predictions."""
        return dz

    def target(self, x_1: Data, velocity: S) -> Readouts:
        """The mean that one example implies, given the velocity of its path."""
        return plain(velocity)

    # -- what follows -------------------------------------------------------------------------------------------

    def gain(self, s: Tensor, t: Tensor) -> Tensor:
        """γ = (t - s)/ℓ(s): how far along the direction a jump goes."""
        return (t - s) / self.slack(s)

    def kappa(self, s: Tensor, t: Tensor) -> Tensor:
        """The coefficient γ ℓ(t) of the Lagrangian identity between means, m + κ ∂_t m = m_tt(X)."""
        return (t - s) * self.slack(t) / self.slack(s)

    def weight(self, s: Tensor, u: Tensor, t: Tensor) -> Tensor:
        """The coefficient 1 - γ_ut/γ_st of the semigroup identity m_st = λ m_su + (1 - λ) m_ut(X_su)."""
        return self.slack(t) * (u - s) / (self.slack(u) * (t - s))

    def features(self, x: S, s: Tensor, t: Tensor, condition: Condition = FREE) -> S:
        """What the network says at (x, s, t), before the head."""
        h = self.network(x, s, t, condition)
        return Fields(h) if isinstance(h, dict) else h  # pyright: ignore[reportReturnType]  (fields in, fields out)

    def move(self, x: S, h: S, s: Tensor, t: Tensor, condition: Condition = FREE) -> S:
        """X_{s,t}(x) from the features at (x, s, t)."""
        moved = self.space.exp(x, across(self.gain(s, t), x) * self.direction(x, h, condition))
        return self.path.clamp(moved, x, condition)

    def forward(self, x: S, s: Tensor, t: Tensor, condition: Condition = FREE) -> S:
        """X_{s,t}(x), shape of ``x``; times ``(*batch,)`` with s <= t, s < 1."""
        return self.move(x, self.features(x, s, t, condition), s, t, condition)

    def push(self, x_0: S, condition: Condition = FREE) -> S:
        """X_{0,1}(x_0): data in one evaluation."""
        first = first_leaf(x_0)
        zero = first.new_zeros(len(first))
        return self(x_0, zero, zero + 1, condition)

    def velocity(self, x: S, t: Tensor, condition: Condition = FREE) -> S:
        """v_t(x) = lim (X_{t,t+ε}(x) - x)/ε; t < 1 for endpoint maps."""
        direction = self.direction(x, self.features(x, t, t, condition), condition)
        return direction / across(self.slack(t), direction)

    # -- predictions --------------------------------------------------------------------------------------------

    def readout(self, h: S) -> Readouts:
        """Features with their head, to be read inside a chunk."""
        return readouts(h, self.heads)

    def tangent(self, dh: S) -> Readouts:
        """Tangents of features with the head's linear part."""
        return tangents(dh, self.heads)

    def prediction(self, h: S) -> S:
        """Predictions z (logits for an endpoint map) of all positions at once."""
        return predictions(self.readout(h))  # pyright: ignore[reportReturnType]  (the fields of h)

    @property
    def heads(self) -> Tree[nn.Module]:
        """The head, or the head of each field by name."""
        return dict(self.head.items()) if isinstance(self.head, nn.ModuleDict) else self.head


class EndpointMap(FlowMap[S]):
    r"""The categorical flow map: it predicts the mean endpoint, a point of the simplex.

    .. math:: X_{s,t}(x) = x + \gamma_{s,t}(\pi_{s,t}(x) - x), \qquad \gamma_{s,t} = \frac{t-s}{1-s}, \qquad
              \pi_{s,t} = \mathrm{softmax}(z_{s,t})

    On a curved space the direction is :math:`\sum_k \pi_k \log_x(e_k)`. On a flat one π_{s,t} is the mean of the
    posterior μ along the trajectory, uniform in U = t/(1-t). So π_{t,t} = μ_t, and X_{s,1} = π_{s,1}.

    Reference: Roos et al. 2026, *Categorical Flow Maps*, arXiv 2602.12233, section 3.
    """

    def mean(self, z: Tensor) -> Tensor:
        return wide(z).softmax(-1)

    def dmean(self, m: Tensor, dz: Tensor) -> Tensor:
        return m * (dz - (m * dz).sum(-1, keepdim=True))

    def direction(self, x: S, h: S, condition: Condition = FREE) -> S:
        def toward(space: Categorical, x: Tensor, r: Readout) -> Tensor:
            return in_chunks(lambda z, x: space.toward(x, self.mean(z)), r, Readout(itself, x), chunk=self.chunk)

        return self.path.clamp(self.space.each(toward, x, self.readout(h)), zeros_like(x), condition)

    def move(self, x: S, h: S, s: Tensor, t: Tensor, condition: Condition = FREE) -> S:
        def approach(space: Categorical, x: Tensor, r: Readout) -> Tensor:
            step = lambda z, x, gamma: space.approach(x, self.mean(z), gamma)  # noqa: E731
            return in_chunks(step, r, Readout(itself, x), self.gain(s, t), chunk=self.chunk)

        return self.path.clamp(self.space.each(approach, x, self.readout(h)), x, condition)

    def final(self, x: S, h: S, s: Tensor) -> Readouts:
        return self.readout(h)

    def target(self, x_1: Data, velocity: S) -> Readouts:
        def one_hot(space: Categorical, x_1: Tensor) -> Readout:
            return Readout(lambda k: F.one_hot(k.squeeze(-1), space.K), x_1.unsqueeze(-1))

        return self.space.each(one_hot, x_1)

    def slack(self, t: Tensor) -> Tensor:
        return 1 - t


class VelocityMap(FlowMap[S]):
    r"""The flow map of continuous data, and the unconstrained baseline for categories.

    .. math:: X_{s,t}(x) = \exp_x\big((t-s)\, v_{s,t}(x)\big)

    The velocity is what the network says, projected to the tangent space. Where the space is flat it is the mean
    velocity, uniform in t. On one-hot vectors nothing keeps its endpoint on the simplex.

    Reference: Boffi, Albergo, Vanden-Eijnden 2024, *Flow Map Matching*, arXiv 2406.07507; Davis et al. 2025,
    *Generalised flow maps on Riemannian manifolds*, arXiv 2510.21608.
    """

    def direction(self, x: S, h: S, condition: Condition = FREE) -> S:
        return self.path.clamp(self.space.project(x, self.prediction(h)), zeros_like(x), condition)

    def final(self, x: S, h: S, s: Tensor) -> Readouts:
        return plain(self.move(x, h, s, torch.ones_like(s)))

    def slack(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)


M = TypeVar("M", bound=Transport, default=FlowMap)  # what an objective trains, and a task is about


def _require_gradient(flow_map: FlowMap[S]) -> None:
    """Refuse a zero head over zero features: of z = h Wᵀ, dW = dzᵀ h and dh = dz W, both stay 0 for ever."""
    last = [m for m in flow_map.network.modules() if isinstance(m, ReadOut)]
    heads = [m for m in flow_map.head.modules() if isinstance(m, Head)]
    silent = last and not any(_nonzero(p) for m in last for p in m.parameters())
    if silent and not all(_nonzero(m.matrix) for m in heads):
        raise ValueError(
            f"the last layer of the {type(flow_map.network).__name__} and its head are both zero, so that neither "
            "would ever have a gradient. Build the network without that layer (out=None), or start one of the two at "
            "random"
        )


def _nonzero(weight: Tensor) -> bool:
    """Whether anything but zeros is in ``weight``; assumed where it holds no numbers yet."""
    return weight.is_meta or bool(weight.any())
