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


class GapCurriculum(nn.Module):
    r"""Short jumps first: a weight that falls with the length of a jump, and less so as the run goes on.

    .. math:: \beta\, L, \qquad \beta = 1 - p + \lambda\, p\, (1 - (t - s)), \qquad
              p = \max(0, 1 - \text{share of the run} / \text{until})

    At first the jump (0, 1) has no weight, in the end every jump has weight 1.

    Arguments:
        mean: 1/λ, the mean of 1 - (t - s) over the pairs in training, in (0, 1]: β has mean 1 at every p. Two thirds
            for the triangle of times; of ``FullJump`` with probability q, (1 - q) times that.
        until: Share of the run after which all weights are 1, in (0, 1].
    Raises: ValueError if a setting is outside its range.
    Reference: Kim et al. 2025, arXiv 2511.19065.
    """

    behind: Tensor

    def __init__(self, mean: float = 2 / 3, until: float = 1.0):
        super().__init__()
        for name, value in (("mean", mean), ("until", until)):
            if not 0 < value <= 1:
                raise ValueError(f"{name} is {value}, expected a number in (0, 1]")
        self.mean, self.until = mean, until
        self.register_buffer("behind", torch.zeros(()), persistent=False)  # a tensor: a compiler need not see it change

    def before_step(self, share: float) -> None:
        """Take note of the share of the run that is behind."""
        self.behind.fill_(share)

    def forward(self, loss: Tensor, s: Tensor, t: Tensor) -> Tensor:
        p = (1 - self.behind / self.until).clamp(min=0)
        return (1 - p + p * (1 - (t - s)) / self.mean).to(loss.dtype) * loss
