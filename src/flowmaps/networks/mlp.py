"""A residual perceptron over all positions at once: finite distributions, toys, and states of several fields."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..fields import FREE, Condition, State, across, fieldwise, joined, leaves, parts
from .base import Network
from .embeddings import Context, Modulation, ReadOut, TimeFeatures, check_sizes, input_scale, own_time
from .norms import adapt

Shape = Sequence[int] | Mapping[str, Sequence[int]]


class MLP(Network):
    r"""Residual perceptron on flattened states with adaptive norms, for one field or several.

    .. math:: h = W\,[c(s)\,x^{(1)}, \dots, c(s)\,x^{(F)}] + V\,\text{known}, \qquad
              h \leftarrow h + g \odot W_2\,\mathrm{silu}(W_1\,\mathrm{adaLN}(h;\, s, t, \text{label}))

    The most expressive network for few positions, because nothing is shared between them.

    Arguments:
        shape: Shape of one state, ``(*positions, d)``; by name for states of several fields.
        width, depth: Size.
        out: Width of the output per position, of every field; default: its ``d`` (logits of ``OneHot``).
        K: Number of categories in the input scale; default: the field's ``d``.
        classes, properties, times: As in ``Transformer``.
    Returns (of a call): ``(batch, *positions, out)``, zero at first; a dictionary when ``shape`` is one.
    Invariant: values at masked positions never change the rest.
    """

    def __init__(
        self,
        shape: Shape,
        width: int = 256,
        depth: int = 3,
        out: int | None = None,
        K: int | None = None,
        classes: int | None = None,
        properties: int | None = None,
        times: TimeFeatures | None = None,
    ):
        super().__init__()
        check_sizes(width=width, depth=depth)
        self.shape = fieldwise(_whole, dict(shape) if isinstance(shape, Mapping) else shape)
        self.out = fieldwise(lambda field: (*field[:-1], out or field[-1]), self.shape)
        self.K = K
        positions = sum(math.prod(field[:-1]) for field in parts(self.shape))
        self.read = nn.Linear(sum(math.prod(field) for field in parts(self.shape)), width, bias=False)
        nn.init.normal_(self.read.weight, std=positions**-0.5)  # every position has unit norm
        self.known = nn.Linear(positions, width)
        self.context = Context(width, classes, properties, times)
        self.blocks = nn.ModuleList(Residual(width) for _ in range(depth))
        self.norm = Modulation(width, width, parts=2)
        self.write = ReadOut(width, sum(math.prod(field) for field in parts(self.out)))

    def forward(self, x: State, s: Tensor, t: Tensor, condition: Condition | None = None) -> State:
        condition = condition or FREE
        self._check(x)
        fields = list(leaves(x, condition.mask, condition.known))
        h = self.read(torch.cat([self._scaled(s, *field).flatten(1) for field in fields], dim=1))
        h = h + self.known(torch.cat([_flags(x, known) for x, _, known in fields], dim=1))
        c = self.context(s, t, condition._replace(known=None))
        for block in self.blocks:
            h = block(h, c)
        scale, shift = self.norm(c)
        return self._split(self.write(adapt(h, scale.squeeze(1), shift.squeeze(1))))

    def _scaled(self, s: Tensor, x: Tensor, mask: Tensor | None, known: Tensor | None) -> Tensor:
        x = x * across(input_scale(own_time(s, known), self.K or x.shape[-1]), x)
        return x if mask is None else torch.where(mask.unsqueeze(-1), x, 0.0)

    def _split(self, y: Tensor) -> State:
        shapes = parts(self.out)
        pieces = y.split([math.prod(shape) for shape in shapes], dim=1)
        return joined(self.out, [piece.unflatten(1, shape) for piece, shape in zip(pieces, shapes, strict=True)])

    def _check(self, x: State) -> None:
        shape = fieldwise(lambda field: tuple(field.shape[1:]), x)
        if shape != self.shape:
            raise ValueError(f"one state has shape {shape}, expected {self.shape}")


def _whole(sizes: Sequence[int]) -> tuple[int, ...]:
    return tuple(sizes)


def _flags(x: Tensor, known: Tensor | None) -> Tensor:
    """Which positions are known, as numbers (batch, positions)."""
    # Not a view of x: under compilation views of a tangent cannot be differentiated again.
    return x.new_zeros(x.shape[:-1]).reshape(len(x), -1) if known is None else known.flatten(1).to(x.dtype)


class Residual(nn.Module):
    """A gated two-layer perceptron behind an adaptive norm."""

    def __init__(self, width: int):
        super().__init__()
        self.modulation = Modulation(width, width, parts=3)
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, h: Tensor, c: Tensor) -> Tensor:
        shift, scale, gate = (part.squeeze(1) for part in self.modulation(c))
        return h + gate * self.down(F.silu(self.up(adapt(h, scale, shift))))
