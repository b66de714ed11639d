"""Predictions and losses position by position, in chunks: only a chunk of predictions over a large alphabet exists at
one time. And the one sum over positions that skips what does not exist or is given."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Generic, NamedTuple, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from .fields import FREE, Condition, Data, S, State, Tree, fieldwise, joined, leaves, parts, take, unzipped
from .networks.chunked import Read, Sums, weighted_losses
from .networks.heads import Head

Result = TypeVar("Result", bound=Tensor | tuple[Tensor, ...])
Compare = Callable[..., Tensor | tuple[Tensor, ...]]


class Readout(NamedTuple):
    """Features and the head that turns them into a prediction, kept apart so that it happens chunk by chunk."""

    read: Callable[[Tensor], Tensor]
    h: Tensor


Readouts = Tree[Readout]


class Plain(nn.Module):
    """The head of a network whose features are the prediction already."""

    def forward(self, h: Tensor) -> Tensor:
        return h

    def tangent(self, dh: Tensor) -> Tensor:
        return dh


def itself(x: Tensor) -> Tensor:
    """x: how states are read."""
    return x


def plain(x: State) -> Readouts:
    """States or tangents, to be read as they are."""
    return fieldwise(lambda x: Readout(itself, x), x)


def readouts(h: State, heads: Tree[nn.Module]) -> Readouts:
    """Features with the head of their field, to be read inside a chunk."""
    return fieldwise(lambda h, head: Readout(head, h), h, heads)


def tangents(dh: State, heads: Tree[nn.Module]) -> Readouts:
    """Tangents of features with the linear part of the head of their field."""
    return fieldwise(lambda dh, head: Readout(head.tangent, dh), dh, heads)


def then(reads: Readouts, function: Callable[[Tensor], Tensor]) -> Readouts:
    """Readouts of a function of the predictions."""
    return fieldwise(lambda r: Readout(lambda h: function(r.read(h)), r.h), reads)


def blend(reads: Sequence[Readouts], mix: Callable[..., Tensor]) -> Readouts:
    """Readouts of a function of several predictions of the same positions."""
    return fieldwise(lambda *fields: _side_by_side(fields, mix), *reads)


def _side_by_side(reads: Sequence[Readout], mix: Callable[..., Tensor]) -> Readout:
    widths = [r.h.shape[-1] for r in reads]

    def read(h: Tensor) -> Tensor:
        return mix(*(r.read(part) for r, part in zip(reads, h.split(widths, dim=-1), strict=True)))

    return Readout(read, torch.cat([r.h for r in reads], dim=-1))


def predictions(reads: Readouts) -> State:
    """The predictions of all positions at once."""
    return joined(reads, [r.read(r.h) for r in parts(reads)])


def wide(z: Tensor) -> Tensor:
    """Predictions in float32 at least: every logarithm and reduction happens there."""
    return z if z.dtype == torch.float64 else z.float()


class Evaluation(Generic[S]):
    """How losses of predictions are evaluated: in chunks, and with their weight in the final loss where it is known.

    With weights a chunk's gradient is taken while its predictions are there; without, they are computed again in the
    backward pass.

    Arguments:
        chunk: Positions whose predictions exist at one time; ``None`` for all.
        weight: Weight of each position in the final loss up to a common factor, per field.
        sums: Gradients of heads that several evaluations of one backward pass share, per field.
    """

    def __init__(self, chunk: int | None = None, weight: S | None = None, sums: Tree[Sums] | None = None):
        self.chunk, self.weight, self.sums = chunk, weight, sums

    @classmethod
    def weighted(
        cls, chunk: int | None, mean: Callable[[S], Tensor], x: S, sums: Tree[Sums] | None = None
    ) -> Evaluation[S]:
        """An evaluation whose weights are the derivative of ``mean``, which makes one number of a value per position.

        Arguments:
            x: States, which have the positions.
        """
        if chunk is None or not torch.is_grad_enabled() or torch.compiler.is_compiling():
            return cls(chunk)
        positions = take(x, (..., 0))
        values = fieldwise(lambda leaf: torch.zeros_like(leaf, dtype=wide(leaf).dtype, requires_grad=True), positions)
        return cls(chunk, joined(x, torch.autograd.grad(mean(values), parts(values))), sums)

    def __call__(
        self,
        compare: Compare,
        *arguments: Readouts | Tree[Tensor],
        names: tuple[str, ...] = ("loss", "clamp_rate"),
    ) -> dict[str, S]:
        """Values per position by name, ``(*batch, *positions)`` per field: as many as ``compare`` returns.

        Arguments are those of :func:`in_chunks`, readouts per field.
        """

        def evaluate(weight: Tensor | None, sums: Sums | None, *fields: Readout | Tensor) -> tuple[Tensor, ...]:
            result = in_chunks(compare, *fields, chunk=self.chunk, weight=weight, sums=sums)
            return result if isinstance(result, tuple) else (result,)

        columns = unzipped(fieldwise(evaluate, self.weight, self.sums, *arguments))
        values = dict(zip(names, columns, strict=False))
        return values  # pyright: ignore[reportReturnType]  (fields in, the same fields out)


def shared_sums(x: State) -> Tree[Sums]:
    """Sums for the head of each field of ``x``, for the evaluations of one backward pass."""
    return fieldwise(lambda _: Sums(), x)


def in_chunks(
    function: Callable[..., Result],
    *arguments: Readout | Tensor,
    chunk: int | None = None,
    weight: Tensor | None = None,
    sums: Sums | None = None,
) -> Result:
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
    Invariant: values and gradients equal the unchunked ones (``tests/maps``).
    """
    lead = next(a.h.shape[:-1] for a in arguments if isinstance(a, Readout))

    def evaluate(*tensors: Tensor) -> Tensor | tuple[Tensor, ...]:
        read = (a.read(x) if isinstance(a, Readout) else x for a, x in zip(arguments, tensors, strict=True))
        return function(*read)

    table = [_rows(a, lead) for a in arguments]
    if chunk is None or chunk >= len(table[0]):
        result = evaluate(*table)
    elif weight is not None:
        reads = [affine(a) if isinstance(a, Readout) else None for a in arguments]
        result = weighted_losses(function, reads, table, weight.flatten(), chunk, sums)
    else:
        result = _recomputed(evaluate, table, chunk)
    whole = lambda y: y.unflatten(0, lead)  # noqa: E731
    return cast(Result, tuple(map(whole, result)) if isinstance(result, tuple) else whole(result))


def _rows(a: Readout | Tensor, lead: torch.Size) -> Tensor:
    """One row per position: features as they are, coefficients spread over the positions."""
    if isinstance(a, Readout):
        return a.h.flatten(0, -2)
    return a.reshape(a.shape + (1,) * (len(lead) - a.ndim)).expand(lead).flatten().unsqueeze(-1)


def _recomputed(evaluate: Compare, table: Sequence[Tensor], chunk: int) -> Tensor | tuple[Tensor, ...]:
    """The function piece by piece, every piece once more in the backward pass."""
    pieces = [
        checkpoint(evaluate, *piece, use_reentrant=False)
        for piece in zip(*(x.split(chunk) for x in table), strict=True)
    ]
    if isinstance(pieces[0], tuple):
        return tuple(torch.cat(column) for column in zip(*pieces, strict=True))
    return torch.cat(pieces)


def affine(readout: Readout) -> Read:
    """The matrix and offset of a readout, or its function where it has none."""
    head = getattr(readout.read, "__self__", readout.read)
    if not isinstance(head, Head):
        return readout.read
    return head.matrix, head.bias if head is readout.read else None


def counted(values: Tensor, mask: Tensor | None, known: Tensor | None) -> Tensor:
    """Which positions exist and are not given, bool."""
    free = torch.ones_like(values, dtype=torch.bool) if mask is None else mask
    return free if known is None else free & ~known


def free_positions(x: Data, condition: Condition) -> Data:
    """Which positions of data exist and are not given, per field."""
    return fieldwise(counted, x, condition.mask, condition.known)


def masked_sum(values: Tensor, mask: Tensor | None, known: Tensor | None) -> tuple[Tensor, Tensor]:
    """The sum of one field's values over the positions that count, and their number, each ``(*batch,)``."""
    free = counted(values, mask, known).reshape(len(values), -1)
    return torch.where(free, values.reshape(len(values), -1), 0).sum(1), free.sum(1)


def total(values: State, condition: Condition = FREE) -> Tensor:
    """Sum of values over all fields and the positions that exist and are not given, ``(*batch,)``."""
    return torch.stack([masked_sum(*field)[0] for field in leaves(values, condition.mask, condition.known)]).sum(0)


def per_example(values: State, condition: Condition = FREE, emphasis: Tree[float] = 1.0) -> Tensor:
    """Sum over fields of ``emphasis`` times the mean over the positions that count, ``(*batch,)``."""
    means = []
    for *field, factor in leaves(values, condition.mask, condition.known, emphasis):
        sum, count = masked_sum(*field)
        means.append(factor * sum / count.clamp(min=1))
    return torch.stack(means).sum(0) if len(means) > 1 else means[0]
