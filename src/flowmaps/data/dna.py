"""DNA as categorical data: FASTA files or one sequence a line, in three parts that share no family of sequences."""

from __future__ import annotations

import os
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..fields import one_field
from ..reading import check_size, read_text
from .base import CategoricalData, split
from .sources import data_folder, files_below
from .text_tokens import Tokeniser

BASES = "ACGT"
UNKNOWN = "N"
AMBIGUOUS = "RYSWKMBDHV" + UNKNOWN  # letters of IUPAC that stand for one of several bases
SUFFIXES = (".fa", ".fasta", ".fna", ".ffn", ".txt", ".seq", ".gz", ".xz")
PROMOTERS = {
    "human TATA": "human_tata.txt",
    "mouse TATA": "mouse_tata.txt",
    "Arabidopsis TATA": "Arabidopsis_tata.fa",
    "Arabidopsis non-TATA": "Arabidopsis_non_tata.fa",
}
START = 200  # of transcription, within a promoter of the named set
WORD = 32  # consecutive bases that make two sequences relatives: 64 bits
MOST_WINDOWS = 2**24

Align = Literal["start", "end"]


class Record(NamedTuple):
    """A sequence of a file: the line it begins on (from 1), its name if it has one, and its letters in upper case."""

    row: int
    name: str
    sequence: str


class Sequences(NamedTuple):
    """Sequences in three disjoint parts.

    Arguments:
        letters: The alphabet, ``ACGT`` or ``ACGTN``; categories are places in it.
        classes: Names of the classes of the labels; none where all sequences are of one kind.
    """

    train: CategoricalData
    valid: CategoricalData
    test: CategoricalData
    letters: str
    classes: list[str]

    @property
    def length(self) -> int:
        """Positions of a sequence."""
        return one_field(self.train.x_1).shape[1]


def promoters(
    path: str | os.PathLike | None = None, letters: str = BASES, length: int | None = None, seed: int = 0
) -> Sequences:
    """Promoters of human, mouse and Arabidopsis with a TATA box, and of Arabidopsis without, in four classes.

    From 200 bases before the start of transcription to 50 after it, whose place is 200: the vertebrates' files have 300
    bases that end at the same place, so all are aligned at their end.

    Arguments:
        path: Folder of the four files, plain or packed; ``$FLOWMAPS_DATA/dna`` by default.
        length: Last positions that are kept, 251 by default.
    Reference: Dreos et al. 2017, *The eukaryotic promoter database in its 30th year*; Umarov and Solovyev 2017,
        *Recognition of prokaryotic and eukaryotic promoters using convolutional deep learning neural networks*;
        Oubounyt et al. 2019, *DeePromoter: robust promoter predictor using deep learning*.
    """
    folder = data_folder("dna", path)
    files = {name: _packed_or_plain(folder, file) for name, file in PROMOTERS.items()}
    records = {name: read_sequences(file) for name, file in files.items()}
    with warnings.catch_warnings():  # that vertebrates lose their first bases is the rule of this set
        warnings.filterwarnings("ignore", message=".*are cut to")
        return in_parts(str(folder), records, letters, length or START + 51, "end", seed)


def from_path(
    path: str | os.PathLike, letters: str = BASES, length: int | None = None, align: Align = "start", seed: int = 0
) -> Sequences:
    """The sequences of a file, or of a folder in which each file is a class of its own.

    Arguments:
        path: FASTA, or one sequence a line; plain, ``.gz`` or ``.xz``.
        letters, length, align, seed: Of :func:`in_parts`.
    """
    place = Path(path).expanduser()
    files = files_below(place, SUFFIXES) if place.is_dir() else [place]
    if not files:
        raise ValueError(f"{place} holds no file of sequences ({', '.join(SUFFIXES)}); give FASTA files, or one file")
    names = {file.name.split(".")[0]: file for file in files}
    if len(names) < len(files):
        raise ValueError(f"two files of {place} have one name but for their suffixes; a file is a class, rename one")
    return in_parts(str(place), {name: read_sequences(file) for name, file in names.items()}, letters, length, align,
                    seed)  # fmt: skip


def read_sequences(path: str | os.PathLike) -> list[Record]:
    """The sequences of a file: FASTA if its first line begins with ``>``, else one a line.

    Letters are read in upper case, so soft masking goes, and U (of RNA) as T. Records without a sequence, or with
    letters that stand for no base (those of proteins, gaps of alignments), are left out with a warning that names their
    lines; blank lines are none.

    Raises: ValueError naming the file if it cannot be read, or holds no sequence.
    """
    path = Path(path).expanduser()
    text = read_text(path)
    good, bad = list[Record](), list[str]()
    for record in _fasta(text) if text.lstrip().startswith(">") else _lines(text):
        strange = set(record.sequence) - set(BASES + AMBIGUOUS)
        if record.sequence and not strange:
            good.append(record)
        else:
            bad.append(f"line {record.row} has {_complaint(strange)}")
    listed = "; ".join(bad[:5]) + f" and {len(bad) - 5} more" * (len(bad) > 5)
    if not good:
        raise ValueError(f"{path} holds no sequence of DNA ({listed or 'it is empty'}); give FASTA or one a line")
    if bad:
        warnings.warn(f"{path}: {len(bad)} of {len(bad) + len(good)} sequences are left out: {listed}", stacklevel=2)
    return good


def _complaint(strange: set[str]) -> str:
    if not strange:
        return "a header and no sequence"
    if strange <= set("-.~"):
        return "the gaps of an alignment; remove them"
    return f"letters that are no base ({''.join(sorted(strange))[:20]})" + " as a protein has" * strange.issubset(
        set("EFILPQZXJO*")
    )


def _lines(text: str) -> Iterator[Record]:
    for row, line in enumerate(text.split("\n"), 1):
        if line.strip():
            yield Record(row, "", _letters(line))


def _fasta(text: str) -> Iterator[Record]:
    parts, row, name = list[str](), 0, ""
    for number, line in enumerate(text.split("\n"), 1):
        if line.startswith(">"):
            if row:
                yield Record(row, name, _letters("".join(parts)))
            parts, row, name = [], number, line[1:].strip()
        elif row and not line.startswith(";"):  # a comment of old files
            parts.append(line)
    yield Record(row, name, _letters("".join(parts)))


def _letters(text: str) -> str:
    return "".join(text.split()).upper().replace("U", "T")


def in_parts(
    name: str,
    records: Mapping[str, Sequence[Record]],
    letters: str = BASES,
    length: int | None = None,
    align: Align = "start",
    seed: int = 0,
) -> Sequences:
    """Sequences by class in parts of 80, 10 and 10 per cent of each class, no family being in two of them.

    Arguments:
        name: How complaints call the data.
        letters: ``ACGT``: what says no single base (N, R, Y, ...) is a position that does not exist, neither seen nor
            learned. ``ACGTN``: it is a fifth category.
        length: Positions; by default those of the longest sequence. Shorter ones have positions that do not exist;
            longer ones are cut, with a warning that counts them.
        align: Where shorter and longer ones are aligned.
        seed: Of the split.
    Raises: ValueError if the alphabet is none of the two, or a class is too small for three parts.
    """
    if letters not in (BASES, BASES + UNKNOWN):
        raise ValueError(f"letters are {letters!r}, expected 'ACGT' or 'ACGTN'")
    classes = list(records)
    texts = [record.sequence for rows in records.values() for record in rows]
    x_1, mask = encode(texts, letters, length or max(map(len, texts)), align)
    _tell(name, texts, letters, x_1.shape[1])
    if not bool(mask.any(1).all()):
        row = int((~mask.any(1)).nonzero()[0])
        raise ValueError(f"sequence {row + 1} of {name} has no base within {x_1.shape[1]} positions; leave it out")
    label = torch.cat([torch.full((len(rows),), k) for k, rows in enumerate(records.values())])
    data = CategoricalData(x_1, label if len(classes) > 1 else None, None if bool(mask.all()) else mask)
    family = families(torch.where(mask & (x_1 < 4), x_1.char(), -1).numpy())
    first = torch.from_numpy(np.unique(family, return_index=True)[1])
    groups = split(len(first), (0.8, 0.1, 0.1), seed, label[first])
    train, valid, test = (
        data.subset(torch.from_numpy(np.isin(family, part.numpy())).nonzero()[:, 0]) for part in groups
    )
    return Sequences(train, valid, test, letters, classes if len(classes) > 1 else [])


def _tell(name: str, texts: Sequence[str], letters: str, length: int) -> None:
    """Say what is not as it was read."""
    cut = [len(text) for text in texts if len(text) > length]
    if cut:
        warnings.warn(f"{name}: {len(cut):,} of {len(texts):,} sequences are cut to {length} bases (the longest has "
                      f"{max(cut):,}); choose a greater length to keep more", stacklevel=4)  # fmt: skip
    unsaid = Counter(c for text in texts for c in AMBIGUOUS for _ in range(text.count(c)))
    if unsaid:
        listed = ", ".join(f"{count:,} of {letter}" for letter, count in unsaid.most_common(5))
        become = "are N" if UNKNOWN in letters else "are positions without a base"
        warnings.warn(f"{name}: {unsaid.total():,} letters stand for no single base and {become} ({listed})",
                      stacklevel=4)  # fmt: skip


def encode(texts: Sequence[str], letters: str, length: int, align: Align = "start") -> tuple[Tensor, Tensor]:
    """Categories, uint8 ``(n, length)``, and which positions exist, bool; category 0 where none does.

    >>> x_1, mask = encode(["ACGT", "GN"], "ACGT", 4, "end")
    >>> x_1.tolist(), mask.int().tolist()
    ([[0, 1, 2, 3], [0, 0, 2, 0]], [[1, 1, 1, 1], [0, 0, 1, 0]])
    """
    if length < 1:
        raise ValueError(f"length is {length}, expected at least one position")
    check_size(f"{len(texts):,} sequences of {length:,} positions", 3 * len(texts) * length)
    table = np.full(256, 254 if UNKNOWN not in letters else letters.index(UNKNOWN), np.uint8)
    table[[ord(c) for c in letters]] = np.arange(len(letters))
    codes = np.full((len(texts), length), 255, np.uint8)
    for row, text in zip(codes, texts, strict=True):
        kept = text[:length] if align == "start" else text[-length:]
        place = slice(0, len(kept)) if align == "start" else slice(length - len(kept), None)
        row[place] = table[np.frombuffer(kept.encode("ascii"), np.uint8)]
    exists = codes < 250
    return torch.from_numpy(np.where(exists, codes, 0)), torch.from_numpy(exists)


def decode(x_1: Tensor, letters: str) -> list[str]:
    """The letters of categories ``(n, length)``."""
    table = np.frombuffer(letters.encode("ascii"), np.uint8)
    return [table[row].tobytes().decode("ascii") for row in x_1.cpu().numpy()]


def reverse_complement(x_1: Tensor) -> Tensor:
    """The other strand, read in its own direction: A and T, C and G change places; N stays.

    >>> decode(reverse_complement(torch.tensor([[0, 0, 1, 4]])), "ACGTN")
    ['NGTT']
    """
    return torch.where(x_1 < 4, 3 - x_1, x_1).flip(-1)


def both_strands(data: CategoricalData) -> CategoricalData:
    """The data, and after them the same again as their other strands."""
    x_1, condition = data.all()
    codes, mask, label = one_field(x_1), one_field(condition.mask), condition.label
    return CategoricalData(
        torch.cat([codes, reverse_complement(codes)]),
        None if label is None else label.repeat(2),
        None if mask is None else torch.cat([mask, mask.flip(-1)]),
    )


def families(codes: NDArray[np.integer]) -> NDArray[np.integer]:
    """The number of each sequence's family: sequences with 32 consecutive bases in common, and theirs in turn.

    Of very many windows only those whose hash is a multiple of some number are compared, the same ones everywhere.

    Arguments:
        codes: ``(n, length)``, bases 0..3, negative where there is none.
    Returns: numbers ``(n,)`` from 0, in the order of the families' first sequences.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    every = np.uint64(codes.size // MOST_WINDOWS + 1)
    found = []
    for start in range(0, len(codes), 4096):
        word, run = packed(codes[start : start + 4096])
        chosen = (run == WORD) & ((word * np.uint64(0x9E3779B97F4A7C15) >> np.uint64(32)) % every == 0)
        found.append((word[chosen], start + chosen.nonzero()[0]))
    word, owner = (np.concatenate(parts) for parts in zip(*found, strict=True))
    order = np.argsort(word, kind="stable")
    word, owner = word[order], owner[order]
    same = word[1:] == word[:-1]
    links = coo_array((np.ones(same.sum()), (owner[1:][same], owner[:-1][same])), shape=(len(codes), len(codes)))
    return connected_components(links, directed=False)[1]


def packed(codes: NDArray[np.integer]) -> tuple[NDArray[np.uint64], NDArray[np.integer]]:
    """The 32 bases from each place on as one number, in the order of the alphabet, and how many of them there are
    before the first that is none.

    Arguments:
        codes: ``(n, length)``, bases 0..3, negative where there is none.
    """
    wide = np.pad(codes.astype(np.int8), ((0, 0), (0, WORD - 1)), constant_values=-1)
    word, run = np.zeros(codes.shape, np.uint64), np.zeros(codes.shape, np.int8)
    going = np.ones(codes.shape, bool)
    for i in range(WORD):
        here = wide[:, i : i + codes.shape[1]]
        going &= here >= 0
        word = word << np.uint64(2) | np.where(going, here, 0).astype(np.uint64)
        run += going
    return word, run


class Bases(Tokeniser):
    """The letters of DNA as a tokeniser: what is given of a sequence is written in it.

    >>> Bases("ACGT").spell("gat").tolist()
    [2, 0, 3]
    """

    name = "bases"

    def __init__(self, letters: str):
        self.letters, self.size = letters, len(letters)

    def encode(self, text: str) -> NDArray[np.integer]:
        return np.array([self.letters.index(c) for c in text.upper() if c in self.letters], np.int64)

    def decode(self, tokens: Iterable[int]) -> str:
        return "".join(self.letters[token] for token in tokens)


def _packed_or_plain(folder: Path, name: str) -> Path:
    """The file of a folder, or its packed form."""
    for path in (folder / name, folder / f"{name}.gz", folder / f"{name}.xz"):
        if path.exists():
            return path
    raise ValueError(
        f"{folder} has neither {name} nor {name}.gz; give the folder of the promoters, or set FLOWMAPS_DATA"
    )
