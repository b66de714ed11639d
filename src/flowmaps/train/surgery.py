"""Two losses that pull against each other: the gradient of one gives way to that of the other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from ..fields import Batch
from ..objectives import Objective

if TYPE_CHECKING:
    from lightning.fabric import Fabric


@runtime_checkable
class Divided(Protocol):
    """An objective that is the sum of a loss on the diagonal and one off it.

    Arguments:
        share: Of the batch that is on the diagonal; 1 leaves one loss only.
    """

    share: float

    def apart(self, batch: Batch, draw: Any) -> Sequence[tuple[Batch, Any]]:  # noqa: ANN401  (each objective has its own)
        """The part of a batch on the diagonal and that off it, each with its draw."""
        ...


class Surgery:
    r"""Removes from the gradient of the loss off the diagonal what works against that of the loss on it.

    .. math:: g = g_d + g_c - \min\Big(0, \frac{\langle g_d, g_c \rangle}{\|g_d\|^2}\Big)\, g_d

    The published method projects both gradients, in random order. Here the diagonal is the anchor, because targets off
    it are only as good as it is: a small step of plain descent lowers the diagonal's loss as far as its own gradient
    would, or further. Gradients are those of the whole batch, over micro-batches and processes; each loss has a pass of
    its own over its part of the batch, so that the price is one more gradient in memory.

    Arguments:
        fabric: Its strategy; one device or DDP, where a parameter keeps its gradient whole.
        objective: With ``apart(batch, draw)``, which gives the parts of a batch on the diagonal and off it.
    Raises: ValueError for other strategies, and under DDP if only one of the losses reads a trained parameter.
    Invariant: ⟨g, g_d⟩ >= |g_d|², and g = g_d + g_c where they agree (``tests/train/test_surgery.py``).
    Reference: Yu et al. 2020, *Gradient surgery for multi-task learning*, arXiv 2001.06782, algorithm 1.
    """

    def __init__(self, fabric: Fabric, objective: Objective):
        _check(fabric, objective)
        self.parameters = [p for p in objective.parameters() if p.requires_grad]
        self.aside: list[Tensor | None] = [None] * len(self.parameters)

    def turn(self) -> None:
        """Lay the gradient at hand aside and take up the other: called between the losses."""
        for i, parameter in enumerate(self.parameters):
            parameter.grad, self.aside[i] = self.aside[i], parameter.grad

    def operate(self) -> Tensor:
        """With g_d at hand and g_c aside, leave g in the parameters. Returns the cosine between the two."""
        on, off = [p.grad for p in self.parameters], self.aside
        along, square, other = _inner(on, off), _inner(on, on), _inner(off, off)
        tiny = torch.finfo(square.dtype).tiny
        keep = 1 + (-along / square.clamp(min=tiny)).clamp(min=0)
        for parameter, g_d, g_c in zip(self.parameters, on, off, strict=True):
            if g_d is None:
                parameter.grad = g_c
            else:
                g_d.mul_(keep.to(g_d.dtype))
                parameter.grad = g_d if g_c is None else g_d.add_(g_c)
        self.aside = [None] * len(self.parameters)
        return along / (square.sqrt() * other.sqrt()).clamp(min=tiny)


def _inner(one: list[Tensor | None], other: list[Tensor | None]) -> Tensor:
    """⟨a, b⟩ over all parameters; a gradient that is not there is 0."""
    terms = [(a * b).sum() for a, b in zip(one, other, strict=True) if a is not None and b is not None]
    return torch.stack(terms).sum() if terms else torch.zeros(())


def _check(fabric: Fabric, objective: Objective) -> None:
    from lightning.fabric.strategies import DDPStrategy, SingleDeviceStrategy

    strategy = type(fabric.strategy).__name__
    if not isinstance(fabric.strategy, DDPStrategy | SingleDeviceStrategy):
        raise ValueError(f"surgery needs whole gradients, but the strategy is {strategy}; use ddp, or surgery=False")
    shared = {id(p) for p in objective.flow_map.parameters()}
    alone = [name for name, p in objective.named_parameters() if p.requires_grad and id(p) not in shared]
    if fabric.world_size > 1 and alone:
        raise ValueError(
            f"surgery on several processes needs losses that read the same parameters, but {alone[0]} is "
            "no part of the map; leave it out, or use one process"
        )
