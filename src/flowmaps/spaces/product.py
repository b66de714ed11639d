"""Several fields at once: atoms and bonds of a molecule."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from .base import Space


class Product(Space):
    r"""The product of named spaces; states and data are dictionaries with the same names.

    .. math:: x = (x^{(1)}, \dots, x^{(F)}), \qquad X_{s,t} \text{ acts on each field}

    Arguments:
        spaces: Space of each field by name.
    Invariant: a product of one field moves as that field does.
    """

    def __init__(self, spaces: Mapping[str, Space]):
        super().__init__()
        if not spaces:
            raise ValueError("a Product of no spaces: name at least one field")
        self.spaces = nn.ModuleDict(spaces)

    def _each(self, method: str, *trees: Any) -> Any:
        missing = [name for tree in trees for name in self.spaces if name not in tree]
        if missing:
            raise ValueError(f"field {missing[0]!r} is missing; expected the fields {list(self.spaces)}")
        return {name: getattr(space, method)(*(tree[name] for tree in trees)) for name, space in self.spaces.items()}

    def normal(self, noise: Any) -> Any:
        return self._each("normal", noise)

    def embed(self, x_1: Any) -> Any:
        return self._each("embed", x_1)

    def read(self, pi: Any) -> Any:
        return self._each("read", pi)

    def pair(self, gradient: Any) -> Any:
        return self._each("pair", gradient)

    def once(self, values: Any) -> Any:
        return self._each("once", values)

    def move(self, x: Any, point: Any, gamma: Tensor) -> Any:
        return {name: space.move(x[name], point[name], gamma) for name, space in self.spaces.items()}  # type: ignore[operator]

    def check(self, x_1: Any) -> None:
        self._each("check", x_1)

    def noise_shape(self, shape: Any) -> Any:
        return self._each("noise_shape", shape)

    def sizes(self) -> Any:
        return {name: space.sizes() for name, space in self.spaces.items()}  # type: ignore[operator]

    def parts(self) -> Any:
        return dict(self.spaces.items())
