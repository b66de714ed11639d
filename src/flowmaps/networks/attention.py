r"""Self-attention that has a forward-mode derivative.

PyTorch's fused kernels have no forward rule, so a tangent must go through plain matrix products, or through one
operation that is given value and tangent (:mod:`~flowmaps.networks.attention_pair`). A *backend* is a function
``(q, k, v, mask) -> values`` on ``(batch, heads, length, dim)``; :func:`automatic` takes the fused kernel exactly where
no tangent is present: sampling, the diagonal loss and teachers keep its speed and memory.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn import functional as F

from .attention_pair import pair
from .norms import RMSNorm, has_tangent

Backend = Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor]
SHORT = 256  # rows up to which plain products are the faster ones on a CPU in half precision
LONG = 128  # rows beyond which a tangent goes through the operation of pairs


def plain(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    r"""softmax(q kᵀ / √dim) v by matrix products, softmax in float32 or better; differentiable at will.

    Arguments:
        mask: Keys that exist, bool ``(batch, length)``; one key per sample at least.
    """
    score = (q * q.shape[-1] ** -0.5) @ k.mT
    if mask is not None:
        score = score.masked_fill(~mask[:, None, None, :], torch.finfo(score.dtype).min)
    weight = score.softmax(-1, dtype=torch.promote_types(score.dtype, torch.float32))
    return weight.to(v.dtype) @ v


def fused(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """The same by PyTorch's fused kernels: faster and smaller, without a forward-mode derivative."""
    return F.scaled_dot_product_attention(q, k, v, None if mask is None else mask[:, None, None, :])


def paired(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """The same where an argument carries a tangent, by :func:`attention_pair.pair`: memory is linear in the length.

    Value and tangent are taken apart, go through one operation of pairs, and are joined again. Without a tangent it is
    :func:`fused`. Its gradient is taken by ``backward`` and ``torch.autograd.grad``, once; ``torch.func.grad`` and a
    second forward mode around the first know no rule for it, and need :func:`plain`.
    """
    duals = [forward_ad.unpack_dual(x) for x in (q, k, v)]
    if all(dual.tangent is None for dual in duals):
        return fused(q, k, v, mask)
    dq, dk, dv = (torch.zeros_like(x) if dx is None else dx for x, dx in duals)
    q, k, v = (dual.primal for dual in duals)
    y, dy, _ = pair(q, k, v, dq, dk, dv, mask)
    return forward_ad.make_dual(y, dy)


def automatic(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """:func:`fused`, where no argument carries a tangent; else :func:`plain`, on longer rows :func:`paired`.

    The fused kernel of CPUs is slow in half precision on short rows: at length 64 in bfloat16, forward and backward
    take 4.9 times the processor time of plain products, at 256 still 1.8 times. With a tangent plain products keep
    matrices of length x length; pairs are as fast at length 128 and three times as fast at 1,024. On accelerators,
    where pairs take kernels of their own in half precision, nothing has been measured (``python bench/attention.py``).
    """
    length = q.shape[-2]
    if has_tangent(q, k, v):
        return (paired if length > LONG else plain)(q, k, v, mask)
    slow = q.device.type == "cpu" and q.dtype.itemsize == 2 and length <= SHORT
    return (plain if slow else fused)(q, k, v, mask)


def rotary(positions: Sequence[int], dim: int, like: Tensor, base: float = 1e4) -> Tensor:
    """Unit complex numbers by which pairs of coordinates turn, as (2, length, pairs): cosines and sines.

    Every axis of ``positions`` turns its own share of the ``dim // 2`` pairs; the rest stay as they are.
    """
    pairs = dim // 2 // len(positions)
    omega = base ** -(torch.arange(pairs, device=like.device, dtype=torch.float32) / max(pairs, 1))
    grid = torch.meshgrid(*(torch.arange(n, device=like.device).float() for n in positions), indexing="ij")
    angle = torch.cat([axis.reshape(-1, 1) * omega for axis in grid], dim=-1)
    return torch.stack([angle.cos(), angle.sin()]).to(like.dtype)


def rotate(x: Tensor, turn: Tensor) -> Tensor:
    """Turn the first coordinates of ``x`` (..., length, dim) pairwise by ``turn`` (2, length, pairs)."""
    cos, sin = turn
    n = cos.shape[-1]
    a, b, rest = x[..., :n], x[..., n : 2 * n], x[..., 2 * n :]
    return torch.cat([a * cos - b * sin, a * sin + b * cos, rest], dim=-1)


class Attention(nn.Module):
    r"""Multi-head self-attention with normalised queries and keys.

    .. math:: y = \mathrm{softmax}\!\big(R\,\hat q\,(R\,\hat k)^\top / \sqrt{d_h}\big)\, v

    Hats are root-mean-square norms with a learned gain, R are rotary positions. The output projection starts
    at PyTorch's default: gates of the surrounding block make it start as the identity.

    Arguments:
        width: Width of input and output, a multiple of ``heads``.
        heads: Number of heads.
        backend: Function that computes attention.
    Invariant: padding (``mask`` False) never changes the output at other positions; all backends agree.
    Reference: Su et al. 2021, arXiv 2104.09864 (rotary); Dehghani et al. 2023, arXiv 2302.05442 (QK-norm).
    """

    def __init__(self, width: int, heads: int = 4, backend: Backend = automatic):
        super().__init__()
        if heads < 1 or width % heads:
            raise ValueError(f"width is {width}, heads {heads}: expected a width that is a multiple of heads")
        self.heads, self.backend = heads, backend
        self.qkv = nn.Linear(width, 3 * width)
        self.norm_q = RMSNorm(width // heads)
        self.norm_k = RMSNorm(width // heads)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor, mask: Tensor | None = None, turn: Tensor | None = None) -> Tensor:
        """Attend within ``x`` (batch, length, width), over the keys in ``mask``, turned by :func:`rotary`."""
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        q, k = self.norm_q(q), self.norm_k(k)
        if turn is not None:
            q, k = rotate(q, turn), rotate(k, turn)
        y = self.backend(q.to(v.dtype), k.to(v.dtype), v, mask)
        return self.out(y.transpose(1, 2).flatten(-2))


def use_backend(module: nn.Module, backend: Backend) -> None:
    """Give every attention layer within ``module`` this backend."""
    for layer in module.modules():
        if isinstance(layer, Attention):
            layer.backend = backend
