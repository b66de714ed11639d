"""From files of SMILES to prepared arrays: read on all cores once, kept as an ``.npz`` without pickles."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import multiprocessing
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np

from ..files import replacing, write_text
from ..reading import check_size, expect
from .molecules_graph import BONDS, LONGEST, LOST, Fragments, Graph, Order, Unreadable, encode
from .molecules_rows import Rows as Rows
from .molecules_rows import read_smiles as read_smiles

PARTS = ("train", "valid", "test")
MOST_ATOMS = 2**10 - 1  # of a molecule: a graph takes memory with their square
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Alphabet:
    """The categories of a set of molecules, kept with every model that is trained on them.

    Arguments:
        atoms: Names such as ``C``, ``N+1``, ``C-1H2`` (element, charge, stated hydrogens), most frequent first.
        bonds: ``none``, ``single``, ``double``, ``triple`` and perhaps ``aromatic``.
        size: Atoms of the largest molecule, the size of the padded graph.
    """

    atoms: tuple[str, ...]
    bonds: tuple[str, ...]
    size: int
    pattern: ClassVar[dict[str, object]] = {"atoms": [str], "bonds": [str], "size": range(1, MOST_ATOMS + 1)}

    def to_json(self) -> dict[str, object]:
        return {"atoms": list(self.atoms), "bonds": list(self.bonds), "size": self.size}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Alphabet:
        expect(value, cls.pattern, "the alphabet")
        if not value["atoms"] or not value["bonds"] or tuple(value["bonds"]) != BONDS[: len(value["bonds"])]:
            raise ValueError(
                f"the alphabet has atoms {value['atoms']} and bonds {value['bonds']}, expected an atom or "
                f"more, and the bonds {', '.join(BONDS)} or the first of them"
            )
        return cls(tuple(value["atoms"]), tuple(value["bonds"]), int(value["size"]))


def part_of(smiles: str) -> int:
    """The part of a molecule by the hash of its canonical SMILES: 0 train (80 %), 1 valid (10 %), 2 test (10 %)."""
    return max(0, shuffled(smiles) * 10 // 2**64 - 7)


def shuffled(smiles: str) -> int:
    """A number below 2^64 by which molecules are in no order: the BLAKE2 hash of the SMILES."""
    return int.from_bytes(hashlib.blake2b(smiles.encode(), digest_size=8).digest(), "little")


class Settings(NamedTuple):
    """How a row becomes a graph.

    Arguments:
        aromatic: Keep aromatic bonds as a category of their own.
        max_atoms: Leave out larger molecules; never more than ``MOST_ATOMS``.
        fragments, order: As :func:`~flowmaps.data.molecules_graph.encode` has them.
    """

    aromatic: bool = False
    max_atoms: int | None = None
    fragments: Fragments = "refuse"
    order: Order = "file"

    def key(self) -> list[object]:
        """What names prepared data; the order of the file, which they always had, says nothing."""
        return [value for name, value in self._asdict().items() if (name, value) != ("order", "file")]


USUAL = Settings()


class _Row(NamedTuple):
    part: int
    line: int
    text: str
    graph: Graph | None
    reason: str = ""


def _read_rows(job: tuple[int, Rows, Settings]) -> list[_Row]:
    part, rows, settings = job
    most = MOST_ATOMS if settings.max_atoms is None else min(settings.max_atoms, MOST_ATOMS)
    result = []
    for line, text in rows:
        try:
            graph = encode(text, settings.aromatic, settings.fragments, settings.order)
            if len(graph.atoms) > most:
                raise Unreadable(f"{len(graph.atoms)} atoms, more than {most}")
            result.append(_Row(part, line, text, graph))
        except Unreadable as error:
            result.append(_Row(part, line, text, None, str(error)))
    return result


def _disjoint(rows: Iterable[_Row]) -> list[_Row]:
    """Refuse a molecule in one part if a later one holds it too: nothing that is measured was trained on."""
    rows = list(rows)
    last: dict[str, int] = {}
    for row in rows:
        if row.graph is not None:
            last[row.graph.smiles] = max(row.part, last.get(row.graph.smiles, 0))

    def kept(row: _Row) -> _Row:
        if row.graph is None or last[row.graph.smiles] == row.part:
            return row
        return row._replace(graph=None, reason=f"also in the {PARTS[last[row.graph.smiles]]} part")

    return [kept(row) for row in rows]


def _jobs(sources: list[Rows], settings: Settings, size: int = 500) -> list[tuple[int, Rows, Settings]]:
    return [
        (part, rows[start : start + size], settings)
        for part, rows in enumerate(sources)
        for start in range(0, len(rows), size)
    ]


def _read_all(jobs: list[tuple[int, Rows, Settings]], processes: int, progress: Progress | None) -> Iterator[_Row]:
    """Rows in order, read by ``processes`` workers."""
    total, done = sum(len(job[1]) for job in jobs), 0

    def counted(results: Iterable[list[_Row]]) -> Iterator[_Row]:
        nonlocal done
        for rows in results:
            yield from rows
            done += len(rows)
            if progress is not None:
                progress(done, total)

    if processes < 2 or len(jobs) < 2:
        yield from counted(map(_read_rows, jobs))
        return
    # A fork needs no guard in the caller's script; the workers touch nothing but RDKit.
    context = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
    with ProcessPoolExecutor(min(processes, len(jobs)), mp_context=context) as pool:
        yield from counted(pool.map(_read_rows, jobs))


def prepare(
    prepared: Path,
    sources: list[Rows],
    settings: Settings = USUAL,
    processes: int | None = None,
    progress: Progress | None = None,
) -> None:
    """Read rows into ``prepared``, and list those that are left out in ``*.rejected.csv`` beside it.

    A row is left out if it cannot be read, or if a later part holds the same molecule (stereochemistry apart).

    Arguments:
        sources: Rows of one file, or of a training, a validation and a test file.
    Raises: ValueError if no row can be read or there are more than 255 kinds of atoms.
    """
    jobs = _jobs(sources, settings)
    rows = _disjoint(_read_all(jobs, processes or os.cpu_count() or 1, progress))
    good = [(row.part, row.graph) for row in rows if row.graph is not None]
    bad = [row for row in rows if row.graph is None]
    if not good:
        first = f"line {bad[0].line}: {bad[0].reason}" if bad else "it is empty"
        raise ValueError(f"no row could be read as a molecule ({first}); check the file, and name its column")
    count = Counter(name for _, graph in good for name in graph.atoms)
    names = sorted(count, key=lambda name: (-count[name], name))
    bonds, size = BONDS if settings.aromatic else BONDS[:4], max(len(graph.atoms) for _, graph in good)
    alphabet = Alphabet(tuple(names), bonds, size)
    _list(prepared.with_suffix(".rejected.csv"), bad, len(sources) > 1)
    if len(names) > 255:
        raise ValueError(f"{len(names)} kinds of atoms, expected at most 255; give molecules of fewer elements")
    with replacing(prepared) as temporary, open(temporary, "wb") as file:
        arrays = _arrays(good, alphabet, len(sources) > 1) | {"summary": _json(_summary(rows))}
        np.savez(file, **arrays)  # pyright: ignore[reportArgumentType]  (no array is called allow_pickle)


def _list(path: Path, bad: list[_Row], given_parts: bool) -> None:
    """Write the rows that are left out, with their reasons."""
    report = io.StringIO()
    table = csv.writer(report, lineterminator="\n")
    table.writerow(["part", "line", "smiles", "reason"])
    for row in bad:
        table.writerow([PARTS[row.part] if given_parts else "", row.line, row.text[:LONGEST], row.reason])
    write_text(path, report.getvalue())


def _summary(rows: list[_Row]) -> dict[str, int]:
    """How many rows there are, how many were left out, how many repeat a molecule, and how many lost what."""
    graphs = [row.graph for row in rows if row.graph is not None]
    return {
        "rows": len(rows),
        "left out": len(rows) - len(graphs),
        "mixtures left out": sum(row.reason.endswith(" fragments") for row in rows),
        "duplicates": len(graphs) - len({graph.smiles for graph in graphs}),
        **{name: sum(name in graph.lost for graph in graphs) for name in LOST},
    }


def _json(value: object) -> np.ndarray:
    return np.frombuffer(json.dumps(value).encode(), dtype=np.uint8)


def _arrays(good: list[tuple[int, Graph]], alphabet: Alphabet, given_parts: bool) -> dict[str, np.ndarray]:
    n, category = alphabet.size, {name: k for k, name in enumerate(alphabet.atoms)}
    place = np.zeros((n, n), dtype=np.int64)
    place[np.triu_indices(n, 1)] = np.arange(n * (n - 1) // 2)
    padded = f"bonds of {len(good):,} molecules, padded to the {n:,} atoms of the largest (max_atoms leaves it out),"
    check_size(padded, len(good) * n * (n - 1) // 2)
    atoms = np.zeros((len(good), n), dtype=np.uint8)
    bonds = np.zeros((len(good), n * (n - 1) // 2), dtype=np.uint8)
    for k, (_, graph) in enumerate(good):
        atoms[k, : len(graph.atoms)] = [category[name] for name in graph.atoms]
        for i, j, bond in graph.bonds:
            bonds[k, place[i, j]] = bond
    smiles = [graph.smiles for _, graph in good]
    parts = [part if given_parts else part_of(graph.smiles) for part, graph in good]
    return {
        "atoms": atoms,
        "bonds": bonds,
        "sizes": np.array([len(graph.atoms) for _, graph in good], dtype=np.int16),
        "part": np.array(parts, dtype=np.uint8),
        "smiles": np.frombuffer("\n".join(smiles).encode(), dtype=np.uint8),
        "alphabet": _json(alphabet.to_json()),
    }


class Prepared(NamedTuple):
    """What a prepared file holds: arrays by name, alphabet, canonical SMILES, and counts of its rows."""

    arrays: dict[str, np.ndarray]
    alphabet: Alphabet
    smiles: list[str]
    summary: dict[str, int]


def load(prepared: Path) -> Prepared:
    """A prepared file.

    Raises: ValueError if the file is damaged.
    """
    try:
        with np.load(prepared, allow_pickle=False) as file:
            arrays = dict(file)
        alphabet, summary = (json.loads(arrays.pop(name).tobytes()) for name in ("alphabet", "summary"))
        smiles = arrays.pop("smiles").tobytes().decode().split("\n")
        if {len(arrays[name]) for name in ("atoms", "bonds", "sizes", "part")} != {len(smiles)}:
            raise ValueError("its tables differ in rows")
        return Prepared(arrays, Alphabet.from_json(alphabet), smiles, summary)
    except Exception as error:  # of damaged bytes, zipfile and numpy raise a dozen kinds
        raise ValueError(f"{prepared} is damaged ({str(error)[:120]}); remove it, it will be prepared again") from error
