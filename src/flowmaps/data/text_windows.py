"""Windows of a row of tokens: one every so many tokens, or packed with whole documents."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..fields import Batch, Condition
from .base import fingerprint
from .text_shards import Shards

SCANNED = 2**24  # tokens looked through at a time


class Windows:
    r"""Windows of ``length`` tokens, one every ``stride`` tokens, of a part of a text.

    .. math:: x_1^{(i)} = \text{tokens}[a + i\,\text{stride} : a + i\,\text{stride} + \text{length}]

    Arguments:
        shards: The text.
        start, stop: The part of it, in tokens.
        length: Tokens of one example.
        stride: Tokens between the starts of two examples; ``length`` cuts the text into disjoint windows.
    Raises: ValueError if the part holds no whole window.
    Invariant: with ``stride = length`` every token is in exactly one window, but for an incomplete last one.
    """

    def __init__(self, shards: Shards, start: int, stop: int, length: int, stride: int | None = None):
        self.shards, self.start, self.stop = shards, start, stop
        self.length, self.stride = length, stride or length
        if length < 1 or self.stride < 1:
            raise ValueError(f"length is {length} and stride {self.stride}, expected at least one token each")
        if stop - start < length:
            raise ValueError(
                f"{stop - start:,} tokens are too few for one window of {length}; give more text or a shorter length"
            )

    def __len__(self) -> int:
        return (self.stop - self.start - self.length) // self.stride + 1

    def batch(self, index: Tensor) -> Batch:
        """Windows ``index``, int64 ``(B, length)``."""
        starts = (self.start + index * self.stride).tolist()
        rows = [self.shards.read(i, i + self.length) for i in starts]
        return Batch(torch.from_numpy(np.stack(rows).astype(np.int64)))

    def fingerprint(self) -> str:
        """Of the hashes of the shards, which are not read for it, and of the cut into windows."""
        return fingerprint(self.shards.hashes, self.start, self.stop, self.length, self.stride)

    def tokens(self, most: int | None = None) -> np.ndarray:
        """The tokens of the part in order, at most so many."""
        stop = self.stop if most is None else min(self.stop, self.start + most)
        return self.shards.read(self.start, stop)


class Packed(Windows):
    """Windows into which the documents of a part of a text are packed, the longest first, each where it fits best.

    A document keeps the token that ends it, and longer ones than a window are cut into windows and a rest. Positions
    that stay free are padding (``condition.mask``). Documents of one window see each other, as in running text.

    Arguments:
        shards: The text, in an alphabet with a token between documents.
        start, stop: The part of it, in tokens.
        length: Tokens of a window.
    Raises: ValueError if the alphabet has no such token, or the part is shorter than a window.
    Invariant: every token of the part is in exactly one window.
    Reference: Ding et al. 2024, *Fewer truncations improve language modeling*, arXiv 2404.10830.
    """

    def __init__(self, shards: Shards, start: int, stop: int, length: int):
        super().__init__(shards, start, stop, length)
        boundary = shards.tokeniser.boundary
        if boundary is None:
            raise ValueError(
                f"the alphabet {shards.tokeniser.name} has no token between documents; "
                "pack bytes, characters of texts in several files, or subwords with an end token"
            )
        begins, sizes = _cut(*_documents(shards, start, stop, boundary), length)
        window = best_fit(sizes, length)
        order = np.lexsort((begins, window))
        self._begins, self._sizes = begins[order], sizes[order]
        self._first = np.searchsorted(window[order], np.arange(window.max() + 2))

    def __len__(self) -> int:
        return len(self._first) - 1

    def batch(self, index: Tensor) -> Batch:
        """Windows ``index``, int64 ``(B, length)``, and which of their positions exist."""
        x_1, mask = np.zeros((len(index), self.length), np.int64), np.zeros((len(index), self.length), bool)
        for row, i in enumerate(index.tolist()):
            place = 0
            for piece in range(self._first[i], self._first[i + 1]):
                begin, size = int(self._begins[piece]), int(self._sizes[piece])
                x_1[row, place : place + size] = self.shards.read(begin, begin + size)
                place += size
            mask[row, :place] = True
        return Batch(torch.from_numpy(x_1), Condition(mask=torch.from_numpy(mask)))

    def fingerprint(self) -> str:
        """Of the hashes of the shards and of the cut into windows."""
        return fingerprint(super().fingerprint(), "packed")


def best_fit(sizes: NDArray[np.integer], length: int) -> NDArray[np.int64]:
    """The window of each piece: pieces are taken by size, each into the window with the least room that is enough.

    >>> best_fit(np.array([2, 3, 4, 1]), 5).tolist()
    [1, 1, 0, 0]
    """
    found = np.zeros(len(sizes), np.int64)
    rooms: list[list[int]] = [[] for _ in range(length + 1)]  # windows by the room that they have
    some, many = 0, 0  # the rooms that some window has, as bits; windows so far
    for piece in np.argsort(-np.asarray(sizes), kind="stable").tolist():
        size = int(sizes[piece])
        fitting = some >> size
        if fitting:
            room = size + (fitting & -fitting).bit_length() - 1
            window = rooms[room].pop()
            some ^= 0 if rooms[room] else 1 << room
        else:
            room, window, many = length, many, many + 1
        found[piece] = window
        if room > size:
            rooms[room - size].append(window)
            some |= 1 << room - size
    return found


def _documents(shards: Shards, start: int, stop: int, boundary: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Where each document begins, and its size with the token that ends it."""

    def ends() -> Iterator[NDArray[np.int64]]:
        for first in range(start, stop, SCANNED):
            yield np.flatnonzero(shards.read(first, min(first + SCANNED, stop)) == boundary) + first + 1

    cuts = np.unique(np.concatenate([[start], *ends(), [stop]]))
    return cuts[:-1], np.diff(cuts)


def _cut(
    begins: NDArray[np.int64], sizes: NDArray[np.int64], length: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Documents in pieces of at most ``length``."""
    counts = -(-sizes // length)
    number = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)  # of a piece in its document
    return np.repeat(begins, counts) + number * length, np.minimum(np.repeat(sizes, counts) - number * length, length)
