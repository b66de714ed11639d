"""Readers of the sciences: sequences of DNA, places on Earth, torsion angles."""

from __future__ import annotations

import gzip
import hashlib
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from random import Random

import torch

from flowmaps.data.dna import from_path, read_sequences
from flowmaps.data.earth import earth, places
from flowmaps.data.torsions import angles
from flowmaps.fields import one_field

from .harness import Reader
from .mutations import spoilt_bytes, spoilt_text

DRAW = Random(0)
SEQUENCES = ["".join(DRAW.choice("ACGT") for _ in range(40)) for _ in range(40)]
PLACES = [(round(DRAW.uniform(-90, 90), 3), round(DRAW.uniform(-180, 180), 3)) for _ in range(60)]
LINE = re.compile(rb"\r\n|\r|\n")
Pack = Callable[[bytes], bytes]


def sound(name: str, content: bytes, pack: Pack, read: Callable[[Path], str]) -> Reader:
    """A reader of one file, plain or packed; packed ones carry checksums."""

    def spoil(random: Random, folder: Path) -> None:
        damage = spoilt_text if pack is bytes else spoilt_bytes
        (folder / name).write_bytes(damage(random, (folder / name).read_bytes()))

    return Reader(lambda folder: (folder / name).write_bytes(pack(content)) and None, spoil,
                  lambda folder: read(folder / name), guarded=pack is not bytes)  # fmt: skip


def dna(name: str, pack: Pack = bytes) -> Reader:
    """FASTA of two lines a sequence, or one sequence a line."""
    named = name.startswith("a.fa")
    rows = [f">{i}\n{text[:25]}\n{text[25:]}" if named else text for i, text in enumerate(SEQUENCES)]

    def read(path: Path) -> str:
        found = from_path(path)
        parts = [found.train, found.valid, found.test]
        for part in parts:
            x_1 = one_field(part.x_1)
            assert len(x_1) and int(x_1.max()) < len(found.letters), "a letter outside its alphabet"
        if pack is bytes:
            kept = _said(path)
            for text in _intact(path.read_bytes(), named):
                assert text in kept, f"a sequence without damage is lost, {text!r}"
        return _digest(part.fingerprint() for part in parts)

    return sound(name, ("\n".join(rows) + "\n").encode(), pack, read)


def _said(path: Path) -> set[str]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return {record.sequence for record in read_sequences(path)}


def _intact(content: bytes, named: bool) -> list[str]:
    """The sequences whose record is as it was written, in a file that is still of its form."""
    lines = LINE.split(content)
    if not named:
        return [] if b">" in content else [text for text in SEQUENCES if text.encode() in lines]
    if not content.startswith(b">"):
        return []
    found = []
    for i, text in enumerate(SEQUENCES):
        record = [f">{i}".encode(), text[:25].encode(), text[25:].encode()]
        starts = [k for k in range(len(lines)) if lines[k : k + 3] == record]
        found += [text for k in starts if b"".join(lines[k + 3 : k + 4])[:1] in (b"", b">")]
    return found


def table(name: str, read: Callable[[Path], str], pack: Pack = bytes) -> Reader:
    """Latitudes and longitudes, or angles, beside a text and the number of the row."""
    rows = [f"{i},somewhere,{a},{b}" for i, (a, b) in enumerate(PLACES)]
    return sound(name, "\n".join(["id,name,lat,lon", *rows]).encode(), pack, read)


def places_of(path: Path) -> str:
    splits = earth(str(path))
    parts = [part.batch(torch.arange(len(part))).x_1 for part in (splits.train, splits.valid, splits.test)]
    assert all(bool((part.norm(dim=-1) - 1).abs().max() < 1e-6) for part in parts), "a point off the sphere"
    whole = LINE.split(path.read_bytes())
    if path.suffix == ".csv":
        _check_rows([tuple(row) for row in places(path).numbers.tolist()], whole)
    return _digest(part.numpy().tobytes() for part in parts)


def angles_of(path: Path) -> str:
    found = angles(path, "lat,lon").numbers
    _check_rows([tuple(row) for row in found.tolist()], LINE.split(path.read_bytes()))
    return _digest([found.tobytes()])


def _check_rows(kept: list[tuple[float, ...]], lines: list[bytes]) -> None:
    """Every row whose line is as it was written is among those that were read."""
    for i, (a, b) in enumerate(PLACES):
        lost = f"{i},somewhere,{a},{b}".encode() in lines and (a, b) not in kept
        assert not lost, f"row {i} without damage is lost"


def _digest(parts: object) -> str:
    return hashlib.sha256(repr(list(parts)).encode()).hexdigest()  # pyright: ignore[reportArgumentType]


SCIENCE = {
    "FASTA": dna("a.fa"),
    "FASTA.gz": dna("a.fa.gz", gzip.compress),
    "DNA, one sequence a line": dna("lines.txt"),
    "places on Earth": table("a.csv", places_of),
    "places on Earth, packed": table("a.csv.gz", places_of, gzip.compress),
    "angles": table("a.csv", angles_of),
}
COUNTS = {"FASTA": 150, "FASTA.gz": 60, "places on Earth, packed": 60}
