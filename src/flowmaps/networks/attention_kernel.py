"""Triton kernels of attention with its tangent: the equations of ``attention_pair``, for accelerators.

Two passes, as in flash attention: forward a program has some queries and walks over all keys with a running maximum;
backward one kernel has some queries and walks over keys, another has some keys and walks over queries, and both compute
every tile anew. So products of length x length x dim are 6 forward and 9 + 12 backward (the tiles of PyTorch take 6 and
15; flash attention in this form 2 and 3 + 4), or 6 and 3 + 4 where the tangent is detached. Forward a head moves
4 L d (1 + L / BQ) numbers, BQ being the queries of a program, and plain products some 6 L² + 8 L d.

Checked without an accelerator: exact in Triton's interpreter (``tests/networks/test_attention_kernel.py``); compiled
for compute capabilities 8.0 and 9.0, at dim 64 and 128 in bfloat16, they take at most 255 registers, of which 28 spill
in one kernel, and 68 kB of shared memory. Their speed has not been measured. In float32 registers spill by the
thousand, so that is left to the tiles of PyTorch.

Reference: Dao et al. 2022, *FlashAttention*, arXiv 2205.14135; Tillet et al. 2019, *Triton*,
doi 10.1145/3315508.3329973.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def _rows(X, n, i, length, d: tl.constexpr, D: tl.constexpr):  # noqa: ANN001, ANN202  (as Triton writes it)
    """Rows i of head n, (block, D); 0 beyond the length and beyond d."""
    j = tl.arange(0, D)
    there = (i < length)[:, None] & (j < d)[None, :]
    return tl.load(X + (n * length + i)[:, None] * d + j[None, :], mask=there, other=0.0)


@triton.jit
def _put(X, x, n, i, length, d: tl.constexpr, D: tl.constexpr):  # noqa: ANN001, ANN202
    """Write what :func:`_rows` reads."""
    j = tl.arange(0, D)
    there = (i < length)[:, None] & (j < d)[None, :]
    tl.store(X + (n * length + i)[:, None] * d + j[None, :], x.to(X.dtype.element_ty), mask=there)


@triton.jit
def _exist(mask, n, j, heads, keys, MASKED: tl.constexpr):  # noqa: ANN001, ANN202
    """Which of the keys j a head may see."""
    there = j < keys
    if MASKED:
        there = there & (tl.load(mask + (n // heads) * keys + j, mask=there, other=0) != 0)
    return there


@triton.jit
def _times(a, b):  # noqa: ANN001, ANN202
    """The product of rows, in the precision of what was stored, with sums in float32."""
    return tl.dot(a.to(b.dtype), b, input_precision="ieee")


@triton.jit
def _forward(
    Q, K, V, dQ, dK, dV, mask, Y, dY, L, M, c, heads, queries, keys,
    d: tl.constexpr, e: tl.constexpr, D: tl.constexpr, E: tl.constexpr,
    MASKED: tl.constexpr, BQ: tl.constexpr, BK: tl.constexpr,
):  # noqa: ANN001, ANN202  # fmt: skip
    """y, dy, ℓ and m of BQ queries."""
    blocks = tl.cdiv(queries, BQ)
    n = (tl.program_id(0) // blocks).to(tl.int64)
    i = (tl.program_id(0) % blocks) * BQ + tl.arange(0, BQ)
    q, dq = _rows(Q, n, i, queries, d, D), _rows(dQ, n, i, queries, d, D)
    y, w = tl.zeros((BQ, E), tl.float32), tl.zeros((BQ, E), tl.float32)
    most, total, along = tl.full((BQ,), -1e30, tl.float32), tl.zeros((BQ,), tl.float32), tl.zeros((BQ,), tl.float32)
    around = total  # a mean of T: what is rounded to half precision is the difference from it
    for start in range(0, keys, BK):
        j = start + tl.arange(0, BK)
        k, dk = tl.trans(_rows(K, n, j, keys, d, D)), tl.trans(_rows(dK, n, j, keys, d, D))
        v, dv = _rows(V, n, j, keys, e, E), _rows(dV, n, j, keys, e, E)
        s = tl.where(_exist(mask, n, j, heads, keys, MASKED)[None, :], c * _times(q, k), float("-inf"))
        now = tl.maximum(most, tl.max(s, 1))
        p, fade = tl.exp(s - now[:, None]), tl.exp(most - now)
        t = c * (_times(dq, k) + _times(q, dk))
        around = tl.where(start == 0, tl.sum(t, 1) / BK, around)
        pt = p * (t - around[:, None])
        total, along, most = total * fade + tl.sum(p, 1), along * fade + tl.sum(pt, 1), now
        y = y * fade[:, None] + _times(p, v)
        w = w * fade[:, None] + _times(p, dv) + _times(pt, v)
    y, m = y / total[:, None], along / total
    _put(Y, y, n, i, queries, e, E)
    _put(dY, w / total[:, None] - m[:, None] * y, n, i, queries, e, E)
    tl.store(L + n * queries + i, most + tl.log(total), mask=i < queries)
    tl.store(M + n * queries + i, m + around, mask=i < queries)


@triton.jit
def _tile(
    q, k, v, dq, dk, dv, g, h, R, n, i, there, c, queries, stride, SECOND: tl.constexpr,
):  # noqa: ANN001, ANN202  # fmt: skip
    """P, the gradients in scores and in their tangents, and the tangent of P; of the first two alone if not SECOND."""
    seen, R = i < queries, R + n * queries + i
    ell, D = tl.load(R, mask=seen, other=0.0)[:, None], tl.load(R + 2 * stride, mask=seen, other=0.0)[:, None]
    p = tl.where(seen[:, None] & there[None, :], tl.exp(c * _times(q, tl.trans(k)) - ell), 0.0)
    s = _times(g, tl.trans(v)) - D
    t, b = p, p
    if SECOND:
        m = tl.load(R + stride, mask=seen, other=0.0)[:, None]
        beta = tl.load(R + 3 * stride, mask=seen, other=0.0)[:, None]
        t = c * (_times(dq, tl.trans(k)) + _times(q, tl.trans(dk))) - m
        b = _times(h, tl.trans(v)) - beta
        s += _times(h, tl.trans(dv)) + t * b
    return p, p * s, p * b, p * t


@triton.jit
def _to_queries(
    G, H, Q, K, V, dQ, dK, dV, mask, R, gQ, gdQ, c, heads, queries, keys, stride,
    d: tl.constexpr, e: tl.constexpr, D: tl.constexpr, E: tl.constexpr,
    MASKED: tl.constexpr, SECOND: tl.constexpr, BQ: tl.constexpr, BK: tl.constexpr,
):  # noqa: ANN001, ANN202  # fmt: skip
    """The gradients in BQ queries and their tangents."""
    blocks = tl.cdiv(queries, BQ)
    n = (tl.program_id(0) // blocks).to(tl.int64)
    i = (tl.program_id(0) % blocks) * BQ + tl.arange(0, BQ)
    q, g = _rows(Q, n, i, queries, d, D), _rows(G, n, i, queries, e, E)
    dq, h = q, g
    if SECOND:
        dq, h = _rows(dQ, n, i, queries, d, D), _rows(H, n, i, queries, e, E)
    gq, gdq = tl.zeros((BQ, D), tl.float32), tl.zeros((BQ, D), tl.float32)
    for start in range(0, keys, BK):
        j = start + tl.arange(0, BK)
        k, v = _rows(K, n, j, keys, d, D), _rows(V, n, j, keys, e, E)
        dk, dv = k, v
        if SECOND:
            dk, dv = _rows(dK, n, j, keys, d, D), _rows(dV, n, j, keys, e, E)
        there = _exist(mask, n, j, heads, keys, MASKED)
        p, s, b, t = _tile(q, k, v, dq, dk, dv, g, h, R, n, i, there, c, queries, stride, SECOND)
        gq += _times(s, k)
        if SECOND:
            gq += _times(b, dk)
            gdq += _times(b, k)
    _put(gQ, c * gq, n, i, queries, d, D)
    if SECOND:
        _put(gdQ, c * gdq, n, i, queries, d, D)


@triton.jit
def _to_keys(
    G, H, Q, K, V, dQ, dK, dV, mask, R, gK, gV, gdK, gdV, c, heads, queries, keys, stride,
    d: tl.constexpr, e: tl.constexpr, D: tl.constexpr, E: tl.constexpr,
    MASKED: tl.constexpr, SECOND: tl.constexpr, BQ: tl.constexpr, BK: tl.constexpr,
):  # noqa: ANN001, ANN202  # fmt: skip
    """The gradients in BK keys, their values, and the tangents of both."""
    blocks = tl.cdiv(keys, BK)
    n = (tl.program_id(0) // blocks).to(tl.int64)
    j = (tl.program_id(0) % blocks) * BK + tl.arange(0, BK)
    there = _exist(mask, n, j, heads, keys, MASKED)
    k, v = _rows(K, n, j, keys, d, D), _rows(V, n, j, keys, e, E)
    dk, dv = k, v
    if SECOND:
        dk, dv = _rows(dK, n, j, keys, d, D), _rows(dV, n, j, keys, e, E)
    gk, gdk, gv, gdv = _nothing(BK, D), _nothing(BK, D), _nothing(BK, E), _nothing(BK, E)
    for start in range(0, queries, BQ):
        i = start + tl.arange(0, BQ)
        q, g = _rows(Q, n, i, queries, d, D), _rows(G, n, i, queries, e, E)
        dq, h = q, g
        if SECOND:
            dq, h = _rows(dQ, n, i, queries, d, D), _rows(H, n, i, queries, e, E)
        p, s, b, t = _tile(q, k, v, dq, dk, dv, g, h, R, n, i, there, c, queries, stride, SECOND)
        gk += _times(tl.trans(s), q)
        gv += _times(tl.trans(p), g)
        if SECOND:
            gk, gdk = gk + _times(tl.trans(b), dq), gdk + _times(tl.trans(b), q)
            gv, gdv = gv + _times(tl.trans(t), h), gdv + _times(tl.trans(p), h)
    _put(gK, c * gk, n, j, keys, d, D)
    _put(gV, gv, n, j, keys, e, E)
    if SECOND:
        _put(gdK, c * gdk, n, j, keys, d, D)
        _put(gdV, gdv, n, j, keys, e, E)


@triton.jit
def _nothing(rows: tl.constexpr, columns: tl.constexpr):  # noqa: ANN202
    return tl.zeros((rows, columns), tl.float32)


def _sizes(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> dict[str, object]:
    """What all kernels are told: sizes of heads and of blocks."""
    d, e = q.shape[-1], v.shape[-1]
    D, E = (max(16, triton.next_power_of_2(size)) for size in (d, e))
    small = max(D, E) > 64
    return {
        "c": d**-0.5, "heads": q.shape[1], "queries": q.shape[-2], "keys": k.shape[-2],
        "d": d, "e": e, "D": D, "E": E, "MASKED": mask is not None, "BQ": 32, "BK": 32 if small else 64,
        "num_warps": 4, "num_stages": 1 if small else 2,
    }  # fmt: skip


def _run(kernel: object, rows: Tensor, block: str, *tensors: Tensor, **sizes: object) -> None:
    """One program for each block of the rows of each head."""
    batch, heads, length, _ = rows.shape
    programs = batch * heads * triton.cdiv(length, sizes[block])
    kernel[(programs,)](*tensors, **sizes)  # pyright: ignore[reportIndexIssue]  (launched as Triton has it)


def pair(inputs: Sequence[Tensor], mask: Tensor | None, results: tuple[Tensor, ...]) -> None:
    """Fill y, dy and (ℓ, m) from q, k, v, dq, dk, dv."""
    (q, k, v, *_), (y, dy, rows) = inputs, results
    inputs = [x.contiguous() for x in inputs]
    seen = inputs[0] if mask is None else mask.to(torch.uint8).contiguous()
    _run(_forward, q, "BQ", *inputs, seen, y, dy, rows[0], rows[1], **_sizes(q, k, v, mask))


def pair_gradient(
    g: Tensor, h: Tensor | None, inputs: Sequence[Tensor], mask: Tensor | None, rows: Tensor
) -> list[Tensor]:
    """The gradients in ``inputs`` (q, k, v, dq, dk, dv), in the first three of them if h is absent."""
    (q, k, v, *_), second = inputs, h is not None
    sizes = {**_sizes(q, k, v, mask), "stride": rows[0].numel(), "SECOND": second}
    outer = [x.contiguous() for x in (g, g if h is None else h, *inputs)]
    seen = outer[0] if mask is None else mask.to(torch.uint8).contiguous()
    grads = [x.new_empty(x.shape) for x in inputs[: 6 if second else 3]]
    gq, gk, gv, gdq, gdk, gdv = grads if second else [*grads, *grads]
    _run(_to_queries, q, "BQ", *outer, seen, rows, gq, gdq, **sizes)
    _run(_to_keys, k, "BK", *outer, seen, rows, gk, gv, gdk, gdv, **sizes)
    return grads
