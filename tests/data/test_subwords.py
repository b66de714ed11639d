"""Tokenisers of the ``tokenizers`` library as people have them: whatever a file says, the text is kept whole."""

import json

import numpy as np
import pytest

from flowmaps.data.text import text_splits
from flowmaps.data.text_corpora import from_texts
from flowmaps.data.text_tokens import SEPARATOR, Subwords, from_description, tokeniser

tokenizers = pytest.importorskip("tokenizers")

TEXT = "the cat sat on the mat and the dog ran away . " * 300
WORDS = sorted(set(TEXT.split()))


def words(ids, **special):
    """A tokeniser of whole words with these ids."""
    unknown = {"unk_token": "[UNK]"} if "[UNK]" in ids else {}
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel(ids, **unknown))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    if special:
        made.add_special_tokens(list(special.values()))
    return made


@pytest.fixture
def opened(tmp_path):
    def write(made):
        made.save(str(tmp_path / "words.JSON"))
        return tokeniser(str(tmp_path / "words.JSON"))

    return write


@pytest.mark.parametrize(
    "change",
    [
        lambda made: made.enable_truncation(5),
        lambda made: made.enable_padding(length=20_000, pad_id=1, pad_token="[PAD]"),
        lambda made: made.enable_padding(pad_to_multiple_of=64, pad_id=1, pad_token="[PAD]"),
    ],
)
def test_truncation_and_padding_of_a_file_are_switched_off(opened, change, tmp_path):
    made = words({"[UNK]": 0, "[PAD]": 1, **{w: i + 2 for i, w in enumerate(WORDS)}})
    expected = made.encode(TEXT).ids
    change(made)
    opened(made)
    splits = text_splits(from_texts("cats", lambda: [TEXT]), str(tmp_path / "words.JSON"), 8, cache=tmp_path)
    assert np.concatenate([part.tokens() for part in splits[:3]]).tolist() == expected
    assert json.loads(splits.tokeniser.describe()["tokenizer"])["padding"] is None


@pytest.mark.parametrize("ids", [lambda i: 3 * i + 7, lambda i: 100_000 - i, lambda i: i * 1000])
def test_ids_with_holes_are_numbered_without(opened, ids):
    alphabet = opened(words({"[UNK]": 0, **{w: ids(i + 1) for i, w in enumerate(WORDS)}}))
    tokens = alphabet.encode(TEXT)
    assert alphabet.size == len(WORDS) + 1 and 0 < tokens.min() and tokens.max() == len(WORDS)
    assert alphabet.decode(tokens) == TEXT.strip()
    again = from_description(json.loads(json.dumps(alphabet.describe())))
    assert np.array_equal(again.encode(TEXT), tokens)


@pytest.mark.parametrize("id", [2**31, 2**32 - 1, 2**25])
def test_huge_ids_are_refused_before_memory_is_taken(tmp_path, id):
    content = words({"[UNK]": 0, "cat": 1, "dog": 2}).to_str().replace('"dog":2', f'"dog":{id}')
    (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(ValueError, match=f"tokenizer.json: .*highest id is {id:,} needs .* FLOWMAPS_MAX_BYTES"):
        tokeniser(str(tmp_path / "tokenizer.json"))


@pytest.mark.parametrize("text", ["a <|end|> b", "a<|end|>b", "<|end|>", "<|end|>" + SEPARATOR + "b"])
def test_special_tokens_in_a_text_are_text(text):
    alphabet = tokeniser("bpe", [TEXT], 300)
    assert alphabet.decode(alphabet.encode(text)) == text


def test_ends_of_documents_under_other_names_or_none(opened):
    ids = {"[UNK]": 0, "</s>": 1, **{w: i + 2 for i, w in enumerate(WORDS)}}
    with_end = opened(words(ids, end="</s>"))
    assert with_end.decode(with_end.encode("cat" + SEPARATOR + "dog")) == "cat" + SEPARATOR + "dog"
    del ids["</s>"]
    without = opened(words(ids))
    assert without.decode(without.encode("cat" + SEPARATOR + "dog")) == "cat dog"


def test_what_is_unknown_is_counted_once_and_reported(opened, tmp_path):
    alphabet = opened(words({"[UNK]": 0, "cat": 1, "dog": 2}))
    tokens = alphabet.encode("cat bird dog")
    assert alphabet.characters(tokens) == len("cat dog") + 1
    assert alphabet.unsaid("cat bird dog") == {"b": 1, "i": 1, "r": 1, "d": 1}
    with pytest.raises(ValueError, match="subwords cannot say 8.*% of the letters of cats"):
        text_splits(from_texts("cats", lambda: [TEXT]), str(tmp_path / "words.JSON"), 8, cache=tmp_path)


def test_a_tokeniser_that_cannot_write_a_text_says_so(opened):
    with pytest.raises(ValueError, match="cannot write 'bird'.*Missing .UNK. token"):
        opened(words({"cat": 0, "dog": 1})).encode("bird")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{}",
        b"[]",
        b"{" * 100_000,
        b"\xff\xfe{",
        b'{"model": {"type": "WordLevel", "vocab": {"a": 4294967296}, "unk_token": "a"}}',
        b'{"model": {"type": "WordLevel", "vocab": {"a": -1}, "unk_token": "a"}}',
        b'{"model": {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "a"}}',
        b'{"model": {"type": "BPE", "vocab": {}, "merges": []}}',
        b'{"model": {"type": "BPE", "vocab": {"a": 0, "b": 1}, "merges": ["a c"]}}',
    ],
)
def test_files_that_are_no_tokeniser_are_one_line(tmp_path, content):
    (tmp_path / "tokenizer.json").write_bytes(content)
    with pytest.raises(ValueError, match="tokenizer.json") as error:
        tokeniser(str(tmp_path / "tokenizer.json"))
    assert "\n" not in str(error.value) and len(str(error.value)) < 400


def test_a_file_too_large_for_a_tokeniser_is_not_read(tmp_path):
    with open(tmp_path / "tokenizer.json", "wb") as file:
        file.write(b" " * 2**18)
        file.truncate(2**40)
    with pytest.raises(ValueError, match="zero byte|more than the limit"):
        Subwords.load(tmp_path / "tokenizer.json")
