"""Shares with errors that hold for rare kinds too, and marks that cry when a kind is missing and not otherwise."""

import math

import numpy as np
import pytest

from flowmaps.metrics.modes import Measure, Mode, beside, differing, flat, lost, share


def test_the_error_of_a_share_is_that_of_agresti_and_coull():
    for hits, n in ((3, 10), (0, 50), (50, 50)):
        p = (hits + 2) / (n + 4)
        found = share([1] * hits + [0] * (n - hits))
        assert found.value == hits / n and found.error == pytest.approx((p * (1 - p) / (n + 4)) ** 0.5)


def test_the_error_of_a_share_of_words_is_the_spread_over_samples():
    """Words of one text come together: counting each as a sample of its own would promise too much."""
    random = np.random.default_rng(0)

    def drawn():
        p = random.beta(2, 2, 200)
        words = random.integers(1, 20, 200)
        return share(random.binomial(words, p), words)

    many = [drawn() for _ in range(300)]
    assert np.mean([one.error for one in many]) == pytest.approx(np.std([one.value for one in many]), rel=0.1)


def test_nothing_to_count_is_no_number_and_left_out():
    found = {"some": share([1, 0]), "none": share([0, 0], [0, 0])}
    assert math.isnan(found["none"].value)
    assert list(flat(found)) == ["modes/some", "modes/some_error"]


def test_equal_distributions_are_marked_as_rarely_as_the_level_says():
    """One table in a hundred at most may name a mode by chance, rare ones and small samples included."""
    random = np.random.default_rng(1)
    p = np.array([0.3, 0.1, 0.03, 0.01, 0.003, 0.001] * 4)
    named = 0
    for n, m in ((100, 5000), (1000, 1000), (5000, 300)):
        for _ in range(300):
            x, y = random.binomial(n, p), random.binomial(m, p)
            found = {
                str(k): Mode(*share([1] * a + [0] * (n - a)), *share([1] * b + [0] * (m - b)))
                for k, (a, b) in enumerate(zip(x, y, strict=True))
            }
            named += bool(differing(found))
    assert named <= 900 * 0.01 + 3 * (900 * 0.01) ** 0.5


def test_what_is_lost_and_what_merely_differs():
    data = {"a": Measure(0.2, 0.004), "b": Measure(0.2, 0.004), "c": Measure(0.2, 0.004), "d": Measure(0.0, 0.0002)}
    own = {"a": Measure(0.05, 0.002), "b": Measure(0.14, 0.003), "c": Measure(0.17, 0.003), "d": Measure(0.1, 0.003)}
    found = beside(flat(own), flat(data))
    assert differing(found) == ["a", "d", "b"]  # c differs by ten errors, but by less than a quarter
    assert lost(found) == ["a"] and found["a"].z < -30 < 30 < found["d"].z
    assert differing({}) == [] == lost({})


def test_only_what_both_have_is_compared():
    row = {"fcd": 1.0, "fcd_error": 0.1, **flat({"a": Measure(0.5, 0.1), "b": Measure(0.5, 0.1)})}
    data = {"fcd": 1.0, **flat({"b": Measure(0.1, 0.1), "c": Measure(0.1, 0.1)})}
    assert beside(row, data) == {"b": Mode(0.5, 0.1, 0.1, 0.1)}
