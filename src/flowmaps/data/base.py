"""Data sets of categories: what they answer, one that lives in memory, and the rule that splits them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from ..fields import Batch, Condition, Data, fieldwise, leaves, parts, select
from ..seeds import check_seed


@runtime_checkable
class Dataset(Protocol):
    """Data that can be indexed by a batch of integers and collates itself; the order comes from outside."""

    def __len__(self) -> int: ...

    def batch(self, index: Tensor) -> Batch:
        """Rows ``index``, int64 ``(B,)``, as categories ``(B, *positions)`` and their condition."""
        ...


@runtime_checkable
class Identified(Dataset, Protocol):
    """Data that can say which they are, so that a run is never continued, nor measured, on others in silence."""

    def fingerprint(self) -> str:
        """Equal for equal examples in equal order, and for no others."""
        ...


def fingerprint(*parts: object) -> str:
    """The first 16 hexadecimal digits of a SHA-256 over values, tensors with their type and shape.

    >>> fingerprint(torch.tensor([1, 2])) == fingerprint(torch.tensor([[1, 2]]))
    False
    """
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, Tensor):
            digest.update(f"{part.dtype} {tuple(part.shape)};".encode())
            digest.update(np.ascontiguousarray(part.cpu().numpy()).data)
        else:
            digest.update(f"{part!r};".encode())
    return digest.hexdigest()[:16]


class CategoricalData:
    """Categories in memory, each field in the smallest integer type that holds it.

    Arguments:
        x_1: Categories, integer ``(N, *positions)`` per field.
        label: Class index ``(N,)`` or real-valued properties ``(N, p)``.
        mask: Positions that exist, bool ``(N, *positions)`` per field.
        known: Positions given clean, same shape.
    Raises: ValueError if there is no example, a category is no whole number >= 0, or the parts differ in rows.
    Invariant: ``batch(index).x_1 == x_1[index]`` as int64.
    """

    def __init__(self, x_1: Data, label: Tensor | None = None, mask: Data | None = None, known: Data | None = None):
        for leaf in parts(x_1):
            _check_categories(leaf)
        self.x_1: Data = fieldwise(_compact, x_1)
        self.condition = Condition(mask=mask, known=known, label=label)
        sizes = {len(leaf) for part in (x_1, *self.condition) if part is not None for leaf in parts(part)}
        if len(sizes) > 1:
            raise ValueError(
                f"fields, labels and masks have {sorted(sizes)} rows; give every example exactly one of each"
            )
        self.size = sizes.pop()

    def __len__(self) -> int:
        return self.size

    def batch(self, index: Tensor) -> Batch:
        """Rows ``index`` as int64 categories with their condition."""
        return Batch(fieldwise(lambda leaf: leaf[index].long(), self.x_1), select(self.condition, index))

    def fingerprint(self) -> str:
        """Of the categories and their condition."""
        return fingerprint(*(leaf for tree in (self.x_1, *self.condition) for (leaf,) in leaves(tree)))

    def all(self) -> Batch:
        """Every example, in order."""
        return self.batch(torch.arange(len(self)))

    def subset(self, index: Tensor) -> CategoricalData:
        """The data of rows ``index`` alone."""
        x_1, condition = self.batch(index)
        return CategoricalData(x_1, condition.label, condition.mask, condition.known)


def split(
    n: int, fractions: Sequence[float] = (0.7, 0.1, 0.2), seed: int = 0, strata: Tensor | None = None
) -> tuple[Tensor, ...]:
    """Cut ``0..n-1`` into disjoint parts by a fixed rule.

    Within each stratum (one for all data if ``strata`` is ``None``) rows are permuted by
    ``numpy.random.RandomState(seed)``, whose stream never changes between releases, and cut at the rounded
    cumulative fractions. Strata are taken in ascending order; every part is returned in ascending row order.

    Arguments:
        n: Number of data.
        fractions: Shares of the parts; they sum to 1.
        strata: Class of each row ``(n,)``, so that every part has the classes in the same proportions.
    Returns: one int64 index tensor per part.
    Raises: ValueError if the shares do not sum to 1 or a part would be empty.
    Invariant: the parts are disjoint and cover ``0..n-1``.

    >>> [part.tolist() for part in split(5, (0.6, 0.4))]
    [[0, 1, 2], [3, 4]]
    """
    if min(fractions) < 0 or abs(sum(fractions) - 1) > 1e-6:
        raise ValueError(f"fractions {tuple(fractions)} sum to {sum(fractions):g}; they must be shares that sum to 1")
    random = np.random.RandomState(check_seed(seed, bits=32))
    classes = np.zeros(n, dtype=np.int64) if strata is None else strata.numpy()
    parts: list[list[np.ndarray]] = [[] for _ in fractions]
    for stratum in np.unique(classes):
        rows = random.permutation(np.flatnonzero(classes == stratum))
        cuts = np.round(np.cumsum(fractions)[:-1] * len(rows)).astype(int)
        for part, chosen in zip(parts, np.split(rows, cuts), strict=True):
            part.append(chosen)
    result = tuple(torch.from_numpy(np.sort(np.concatenate(part or [np.zeros(0, np.int64)]))) for part in parts)
    if any(len(part) == 0 for part in result):
        raise ValueError(f"{n} data cannot fill {len(fractions)} parts of shares {tuple(fractions)}; give more data")
    return result


def _compact(leaf: Tensor) -> Tensor:
    highest = int(leaf.max())
    return leaf.to(torch.uint8 if highest < 256 else torch.int16 if highest < 2**15 else torch.int32)


def _check_categories(leaf: Tensor) -> None:
    if leaf.is_floating_point() or leaf.is_complex():
        raise ValueError(f"categories are {leaf.dtype}; give whole numbers 0..K-1")
    if leaf.numel() == 0:
        raise ValueError(f"data of shape {tuple(leaf.shape)} hold no category; give at least one example")
    if int(leaf.min()) < 0:
        raise ValueError(f"category {int(leaf.min())} is negative; categories are 0..K-1")
