r"""Attention and its tangent as one operation, with a gradient of its own and without a matrix of length x length.

An operation of pairs ``(q, k, v, dq, dk, dv) -> (y, dy)``: both results are values to reverse mode, so nothing has to
be differentiated in forward mode and then again in reverse. With c = 1 / √dim:

.. math:: S = c\, q k^\top, \quad T = \dot S = c\,(\dot q k^\top + q \dot k^\top), \quad P = \mathrm{softmax}\, S,
          \quad \ell_i = \log \textstyle\sum_j e^{S_{ij}}, \quad m_i = \sum_j P_{ij} T_{ij}

.. math:: y = P v, \qquad \dot P = P \circ (T - m), \qquad
          \dot y = \dot P v + P \dot v = (P \circ T)\, v - m\, y + P \dot v

so one pass over keys suffices. For gradients g in y and h in dy, let :math:`\beta_i = h_i \cdot y_i` and
:math:`D_i = g_i \cdot y_i + h_i \cdot \dot y_i`. Then :math:`\partial L / \partial P_{ij} = g_i v_j + h_i \dot v_j +
T_{ij} (h_i v_j - \beta_i) - m_i\, h_i v_j`, whose mean under P is :math:`D_i - m_i \beta_i`, hence

.. math:: \bar T = P \circ (h v^\top - \beta), \qquad
          \bar S = P \circ \big(g v^\top + h \dot v^\top - D + (T - m) \circ (h v^\top - \beta)\big)

.. math:: \bar q = c\,(\bar S k + \bar T \dot k), \quad \bar k = c\,(\bar S^\top q + \bar T^\top \dot q), \quad
          \bar{\dot q} = c\, \bar T k, \quad \bar{\dot k} = c\, \bar T^\top q, \quad
          \bar v = P^\top g + \dot P^\top h, \quad \bar{\dot v} = P^\top h .

From ℓ, m, β and D every tile of P, T, S̄ and T̄ is computed anew, as in flash attention: what is kept is linear in the
length. Where no gradient comes through the tangent (h is absent, as in Eulerian losses), that of plain attention is
left.

Products of length x length x dim: 6 forward and 15 backward, against 2 and 5 for a value alone, and 6 and 5 where the
tangent is detached.

Reference: Dao et al. 2022, *FlashAttention*, arXiv 2205.14135 (tiles, and P anew from ℓ); the second order is ours.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from importlib.util import find_spec

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx
from torch.library import custom_op, register_autograd, register_fake, register_vmap
from torch.utils.flop_counter import register_flop_formula

TILE = {"cpu": 2**18}  # numbers of a tile: 1 MiB in float32, so that a few of them stay near the cache of a core
LARGE = 2**24  # those on other devices, which want large products
PAIR, GRADIENT = "flowmaps::attention_pair", "flowmaps::attention_pair_gradient"
HIDDEN = -1e30  # score of a key that does not exist; finite, so that it may be multiplied


def _columns(x: Tensor, *others: Tensor | float) -> Tensor:
    """Tensors (..., n) side by side; a number is a column of it. A product of such rows adds in a column for free."""
    one = (*x.shape[:-1], 1)
    return torch.cat([x, *(y if isinstance(y, Tensor) else x.new_full(one, y) for y in others)], -1)


def _tiles(Q: Tensor, K: Tensor) -> Iterator[tuple[slice, list[slice]]]:
    """Some heads at a time, with the queries of their tiles."""
    (heads, queries, _), keys, size = Q.shape, K.shape[-2], TILE.get(Q.device.type, LARGE)
    rows = max(1, min(queries, size // keys))
    some = max(1, size // (rows * keys))
    for head in range(0, heads, some):
        yield slice(head, head + some), [slice(row, row + rows) for row in range(0, queries, rows)]


def _wide(tensors: Sequence[Tensor]) -> list[Tensor]:
    """(batch, heads, length, dim) as (batch x heads, length, dim), in float32 or better."""
    return [x.flatten(0, 1).to(torch.promote_types(x.dtype, torch.float32)) for x in tensors]


def _bias(mask: Tensor | None, k: Tensor) -> Tensor:
    """What is added to the scores of each key, (batch x heads, length, 1)."""
    bias = k.new_zeros(*k.shape[:-1], 1, dtype=torch.promote_types(k.dtype, torch.float32))
    return (bias if mask is None else bias.masked_fill(~mask[:, None, :, None], HIDDEN)).flatten(0, 1)


def _on_kernels(q: Tensor, v: Tensor) -> bool:
    """Whether the kernels of Triton take such tensors: in half precision, on an accelerator that has it."""
    small = q.dtype.itemsize == 2 and max(q.shape[-1], v.shape[-1]) <= 128
    return small and q.device.type == "cuda" and find_spec("triton") is not None


@custom_op(PAIR, mutates_args=())
def pair(
    q: Tensor, k: Tensor, v: Tensor, dq: Tensor, dk: Tensor, dv: Tensor, mask: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Attention and its tangent, as the equations above say.

    Arguments:
        q, k, v, dq, dk, dv: ``(batch, heads, length, dim)``; queries and keys may differ in length.
        mask: Keys that exist, bool ``(batch, length)``; one key per sample at least.
    Returns: y, dy, and the statistics ℓ and m of each row, ``(2, batch, heads, length)``, which have no gradient.
    Invariant: results and gradients are those of plain attention in forward mode (``tests/networks``).
    """
    y, dy, rows = results = _results(q, k, v)
    if _on_kernels(q, v):
        from . import attention_kernel

        attention_kernel.pair((q, k, v, dq, dk, dv), mask, results)
        return results
    Q, K, V, dQ, dK, dV = _wide((q, k, v, dq, dk, dv))
    Q, dQ, e = Q * q.shape[-1] ** -0.5, dQ * q.shape[-1] ** -0.5, v.shape[-1]
    for_S, for_T, of_P, of_T = _columns(K, _bias(mask, k)), _columns(K, dK), _columns(V, dV, 1), _columns(V, 1)
    Y, dY, (L, M) = y.flatten(0, 1), dy.flatten(0, 1), rows.flatten(1, 2).unsqueeze(-1)
    with torch.autocast(q.device.type, enabled=False):
        for n, tiles in _tiles(Q, K):
            for i in tiles:
                P = _columns(Q[n, i], 1) @ for_S[n].mT
                most = P.amax(-1, keepdim=True)
                P.sub_(most).exp_()
                T = (_columns(dQ[n, i], Q[n, i]) @ for_T[n].mT).mul_(P)
                value, along = P @ of_P[n], T @ of_T[n]  # their last columns are sums over the row
                total = value[..., -1:]
                value, along = value[..., :-1] / total, along / total
                L[n, i], M[n, i] = most + total.log(), along[..., -1:]
                Y[n, i] = value[..., :e]
                dY[n, i] = value[..., e:] + along[..., :-1] - along[..., -1:] * value[..., :e]
    return y, dy, rows


@custom_op(GRADIENT, mutates_args=())
def pair_gradient(
    g: Tensor, h: Tensor | None, q: Tensor, k: Tensor, v: Tensor, dq: Tensor, dk: Tensor, dv: Tensor,
    mask: Tensor | None, rows: Tensor,
) -> list[Tensor]:  # fmt: skip
    """The gradient in q, k, v, and in dq, dk, dv where one comes through the tangent.

    Arguments:
        g, h: Gradients in y and dy.
        rows: ℓ, m, D and β of each row, ``(4, batch, heads, length)``.
    """
    if _on_kernels(q, v):
        from . import attention_kernel

        return attention_kernel.pair_gradient(g, h, (q, k, v, dq, dk, dv), mask, rows)
    columns, bias, c = rows.flatten(1, 2).unsqueeze(-1), _bias(mask, k), q.shape[-1] ** -0.5
    G, Q, K, V, dQ, dK, dV = _wide((g, q, k, v, dq, dk, dv))
    Q, dQ = Q * c, dQ * c
    with torch.autocast(q.device.type, enabled=False):
        if h is None:
            grads = _first_order(G, Q, K, V, bias, columns)
        else:
            grads = _second_order(G, _wide((h,))[0], (Q, K, V, dQ, dK, dV), bias, columns)
    for scaled in grads[::3]:
        scaled.mul_(c)
    return [grad.to(x.dtype).contiguous().view(x.shape) for grad, x in zip(grads, (q, k, v, dq, dk, dv), strict=False)]


def _first_order(G: Tensor, Q: Tensor, K: Tensor, V: Tensor, bias: Tensor, rows: Tensor) -> list[Tensor]:
    """Gradients in q / c, k and v through y alone; Q is c q."""
    grads = [torch.zeros_like(x) for x in (Q, K, V)]
    gQ, gK, gV = grads
    for_S, for_R = _columns(K, bias, 1), _columns(V, 1)
    for n, tiles in _tiles(Q, K):
        for i in tiles:
            P = (_columns(Q[n, i], 1, -rows[0, n, i]) @ for_S[n].mT).exp_()
            S = (_columns(G[n, i], -rows[2, n, i]) @ for_R[n].mT).mul_(P)
            gQ[n, i] = S @ K[n]
            gK[n].baddbmm_(S.mT, Q[n, i])
            gV[n].baddbmm_(P.mT, G[n, i])
    return grads


def _second_order(G: Tensor, H: Tensor, wide: Sequence[Tensor], bias: Tensor, rows: Tensor) -> list[Tensor]:
    """Gradients in q / c, k, v, dq / c, dk and dv; of ``wide``, Q and dQ are c q and c dq."""
    Q, K, V, dQ, dK, dV = wide
    d, e = Q.shape[-1], V.shape[-1]
    GH, QQ = _columns(G, H), _columns(dQ, Q)
    for_S, for_T, for_R, for_B = _columns(K, bias, 1), _columns(K, dK, 1), _columns(V, dV, 1), _columns(V, 1)
    gQ, gdQ = torch.empty_like(Q), torch.empty_like(Q)
    gK, gV, gKK, gVV = (torch.zeros_like(x) for x in (K, V, for_T[..., :-1], for_R[..., :-1]))
    for n, tiles in _tiles(Q, K):
        for i in tiles:
            ell, m, D, beta = (-row for row in rows[:, n, i])
            P = (_columns(Q[n, i], 1, ell) @ for_S[n].mT).exp_()
            T = _columns(QQ[n, i], m) @ for_T[n].mT
            B = _columns(H[n, i], beta) @ for_B[n].mT
            S = (_columns(GH[n, i], D) @ for_R[n].mT).addcmul_(T, B).mul_(P)
            B.mul_(P)
            T.mul_(P)
            both = B @ for_T[n, :, :-1]
            gQ[n, i], gdQ[n, i] = torch.baddbmm(both[..., d:], S, K[n]), both[..., :d]
            gK[n].baddbmm_(S.mT, Q[n, i])
            gKK[n].baddbmm_(B.mT, QQ[n, i])
            gV[n].baddbmm_(T.mT, H[n, i])
            gVV[n].baddbmm_(P.mT, GH[n, i])
    return [gQ, gK + gKK[..., :d], gV + gVV[..., :e], gdQ, gKK[..., d:], gVV[..., e:]]


# -- what torch has to know of them -----------------------------------------------------------------------------------


@register_fake(PAIR)
def _results(q: Tensor, k: Tensor, v: Tensor, *others: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Room for what :func:`pair` returns."""
    shape = q.shape[:-1]
    y, dy = (v.new_empty(*shape, v.shape[-1]) for _ in range(2))
    return y, dy, v.new_empty(2, *shape, dtype=torch.promote_types(v.dtype, torch.float32))


@register_fake(GRADIENT)
def _(g: Tensor, h: Tensor | None, *inputs: Tensor | None) -> list[Tensor]:
    return [x.new_empty(x.shape) for x in inputs[: 3 if h is None else 6] if x is not None]


class _Context(FunctionCtx):
    """What the backward pass finds."""

    saved_tensors: tuple[Tensor, ...]


def _keep(ctx: _Context, inputs: tuple[Tensor, ...], output: tuple[Tensor, ...]) -> None:
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(output[2])
    ctx.save_for_backward(*inputs, *output)


def _backward(ctx: _Context, g: Tensor | None, h: Tensor | None, _: None) -> tuple[Tensor | None, ...]:
    *inputs, y, dy, rows = ctx.saved_tensors
    g, wide = torch.zeros_like(y) if g is None else g, rows.dtype
    D, beta = (g.to(wide) * y).sum(-1), torch.zeros_like(rows[0])
    if h is not None:
        D, beta = D + (h.to(wide) * dy).sum(-1), (h.to(wide) * y).sum(-1)
    q, k, v, dq, dk, dv, mask = inputs
    grads = pair_gradient(g, h, q, k, v, dq, dk, dv, mask, torch.stack([*rows, D, beta]))
    return *grads, *[None] * (len(inputs) - len(grads))


def _batched(info, dims: tuple[int | None, ...], *inputs: Tensor | None):  # noqa: ANN001, ANN202  (as torch calls it)
    n = info.batch_size
    moved = [
        x if x is None else x.expand(n, *x.shape) if dim is None else x.movedim(dim, 0)
        for x, dim in zip(inputs, dims, strict=True)
    ]
    y, dy, rows = torch.ops.flowmaps.attention_pair(*(x if x is None else x.flatten(0, 1) for x in moved))
    return (y.unflatten(0, (n, -1)), dy.unflatten(0, (n, -1)), rows.unflatten(1, (n, -1))), (0, 0, 1)


register_autograd(PAIR, _backward, setup_context=_keep)
register_vmap(PAIR, _batched)


@register_flop_formula(torch.ops.flowmaps.attention_pair)
def _(q: torch.Size, k: torch.Size, v: torch.Size, *others: object, **_: object) -> int:
    return 2 * q[:-1].numel() * k[-2] * (3 * q[-1] + 3 * v[-1])


@register_flop_formula(torch.ops.flowmaps.attention_pair_gradient)
def _(g: object, h: object, q: torch.Size, k: torch.Size, v: torch.Size, *others: object, **_: object) -> int:
    d, e = (3, 2) if h is None else (9, 6)
    return 2 * q[:-1].numel() * k[-2] * (d * q[-1] + e * v[-1])
