"""Several fields at once: atoms and bonds of a molecule."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..fields import Data, Fields, Shape, State, Tree, fieldwise
from .base import Categorical, Space


class Product(Space[Fields]):
    r"""The product of named spaces; states and data have a field for each.

    .. math:: \exp_x v = (\exp_{x^{(1)}} v^{(1)}, \dots, \exp_{x^{(F)}} v^{(F)})

    Arguments:
        spaces: Space of each field by name.
    Raises: ValueError if there is none, or a state lacks a field.
    Invariant: a product of one field moves as that field does.
    """

    def __init__(self, spaces: Mapping[str, Space[Tensor]]):
        super().__init__()
        if not spaces:
            raise ValueError("a Product of no spaces: name at least one field")
        self.spaces = nn.ModuleDict(spaces)
        self.flat = all(space.flat for space in spaces.values())

    def each(self, function: Callable[..., Any], *trees: object) -> Any:  # noqa: ANN401  (as in Space)
        missing = [name for tree in trees if isinstance(tree, Mapping) for name in self.spaces if name not in tree]
        if missing:
            raise ValueError(f"field {missing[0]!r} is missing; expected the fields {list(self.spaces)}")
        part = lambda tree, name: tree[name] if isinstance(tree, Mapping) else tree  # noqa: E731
        return Fields(
            {name: function(space, *(part(tree, name) for tree in trees)) for name, space in self.spaces.items()}
        )

    def exp(self, x: Fields, v: Fields) -> Fields:
        return self.each(lambda space, x, v: space.exp(x, v), x, v)

    def log(self, x: Fields, y: Fields) -> Fields:
        return self.each(lambda space, x, y: space.log(x, y), x, y)

    def project(self, x: Fields, v: Fields) -> Fields:
        return self.each(lambda space, x, v: space.project(x, v), x, v)

    def transport(self, x: Fields, y: Fields, v: Fields) -> Fields:
        return self.each(lambda space, x, y, v: space.transport(x, y, v), x, y, v)

    def inner(self, x: Fields, u: Fields, v: Fields) -> Fields:
        return self.each(lambda space, x, u, v: space.inner(x, u, v), x, u, v)

    def sharp(self, x: Fields, gradient: Fields) -> Fields:
        return self.each(lambda space, x, gradient: space.sharp(x, gradient), x, gradient)

    def geodesic(self, x: Fields, y: Fields, t: Tensor) -> Fields:
        return self.each(lambda space, x, y: space.geodesic(x, y, t), x, y)

    def apart(self, x: Fields, y: Fields) -> Tensor:
        return torch.stack(list(self.each(lambda space, x, y: space.apart(x, y), x, y).values())).sum(0)

    def encode(self, x_1: Data) -> Fields:
        return self.each(lambda space, x_1: space.encode(x_1), x_1)

    def decode(self, x: Fields) -> Data:
        return self.each(lambda space, x: space.decode(x), x)

    def positions(self, x_1: Data) -> Shape:
        return self.each(lambda space, x_1: space.positions(x_1), x_1)

    def noise_shape(self, shape: Shape) -> Shape:
        return self.each(lambda space, shape: space.noise_shape(shape), shape)

    def random(self, noise: Fields) -> Fields:
        return self.each(lambda space, noise: space.random(noise), noise)

    def log_density(self, x: Fields) -> Fields:
        return self.each(lambda space, x: space.log_density(x), x)

    def tangent(self, x: Fields, noise: Fields) -> Fields:
        return self.each(lambda space, x, noise: space.tangent(x, noise), x, noise)

    def frame(self, x: Fields) -> tuple[Fields, ...]:
        still = {name: torch.zeros_like(leaf) for name, leaf in x.items()}
        each: Fields = self.each(lambda space, x: space.frame(x), x)
        return tuple(Fields({**still, name: e}) for name, frame in each.items() for e in frame)

    def growth(self, x: Fields, v: Fields) -> Fields:
        return self.each(lambda space, x, v: space.growth(x, v), x, v)

    def check(self, x_1: Data) -> None:
        self.each(lambda space, x_1: space.check(x_1), x_1)

    def once(self, values: Fields) -> Fields:
        return self.each(lambda space, values: space.once(values), values)

    def sizes(self) -> Tree[int | None]:
        return self.each(lambda space: space.sizes())


def vertices(x_1: Data, sizes: Tree[int | None]) -> Data:
    """One-hot vectors of categories per field, zero vectors of -1; points, which have no alphabet, as they are."""

    def one_hot(x: Tensor, K: int | None) -> Tensor:
        if K is None:
            return x
        return torch.where((x >= 0).unsqueeze(-1), F.one_hot(x.clamp(min=0), K).to(torch.get_default_dtype()), 0)

    return fieldwise(one_hot, x_1, sizes)


def likeliest(pi: State) -> Data:
    """The likeliest categories per field, -1 for zero vectors."""
    return fieldwise(lambda p: torch.where(p.any(-1), p.argmax(-1), -1), pi)


def is_categorical(space: Space) -> bool:
    """Whether every field of the data is categorical."""
    return all(
        isinstance(part, Categorical) for part in (space.spaces.values() if isinstance(space, Product) else (space,))
    )
