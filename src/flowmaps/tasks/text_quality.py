"""Every number about samples of text at once, beside those of the data, and the frontier of quality and diversity."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..data.text import TextSplits, Windows
from ..fields import one_field
from ..metrics.modes import Measure, flat, share
from ..metrics.text import distinct, entropies, jackknife, longest_matches, mean, self_bleu, word_validity
from ..metrics.text_judges import HuggingFaceJudge, NgramJudge, perplexity
from ..metrics.text_modes import TextModes
from ..pictures import blank, save
from .aims import Aim, Measured

CHARACTERS = 512  # the largest alphabet whose tokens are taken for characters, which may spell no word


class TextQuality:
    """Measures of samples against a text.

    Arguments:
        splits: The text; its training part makes the judge, the vocabulary and the memory to look for copies in.
        order: Longest n-gram of the judge; by default 6 for characters and 3 for larger alphabets.
        most: Tokens of the training part that are used.
        judge: A further judge of whole texts.
    Returns (of a call): for each measure its value, and its standard error as ``..._error``. Among the modes are those
        of :class:`~flowmaps.metrics.text_modes.TextModes`; ``low_entropy`` and ``long_match`` are the shares of samples
        that repeat themselves, or the training text, as one in ten validation windows does.
    """

    def __init__(
        self,
        splits: TextSplits,
        order: int | None = None,
        most: int = 20_000_000,
        judge: HuggingFaceJudge | None = None,
    ):
        K = splits.tokeniser.size
        self.tokeniser, self.judge = splits.tokeniser, judge
        self.corpus: NDArray[np.integer] = splits.train.tokens(most)
        self.ngrams = NgramJudge(self.corpus, K, order or (6 if K <= CHARACTERS else 3))
        self.modes = TextModes(self.tokeniser.decode(self.corpus.tolist()))
        self.vocabulary, self.valid = self.modes.counts.keys(), splits.valid
        self._usual: dict[int, tuple[float, float]] = {}

    def __call__(self, samples: Tensor) -> dict[str, float]:
        rows = samples.cpu().numpy()
        texts = [self.tokeniser.decode(row.tolist()) for row in rows]
        words = [text.split() for text in texts]
        entropy, match = entropies(rows), longest_matches(rows, self.corpus)
        grams = words if sum(len(w) > 2 for w in words) > len(words) / 2 else list(rows)
        measures: dict[str, Measure] = {
            "judge_perplexity": perplexity(self.ngrams.nats(rows)),
            "entropy": mean(entropy),
            "distinct_3": jackknife(lambda part: distinct(part, 3), grams),
            "self_bleu": mean(self_bleu(words)) if len(words) > 1 else Measure(0.0, float("nan")),
            "word_validity": mean(word_validity(texts, self.vocabulary)),
            "word_spectrum": self.modes.spectrum(texts),
            "longest_match": mean(match.astype(float)),
        }
        if self.judge is not None:
            measures["hf_perplexity"] = perplexity(self.judge.nats(texts))
        low, high = self._usual_range(rows.shape[1])
        kinds = {"low_entropy": share(entropy < low), "long_match": share(match > high), **self.modes(texts)}
        numbers = {name: m.value for name, m in measures.items()}
        errors = {f"{name}_error": m.error for name, m in measures.items() if m.error == m.error}
        return numbers | errors | flat(kinds)

    def _usual_range(self, length: int) -> tuple[float, float]:
        """The entropy that one in ten validation windows stays below, and the match that one in ten exceeds."""
        if length not in self._usual:
            rows = self._held_out(512, length)
            if not len(rows):
                return 0.0, float(length)
            high = float(np.quantile(longest_matches(rows, self.corpus), 0.9))
            self._usual[length] = float(np.quantile(entropies(rows), 0.1)), high
        return self._usual[length]

    def aim(self, n: int) -> Aim:
        """What a grid is chosen by: real words where tokens are characters, else the judge's perplexity. Collapse
        raises both, so what the entropy within samples and the distinct 3-grams lack of held-out text guards them.

        Arguments:
            n: Samples.
        """
        decoded = lambda rows: [self.tokeniser.decode(row) for row in rows.tolist()]  # noqa: E731

        def words(samples: Tensor) -> Measure:
            return mean(word_validity(decoded(samples), self.vocabulary))

        def judged(samples: Tensor) -> Measure:
            return perplexity(self.ngrams.nats(samples.cpu().numpy()))

        guards = {
            "entropy_lacking": self._lacking(lambda rows: mean(entropies(rows))),
            "distinct_3_lacking": self._lacking(lambda rows: jackknife(lambda part: distinct(part, 3), rows.tolist())),
        }
        if self.tokeniser.size <= CHARACTERS:
            return Aim("word_validity", words, rises=True, guards=guards, n=n)
        return Aim("judge_perplexity", judged, guards=guards, n=n)

    def _lacking(self, measure: Callable[[NDArray[np.integer]], Measure], share: float = 0.99) -> Measured:
        """How far a number of samples is below ``share`` of what as many held-out windows have; 0 if it is not."""

        @cache
        def least(n: int, length: int) -> tuple[int, float]:
            held_out = self._held_out(n, length)
            return len(held_out), share * measure(held_out).value if len(held_out) > 1 else 0.0

        def lacking(samples: Tensor) -> Measure:
            n, enough = least(*samples.shape)
            found = measure(samples.cpu().numpy()[:n])
            return Measure(max(enough - found.value, 0.0), found.error)

        return lacking

    def _held_out(self, n: int, length: int) -> NDArray[np.integer]:
        """As many validation windows as there are, at most ``n``."""
        tokens = self.valid.tokens(n * length)
        return tokens[: len(tokens) // length * length].reshape(-1, length)

    def data(self, windows: Windows, n: int, seed: int = 0) -> dict[str, float]:
        """The same of ``n`` held-out windows (as many as there are, if fewer)."""
        order = torch.randperm(len(windows), generator=torch.Generator().manual_seed(seed))
        return self(one_field(windows.batch(order[:n]).x_1))


HEADINGS = {
    "judge_perplexity": "judge perplexity",
    "entropy": "entropy (nats)",
    "distinct_3": "distinct-3",
    "self_bleu": "self-BLEU",
    "word_validity": "words",
    "word_spectrum": "word spectrum",
    "longest_match": "longest match",
    "hf_perplexity": "HF perplexity",
}


def table(rows: Mapping[str, Mapping[str, float]]) -> str:
    """A Markdown table of measures, one row for each way of sampling."""
    names = [name for name in HEADINGS if any(name in row for row in rows.values())]
    lines = [f"| steps | {' | '.join(HEADINGS[name] for name in names)} |", "|" + "---|" * (len(names) + 1)]
    for label, row in rows.items():
        cells = [f"{row[name]:.3g} ± {row.get(f'{name}_error', float('nan')):.1g}" for name in names]
        lines.append(f"| {label} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def frontier(path: str | os.PathLike, rows: Mapping[str, Sequence[Mapping[str, float]]]) -> None:
    """Draw judge perplexity against entropy, one line for each way of sampling, the data as a star, as PNG.

    Arguments:
        rows: For each label its points (for example one a temperature) with ``entropy`` and ``judge_perplexity``; the
            label ``data`` is drawn as a star.
    Raises: ValueError if there is no point.
    """
    if not any(rows.values()):
        raise ValueError("no point for the frontier; sample at one temperature or more")
    figure = blank(5.2, 4, dpi=120, layout="constrained")
    axis = figure.subplots()
    for label, points in rows.items():
        x, y = ([point[name] for point in points] for name in ("entropy", "judge_perplexity"))
        style = {"marker": "*", "markersize": 13, "linestyle": "none", "color": "black"} if label == "data" else {}
        axis.plot(x, y, **{"marker": "o", "linewidth": 1.2, **style}, label=label)
    axis.set(xlabel="entropy within a sample (nats)", ylabel="perplexity under the judge", yscale="log")
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8)
    save(figure, path)
