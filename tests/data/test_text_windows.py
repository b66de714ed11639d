"""Packing loses no token, cuts no document that fits, and leaves little room."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from flowmaps.data.text import text_splits
from flowmaps.data.text_corpora import from_texts
from flowmaps.data.text_known import PartlyKnown
from flowmaps.data.text_shards import prepare
from flowmaps.data.text_tokens import SEPARATOR, Bytes, Letters, tokeniser
from flowmaps.data.text_windows import Packed, best_fit

LENGTH = 32


def packed(folder, documents):
    shards = prepare(from_texts("documents", lambda: documents).pieces, Bytes(), folder, "documents")
    return shards, Packed(shards, 0, len(shards), LENGTH)


@settings(deadline=None, max_examples=100)
@given(st.lists(st.integers(1, LENGTH), min_size=1, max_size=200))
def test_best_fit_overfills_no_window_and_opens_one_only_if_none_has_room(sizes):
    window = best_fit(np.array(sizes), LENGTH)
    filled = np.bincount(window, weights=sizes)
    assert filled.max() <= LENGTH and (filled > 0).all()
    assert (filled <= LENGTH / 2).sum() <= 1  # two of them would have been one


def test_every_token_is_in_one_window_and_documents_are_whole(tmp_path):
    random = np.random.default_rng(0)
    documents = ["".join(random.choice(list("abcdef "), random.integers(1, 3 * LENGTH))) for _ in range(400)]
    shards, windows = packed(tmp_path, documents)
    x_1, condition = windows.batch(torch.arange(len(windows)))
    rows = [Bytes().decode(row[mask].tolist()) for row, mask in zip(x_1, condition.mask, strict=True)]
    assert sorted("".join(rows)) == sorted(SEPARATOR.join(documents))
    assert not x_1[~condition.mask].any()
    short = [text for text in documents[:-1] if len(text) < LENGTH]
    whole = [text for row in rows for text in (row if row.endswith(SEPARATOR) else row + SEPARATOR).split(SEPARATOR)]
    assert set(short) <= set(whole)
    assert len(windows) * LENGTH < 1.05 * len(shards)
    assert windows.fingerprint() != super(Packed, windows).fingerprint()


def test_known_positions_of_packed_windows_exist_and_leave_something_to_learn(tmp_path):
    data = PartlyKnown(packed(tmp_path, ["abc"] * 21)[1], copies=64)
    condition = data.batch(torch.arange(len(data))).condition
    assert not (condition.known & ~condition.mask).any() and condition.known.any()
    assert (condition.mask & ~condition.known).any(1).all()


def test_alphabets_without_an_end_of_documents_are_refused(tmp_path):
    with pytest.raises(ValueError, match="letters has no token between documents"):
        text_splits(from_texts("few", lambda: ["some words"] * 99), Letters(), 8, cache=tmp_path, packed=True)


def test_subwords_are_packed_by_their_end_token_and_learned_once(tmp_path):
    pytest.importorskip("tokenizers")
    documents = [f"document {i} of many " + "word " * (i % 7) for i in range(200)]
    source = from_texts("documents", lambda: documents)
    first = text_splits(source, "bpe", LENGTH, size=300, cache=tmp_path, packed=True)
    again = text_splits(source, "bpe", LENGTH, size=300, cache=tmp_path, packed=True)
    assert len(list(tmp_path.glob("documents-bpe-300-*.json"))) == 1
    assert first.train.fingerprint() == again.train.fingerprint() and first.tokeniser.size == 300
    x_1, condition = first.train.batch(torch.arange(len(first.train)))
    ends = (x_1 == first.tokeniser.boundary) & condition.mask
    assert ends.sum() == (first.train.tokens() == first.tokeniser.boundary).sum() > 100
    assert tokeniser("bpe", documents, 300).boundary is not None
