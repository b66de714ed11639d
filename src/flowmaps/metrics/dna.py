"""Quality of generated DNA: words, composition and motifs along the sequence, and features of a small classifier."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from ..data.base import CategoricalData, fingerprint
from ..data.dna import WORD, decode, packed
from ..fields import Batch, one_field
from .kept import fitted, kept
from .text import Measure, jackknife, longest_matches, mean
from .two_sample import frechet, precision_recall

IUPAC = {
    **{base: base for base in "ACGTN"},
    **{"R": "AG", "Y": "CT", "S": "CG", "W": "AT", "K": "GT", "M": "AC"},
    **{"B": "CGT", "D": "AGT", "H": "ACT", "V": "ACG", "N": "ACGT"},
}
TATA = "TATAWAW"


class DNAClassifier(nn.Module):
    """A convolutional reference network: DNA to class logits, with features one layer below.

    Arguments:
        K: Letters of the alphabet.
        length: Positions.
        classes: Number of classes.
        width: Filters of the first layer.
        features: Width d of the penultimate layer.
    """

    def __init__(self, K: int, length: int, classes: int, width: int = 48, features: int = 32):
        super().__init__()
        self.K = K
        self.body = nn.Sequential(
            nn.Conv1d(K, width, 11, stride=2, padding=5),
            nn.GELU(),
            nn.Conv1d(width, width, 7, stride=3, padding=3),
            nn.GELU(),
            nn.Conv1d(width, width, 5, stride=3, padding=2),
            nn.GELU(),
            nn.Flatten(),
        )
        places = self.body(torch.zeros(1, K, length)).shape[1]
        self.feature = nn.Sequential(nn.Linear(places, features), nn.GELU())
        self.head = nn.Linear(features, classes)

    def features(self, pi: Tensor) -> Tensor:
        """Features ``(n, d)`` of soft one-hot letters ``(n, length, K)``; letters that do not exist are 0."""
        return self.feature(self.body(pi.to(self.head.weight).mT))

    def forward(self, pi: Tensor) -> Tensor:
        """Class logits ``(n, classes)``."""
        return self.head(self.features(pi))

    @torch.no_grad()
    def inspect(self, x: Tensor, mask: Tensor | None = None, chunk: int = 1024) -> tuple[Tensor, Tensor]:
        """Features ``(n, d)`` and class probabilities of categories ``(n, length)``, without gradients."""
        masks = [None] * len(x.split(chunk)) if mask is None else list(mask.split(chunk))
        parts = [self.features(one_hot(part, self.K, seen)) for part, seen in zip(x.split(chunk), masks, strict=True)]
        features = torch.cat(parts)
        return features, self.head(features).softmax(-1)


def one_hot(x: Tensor, K: int, mask: Tensor | None = None) -> Tensor:
    """One-hot letters, float32, 0 where a position does not exist."""
    hot = F.one_hot(x.long(), K).float()
    return hot if mask is None else hot * mask.unsqueeze(-1)


def train_classifier(data: CategoricalData, K: int, classes: int, steps: int, seed: int = 0) -> DNAClassifier:
    """Train a reference classifier; the same seed gives the same weights.

    Without classes it tells the sequences from themselves with their letters in a random order.

    Arguments:
        data: Training sequences, with class labels where ``classes`` is more than 0.
        steps: Updates of AdamW under a one-cycle learning rate, with batches of 64.
    """
    x_1, mask, label = one_field(data.x_1), one_field(data.condition.mask), data.condition.label
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = DNAClassifier(K, x_1.shape[1], classes or 2)
    generator = torch.Generator().manual_seed(seed)

    def loss() -> Tensor:
        index = torch.randint(len(data), (64,), generator=generator)
        x, y = one_hot(x_1[index], K, None if mask is None else mask[index]), None if label is None else label[index]
        if not classes or y is None:
            y = torch.arange(64) % 2
            order = torch.rand(x.shape[:2], generator=generator).argsort(1)
            x = torch.where(y.bool()[:, None, None], x, x.gather(1, order.unsqueeze(-1).expand_as(x)))
        return F.cross_entropy(model(x), y, label_smoothing=0.05)

    return fitted(model, loss, steps, lr=2e-3, weight_decay=0.05)


def cached_classifier(
    folder: str | os.PathLike, data: CategoricalData, K: int, classes: int, steps: int = 1000, seed: int = 0
) -> DNAClassifier:
    """:func:`train_classifier`, kept in ``folder`` as safetensors, named by its data and settings."""
    length = one_field(data.x_1).shape[1]
    path = Path(folder) / f"dna-{fingerprint(data.fingerprint(), K, classes, steps, seed)}.safetensors"
    return kept(
        path,
        lambda: DNAClassifier(K, length, classes or 2),
        lambda: train_classifier(data, K, classes, steps, seed),
        "classifier",
    )


def pattern(motif: str) -> re.Pattern[str]:
    """The regular expression of a motif in the letters of IUPAC, overlapping occurrences included.

    >>> [match.start() for match in pattern("TWT").finditer("TATAT")]
    [0, 2]

    Raises: ValueError if a letter is none of IUPAC's.
    """
    strange = sorted(set(motif.upper()) - set(IUPAC))
    if strange or not motif:
        raise ValueError(f"motif {motif!r} has letters {strange}, expected those of IUPAC ({''.join(IUPAC)})")
    return re.compile("(?=" + "".join(f"[{IUPAC[letter]}]" for letter in motif.upper()) + ")")


def places(texts: Sequence[str], motif: str) -> list[list[int]]:
    """Where a motif begins in each sequence."""
    found = pattern(motif)
    return [[match.start() for match in found.finditer(text)] for text in texts]


def words(x: Tensor, k: int, letters: str, mask: Tensor | None = None) -> NDArray[np.integer]:
    """How often each word of ``k`` bases occurs in each sequence, ``(n, 4^k)``; words with other letters are not
    counted."""
    codes = x.cpu().numpy().astype(np.int64)
    codes = np.where(codes < 4, codes, -1) if mask is None else np.where(mask.numpy() & (codes < 4), codes, -1)
    windows = np.lib.stride_tricks.sliding_window_view(codes, k, axis=1)
    number = (windows * 4 ** np.arange(k - 1, -1, -1)).sum(-1)
    number = np.where((windows >= 0).all(-1), number, 4**k)
    rows = np.arange(len(codes))[:, None] * (4**k + 1)
    return np.bincount((rows + number).ravel(), minlength=len(codes) * (4**k + 1)).reshape(len(codes), -1)[:, :-1]


def jensen_shannon(counts_1: NDArray[np.number], counts_2: NDArray[np.number]) -> float:
    r"""Jensen-Shannon divergence of two histograms in nats, from 0 to log 2.

    .. math:: H\big(\tfrac{p + q}{2}\big) - \tfrac12 H(p) - \tfrac12 H(q)

    It is biased upwards by few counts: compare values of equal numbers.
    """
    p, q = (counts / max(counts.sum(), 1) for counts in (counts_1, counts_2))
    entropy = lambda r: -float((r[r > 0] * np.log(r[r > 0])).sum())  # noqa: E731
    return entropy((p + q) / 2) - entropy(p) / 2 - entropy(q) / 2


def gc(x: Tensor, mask: Tensor | None = None, window: int = 10) -> Tensor:
    """Share of G and C along the sequence in windows, float64 ``(n, windows)``, NaN where a window has no base."""
    bases = x < 4 if mask is None else (x < 4) & mask
    strong = ((x == 1) | (x == 2)) & bases
    cut = lambda part: part.double().split(window, dim=1)  # noqa: E731
    sums = [(a.sum(1), b.sum(1)) for a, b in zip(cut(strong), cut(bases), strict=True)]
    return torch.stack([a / torch.where(b > 0, b, torch.nan) for a, b in sums], dim=1)


class DNAQuality:
    """The metrics of one data set, each with its standard error as ``..._error`` where it has one.

    - ``frechet``: Fréchet distance to the held-out sequences in the classifier's features, in units of their mean
      variance over the training part. It is biased by the number of samples: compare with :meth:`of_data`.
    - ``kmer_1`` to ``kmer_6``: Jensen-Shannon divergence between the spectra of words, in nats; biased likewise.
    - ``gc``, ``gc_profile``: share of G and C, and the root mean square over windows of 10 bases of its difference to
      held-out sequences along the sequence.
    - ``motif_share``, ``motif_peak``: share of sequences with the motif anywhere, and where most of the training
      sequences have it (within 5 bases); ``motif_distance``: Wasserstein distance between the places, in bases.
    - ``precision``, ``recall``: share of samples within the manifold of held-out sequences in the classifier's
      features, and of held-out sequences within that of the samples.
    - ``longest_match``: mean length of the longest run of letters that occurs in a training sequence.

    Arguments:
        classifier: Reference network, trained on ``train``.
        train, held_out: Sequences.
        letters: Their alphabet.
        motif: In letters of IUPAC.
    """

    def __init__(
        self,
        classifier: DNAClassifier,
        train: CategoricalData,
        held_out: CategoricalData,
        letters: str,
        motif: str = TATA,
    ):
        self.classifier, self.train, self.held_out = classifier, train, held_out
        self.letters, self.motif = letters, motif
        x, mask = one_field(held_out.x_1), one_field(held_out.condition.mask)
        inside = classifier.inspect(one_field(train.x_1), one_field(train.condition.mask))[0].double()
        self.scale = inside.var(0).mean().rsqrt()
        self.real = classifier.inspect(x, mask)[0].double() * self.scale
        self.spectra = {k: words(x, k, letters, mask).sum(0) for k in range(1, 7)}
        self.profile = gc(x, mask).nanmean(0)
        self.places = np.concatenate([np.zeros(0), *places(self.texts(x, mask), motif)])
        starts = np.concatenate([np.zeros(0), *places(self.texts(one_field(train.x_1), None), motif)]).astype(int)
        self.peak = int(np.bincount(starts).argmax()) if len(starts) else None
        self.memory = Memory(train)

    def texts(self, x: Tensor, mask: Tensor | None) -> list[str]:
        """Letters, N where there is no base."""
        codes = x if mask is None else torch.where(mask, x.long(), 4)
        return decode(codes, self.letters if self.letters.endswith("N") else self.letters + "N")

    def __call__(
        self, x: Tensor, mask: Tensor | None = None, match: NDArray[np.integer] | None = None
    ) -> dict[str, float]:
        """The metrics of categories ``(n, length)``, four at least.

        Arguments:
            match: Longest matches that are known already.
        """
        if len(x) < 4:
            raise ValueError(f"{len(x)} sequences to measure, expected at least 4")
        features = self.classifier.inspect(x, mask)[0].double() * self.scale
        measures = {"frechet": _over(features, lambda part: frechet(part, self.real))}
        for k, spectrum in self.spectra.items():
            counts = torch.from_numpy(words(x, k, self.letters, mask))
            measures[f"kmer_{k}"] = _over(counts, lambda part, q=spectrum: jensen_shannon(part.sum(0).numpy(), q))
        shares = gc(x, mask)
        measures["gc"] = mean(shares.nanmean(1).numpy())
        measures["gc_profile"] = _over(shares, self._profile)
        measures |= self._motif(places(self.texts(x, mask), self.motif))
        measures["longest_match"] = mean((self.memory(x, mask) if match is None else match).astype(float))
        precision, recall = precision_recall(features, self.real)
        numbers = {name: m.value for name, m in measures.items()} | {"precision": precision, "recall": recall}
        return numbers | {f"{name}_error": m.error for name, m in measures.items() if m.error == m.error}

    def _profile(self, shares: Tensor) -> float:
        return float((shares.nanmean(0) - self.profile).square().nanmean().sqrt())

    def _motif(self, found: list[list[int]]) -> dict[str, Measure]:
        from scipy.stats import wasserstein_distance

        def distance(rows: list[list[int]]) -> float:
            pooled = [place for row in rows for place in row]
            return float(wasserstein_distance(pooled, self.places)) if pooled and len(self.places) else float("nan")

        near = [any(self.peak is not None and abs(place - self.peak) <= 5 for place in row) for row in found]
        measures = {
            "motif_share": mean(np.array([float(len(row) > 0) for row in found])),
            "motif_peak": mean(np.array(near, dtype=float)),
            "motif_distance": jackknife(distance, found),
        }
        return {name: measure for name, measure in measures.items() if measure.value == measure.value}

    def accuracy(self, x: Tensor, label: Tensor, mask: Tensor | None = None) -> dict[str, float]:
        """Share of conditional samples that the classifier puts in the class asked for, with its error."""
        right = mean((self.classifier.inspect(x, mask)[1].argmax(1) == label).double().numpy())
        return {"accuracy": right.value, "accuracy_error": right.error}

    def of_data(self, n: int, seed: int = 0, labelled: bool = False) -> dict[str, float]:
        """What ``n`` training sequences score; the longest match and the accuracy are those of held-out ones."""
        generator = torch.Generator().manual_seed(seed)
        real, apart = (_some(data, n, generator) for data in (self.train, self.held_out))
        match = self.memory(one_field(apart.x_1), one_field(apart.condition.mask))
        values = self(one_field(real.x_1), one_field(real.condition.mask), match)
        if not labelled or apart.condition.label is None:
            return values
        return values | self.accuracy(one_field(apart.x_1), apart.condition.label, one_field(apart.condition.mask))


def _some(data: CategoricalData, n: int, generator: torch.Generator) -> Batch:
    return data.batch(torch.randperm(len(data), generator=generator)[:n])


def _over(rows: Tensor, statistic: Callable[[Tensor], float]) -> Measure:
    """A statistic of rows with its jackknife error."""
    return jackknife(lambda index: statistic(rows[torch.tensor(index)]), range(len(rows)))


class Memory:
    """The longest run of bases of a sequence that occurs in one of the training sequences, ``(n,)``.

    Windows of 32 bases are numbers, and their nearest in the sorted list of all training windows have the longest
    prefix in common; runs that are longer still are measured by :func:`~flowmaps.metrics.text.longest_matches`. A
    run of less than 32 bases that reaches the end of a training sequence may be taken for a shorter one.
    """

    def __init__(self, train: CategoricalData):
        self.codes = _codes(one_field(train.x_1), one_field(train.condition.mask))
        word, run = packed(self.codes)
        order = np.argsort(word[run > 0])
        self.word, self.run = word[run > 0][order], run[run > 0][order]

    def __call__(self, x: Tensor, mask: Tensor | None = None) -> NDArray[np.integer]:
        codes = _codes(x.cpu(), mask)
        word, run = packed(codes)
        place = np.searchsorted(self.word, word)
        best = np.zeros(codes.shape, np.int64)
        for near in (place - 1, place):
            near = near.clip(0, len(self.word) - 1)
            common = np.minimum(_common(self.word[near], word), np.minimum(self.run[near], run))
            best = np.maximum(best, common)
        longest = best.max(1)
        copies = (longest == WORD).nonzero()[0]
        if len(copies):
            apart = np.pad(self.codes, ((0, 0), (0, 1)), constant_values=-1).ravel()
            longest[copies] = longest_matches([np.where(row < 0, 9, row) for row in codes[copies]], apart)
        return longest


def _codes(x: Tensor, mask: Tensor | None) -> NDArray[np.integer]:
    """Bases 0..3, -1 elsewhere."""
    bases = x < 4 if mask is None else (x < 4) & mask
    return torch.where(bases, x.char(), -1).numpy()


def _common(a: NDArray[np.uint64], b: NDArray[np.uint64]) -> NDArray[np.integer]:
    """How many bases two numbers of :func:`packed` begin with in common."""
    differ, count = a ^ b, np.zeros(a.shape, np.int64)
    for half in (32, 16, 8, 4, 2):  # bits: skip the upper half of what is left where it is equal
        equal = differ >> np.uint64(64 - half) == 0
        count += np.where(equal, half // 2, 0)
        differ = np.where(equal, differ << np.uint64(half), differ)
    return count + (differ == 0)
