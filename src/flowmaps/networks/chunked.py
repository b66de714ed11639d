r"""Losses of predictions over large alphabets, chunk by chunk, with the gradient taken on the way.

Positions x K predictions exist for one chunk only. Recomputing them in the backward pass costs a third more products
with the head; where the weight of each position in the loss is known beforehand, their gradient is taken at once:

.. math:: L = \sum_p w_p\, \ell_p, \qquad \nabla L = \sum_{\text{chunks}} \sum_{p \in \text{chunk}} w_p \nabla \ell_p

Heads are affine and no forward mode goes through them, so ordinary reverse mode per chunk suffices.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable
from torch.nn import functional as F

Losses = Tensor | tuple[Tensor, ...]
Read = tuple[Tensor, Tensor | None] | Callable[[Tensor], Tensor] | None  # a matrix with its offset, a function, neither
Place = tuple[int | None, ...] | Callable[[Tensor], Tensor] | None  # the same with numbers of parameters


def weighted_losses(
    function: Callable[..., Losses],
    reads: Sequence[Read],
    rows: Sequence[Tensor],
    weight: Tensor,
    chunk: int,
    sums: Sums | None = None,
) -> Losses:
    """``function`` of read-outs chunk by chunk; it must enter the final loss as ``c * (weight * loss).sum()``.

    Arguments:
        function: Maps predictions ``(chunk, K)`` and coefficients ``(chunk, 1)`` to losses ``(chunk,)``, or to a tuple
            whose first entry they are; the others are for the record.
        reads: How each of the rows is read: ``(matrix, bias or None)``, any function, or ``None`` for coefficients.
        rows: ``(positions, d)`` each. Rows without gradient are targets, unless no row has one.
        weight: Weight of each position in the loss, ``(positions,)``, up to a common factor c.
        chunk: Positions at a time.
        sums: Shared by the losses of one backward pass, so that matrices have one gradient between them.
    Invariant: values and gradients equal the plain ones (``tests/networks/test_chunked.py``).
    """
    parameters: list[Tensor] = []
    places = [_place(read, parameters) if isinstance(read, tuple) else read for read in reads]
    losses = _Losses.apply(function, places, weight, chunk, sums or Sums(), len(rows), *rows, *parameters)
    return cast(Losses, losses)


def _place(read: tuple[Tensor | None, ...], parameters: list[Tensor]) -> tuple[int | None, ...]:
    """Where the parts of a read-out are among the parameters, each of which is kept once."""
    result: list[int | None] = []
    for part in read:
        found = next((i for i, p in enumerate(parameters) if p is part), None)
        if part is not None and found is None:
            found = len(parameters)
            parameters.append(part)
        result.append(found)
    return tuple(result)


class Sums:
    """Gradients of the matrices that several losses of one backward pass read: one sum for each, whichever reads it.

    All losses read the same matrices, have weights up to the same factor and are part of what is differentiated. The
    last one to be reached by the backward pass hands the sums over: fields with heads of their own need sums of
    their own.
    """

    def __init__(self) -> None:
        self.grads: dict[int, tuple[Tensor, Tensor]] = {}  # with the matrix itself, whose id then stays its own
        self.open = 0
        self.along: Tensor | float = 0.0
        self.square: Tensor | float = 0.0

    def of(self, parameter: Tensor) -> Tensor:
        if id(parameter) not in self.grads:
            self.grads[id(parameter)] = parameter, torch.zeros_like(parameter)
        return self.grads[id(parameter)][1]

    def close(self, along: Tensor, square: Tensor) -> Tensor | None:
        """The common factor once every loss has said g·w and w·w; ``None`` while others are to come."""
        along, square = self.along + along, self.square + square
        self.open, self.along, self.square = self.open - 1, along, square
        return None if self.open else _ratio(along, square)


class _Kept(FunctionCtx):
    """What the backward pass of losses finds: gradients in rows and parameters, all weighted."""

    needs_input_grad: tuple[bool, ...]
    grads: Sequence[Tensor | None] | None
    sums: Sequence[Tensor | None]
    shared: Sums
    weight: Tensor


class _Losses(torch.autograd.Function):
    """Evaluates losses and, while a chunk is there, their weighted gradient in rows and parameters."""

    @staticmethod
    def forward(
        ctx: _Kept,
        function: Callable[..., Losses],
        places: Sequence[Place],
        weight: Tensor,
        chunk: int,
        shared: Sums,
        n: int,
        *tensors: Tensor,
    ) -> Losses:
        rows, parameters = tensors[:n], tensors[n:]
        wanted = ctx.needs_input_grad[6:]
        sums = [shared.of(p) if want else None for p, want in zip(parameters, wanted[n:], strict=True)]
        grads = [torch.empty_like(x) if want else None for x, want in zip(rows, wanted[:n], strict=True)]
        # Without a gradient in any row the head alone is trained, through every row that it reads.
        alone = not any(wanted[:n])
        active = [want or (alone and isinstance(p, tuple)) for want, p in zip(wanted, places, strict=False)]
        results = []
        for start in range(0, len(rows[0]), chunk):
            piece = slice(start, start + chunk)
            leaves = [x[piece].detach().requires_grad_(a) for x, a in zip(rows, active, strict=True)]
            with torch.enable_grad():
                # No name holds the predictions: the graph keeps what it needs of them, and frees it as it goes.
                result = function(*(_read(x, p, parameters, sums) for x, p in zip(leaves, places, strict=True)))
                loss, *others = result if isinstance(result, tuple) else (result,)
                total = (loss * weight[piece]).sum()
            _take(total, leaves, grads, piece)
            results.append([y.detach() for y in (loss, *others)])
        shared.open += any(wanted)
        ctx.grads, ctx.sums, ctx.shared, ctx.weight = grads, sums, shared, weight
        loss, *others = (torch.cat(column) for column in zip(*results, strict=True))
        ctx.mark_non_differentiable(*others)
        return (loss, *others) if others else loss

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]  (once_differentiable hides the names)
        ctx: _Kept, g: Tensor, *_: Tensor
    ) -> tuple[Tensor | None, ...]:
        if ctx.grads is None:
            raise RuntimeError("gradients of a chunked loss are used up by the first backward pass; evaluate it again")
        along, square = (g * ctx.weight).sum(), ctx.weight.square().sum()
        factor, common = _ratio(along, square), ctx.shared.close(along, square)
        rows = [None if x is None else x.mul_(factor.to(x.dtype)) for x in ctx.grads]
        sums = [None if x is None or common is None else x.mul_(common.to(x.dtype)) for x in ctx.sums]
        ctx.grads, ctx.sums = None, ()
        return None, None, None, None, None, None, *rows, *sums


def _take(total: Tensor, leaves: Sequence[Tensor], grads: Sequence[Tensor | None], piece: slice) -> None:
    """Write the gradient of a chunk's total in its rows; that in the parameters has gone to their sums."""
    taken = iter(torch.autograd.grad(total, [x for x in leaves if x.requires_grad], allow_unused=True))
    for grad, leaf in zip(grads, leaves, strict=True):
        part = next(taken) if leaf.requires_grad else None
        if grad is not None:
            grad[piece] = 0 if part is None else part


def _ratio(along: Tensor, square: Tensor) -> Tensor:
    """The factor c of g = c w by least squares; 0 where w is."""
    return along / square.clamp(min=torch.finfo(square.dtype).tiny)


def _read(x: Tensor, place: Place, parameters: Sequence[Tensor], sums: Sequence[Tensor | None]) -> Tensor:
    if not isinstance(place, tuple):
        return x if place is None else place(x)
    (W, dW), (b, db) = ((None, None) if i is None else (parameters[i].detach(), sums[i]) for i in place)
    return cast(Tensor, _Affine.apply(x, W, b, dW, db))


class _Both(FunctionCtx):
    """What the backward pass of a read-out finds."""

    saved_tensors: tuple[Tensor, ...]
    sums: tuple[Tensor | None, Tensor | None]


class _Affine(torch.autograd.Function):
    """x Wᵀ + b, whose backward pass adds to the parameters' gradients in place."""

    @staticmethod
    def forward(ctx: _Both, x: Tensor, W: Tensor, b: Tensor | None, dW: Tensor | None, db: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, W)
        ctx.sums = dW, db
        return F.linear(x, W, b)

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]  (once_differentiable hides the names)
        ctx: _Both, dz: Tensor
    ) -> tuple[Tensor | None, ...]:
        x, W = ctx.saved_tensors
        dW, db = ctx.sums
        if dW is not None and dW.dtype == dz.dtype == x.dtype:
            dW.addmm_(dz.mT, x)
        elif dW is not None:
            dW += dz.mT @ x.to(dz.dtype)
        if db is not None:
            db += dz.sum(0)
        return (dz @ W.to(dz.dtype)).to(x.dtype), None, None, None, None
