"""Which words and sentences a text is made of: shares by frequency and by length, and the spectrum of the words."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from .modes import Measure, share
from .text import jackknife

RANKS = {"1-10": 10, "11-100": 100, "101-1000": 1000}  # of words by their frequency in the training text
LETTERS = {"1-3": 3, "4-6": 6, "7-9": 9}  # of a word
WORDS = {"1-4": 4, "5-9": 9, "10-19": 19}  # of a sentence
_BETWEEN = re.compile(r"(?<=[.!?])[\"')\]]*\s+")


def whole_words(text: str) -> list[str]:
    """The words of a window but for the first and the last, which it cuts."""
    return text.split()[1:-1]


def whole_sentences(text: str) -> list[int]:
    """How many words the sentences of a window have, but for the first and the last, which it cuts."""
    return [len(sentence.split()) for sentence in _BETWEEN.split(text)[1:-1]]


class TextModes:
    r"""Shares of kinds of words and sentences among samples of text.

    - ``words_1-10``, ``words_11-100``, ``words_101-1000``, ``words_rarer``: share of the words that have these ranks in
      the training text; ``words_unknown``: share of those that it does not have.
    - ``letters_1-3``, ...: share of the words of so many characters.
    - ``sentences_1-4``, ...: share of the whole sentences of so many words; ``sentence_ends``: ends of sentences per
      word. A window holds whole sentences only if they are short, in data as in samples.

    Arguments:
        text: The training text.
    """

    def __init__(self, text: str):
        self.counts = Counter(text.split())
        self.rank = {word: k for k, (word, _) in enumerate(self.counts.most_common(), start=1)}
        self.total = self.counts.total()

    def __call__(self, texts: Sequence[str]) -> dict[str, Measure]:
        """The share of each kind, with its standard error over samples.

        Arguments:
            texts: Windows of one length.
        """
        words = [whole_words(text) for text in texts]
        known = [[self.rank[word] for word in row if word in self.rank] for row in words]
        number = np.array([len(row) for row in words])
        found = _banded("words", known, RANKS, number, "rarer")
        found["words_unknown"] = share(number - [len(row) for row in known], number)
        found |= _banded("letters", [[len(word) for word in row] for row in words], LETTERS, number, "more")
        ends = [len(_BETWEEN.findall(text)) for text in texts]
        sentences = [whole_sentences(text) for text in texts]
        of = np.array([len(row) for row in sentences])
        return found | {"sentence_ends": share(ends, number)} | _banded("sentences", sentences, WORDS, of, "more")

    def spectrum(self, texts: Sequence[str]) -> Measure:
        r"""Total variation between the words of samples and those of the training text.

        .. math:: \tfrac12 \sum_w |\hat p(w) - q(w)| = 1 - \sum_w \min(\hat p(w), q(w))

        Even real text is not at 0, the less so the fewer words there are: compare with as many held-out windows.
        """

        def variation(part: list[list[str]]) -> float:
            counts = Counter(word for row in part for word in row)
            n = max(counts.total(), 1)
            return 1 - sum(min(k / n, self.counts[word] / self.total) for word, k in counts.items())

        return jackknife(variation, [whole_words(text) for text in texts])


def _banded(
    kind: str, values: Sequence[Sequence[int]], bands: dict[str, int], of: np.ndarray, last: str
) -> dict[str, Measure]:
    """The share of the values of all samples in each band up to its end, and beyond the last of them."""
    edges = [0, *bands.values(), np.inf]

    def inside(low: float, high: float) -> list[int]:
        return [sum(low < k <= high for k in row) for row in values]

    names = [f"{kind}_{name}" for name in (*bands, last)]
    return {name: share(inside(*edge), of) for name, edge in zip(names, pairwise(edges), strict=True)}
