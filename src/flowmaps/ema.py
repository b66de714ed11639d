"""A running average of weights: what is validated, sampled and shipped, and the teacher of self-distillation."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

Module = TypeVar("Module", bound=nn.Module)


class EMA(nn.Module, Generic[Module]):
    r"""Exponential moving average of a module's parameters whose decay grows; buffers are copied.

    .. math:: \bar\theta \leftarrow d_n \bar\theta + (1 - d_n)\, \theta, \qquad
       d_n = \min\left(d, \frac{1 + n}{10 + n}\right), \quad \bar\theta_0 = \theta_0

    The average is over a constant share of the past, then over a constant stretch of it. The number of updates is kept
    on the CPU, so that an update on an accelerator waits for nothing, and is part of the state.

    Arguments:
        module: The weights to follow; a copy is made, in evaluation mode.
        decay: The final decay d in [0, 1).
    Raises: ValueError if the decay is outside [0, 1).
    """

    copy: Module
    first = 1  # n of the first update

    def __init__(self, module: Module, decay: float = 0.999):
        if not 0 <= decay < 1:
            raise ValueError(f"ema decay is {decay}, expected a number in [0, 1); None switches the average off")
        nn.Module.__init__(self)
        self.copy = copy.deepcopy(module).requires_grad_(False).eval()
        self.decay = decay
        self.updates = torch.zeros((), dtype=torch.float64, device="cpu")

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        """Follow the weights of ``module``, which are found by name."""
        n = int(self.updates) + self.first
        self.updates += 1
        average = get_ema_multi_avg_fn(min(self.decay, (1 + n) / (10 + n)))
        weights, buffers = dict(module.named_parameters(remove_duplicate=False)), dict(module.named_buffers())
        groups: dict[tuple[type[Tensor], torch.device, torch.dtype], tuple[list[Tensor], list[Tensor]]] = {}
        for name, mean in self.copy.named_parameters():
            means, news = groups.setdefault((type(mean), mean.device, mean.dtype), ([], []))
            means.append(mean)
            news.append(weights[name].detach())
        for means, news in groups.values():
            average(means, news, n)
        for name, mean in self.copy.named_buffers():
            mean.copy_(buffers[name])

    @contextmanager
    def lent_to(self, module: nn.Module) -> Iterator[None]:
        """Within the block ``module`` computes with the averaged weights; afterwards with its own, bit for bit."""
        self._exchange(module)
        try:
            yield
        finally:
            self._exchange(module)

    @torch.no_grad()
    def _exchange(self, module: nn.Module) -> None:
        own = dict(module.named_parameters(remove_duplicate=False))
        for name, mean in self.copy.named_parameters():
            aside = own[name].clone()  # values move and memory stays, which sharded weights and captured graphs require
            own[name].copy_(mean)
            mean.copy_(aside)

    # ``updates`` is no buffer, which would move to the accelerator, but is kept and loaded like one

    def _save_to_state_dict(self, destination: dict[str, Tensor], prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination[f"{prefix}updates"] = self.updates

    def _load_from_state_dict(
        self,
        state_dict: Mapping[str, Tensor],
        prefix: str,
        local_metadata: Mapping[str, object],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        name = f"{prefix}updates"
        if name in state_dict:
            self.updates.copy_(state_dict[name])
        elif strict:
            missing_keys.append(name)
        others = {key: tensor for key, tensor in state_dict.items() if key != name}
        super()._load_from_state_dict(others, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs)
