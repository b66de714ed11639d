"""Sources come in their shares, no row of any is left out, and rows keep their order."""

from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from flowmaps.data import CategoricalData
from flowmaps.data.mixture import Mixture


def numbered(begin, n, masked=False):
    x_1 = torch.arange(begin, begin + n).unsqueeze(1)
    return CategoricalData(x_1, mask=torch.ones(n, 1, dtype=torch.bool) if masked else None)


@settings(deadline=None, max_examples=50)
@given(sizes=st.lists(st.integers(1, 60), min_size=1, max_size=4), data=st.data())
def test_shares_are_exact_and_every_row_comes(sizes, data):
    weights = data.draw(st.lists(st.floats(0.05, 1), min_size=len(sizes), max_size=len(sizes)))
    mixture = Mixture([numbered(1000 * i, n) for i, n in enumerate(sizes)], weights)
    seen = Counter(mixture.batch(torch.arange(len(mixture))).x_1.flatten().tolist())
    for i, (n, weight) in enumerate(zip(sizes, weights, strict=True)):
        own = [seen[1000 * i + row] for row in range(n)]
        assert min(own) >= 1 and max(own) - min(own) <= 1
        assert sum(own) == pytest.approx(weight / sum(weights) * len(mixture), abs=len(sizes))


def test_rows_are_where_they_were_asked_for():
    mixture = Mixture([numbered(0, 5, True), numbered(100, 20, True)], [1, 1])
    everything = mixture.batch(torch.arange(len(mixture)))
    index = torch.randperm(len(mixture), generator=torch.Generator().manual_seed(0))
    batch = mixture.batch(index)
    assert torch.equal(batch.x_1, everything.x_1[index]) and batch.condition.mask.shape == batch.x_1.shape
    other = Mixture([numbered(0, 5, True), numbered(100, 20, True)], [1, 2])
    assert mixture.fingerprint() != other.fingerprint()


def test_impossible_mixtures_are_refused():
    for weights in ([1], [1, 0], [1, -1]):
        with pytest.raises(ValueError, match="one positive share for each"):
            Mixture([numbered(0, 2), numbered(0, 2)], weights)
    unlike = Mixture([numbered(0, 2), numbered(0, 2, masked=True)], [1, 1])
    with pytest.raises(ValueError, match="differ in their conditions"):
        unlike.batch(torch.arange(4))
