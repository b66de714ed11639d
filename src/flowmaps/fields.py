"""A datum's categorical fields: one tensor, or several named ones (the atoms and bonds of a molecule)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

Tree = Tensor | dict[str, Tensor]


class Condition(NamedTuple):
    """What a network may know besides the state and the times; every part is optional.

    Arguments:
        mask: Positions that exist, bool ``(*batch, *positions)`` per field; padding is ``False``.
        known: Positions given clean (a prompt, the rim of a gap), same shape; their own time is 1.
        label: Class index ``(*batch,)`` int64, or real-valued properties ``(*batch, p)``.
    """

    mask: Any = None
    known: Any = None
    label: Tensor | None = None


FREE = Condition()  # everything exists, nothing is known


class Batch(NamedTuple):
    """Data of one step: categories ``x_1``, int64 ``(*batch, *positions)`` per field, and their condition."""

    x_1: Any
    condition: Condition = FREE


def leaves(*trees: Any) -> Iterator[tuple[Any, ...]]:
    """Walk the fields of several trees side by side; ``None`` stands for ``None`` in every field.

    >>> [a.item() + b.item() for a, b in leaves({"x": torch.tensor(1)}, {"x": torch.tensor(2)})]
    [3]
    """
    names = next((tuple(tree) for tree in trees if isinstance(tree, dict)), None)
    if names is None:
        yield trees
    else:
        for name in names:
            yield tuple(tree[name] if isinstance(tree, dict) else tree for tree in trees)


def fieldwise(function: Callable[..., Any], *trees: Any) -> Any:
    """Apply ``function`` to the corresponding fields of ``trees`` and keep their names."""
    names = next((tuple(tree) for tree in trees if isinstance(tree, dict)), None)
    if names is None:
        return function(*trees)
    return dict(zip(names, (function(*fields) for fields in leaves(*trees)), strict=True))


def across(time: Tensor | float, x: Tensor) -> Tensor:
    """View times ``(*batch,)`` so that they broadcast over the positions and channels of ``x``."""
    time = torch.as_tensor(time, dtype=x.dtype, device=x.device)
    return time.reshape(time.shape + (1,) * (x.ndim - time.ndim))


def select(condition: Condition, index: Any) -> Condition:
    """The condition of some samples of a batch, ``index`` being a slice or an index tensor."""
    return Condition(*(None if part is None else fieldwise(lambda leaf: leaf[index], part) for part in condition))
