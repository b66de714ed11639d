"""How good generated text is: diversity within and between samples, real words, memorisation.

Perplexity under a judge (:mod:`flowmaps.metrics.text_judges`) rewards collapse, so it always stands beside the entropy
within samples, a measure between samples, and the values of the data themselves. Every number comes with the standard
error over samples.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence, Set
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from .modes import Measure

Token = int | str
Rows = Sequence[Sequence[Token]] | Sequence[NDArray[np.integer]] | NDArray[np.integer]
T = TypeVar("T")


def mean(values: Sequence[float] | NDArray[np.floating]) -> Measure:
    """The mean of one number per sample; its error is not a number for a single sample."""
    x = np.asarray(values, dtype=np.float64)
    if not len(x):
        raise ValueError("no sample to measure; generate at least one")
    return Measure(float(x.mean()), float(x.std(ddof=1) / math.sqrt(len(x))) if len(x) > 1 else math.nan)


def entropies(samples: Rows) -> NDArray[np.floating]:
    r"""Entropy of the tokens *within* each sample, in nats, shape (n,).

    .. math:: H_i = -\sum_k \hat p_i(k) \log \hat p_i(k)

    Pooled over samples it would hide repetition inside each of them.
    """
    result = []
    for row in samples:
        share = np.unique(np.asarray(row), return_counts=True)[1] / max(len(row), 1)
        result.append(-(share * np.log(share)).sum())
    return np.asarray(result)


def distinct(samples: Rows, n: int = 3) -> float:
    """Distinct n-grams over all n-grams of a set of samples, in (0, 1]; compare only sets of one size.

    Reference: Li et al. 2016, *A diversity-promoting objective function*, arXiv 1510.03055.
    """
    grams = [tuple(row[i : i + n]) for row in map(list, samples) for i in range(len(row) - n + 1)]
    if not grams:
        raise ValueError(f"samples shorter than {n} tokens have no {n}-gram; generate longer ones")
    return len(set(grams)) / len(grams)


def self_bleu(samples: Sequence[Sequence[Token]], n: int = 4) -> NDArray[np.floating]:
    r"""BLEU of each sample against all the others, shape (samples,): 1 where samples repeat each other.

    .. math:: \min(1, e^{1 - r/c}) \, \exp\Big(\tfrac1n \sum_{m \le n} \log p_m\Big)

    ``p_m`` is the clipped m-gram precision, with add-one smoothing for m > 1 (Lin and Och 2004).

    Arguments:
        samples: Words or tokens of each sample, two samples at least.
    Reference: Zhu et al. 2018, *Texygen*, arXiv 1802.01886; Papineni et al. 2002, *BLEU*.
    """
    rows = [list(row) for row in samples]
    if len(rows) < 2:
        raise ValueError(f"{len(rows)} sample for a comparison between samples; generate two or more")
    logs = np.zeros(len(rows))
    for m in range(1, n + 1):
        counts = [Counter(tuple(row[i : i + m]) for i in range(len(row) - m + 1)) for row in rows]
        best: dict[tuple[Token, ...], tuple[int, int, int]] = {}  # largest count, its owner, second largest
        for owner, count in enumerate(counts):
            for gram, c in count.items():
                top, who, second = best.get(gram, (0, -1, 0))
                best[gram] = (c, owner, top) if c > top else (top, who, max(second, c))
        for owner, count in enumerate(counts):
            match = 0
            for gram, c in count.items():
                top, who, second = best[gram]
                match += min(c, second if who == owner else top)
            total, extra = count.total(), int(m > 1)
            logs[owner] += math.log((match + extra) / (total + extra)) / n if match + extra and total else -math.inf
    return np.exp(logs + np.array(_brevity([len(row) for row in rows])))


def _brevity(lengths: list[int]) -> list[float]:
    """Logarithm of the brevity penalty against the other length that is nearest (the shorter of two)."""
    several = Counter(lengths)
    result = []
    for c in lengths:
        others = [r for r in several if r != c or several[r] > 1]
        r = min(others, key=lambda r: (abs(r - c), r))
        result.append(min(0.0, 1 - r / c) if c else 0.0)
    return result


def word_validity(texts: Sequence[str], vocabulary: Set[str]) -> NDArray[np.floating]:
    """Share of the words of each text that are in a vocabulary, shape (n,).

    The first and the last word are left out, for a window cuts them; a text with no whole word has the share 0.
    """
    result = []
    for text in texts:
        words = text.split()[1:-1]
        result.append(sum(word in vocabulary for word in words) / len(words) if words else 0.0)
    return np.asarray(result)


def longest_matches(samples: Rows, corpus: NDArray[np.integer]) -> NDArray[np.integer]:
    """Length of the longest run of tokens of each sample that occurs in a corpus, shape (n,): memorisation.

    Windows are compared by 64-bit hashes in one pass over the corpus for each length that a bisection asks for, so
    memory is that of the corpus' hashes.
    """
    rows = [np.asarray(row) for row in samples]
    low, high = [0] * len(rows), [min(len(row), len(corpus)) for row in rows]
    hashes, text = [_Windows(row) for row in rows], _Windows(corpus)
    while any(a < b for a, b in zip(low, high, strict=True)):
        asked: dict[int, list[int]] = {}
        for i, (a, b) in enumerate(zip(low, high, strict=True)):
            if a < b:
                asked.setdefault((a + b + 1) // 2, []).append(i)
        for length, members in asked.items():
            wanted = np.unique(np.concatenate([hashes[i](length) for i in members]))
            found = text.among(length, wanted)
            for i in members:
                if np.isin(hashes[i](length), found).any():
                    low[i] = length
                else:
                    high[i] = length - 1
    return np.asarray(low)


class _Windows:
    """Polynomial hashes modulo 2^64 of all windows of a length, from one running sum."""

    BASE, SALT = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9  # odd, so that powers have inverses

    def __init__(self, tokens: NDArray[np.integer]):
        n = len(tokens)
        mixed = (tokens.astype(np.uint64) + np.uint64(1)) * np.uint64(self.SALT)
        mixed ^= mixed >> np.uint64(29)
        inverse = pow(self.BASE, -1, 1 << 64)
        powers = np.cumprod(np.full(n, self.BASE, dtype=np.uint64), dtype=np.uint64)
        self._sum = np.concatenate([np.zeros(1, dtype=np.uint64), np.cumsum(mixed * powers, dtype=np.uint64)])
        self._back = np.cumprod(np.full(n, inverse, dtype=np.uint64), dtype=np.uint64)

    def __call__(self, length: int, start: int = 0, stop: int | None = None) -> NDArray[np.uint64]:
        last = len(self._sum) - length
        stop = last if stop is None else min(stop, last)
        return (self._sum[start + length : stop + length] - self._sum[start:stop]) * self._back[start:stop]

    def among(self, length: int, wanted: NDArray[np.uint64]) -> NDArray[np.uint64]:
        """Those of the hashes ``wanted`` (sorted) that some window has."""
        hit = np.zeros(len(wanted), dtype=bool)
        for start in range(0, len(self._sum) - length, 1 << 20):
            here = self(length, start, start + (1 << 20))
            place = np.minimum(np.searchsorted(wanted, here), len(wanted) - 1)
            hit[place[wanted[place] == here]] = True
        return wanted[hit]


def jackknife(statistic: Callable[[list[T]], float], samples: Sequence[T], groups: int = 10) -> Measure:
    """A statistic of a set of samples with its delete-a-group jackknife error.

    Reference: Kott 2001, *The delete-a-group jackknife*.
    """
    rows = list(samples)
    groups = min(groups, len(rows))
    if groups < 2:
        return Measure(statistic(rows), math.nan)
    without = [statistic([row for i, row in enumerate(rows) if i % groups != g]) for g in range(groups)]
    spread = np.asarray(without) - np.mean(without)
    return Measure(statistic(rows), float(math.sqrt((groups - 1) / groups * (spread**2).sum())))
