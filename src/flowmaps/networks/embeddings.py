"""What a network knows besides the state: both times, and a label."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..fields import Condition

Clock = Callable[[Tensor], Tensor]


def input_scale(s: Tensor, K: int) -> Tensor:
    r"""The known factor that gives a state at time ``s`` unit expected norm, shape of ``s``.

    .. math:: c(s) = \big(s^2 + (1-s)^2 K\big)^{-1/2}

    The state of a map :math:`X_{s,t}` lives at ``s``, so no derivative in ``t`` meets this factor. ``K = 1``
    serves Euclidean states of unit variance per coordinate.
    """
    return torch.rsqrt(s.square() + (1 - s).square() * K)


def check_sizes(**sizes: int) -> None:
    """Refuse a network of no size.

    Raises: ValueError naming the first size below 1.
    """
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"{name} is {size}, expected at least 1")


def own_time(s: Tensor, known: Tensor | None) -> Tensor:
    """Time of each position: 1 where it is known, else ``s``; shape ``(batch,)`` or that of ``known``."""
    if known is None:
        return s
    return torch.where(known, 1.0, s.reshape(-1, *(1,) * (known.ndim - 1)))


class TimeFeatures(nn.Module):
    r"""Fourier features of a pair of times.

    .. math:: \sqrt 2\,[\cos(\omega_i a),\ \sin(\omega_i a)]_i \quad\text{for}\quad a \in \{s,\ t - s\}

    The pair enters as (s, t - s): ``s`` is the noise level of the state and ``t - s`` the length of the jump,
    zero on the whole diagonal, where the diagonal loss therefore trains functions of ``s`` alone, and a new
    network already extends them to short jumps. A derivative in ``t`` touches half of the features only.

    The angular frequencies are geometric in ``band``. The lowest turns by one radian over [0, 1], so no two
    times collide; the highest resolves about 1/16. Lagrangian and Eulerian losses train :math:`\partial_t` of
    the network, whose spurious part at initialisation grows as the highest frequency, while the true
    :math:`\partial_t\pi` is of order one: frequencies in the hundreds make that loss mostly noise. Where the
    distribution changes fast in time (large alphabets, around ``times.half_decoded``), give a ``clock`` rather than a
    wider band.

    Arguments:
        features: Number of frequencies; the output has four times as many.
        band: Lowest and highest angular frequency.
        clock: Differentiable monotone map of [0, 1], applied to both times first.
    Returns (of a call): shape ``(*times, 4 * features)``, in the precision of the times.
    Invariant: smooth in ``s`` and ``t``; forward mode agrees with central differences (``tests/networks``).
    """

    omega: Tensor

    def __init__(self, features: int = 16, band: tuple[float, float] = (1.0, 16.0), clock: Clock | None = None):
        super().__init__()
        low, high = band
        if features < 1 or not 0 < low <= high:
            raise ValueError(f"features {features}, band {band}: expected features >= 1 and 0 < low <= high")
        self.clock = clock
        omega = torch.logspace(math.log10(low), math.log10(high), features, dtype=torch.float64)
        self.register_buffer("omega", omega.float(), persistent=False)
        self.dim = 4 * features

    def forward(self, s: Tensor, t: Tensor) -> Tensor:
        a, b = (s, t) if self.clock is None else (self.clock(s), self.clock(t))
        pair = torch.stack([a, b - a], dim=-1)
        angle = (pair.unsqueeze(-1) * self.omega.to(pair.dtype)).flatten(-2)
        return math.sqrt(2) * torch.cat([angle.cos(), angle.sin()], dim=-1)


class Label(nn.Module):
    """Embedding of a class index or of real-valued properties, with a vector that stands for "no label".

    Arguments:
        width: Width of the embedding.
        classes: Number of classes; the index ``classes`` means "no label".
        properties: Number of real-valued properties; a row that holds NaN means "no label".
    Returns (of a call): shape ``(batch, width)``; ``label=None`` means no label for the whole batch.
    Raises: ValueError if the label is of the wrong kind or shape.
    """

    def __init__(self, width: int, classes: int | None = None, properties: int | None = None):
        super().__init__()
        if (classes is None) == (properties is None):
            raise ValueError(f"classes is {classes} and properties {properties}; a label is one or the other")
        self.classes, self.properties = classes, properties
        if classes is not None:
            self.table = nn.Embedding(classes + 1, width)
        if properties is not None:
            self.linear = nn.Linear(properties, width)
            self.absent = nn.Parameter(torch.zeros(width))

    def forward(self, label: Tensor | None, batch: int) -> Tensor:
        return self._property(label, batch) if self.classes is None else self._class(label, batch)

    def _class(self, label: Tensor | None, batch: int) -> Tensor:
        if label is None:
            absent = self.table.num_embeddings - 1
            label = torch.full((batch,), absent, device=self.table.weight.device)
        if label.is_floating_point() or label.shape != (batch,):
            kind = f"shape {tuple(label.shape)} and type {label.dtype}"
            raise ValueError(f"label has {kind}, expected ({batch},) integer classes")
        return self.table(label)

    def _property(self, label: Tensor | None, batch: int) -> Tensor:
        weight = self.linear.weight
        shape = (batch, weight.shape[1])
        if label is None:
            label = weight.new_full(shape, math.nan)
        if label.shape != shape:
            raise ValueError(f"label has shape {tuple(label.shape)}, expected {shape} real-valued properties")
        absent = label.isnan().any(-1, keepdim=True)
        return torch.where(absent, self.absent, self.linear(torch.where(absent, 0.0, label).to(weight.dtype)))


class Context(nn.Module):
    """Both times and the label as vectors that modulate a network.

    Arguments:
        width: Width of the vectors.
        classes, properties: As in :class:`Label`; neither: unconditional, and a label is refused.
        times: Features of both times, with their band and clock; default :class:`TimeFeatures`.
        split: Share of the blocks, from the first, that know s alone, while the rest know t alone
            (:meth:`of_blocks`); ``None``: every block knows both times.
    Returns (of a call): ``(batch, 1, width)``; with known positions ``(batch, 2, width)``, the second vector
        being that of the clean times (1, 1), which :class:`Modulation` gives to those positions.
    """

    def __init__(
        self,
        width: int,
        classes: int | None = None,
        properties: int | None = None,
        times: TimeFeatures | None = None,
        split: float | None = None,
    ):
        super().__init__()
        self.times, self.split = times or TimeFeatures(), split
        self.read = nn.Linear(self.times.dim, width)
        self.mix = nn.Linear(width, width)
        unconditional = classes is None and properties is None
        self.label = None if unconditional else Label(width, classes, properties)

    def forward(self, s: Tensor, t: Tensor, condition: Condition) -> Tensor:
        if s.ndim != 1 or s.shape != t.shape:
            shapes = f"s has shape {tuple(s.shape)}, t {tuple(t.shape)}"
            raise ValueError(f"{shapes}: expected one of each per sample")
        if self.label is None and condition.label is not None:
            raise ValueError("a network without labels got one; build it with classes= or properties=")
        one = torch.ones_like(s)
        pairs = [(s, t)] if condition.known is None else [(s, t), (one, one)]
        s, t = (torch.stack(times, dim=1) for times in zip(*pairs, strict=True))
        features = self.times(s, t).to(self.read.weight.dtype)
        with torch.autocast(features.device.type, enabled=False):  # times near 1 differ by less than bf16 holds
            c = self.read(features)
        c = self.mix(F.silu(c))
        if self.label is not None:
            c = c + self.label(condition.label, len(s)).unsqueeze(1)
        return F.silu(c)

    def of_blocks(self, s: Tensor, t: Tensor, condition: Condition, depth: int) -> list[Tensor]:
        r"""One context for each block.

        .. math:: c_i = c(s, s) \text{ for } i < \text{split} \cdot \text{depth, then } c(t, t)

        On the diagonal this is the network without ``split``, bit for bit: one trained there alone is a flow map as
        soon as its blocks are split, and what jumps it makes is worth distilling.

        Raises: ValueError if one of the times would reach no block.
        Reference: Lee et al. 2025, *Decoupled MeanFlow*, arXiv 2510.24474.
        """
        if self.split is None:
            return [self(s, t, condition)] * depth
        first = round(self.split * depth)
        if not 0 < first < depth:
            raise ValueError(
                f"split is {self.split} of {depth} blocks, {first} of which would know s: expected 1 to {depth - 1}"
            )
        return [self(s, s, condition)] * first + [self(t, t, condition)] * (depth - first)


class Modulation(nn.Module):
    r"""Scales, shifts and gates from a context; zero at first, so that residual blocks start as identities.

    Arguments:
        width: Width of the context.
        dim: Width of what is modulated.
        parts: How many vectors to return.
    Returns (of a call): ``parts`` tensors ``(batch, 1 or positions, dim)``. ``share`` (batch, positions) in
        [0, 1] says how far a position is known, and mixes the two vectors of the context.
    Reference: Peebles and Xie 2022, *Scalable diffusion models with transformers*, arXiv 2212.09748
        (adaLN-zero).
    """

    def __init__(self, width: int, dim: int, parts: int):
        super().__init__()
        self.linear = nn.Linear(width, parts * dim)
        self.parts = parts
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, c: Tensor, share: Tensor | None = None) -> tuple[Tensor, ...]:
        m = self.linear(c)
        if share is not None:
            m = torch.lerp(m[:, :1], m[:, 1:], share.unsqueeze(-1).to(m.dtype))
        return m.chunk(self.parts, dim=-1)


def read_in(d: int, width: int) -> nn.Linear:
    """The first layer, linear in a state of unit norm (:func:`input_scale`), with outputs of unit variance."""
    linear = nn.Linear(d, width, bias=False)
    nn.init.normal_(linear.weight)
    return linear


class ReadOut(nn.Linear):
    """The last layer, zero at first."""

    def __init__(self, width: int, out: int):
        super().__init__(width, out)
        nn.init.zeros_(self.weight)
        nn.init.zeros_(self.bias)
