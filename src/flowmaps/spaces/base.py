"""The four questions a state space answers: everything above it is written against them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor, nn

from ..fields import across


class Space(nn.Module, ABC):
    r"""A linear image of the one-hot cube in which a categorical state lives.

    .. math:: h = W^\top x, \qquad x \in \mathbb{R}^K

    ``W`` is the identity for :class:`OneHot` and a read-in matrix for :class:`Embedded`. The methods draw a source
    point, embed data, move a state towards a predicted endpoint, and pair a gradient with the state.

    Arguments (of every method): trailing dimension ``K`` for categories, ``dim`` for states.
    """

    K: int
    dim: int
    noise_dim: int

    @abstractmethod
    def normal(self, noise: Tensor) -> Tensor:
        """Turn standard normal ``noise`` (..., noise_dim) into the image of N(0, I_K): the law of Wᵀε."""

    @abstractmethod
    def embed(self, x_1: Any) -> Any:
        """The state of the datum: the image of the one-hot vectors e_{x_1}, (..., dim)."""

    @abstractmethod
    def read(self, pi: Any) -> Any:
        """The image Wᵀπ of vectors over the categories, (..., K) to (..., dim)."""

    @abstractmethod
    def pair(self, gradient: Any) -> Any:
        """The image of a gradient in x, given the gradient in the state: WᵀW times it."""

    def move(self, x: Any, point: Any, gamma: Tensor) -> Any:
        """x + γ (point - x); exactly ``x`` at γ = 0."""
        return x.lerp(point, across(gamma, x))

    def once(self, values: Any) -> Any:
        """Values per position, (*batch, *positions), with 0 where a position repeats another one or always holds the
        same: what sums over positions are taken of."""
        return values

    def check(self, x_1: Any) -> None:
        """Refuse what is no category; on an accelerator, where looking means waiting, by the type alone.

        Raises: ValueError naming the value and the alphabet.
        """
        if x_1.dtype != torch.int64:
            raise ValueError(f"categories are {x_1.dtype}, expected torch.int64 numbers in 0..{self.K - 1}")
        if x_1.device.type == "cpu" and x_1.numel():
            low, high = (int(x) for x in x_1.aminmax())
            if low < 0 or high >= self.K:
                raise ValueError(
                    f"category {low if low < 0 else high} is outside the alphabet 0..{self.K - 1} of the map; "
                    "give data of that alphabet, or build the map for theirs"
                )

    def noise_shape(self, shape: Any) -> Any:
        """The shape of standard noise for data of ``shape``."""
        return (*shape, self.noise_dim)

    def sizes(self) -> Any:
        """The number of categories of each field."""
        return self.K

    def parts(self) -> Any:
        """The space of each field, as a tree like the states'."""
        return self
