"""From scores over the categories to categories."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from ..evaluation import Evaluation, Readouts, predictions
from ..fields import Data
from ..spaces import Space


class Decoder(ABC):
    """Chooses a category per position; scores exist for a chunk of positions at a time."""

    @abstractmethod
    def choose(self, z: Tensor, generator: torch.Generator | None) -> Tensor:
        """Categories ``(positions,)`` from scores ``(positions, K)``."""

    def __call__(self, scores: Readouts, generator: torch.Generator | None, chunk: int | None = None) -> Data:
        """Data from what a sampler ends in."""
        return Evaluation(chunk)(lambda z: self.choose(z, generator), scores, names=("data",))["data"]


class Argmax(Decoder):
    """The most probable category; at the exact one-step map this loses nothing, since π_{s,1} is a vertex."""

    def choose(self, z: Tensor, generator: torch.Generator | None) -> Tensor:
        return z.argmax(-1)


class Categorical(Decoder):
    r"""A draw from softmax(z / temperature), by the Gumbel trick; for endpoint maps.

    Arguments:
        temperature: Positive; 1 draws from π itself, near 0 it becomes :class:`Argmax`.
    """

    def __init__(self, temperature: float = 1.0):
        if not temperature > 0:
            raise ValueError(f"temperature is {temperature}, expected a positive number; use Argmax for 0")
        self.temperature = temperature

    def choose(self, z: Tensor, generator: torch.Generator | None) -> Tensor:
        u = torch.rand(z.shape, generator=generator, device=z.device).clamp(min=2**-24)
        return (z.float() / self.temperature - torch.log(-torch.log(u))).argmax(-1)


def at_temperature(temperature: float) -> Decoder:
    """A draw at a temperature; from 0 to 1e-6 the most probable category.

    Raises: ValueError if the temperature is negative or no number.
    """
    if not temperature >= 0:
        raise ValueError(f"temperature is {temperature}, expected 0 or more")
    return Categorical(temperature) if temperature > 1e-6 else Argmax()


class Nearest(Decoder):
    """The data nearest to the state at time 1, for spaces that are not categorical.

    Arguments:
        space: Where the state lives.
    """

    def __init__(self, space: Space):
        self.space = space

    def choose(self, z: Tensor, generator: torch.Generator | None) -> Tensor:
        return z

    def __call__(self, scores: Readouts, generator: torch.Generator | None, chunk: int | None = None) -> Data:
        return self.space.decode(predictions(scores))
