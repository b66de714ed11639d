r"""Training with positions that are given clean, so that prompts and the rims of gaps are real conditioning.

A known position holds its datum at every time, its own time is 1, and it has no loss: the map learns the conditional
law of the rest. Without this a prompt at sampling time merely overwrites positions the network never saw clean.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..fields import Batch, fieldwise
from ..maps import FlowMap
from .base import Objective


class KnownLaw(ABC):
    """Law of which positions are known."""

    @abstractmethod
    def __call__(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        """Bool of ``shape`` (batch, positions), at least one position of each row not known."""


class PrefixesAndSpans(KnownLaw):
    r"""Nothing, a prefix, both sides of a gap, or scattered spans; for rows of positions such as text.

    Prefixes have a uniform length in 0..L-1, gaps two uniform ends. Spans cut the row at a random place into blocks of
    a random length from 1 to L/2 and know each block with a uniform probability.

    Arguments:
        free, prefix, gap, spans: Probabilities of the four, summing to 1.
    """

    def __init__(self, free: float = 0.5, prefix: float = 0.25, gap: float = 0.15, spans: float = 0.1):
        shares = torch.tensor([free, prefix, gap, spans])
        if bool((shares < 0).any()) or abs(float(shares.sum()) - 1) > 1e-5:
            raise ValueError(f"shares {free}, {prefix}, {gap}, {spans}: expected four probabilities that sum to 1")
        self.bounds = shares.cumsum(0)[:3].tolist()

    def __call__(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        if len(shape) != 2:
            raise ValueError(f"data of shape {tuple(shape)}: prefixes and spans are for rows (batch, positions)")
        n, length = shape
        device = generator.device
        u = torch.rand(7, n, 1, generator=generator, device=device)
        dice = torch.rand(n, length + 1, generator=generator, device=device)
        place = torch.arange(length, device=device)
        prefix = place < (u[1] * length).floor()
        low, high = (torch.minimum(u[2], u[3]) * length).floor(), (torch.maximum(u[2], u[3]) * length).floor()
        gap = (place < low) | (place > high)
        block = 1 + (u[4] * (length / 2)).floor()
        spans = dice.gather(1, ((place + (u[5] * block).floor()) / block).floor().long()) < u[6]
        first, second, third = self.bounds
        known = torch.where(u[0] < second, prefix, torch.where(u[0] < third, gap, spans)) & (u[0] >= first)
        spared = (dice[:, -1:] * length).floor().long() == place  # of a row that would be known altogether
        return known & ~(known.all(1, keepdim=True) & spared)


class KnownDraw(NamedTuple):
    """The draw of the objective inside, and the known positions of each field."""

    inner: Any
    known: Any


class GivenPositions(Objective):
    """Another objective on data of which a random part is known.

    Arguments:
        objective: What is minimised on the rest.
        law: Which positions are known.
    Invariant: a law that knows nothing leaves the loss and its gradients as they are.
    """

    def __init__(self, objective: Objective, law: KnownLaw | None = None):
        super().__init__()
        self.objective, self.law = objective, law or PrefixesAndSpans()

    @property
    def map(self) -> FlowMap:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The map in training, owned by the objective inside."""
        return self.objective.map

    def draw(self, batch: Batch, generator: torch.Generator) -> KnownDraw:
        known = fieldwise(lambda x: self.law(tuple(x.shape), generator), batch.x_1)
        return KnownDraw(self.objective.draw(batch, generator), known)

    def forward(self, batch: Batch, draw: KnownDraw) -> dict[str, Tensor]:
        known, given = draw.known, batch.condition.known
        if given is not None:
            known = fieldwise(torch.logical_or, known, given)
        return self.objective(Batch(batch.x_1, batch.condition._replace(known=known)), draw.inner)

    def after_step(self) -> None:
        self.objective.after_step()
