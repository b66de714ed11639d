"""DNA from files: what is read, what is said of the rest, and that no family of sequences is in two parts."""

import gzip
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from flowmaps.data import dna as D
from flowmaps.fields import one_field
from flowmaps.metrics.text import longest_matches

FASTA = """>first one
ACGT
acgn

>second
ggg ttt
>empty
>protein
MKVLEF
>aligned
AC--GT
; a comment
>last
UUU
"""


def random_sequences(n: int, length: int = 60, seed: int = 0) -> list[str]:
    codes = torch.randint(4, (n, length), generator=torch.Generator().manual_seed(seed))
    return D.decode(codes, "ACGT")


def test_fasta_is_read_and_what_is_left_out_is_named(tmp_path):
    path = tmp_path / "a.fa"
    path.write_text(FASTA.replace("\n", "\r\n"))
    with pytest.warns(
        UserWarning, match="3 of 6 .*line 7 has a header and no sequence; line 8 .*EF.*protein.*line 10 .*gaps"
    ):
        records = D.read_sequences(path)
    assert [tuple(r) for r in records] == [(1, "first one", "ACGTACGN"), (5, "second", "GGGTTT"), (13, "last", "TTT")]


def test_lines_are_read_plain_or_packed(tmp_path):
    text = "acgt\n\nTTGA  \nACGTR"
    (tmp_path / "a.txt").write_text(text)
    with gzip.open(tmp_path / "b.txt.gz", "wt") as file:
        file.write(text)
    for name in ("a.txt", "b.txt.gz"):
        assert [(r.row, r.sequence) for r in D.read_sequences(tmp_path / name)] == [
            (1, "ACGT"),
            (3, "TTGA"),
            (4, "ACGTR"),
        ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "it is empty"),
        (">a\n>b\n", "line 1 has a header and no sequence; line 2"),
        ("MKVLEF\nQQP\n", r"line 1 has letters that are no base \(EFL\)"),
        ("name,sequence\n", "no base"),
    ],
)
def test_files_without_dna_are_refused(tmp_path, content, message):
    (tmp_path / "a.txt").write_text(content)
    with pytest.raises(ValueError, match=message):
        D.read_sequences(tmp_path / "a.txt")


def records(texts):
    return [D.Record(i + 1, "", text) for i, text in enumerate(texts)]


def test_unequal_lengths_and_ambiguous_letters_keep_their_places():
    texts = [*random_sequences(28), "ACGT", "ACNRT"]
    with pytest.warns(UserWarning, match="2 letters stand for no single base and are positions without a base"):
        parts = D.in_parts("mine", {"mine": records(texts)}, align="end")
    rows = []
    for part in (parts.train, parts.valid, parts.test):
        x_1, condition = part.all()
        rows += ["".join("ACGT"[c] if m else "." for c, m in zip(x, mask, strict=True))
                 for x, mask in zip(one_field(x_1), one_field(condition.mask), strict=True)]  # fmt: skip
    wanted = [text.translate(str.maketrans("NR", "..")).rjust(60, ".") for text in texts]
    assert sorted(rows) == sorted(wanted) and parts.length == 60 and parts.classes == []


def test_n_may_be_a_fifth_letter_and_long_sequences_are_cut_with_a_word():
    texts = [*random_sequences(20), "N" * 60]
    with pytest.warns(UserWarning) as told:
        parts = D.in_parts("mine", {"mine": records(texts)}, letters="ACGTN", length=40)
    said = " ".join(str(each.message) for each in told)
    assert (
        "21 of 21 sequences are cut to 40 bases (the longest has 60)" in said
        and "60 letters" in said
        and "are N" in said
    )
    every = torch.cat([one_field(part.x_1) for part in parts[:3]])
    assert every.shape == (21, 40) and (every == 4).all(1).sum() == 1
    assert sorted(D.decode(every, "ACGTN")) == sorted(text[:40] for text in texts)


def test_a_sequence_without_a_base_is_refused():
    with pytest.warns(UserWarning, match="no single base"), pytest.raises(ValueError, match="sequence 21 of mine"):
        D.in_parts("mine", {"mine": records([*random_sequences(20), "NNN"])})
    with pytest.raises(ValueError, match="expected 'ACGT' or 'ACGTN'"):
        D.in_parts("mine", {"mine": records(random_sequences(20))}, letters="ABC")


def test_a_folder_is_a_class_a_file(tmp_path):
    for k, name in enumerate(("cats.fa", "dogs.txt.gz", "notes.md")):
        text = "\n".join(random_sequences(20, seed=k)) + "\n"
        if name.endswith("gz"):
            (tmp_path / name).write_bytes(gzip.compress(text.encode()))
        else:
            (tmp_path / name).write_text(text)
    with pytest.warns(UserWarning, match="1 of 3 files are left out"):
        parts = D.from_path(tmp_path)
    assert parts.classes == ["cats", "dogs"]
    assert [part.condition.label.bincount().tolist() for part in parts[:3]] == [[16, 16], [2, 2], [2, 2]]
    (tmp_path / "cats.txt").write_text("ACGT\n")
    with pytest.warns(UserWarning, match="left out"), pytest.raises(ValueError, match="one name"):
        D.from_path(tmp_path)


def test_families_stay_in_one_part():
    """Shifted copies share 32 bases; a chain of overlaps is one family, the rest are alone."""
    long = random_sequences(1, 200, seed=5)[0]
    texts = random_sequences(40) + [long[i : i + 60] for i in range(0, 140, 20)]
    codes = torch.cat([D.encode([t], "ACGT", 60)[0] for t in texts]).char().numpy()
    family = D.families(codes)
    assert len(set(family[:40])) == 40 and len(set(family[40:])) == 1 and family[40] not in family[:40]
    assert list(family[:3]) == [0, 1, 2]
    parts = D.in_parts("mine", {"mine": records(texts)})
    train, test = (list(one_field(part.x_1).numpy()) for part in (parts.train, parts.test))
    corpus = np.concatenate([np.append(row, 9) for row in train])
    assert longest_matches(test, corpus).max() < 32


def test_packed_words_are_bases_in_order():
    codes = np.array([[0, 1, 2, 3, -1, 3, 3]], np.int8)
    word, run = D.packed(codes)
    assert run.tolist() == [[4, 3, 2, 1, 0, 2, 1]]
    assert [int(w) >> 56 for w in word[0]] == [
        0b00011011,
        0b01101100,
        0b10110000,
        0b11000000,
        0,
        0b11110000,
        0b11000000,
    ]


def test_the_other_strand_twice_is_the_same():
    x = torch.randint(5, (7, 11), generator=torch.Generator().manual_seed(0))
    assert torch.equal(D.reverse_complement(D.reverse_complement(x)), x)
    parts = D.in_parts("mine", {"mine": records([*random_sequences(20), "ACG"])})
    both = D.both_strands(parts.train)
    n = len(parts.train)
    a, b = both.batch(torch.arange(n)), both.batch(n + torch.arange(n))
    for x, mask, y, other in zip(a.x_1, a.condition.mask, b.x_1, b.condition.mask, strict=True):
        assert (
            D.decode(y[other][None], "ACGT")[0][::-1].translate(str.maketrans("ACGT", "TGCA"))
            == D.decode(x[mask][None], "ACGT")[0]
        )


def test_promoters_are_aligned_at_the_start_of_transcription():
    root = os.environ.get("FLOWMAPS_DATA")
    if root is None or not (Path(root) / "dna").is_dir():
        pytest.skip("needs the promoters in $FLOWMAPS_DATA/dna")
    parts = D.promoters()
    assert sum(len(part) for part in parts[:3]) == 2929 + 3086 + 1497 + 5905 and parts.length == 251
    assert parts.letters == "ACGT" and parts.train.condition.mask is None
    tata = one_field(parts.train.x_1)[parts.train.condition.label != 3]
    places = [text.find("TATAAA") for text in D.decode(tata, "ACGT")]
    counts = np.bincount([p for p in places if p >= 0])
    assert D.START - 33 <= counts.argmax() <= D.START - 28
