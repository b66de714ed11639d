"""From scores over the categories to categories."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor

from ..fields import fieldwise
from ..maps import in_chunks


class Decoder(ABC):
    """Chooses a category per position; scores exist for a chunk of positions at a time."""

    @abstractmethod
    def choose(self, z: Tensor, generator: torch.Generator | None) -> Tensor:
        """Categories ``(positions,)`` from scores ``(positions, K)``."""

    def __call__(self, scores: Any, generator: torch.Generator | None, chunk: int | None = None) -> Any:
        return fieldwise(lambda r: in_chunks(lambda z: self.choose(z, generator), r, chunk=chunk), scores)


class Argmax(Decoder):
    """The most probable category; at the exact one-step map this loses nothing, since π_{s,1} is a vertex."""

    def choose(self, z: Tensor, generator: torch.Generator | None) -> Tensor:
        return z.argmax(-1)


class Categorical(Decoder):
    r"""A draw from softmax(z / temperature), by the Gumbel trick; for endpoint maps.

    Arguments:
        temperature: Positive; 1 draws from π itself, towards 0 becomes :class:`Argmax`.
    """

    def __init__(self, temperature: float = 1.0):
        if not temperature > 0:
            raise ValueError(f"temperature is {temperature}, expected a positive number; use Argmax for 0")
        self.temperature = temperature

    def choose(self, z: Tensor, generator: torch.Generator | None) -> Tensor:
        u = torch.rand(z.shape, generator=generator, device=z.device).clamp(min=2**-24)
        return (z.float() / self.temperature - torch.log(-torch.log(u))).argmax(-1)
