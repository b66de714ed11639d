"""Text metrics against direct evaluations, and the n-gram judge against brute force."""

import math
from collections import Counter, defaultdict

import numpy as np
import pytest

from flowmaps.metrics.text import (
    distinct,
    entropies,
    jackknife,
    longest_matches,
    mean,
    self_bleu,
    word_validity,
)
from flowmaps.metrics.text_judges import HuggingFaceJudge, NgramJudge, perplexity

RANDOM = np.random.default_rng(0)


class BruteForce:
    """Modified Kneser-Ney by dictionaries over tuples, as in Chen and Goodman 1999."""

    def __init__(self, tokens, K, order):
        self.K, self.order, self.count = K, order, {}
        grams = {n: [tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1)] for n in range(1, order + 1)}
        self.count[order] = Counter(grams[order])
        for n in range(1, order):
            before = defaultdict(set)
            for gram in grams[n + 1]:
                before[gram[1:]].add(gram[0])
            self.count[n] = Counter({gram: len(types) for gram, types in before.items()})
            self.count[n].setdefault(tuple(tokens[:n]), 1)
        self.D = {n: self.discounts(Counter(count.values())) for n, count in self.count.items()}

    @staticmethod
    def discounts(of):
        Y = of[1] / max(of[1] + 2 * of[2], 1)
        raw = [c - (c + 1) * Y * of[c + 1] / of[c] if of[c] and of[c + 1] else c / 2 for c in (1, 2, 3)]
        return [0.0] + [min(max(d, 0.05), c) for c, d in enumerate(raw, 1)]

    def p(self, history, w):
        if history is None:
            return 1 / self.K
        n = len(history) + 1
        lower = self.p(history[1:] if history else None, w)
        of_history = {g: c for g, c in self.count[n].items() if g[:-1] == history}
        if not of_history:
            return lower
        total = sum(of_history.values())
        held = sum(self.D[n][min(c, 3)] for c in of_history.values())
        c = of_history.get((*history, w), 0)
        return (max(c - self.D[n][min(c, 3)], 0) + held * lower) / total


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_judge_equals_brute_force_and_sums_to_one(order):
    K = 5
    tokens = RANDOM.choice(K, 300, p=[0.5, 0.25, 0.15, 0.1, 0.0])  # category 4 never occurs
    judge, brute = NgramJudge(tokens, K, order), BruteForce(tokens.tolist(), K, order)
    for _ in range(20):
        context = RANDOM.integers(0, K, order + 1).tolist()
        p = [math.exp(-judge.nats([[*context, w]])[0][-1]) for w in range(K)]
        history = tuple(context[len(context) - order + 1 :])
        assert p == pytest.approx([brute.p(history, w) for w in range(K)], rel=1e-9)
        assert sum(p) == pytest.approx(1)


def test_judge_finds_structure_and_refuses_other_alphabets():
    tokens = np.tile([0, 1, 2], 200)
    judge = NgramJudge(tokens, 4, order=3)
    assert perplexity(judge.nats([tokens[:60]])).value < 1.2
    assert perplexity(judge.nats([RANDOM.integers(0, 3, 60)])).value > 2
    with pytest.raises(ValueError, match="judge and sampler differ"):
        judge.nats([[7]])
    with pytest.raises(ValueError, match="order is 9"):
        NgramJudge(tokens[:5], 4, order=9)


def test_judge_of_a_source_reaches_its_entropy():
    P = np.array([[0.9, 0.1, 0], [0.0, 0.2, 0.8], [0.5, 0, 0.5]])
    tokens = [0]
    for u in RANDOM.random(40_000):
        tokens.append(int((u > P[tokens[-1]].cumsum()).sum()))
    stationary = np.linalg.matrix_power(P, 200)[0]
    rate = -(stationary[:, None] * P * np.log(np.where(P > 0, P, 1))).sum()
    judge = NgramJudge(np.array(tokens[:30_000]), 3, order=3)
    assert math.log(perplexity(judge.nats([tokens[30_000:]])).value) == pytest.approx(rate, rel=0.03)


def test_perplexity_weighs_tokens_not_samples():
    nats = [np.array([1.0, 1.0, 1.0]), np.array([5.0])]
    assert perplexity(nats).value == pytest.approx(math.exp(2))
    with pytest.raises(ValueError, match="no token"):
        perplexity([np.zeros(0)])


def test_hugging_face_judge_by_an_unknown_name_is_one_line(tmp_path):
    with pytest.raises(ValueError, match="transformers|cannot be loaded") as error:
        HuggingFaceJudge(str(tmp_path / "no-such-model"))
    assert "\n" not in str(error.value)


def test_entropy_is_within_samples():
    # Each sample repeats one token: pooled entropy would be log 2, the text is worthless.
    assert entropies([[0] * 8, [1] * 8]).tolist() == [0, 0]
    assert entropies([[0, 1, 2, 3]]) == pytest.approx(math.log(4))


def test_distinct_grams():
    assert distinct([[1, 2, 3], [1, 2, 4]], 2) == pytest.approx(3 / 4)
    assert distinct([[1, 1, 1, 1]], 3) == pytest.approx(1 / 2)
    with pytest.raises(ValueError, match="no 3-gram"):
        distinct([[1, 2]], 3)


def bleu(row, references, n=4):
    """BLEU by its definition."""
    log = 0.0
    for m in range(1, n + 1):
        count = Counter(tuple(row[i : i + m]) for i in range(len(row) - m + 1))
        best = Counter()
        for reference in references:
            best |= Counter(tuple(reference[i : i + m]) for i in range(len(reference) - m + 1))
        extra = int(m > 1)
        log += math.log((sum((count & best).values()) + extra) / (count.total() + extra)) / n
    r = min((len(x) for x in references), key=lambda r: (abs(r - len(row)), r))
    return math.exp(log + min(0, 1 - r / len(row)))


def test_self_bleu_is_bleu_against_the_others():
    rows = [RANDOM.integers(0, 4, RANDOM.integers(6, 20)).tolist() for _ in range(12)]
    expected = [bleu(row, rows[:i] + rows[i + 1 :]) for i, row in enumerate(rows)]
    assert self_bleu(rows) == pytest.approx(expected)


def test_self_bleu_of_copies_and_strangers():
    assert self_bleu(["a b c d e".split()] * 3) == pytest.approx(1)
    assert self_bleu([list("abcd"), list("efgh")]) == pytest.approx(0)
    with pytest.raises(ValueError, match="two or more"):
        self_bleu(["ab"])


def test_words_that_a_window_cuts_do_not_count():
    shares = word_validity(["xx the cat zzz sat yy", "on"], {"the", "cat", "sat"})
    assert shares.tolist() == [0.75, 0]


def test_longest_matches_equal_brute_force():
    corpus = RANDOM.integers(0, 3, 400)
    samples = [RANDOM.integers(0, 3, 30) for _ in range(10)]
    samples += [corpus[50:80], np.array([7, 7, 7]), np.concatenate([[9], corpus[:5], [9]])]
    text = "".join(map(str, corpus))

    def brute(row):
        string = "".join(map(str, row))
        spans = [(j - i) for i in range(len(row)) for j in range(i + 1, len(row) + 1) if string[i:j] in text]
        return max(spans, default=0)

    assert longest_matches(samples, corpus).tolist() == [brute(row) for row in samples]
    assert longest_matches([corpus[50:80]], corpus)[0] == 30


def test_errors_over_samples():
    assert mean([1.0, 3.0]) == pytest.approx((2.0, 1.0))
    assert math.isnan(mean([1.0]).error)
    rows = RANDOM.normal(size=400).tolist()
    spread = jackknife(lambda part: float(np.mean(part)), rows)
    assert spread.error == pytest.approx(1 / 20, rel=0.6)
