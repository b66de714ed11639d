"""Text as categorical data: a corpus, tokenised once, as windows in three disjoint parts."""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..files import alone, write_text
from .sources import data_folder, writable
from .text_corpora import Corpus
from .text_shards import Shards, prepare
from .text_tokens import Subwords, Tokeniser, to_description, tokeniser
from .text_windows import Packed, Windows


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
    packed: bool = False,
    processes: int | None = None,
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
        packed: Windows of training and validation are packed with whole documents
            (:class:`~flowmaps.data.text_windows.Packed`).
        processes: That tokenise; see :func:`~flowmaps.data.text_shards.prepare`.
        progress: Called with the number of characters done so far.
    Raises: ValueError if the text cannot be read, is too short for its parts, or has more letters that the alphabet
        cannot say than others; a warning tells of more than one in a hundred.
    """
    folder = writable(data_folder("text")) if cache is None else Path(cache).expanduser()
    name = "".join(c if c.isalnum() or c in "-_" else "-" for c in corpus.name)
    alphabet = _alphabet(corpus, kind, size, folder / name) if isinstance(kind, str) else kind
    place = folder / f"{name}-{alphabet.name}-{_digest(corpus.source, to_description(alphabet))}"
    shards = prepare(corpus.pieces, alphabet, place, corpus.source, progress, processes)
    _report_lost(shards.lost, corpus.name, alphabet.name)
    return shards_splits(shards, corpus.name, length, stride=stride, fractions=fractions, packed=packed)


def shards_splits(
    shards: Shards,
    name: str,
    length: int = 256,
    *,
    stride: int | None = None,
    fractions: tuple[float, float, float] = (0.9, 0.05, 0.05),
    packed: bool = False,
) -> TextSplits:
    """Windows for training, validation and test of a text that is tokenised; arguments as for :func:`text_splits`."""
    if len(fractions) != 3 or min(fractions) <= 0 or abs(sum(fractions) - 1) > 1e-6:
        raise ValueError(f"fractions are {fractions}, expected three positive shares that sum to 1")
    cuts = [0, *np.round(np.cumsum(fractions) * len(shards)).astype(int).tolist()]
    strides = (stride or max(length // 4, 1), length, length)
    train, valid, test = (Windows(shards, cuts[i], cuts[i + 1], length, strides[i]) for i in range(3))
    if packed:
        train, valid = (Packed(shards, part.start, part.stop, length) for part in (train, valid))
    return TextSplits(train, valid, test, shards.tokeniser, name)


def _report_lost(share: float, name: str, alphabet: str) -> None:
    text = f"the alphabet {alphabet} cannot say {share:.1%} of the letters of {name}, which are lost"
    remedy = "choose another tokeniser: characters, bytes, or bpe"
    if share > 0.5:
        raise ValueError(f"{text}; {remedy}")
    if share > 0.01:
        warnings.warn(f"{text}; if they matter, {remedy}", stacklevel=3)


def _alphabet(corpus: Corpus, kind: str, size: int, stem: Path) -> Tokeniser:
    """The tokeniser of a name. Subwords are learned once, from the first 50 M characters, and kept beside the shards:
    learned again they may differ, since ties are broken by chance, and so would what was tokenised before."""
    if kind not in ("bpe", "wordpiece"):
        return tokeniser(kind, corpus.pieces() if kind == "characters" else ())
    file = stem.with_name(f"{stem.name}-{kind}-{size}-{_digest(corpus.source)}.json")
    if file.exists():
        return Subwords.load(file)
    file.parent.mkdir(parents=True, exist_ok=True)
    with alone(file):
        if not file.exists():
            write_text(file, tokeniser(kind, islice(corpus.pieces(), 200), size).describe()["tokenizer"])
        return Subwords.load(file)


def _digest(*parts: str) -> str:
    return hashlib.sha256(" ".join(parts).encode()).hexdigest()[:12]
