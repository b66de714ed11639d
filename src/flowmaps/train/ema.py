"""The exponential moving average of the map's weights, which is the map that is validated, sampled and shipped."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn


class EMA(AveragedModel):
    r"""Average of a module's parameters whose decay warms up; buffers are copied.

    .. math:: \bar\theta_n = d_n \bar\theta_{n-1} + (1 - d_n)\, \theta_n, \qquad
       d_n = \min\left(d, \frac{1 + n}{10 + n}\right), \quad \bar\theta_0 = \theta_0

    The number of updates is a Python integer, so that an update on an accelerator waits for nothing.

    Arguments:
        module: The map; a copy is made, in evaluation mode.
        decay: The final decay d in [0, 1).
    Raises: ValueError if the decay is outside [0, 1).
    """

    def __init__(self, module: nn.Module, decay: float = 0.999):
        if not 0 <= decay < 1:
            raise ValueError(f"ema decay is {decay}, expected a number in [0, 1); None switches the average off")
        super().__init__(module)
        self.decay, self.updates = decay, 0
        self.module.eval().requires_grad_(False)

    @torch.no_grad()
    def update_parameters(self, model: nn.Module) -> None:
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        pairs = list(zip(self.module.parameters(), model.parameters(), strict=True))
        groups: dict[tuple, tuple[list[Tensor], list[Tensor]]] = {}
        for mean, new in pairs:
            means, news = groups.setdefault((mean.device, mean.dtype), ([], []))
            means.append(mean)
            news.append(new.detach())
        average = get_ema_multi_avg_fn(decay)
        for means, news in groups.values():
            average(means, news, self.updates)
        for mean, new in zip(self.module.buffers(), model.buffers(), strict=True):
            mean.copy_(new)

    @contextmanager
    def lent_to(self, model: nn.Module) -> Iterator[None]:
        """Within the block ``model`` computes with the averaged weights; afterwards with its own, bit for bit."""
        self._exchange(model)
        try:
            yield
        finally:
            self._exchange(model)

    def _exchange(self, model: nn.Module) -> None:
        for mean, own in zip(self.module.parameters(), model.parameters(), strict=True):
            mean.data, own.data = own.data, mean.data
