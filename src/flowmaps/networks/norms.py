r"""Norms whose forward-mode tangent can be trained through.

PyTorch's fused layer norm and batch norm treat their saved statistics as constants when a tangent is differentiated
again: the tangent is right, its gradient silently wrong (PyTorch issues 196700 and 196699; float64, all devices).
Losses that train :math:`\partial_t` of a network do just that. So a tensor that carries a tangent is normed by plain
operations, any other by the fused kernel.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn import functional as F

EPS = 1e-6


def has_tangent(*tensors: Tensor) -> bool:
    """Whether the innermost forward mode differentiates any of ``tensors``; constants inside a ``jvp`` do not count.

    It asks the tensors, not the global level, so it is right under ``torch.func.jvp`` and ``torch.compile``.
    """
    return any(forward_ad.unpack_dual(tensor).tangent is not None for tensor in tensors)


def layer_norm(x: Tensor) -> Tensor:
    """Subtract the mean of the last dimension and divide by its standard deviation."""
    if not has_tangent(x):
        return F.layer_norm(x, x.shape[-1:], eps=EPS)
    centred = x - x.mean(-1, keepdim=True)
    return centred * torch.rsqrt(centred.square().mean(-1, keepdim=True) + EPS)


def adapt(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """Adaptive layer norm: (1 + scale) times the norm of ``x``, plus shift."""
    return layer_norm(x) * (1 + scale) + shift


class RMSNorm(nn.Module):
    """Divide by the root mean square of the last dimension and multiply by a learned gain."""

    def __init__(self, dim: int):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        x = x.to(torch.promote_types(x.dtype, self.weight.dtype))
        if not has_tangent(x):
            return F.rms_norm(x, self.weight.shape, self.weight, EPS)
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + EPS) * self.weight


class GroupNorm(nn.Module):
    """Group norm of maps (batch, channels, H, W) whose statistics are those of the pixels that exist.

    Groups have four channels at least: alone, a channel of few pixels would be normed to its sign.

    Arguments (of a call):
        mask: Pixels that exist, numbers 0 or 1, (batch, 1, H, W).
    """

    def __init__(self, channels: int):
        super().__init__()
        self.groups = max(n for n in range(1, 9) if n == 1 or channels % (4 * n) == 0)
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        if mask is None and not has_tangent(x):
            return F.group_norm(x, self.groups, self.weight, self.bias, EPS)
        group = x.unflatten(1, (self.groups, -1))
        pixels = torch.ones_like(x[:, :1]) if mask is None else mask.to(x.dtype)
        pixels = pixels.unsqueeze(1)
        count = (pixels.sum((2, 3, 4), keepdim=True) * group.shape[2]).clamp(min=1)
        centred = (group - (group * pixels).sum((2, 3, 4), keepdim=True) / count) * pixels
        variance = centred.square().sum((2, 3, 4), keepdim=True) / count
        normed = (centred * torch.rsqrt(variance + EPS)).flatten(1, 2)
        return torch.addcmul(self.bias[:, None, None], normed, self.weight[:, None, None])
