"""Normal distributions whose moments a network gives: encoders and decoders."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

FLOOR = 1e-5  # of every deviation


class ConditionalNormal(nn.Module):
    r"""The mean and the deviation of a normal distribution, given what a network sees; here one fixed deviation.

    .. math:: N\big(m(x), \operatorname{diag}\sigma^2\big)

    Encoders and decoders may be any modules: what they return is flattened from the second dimension on.

    Arguments:
        network: Any module of one tensor.
        deviation: σ.
    Returns (of a call): m and σ, each ``(batch, dim)``, σ at least 1e-5.
    Raises: ValueError if the deviation is not positive.
    """

    def __init__(self, network: nn.Module, deviation: float = 1.0):
        super().__init__()
        if not deviation > 0:
            raise ValueError(f"deviation is {deviation}, expected a positive number")
        self.network, self.deviation = network, deviation

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        m = self.network(x).flatten(1)
        return m, torch.full_like(m, max(self.deviation, FLOOR))


class LearnedScale(ConditionalNormal):
    r"""The same with one learned deviation for each coordinate, whatever the network sees.

    .. math:: \sigma = \operatorname{softplus}(s) + 10^{-5}

    Arguments:
        network: Any module of one tensor.
        dim: Number of coordinates.
        deviation: σ at first.
    """

    def __init__(self, network: nn.Module, dim: int, deviation: float = 1.0):
        super().__init__(network, deviation)
        self.scale = nn.Parameter(_raw(deviation).repeat(dim))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        m = self.network(x).flatten(1)
        return m, _positive(self.scale).expand_as(m)


class PredictedScale(ConditionalNormal):
    r"""The same with deviations that the network predicts, in the second half of what it returns.

    .. math:: (m, s) = \text{network}(x), \qquad \sigma = \operatorname{softplus}(s + s_0) + 10^{-5}

    Arguments:
        network: Any module of one tensor that returns twice as many numbers as there are coordinates.
        deviation: σ where the network says 0.
    """

    def __init__(self, network: nn.Module, deviation: float = 1.0):
        super().__init__(network, deviation)
        self.start = float(_raw(deviation))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        found = self.network(x).flatten(1)
        if found.shape[1] % 2:
            raise ValueError(f"the network returns {found.shape[1]} numbers, expected means and as many scales")
        m, s = found.chunk(2, dim=1)
        return m, _positive(s + self.start)


def _positive(s: Tensor) -> Tensor:
    return F.softplus(s) + FLOOR


def _raw(deviation: float) -> Tensor:
    """The number whose deviation is this one."""
    return torch.tensor(max(deviation - FLOOR, FLOOR)).expm1().log()
