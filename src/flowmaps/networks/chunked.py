r"""Losses of predictions over large alphabets, chunk by chunk, with the gradient taken on the way.

Positions x K predictions exist for one chunk only. Recomputing them in the backward pass costs a third more products
with the head; where the weight of each position in the loss is known beforehand, their gradient is taken at once:

.. math:: L = \sum_p w_p\, \ell_p, \qquad \nabla L = \sum_{\text{chunks}} \sum_{p \in \text{chunk}} w_p \nabla \ell_p

Heads are affine and no forward mode goes through them, so ordinary reverse mode per chunk suffices.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F


def weighted_losses(
    function: Callable[..., Any], reads: Sequence[Any], rows: Sequence[Tensor], weight: Tensor, chunk: int
) -> Any:
    """``function`` of read-outs chunk by chunk; it must enter the final loss as ``c * (weight * loss).sum()``.

    Arguments:
        function: Maps predictions ``(chunk, K)`` and coefficients ``(chunk, 1)`` to losses ``(chunk,)``, or to a tuple
            whose first entry they are; the others are for the record.
        reads: How each of the rows is read: ``(matrix, bias or None)``, any function, or ``None`` for coefficients.
        rows: ``(positions, d)`` each. Rows without gradient are targets, unless no row has one.
        weight: Weight of each position in the loss, ``(positions,)``, up to a common factor c.
        chunk: Positions at a time.
    Invariant: values and gradients equal the plain ones (``tests/networks/test_chunked.py``).
    """
    parameters: list[Tensor] = []
    places = [_place(read, parameters) if isinstance(read, tuple) else read for read in reads]
    return _Losses.apply(function, places, weight, chunk, len(rows), *rows, *parameters)


def _place(read: tuple, parameters: list[Tensor]) -> tuple[int | None, ...]:
    """Where the parts of a read-out are among the parameters, each of which is kept once."""
    result: list[int | None] = []
    for part in read:
        found = next((i for i, p in enumerate(parameters) if p is part), None)
        if part is not None and found is None:
            found = len(parameters)
            parameters.append(part)
        result.append(found)
    return tuple(result)


class _Losses(torch.autograd.Function):
    """Evaluates losses and, while a chunk is there, their weighted gradient in rows and parameters."""

    @staticmethod
    def forward(ctx: Any, function: Any, places: Any, weight: Tensor, chunk: int, n: int, *tensors: Tensor) -> Any:
        rows, parameters = tensors[:n], tensors[n:]
        wanted = ctx.needs_input_grad[5:]
        sums = [torch.zeros_like(p) if want else None for p, want in zip(parameters, wanted[n:], strict=True)]
        grads = [torch.empty_like(x) if want else None for x, want in zip(rows, wanted[:n], strict=True)]
        # Without a gradient in any row the head alone is trained, through every row that it reads.
        alone = not any(wanted[:n])
        active = [want or (alone and isinstance(p, tuple)) for want, p in zip(wanted, places, strict=False)]
        results = []
        for start in range(0, len(rows[0]), chunk):
            piece = slice(start, start + chunk)
            leaves = [x[piece].detach().requires_grad_(a) for x, a in zip(rows, active, strict=True)]
            with torch.enable_grad():
                read = [_read(x, place, parameters, sums) for x, place in zip(leaves, places, strict=True)]
                result = function(*read)
                result = result if isinstance(result, tuple) else (result,)
                total = (result[0] * weight[piece]).sum()
            asked = [x for x in leaves if x.requires_grad]
            taken = iter(torch.autograd.grad(total, asked, allow_unused=True))
            for grad, leaf in zip(grads, leaves, strict=True):
                part = next(taken) if leaf.requires_grad else None
                if grad is not None:
                    grad[piece] = 0 if part is None else part
            results.append([y.detach() for y in result])
        ctx.grads, ctx.weight = [*grads, *sums], weight
        columns: Any = tuple(torch.cat(column) for column in zip(*results, strict=True))
        ctx.mark_non_differentiable(*columns[1:])
        return columns if len(columns) > 1 else columns[0]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor, *_: Any) -> Any:
        if ctx.grads is None:
            raise RuntimeError("gradients of a chunked loss are used up by the first backward pass; evaluate it again")
        factor = (g * ctx.weight).sum() / ctx.weight.square().sum().clamp(min=torch.finfo(ctx.weight.dtype).tiny)
        scaled = [None if x is None else x.mul_(factor.to(x.dtype)) for x in ctx.grads]
        ctx.grads = None
        return None, None, None, None, None, *scaled


def _read(x: Tensor, place: Any, parameters: Sequence[Tensor], sums: Sequence[Tensor | None]) -> Tensor:
    if not isinstance(place, tuple):
        return x if place is None else place(x)
    (W, dW), (b, db) = ((None, None) if i is None else (parameters[i].detach(), sums[i]) for i in place)
    return _Affine.apply(x, W, b, dW, db)  # type: ignore[return-value]


class _Affine(torch.autograd.Function):
    """x Wᵀ + b, whose backward pass adds to the parameters' gradients in place."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, W: Tensor, b: Tensor | None, dW: Tensor | None, db: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, W)
        ctx.sums = dW, db
        return F.linear(x, W, b)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dz: Tensor) -> Any:
        x, W = ctx.saved_tensors
        dW, db = ctx.sums
        if dW is not None and dW.dtype == dz.dtype == x.dtype:
            dW.addmm_(dz.mT, x)
        elif dW is not None:
            dW += dz.mT @ x.to(dz.dtype)
        if db is not None:
            db += dz.sum(0)
        return (dz @ W.to(dz.dtype)).to(x.dtype), None, None, None, None
