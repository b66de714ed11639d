r"""Training windows of which a part is given clean, so that prompts and the rims of gaps are real conditioning.

A known position holds its token at every time, its own time is 1, and it has no loss: the map learns the conditional
distribution of the rest. Without this a prompt at sampling time merely overwrites positions that the network never saw
clean.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from ..fields import Batch, Condition, one_field
from ..seeds import mixed
from .base import Dataset, Identified, fingerprint


class KnownLaw(Protocol):
    """Distribution of which positions are known, as a map of uniform numbers."""

    def __call__(self, u: Tensor, length: int) -> Tensor:
        """Bool ``(batch, length)`` of uniforms ``(batch, length + 8)``; at least one position of a row is unknown."""
        ...


class PrefixesAndSpans:
    r"""Nothing, a prefix, both sides of a gap, or scattered spans.

    Prefixes have a uniform length in 0..L-1, gaps two uniform ends. Spans cut the row at a random place into blocks of
    a random length from 1 to L/2 and know each block with a uniform probability.

    Arguments:
        free, prefix, gap, spans: Probabilities of the four, summing to 1.
    """

    def __init__(self, free: float = 0.5, prefix: float = 0.25, gap: float = 0.15, spans: float = 0.1):
        shares = np.array([free, prefix, gap, spans])
        if (shares < 0).any() or abs(float(shares.sum()) - 1) > 1e-5:
            raise ValueError(f"shares {free}, {prefix}, {gap}, {spans}: expected four probabilities that sum to 1")
        self.bounds = shares.cumsum()[:3].tolist()

    def __call__(self, u: Tensor, length: int) -> Tensor:
        kind, a, b, c, size, offset, share, spare = u[:, :8, None].unbind(1)
        dice, place = u[:, 7:], torch.arange(length, device=u.device)
        prefix = place < (a * length).floor()
        low, high = (torch.minimum(b, c) * length).floor(), (torch.maximum(b, c) * length).floor()
        gap = (place < low) | (place > high)
        block = 1 + (size * (length / 2)).floor()
        spans = dice.gather(1, ((place + (offset * block).floor()) / block).floor().long()) < share
        first, second, third = self.bounds
        known = torch.where(kind < second, prefix, torch.where(kind < third, gap, spans)) & (kind >= first)
        spared = (spare * length).floor().long() == place  # of a row that would be known altogether
        return known & ~(known.all(1, keepdim=True) & spared)


class PartlyKnown:
    """Another data set of rows, each of which comes with several choices of known positions.

    The uniform numbers behind a choice are a hash of its number, so the data stay a function of the index.

    Arguments:
        data: Rows of categories ``(B, length)``.
        law: Distribution of the known positions.
        copies: Choices for each row; row ``i`` has the indices ``i, i + len(data), ...``.
    Invariant: ``batch(index).x_1`` is that of ``data`` at ``index % len(data)``.
    """

    def __init__(self, data: Dataset, law: KnownLaw | None = None, copies: int = 8):
        if copies < 1:
            raise ValueError(f"copies is {copies}, expected at least one choice of known positions for each row")
        self.data, self.law, self.copies = data, law or PrefixesAndSpans(), copies

    def __len__(self) -> int:
        return len(self.data) * self.copies

    def fingerprint(self) -> str:
        """Of the rows and of the number of choices."""
        rows = self.data.fingerprint() if isinstance(self.data, Identified) else len(self.data)
        return fingerprint(rows, self.copies, type(self.law).__name__)

    def batch(self, index: Tensor) -> Batch:
        x_1, condition = self.data.batch(index % len(self.data))
        length = one_field(x_1).shape[1]
        known, given = self.law(uniforms(index, length + 8), length), one_field(condition.known)
        if (mask := one_field(condition.mask)) is not None:  # what is padded is not known, and something stays to learn
            known = known & mask & (mask & ~known).any(1, keepdim=True)
        return Batch(x_1, condition._replace(known=known if given is None else known | given))


def blank(n: int, length: int, given: bool) -> Batch:
    """``n`` windows of the first category, with known positions if they are ``given``: sizes without data."""
    x_1 = torch.zeros(n, length, dtype=torch.int64)
    return Batch(x_1, Condition(known=torch.zeros(n, length, dtype=torch.bool) if given else None))


def uniforms(index: Tensor, count: int) -> Tensor:
    """``count`` uniform numbers in [0, 1) for each index, ``(len(index), count)``: the SplitMix64 hash of both.

    Reference: Steele, Lea and Flood 2014, *Fast splittable pseudorandom number generators*.
    """
    z = index.numpy().astype(np.uint64)[:, None] * np.uint64(count) + np.arange(1, count + 1, dtype=np.uint64)
    z = mixed(z * np.uint64(0x9E3779B97F4A7C15))
    return torch.from_numpy((z >> np.uint64(40)).astype(np.float32) * np.float32(2**-24))
