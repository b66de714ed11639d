"""Layers between intensities of pixels and the numbers that a density is modelled on."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..fields import FREE, Condition
from .bijection import Invertible


class Identity(Invertible):
    """Nothing changes."""

    def forward(self, x_0: Tensor, condition: Condition = FREE) -> tuple[Tensor, Tensor]:
        return x_0, x_0.new_zeros(len(x_0))

    def inverse(self, x_1: Tensor, condition: Condition = FREE) -> tuple[Tensor, Tensor]:
        return self(x_1)


class Shift(Invertible):
    r"""One scale and one shift for all coordinates, learned from where the data put them.

    .. math:: x_1 = m + e^{a} x_0, \qquad \log|\det J| = D\, a

    Arguments:
        mean, deviation: m and e^a at first: those of the data.
    Raises: ValueError if the deviation is not positive.
    Reference: Kingma and Dhariwal 2018, *Glow*, arXiv 1807.03039 (initialised by the data).
    """

    def __init__(self, mean: float, deviation: float):
        super().__init__()
        if not deviation > 0:
            raise ValueError(f"deviation is {deviation}, expected a positive number; give data that are not all equal")
        self.mean, self.log_scale = nn.Parameter(torch.tensor(mean)), nn.Parameter(torch.tensor(deviation).log())

    def _log_det(self, x: Tensor) -> Tensor:
        return (self.log_scale * x.shape[-1]).expand(len(x))

    def forward(self, x_0: Tensor, condition: Condition = FREE) -> tuple[Tensor, Tensor]:
        return self.mean + self.log_scale.exp() * x_0, self._log_det(x_0)

    def inverse(self, x_1: Tensor, condition: Condition = FREE) -> tuple[Tensor, Tensor]:
        return (x_1 - self.mean) * torch.exp(-self.log_scale), -self._log_det(x_1)


class Logit(Invertible):
    r"""Intensities in (0, 1) from real numbers, with a margin that keeps 0 and 1 finite.

    .. math:: \operatorname{logit}(\alpha + (1 - 2\alpha)\, x_1) = x_0, \qquad
              \log|\det J| = \sum_d \log\frac{\varsigma(x_{0,d})\, \varsigma(-x_{0,d})}{1 - 2\alpha}

    Arguments:
        alpha: α in (0, 1/2).
    Raises: ValueError if α is out of its range.
    Reference: Papamakarios, Pavlakou and Murray 2017, *Masked autoregressive flow for density estimation*,
        arXiv 1705.07057, section 4 (α = 1e-6 for grey digits, .05 for colours).
    """

    def __init__(self, alpha: float = 1e-6):
        super().__init__()
        if not 0 < alpha < 0.5:
            raise ValueError(f"alpha is {alpha}, expected a number between 0 and 1/2")
        self.alpha = alpha

    def forward(self, x_0: Tensor, condition: Condition = FREE) -> tuple[Tensor, Tensor]:
        inner = 1 - 2 * self.alpha
        log_det = F.logsigmoid(x_0) + F.logsigmoid(-x_0) - torch.log(x_0.new_tensor(inner))
        return (x_0.sigmoid() - self.alpha) / inner, log_det.sum(-1)

    def inverse(self, x_1: Tensor, condition: Condition = FREE) -> tuple[Tensor, Tensor]:
        inner = 1 - 2 * self.alpha
        up, down = (self.alpha + inner * x_1).log(), (self.alpha + inner * (1 - x_1)).log()
        return up - down, (torch.log(x_1.new_tensor(inner)) - up - down).sum(-1)


def dequantise(k: Tensor, levels: int, u: Tensor) -> Tensor:
    r"""Intensities (k + u)/K of categories k, for uniform numbers u in [0, 1).

    The density of what comes out bounds the probability of what goes in: log P(k) >= E_u log p((k + u)/K) - D log K.

    Reference: Uria, Murray and Larochelle 2013, *RNADE*, arXiv 1306.0186.
    """
    return (k.to(u) + u) / levels


def quantise(x: Tensor, levels: int) -> Tensor:
    """The category whose interval an intensity is in; those outside of [0, 1) go to the nearest."""
    return (x * levels).floor().clamp(0, levels - 1).long()
