"""Kinds of words and sentences mean what they say, agree between halves of a text, and cry when one is dropped."""

import os
import re
from pathlib import Path

import numpy as np
import pytest

from flowmaps.metrics.modes import Mode, differing, lost
from flowmaps.metrics.text_modes import TextModes, whole_sentences

TRAINING = " ".join(["a"] * 9 + [f"w{k}" for k in range(9) for _ in range(3)] + [f"rare{k}" for k in range(5)])


def test_words_are_counted_by_their_rank_and_length():
    found = TextModes(TRAINING)(["cut a a w1 rare2 wrong cut"])
    assert {name: one.value for name, one in found.items() if name.startswith("words") and one.value} == {
        "words_1-10": 0.6, "words_11-100": 0.2, "words_unknown": 0.2
    }  # fmt: skip
    assert found["letters_1-3"].value == 0.6 and found["letters_4-6"].value == 0.4
    assert found["sentence_ends"].value == 0 and np.isnan(found["sentences_1-4"].value)


def test_sentences_that_a_window_cuts_do_not_count():
    text = 'he end. One two three! "Four five six seven eight?" And the beg'
    assert whole_sentences(text) == [3, 5]
    found = TextModes(TRAINING)([text])
    assert found["sentences_1-4"].value == found["sentences_5-9"].value == 0.5
    assert found["sentence_ends"].value == 3 / 11


def test_the_spectrum_of_words_is_a_total_variation():
    modes = TextModes("a a b c")
    assert modes.spectrum(["x a b y", "x a c y"]).value == pytest.approx(0)
    assert modes.spectrum(["x z z y", "x z q y"]).value == 1
    assert modes.spectrum(["x a a y"]).value == pytest.approx(0.5)


DATA = Path(os.environ.get("FLOWMAPS_DATA", Path(__file__).parents[2].parent / "shared" / "data"))


@pytest.fixture(scope="module")
def halves():
    """The kinds of a text, and two disjoint sets of its windows."""
    file = DATA / "text" / "tiny_shakespeare.txt"
    if not file.exists():
        pytest.skip(f"{file} is not there; set FLOWMAPS_DATA")
    text = file.read_text()
    windows = [text[i : i + 256] for i in range(0, len(text) - 256, 256)]
    order = np.random.default_rng(0).permutation(len(windows))
    return TextModes(text), [windows[i] for i in order[:1000]], [windows[i] for i in order[1000:2000]]


def compared(modes, samples, data):
    own, real = modes(samples), modes(data)
    return {name: Mode(*own[name], *real[name]) for name in own}


def test_the_data_themselves_are_not_marked(halves):
    modes, samples, data = halves
    found = compared(modes, samples, data)
    assert differing(found) == [] == lost(found)
    assert abs(modes.spectrum(samples).value - modes.spectrum(data).value) < 3 * modes.spectrum(data).error


def test_a_dropped_band_of_words_cries(halves):
    modes, samples, data = halves
    without = [" ".join(word for word in text.split() if not 100 < modes.rank[word] <= 1000) if text else text
               for text in (re.sub(r"^\S*|\S*$", "", text) for text in samples)]  # fmt: skip
    found = compared(modes, [f"x {text} x" for text in without], data)
    assert lost(found)[0] == "words_101-1000" and found["words_101-1000"].value == 0
    assert modes.spectrum(without).value > modes.spectrum(data).value + 10 * modes.spectrum(data).error


def test_short_sentences_alone_cry(halves):
    modes, samples, data = halves
    short = [text for text in samples if max(whole_sentences(text), default=99) < 10]
    assert len(short) > 50
    found = compared(modes, short, data)
    assert lost(found)[0] == "sentences_10-19" and found["sentence_ends"].z > 3
