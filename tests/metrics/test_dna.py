"""Metrics of DNA on sequences whose values are known."""

import math

import numpy as np
import pytest
import torch

from flowmaps.data import dna as D
from flowmaps.data.base import CategoricalData
from flowmaps.metrics import dna as M
from flowmaps.metrics.text import longest_matches


def sequences(n, length=80, seed=0, motif=None, place=40):
    x = torch.randint(4, (n, length), generator=torch.Generator().manual_seed(seed))
    if motif:
        x[:, place : place + len(motif)] = torch.tensor(D.Bases("ACGT").spell(motif))
    return x


@pytest.fixture(scope="module")
def judge():
    x = sequences(300, motif="TATAAAA")
    train, held_out = CategoricalData(x[:200]), CategoricalData(x[200:])
    return M.DNAQuality(M.train_classifier(train, 4, 0, 60), train, held_out, "ACGT")


def test_words_are_counted_once_at_each_place():
    x = torch.tensor([[0, 0, 1, 4, 2], [3, 3, 3, 3, 3]])
    counts = M.words(x, 2, "ACGTN")
    assert counts.shape == (2, 16) and counts.sum(1).tolist() == [2, 4]
    assert counts[0, [0, 1]].tolist() == [1, 1] and counts[1, 15] == 4
    masked = M.words(x, 2, "ACGTN", torch.tensor([[True] * 5, [True, False, True, True, True]]))
    assert masked.sum(1).tolist() == [2, 2]


def test_divergence_is_0_for_equal_and_log_2_for_disjoint():
    assert M.jensen_shannon(np.array([1, 3]), np.array([2, 6])) == pytest.approx(0)
    assert M.jensen_shannon(np.array([1, 0]), np.array([0, 5])) == pytest.approx(math.log(2))
    p, q = np.array([0.2, 0.8]), np.array([0.6, 0.4])
    from scipy.spatial.distance import jensenshannon

    assert M.jensen_shannon(p, q) == pytest.approx(float(jensenshannon(p, q)) ** 2)


def test_composition_and_places():
    x = torch.tensor([[1, 2, 0, 3] * 5])
    assert M.gc(x, window=4).tolist() == [[0.5] * 5]
    mask = torch.ones(1, 20, dtype=torch.bool)
    mask[0, :4] = False
    shares = M.gc(x, mask, window=4)
    assert shares[0, 0].isnan() and shares[0, 1:].tolist() == [0.5] * 4
    assert M.places(["TATATAAGTATAAAA"], "TATAWA") == [[0, 8]]
    with pytest.raises(ValueError, match="letters .*'Z'"):
        M.pattern("TAZ")


@pytest.mark.parametrize("shared", [3, 20, 31, 32, 50])
def test_the_longest_match_is_that_of_a_search(shared):
    train, x = sequences(50), sequences(6, seed=1)
    x[0, 10 : 10 + shared] = train[7, 20 : 20 + shared]
    corpus = torch.cat([train, torch.full((50, 1), 9)], 1).flatten().numpy()
    found = M.Memory(CategoricalData(train))(x)
    assert found.tolist() == longest_matches(list(x.numpy()), corpus).tolist() and found[0] >= shared


def test_masked_bases_match_nothing():
    train = sequences(20)
    x, mask = train[:1].clone(), torch.ones(1, 80, dtype=torch.bool)
    mask[0, 10:] = False
    assert M.Memory(CategoricalData(train))(x).tolist() == [80]
    assert M.Memory(CategoricalData(train))(x, mask).tolist() == [10]


def test_samples_of_the_data_score_as_the_data_and_others_worse(judge):
    data = judge.of_data(100)
    same, other = judge(sequences(100, seed=9, motif="TATAAAA")), judge(sequences(100, seed=8) // 2)
    for name in ("frechet", "kmer_1", "kmer_3", "gc_profile", "motif_distance"):
        assert same[name] < 3 * data[name] + 3 * data[f"{name}_error"] < other.get(name, math.inf)
    assert same["motif_share"] == same["motif_peak"] == 1 and judge.peak == 40
    assert other["motif_share"] == 0 and "motif_distance" not in other and other["gc"] == pytest.approx(0.5, abs=0.05)
    assert same["precision"] > 0.6 and same["kmer_6"] > same["kmer_2"]


def test_errors_are_those_of_repetition(judge):
    """The jackknife error of composition agrees with the spread of repeated draws."""
    rows = [judge(sequences(100, seed=20 + i, motif="TATAAAA"))["kmer_2"] for i in range(12)]
    error = judge(sequences(100, seed=40, motif="TATAAAA"))["kmer_2_error"]
    assert 0.3 < error / np.std(rows) < 4


def test_a_class_is_recognised_and_the_same_seed_trains_the_same():
    x = torch.cat([sequences(60), sequences(60, seed=1, motif="GGGGGGGGGG")])
    data = CategoricalData(x, torch.arange(120) // 60)
    a, b = (M.train_classifier(data, 4, 2, 40) for _ in range(2))
    assert all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))
    judge = M.DNAQuality(a, data, data, "ACGT")
    assert judge.accuracy(x, data.condition.label)["accuracy"] > 0.9


def test_too_few_are_refused(judge):
    with pytest.raises(ValueError, match="3 sequences"):
        judge(sequences(3))


def test_a_kept_classifier_is_read_again(tmp_path):
    data = CategoricalData(sequences(30), torch.arange(30) % 2)
    first = M.cached_classifier(tmp_path, data, 4, 2, steps=3)
    assert len(list(tmp_path.iterdir())) == 1
    again = M.cached_classifier(tmp_path, data, 4, 2, steps=3)
    assert all(torch.equal(p, q) for p, q in zip(first.parameters(), again.parameters(), strict=True))
