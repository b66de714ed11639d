"""What an update does with the gradient: AdamW with its groups, and the course of the learning rate."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import nn

from ..spaces import Embedded


@dataclass(frozen=True)
class AdamW:
    """Adam with decoupled weight decay, fused where the device has it; no decay on vectors and embeddings.

    Arguments:
        lr: Learning rate at factor 1.
        betas: Averaging of the gradient and of its square.
        weight_decay: Share of a matrix removed per update, times the learning rate.
        eps: Added to the root of the average square.
    Reference: Loshchilov and Hutter 2019, *Decoupled weight decay regularization*, arXiv 1711.05101.
    """

    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.99)
    weight_decay: float = 0.01
    eps: float = 1e-8

    def __post_init__(self) -> None:
        for name in ("lr", "weight_decay", "eps"):
            value = getattr(self, name)
            if not isinstance(value, int | float) or not 0 <= value < math.inf:
                raise ValueError(f"{name} is {value}, expected a number of at least 0")
        if not all(isinstance(beta, int | float) and 0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas are {tuple(self.betas)}, expected two numbers in [0, 1)")

    def __call__(self, objective: nn.Module) -> torch.optim.AdamW:
        decayed, kept = decay_groups(objective)
        groups = [{"params": decayed, "weight_decay": self.weight_decay}, {"params": kept, "weight_decay": 0.0}]
        groups = [group for group in groups if group["params"]]
        parameters = decayed + kept
        fused = all(p.device.type in ("cpu", "cuda") and p.is_floating_point() for p in parameters)
        return torch.optim.AdamW(groups, lr=self.lr, betas=self.betas, eps=self.eps, fused=fused)


def decay_groups(module: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """The trainable parameters that are matrices, and those that are vectors or embeddings.

    Raises: ValueError if nothing is trainable.
    """
    embeddings = {
        id(p) for m in module.modules() if isinstance(m, nn.Embedding | Embedded) for p in m.parameters(recurse=False)
    }
    decayed, kept = [], []
    for parameter in module.parameters():
        if parameter.requires_grad:
            (kept if parameter.ndim < 2 or id(parameter) in embeddings else decayed).append(parameter)
    if not decayed and not kept:
        raise ValueError(f"{type(module).__name__} has no trainable parameter; nothing can be learned")
    return decayed, kept


@dataclass(frozen=True)
class Cosine:
    """Linear warm-up counted in updates, then half a cosine down to ``floor`` at ``max_steps``; floor 1 is constant.

    Progress is counted in updates also when a time budget may end the run earlier, so that the rate at an update does
    not depend on the machine: choose ``max_steps`` near what the budget allows.

    Arguments:
        warmup: Updates until the rate is reached.
        floor: Factor of the rate at the end.
    Returns (of a call): the factor at update ``step`` (from 1) of ``max_steps``.

    >>> [round(Cosine(warmup=2, floor=0.0)(step, 6), 2) for step in range(1, 7)]
    [0.5, 1.0, 0.85, 0.5, 0.15, 0.0]
    >>> [Cosine(warmup=2, floor=1.0)(step, 4) for step in range(1, 5)]
    [0.5, 1.0, 1.0, 1.0]
    """

    warmup: int = 100
    floor: float = 0.01

    def __post_init__(self) -> None:
        if self.warmup < 0 or not 0 <= self.floor <= 1:
            raise ValueError(f"warmup is {self.warmup}, floor {self.floor}; expected at least 0, and a share in [0, 1]")

    def __call__(self, step: int, max_steps: int) -> float:
        if step < self.warmup:
            return step / self.warmup
        progress = min(1.0, (step - self.warmup) / max(1, max_steps - self.warmup))
        return self.floor + (1 - self.floor) * (1 + math.cos(math.pi * progress)) / 2
