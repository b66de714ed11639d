"""Text as categorical data: windows of a row of tokens, in three disjoint parts."""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Callable, Iterable
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..fields import Batch
from .base import fingerprint
from .sources import data_folder, writable
from .text_corpora import Corpus
from .text_shards import Shards, prepare
from .text_tokens import Tokeniser, to_description, tokeniser


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


class TextSplits(NamedTuple):
    """A text in three disjoint parts: the first 90 per cent train, then 5 validate and 5 test, as for text8."""

    train: Windows
    valid: Windows
    test: Windows
    tokeniser: Tokeniser
    name: str


def text_splits(
    corpus: Corpus,
    kind: str | Tokeniser = "letters",
    length: int = 256,
    *,
    size: int = 8192,
    stride: int | None = None,
    fractions: tuple[float, float, float] = (0.9, 0.05, 0.05),
    cache: str | os.PathLike | None = None,
    progress: Callable[[int], None] | None = None,
) -> TextSplits:
    """Tokenise a corpus once and cut it into windows for training, validation and test.

    Arguments:
        kind: Tokeniser: ``letters``, ``bytes``, ``characters``, ``bpe``, ``wordpiece``, a ``tokenizer.json``, or one
            that was learned before.
        length: Tokens of one example.
        size: Size of an alphabet of subwords, which is learned from the first 50 M characters.
        stride: Between training windows; default a quarter of the length. Held-out windows never overlap.
        fractions: Shares of the three parts, in the order of the text.
        cache: Folder of the shards; by default ``$FLOWMAPS_DATA/text`` if that can be written, else the user's cache.
        progress: Called with the number of characters done so far.
    Raises: ValueError if the text cannot be read, is too short for its parts, or has more letters that the alphabet
        cannot say than others; a warning tells of more than one in a hundred.
    """
    if len(fractions) != 3 or min(fractions) <= 0 or abs(sum(fractions) - 1) > 1e-6:
        raise ValueError(f"fractions are {fractions}, expected three positive shares that sum to 1")
    alphabet = tokeniser(kind, _sample(corpus, kind), size) if isinstance(kind, str) else kind
    digest = hashlib.sha256(f"{corpus.source} {to_description(alphabet)}".encode()).hexdigest()[:12]
    folder = writable(data_folder("text")) if cache is None else Path(cache).expanduser()
    name = "".join(c if c.isalnum() or c in "-_" else "-" for c in corpus.name)
    shards = prepare(corpus.pieces, alphabet, folder / f"{name}-{alphabet.name}-{digest}", corpus.source, progress)
    _report_lost(shards.lost, corpus.name, alphabet.name)
    cuts = [0, *np.round(np.cumsum(fractions) * len(shards)).astype(int).tolist()]
    strides = (stride or max(length // 4, 1), length, length)
    train, valid, test = (Windows(shards, cuts[i], cuts[i + 1], length, strides[i]) for i in range(3))
    return TextSplits(train, valid, test, shards.tokeniser, corpus.name)


def _report_lost(share: float, name: str, alphabet: str) -> None:
    text = f"the alphabet {alphabet} cannot say {share:.1%} of the letters of {name}, which are lost"
    remedy = "choose another tokeniser: characters, bytes, or bpe"
    if share > 0.5:
        raise ValueError(f"{text}; {remedy}")
    if share > 0.01:
        warnings.warn(f"{text}; if they matter, {remedy}", stacklevel=3)


def _sample(corpus: Corpus, kind: str) -> Iterable[str]:
    """What an alphabet is learned from: all characters, or enough text for subwords."""
    if kind in ("characters", "bpe", "wordpiece"):
        return islice(corpus.pieces(), None if kind == "characters" else 200)
    return ()
