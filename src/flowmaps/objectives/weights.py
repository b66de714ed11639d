"""Optional weights of the loss off the diagonal, per sample."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class LearnedWeight(nn.Module):
    r"""Homoscedastic weighting by a small network of the times.

    .. math:: e^{-w(s,t)} L + w(s,t)

    At its optimum every pair of times contributes a gradient of the same size.

    Reference: Karras et al. 2023, *Analyzing and improving the training dynamics of diffusion models*,
    arXiv 2312.02696.
    """

    frequency: Tensor
    phase: Tensor

    def __init__(self, width: int = 64):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.register_buffer("frequency", 4 * torch.randn(2, width, generator=generator))
        self.register_buffer("phase", 6.2832 * torch.rand(width, generator=generator))
        self.out = nn.Linear(width, 1)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, loss: Tensor, s: Tensor, t: Tensor) -> Tensor:
        times = torch.stack([s, t], dim=-1).to(self.frequency.dtype)
        with torch.autocast(times.device.type, enabled=False):  # times near 1 differ by less than bf16 holds
            w = self.out(torch.cos(times @ self.frequency + self.phase)).squeeze(-1).to(loss.dtype)
        return torch.exp(-w) * loss + w


class AdaptiveWeight(nn.Module):
    r"""Weight by the loss itself, stop-gradient: between squared and absolute error.

    .. math:: \mathrm{sg}[(L + c)^{-r}]\, L

    Not for cross-entropies, whose floor is not 0: it would favour easy samples.

    Reference: Geng et al. 2025, *Mean flows for one-step generative modeling*, arXiv 2505.13447.
    """

    def __init__(self, r: float = 0.5, c: float = 0.01):
        super().__init__()
        if not c > 0:
            raise ValueError(f"c is {c}, expected a positive constant")
        self.r, self.c = r, c

    def forward(self, loss: Tensor, s: Tensor, t: Tensor) -> Tensor:
        return (loss + self.c).pow(-self.r).detach() * loss
