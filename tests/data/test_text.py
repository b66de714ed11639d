"""Text: tokenisers invert, shards survive interruption and betray damage, windows cover the text, errors are clear."""

import gzip
import hashlib
import importlib.util
import json
import lzma
import os
import re
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from flowmaps.data.text import Windows, text_splits
from flowmaps.data.text_corpora import PIECE, at_spaces, corpus, from_path, from_texts, streamed
from flowmaps.data.text_shards import Shards, prepare, sum_of
from flowmaps.data.text_tokens import SEPARATOR, Bytes, Characters, Letters, Subwords, from_description, tokeniser

PLAY = "To be, or not to be: that is the question.\n" * 400


def text8_filter(text: str) -> str:
    return re.sub("[^a-z]+", " ", text.lower())


@settings(deadline=None, max_examples=50)
@given(st.text())
def test_tokenisers_say_what_they_can(text):
    for alphabet in (Letters(), Bytes(), Characters("abc é\n")):
        tokens = alphabet.encode(text)
        assert alphabet.decode(tokens) == alphabet.normalise(text)
        assert len(tokens) == 0 or 0 <= tokens.min() and tokens.max() < alphabet.size


def test_bytes_decode_of_half_a_character_does_not_raise():
    assert Bytes().decode([195]) == "\ufffd"


@pytest.mark.parametrize("kind", ["bpe", "wordpiece"])
def test_subwords_round_trip_and_describe_themselves(kind):
    pytest.importorskip("tokenizers")
    alphabet = tokeniser(kind, [PLAY], 300)
    text = "that is the question" + SEPARATOR + "to be"
    tokens = alphabet.encode(text)
    again = from_description(alphabet.describe())
    assert alphabet.decode(tokens) == text
    assert again.size == alphabet.size and np.array_equal(again.encode(text), tokens)


def test_subwords_from_a_file(tmp_path):
    pytest.importorskip("tokenizers")
    alphabet = tokeniser("bpe", [PLAY], 300)
    assert isinstance(alphabet, Subwords)
    alphabet.save(tmp_path / "tokenizer.json")
    assert np.array_equal(tokeniser(str(tmp_path / "tokenizer.json")).encode(PLAY), alphabet.encode(PLAY))
    (tmp_path / "broken.json").write_text("{")
    with pytest.raises(ValueError, match="tokenizer.json"):
        tokeniser(str(tmp_path / "broken.json"))


def test_unknown_tokeniser_is_named():
    with pytest.raises(ValueError, match="'runes' is unknown"):
        tokeniser("runes")


@pytest.mark.parametrize("suffix", [".txt", ".gz", ".xz"])
def test_files_are_read_whole_and_their_pieces_join(tmp_path, suffix):
    text = "naïve café \u2014 " * 60_000
    write = {".txt": bytes, ".gz": gzip.compress, ".xz": lzma.compress}[suffix]
    (tmp_path / f"a{suffix}").write_bytes(write(text.encode()))
    pieces = list(from_path(tmp_path / f"a{suffix}").pieces())
    assert "".join(pieces) == text and len(pieces) > 2
    assert all(len(piece) <= PIECE and piece[0].isspace() for piece in pieces[1:])


def test_pieces_without_spaces_still_end():
    pieces = list(at_spaces(["x" * (3 * PIECE + 5)]))
    assert [len(piece) for piece in pieces] == [PIECE] * 3 + [5]


def test_a_folder_is_its_files_in_order(tmp_path):
    for name, text in {"b.txt": "second", "a.txt": "first", ".hidden": "no"}.items():
        (tmp_path / name).write_text(text)
    assert "".join(from_path(tmp_path).pieces()) == "first" + SEPARATOR + "second"


def broken(tmp_path, content, suffix=".txt"):
    path = tmp_path / f"broken{suffix}"
    path.write_bytes(content)
    return from_path(path)


@pytest.mark.parametrize(
    ("content", "suffix", "message"),
    [
        (b"abc \xff\xfe def", ".txt", "is not UTF-8 near byte 4"),
        (b"a" * (3 * PIECE) + b"\xff", ".txt", f"is not UTF-8 near byte {3 * PIECE}"),
        (b"fine until \xc3", ".txt", "is not UTF-8 near byte 11"),
        (b"", ".txt", "is empty"),
        (gzip.compress(PLAY.encode())[:-9], ".gz", "cut short"),
        (lzma.compress(PLAY.encode())[:-9], ".xz", "cut short"),
        (b"no gzip", ".gz", "no whole .gz file"),
    ],
)
def test_bad_files_get_one_clear_line(tmp_path, content, suffix, message):
    with pytest.raises(ValueError, match=message) as error:
        list(broken(tmp_path, content, suffix).pieces())
    assert "broken" in str(error.value) and "\n" not in str(error.value)


def test_missing_files_and_unknown_names_are_named(tmp_path):
    with pytest.raises(ValueError, match="no text file"):
        from_path(tmp_path / "nothing.txt")
    with pytest.raises(ValueError, match="'poems' is unknown.*tiny_shakespeare"):
        corpus("poems")


def test_text_of_the_wrong_size_is_no_text8(tmp_path):
    (tmp_path / "text8").write_text("too short")
    with pytest.raises(ValueError, match="100,000,000"):
        corpus("text8", tmp_path)


def test_streamed_corpora_read_rows_of_the_format(tmp_path):
    pytest.importorskip("datasets")
    rows = [{"text": f"document {i}"} for i in range(5)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = streamed("lm1b", "json", "text", 3, data_files=str(tmp_path / "rows.jsonl"))
    for _ in range(2):  # the same at each call
        assert "".join(source.pieces()) == SEPARATOR.join(row["text"] for row in rows[:3])


def test_streamed_corpora_without_the_library_say_what_to_install():
    if importlib.util.find_spec("datasets"):
        pytest.skip("the library is installed")
    with pytest.raises(ValueError, match=r"pip install 'flowmaps\[text\]'"):
        list(corpus("openwebtext").pieces())


def test_letters_across_pieces_are_the_filter_of_the_whole(tmp_path):
    text = "Word, and 2 words; " * 50_000
    shards = prepare(from_texts("words", lambda: [text]).pieces, Letters(), tmp_path, "words")
    assert shards.tokeniser.decode(shards.read(0, len(shards))).strip() == text8_filter(text).strip()


def test_shards_continue_after_an_interruption(tmp_path, monkeypatch):
    monkeypatch.setattr("flowmaps.data.text_shards.PIECES", 2)
    pieces = [f" piece {i} of the text" for i in range(11)]
    reads = []

    def source(stop=None):
        for i, piece in enumerate(pieces):
            if i == stop:
                raise KeyboardInterrupt
            reads.append(i)
            yield piece

    with pytest.raises(KeyboardInterrupt):
        prepare(lambda: source(stop=7), Bytes(), tmp_path, "text")
    with pytest.raises(ValueError, match="prepare the text again"):
        Shards(tmp_path)
    done = {file.name: file.stat().st_mtime_ns for file in tmp_path.glob("*.bin")}
    shards = prepare(source, Bytes(), tmp_path, "text")
    assert len(done) == 3 and all((tmp_path / name).stat().st_mtime_ns == time for name, time in done.items())
    assert shards.tokeniser.decode(shards.read(0, len(shards))) == "".join(pieces)
    assert shards.characters == len("".join(pieces))
    reads.clear()
    prepare(source, Bytes(), tmp_path, "text")
    assert not reads  # a prepared text is not read again
    prepare(source, Letters(), tmp_path, "text")
    assert reads


@settings(deadline=None, max_examples=25)
@given(st.lists(st.integers(0, 40), min_size=2, max_size=2).map(sorted))
def test_reads_cross_shards(bounds):
    import tempfile

    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr("flowmaps.data.text_shards.PIECES", 1)
        shards = prepare(lambda: [" 123456789"] * 4, Bytes(), folder, "digits")
        start, stop = bounds
        assert Bytes().decode(shards.read(start, stop)) == (" 123456789" * 4)[start:stop]


def test_damaged_and_short_shards_are_found(tmp_path):
    prepare(lambda: [PLAY], Bytes(), tmp_path, "play")
    whole = (tmp_path / "00000.bin").read_bytes()
    for place in (0, len(whole) // 2, len(whole) - 1):
        (tmp_path / "00000.bin").write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(ValueError, match="damaged"):
            prepare(lambda: [PLAY], Bytes(), tmp_path, "play")
    (tmp_path / "00000.bin").write_bytes(whole[:-2])
    with pytest.raises(ValueError, match="cut short"):
        Shards(tmp_path)
    (tmp_path / "00000.bin").unlink()
    with pytest.raises(ValueError, match="missing"):
        Shards(tmp_path)


@pytest.fixture
def index(tmp_path):
    """Change an index on disk, and open its shards."""
    prepare(lambda: [PLAY], Letters(), tmp_path / "shards", "play")
    path = tmp_path / "shards" / "index.json"
    good = path.read_text()

    def changed(change):
        value = json.loads(good)
        change(value)
        value |= {"sha256": sum_of(value)}  # as a forger would
        path.write_text(json.dumps(value))
        return Shards(tmp_path / "shards")

    return changed


def test_tokens_beyond_the_alphabet_are_refused(index, tmp_path):
    content = np.array([0, 26, 27], dtype="<u2").tobytes()
    (tmp_path / "shards" / "00000.bin").write_bytes(content)
    entry = {"file": "00000.bin", "tokens": 3, "sha256": hashlib.sha256(content).hexdigest()}
    with pytest.raises(ValueError, match="has the token 27, but its alphabet has 0 to 26; remove .* prepare the text"):
        index(lambda value: value.update(shards=[entry]))


ELSEWHERE = ["../outside.bin", "/dev/zero", "/etc/passwd", "link.bin", ".", "", "a/b", "\0", "pipe"]


@pytest.mark.parametrize("name", ELSEWHERE)
def test_an_index_names_no_file_elsewhere(index, tmp_path, name):
    (tmp_path / "outside.bin").write_bytes(b"\0\0" * 10)
    (tmp_path / "shards" / "link.bin").symlink_to(tmp_path / "outside.bin")
    os.mkfifo(tmp_path / "shards" / "pipe")
    with pytest.raises(ValueError, match="no plain file .* prepare the text again"):
        index(lambda value: value["shards"][0].update(file=name))


@pytest.mark.parametrize(
    "change",
    [
        lambda value: value.update(shards="many"),
        lambda value: value.update(shards=[1]),
        lambda value: value["shards"][0].update(file=3),
        lambda value: value["shards"][0].update(tokens=-1),
        lambda value: value["shards"][0].update(tokens="10"),
        lambda value: value.update(dtype="O"),
        lambda value: value.update(tokeniser=[]),
        lambda value: value.update(complete="yes"),
        lambda value: value.update(lost=[]),
        lambda value: value.clear(),
    ],
)
def test_an_index_of_another_form_is_none(index, tmp_path, change):
    with pytest.raises(ValueError, match="holds no complete index.json"):
        index(change)
    shards = prepare(lambda: [PLAY], Letters(), tmp_path / "shards", "play")  # makes it anew
    assert len(shards) == len(Letters().encode(PLAY)) + 1


def test_an_index_with_the_wrong_size_or_alphabet(index, tmp_path):
    with pytest.raises(ValueError, match="cut short"):
        index(lambda value: value["shards"][0].update(tokens=2**50))
    with pytest.raises(ValueError, match="tokeniser .* is unknown"):
        index(lambda value: value.update(tokeniser={"name": "subwords", "tokenizer": 3}))
    assert prepare(lambda: [PLAY], Letters(), tmp_path / "shards", "play").tokeniser.size == 27


def test_text_in_any_encoding_and_with_any_line_ends(tmp_path):
    text = "first line\nséconde\n"
    for i, (encoding, end) in enumerate([("utf-8", "\r"), ("utf-8-sig", "\r\n"), ("utf-16", "\n")]):
        (tmp_path / f"{i}.TXT").write_bytes(text.replace("\n", end).encode(encoding))
    for hidden in (".ipynb_checkpoints/0.txt", "__MACOSX/._0.txt", "._0.txt"):
        (tmp_path / hidden).parent.mkdir(exist_ok=True)
        (tmp_path / hidden).write_bytes(b"\0\xff")
    (tmp_path / "3.txt.GZ").write_bytes(gzip.compress(text.encode()))
    (tmp_path / "notes.pdf").write_bytes(b"%PDF")
    with pytest.warns(UserWarning, match="1 of 5 files are left out .1 of .pdf"):
        assert "".join(from_path(tmp_path).pieces()) == SEPARATOR.join([text] * 4)


@pytest.mark.parametrize(("text", "share"), [("ночь улица фонарь аптека", 1), ("le café où naît l'été", 5 / 16)])
def test_letters_say_what_share_of_a_text_they_lose(tmp_path, text, share):
    text += " 1 2 3; "
    lost, letters = Letters().lost(text)
    assert letters == sum(c.isalpha() for c in text) and lost == pytest.approx(share * letters, abs=0.01)
    source = from_texts("foreign", lambda: [text * 500 + "abc " * (share == 1)])
    if share > 0.5:
        with pytest.raises(ValueError, match=r"letters cannot say .*% of the letters of foreign.*bytes"):
            text_splits(source, "letters", 4, cache=tmp_path)
    else:
        for _ in range(2):  # prepared shards remember it
            with pytest.warns(UserWarning, match=r"letters cannot say 31.2% of the letters of foreign.*bytes"):
                text_splits(source, "letters", 4, cache=tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for kind in ("characters", "bytes"):
            text_splits(source, kind, 4, cache=tmp_path)


def test_large_alphabets_take_four_bytes(tmp_path):
    big = Characters(chr(i) for i in range(0x20000, 0x20000 + 70_000))
    shards = prepare(lambda: [big.alphabet], big, tmp_path, "big")
    assert shards.read(69_999, 70_000).tolist() == [69_999]


def test_parts_are_disjoint_and_windows_cover_them(tmp_path):
    splits = text_splits(from_texts("play", lambda: [PLAY]), "bytes", 32, stride=32, cache=tmp_path)
    everything = Bytes().encode(PLAY)
    parts = [part.batch(torch.arange(len(part))).x_1.flatten() for part in splits[:3]]
    cuts = [0, *np.round(np.cumsum((0.9, 0.05, 0.05)) * len(everything)).astype(int)]
    for part, a, b in zip(parts, cuts, cuts[1:], strict=False):
        whole = (b - a) // 32 * 32
        assert torch.equal(part, torch.from_numpy(everything[a : a + whole].astype(np.int64)))
    # Sequences, not characters, are counted: the loader of a published text8 experiment trained on 0.39 % of it.
    assert len(splits.train) == (cuts[1] - cuts[0]) // 32


def test_overlapping_windows(tmp_path):
    shards = prepare(lambda: ["0123456789"], Bytes(), tmp_path, "digits")
    windows = Windows(shards, 1, 10, length=4, stride=2)
    rows = windows.batch(torch.tensor([2, 0])).x_1
    assert len(windows) == 3 and [Bytes().decode(row) for row in rows.tolist()] == ["5678", "1234"]


def test_too_short_texts_are_refused(tmp_path):
    with pytest.raises(ValueError, match="too few for one window of 64"):
        text_splits(from_texts("short", lambda: ["a few words"]), "bytes", 64, cache=tmp_path)
    with pytest.raises(ValueError, match="no token"):
        text_splits(from_texts("empty", lambda: ["12 34"]), "letters", 4, cache=tmp_path)
