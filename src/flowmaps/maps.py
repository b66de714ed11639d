r"""Flow maps and their parametrisations.

A flow map carries a state from time s to time t in one step. Each parametrisation predicts the *mean* of a quantity
along the trajectory between s and t: the endpoint π for categorical data, the velocity for Euclidean data. On the
diagonal s = t the mean is the quantity itself (the posterior, the instantaneous velocity). The three identities that
train it are the same for both; only the clock of the mean differs (U = t/(1-t) or t itself).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from .fields import FREE, Condition, across, fieldwise, leaves
from .networks.chunked import Sums, weighted_losses
from .networks.embeddings import ReadOut
from .networks.heads import Head
from .paths import LinearPath


class Plain(nn.Module):
    """The head of a network whose features are the prediction already."""

    def forward(self, h: Tensor) -> Tensor:
        return h

    def tangent(self, dh: Tensor) -> Tensor:
        return dh


class Readout(NamedTuple):
    """Features and the head that turns them into a prediction, kept apart so that it happens chunk by chunk."""

    read: Callable[[Tensor], Tensor]
    h: Tensor


class FlowMap(nn.Module, ABC):
    r"""A flow map X_{s,t} with a network ``(state, s, t, condition) -> features``.

    .. math:: X_{s,s} = \mathrm{id}, \qquad X_{u,t} \circ X_{s,u} = X_{s,t}

    Arguments:
        path: Space and source.
        network: Any module called as ``network(x, s, t, condition)``; trees of fields in, the same trees out.
        head: Linear read-out with ``forward(h)`` and ``tangent(dh)`` (one per field in a ``ModuleDict``); ``None`` if
            the network's output is the prediction itself.
        chunk: Positions whose predictions exist at one time; ``None`` for all. Smaller chunks recompute the head in
            the backward pass instead of keeping it.
    Raises: ValueError if network and head both end in zeros, because then neither ever learns.
    Invariant: X_{s,s}(x) equals x bit for bit, trained or not (``tests/identities``).
    """

    def __init__(self, path: LinearPath, network: nn.Module, head: nn.Module | None = None, chunk: int | None = None):
        super().__init__()
        if chunk is not None and chunk < 1:
            raise ValueError(f"chunk is {chunk}, expected a positive number of positions or None")
        self.path, self.network, self.head, self.chunk = path, network, head or Plain(), chunk
        _require_gradient(self)

    # -- the parametrisation ------------------------------------------------------------------------------------

    @abstractmethod
    def mean(self, z: Tensor) -> Tensor:
        """The predicted mean m from raw predictions z."""

    @abstractmethod
    def dmean(self, m: Tensor, dz: Tensor) -> Tensor:
        """The tangent of the mean from that of the predictions."""

    @abstractmethod
    def move(self, x: Any, h: Any, s: Tensor, t: Tensor, condition: Condition = FREE) -> Any:
        """X_{s,t}(x) from the features at (x, s, t)."""

    @abstractmethod
    def towards(self, x: Any, h: Any, condition: Condition = FREE) -> Any:
        """Velocity times ``slack``: finite at every time; ``h`` are features of the diagonal at x."""

    @abstractmethod
    def final(self, x: Any, h: Any, s: Tensor) -> Any:
        """Readouts of scores over the categories at time 1, from features of a jump of x that ends there."""

    @abstractmethod
    def datum(self, x_1: Any, slope: Any) -> Any:
        """Readouts of the mean that one datum implies: its one-hot endpoint, or its straight velocity."""

    @abstractmethod
    def slack(self, t: Tensor) -> Tensor:
        """The factor that ``towards`` has against the velocity, 1 - t or 1."""

    @abstractmethod
    def kappa(self, s: Tensor, t: Tensor) -> Tensor:
        """The coefficient of the Lagrangian identity m + κ ∂_t m = m_tt(X)."""

    @abstractmethod
    def weight(self, s: Tensor, u: Tensor, t: Tensor) -> Tensor:
        """The coefficient of the semigroup identity m_st = λ m_su + (1 - λ) m_ut(X_su)."""

    # -- shared ----------------------------------------------------------------------------------------------------

    @property
    def dtype(self) -> torch.dtype:
        """Precision of states and times: float64 if the weights have it, else float32."""
        weight = next(self.parameters(), None)
        return torch.float64 if weight is not None and weight.dtype == torch.float64 else torch.float32

    def noise(self, shape: Any, generator: torch.Generator) -> Any:
        """Raw noise of the path in the precision of states; a seed gives the same noise in every precision."""
        return fieldwise(lambda e: e.to(self.dtype), self.path.noise(shape, generator))

    def features(self, x: Any, s: Tensor, t: Tensor, condition: Condition = FREE) -> Any:
        """What the network says at (x, s, t), before the head."""
        return self.network(x, s, t, condition)

    def readout(self, h: Any) -> Any:
        """Features with their head, to be read inside a chunk."""
        return fieldwise(lambda h, head: Readout(head, h), h, self._heads())

    def tangent(self, dh: Any) -> Any:
        """Tangents of features with the head's linear part."""
        return fieldwise(lambda dh, head: Readout(head.tangent, dh), dh, self._heads())

    def prediction(self, h: Any) -> Any:
        """Predictions z (logits for an endpoint map) of all positions at once."""
        return fieldwise(lambda r: r.read(r.h), self.readout(h))

    def forward(self, x: Any, s: Tensor, t: Tensor, condition: Condition = FREE) -> Any:
        """X_{s,t}(x), shape of ``x``; times ``(*batch,)`` with s <= t, s < 1."""
        return self.move(x, self.features(x, s, t, condition), s, t, condition)

    def velocity(self, x: Any, t: Tensor, condition: Condition = FREE) -> Any:
        """v_t(x) = lim (X_{t,t+ε}(x) - x)/ε; t < 1 for endpoint maps."""
        direction = self.towards(x, self.features(x, t, t, condition), condition)
        return fieldwise(lambda d: d / across(self.slack(t), d), direction)

    def _heads(self) -> Any:
        return dict(self.head.items()) if isinstance(self.head, nn.ModuleDict) else self.head


class EndpointMap(FlowMap):
    r"""The categorical flow map: the mean endpoint is a point of the simplex.

    .. math:: X_{s,t}(x) = x + \gamma_{s,t}(\pi_{s,t}(x) - x), \qquad \gamma_{s,t} = \frac{t-s}{1-s}, \qquad
              \pi_{s,t} = \mathrm{softmax}(z_{s,t})

    π_{s,t} is the mean of the posterior μ along the trajectory, uniform in U = t/(1-t). So π_{t,t} = μ_t, and
    X_{s,1} = π_{s,1}.

    Reference: Roos et al. 2026, *Categorical Flow Maps*, arXiv 2602.12233, section 3.
    """

    def mean(self, z: Tensor) -> Tensor:
        return wide(z).softmax(-1)

    def dmean(self, m: Tensor, dz: Tensor) -> Tensor:
        return m * (dz - (m * dz).sum(-1, keepdim=True))

    def endpoint(self, h: Any) -> Any:
        """π read into the space, Wᵀπ, chunk by chunk: what a state moves towards."""
        return fieldwise(
            lambda r, space: in_chunks(lambda z: space.read(self.mean(z)), r, chunk=self.chunk),
            self.readout(h),
            self.path.space.parts(),
        )

    def move(self, x: Any, h: Any, s: Tensor, t: Tensor, condition: Condition = FREE) -> Any:
        gamma = (t - s) / (1 - s)
        moved = self.path.space.move(x, _like(self.endpoint(h), x), gamma)
        return self.path.clamp(moved, x, condition)

    def towards(self, x: Any, h: Any, condition: Condition = FREE) -> Any:
        direction = fieldwise(lambda e, x: e - x, _like(self.endpoint(h), x), x)
        return self.path.clamp(direction, fieldwise(torch.zeros_like, x), condition)

    def final(self, x: Any, h: Any, s: Tensor) -> Any:
        return self.readout(h)

    def datum(self, x_1: Any, slope: Any) -> Any:
        def readout(x_1: Tensor, K: int) -> Readout:
            return Readout(lambda k: F.one_hot(k.squeeze(-1), K), x_1.unsqueeze(-1))

        return fieldwise(readout, x_1, self.path.space.sizes())

    def slack(self, t: Tensor) -> Tensor:
        return 1 - t

    def kappa(self, s: Tensor, t: Tensor) -> Tensor:
        return (t - s) * (1 - t) / (1 - s)

    def weight(self, s: Tensor, u: Tensor, t: Tensor) -> Tensor:
        return (1 - t) * (u - s) / ((1 - u) * (t - s))


class VelocityMap(FlowMap):
    r"""The unconstrained flow map of Euclidean data, here the baseline that treats one-hot vectors as plain vectors.

    .. math:: X_{s,t}(x) = x + (t-s)\, v_{s,t}(x)

    The mean velocity is uniform in t. Nothing keeps its endpoint on the simplex.

    Reference: Boffi, Albergo, Vanden-Eijnden 2024, *Flow Map Matching*, arXiv 2406.07507.
    """

    def mean(self, z: Tensor) -> Tensor:
        return z

    def dmean(self, m: Tensor, dz: Tensor) -> Tensor:
        return dz

    def move(self, x: Any, h: Any, s: Tensor, t: Tensor, condition: Condition = FREE) -> Any:
        moved = fieldwise(lambda x, v: x + across(t - s, x) * v, x, self.prediction(h))
        return self.path.clamp(moved, x, condition)

    def towards(self, x: Any, h: Any, condition: Condition = FREE) -> Any:
        return self.path.clamp(self.prediction(h), fieldwise(torch.zeros_like, x), condition)

    def final(self, x: Any, h: Any, s: Tensor) -> Any:
        return fieldwise(lambda x: Readout(lambda x: x, x), self.move(x, h, s, torch.ones_like(s)))

    def datum(self, x_1: Any, slope: Any) -> Any:
        return fieldwise(lambda v: Readout(lambda v: v, v), slope)

    def slack(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)

    def kappa(self, s: Tensor, t: Tensor) -> Tensor:
        return t - s

    def weight(self, s: Tensor, u: Tensor, t: Tensor) -> Tensor:
        return (u - s) / (t - s)


def _require_gradient(map: FlowMap) -> None:
    """Refuse a zero head over zero features: of z = h Wᵀ, dW = dzᵀ h and dh = dz W, both stay 0 for ever."""
    last = [m for m in map.network.modules() if isinstance(m, ReadOut)]
    heads = [m for m in map.head.modules() if isinstance(m, Head)]
    silent = last and not any(_nonzero(p) for m in last for p in m.parameters())
    if silent and not all(_nonzero(m.matrix) for m in heads):
        raise ValueError(
            f"the last layer of the {type(map.network).__name__} and its head are both zero, so that neither would "
            "ever have a gradient. Build the network without that layer (out=None), or start one of the two at random"
        )


def _nonzero(weight: Tensor) -> bool:
    """Whether anything but zeros is in ``weight``; assumed where it holds no numbers yet."""
    return weight.is_meta or bool(weight.any())


def _like(tree: Any, x: Any) -> Any:
    return fieldwise(lambda leaf, x: leaf.to(x.dtype), tree, x)


def wide(z: Tensor) -> Tensor:
    """Predictions in float32 at least: every logarithm and reduction happens there."""
    return z if z.dtype == torch.float64 else z.float()


def in_chunks(
    function: Callable[..., Any],
    *arguments: Any,
    chunk: int | None = None,
    weight: Tensor | None = None,
    sums: Sums | None = None,
) -> Any:
    """Apply a function of predictions, position by position, so that only a chunk of them exists at a time.

    Arguments:
        function: Maps predictions ``(positions, K)`` and coefficients ``(positions, 1)`` to one tensor, or a tuple of
            tensors, with leading ``positions``.
        arguments: Readouts of one field ``(*batch, *positions, F)``; coefficients ``(*batch,)``, tensors
            ``(*batch, *positions)``. All but readouts broadcast over positions.
        chunk: Positions at a time, recomputed in the backward pass; ``None`` for all at once.
        weight: Weight of each position's first result in the final loss, up to a common factor, ``(*batch,
            *positions)``: gradients are then taken in the forward pass and nothing is recomputed.
        sums: Shared by all losses of a backward pass whose weights have the same factor.
    Returns: the function's results with leading ``(*batch, *positions)``.
    Invariant: values and gradients equal the unchunked ones (``tests/test_maps.py``).
    """
    lead = next(a.h.shape[:-1] for a in arguments if isinstance(a, Readout))

    def rows(a: Any) -> Tensor:
        if isinstance(a, Readout):
            return a.h.flatten(0, -2)
        return a.reshape(a.shape + (1,) * (len(lead) - a.ndim)).expand(lead).flatten().unsqueeze(-1)

    def evaluate(*tensors: Tensor) -> Any:
        read = (a.read(x) if isinstance(a, Readout) else x for a, x in zip(arguments, tensors, strict=True))
        return function(*read)

    table = [rows(a) for a in arguments]
    if chunk is None or chunk >= len(table[0]):
        result = evaluate(*table)
    elif weight is not None:
        reads = [affine(a) if isinstance(a, Readout) else None for a in arguments]
        result = weighted_losses(function, reads, table, weight.flatten(), chunk, sums)
    else:
        parts = [
            checkpoint(evaluate, *part, use_reentrant=False)
            for part in zip(*(x.split(chunk) for x in table), strict=True)
        ]
        joined = [
            torch.cat(column) for column in zip(*(p if isinstance(p, tuple) else (p,) for p in parts), strict=True)
        ]
        result = tuple(joined) if isinstance(parts[0], tuple) else joined[0]
    unflatten = lambda y: y.unflatten(0, lead)  # noqa: E731
    return tuple(unflatten(y) for y in result) if isinstance(result, tuple) else unflatten(result)


def affine(readout: Readout) -> Any:
    """The matrix and offset of a readout, or its function where it has none."""
    head = getattr(readout.read, "__self__", readout.read)
    if not isinstance(head, Head):
        return readout.read
    return head.matrix, head.bias if head is readout.read else None


def per_sample(values: Any, condition: Condition = FREE, emphasis: Any = 1.0) -> Tensor:
    """Sum over fields of ``emphasis`` times the mean over positions that exist and are not given; ``(*batch,)``."""
    total: Any = 0
    for value, mask, known, factor in leaves(values, condition.mask, condition.known, emphasis):
        counted = torch.ones_like(value, dtype=torch.bool) if mask is None else mask
        if known is not None:
            counted = counted & ~known
        flat, counted = value.flatten(1), counted.flatten(1)
        total = total + factor * torch.where(counted, flat, 0).sum(1) / counted.sum(1).clamp(min=1)
    return total
