"""Judges: language models that say how likely a text is: an n-gram model, or any causal model of Hugging Face."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from .text import Measure, Rows, mean


class NgramJudge:
    r"""Interpolated modified Kneser-Ney model of tokens.

    .. math:: p_n(w|h) = \frac{[c(hw) - D(c(hw))]_+}{c(h\cdot)} + \gamma(h)\, p_{n-1}(w|h'), \qquad
              \gamma(h) = \frac{D_1 N_1(h) + D_2 N_2(h) + D_{3} N_{3+}(h)}{c(h\cdot)}

    The highest order counts occurrences, each lower one the distinct tokens before an n-gram; below the first order
    stands the uniform distribution, so every text has a finite perplexity. N-grams are known by 64-bit hashes in sorted
    arrays.

    Arguments:
        tokens: Training text, one-dimensional.
        K: Size of the alphabet.
        order: Longest n-gram.
    Invariant: probabilities sum to 1 over the alphabet and equal a direct evaluation (``tests/metrics/test_text.py``).
    Reference: Chen and Goodman 1999, *An empirical study of smoothing techniques for language modeling*.
    """

    def __init__(self, tokens: NDArray[np.integer], K: int, order: int = 6):
        if order < 1 or len(tokens) < order:
            raise ValueError(f"order is {order} for {len(tokens)} tokens, expected 1 to the length of the text")
        self.K, self.order = K, order
        random = np.random.Generator(np.random.PCG64(0))
        self._code = random.integers(0, 2**64, (order, K), dtype=np.uint64)
        tokens = np.asarray(tokens)
        self._orders: list[_Order] = []
        ends = np.arange(order - 1, len(tokens))  # where n-grams that count end
        for n in range(order, 0, -1):
            keys = self._keys(tokens, ends, n)
            start = self._keys(tokens, np.array([n - 1]), n)
            if not (keys == start).any():  # the first n-gram of the text has nothing before it
                ends, keys = np.append(ends, n - 1), np.append(keys, start)
            grams, first, counts = np.unique(keys, return_index=True, return_counts=True)
            ends = ends[first]
            self._orders.append(_Order(grams, counts, self._keys(tokens, ends, n, skip=1)))
        self._orders.reverse()

    def nats(self, samples: Rows) -> list[NDArray[np.floating]]:
        """-log p of each token given those before it, one array per sample; the first ones have shorter contexts."""
        if isinstance(samples, np.ndarray):
            return list(self._nats(samples))  # of one length: all at once
        return [self._nats(np.asarray(row)) for row in samples]

    def _nats(self, tokens: NDArray[np.integer]) -> NDArray[np.floating]:
        """Of sequences of one length, shape ``(*batch, length)``."""
        if tokens.size and not 0 <= tokens.min() <= tokens.max() < self.K:
            raise ValueError(f"tokens reach {tokens.max()}, expected 0..{self.K - 1}: judge and sampler differ")
        p = np.full(tokens.shape, 1 / self.K)
        for n, order in enumerate(self._orders, start=1):
            ends = np.arange(n - 1, tokens.shape[-1])
            gram, context = self._keys(tokens, ends, n), self._keys(tokens, ends, n, skip=1)
            p[..., n - 1 :] = order(gram, context, p[..., n - 1 :])
        return -np.log(p)

    def _keys(self, tokens: NDArray, ends: NDArray, n: int, skip: int = 0) -> NDArray[np.uint64]:
        """Hashes of the n-grams that end at ``ends``, without their last ``skip`` tokens."""
        key = np.zeros((*tokens.shape[:-1], len(ends)), dtype=np.uint64)
        for j in range(skip, n):
            key += self._code[j][tokens[..., ends - j]]
        return key


class _Order:
    """Counts, discounts and back-off weights of one order."""

    def __init__(self, grams: NDArray[np.uint64], counts: NDArray[np.integer], contexts: NDArray[np.uint64]):
        of = np.array([(counts == c).sum() for c in range(1, 5)], dtype=np.float64)
        Y = of[0] / max(of[0] + 2 * of[1], 1)
        # Small alphabets have no rare n-grams to estimate discounts from: c/2 then, and never 0, so that p > 0.
        D = [c - (c + 1) * Y * of[c] / of[c - 1] if of[c - 1] and of[c] else c / 2 for c in (1, 2, 3)]
        self.discounts = np.clip(np.array([0.0, *D]), [0, 0.05, 0.05, 0.05], [0, 1, 2, 3])
        self.grams, self.counts = grams, counts
        self.contexts, inverse = np.unique(contexts, return_inverse=True)
        self.total = np.bincount(inverse, weights=counts)
        self.held = np.bincount(inverse, weights=self.discounts[np.minimum(counts, 3)])

    def __call__(self, gram: NDArray, context: NDArray, lower: NDArray) -> NDArray[np.floating]:
        at, known = _find(self.grams, gram)
        count = np.where(known, self.counts[at], 0)
        seen = np.maximum(count - self.discounts[np.minimum(count, 3)], 0)
        at, known = _find(self.contexts, context)
        total = np.where(known, self.total[at], 1)
        return np.where(known, (seen + self.held[at] * lower) / total, lower)


def _find(table: NDArray[np.uint64], keys: NDArray[np.uint64]) -> tuple[NDArray[np.integer], NDArray[np.bool_]]:
    at = np.minimum(np.searchsorted(table, keys), len(table) - 1)
    return at, table[at] == keys


class HuggingFaceJudge:
    """A causal language model of Hugging Face by name, such as ``gpt2-large`` (extra ``text``).

    Its perplexity is per token of its own alphabet, in the precision stated, and says little about very short texts.

    Arguments:
        name: Name or folder of the model.
        device: Where it runs.
        dtype: Its precision; float32 by default.
    Raises: ValueError if the library is missing or the model cannot be loaded.
    """

    def __init__(self, name: str, device: str = "cpu", dtype: torch.dtype = torch.float32):
        try:
            from transformers import AutoModelForCausalLM, AutoTokenizer  # pyright: ignore[reportMissingImports]  (an extra)
        except ImportError:
            raise ValueError("a Hugging Face judge needs transformers; pip install 'flowmaps[text]'") from None
        try:
            self.tokeniser = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
            model = AutoModelForCausalLM.from_pretrained(
                name, dtype=dtype, use_safetensors=True, trust_remote_code=False
            )
            self.model = model.to(device).eval()
        except (OSError, ValueError) as error:
            line = str(error).splitlines()[0]
            raise ValueError(
                f"judge {name!r} cannot be loaded ({line}); give a causal model's name or folder"
            ) from None
        self.device = device

    @torch.no_grad()
    def nats(self, texts: Sequence[str]) -> list[NDArray[np.floating]]:
        """-log p of each token after the first, one array a text."""
        result = []
        for text in texts:
            ids = self.tokeniser(text, return_tensors="pt").input_ids.to(self.device)
            log_p = self.model(ids).logits[0, :-1].float().log_softmax(-1)
            result.append(-log_p.gather(-1, ids[0, 1:, None]).squeeze(-1).cpu().double().numpy())
        return result


def perplexity(nats: Sequence[NDArray[np.floating]]) -> Measure:
    """exp of the mean over all tokens, with the error that samples leave (delta method)."""
    lengths = np.array([len(row) for row in nats], dtype=np.float64)
    sums = np.array([row.sum() for row in nats])
    if not lengths.sum():
        raise ValueError("no token to judge; generate longer texts")
    rate = sums.sum() / lengths.sum()
    error = mean((sums - rate * lengths) / lengths.mean()).error
    return Measure(math.exp(rate), math.exp(rate) * error)
